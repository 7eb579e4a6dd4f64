"""Between which noise levels guidance is needed, and what a pass without some layers adds to it: films of the same
prompts and seeds, and what each way costs.

`python -m benchmarks.guidance` makes them with the embedded model, every prompt by all ways in turn, and writes
docs/guidance.md; a run that was stopped goes on behind the films that are there. The one invariant: a way is held
against guidance in all steps film by film, and its interval is drawn over films.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gains import fields_of, gain_of
from benchmarks.measure import page_head, say
from everreel.caption.critic import shipped_critic
from everreel.checkpoint.catalog import ModelCard, find_model
from everreel.diffusion.solver import solver_for
from everreel.evaluate.films import write_json
from everreel.evaluate.follow import Evaluation, FilmSettings, Reader, Report, reader_of
from everreel.evaluate.markdown import paragraph, table
from everreel.film.pipeline import VideoPipeline
from everreel.memory import keep_freed_memory

PAGE = Path(__file__).parents[1] / "docs" / "guidance.md"
SECONDS = "seconds.json"

Levels = tuple[float, float, float]
"""That which guidance begins at, that which it ends at, and how far it goes away from a pass without some layers."""
ALWAYS: Levels = 1.0, 0.0, 0.0
Evaluations = Mapping[Levels, Evaluation]


def levels_of(text: str) -> Levels:
    """As "0.85-0.5" says them, or "0.85-0.5-2"."""
    level, until, skip = [*map(float, text.split("-")), 0.0, 0.0][:3]
    return level, until, skip


def name_of(levels: Levels) -> str:
    """As `levels_of` reads it."""
    level, until, skip = levels
    return f"{level:g}-{until:g}" + (f"-{skip:g}" if skip else "")


def evaluations(card: ModelCard, settings: FilmSettings, pairs: Sequence[Levels], output: Path) -> Evaluations:
    """The films of each pair of levels, guidance in all steps first."""
    return {
        pair: Evaluation(
            card,
            replace(settings, guidance_level=pair[0], guidance_until=pair[1], skip_layer_guidance_scale=pair[2]),
            output / name_of(pair),
        )
        for pair in (ALWAYS, *pairs)
    }


def make(model: str, films: Evaluations) -> None:
    """The films that are missing, and how long each took."""
    if not any(one.missing() for one in films.values()):
        return
    pipe = VideoPipeline.from_pretrained(model)
    for number in range(len(films[ALWAYS].films)):
        for pair, one in films.items():
            if one.films[number].is_whole:
                continue
            say(f"levels {name_of(pair)}, film {number + 1} of {len(one.films)}")
            started = time.perf_counter()
            pipe(one.films[number].request, output=one.path(number))
            known = one.output / SECONDS
            seconds = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
            write_json(known, {**seconds, str(number): time.perf_counter() - started})


def halves(card: ModelCard, settings: FilmSettings, pair: Levels) -> float:
    """The share of steps that compute one row of guidance in the place of two, in films of one window."""
    steps, shift = settings.num_inference_steps or card.num_inference_steps, settings.shift or card.shift
    sigmas = solver_for(card.solver, steps, shift).sigmas[:-1]
    return float(((sigmas > pair[0]) | (sigmas < pair[1])).float().mean())


def page(films: Evaluations, read: Reader, card: ModelCard, settings: FilmSettings, command: str) -> str:
    """docs/guidance.md."""
    reports: dict[Levels, Report] = {pair: one.score(read) for pair, one in films.items()}
    rows = []
    for pair, one in films.items():
        seconds = json.loads((one.output / SECONDS).read_text(encoding="utf-8")).values()
        gain = gain_of("", "", films[ALWAYS].output, one.output, fields_of())
        assert gain is not None
        fields = {score.name: score for score in reports[pair].fields}
        told = "" if pair == ALWAYS else f"{gain.gain:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
        subject = fields["subject"].accuracy
        cells = f"{halves(card, settings, pair):.0%}", f"{statistics.median(seconds):.1f}", f"{gain.after:.1f} %"
        rows.append((*(f"{value:g}" for value in pair), *cells, told, f"{subject:.0%}"))
    about = (
        f"{len(films[ALWAYS].films)} films of {settings.num_frames} frames by {card.name} for each pair of levels, of "
        "prompts that it was never trained on. Above the one and below the other a frame goes without guidance, and a "
        "step in which no frame has any computes one row in the place of two. Fields are those that the critic reads "
        "as they were asked for; the gain is on guidance in all steps, film by film, with its 95 % bootstrap interval. "
        f"Levels go from 0, a clean frame, to 1, noise; {card.name} takes {card.guidance_level:g} down to "
        f"{card.guidance_until:g} where nothing else is asked, and released models have guidance in all steps, for "
        "nobody has measured them here."
    )
    source = (
        "Why one would leave it out: at the highest levels there is nothing to guide yet, and what guidance adds there "
        "is an average of all films of the words; at the lowest what is to be seen is settled, and guidance draws hard "
        "edges into it (Kynkäänniemi et al., arXiv 2404.07724). What that costs is in the table."
    )
    skipping = (
        "With --skip-layer-guidance-scale one more pass is made where there is guidance, without the layers "
        f"{' and '.join(map(str, card.skip_guidance_layers))}, and velocities go away from what it says (Hyung et al., "
        "arXiv 2411.18664)."
    )
    levels = "--guidance-level", "--guidance-until", "skip scale"
    head = (*levels, "steps of one row", "seconds a film", "all fields", "gain", "subject")
    lines = page_head("The levels that guidance begins and ends at, and a pass without some layers", command)
    lines += [*paragraph(about), "", *paragraph(source), "", *paragraph(skipping), ""]
    return "\n".join([*lines, *table(head, rows, "lllrrrlr"), ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the films, and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guidance", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    parser.add_argument("--num-films", type=int, default=64, help="prompts, each made with every level")
    parser.add_argument("--num-frames", type=int, default=25, help="frames of a film")
    parser.add_argument("--steps", type=int, help="denoising steps")
    pairs = [(1.0, 0.5, 0.0), (0.85, 0.0, 0.0), (0.85, 0.5, 0.0), (0.85, 0.0, 2.0)]
    told = "as 0.85-0.5, or 0.85-0.5-2 with a skip scale; beside 1-0, all steps"
    parser.add_argument("--levels", type=levels_of, nargs="+", default=pairs, help=told)
    parser.add_argument("--output", type=Path, default=Path("runs/guidance"), help="the folder of the films")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    settings = FilmSettings(
        num_films=options.num_films, num_frames=options.num_frames, num_inference_steps=options.steps
    )
    card = find_model(options.model)
    films = evaluations(card, settings, options.levels, options.output)
    make(options.model, films)
    command = f"python -m benchmarks.guidance {shlex.join(arguments)}".strip()
    text = page(films, reader_of(shipped_critic()), card, settings, command)
    options.page.write_text(text, encoding="utf-8")
    say(f"wrote {options.page}")


if __name__ == "__main__":
    main()
