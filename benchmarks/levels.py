"""Where films go wrong: how much the words matter at each noise level, and from which level on what they say is lost.

`python -m benchmarks.levels` renders the scenes of the held-out prompts, encodes them, and asks a model of the film
world two things about each of them. How much larger is its error with a sentence that says one thing otherwise? And
what does the critic still read when the clip is noised up to a level and denoised from there? The clip that only the
VAE has seen tells what the critic can read at all. The one invariant: a clip meets the same noise with every sentence
and at every level, so figures of one clip differ by what is asked alone.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import bootstrap, page_head, say
from everreel.caption.critic import shipped_critic
from everreel.checkpoint.catalog import ModelCard
from everreel.data.clips import to_unit_range
from everreel.data.draws import draw_int, generator_for
from everreel.data.latents import encode_video
from everreel.data.text import FrozenText
from everreel.diffusion.noise import add_noise
from everreel.evaluate.follow import Reader, reader_of
from everreel.evaluate.markdown import paragraph, table
from everreel.evaluate.prompts import held_out_scenes
from everreel.film.decoding import to_uint8
from everreel.film.pipeline import VideoPipeline
from everreel.memory import keep_freed_memory
from everreel.train.generate import Start, Wanted, Way, context_of, latents_of
from everreel.world.caption import sentence_with_fields
from everreel.world.render import render
from everreel.world.scene import VOCABULARY, Scene, visible_fields

PAGE = Path(__file__).parents[1] / "docs" / "levels.md"
FIELDS = ("subject", "color", "place", "action", "shot_type", "shot_angle", "shot_position", "camera_motion")
FPS = 24
VAE_ALONE = 0.0  # the level of a clip that is not noised

Shares = dict[str, list[float]]
"""A number for each clip in which a field is said and seen, by field."""


@dataclass(frozen=True)
class Clip:
    """A rendered scene as latents (C, T, H, W), its sentence, and the same sentence with one field said otherwise."""

    number: int
    latents_CTHW: Tensor
    text: str
    asked: dict[str, str]
    otherwise: dict[str, str]


def otherwise_of(scene: Scene, number: int) -> tuple[str, dict[str, str], dict[str, str]]:
    """The sentence of a scene, what it says that can be seen, and, by field, the sentence with another value."""

    def told(one: Scene) -> tuple[str, set[str]]:
        return sentence_with_fields(one, generator_for(0, "levels", number), drop=0.0, style="tags")

    text, said = told(scene)
    asked = {name: value for name, value in visible_fields(scene).items() if name in said and name in FIELDS}
    generator, others = generator_for(0, "otherwise", number), {}
    for name, value in asked.items():
        values = [other for other in VOCABULARY[name] if other != value]
        begin = draw_int(generator, 0, len(values))
        for other in values[begin:] + values[:begin]:
            changed = replace(scene, **{name: other})
            try:
                changed.validate()
            except ValueError:  # not every value goes with the rest
                continue
            sentence, also = told(changed)
            if name in also and sentence != text:
                others[name] = sentence
                break
    return text, asked, others


def clip_of(pipe: VideoPipeline, scene: Scene, number: int, num_frames: int) -> Clip:
    """Rendered at the model's size, and encoded."""
    frames = render(scene, num_frames, height=pipe.card.height, width=pipe.card.width, fps=FPS)
    latents = torch.from_numpy(encode_video(pipe.vae, to_unit_range([frames]))[0]).float()
    return Clip(number, latents, *otherwise_of(scene, number))


@torch.no_grad()
def rises(pipe: VideoPipeline, text: FrozenText, clip: Clip, level: float) -> dict[str, float]:
    """By how much of it the error of the velocity grows when one field is said otherwise, by field."""
    x0_BCTHW = clip.latents_CTHW[None]
    noise_BCTHW = torch.randn(x0_BCTHW.shape, generator=generator_for(0, "noise", clip.number))
    sigma_BT = torch.full((1, x0_BCTHW.shape[2]), level)
    x_BCTHW = add_noise(x0_BCTHW, noise_BCTHW, sigma_BT)

    def error(sentence: str) -> float:
        context = context_of(pipe.transformer, text, text.ids([sentence]))
        velocity_BCTHW = pipe.transformer(x_BCTHW, 1000 * sigma_BT, context, fps_B=torch.tensor([1]))
        return float((velocity_BCTHW.float() - (noise_BCTHW - x0_BCTHW)).square().mean())

    right = error(clip.text)
    return {name: error(sentence) / right - 1 for name, sentence in clip.otherwise.items()}


def way_of(card: ModelCard, steps: int | None) -> Way:
    """As the model is recommended to be used, all frames at once."""
    return Way(
        steps or card.num_inference_steps, card.shift, "unipc", card.guidance_scale, card.guidance_level,
        card.guidance_until,
    )  # fmt: skip


