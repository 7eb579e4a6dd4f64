"""What is cut off a clip so that nothing lies over its picture, or why it cannot be: section 3.1 of the paper.

The boxes of all frames lie in one mask, and the largest free rectangle is the crop, if it keeps enough of the frame and
of its shape. The one invariant: a crop holds nothing that was found over the picture, its four numbers are even, and it
is told in pixels of the film as it is seen, whatever the size of the frames that were looked at.

Frames are spread over a clip. Shape suffixes: T frames, H rows, W columns, C = 3 channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np

from everreel.curate.bars import picture_in_bars
from everreel.curate.obstructions import (
    LogoFinder,
    Obstruction,
    SteadyLogos,
    TextFinder,
    covered_by,
    overlaid_words,
    share_of_text,
)
from everreel.curate.record import Crop
from everreel.curate.rectangle import CropLimits, Rectangle, aspect_change_of, even, largest_free, share_of
from everreel.film.source import SourceFilm
from everreel.media import _CONVERSION, _LIMITED_RANGE, _REC709, Pixels, check_file

FRAMES = 8
"""So many frames of a clip tell what lies over it."""
_H264 = {"crf": "16", "preset": "fast", "threads": "4"}  # threads change the bytes, so their number is fixed

Outcome = Literal["whole", "crop", "drop"]


@dataclass(frozen=True)
class CropRules:
    """What may be cut off and what may stay.

    `most_text` is how much of the picture words may cover that are not cut off, as a share. The paper measures the crop
    by the frame, with its bars; a wide film in a letterbox then keeps 75 % of it and is dropped. With
    `of_picture` it is measured by what is within the bars.
    """

    limits: CropLimits = field(default_factory=CropLimits)
    most_text: float = 0.05
    of_picture: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.most_text <= 1:
            raise ValueError(f"most_text={self.most_text}: a share lies in 0..1; 0.05 works")


@dataclass(frozen=True)
class Cropping:
    """What becomes of a clip, with the crop where it is cut, the reasons where it is dropped, and the figures."""

    outcome: Outcome
    crop: Crop | None
    reasons: tuple[str, ...]
    measures: Mapping[str, float]
    """`text_share` of the frame, `text_left` in what is kept, `bar_share`, `num_logos`, `crop_share`, `aspect_change`;
    the last two of the largest free rectangle, also where it will not do."""
    obstructions: tuple[Obstruction, ...]
    """In pixels of the frames that were looked at."""


class Cropper:
    """Looks at clips, one after the other, with the same finders and rules."""

    def __init__(self, text: TextFinder, logos: LogoFinder | None = None, rules: CropRules | None = None) -> None:
        self.text, self.logos, self.rules = text, logos or SteadyLogos(), rules or CropRules()

    def __call__(self, frames_THWC: Pixels, height: int, width: int) -> Cropping:
        """What becomes of a clip of a film that is so high and wide; its frames may be smaller.

        Raises:
            ValueError: there is no frame, or a finder is not installed.
        """
        if not len(frames_THWC):
            raise ValueError(f"frames = 0 frames: a crop is found in at least one; {FRAMES} work")
        rows, columns = frames_THWC.shape[1:3]
        lines = [self.text(frame) for frame in frames_THWC]
        words = overlaid_words(frames_THWC, lines)
        covered_HW = covered_by([box for boxes in lines for box in boxes], rows, columns)
        picture = picture_in_bars(frames_THWC, covered_HW)
        logos = [_moved(box, picture) for box in self.logos(frames_THWC[:, *picture.slices])]
        over = (*words, *(Obstruction("logo", box) for box in logos))
        return self._judge((rows, columns), (height, width), picture, over, lines)

    def _judge(
        self,
        seen: tuple[int, int],
        size: tuple[int, int],
        picture: Rectangle,
        over: tuple[Obstruction, ...],
        lines: Sequence[Sequence[Rectangle]],
    ) -> Cropping:
        frame = Rectangle(0, 0, *seen)
        covered_HW = np.ones(seen, np.bool_)
        covered_HW[picture.slices] = False
        covered_HW |= covered_by([found.box for found in over], *seen)
        free = largest_free(covered_HW) if covered_HW.any() else frame
        inner = None if free is None else even(_on_film(free, seen, size))
        of = picture if self.rules.of_picture else frame
        by = of.height * size[0] / seen[0], of.width * size[1] / seen[1]
        share = share_of(inner, *by) if inner else 0.0
        change = aspect_change_of(inner, *by) if inner else math.inf
        left = share_of_text(lines, free) if free else 1.0
        measures = {
            "text_share": share_of_text(lines, frame),
            "text_left": left,
            "bar_share": 1 - picture.area / frame.area,
            "num_logos": float(sum(found.kind == "logo" for found in over)),
            "crop_share": 1.0 if free == frame else share,
            "aspect_change": 0.0 if free == frame else change,
        }
        if reasons := self._reasons(measures):
            return Cropping("drop", None, reasons, measures, over)
        if inner is None or free == frame:
            return Cropping("whole", None, (), measures, over)
        crop = Crop(inner.left, inner.top, inner.width, inner.height)
        return Cropping("crop", crop, (), measures, over)

    def _reasons(self, measures: Mapping[str, float]) -> tuple[str, ...]:
        limits, reasons = self.rules.limits, []
        share, change = measures["crop_share"], measures["aspect_change"]
        what = "picture" if self.rules.of_picture else "frame"
        if share <= limits.least_share:
            reasons.append(f"covered: a crop keeps {share:.0%} of the {what}; more than {limits.least_share:.0%} works")
        elif change > limits.aspect_change:
            reasons.append(
                f"covered: a crop changes the aspect by {change:.0%}; at most {limits.aspect_change:.0%} works"
            )
        if measures["text_left"] > self.rules.most_text and share > 0:
            most = f"at most {self.rules.most_text:.0%} works"
            reasons.append(f"text: words cover {measures['text_left']:.0%} of what could be kept; {most}")
        return tuple(reasons)


def cropped(frame_HWC: Pixels, crop: Crop | None) -> Pixels:
    """A frame of the film as it is seen, cut; without a crop as it is, but for a last odd row or column."""
    if crop is None:
        height, width = frame_HWC.shape[:2]
        return frame_HWC[: height // 2 * 2, : width // 2 * 2]
    return frame_HWC[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def check_crop(crop: Crop, height: int, width: int) -> None:
    """Refuse a crop that is none of a film of this size.

    Raises:
        ValueError: it lies outside, is empty, or has an odd side.
    """
    inside = crop.left >= 0 and crop.top >= 0 and crop.left + crop.width <= width and crop.top + crop.height <= height
    if not inside or min(crop.width, crop.height) < 2 or crop.width % 2 or crop.height % 2:
        rule = f"must have even sides and lie within {width}x{height}"
        nearest = f"{Crop(0, 0, width // 2 * 2, height // 2 * 2)} works"
        raise ValueError(f"crop = {crop}: {rule}; {nearest}")


def write_clip(film: SourceFilm, first: int, frames: int, path: Path, crop: Crop | None = None) -> None:
    """Write `frames` frames of a film from number `first` on as an MP4 (H.264, no sound), cut, at their own times.

    The file appears when it is whole.

    Raises:
        ValueError: the film has no such frames, or the crop is none of it.
    """
    check_file("output", path, "clip.mp4")
    times = film.timeline.shown_at[first : first + frames]
    if frames < 1 or first < 0 or len(times) != frames:
        has = len(film.timeline.shown_at)
        raise ValueError(f"frames = {first} to {first + frames}: {film.path} has {has}; 0 to {has} works")
    if crop is not None:
        check_crop(crop, film.height, film.width)
    part = path.with_name(path.name + ".part")
    try:
        _encode(film, times, part, crop)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _encode(film: SourceFilm, times: Sequence[int], path: Path, crop: Crop | None) -> None:
    tick = film.timeline.tick
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        rate = Fraction(film.fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options=_H264)
        size = cropped(np.empty((film.height, film.width, 1), np.uint8), crop).shape
        stream.height, stream.width, stream.pix_fmt = size[0], size[1], "yuv420p"
        encoder = stream.codec_context
        encoder.time_base = tick
        encoder.color_primaries = encoder.color_trc = encoder.colorspace = _REC709
        encoder.color_range = _LIMITED_RANGE
        for time, frame in zip(times, _frames(film, times, crop), strict=True):
            frame.pts, frame.time_base = time - times[0], tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _frames(film: SourceFilm, times: Sequence[int], crop: Crop | None) -> Iterator[av.VideoFrame]:
    for frame_HWC in film.frames_at(times):
        pixels = np.ascontiguousarray(cropped(frame_HWC, crop))
        yield av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=_REC709, dst_color_range=_LIMITED_RANGE, interpolation=_CONVERSION
        )


def _moved(box: Rectangle, within: Rectangle) -> Rectangle:
    """A box of a part of the frame as one of the frame."""
    return Rectangle(box.top + within.top, box.left + within.left, box.height, box.width)


def _on_film(box: Rectangle, seen: tuple[int, int], size: tuple[int, int]) -> Rectangle:
    """A box of a frame that was made smaller, as one of the film, without pixels that are partly outside."""
    down, across = size[0] / seen[0], size[1] / seen[1]
    top, left = math.ceil(box.top * down - 1e-9), math.ceil(box.left * across - 1e-9)
    bottom, right = int((box.top + box.height) * down + 1e-9), int((box.left + box.width) * across + 1e-9)
    return Rectangle(top, left, max(0, bottom - top), max(0, right - left))
