"""Whether a LoRA of a print is seen in films: how far their colours are from its inks, at several strengths.

`python -m benchmarks.lora_style` after `everreel train recipes/lora.py --run-dir runs/lora`. The one invariant: all
strengths make the same films from the same seeds, so that they differ by the LoRA alone; at strength 0 not at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measure import say
from everreel.caption.critic import load_critic, score, shipped_critic
from everreel.evaluate.markdown import table
from everreel.evaluate.prompts import Prompt, held_out_prompts
from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.media import contact_sheet, write_image
from everreel.memory import keep_freed_memory
from everreel.world.render import render
from everreel.world.style import off_inks

Frames = npt.NDArray[np.uint8]
STRENGTHS = (0.0, 0.5, 1.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films, print the table and leave a picture of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora_style", description=__doc__)
    parser.add_argument("--lora", type=Path, default=Path("runs/lora/sepia"), help="a LoRA's file or folder")
    parser.add_argument("--model", default="tiny", help="the model that it is for")
    parser.add_argument("--style", default="sepia", help="the print that it learnt")
    parser.add_argument("--films", type=int, default=8, help="how many held-out prompts")
    parser.add_argument("--frames", type=int, default=17, help="frames of each film")
    parser.add_argument("--output", type=Path, default=Path("runs/lora/sepia/strengths.png"), help="the picture")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    prompts = held_out_prompts(options.films)
    asked: list[str | None] = [None, *(f"{options.lora}={strength}" for strength in STRENGTHS)]
    made = {lora: films_of(options.model, lora, prompts, options.frames) for lora in asked}
    if not all(np.array_equal(one, two) for one, two in zip(made[None], made[asked[1]], strict=True)):
        sys.exit("at strength 0 a film is not that of the model alone")
    scenes = [prompt.scene for prompt in prompts]
    real = [render(scene, options.frames, style=options.style) for scene in scenes]
    rows = [row_of(f"strength {s:g}", made[f"{options.lora}={s}"], prompts, options.style) for s in STRENGTHS]
    rows.append(row_of(f"drawn in {options.style}", real, prompts, options.style))
    lines = table(("films", f"levels off the inks of {options.style}", "subject", "place", "action"), rows)
    sys.stdout.write("\n".join(lines) + "\n")
    sheet = [film for number in range(len(prompts)) for film in (made[lora][number] for lora in asked[1:])]
    captions = [f"{strength:g}: {prompt.text}" for prompt in prompts for strength in STRENGTHS]
    write_image(options.output, contact_sheet(sheet, columns=len(STRENGTHS), frames_per_film=3, captions=captions))
    say(f"wrote {options.output}")


def films_of(model: str, lora: str | None, prompts: Sequence[Prompt], num_frames: int) -> list[Frames]:
    """A film of each prompt."""
    given = {"model": model, **({} if lora is None else {"lora": (lora,)})}
    pipe = VideoPipeline.load(model_options(**given))
    films = []
    for number, prompt in enumerate(prompts):
        request = make_request(prompt=prompt.text, num_frames=num_frames, seed=number)
        with torch.no_grad():
            films.append(np.concatenate([block.frames for block in pipe.stream(request)]))
        say(f"{lora or model}: {number + 1}/{len(prompts)}")
    return films


def row_of(name: str, films: Sequence[Frames], prompts: Sequence[Prompt], style: str) -> tuple[str, ...]:
    """A line of the table: the mean over films and its standard error, and what the critic reads of them."""
    off = np.array([off_inks(film, style) for film in films])
    error = off.std(ddof=1) / len(off) ** 0.5 if len(off) > 1 else float("nan")
    read = score(load_critic(shipped_critic()), films, [prompt.scene for prompt in prompts])
    return (
        name,
        f"{off.mean():.1f} ± {error:.1f}",
        *(f"{read[field]:.0%}" for field in ("subject", "place", "action")),
    )


if __name__ == "__main__":
    main()
