"""Solvers: one step of the flow from noise to data, for every frame from the level at which it stands.

UniPC (Zhao et al. 2023, order 2, B(h) = e^h - 1, data prediction, lower order at both ends) with the noise
levels of the released scheduler, and Euler. The one invariant: frames are independent. Stepping frames of
different levels together gives what stepping each of them alone gives, and a frame that is not updated keeps
every bit of its state.

A step is linear in five tensors, so the coefficients of all levels and orders are worked out once, in
float64 on the CPU, and a step only gathers them by frame.

Shapes: B batch, C channels, T latent frames, H height, W width; S steps of history (0, 1, 2), N steps,
K terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

TRAIN_TIMESTEPS = 1000
"""The network's clock: timestep = 1000 · sigma."""


def sigmas_for(num_steps: int, shift: float) -> Tensor:
    """The released noise levels of `num_steps` steps: float32 (num_steps + 1,), from just below 1 to 0.

    Raises:
        ValueError: fewer than one step, or a shift that is not positive.
    """
    return torch.from_numpy(np.append(_released_levels(num_steps, shift), 0.0).astype(np.float32))


def timesteps_for(num_steps: int, shift: float) -> Tensor:
    """What the network is told at each level: (num_steps + 1,) float32, whole, 0 for a clean frame."""
    # The released scheduler cuts 1000 · sigma down to an integer, and the weights are used with that.
    steps = np.floor(_released_levels(num_steps, shift) * TRAIN_TIMESTEPS)
    return torch.from_numpy(np.append(steps, 0.0).astype(np.float32))


@dataclass(frozen=True)
class SolverState:
    """What a solver knows of some frames. Every tensor has a frame axis, so a window can be cut and
    extended."""

    latents: Tensor
    """(B, C, T, H, W) float32: the frames as they are now."""
    history: tuple[Tensor, ...]
    """(B, C, T, H, W) float32 each. UniPC: the corrected sample before the last step, two predictions."""
    count: Tensor
    """(T,) int64: how many steps of history a frame has, at most the order of the solver."""

    @property
    def num_frames(self) -> int:
        """Latent frames in the window."""
        return self.latents.shape[2]

    def select(self, start: int, stop: int) -> SolverState:
        """The frames `start` to `stop` (counted within this state)."""
        return SolverState(
            self.latents[:, :, start:stop],
            tuple(old_BCTHW[:, :, start:stop] for old_BCTHW in self.history),
            self.count[start:stop],
        )

    def append(self, latents_BCTHW: Tensor) -> SolverState:
        """This state with fresh frames after its last one; they have no history."""
        fresh_BCTHW = latents_BCTHW.to(self.latents)
        blank_BCTHW = torch.zeros_like(fresh_BCTHW)
        return SolverState(
            torch.cat((self.latents, fresh_BCTHW), dim=2),
            tuple(torch.cat((old_BCTHW, blank_BCTHW), dim=2) for old_BCTHW in self.history),
            torch.cat((self.count, self.count.new_zeros(fresh_BCTHW.shape[2]))),
        )


class Solver(Protocol):
    """What the rollout needs of a solver."""

    sigmas: Tensor
    """(N + 1,) float32 on the CPU: noise level by step index."""
    timesteps: Tensor
    """(N + 1,) float32 on the CPU: what the network is told, by step index; 0 for a finished frame."""

    @property
    def num_steps(self) -> int:
        """N: a frame at step index N is clean."""

    def start(self, latents_BCTHW: Tensor) -> SolverState:
        """The state of frames that have not moved yet."""

    def step(self, state: SolverState, model_output_BCTHW: Tensor, levels_T: Tensor, update_T: Tensor) -> SolverState:
        """Every frame of `update_T` moves from step index `levels_T` to the next; the others stay.

        `model_output_BCTHW` is the velocity noise - data. `levels_T` is int64 and `update_T` bool, both (T,).
        """


class _OnLevels:
    """The noise levels of a solver, and its table of coefficients."""

    HIGHEST = 1.0

    def __init__(self, sigmas: Tensor, timesteps: Tensor | None = None) -> None:
        """Levels that fall from step to step; `timesteps` are 1000 · sigma unless given.

        Raises:
            ValueError: the levels do not fall, leave the range from 0 to 1, or do not match the timesteps.
        """
        self.sigmas, self.timesteps = _checked_levels(sigmas, timesteps, self.HIGHEST)
        self._table = _OnDevice(self._coefficients(self.sigmas.double()))

    @property
    def num_steps(self) -> int:
        """N: a frame at step index N is clean."""
        return len(self.sigmas) - 1

    def _coefficients(self, sigmas: Tensor) -> Tensor:
        raise NotImplementedError


