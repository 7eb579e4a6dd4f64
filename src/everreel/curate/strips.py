"""Clips as people look at them: some frames side by side, in one small JPEG, and what the pages of curation share.

The one invariant: a strip is a function of the film's frames and the clip's place and crop; one that is on the disk is
not made again, and a film that cannot be read any more costs its strip and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from everreel.curate.crop import cropped
from everreel.curate.record import Clip, Crop
from everreel.film.source import SourceFilm
from everreel.media import Pixels

FOLDER, QUALITY = "strips", 72

Find = Callable[[str], Path]
"""Where the film lies that a clip names."""


class Strips:
    """Strips of clips, kept in a folder."""

    def __init__(self, folder: Path, find: Find) -> None:
        self.folder, self.find = folder / FOLDER, find
        self._film: tuple[Path, SourceFilm] | None = None

    def strip(self, clip: Clip, frames: int = 3, width: int = 160, rows: int = 1) -> str:
        """Frames of a clip from its beginning to its end, cut as it is, as a `data:` address; empty if it is gone."""
        return self._kept(
            clip, f"{frames}x{width}/{rows}", lambda: _joined(self._frames(clip, frames), width, clip.crop, rows)
        )

    def outlined(self, clip: Clip, width: int = 320) -> str:
        """The frame in the middle of a clip as it was, with its crop drawn on it."""
        return self._kept(clip, f"outline{width}", lambda: _outlined(self._frames(clip, 1)[0], width, clip.crop))

    def _kept(self, clip: Clip, kind: str, make: Callable[[], Pixels]) -> str:
        path = self.folder / f"{hashlib.sha256(repr((clip.name, clip.crop, kind)).encode()).hexdigest()[:24]}.jpg"
        if not path.is_file():
            try:
                data = _jpeg(make())
            except (ValueError, OSError, av.error.FFmpegError):
                return ""
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(data)
            part.replace(path)
        return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()

    def _frames(self, clip: Clip, count: int) -> list[Pixels]:
        path = self.find(clip.source)
        if self._film is None or self._film[0] != path:
            self._film = path, SourceFilm.open(path)
        times = self._film[1].timeline.shown_at[clip.first : clip.first + clip.frames]
        if not times:
            raise ValueError(f"video = {path}: has no frame {clip.first}; make the run anew")
        shares = np.linspace(0.08, 0.92, count) if count > 1 else np.array([0.5])
        return list(self._film[1].frames_at([times[round(share * (len(times) - 1))] for share in shares]))


def _joined(frames: list[Pixels], width: int, crop: Crop | None, rows: int) -> Pixels:
    small = [_small(cropped(frame, crop), width) for frame in frames]
    cells = [np.pad(frame, ((0, 2), (0, 2), (0, 0)), constant_values=255) for frame in small]
    across = len(cells) // rows
    return np.concatenate([np.concatenate(cells[row * across :][:across], axis=1) for row in range(rows)])[:-2, :-2]


def _outlined(frame_HWC: Pixels, width: int, crop: Crop | None) -> Pixels:
    """What is cut off is dark, and a line goes round what stays."""
    picture = _small(frame_HWC, width)
    if crop is None:
        return picture
    scale = picture.shape[1] / frame_HWC.shape[1]
    left, top = round(crop.left * scale), round(crop.top * scale)
    right, bottom = round((crop.left + crop.width) * scale), round((crop.top + crop.height) * scale)
    dark = picture // 2
    dark[top:bottom, left:right] = picture[top:bottom, left:right]
    image = Image.fromarray(dark)
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), outline=(255, 140, 0), width=2)
    return np.asarray(image)


def _small(frame_HWC: Pixels, width: int) -> Pixels:
    height = frame_HWC.shape[0]
    scale = min(width / frame_HWC.shape[1], width / height)
    size = (max(1, round(frame_HWC.shape[1] * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame_HWC)).resize(size, Image.Resampling.LANCZOS))


def _jpeg(pixels_HWC: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
