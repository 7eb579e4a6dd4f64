"""The commands that measure films and show them: `everreel evaluate quality`, `report` and `compare`.

The one invariant: as everywhere on the command line, what is wrong is one line before anything is done, a film that
cannot be read is named and skipped, and what was measured stays when a run is stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everreel.bars import pieces_bar

if TYPE_CHECKING:
    from everreel.data.sources import Skipped

_MEASURE = "Measure first how the films look that are not in the folder's quality.jsonl."
_ENDINGS = (".html", ".md", ".json")


def quality(
    files: Annotated[list[Path], typer.Argument(help="Films, or folders of them.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write: .jsonl or .csv.")],
    critic: Annotated[
        Path | None, typer.Option(help="A critic that reads anew what report.json or journal asked for.")
    ] = None,
) -> None:
    """Measure how films look, a row a film; after a stop the same command goes on where it was."""
    from everreel.evaluate.quality_table import check_table, find_films, read_table

    check_table(output)
    films = find_films(files)
    skipped = _measure(films, output, critic)
    if len(skipped) == len(films):
        raise ValueError(f"files = {films[0]}: none of the {len(films)} films could be measured; give others")
    typer.echo(f"{len(read_table(output))} films in {output}, {len(skipped)} skipped")


def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of films; with a report.json, or without.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("report.html"),
    measure: Annotated[bool, typer.Option("--quality", help=_MEASURE)] = False,
    embed: Annotated[bool, typer.Option(help="Put the films into the page, instead of linking to them.")] = False,
    players: Annotated[int, typer.Option(help="Films of each folder that are shown at most.")] = 64,
) -> None:
    """Write one HTML page of films: players, plots, tables, the best and the worst."""
    from everreel.evaluate import report as reporting
    from everreel.evaluate.film_set import gather
    from everreel.evaluate.page import check_page, write_page

    check_page(output)
    if measure:
        _measure_folders(folders)
    sets = [gather(folder) for folder in folders]
    _tell([missed for found in sets for missed in found.skipped])
    write_page(output, reporting.report(sets, output, embed=embed, players=players))
    typer.echo(f"wrote {output}: {sum(len(found.films) for found in sets)} films")


def compare(
    a: Annotated[Path, typer.Argument(help="A folder of films, or the report.json in one.")],
    b: Annotated[Path, typer.Argument(help="The other.")],
    *,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="What to write: .html, .md or .json; any number of them."),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare other prompts, lengths, sizes or critics too, and say so.")
    ] = False,
    measure: Annotated[bool, typer.Option("--quality", help=_MEASURE)] = False,
    embed: Annotated[bool, typer.Option(help="Put the films into the page, instead of linking to them.")] = False,
    pairs: Annotated[int, typer.Option(help="Pairs of films that the page shows at most.")] = 12,
) -> None:
    """Say which of two sets of films is better in what, and whether that is more than chance."""
    from everreel.evaluate import compare as comparing
    from everreel.evaluate.compare_page import comparison_page
    from everreel.evaluate.page import check_page, write_page

    outputs = output or [Path("compare.html")]
    for path in outputs:
        check_page(path, path.suffix if path.suffix in _ENDINGS else ".html")
    if measure:
        _measure_folders([a, b])
    found = comparing.compare(a, b, anyway=anyway)
    _tell([*found.a.skipped, *found.b.skipped])
    write: dict[str, Callable[[Path], str]] = {
        ".html": lambda path: comparison_page(found, path, embed=embed, pairs=pairs),
        ".md": lambda path: found.markdown(),
        ".json": lambda path: json.dumps(found.to_json(), indent=1) + "\n",
    }
    texts = [write[path.suffix](path) for path in outputs]
    typer.echo(found.statement())
    for path, text in zip(outputs, texts, strict=True):
        write_page(path, text)
        typer.echo(f"wrote {path}")


def register(group: typer.Typer) -> None:
    """Put the commands into a group."""
    for command in (quality, report, compare):
        group.command()(command)


def _measure_folders(folders: Sequence[Path]) -> None:
    """The table in each folder gets the films that it lacks."""
    from everreel.evaluate.quality_table import NAME, films_in

    for path in folders:
        folder = path.parent if path.is_file() else path
        if folder.is_dir() and (films := films_in(folder)):
            _measure(films, folder / NAME, None)


def _measure(films: Sequence[Path], table: Path, critic: Path | None) -> list[Skipped]:
    from everreel.evaluate.follow import reader_of
    from everreel.evaluate.quality_table import measure_files

    reader = reader_of(critic) if critic is not None else None
    with pieces_bar("film", every=True) as on_film:
        skipped = measure_files(films, table, reader, on_film)
    _tell(skipped)
    return skipped


def _tell(skipped: Sequence[Skipped]) -> None:
    for missed in dict.fromkeys(map(str, skipped)):
        typer.echo(f"skipped {missed}", err=True)