class Euler(_OnLevels):
    """The straight step: x + (next sigma - sigma) · velocity."""

    def start(self, latents_BCTHW: Tensor) -> SolverState:
        """The state of frames that have not moved yet."""
        return _fresh_state(latents_BCTHW, history=0)

    def step(self, state: SolverState, model_output_BCTHW: Tensor, levels_T: Tensor, update_T: Tensor) -> SolverState:
        """See `Solver.step`."""
        _assert_shapes(state, model_output_BCTHW, levels_T, update_T)
        table_N = self._table(state.latents.device)
        # A frame that is not updated takes a step of width zero.
        width_T = table_N[levels_T.clamp(max=self.num_steps - 1)] * update_T
        latents_BCTHW = torch.addcmul(state.latents, _by_frame(width_T), model_output_BCTHW.float())
        return SolverState(_keep(update_T, latents_BCTHW, state.latents), (), state.count)

    def _coefficients(self, sigmas: Tensor) -> Tensor:
        return sigmas.diff().float()


class UniPC(_OnLevels):
    """Predictor and corrector of order 2, as the released scheduler runs them.

    `overwritten_start` is a quirk of the released diffusion-forcing loop (and of diffusers' port): it hands
    the scheduler a view of its latents and then writes the result of the step into them. The sample that the
    scheduler kept is overwritten, and the first correction of a frame starts from the sample after the step
    instead of before it; later ones start from a corrected copy. Whole generations differ by about 1 %.
    """

    ORDER = 2
    HIGHEST = 1.0 - 2**-24  # at 1 the half log signal-to-noise ratio is not finite

    def __init__(self, sigmas: Tensor, timesteps: Tensor | None = None, *, overwritten_start: bool = False) -> None:
        """See `_OnLevels`; and the quirk of the class."""
        self.overwritten_start = overwritten_start
        super().__init__(sigmas, timesteps)

    def start(self, latents_BCTHW: Tensor) -> SolverState:
        """The state of frames that have not moved yet."""
        return _fresh_state(latents_BCTHW, history=3)

    def step(self, state: SolverState, model_output_BCTHW: Tensor, levels_T: Tensor, update_T: Tensor) -> SolverState:
        """See `Solver.step`."""
        _assert_shapes(state, model_output_BCTHW, levels_T, update_T)
        table_SNK = self._table(state.latents.device)
        row_TK = table_SNK[state.count, levels_T.clamp(max=self.num_steps - 1)]
        columns = (_by_frame(column_T) for column_T in row_TK.unbind(1))
        sigma, c_now, c_past, c_m0, c_m1, c_new, p_now, p_new, p_m0 = columns

        past_BCTHW, m0_BCTHW, m1_BCTHW = state.history
        clean_BCTHW = state.latents - sigma * model_output_BCTHW.float()
        corrected_BCTHW = c_now * state.latents + c_past * past_BCTHW + c_m0 * m0_BCTHW
        corrected_BCTHW = corrected_BCTHW + c_m1 * m1_BCTHW + c_new * clean_BCTHW
        latents_BCTHW = p_now * corrected_BCTHW + p_new * clean_BCTHW + p_m0 * m0_BCTHW

        return SolverState(
            _keep(update_T, latents_BCTHW, state.latents),
            (
                _keep(update_T, corrected_BCTHW, past_BCTHW),
                _keep(update_T, clean_BCTHW, m0_BCTHW),
                _keep(update_T, m0_BCTHW, m1_BCTHW),
            ),
            torch.where(update_T, (state.count + 1).clamp(max=self.ORDER), state.count),
        )

    def _coefficients(self, sigmas: Tensor) -> Tensor:
        table_SNK = _unipc_coefficients(sigmas.tolist())
        if self.overwritten_start:
            # With one step of history, what falls to the sample before the step falls to the one after it.
            table_SNK[1, :, 1] += table_SNK[1, :, 2]
            table_SNK[1, :, 2] = 0.0
        return table_SNK


SOLVERS: dict[str, Callable[[Tensor, Tensor], Solver]] = {
    "unipc": partial(UniPC, overwritten_start=True),
    "unipc_exact": UniPC,
    "euler": Euler,
}


def solver_for(name: str, num_steps: int, shift: float) -> Solver:
    """A solver by name on the released noise levels; "unipc" as the released loop runs it, quirk and all.

    Raises:
        ValueError: the name is unknown, or the steps or the shift are not positive.
    """
    if name not in SOLVERS:
        raise ValueError(f"solver = {name!r}: must be one of {', '.join(SOLVERS)}; try 'unipc'")
    return SOLVERS[name](sigmas_for(num_steps, shift), timesteps_for(num_steps, shift))


def _released_levels(num_steps: int, shift: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}: must be at least 1, nearest 1")
    if not (shift > 0 and math.isfinite(shift)):
        raise ValueError(f"shift = {shift}: must be a positive number; the released models use 3, 5 or 8")
    # The highest level is that of timestep 999, taken from a float32 table.
    highest = float(np.float32(1 - 1 / TRAIN_TIMESTEPS))
    even_N = np.linspace(highest, 0.0, num_steps + 1, dtype=np.float64)[:-1]
    return shift * even_N / (1 + (shift - 1) * even_N)


