"""The command that makes clips worth training on of anybody's films: `everreel data`.

The one invariant: stopped at any moment, the same command goes on where it was; with other thresholds it judges anew
and measures nothing twice.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everreel.bars import films_bar, pieces_bar

if TYPE_CHECKING:
    from everreel.curate.measures import Tools
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
        f"{len(curated.kept)} of {len(curated.clips)} clips kept in {output}, {len(curated.skipped)} files skipped"
    )


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
