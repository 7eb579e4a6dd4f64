"""Solvers: the released trajectories, independence of frames, known answers and orders of convergence."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from everreel.diffusion.schedule import asynchronous
from everreel.diffusion.solver import (
    SOLVERS,
    Euler,
    SolverState,
    UniPC,
    sigmas_for,
    solver_for,
    timesteps_for,
)

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "official-unipc.safetensors")
CASES = [(30, 8.0), (50, 5.0), (30, 3.0), (4, 8.0), (1, 1.0)]
ALL = torch.tensor([True])


@pytest.mark.parametrize(("steps", "shift"), CASES)
def test_released_levels(steps, shift):
    """Sigmas to the bit, timesteps as whole numbers."""
    assert torch.equal(sigmas_for(steps, shift), GOLDEN[f"sigmas_{steps}_{shift}"])
    assert torch.equal(timesteps_for(steps, shift)[:-1], GOLDEN[f"timesteps_{steps}_{shift}"])
    assert timesteps_for(steps, shift)[-1] == 0


@pytest.mark.parametrize(("steps", "shift"), CASES)
def test_released_trajectories(steps, shift):
    """Every state of the released scheduler, fed the same outputs."""
    name = f"{steps}_{shift}"
    solver = solver_for("unipc_exact", steps, shift)
    state = solver.start(GOLDEN[f"x0_{name}"][:, :, None])
    for index in range(steps):
        v = GOLDEN[f"v_{name}"][index][:, :, None]
        state = solver.step(state, v, torch.tensor([index]), ALL)
        want = GOLDEN[f"traj_{name}"][index]
        assert (state.latents[:, :, 0] - want).norm() <= 1e-5 * want.norm()


def test_overwritten_start():
    """The quirk, acted out: after the first step the kept sample is overwritten by its result."""
    quirk, exact = solver_for("unipc", 5, 8.0), solver_for("unipc_exact", 5, 8.0)
    one = two = exact.start(draw(1, 2, 1, 3, 3))
    for index in range(5):
        v = draw(1, 2, 1, 3, 3, seed=index + 1)
        one = quirk.step(one, v, torch.tensor([index]), ALL)
        two = exact.step(two, v, torch.tensor([index]), ALL)
        if index == 0:
            two = dataclasses.replace(two, history=(two.latents, *two.history[1:]))
        assert torch.allclose(one.latents, two.latents, rtol=1e-5, atol=1e-6)


def draw(*shape, seed=0):
    """Noise of a shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SOLVERS)
def test_frames_are_independent(name):
    """A schedule whose frames stand at different levels gives what each frame alone gives."""
    steps, frames = 6, 7
    solver = solver_for(name, steps, 3.0)
    noise = draw(2, 3, frames, 4, 5)
    outputs = draw(steps, 2, 3, frames, 4, 5, seed=1)  # of the step that a frame takes, whenever it does

    state = solver.start(noise)
    for row in asynchronous(frames, steps, 2, 3, given=[0]):
        levels = torch.tensor(row.levels)
        v = torch.stack([outputs[min(level, steps - 1), :, :, f] for f, level in enumerate(row.levels)], dim=2)
        before, update = state, torch.tensor(row.update)
        v = v.masked_fill(~update.view(1, 1, -1, 1, 1), math.nan)  # what is not updated is not even read
        state = solver.step(state, v, levels, update)
        assert torch.equal(state.latents[:, :, ~update], before.latents[:, :, ~update])
        assert torch.equal(state.count[~update], before.count[~update])
        for new, old in zip(state.history, before.history, strict=True):
            assert torch.equal(new[:, :, ~update], old[:, :, ~update])

    assert torch.equal(state.latents[:, :, 0], noise[:, :, 0])
    for frame in range(1, frames):
        alone = solver.start(noise[:, :, frame : frame + 1])
        for index in range(steps):
            v = outputs[index, :, :, frame : frame + 1]
            alone = solver.step(alone, v, torch.tensor([index]), ALL)
        assert torch.equal(state.latents[:, :, frame], alone.latents[:, :, 0])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_window_can_be_cut_and_extended(name):
    """Dropping frames at the front and adding some at the back in mid-flight changes no other frame."""
    solver = solver_for(name, 5, 5.0)
    first, later = draw(1, 2, 4, 2, 2), draw(1, 2, 3, 2, 2, seed=1)
    both = solver.start(torch.cat((first, later), dim=2))
    rolling = solver.start(first)
    for index in range(4):
        v = draw(1, 2, 7, 2, 2, seed=index + 2)
        levels = torch.tensor([index] * 4 + [max(index - 2, 0)] * 3)
        update = torch.tensor([True] * 4 + [index >= 2] * 3)
        both = solver.step(both, v, levels, update)
        if index < 2:
            rolling = solver.step(rolling, v[:, :, :4], levels[:4], update[:4])
            continue
        if index == 2:
            rolling = rolling.select(1, 4).append(later)
        rolling = solver.step(rolling, v[:, :, 1:], levels[1:], update[1:])
    want = both.select(1, 7)
    assert torch.equal(rolling.latents, want.latents) and torch.equal(rolling.count, want.count)
    for new, old in zip(rolling.history, want.history, strict=True):
        assert torch.equal(new, old)