@torch.no_grad()
def read_from(
    pipe: VideoPipeline, text: FrozenText, clip: Clip, way: Way, level: float, read: Reader
) -> dict[str, float]:
    """Whether each field is read as it was asked for when the clip is denoised from a level."""
    latents_CTHW = clip.latents_CTHW
    if level != VAE_ALONE:
        _, frames, height, width = latents_CTHW.shape
        wanted = Wanted(clip.text, (frames, height, width), seed=clip.number)
        blocks = latents_of(pipe.transformer, text, wanted, way, start=Start(latents_CTHW, level))
        latents_CTHW = torch.cat([block.latents_CTHW for block in blocks], dim=1)
    video_BCTHW = pipe.vae.decode(latents_CTHW[None].to(next(pipe.vae.parameters()).dtype))
    found = read(to_uint8(video_BCTHW[0]), FPS)
    return {name: float(max(found[name], key=found[name].__getitem__) == value) for name, value in clip.asked.items()}


def page(words: dict[float, Shares], films: dict[float, Shares], about: Sequence[str], command: str) -> str:
    """docs/levels.md."""
    lines = [*page_head("What is decided at which noise level", command), *paragraph(about[0]), ""]
    lines += ["## How much a word matters", "", *paragraph(about[1]), ""]
    head = ("noise level", *(name.replace("_", " ") for name in FIELDS))
    aligned = "l" + "r" * len(FIELDS)
    rows = [(f"{level:g}", *_cells(found, _rise)) for level, found in words.items()]
    lines += [*table(head, rows, aligned), ""]
    lines += ["## Where it is lost", "", *paragraph(about[2]), ""]
    names = {level: "the VAE alone" if level == VAE_ALONE else f"{level:g}" for level in films}
    rows = [(names[level], *_cells(found, _share)) for level, found in films.items()]
    lines += [*table(("denoised from", *head[1:]), rows, aligned), ""]
    return "\n".join(lines)


def _cells(found: Shares, tell: Callable[[Sequence[float]], str]) -> list[str]:
    return [tell(found[name]) if found.get(name) else "" for name in FIELDS]


def _rise(values: Sequence[float]) -> str:
    middle, low, high = bootstrap(values)
    return f"{middle:+.1%} ({low:+.1%} to {high:+.1%})"


def _share(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.0%} of {len(values)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask, and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.levels", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a model of the film world, by its name or folder")
    parser.add_argument("--num-films", type=int, default=24, help="clips")
    parser.add_argument("--num-frames", type=int, default=49, help="frames of each, 4k + 1")
    parser.add_argument("--steps", type=int, help="denoising steps from noise on")
    parser.add_argument("--levels", type=float, nargs="+", default=(0.97, 0.92, 0.85, 0.7, 0.5), help="words matter at")
    parser.add_argument(
        "--starts", type=float, nargs="+", default=(1.0, 0.95, 0.85, 0.7, 0.5, 0.3, 0.15), help="denoised from"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    pipe, read = VideoPipeline.from_pretrained(options.model), reader_of(shipped_critic())
    text, way = FrozenText(pipe.tokenizer, pipe.text_encoder), way_of(pipe.card, options.steps)
    words: dict[float, Shares] = {level: defaultdict(list) for level in options.levels}
    films: dict[float, Shares] = {level: defaultdict(list) for level in (*options.starts, VAE_ALONE)}
    for number, scene in enumerate(held_out_scenes(options.num_films)):
        say(f"clip {number + 1} of {options.num_films}")
        clip = clip_of(pipe, scene, number, options.num_frames)
        for level, shares in words.items():
            for name, value in rises(pipe, text, clip, level).items():
                shares[name].append(value)
        for level, shares in films.items():
            for name, value in read_from(pipe, text, clip, way, level, read).items():
                shares[name].append(value)
    about = (
        f"{options.num_films} scenes that nobody trained on, rendered with {options.num_frames} frames and encoded; "
        f"the model is {pipe.card.name}. Levels go from 0, a clean frame, to 1, noise. Fields count where they can be "
        "seen.",
        "By how much the error of the predicted velocity grows, with the same noise, when the sentence says one thing "
        "otherwise: mean over clips and its 95 % bootstrap interval. What the model does not know at a level costs "
        "nothing there.",
        "How often the critic reads a field as it was asked for, when a clip is noised to a level and denoised from "
        f"there ({way.steps} steps from noise, guidance {way.guidance_scale:g} from level {way.guidance_level:g} down "
        f"to {way.guidance_until:g}). At 1 nothing of the clip is left; the last row is how well the critic reads "
        "clips that only the VAE has seen, and no film can be read better than by luck.",
    )
    command = f"python -m benchmarks.levels {shlex.join(arguments)}".strip()
    options.page.write_text(page(words, films, about, command), encoding="utf-8")
    say(f"wrote {options.page}")


if __name__ == "__main__":
    main()
