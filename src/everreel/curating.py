"""The commands that make clips worth training on of anybody's films, and have people look at some: `everreel data`.

The one invariant: stopped at any moment, the same command goes on where it was; with other thresholds it judges anew
and measures nothing twice.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everreel.bars import films_bar, pieces_bar

if TYPE_CHECKING:
    from everreel.curate.gates import Decision, Gate
    from everreel.curate.measures import Tools
    from everreel.curate.record import Clip
    from everreel.curate.run import Curated, CurateSettings, Curation


def data(
    source: Annotated[str, typer.Argument(help="A folder of films, a table of their paths, or a film.")] = "",
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The folder of clips and verdicts.")] = None,
    stage: Annotated[str, typer.Option(help="How strict: 256p, 360p, 540p or post.")] = "256p",
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE or NAME=off; any number.")] = None,
    thresholds: Annotated[Path | None, typer.Option(help="A TOML file of thresholds; --set counts more.")] = None,
    show_thresholds: Annotated[bool, typer.Option("--show-thresholds", help="Print them as TOML and end.")] = False,
    cuts: Annotated[str, typer.Option(help="What finds cuts: adaptive, or transnet if installed.")] = "adaptive",
    longest: Annotated[float, typer.Option(help="Seconds of a clip; a longer shot gives several.")] = 20.0,
    captioner: Annotated[
        str, typer.Option(help="Tells subjects, and captions where there are none: tiny, or as in caption.")
    ] = "",
    source_types: Annotated[
        str | None, typer.Option(help="film,tv,...: kept of a table's column source_type; any keeps all.")
    ] = None,
    selected: Annotated[Path | None, typer.Option(help="A file with the names of clips to keep, one a line.")] = None,
    write_clips: Annotated[bool, typer.Option("--write-clips", help="Put kept clips into files too.")] = False,
) -> None:
    """Cut films into shots, measure these, and keep what is good enough for a stage of training.

    OUTPUT gets clips.jsonl (what was measured), verdicts.jsonl (what is kept, and why not), report.html (the same with
    pictures), and kept.jsonl, which everreel prepare reads. Other thresholds judge anew without measuring again.
    """
    from everreel.curate.filters import changes_in, read_thresholds, thresholds_of
    from everreel.curate.filters import show_thresholds as shown
    from everreel.curate.run import CurateSettings, Curation, summary

    changes = [*(read_thresholds(thresholds) if thresholds else []), *changes_in(set_ or [])]
    bounds = thresholds_of(stage, changes)
    if show_thresholds:
        typer.echo(shown(stage, bounds))
        return
    if not source or output is None:
        missing = (
            "output: must be given; -o clips works" if source else "source: must be given; a folder of films works"
        )
        raise ValueError(missing)
    settings = CurateSettings(
        stage, bounds, cuts, longest, captioner, _types(stage, source_types), _names(selected) if selected else None
    )
    run = Curation(source, output, settings, _tools(settings))
    curated = _make(run)
    for missed in curated.skipped:
        typer.echo(f"skipped {missed}", err=True)
    if bounds["concept"] is not None and not captioner:
        typer.echo("concept: nobody was asked what is seen, so nothing is balanced; --captioner tiny", err=True)
    for line in summary(curated.clips):
        typer.echo(line)
    if write_clips:
        with pieces_bar("clip") as on_clip:
            run.write_clips(curated.kept, on_clip)
    typer.echo(
        f"{len(curated.kept)} of {len(curated.clips)} clips kept in {output}, "
        f"{len(curated.skipped)} file{'s' * (len(curated.skipped) != 1)} skipped"
    )


def data_check(
    folder: Annotated[Path, typer.Argument(help="The folder that everreel data wrote.")],
    *,
    gate: Annotated[str, typer.Option(help="pretraining or post-training; else as the run's stage asks.")] = "",
    share: Annotated[float, typer.Option(help="Look at so much of each source, 0 to 1, if the gate asks less.")] = 0.0,
    answers: Annotated[Path | None, typer.Option(help="The saved answers; else answers.json in FOLDER.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Draw clips anew, as --gate and --share do too.")] = False,
) -> None:
    """Have a person look at some of the clips that were kept, and say whether all of them will do.

    Without answers it writes check.html, a page that shows clips one by one. With them it prints pass, discard or
    undecided for each source, which is a folder of films. The exit code is 0 only where every source passes.
    """
    from everreel.curate.gates import ANSWERS, SAMPLE, check

    place = answers or folder / ANSWERS
    if new or gate or share or not (folder / SAMPLE).exists():
        _draw(folder, gate, share, place)
    if answers is None and not place.exists():
        typer.echo(_how_to_look(folder))
        sys.exit(1)
    decisions = check(folder, place)
    for decision in decisions:
        typer.echo(str(decision))
    if any(decision.outcome != "pass" for decision in decisions):
        typer.echo(_what_now(decisions), err=True)
        sys.exit(1)


def _draw(folder: Path, gate: str, share: float, answers: Path) -> None:
    """The page of a new sample, which begins with the answers there are to its clips."""
    from everreel.curate.page import make_check
    from everreel.curate.record import VERDICTS, read_clips
    from everreel.curate.run import films_of
    from everreel.data.draws import generator_for

    if not 0 <= share <= 1:
        raise ValueError(f"share = {share:g}: must be between 0 and 1; 0.1 works")
    clips = read_clips(folder / VERDICTS)
    chosen, known, find = _gate(gate, share, clips), _known(folder, answers), films_of(folder)
    with pieces_bar("clip") as on_clip:
        make_check(folder, clips, chosen, generator_for(0, "check"), find, progress=on_clip, known=known)


def _gate(name: str, share: float, clips: Sequence[Clip]) -> Gate:
    from everreel.curate.gates import gate_of

    stage = next((clip.stage for clip in clips), "")
    gate = gate_of(name or ("post-training" if stage == "post" else "pretraining"))
    return replace(gate, rate=max(gate.rate, share))


def _known(folder: Path, answers: Path) -> Mapping[str, frozenset[str]]:
    """What was answered to the sample before; nothing where that is none."""
    from everreel.curate.gates import SAMPLE, Sample, read_answers

    try:
        return read_answers(answers, Sample.load(folder / SAMPLE))
    except ValueError:
        return {}


def _how_to_look(folder: Path) -> str:
    from everreel.curate.gates import ANSWERS, PAGE, SAMPLE, Sample

    sample = Sample.load(folder / SAMPLE)
    count = f"{len(sample.clips)} of {sum(sample.sizes.values())} clips"
    return (
        f"Open {folder / PAGE} in a browser, look at {count} ({sample.gate.name}), and save the answers.\n"
        f"Move the file to {folder / ANSWERS}, or name it: everreel data-check {folder} --answers FILE"
    )


def _what_now(decisions: Sequence[Decision]) -> str:
    bad = [decision.source for decision in decisions if decision.outcome == "discard"]
    if not bad:
        return "undecided: nothing speaks against these clips yet, and too little for them"
    return "discard: leave those films out, or make the run anew with stricter thresholds (--set, --stage)"


def _make(run: Curation) -> Curated:
    """The run, and what it says where nothing is kept."""
    from everreel.curate.run import NothingKept

    try:
        with films_bar() as on_film:
            return run.make(on_film)
    except NothingKept as nothing:
        for line in nothing.lines:
            typer.echo(line, err=True)
        raise


def _tools(settings: CurateSettings) -> Tools:
    """What measures with models, which has to be installed before films are opened."""
    from everreel.caption.runs import captioner_of
    from everreel.curate.measures import Tools
    from everreel.curate.obstructions import Ocr
    from everreel.film.device import default_device

    if "text" in settings.groups and not (find_spec("rapidocr") and find_spec("onnxruntime")):
        off = " ".join(f"--set {name}=off" for name in ("text", "covered", "stretched"))
        raise ValueError(f"text: words are found with rapidocr: pip install 'everreel[curate]', or leave out: {off}")
    if not settings.captioner:
        return Tools(Ocr)
    return Tools(Ocr, lambda: captioner_of(settings.captioner, default_device()))


def _types(stage: str, source_types: str | None) -> tuple[str, ...]:
    from everreel.curate.filters import SOURCE_TYPES

    if source_types is None:
        return SOURCE_TYPES[stage]
    return () if source_types == "any" else tuple(part.strip().lower() for part in source_types.split(","))


def _names(file: Path) -> frozenset[str]:
    try:
        names = frozenset(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"selected = {str(file)!r}: cannot be read ({error}); a text file works") from None
    if not names:
        raise ValueError(f"selected = {str(file)!r}: names no clip; names are in verdicts.jsonl, as in film.mp4#0+48")
    return names