@pytest.mark.parametrize(("name", "history"), [("unipc", 3), ("euler", 0)])
def test_state_shapes(name, history):
    """A frame axis everywhere, float32 whatever comes in, an empty window too."""
    solver = solver_for(name, 4, 5.0)
    state = solver.start(draw(2, 3, 5, 4, 6).bfloat16())
    v = draw(2, 3, 5, 4, 6).bfloat16()
    state = solver.step(state, v, torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.bool))
    assert isinstance(state, SolverState) and state.num_frames == 5
    assert len(state.history) == history and state.count.shape == (5,)
    assert all(t.shape == (2, 3, 5, 4, 6) and t.dtype == torch.float32 for t in (state.latents, *state.history))
    assert state.select(2, 2).append(v).latents.equal(v.float())


def walk(solver, velocity, start):
    """From `start` through all levels under v(x, sigma)."""
    state = solver.start(torch.full((1, 1, 1, 1, 1), start))
    for index in range(solver.num_steps):
        v = velocity(state.latents, float(solver.sigmas[index]))
        state = solver.step(state, v, torch.tensor([index]), ALL)
    return state.latents.item()


def test_euler_on_a_line():
    """A constant velocity is followed exactly; v = a·x shrinks by the product of (1 + a·step)."""
    assert walk(Euler(sigmas_for(7, 3.0)), lambda x, s: torch.full_like(x, 2.0), 5.0) == pytest.approx(
        5.0 - 2.0 * sigmas_for(7, 3.0)[0].item(), abs=1e-6
    )
    solver = Euler(torch.linspace(1, 0, 5))
    assert walk(solver, lambda x, s: 2 * x, 1.0) == pytest.approx((1 - 0.5) ** 4, rel=1e-6)
    many = Euler(torch.linspace(1, 0, 2001))
    assert walk(many, lambda x, s: 2 * x, 1.0) == pytest.approx(math.exp(-2), rel=2e-3)


@pytest.mark.parametrize("solver", [Euler, UniPC])
def test_data_of_one_point_is_reached(solver):
    """If all data is one point, the straight line ends there, whatever the steps."""
    for steps in (1, 2, 3, 10):
        made = walk(solver(sigmas_for(steps, 8.0)), lambda x, s: (x - 0.7) / s, -1.3)
        assert made == pytest.approx(0.7, abs=1e-5)


def gaussian_velocity(x, sigma, spread=0.5):
    """The exact velocity if data is normal with a standard deviation of `spread`: dx/dsigma."""
    variance = ((1 - sigma) * spread) ** 2 + sigma**2
    return x * (sigma - (1 - sigma) * spread**2) / variance


@pytest.mark.parametrize(("solver", "order"), [(Euler, 1), (UniPC, 2)])
def test_order_of_convergence(solver, order):
    """Normal data has a known flow: x goes with the standard deviation of its level."""

    def spread_at(sigma):
        return math.sqrt(((1 - sigma) * 0.5) ** 2 + sigma**2)

    errors = []
    for steps in (10, 20, 40):
        made = walk(solver(torch.linspace(0.9, 0.1, steps + 1)), gaussian_velocity, 1.0)
        errors.append(abs(made - spread_at(0.1) / spread_at(0.9)))
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) > order - 0.25


def test_bad_values_are_named():
    """Field, value, rule."""
    for make, words in [
        (lambda: solver_for("heun", 4, 5.0), "solver = 'heun': must be one of unipc, unipc_exact, euler"),
        (lambda: sigmas_for(0, 5.0), "num_steps = 0: must be at least 1"),
        (lambda: solver_for("unipc", 4, 0.0), "shift = 0.0: must be a positive number"),
        (lambda: Euler(torch.tensor([0.5, 0.6])), "each below the last"),
        (lambda: UniPC(torch.tensor([1.0, 0.0])), "must lie between 0 and 0.99"),
        (lambda: Euler(torch.tensor([1.0, 0.0]), torch.tensor([999.0])), "timesteps: 1 of them"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_of_many_frames_is_as_few_operations_as_one_of_few__released_defect_26(name):
    """The released code holds a scheduler a latent frame: kernels for each, and a wait for the device for each."""

    class Calls(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    solver, seen = solver_for(name, 8, 3.0), []
    for frames in (2, 40):
        state = solver.start(torch.zeros(1, 2, frames, 2, 2))
        levels, update = torch.arange(frames) % 8, torch.arange(frames) % 3 > 0
        solver.step(state, torch.ones(1, 2, frames, 2, 2), levels, update)
        with Calls() as calls:
            solver.step(state, torch.ones(1, 2, frames, 2, 2), levels, update)
        seen.append(calls.names)
    assert seen[0] == seen[1]
    assert not [call for call in seen[0] if "_local_scalar_dense" in call or "equal" in call]
