"""THE loop: schedule × denoiser × solver → finished latents, as soon as they are finished.

Source: the three denoising loops of the released `diffusion_forcing_pipeline.py`, here one. The one invariant: it knows
nothing of modes. Text to film, image to film, extension, one window or a thousand are rows of a schedule and known
frames; the loop holds the frames of one window and draws a frame's noise when the frame comes into sight.

Shape suffixes: B batch (always 1 here), C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from everreel.diffusion.conditioning import Conditioning
from everreel.diffusion.denoiser import Denoiser
from everreel.diffusion.noise import draw_noise_frames
from everreel.diffusion.schedule import Row, Schedule
from everreel.diffusion.solver import Solver, SolverState

FIRST_STEPS, LAST_STEPS = 3, 1  # of every frame, whose velocities are never guessed


@dataclass(frozen=True)
class RolloutState:
    """Where a rollout stands between two rows: all that it needs, beside the caches of its denoiser, to go on."""

    row: int
    """The next row."""
    start: int
    """The first latent frame in sight."""
    solver: SolverState
    """Of the frames in sight."""
    remembered: int = 0
    """Up to which frame the caches know the film."""


@dataclass(frozen=True)
class LatentBlock:
    """Finished latent frames (C, T, H, W) of a film, the first of them frame number `start`.

    `state` is where the rollout stands now.
    """

    start: int
    latents_CTHW: Tensor
    state: RolloutState


@dataclass(frozen=True)
class Glimpse:
    """A row that has been done, and what the frames that it moved are going to be as far as it can tell."""

    row: int
    start: int
    """The first latent frame of the window."""
    moved: tuple[int, ...]
    """Frames of the window that it moved, the first is 0."""
    before_CTHW: Tensor
    """The window before the row."""
    velocity_CTHW: Tensor
    sigma_T: Tensor
    """Noise levels of the window before the row, on the CPU."""

    def clean(self) -> Tensor:
        """The moved frames (C, T, H, W) as they would be without noise."""
        moved = list(self.moved)
        sigma_T = self.sigma_T[moved].to(self.velocity_CTHW)
        step_CTHW = sigma_T[None, :, None, None] * self.velocity_CTHW[:, moved]
        return self.before_CTHW[:, moved] - step_CTHW


def rollout(
    schedule: Schedule,
    denoiser: Denoiser,
    solver: Solver,
    conditioning: Conditioning,
    noise: Callable[[int], Tensor],
    *,
    state: RolloutState | None = None,
    on_row: Callable[[Glimpse], None] | None = None,
) -> Iterator[LatentBlock]:
    """Generate a film's latents.

    Args:
        schedule: its `given` frames must be those that `conditioning` knows.
        noise: the start noise (C, H, W) of a latent frame, by its absolute index.
        state: where to go on; the denoiser's caches must hold what they held then.
        on_row: called when a row is done, for progress and previews; what it raises ends the film there.

    Yields: blocks, first to last, each frame once.
    """
    assert schedule.given == conditioning.given and schedule.num_steps == solver.num_steps
    window = _Window(solver, conditioning, noise, state)
    first, remembered = (0, 0) if state is None else (state.row, state.remembered)
    for index in range(first, len(schedule)):
        row = schedule[index]
        window.slide(*row.window)
        if row.joined and conditioning.join is not None:
            window.replace(conditioning.join(window.state.latents[0, :, : row.joined]))
        levels_T = torch.tensor(row.levels, device=window.device)
        update_T = torch.tensor(row.update, device=window.device)
        seen_CTHW, timestep_T = window.seen(row, levels_T, index)
        if denoiser.remembers:
            remembered = _remember(schedule, denoiser, row, remembered, seen_CTHW, timestep_T)
        new = 0 if row.ahead else max(remembered - row.window[0], 0)
        blocks = None if row.ahead else schedule.blocks_in(row.window[0] + new, row.window[1])
        guess_T = row.update[new:] if _may_guess(row, schedule.num_steps) else None
        velocity_CTHW = denoiser(seen_CTHW[:, new:], timestep_T[new:], blocks, row.window[0] + new, guess_T)
        velocity_CTHW = torch.nn.functional.pad(velocity_CTHW, (0, 0, 0, 0, new, 0))  # what is remembered stays
        before_CTHW = window.state.latents[0]
        window.state = solver.step(window.state, velocity_CTHW[None], levels_T, update_T)
        if on_row is not None:
            moved = tuple(frame for frame, moves in enumerate(row.update) if moves)
            sigma_T = solver.sigmas[list(row.levels)]
            on_row(Glimpse(index, window.start, moved, before_CTHW, velocity_CTHW, sigma_T))
        if row.finished:
            window.settle(row)
            if denoiser.step_cache is not None:  # what goes on from here goes on alike after a stop
                denoiser.step_cache.forget()
            now = RolloutState(index + 1, window.start, window.state, remembered)
            yield LatentBlock(row.finished.start, window.frames(row.finished), now)


class _Window:
    """The latents in sight: those of one row's window."""

    def __init__(
        self,
        solver: Solver,
        conditioning: Conditioning,
        noise: Callable[[int], Tensor],
        state: RolloutState | None,
    ) -> None:
        self._solver, self._conditioning, self._noise = solver, conditioning, noise
        self.start = 0 if state is None else state.start
        self.state: SolverState = solver.start(self._fresh(0)[:, :, :0]) if state is None else state.solver

    @property
    def device(self) -> torch.device:
        return self.state.latents.device

    def slide(self, start: int, stop: int) -> None:
        """Let go of the frames before `start` and draw those up to `stop`."""
        held = self.start + self.state.num_frames
        if held < stop:
            fresh = torch.cat([self._fresh(frame) for frame in range(held, stop)], dim=2)
            self.state = self.state.append(fresh)
        if start > self.start:
            self.state = self.state.select(start - self.start, self.state.num_frames)
            self.start = start

    def replace(self, latents_CTHW: Tensor) -> None:
        """Put other latents in the place of the first ones, which are finished; what was given stays as it was."""
        count = latents_CTHW.shape[1]
        replaced_CTHW = self.state.latents[0, :, :count].clone()
        changed = [at for at in range(count) if self.start + at not in self._conditioning.known]
        replaced_CTHW[:, changed] = latents_CTHW[:, changed].to(replaced_CTHW)
        latents_BCTHW = torch.cat([replaced_CTHW[None], self.state.latents[:, :, count:]], dim=2)
        self.state = SolverState(latents_BCTHW, self.state.history, self.state.count)

    def settle(self, row: Row) -> None:
        """Make of the frames that the row finished what is asked for."""
        done = [i for i, moves in enumerate(row.update) if moves and self.start + i in row.finished]
        if self._conditioning.settle is not None and done:
            latents_BCTHW = self.state.latents.clone()
            latents_BCTHW[0, :, done] = self._conditioning.settle(self.start + done[0], latents_BCTHW[0, :, done])
            self.state = SolverState(latents_BCTHW, self.state.history, self.state.count)

    def seen(self, row: Row, levels_T: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """What the network is shown: the frames, with the channels that go beside them, and every frame's timestep."""
        latents_CTHW, timestep_T = self._noised(row, levels_T, index)
        if self._conditioning.channels is None:
            return latents_CTHW, timestep_T
        beside_CTHW = self._conditioning.channels[:, slice(*row.window)].to(latents_CTHW)
        return torch.cat([latents_CTHW, beside_CTHW]), timestep_T

    def _noised(self, row: Row, levels_T: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The frames, those that are clean with a little noise on them, and their timesteps."""
        latents_CTHW = self.state.latents[0]
        timestep_T = self._solver.timesteps.to(self.device)[levels_T]
        level = self._conditioning.history_level
        if level == 0:
            return latents_CTHW, timestep_T
        clean_T = levels_T == self._solver.num_steps
        shape = (latents_CTHW.shape[0], *latents_CTHW.shape[2:])
        frames = (frame + self._conditioning.offset for frame in range(*row.window))
        noise_CTHW = draw_noise_frames(self._conditioning.seed, "history", frames, index, shape).to(latents_CTHW)
        noisy_CTHW = torch.lerp(latents_CTHW, noise_CTHW, level)
        return (
            torch.where(clean_T[None, :, None, None], noisy_CTHW, latents_CTHW),
            torch.where(clean_T, torch.full_like(timestep_T, 1000 * level), timestep_T),
        )

    def frames(self, wanted: range) -> Tensor:
        """Finished frames; those that were given, as they were given, also where they lie outside the window."""
        known = self._conditioning.known
        parts = [known[f] if f in known else self.state.latents[0, :, f - self.start] for f in wanted]
        return torch.stack([part.to(self.device) for part in parts], dim=1)

    def _fresh(self, frame: int) -> Tensor:
        known = self._conditioning.known.get(frame)
        return (self._noise(frame) if known is None else known)[None, :, None]


def _may_guess(row: Row, num_steps: int) -> bool:
    """Whether no frame that moves takes one of its first or last steps, where little decides much."""
    levels = [level for level, moves in zip(row.levels, row.update, strict=True) if moves]
    return min(levels) >= FIRST_STEPS and max(levels) < num_steps - LAST_STEPS


def _remember(
    schedule: Schedule, denoiser: Denoiser, row: Row, remembered: int, seen_CTHW: Tensor, timestep_T: Tensor
) -> int:
    """Hand over the clean blocks at the front of the window that the cache does not hold yet, one by one."""
    start, stop = row.window
    if remembered < start:  # a block longer than the window's history: what was held is out of sight
        denoiser.forget()
        remembered = start
    clean = next((i for i, level in enumerate(row.levels) if level < schedule.num_steps), stop - start)
    for size in schedule.blocks_in(remembered, stop):
        if remembered + size > start + clean:
            break
        part = slice(remembered - start, remembered - start + size)
        denoiser.remember(seen_CTHW[:, part], timestep_T[part], remembered)
        remembered += size
    return remembered