def _unipc_coefficients(sigmas: list[float]) -> Tensor:
    """(S, N, K): for each number of history steps and each step index, the nine numbers of a step."""
    last = len(sigmas) - 1
    rows_SNK = []
    for history in range(UniPC.ORDER + 1):
        rows_SNK.append([_unipc_row(sigmas, index, min(history, index), last) for index in range(last)])
    return torch.tensor(rows_SNK, dtype=torch.float64).float()


def _unipc_row(sigmas: list[float], index: int, history: int, last: int) -> list[float]:
    """Correct what arrived at `index` if there is history, then predict `index + 1`."""
    row = [sigmas[index]]
    if history == 0:
        row += [1.0, 0.0, 0.0, 0.0, 0.0]
    else:
        order = min(UniPC.ORDER, last - index + 1, history)  # of the step that led here
        row += [0.0, *_corrector(sigmas, index, order)]
    order = min(UniPC.ORDER, last - index, history + 1)
    return row + _predictor(sigmas, index, order)


def _predictor(sigmas: list[float], index: int, order: int) -> list[float]:
    """Weights of the sample at `index`, of its prediction, and of the prediction before."""
    now, to = sigmas[index], sigmas[index + 1]
    h = _half_log_snr(to) - _half_log_snr(now)
    gain = -(1 - to) * math.expm1(-h)
    if order == 1:
        return [to / now, gain, 0.0]
    ratio = (_half_log_snr(sigmas[index - 1]) - _half_log_snr(now)) / h
    # Order 2 takes half of the divided difference, which is what the released scheduler does.
    return [to / now, gain - 0.5 * gain / ratio, 0.5 * gain / ratio]


def _corrector(sigmas: list[float], index: int, order: int) -> list[float]:
    """Weights of the sample one step ago, the predictions one and two steps ago, and the one made here."""
    before, now = sigmas[index - 1], sigmas[index]
    h = _half_log_snr(now) - _half_log_snr(before)
    gain = -(1 - now) * math.expm1(-h)
    if order == 1:
        return [now / before, 0.5 * gain, 0.0, 0.5 * gain]
    ratio = (_half_log_snr(sigmas[index - 2]) - _half_log_snr(before)) / h
    # phi_k of the exponential integrator, each divided by B(h); solved for the two unknown weights.
    growth = math.expm1(-h)
    phi_2 = growth / -h - 1
    phi_3 = phi_2 / -h - 0.5
    target = np.array([phi_2 / growth, 2 * phi_3 / growth])
    old, new = np.linalg.solve(np.array([[1.0, 1.0], [ratio, 1.0]]), target).tolist()
    return [now / before, gain * (1 - new - old / ratio), gain * old / ratio, gain * new]


def _half_log_snr(sigma: float) -> float:
    return math.inf if sigma == 0 else math.log(1 - sigma) - math.log(sigma)


def _checked_levels(sigmas: Tensor, timesteps: Tensor | None, highest: float) -> tuple[Tensor, Tensor]:
    sigmas = sigmas.detach().to("cpu", torch.float32)
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] < sigmas[:-1]).all()):
        raise ValueError(f"sigmas = {sigmas.tolist()}: must be two levels or more, each below the last")
    if float(sigmas[0]) > highest or float(sigmas[-1]) < 0:
        raise ValueError(f"sigmas = {sigmas.tolist()}: must lie between 0 and {highest}")
    if timesteps is None:
        timesteps = sigmas * TRAIN_TIMESTEPS
    if timesteps.shape != sigmas.shape:
        raise ValueError(f"timesteps: {len(timesteps)} of them, must be one a sigma, {len(sigmas)}")
    return sigmas, timesteps.detach().to("cpu", torch.float32)


def _fresh_state(latents_BCTHW: Tensor, history: int) -> SolverState:
    latents_BCTHW = latents_BCTHW.float()
    count_T = torch.zeros(latents_BCTHW.shape[2], dtype=torch.int64, device=latents_BCTHW.device)
    return SolverState(latents_BCTHW, tuple(torch.zeros_like(latents_BCTHW) for _ in range(history)), count_T)


def _assert_shapes(state: SolverState, output_BCTHW: Tensor, levels_T: Tensor, update_T: Tensor) -> None:
    assert output_BCTHW.shape == state.latents.shape, (output_BCTHW.shape, state.latents.shape)
    assert levels_T.shape == update_T.shape == (state.num_frames,), (levels_T.shape, update_T.shape)


def _by_frame(values_T: Tensor) -> Tensor:
    return values_T.view(1, 1, -1, 1, 1)


def _keep(update_T: Tensor, new_BCTHW: Tensor, old_BCTHW: Tensor) -> Tensor:
    """`where`, so that a frame which is not updated keeps its bits whatever the network made of it."""
    return torch.where(_by_frame(update_T), new_BCTHW, old_BCTHW)


class _OnDevice:
    """A table of numbers, copied to each device once."""

    def __init__(self, table: Tensor) -> None:
        self._tables = {table.device: table}

    def __call__(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]
