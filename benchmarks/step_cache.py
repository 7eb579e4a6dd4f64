"""Step caches, tried: passes of the transformer left out, what that saves and what it does to the film.

`--step-cache` knows a level a frame, and is tried in films whose frames stand at one level, at several and in blocks;
the other ways stand around the transformer and decide pass by pass, for one level and for both
branches of guidance at once. The one invariant: all ways make the same films from the same seeds, and each is held
against the film of every pass.

Shape suffixes: B batch (with and without the words), C channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import page_head, say
from everreel.caption.critic import load_critic, score, shipped_critic
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.evaluate.prompts import held_out_prompts
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.memory import keep_freed_memory
from everreel.model.dit import Context, DiT, timestep_embedding

PAGE = Path(__file__).parents[1] / "docs" / "step-cache.md"
ALWAYS_FIRST, ALWAYS_LAST = 3, 1  # passes that every way computes
SAVED_GOAL, PSNR_GOAL = 0.25, 30.0  # of the passes' time; dB against the film of every pass


class EveryPass(nn.Module):
    """A transformer whose passes are counted, a row of guidance each; the ways below leave some out."""

    def __init__(self, model: DiT, num_passes: int) -> None:
        super().__init__()
        self.model, self.num_passes = model, num_passes
        self.config = model.config
        self.encode_context, self.new_cache = model.encode_context, model.new_cache
        self.asked, self.rows = 0, 0

    def forward(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, **more: Any) -> Tensor:  # noqa: ANN401
        """See `DiT.forward`."""
        must = self.asked < ALWAYS_FIRST or self.asked >= self.num_passes - ALWAYS_LAST
        self.asked += 1
        return self.compute(x_BCTHW, timestep_BT, context, more) if must else self.decide(
            x_BCTHW, timestep_BT, context, more
        )  # fmt: skip

    def compute(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, more: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        """The pass as it is."""
        self.rows += len(x_BCTHW)
        velocity_BCTHW: Tensor = self.model(x_BCTHW, timestep_BT, context, **more)
        return velocity_BCTHW

    def decide(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, more: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        """A pass that may be left out."""
        return self.compute(x_BCTHW, timestep_BT, context, more)


class KeptGuidance(EveryPass):
    """What the words change is computed in every `period`-th pass and kept in between, where one row is computed."""

    period = 2
    delta_CTHW: Tensor

    def compute(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, more: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        velocity_BCTHW = super().compute(x_BCTHW, timestep_BT, context, more)
        self.delta_CTHW = velocity_BCTHW[0] - velocity_BCTHW[1]
        return velocity_BCTHW

    def decide(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, more: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        if self.asked % self.period == 0:
            return self.compute(x_BCTHW, timestep_BT, context, more)
        one = {**more, "fps_B": more["fps_B"][:1]}
        told = [(frames, _first_row(text)) for frames, text in context]
        (told_CTHW,) = super().compute(x_BCTHW[:1], timestep_BT[:1], told, one)
        return torch.stack([told_CTHW, told_CTHW - self.delta_CTHW])


class KeptGuidance3(KeptGuidance):
    """The same with every third."""

    period = 3


class TeaCache(EveryPass):
    """TeaCache's measure (arXiv 2411.19108): the last velocity again while what the level does to the network's
    modulation adds up to less than a tenth of it.
    """

    limit = 0.1

    def compute(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, more: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        self.velocity_BCTHW = super().compute(x_BCTHW, timestep_BT, context, more)
        self.modulation, self.gone = self._modulation(timestep_BT), 0.0
        return self.velocity_BCTHW

    def decide(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, more: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        modulation = self._modulation(timestep_BT)
        self.gone += float((modulation - self.modulation).abs().mean() / self.modulation.abs().mean())
        if self.gone >= self.limit:
            return self.compute(x_BCTHW, timestep_BT, context, more)
        self.modulation = modulation
        return self.velocity_BCTHW

    def _modulation(self, timestep_BT: Tensor) -> Tensor:
        model = self.model
        embedding = timestep_embedding(timestep_BT[:1, :1], self.config.freq_dim)
        return model.time_projection(model.time_embedding(embedding.to(model.patch_embedding.weight)))


class Extrapolated(EveryPass):
    """Every second velocity is drawn out of the last two that were computed, in a straight line of the timestep."""

    def __init__(self, model: DiT, num_passes: int) -> None:
        super().__init__(model, num_passes)
        self.known: list[tuple[Tensor, Tensor]] = []

    def compute(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, more: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        velocity_BCTHW = super().compute(x_BCTHW, timestep_BT, context, more)
        self.known = [*self.known, (timestep_BT[0], velocity_BCTHW)][-2:]
        return velocity_BCTHW

    def decide(self, x_BCTHW: Tensor, timestep_BT: Tensor, context: Any, more: Mapping[str, Any]) -> Tensor:  # noqa: ANN401
        if self.asked % 2 == 0:
            return self.compute(x_BCTHW, timestep_BT, context, more)
        (before_T, first_BCTHW), (after_T, second_BCTHW) = self.known
        share_T11 = ((timestep_BT[0] - after_T) / (after_T - before_T))[:, None, None]
        return second_BCTHW + (second_BCTHW - first_BCTHW) * share_T11


WAYS: Mapping[str, tuple[Callable[[DiT, int], EveryPass], float]] = {
    "every pass": (EveryPass, 0),
    "guidance kept for 2 passes": (KeptGuidance, 0),
    "guidance kept for 3 passes": (KeptGuidance3, 0),
    "every second extrapolated": (Extrapolated, 0),
    "TeaCache 0.1": (TeaCache, 0),
    "--step-cache 0.06": (EveryPass, 0.06),
    "--step-cache 0.1": (EveryPass, 0.1),
    "--step-cache 0.15": (EveryPass, 0.15),
}
"""What stands around the transformer, and the request's own cache."""
FILMS: Mapping[str, Mapping[str, Any]] = {
    "at one level": {},
    "asynchronous": {"ar_step": 5, "causal_block_size": 5},
    "blockwise": {"causal_block_size": 5},
}
"""How frames stand to one another. Ways other than `--step-cache` know of one level, so they are tried in the first."""


