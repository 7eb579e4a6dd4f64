"""A step of training against a plain loop around diffusers' transformer: the same weights, batch, precision, optimizer.

Both sides take a whole step: forward pass under autocast to bfloat16, backward pass, clipping of the gradients, AdamW.
Ours is the trainer itself, with its weight average and its log; theirs is what its own training scripts do, with text
padded to the 512 positions that the model reads. The one invariant: before anything is timed, the losses of both sides
agree in float32, so both train the same function; and the two are timed by turns in one process.

Shape suffixes: B batch, C channels, T latent frames, H W height and width, S text positions, D text width.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.against_diffusers import AGREEMENT, TEXT_POSITIONS, quiet_diffusers
from benchmarks.measure import Comparison, Times, machine, say
from everreel.checkpoint.catalog import find_model
from everreel.checkpoint.load import load_transformer
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.memory import keep_freed_memory
from everreel.model.dit import DiT
from everreel.train.trainer import Trainer, TrainerSettings

GOAL = 2.0
SHAPES = (
    (64, 1),
    (8, 9),
    (2, 25),
)  # windows and latent frames of a batch, as the recipe of the embedded model has them
LATENT_SIZE = (12, 20)  # 96 × 160 pixels
SENTENCE = (12, 40)  # positions of a sentence of the film world
RATE, BETAS, DECAY, CLIP = 1e-4, (0.9, 0.95), 0.01, 1.0
WARM_UP = 1


@dataclass(frozen=True)
class Windows:
    """A batch: what the transformer reads, and the velocity that it should give."""

    x_BCTHW: Tensor
    timestep_BT: Tensor
    text_BSD: Tensor
    lengths: tuple[int, ...]
    velocity_BCTHW: Tensor

    @classmethod
    def draw(cls, count: int, frames: int, channels: int, text_dim: int) -> Windows:
        """Random numbers serve: what a step costs does not depend on them."""
        generator = torch.Generator().manual_seed(0)
        x_BCTHW, velocity_BCTHW = torch.randn(2, count, channels, frames, *LATENT_SIZE, generator=generator).unbind()
        lengths = torch.randint(*SENTENCE, (count,), generator=generator)
        text_BSD = torch.randn(count, TEXT_POSITIONS, text_dim, generator=generator)
        text_BSD[torch.arange(TEXT_POSITIONS) >= lengths[:, None]] = 0.0
        timestep_BT = 1000 * torch.rand(count, frames, generator=generator)
        return cls(x_BCTHW, timestep_BT, text_BSD, tuple(lengths.tolist()), velocity_BCTHW)


@dataclass
class Ours:
    """An objective on one batch. Before each step the trainer asks for a batch: there the other side has its turn."""

    transformer: DiT
    windows: Windows
    theirs: Theirs
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    seconds_theirs: list[float] = field(default_factory=list)
    _began: float | None = None

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return {"transformer": self.transformer}

    def batch(self, step: int, generator: torch.Generator) -> None:
        """Nothing is drawn. The time since the last call but for their turn is that of our step."""
        now = time.perf_counter()
        if self._began is not None:
            self.seconds.append(now - self._began)
            say(f"step {step}: everreel {self.seconds[-1]:.3g} s, diffusers {self.seconds_theirs[-1]:.3g} s")
        self.theirs.step()
        self._began = time.perf_counter()
        self.seconds_theirs.append(self._began - now)

    def losses(self, batch: None, generator: torch.Generator) -> dict[str, Tensor]:
        """The mean squared error of the velocity."""
        return {"transformer": self.loss()}

    def loss(self) -> Tensor:
        """As `train.diffusion_forcing` has it, where the loss counts everywhere."""
        windows = self.windows
        context = self.transformer.encode_context(windows.text_BSD, windows.lengths)
        fps_B = torch.ones(len(windows.lengths), dtype=torch.long)
        velocity_BCTHW = self.transformer(windows.x_BCTHW, windows.timestep_BT, context, fps_B=fps_B)
        return (velocity_BCTHW.float() - windows.velocity_BCTHW).square().mean()

    def sample(self, folder: Path, step: int) -> None:
        """No pictures."""


class Theirs:
    """The plain loop."""

    def __init__(self, transformer: Any, windows: Windows) -> None:  # noqa: ANN401 -- diffusers has no types
        self.transformer, self.windows = transformer, windows
        parameters = list(transformer.parameters())
        self.optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True)

    def step(self) -> None:
        """One step."""
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.transformer.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss(self) -> Tensor:
        """The mean squared error of the velocity."""
        windows = self.windows
        (velocity_BCTHW,) = self.transformer(
            windows.x_BCTHW,
            windows.timestep_BT,
            windows.text_BSD,
            fps=[1],  # one for all rows; one each it cannot take
            enable_diffusion_forcing=True,
            return_dict=False,
        )
        return F.mse_loss(velocity_BCTHW.float(), windows.velocity_BCTHW)


def run(model: str, shapes: Sequence[tuple[int, int]], steps: int) -> list[Comparison]:
    """Compare a batch shape each; a minute or two with the embedded model.

    Raises:
        ValueError: the model is not on this machine, or the two sides do not compute the same.
    """
    import diffusers

    quiet_diffusers()
    folder = find_model(model).require_path()
    found = []
    for count, frames in shapes:
        ours = load_transformer(folder, dtype=torch.float32).train().requires_grad_(True)
        load: Any = diffusers.SkyReelsV2Transformer3DModel.from_pretrained
        theirs = load(folder / "transformer", dtype=torch.float32).train()
        # Agreement is seen on a batch that is small: in float32 a large one is slow.
        few = Windows.draw(min(count, 2), min(frames, 3), ours.config.in_dim, ours.config.text_dim)
        _agree(Ours(ours, few, Theirs(theirs, few)))
        windows = Windows.draw(count, frames, ours.config.in_dim, ours.config.text_dim)
        found.append(_timed(Ours(ours, windows, Theirs(theirs, windows)), steps))
    return found


def _agree(ours: Ours) -> None:
    with torch.no_grad():
        one, other = float(ours.loss()), float(ours.theirs.loss())
    if not abs(one - other) < AGREEMENT * abs(other):
        raise ValueError(f"loss: everreel {one:.6g}, diffusers {other:.6g}: must agree within {AGREEMENT} in float32")
    say(f"the two losses agree within {abs(one - other) / abs(other):.1g} in float32")


def _timed(ours: Ours, steps: int) -> Comparison:
    count, frames = len(ours.windows.lengths), ours.windows.x_BCTHW.shape[2]
    total = WARM_UP + steps + 1  # a step's time is known when the next one begins
    settings = TrainerSettings(
        steps=total, learning_rate=RATE, betas=BETAS, weight_decay=DECAY, grad_clip=CLIP, precision="bf16",
        decay="constant", warmup=0, checkpoint_every=10 * total, sample_every=10 * total, device="cpu",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Trainer(ours, settings, folder, quiet=True).run()
    what = f"{count} pictures" if frames == 1 else f"{count} windows of {frames} latent frames"
    kept = slice(WARM_UP, WARM_UP + steps)
    return Comparison(
        what, GOAL, Times("trainer", tuple(ours.seconds[kept])), Times("loop", tuple(ours.seconds_theirs[kept]))
    )


def section(found: Sequence[Comparison], model: str) -> list[str]:
    """The figures beside their goal."""
    rows = [
        (
            one.what,
            f"at least {one.goal:g}×",
            f"{one.ratio:.2f}×",
            verdict(one.ratio >= one.goal),
            *(_seconds(times) for times in (one.ours, one.theirs)),
        )
        for one in found
    ]
    return [
        "## Training against diffusers",
        "",
        *paragraph(
            f"A step of training the transformer of `{model}` on latents of 96 × 160 pixels, by turns in one process: "
            "the trainer, its weight average and log included, and a plain loop around diffusers' transformer with the "
            "same weights, batch, autocast to bfloat16, AdamW and clipping. Medians, with the fastest and the slowest "
            "in brackets. diffusers reads the text padded to 512 positions, which is the same function."
        ),
        "",
        *table(("a batch", "goal", "measured", "", "everreel", "diffusers"), rows),
    ]


def _seconds(times: Times) -> str:
    return f"{times.median:.3g} s ({min(times.seconds):.3g} to {max(times.seconds):.3g})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and write the section to the standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    parser.add_argument("--steps", type=int, default=5, help="that are timed, of each side and batch")
    parser.add_argument("--shape", type=_shape, action="append", help="windows x latent frames, such as 8x9")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command everreel does; both sides gain
    found = run(options.model, options.shape or SHAPES, options.steps)
    lines = [*section(found, Path(options.model).name), "", *table(("machine", ""), machine().items())]
    sys.stdout.write("\n".join(lines) + "\n")


def _shape(text: str) -> tuple[int, int]:
    count, frames = (int(part) for part in text.split("x"))
    return count, frames


if __name__ == "__main__":
    main()
