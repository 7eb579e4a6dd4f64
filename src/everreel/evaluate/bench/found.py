"""The films of one model in a folder, each with the prompt that it was made of.

A prompt stands in a caption beside the film or in the folder's table (as `everreel.data.sources` reads them), in the
`report.json` or `settings.json` of `everreel evaluate`, in the journal that a film of everreel has beside it, or it is
the film's own name, as VBench has it: `a red fox runs-0.mp4`. They are asked in this order. The one invariant: every
film of the folder is in one of two lists, as a film that plays and has a prompt or as left out for a reason.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from everreel.data.sources import FILMS, Skipped, read_source
from everreel.evaluate.film_set import told_by_journal
from everreel.evaluate.films import prompts_of
from everreel.media import Video

PLAYABLE = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm"}
"""What browsers play, and what they call it."""


@dataclass(frozen=True)
class Found:
    """A film that plays. `key` is what it shares with the films of other models: its path without the ending."""

    key: str
    path: Path
    prompt: str
    num_bytes: int
    digest: str


def find_films(folder: Path) -> tuple[list[Found], list[Skipped]]:
    """The films of a folder by their keys, and what of it has to be left out.

    Raises:
        ValueError: there is no such folder, or its table of captions cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"films = {str(folder)!r}: no such folder; the folder of one model's films works")
    told, skipped = _told(folder)
    found: dict[str, Found] = {}
    for path in sorted(_films(folder)):
        name = path.relative_to(folder).as_posix()
        key, prompt = name.removesuffix(path.suffix), told.get(name) or told_by_journal(path)[0] or _of_name(path)
        reason = _unplayable(path)
        if reason is None and not prompt:
            reason = f"has no prompt; write it into {path.stem}.txt beside it"
        if reason is None and key in found:
            reason = f"has the name of {found[key].path.name}"
        if reason is not None:
            skipped.append(Skipped(name, reason))
            continue
        assert prompt
        found[key] = Found(key, path, prompt, path.stat().st_size, digest_of(path))
    return list(found.values()), skipped


def model_name(folder: Path) -> str:
    """What `everreel evaluate` wrote down as the model of a folder's films, or the folder's own name."""
    settings = _json(folder / "settings.json")
    name = settings.get("model") if isinstance(settings, dict) else None
    return name if isinstance(name, str) and name.strip() else folder.resolve().name


def digest_of(path: Path) -> str:
    """What tells a film from any other.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _films(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.suffix.lower() in FILMS and path.is_file()]
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _unplayable(path: Path) -> str | None:
    """Why a film cannot be shown, if it cannot."""
    if path.suffix.lower() not in PLAYABLE:
        return f"browsers do not play {path.suffix}; an MP4 (H.264) works"
    try:
        video = Video(path)
        if not video.num_frames:
            return "has no frames"
        video.frames[0]
    except (ValueError, OSError, av.error.FFmpegError):
        return "cannot be read as a film"
    return None


def _told(folder: Path) -> tuple[dict[str, str], list[Skipped]]:
    """Prompts by file name, of all that tells prompts of many films; what of it tells none."""
    told: dict[str, str] = {}
    skipped = []
    settings, report = _json(folder / "settings.json"), _json(folder / "report.json")
    if isinstance(settings, dict):
        told |= prompts_of(settings)
    if isinstance(report, dict) and isinstance(report.get("films"), list):
        rows = [row for row in report["films"] if isinstance(row, dict)]
        told |= {str(row.get("file")): row["prompt"] for row in rows if isinstance(row.get("prompt"), str)}
    elif report is not None:
        skipped.append(Skipped("report.json", "tells no films with prompts: it is another program's"))
    items, _ = read_source(folder)
    return told | {item.name: item.captions[0] for item in items}, skipped


def _of_name(path: Path) -> str | None:
    """Of `a red fox runs-0.mp4`; a name of one word is none."""
    words = re.sub(r"-\d+$", "", path.stem).strip()
    return words if " " in words else None


def _json(path: Path) -> Any:  # noqa: ANN401 -- whatever a file of that name holds
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