@dataclass
class Tried:
    """One way, over all films of a kind."""

    rows: list[int] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)


def run(model: str, num_films: int, steps: int | None) -> dict[str, dict[str, Tried]]:
    """Make the films of every kind in every way."""
    pipe = VideoPipeline.from_pretrained(model, device="cpu")
    passes = steps or pipe.card.num_inference_steps
    return {kind: _kind(pipe, kind, num_films, passes) for kind in FILMS}


def _kind(pipe: VideoPipeline, kind: str, num_films: int, steps: int) -> dict[str, Tried]:
    critic, transformer = load_critic(shipped_critic()), pipe.transformer
    assert isinstance(transformer, DiT)
    ways = {name: way for name, way in WAYS.items() if way[0] is EveryPass or kind == next(iter(FILMS))}
    tried = {name: Tried() for name in ways}
    for number, prompt in enumerate(held_out_prompts(num_films)):
        exact_THWC = np.zeros(0)
        for name, (way, limit) in ways.items():
            say(f"{kind}, {name}, film {number + 1} of {num_films}")
            counted = way(transformer, steps)
            pipe.transformer = counted  # type: ignore[assignment]  # it is called like one
            request = make_request(
                prompt=prompt.text,
                seed=number,
                num_inference_steps=steps,
                step_cache=limit,
                guidance_level=1,
                guidance_until=0,
                **FILMS[kind],
            )
            frames_THWC = np.concatenate([block.frames for block in pipe.stream(request)])
            found = tried[name]
            found.rows.append(counted.rows)
            exact_THWC = frames_THWC if name == "every pass" else exact_THWC
            found.psnr.append(_psnr(frames_THWC, exact_THWC))
            read = score(critic, [frames_THWC], [prompt.scene], request.fps)
            found.accuracy.append(float(np.mean([hit for name, hit in read.items() if name in prompt.asked])))
        pipe.transformer = transformer
    return tried


def page(kinds: Mapping[str, Mapping[str, Tried]], command: str) -> str:
    """docs/step-cache.md."""
    lines = page_head("Step caches", command)
    lines += paragraph(
        "A step cache leaves out passes of the transformer whose result can be guessed. Skywork says that TeaCache "
        "spoils diffusion forcing; its counter was inside the model and ran twice a step. One holds here if it saves "
        f"at least a quarter of the passes and leaves the film at {PSNR_GOAL:.0f} dB or more from that of every pass. "
        "These are films of one window of the embedded model, of scenes that it was never trained on: all frames at "
        "one level, blocks five rows behind one another (`--ar-step 5`), and one block after the other; accuracy is "
        "the critic's. Nothing is said of the released weights, so the cache is off unless it is asked for."
    )
    lines.append("")
    lines += paragraph(
        "`--step-cache` asks how far the frames have gone since the velocity was computed, at the rate at which it "
        "changed with them before, and draws it on in a straight line. TeaCache asks what the level does to the "
        "network's modulation; that changes least where the velocity changes most, at the first levels, so it leaves "
        "out the wrong passes."
    )
    lines.append("")
    lines += paragraph(
        "A pass is left out whole or not at all: its blocks attend to each other, so one that is to be computed needs "
        "the keys and values of the others at their own noise. The frame that has gone furthest decides, of those that "
        "move; both branches of guidance are left out together. One block after the other that is a decision a block; "
        "of blocks that follow closely one often takes a first step, which every film computes, so less is left out."
    )
    rows = [(kind, *cells) for kind, tried in kinds.items() for cells in _rows(tried)]
    head = ("film", "way", "passes saved", "median PSNR", "accuracy", "holds")
    return "\n".join([*lines, "", *table(head, rows, "llrrrl"), ""])


def _rows(tried: Mapping[str, Tried]) -> Iterator[tuple[str, ...]]:
    whole = statistics.mean(tried["every pass"].rows)
    for name, found in tried.items():
        saved, psnr = 1 - statistics.mean(found.rows) / whole, statistics.median(found.psnr)
        holds = "" if name == "every pass" else verdict(saved >= SAVED_GOAL and psnr >= PSNR_GOAL)
        far = "" if name == "every pass" else f"{psnr:.1f} dB"
        cells = f"{100 * saved:.0f} %", far
        yield name, *cells, f"{100 * statistics.mean(found.accuracy):.0f} %", holds


def _first_row(text: Context) -> Context:
    """The words' own row."""
    return Context(tuple((k[:1], v[:1]) for k, v in text.layers), text.bias[:1])


def _psnr(found: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> float:
    error = float(np.square(found.astype(np.float64) - exact).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films, and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_cache", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    parser.add_argument("--num-films", type=int, default=8, help="prompts, each made in every way")
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    found = run(options.model, options.num_films, options.steps)
    command = f"python -m benchmarks.step_cache {shlex.join(arguments)}".strip()
    options.output.write_text(page(found, command), encoding="utf-8")
    say(f"wrote {options.output}")


if __name__ == "__main__":
    main()
