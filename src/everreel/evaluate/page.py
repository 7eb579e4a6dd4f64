"""What pages of films are made of: players with posters, and templates in which every value is escaped.

The one invariant: a page asks for nothing but the films it shows, and nothing that comes from a file (a name, a prompt,
a setting) is anything but text in it: the templates escape by themselves, addresses are quoted byte by byte, and a
policy in the page's head forbids every script.
"""

from __future__ import annotations

import base64
import io
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from everreel.evaluate.film_set import Film, FilmSet
from everreel.evaluate.films import write_text
from everreel.evaluate.quality import MEASURES
from everreel.film.source import SourceFilm
from everreel.media import Pixels, check_file

PAGES = Path(__file__).parent / "pages"
POSTER_WIDTH, POSTER_QUALITY = 400, 80
_MOMENTS = (0.05, 0.35, 0.65, 0.95)
_LONGEST = 400
"""Characters of a value that are shown."""


def render(template: str, **values: object) -> str:
    """A page; values are text, and markup only where `charts` made it."""
    return render_from([PAGES], template, **values)


def render_from(folders: Sequence[Path], template: str, **values: object) -> str:
    """The same of templates that lie in any of these folders."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from everreel import __version__

    loader = FileSystemLoader(folders)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(version=__version__, **values)


def write_page(path: Path, text: str) -> None:
    """A page that is there in full or not at all. What no UTF-8 can hold of a name is shown as a question mark."""
    write_text(path, text.encode("utf-8", "replace").decode())


def check_page(path: Path, ending: str = ".html") -> None:
    """Refuse a page's path before anything is done.

    Raises:
        ValueError: it ends otherwise, is a folder, or lies in none.
    """
    check_file("output", path, f"page{ending}")
    if path.suffix != ending:
        raise ValueError(f"output = {path}: must end in {ending}; {path.with_suffix(ending)} works")


def card(film: Film, page: Path, embed: bool) -> dict[str, Any]:
    """A film as templates show it.

    Args:
        page: where the page will lie; a film is linked to from there.
        embed: put the film into the page instead.
    """
    right = film.right
    answers = [
        {"name": name.replace("_", " "), "asked": answer.asked, "read": answer.read, "right": right[name]}
        for name, answer in film.answers.items()
    ]
    facts = [film.name] if film.prompt else []
    facts += [f"seed {film.seed}"] if film.seed is not None else []
    if film.num_frames is not None and film.fps is not None:
        facts.append(f"{film.num_frames} frames, {film.width}x{film.height} at {film.fps:.4g} a second")
    return {
        "name": film.name,
        "prompt": shown(film.prompt) if film.prompt else "",
        "facts": ", ".join(facts),
        "summary": f"{sum(right.values())} of {len(answers)} fields as asked" if answers else "figures",
        "answers": answers,
        "figures": [(MEASURES[name].title, MEASURES[name].show(value)) for name, value in film.figures.items()],
        "source": _source(film.path, page, embed) if film.path else "",
        "poster": poster(film) if film.path else "",
        "width": film.width,
        "height": film.height,
    }


def facts_of(films: FilmSet) -> str:
    """A set in a line: how many films, and of which kind."""
    kinds = sorted({(f.num_frames, f.width, f.height) for f in films.films if f.num_frames is not None})
    known = [f"{count} frames of {width}x{height}" for count, width, height in kinds[:2]]
    more = [f"{len(kinds) - 2} other kinds"] * (len(kinds) > 2)
    skipped = [f"{len(films.skipped)} skipped"] * bool(films.skipped)
    count = f"{len(films.films)} film{'s' * (len(films.films) != 1)}"
    return "; ".join([count, *known, *more, *skipped])


def shown(value: object) -> str:
    """A value on one line, cut where it is endless."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def poster(film: Film) -> str:
    """Four moments of a film as one JPEG in a `data:` address; none where they cannot be decoded."""
    assert film.path is not None
    try:
        source = SourceFilm.open(film.path)
        times = source.timeline.shown_at
        moments = [times[round(share * (len(times) - 1))] for share in _MOMENTS]
        frames = [_small(frame) for frame in source.frames_at(moments)]
    except (ValueError, OSError):
        return ""
    rows = [np.concatenate(frames[start : start + 2], axis=1) for start in (0, 2)]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "JPEG", quality=POSTER_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _small(frame: Pixels) -> Pixels:
    height, width = frame.shape[:2]
    scale = min(1.0, POSTER_WIDTH / 2 / width, POSTER_WIDTH / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _source(film: Path, page: Path, embed: bool) -> str:
    """An address that names the film and nothing else, whatever its name is made of."""
    if embed:
        kind = mimetypes.guess_type("film" + film.suffix)[0] or "video/mp4"
        return f"data:{kind};base64,{base64.b64encode(film.read_bytes()).decode()}"
    return address(film, page.parent)


def address(film: Path, folder: Path) -> str:
    """Where a page in a folder finds a film, whatever its name is made of."""
    try:
        path = Path(os.path.relpath(film.resolve(), folder.resolve()))
    except ValueError:  # on another drive
        return film.resolve().as_uri()
    # The dot keeps a name with a colon from being read as a scheme.
    return "./" + quote(os.fsencode(path.as_posix()))
