"""What lies over a film's pictures: subtitles and other words, logos in the corners, bars around them.

SkyReels-V2 (section 3.1) finds words with an OCR model near the borders, and asks a vision-language model whether the
corners hold a logo. Words are found here by the detector that RapidOCR ships; a logo by what a logo is, edges that stay
while the picture moves, or by any chat model that sees. The one invariant: an obstruction is something that a crop can
take away; words in the midst of a picture, and those that go along with it, are counted and are none.

Frames are spread over a clip. Shape suffixes: T frames, H rows, W columns, C = 3 channels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from everreel.answers import ChatError
from everreel.caption.served import data_uri
from everreel.chat import ChatModel
from everreel.curate.rectangle import Mask, Rectangle
from everreel.evaluate.meters import Floats, one_thread, opencv, reduced
from everreel.media import Pixels

TOP_BAND, FOOT_BAND, SIDE_BAND = 0.2, 0.4, 0.2
"""Where words may be subtitles, as shares of the frame from its border; the paper's."""
CORNER = 0.15
"""How high and how wide a corner is in which a logo may be; the paper's."""
LEAST_FRAMES = 6
"""With fewer, an edge that stays proves nothing."""
TEXT_SIDE = 640
"""Frames are shown to the detector with a longer side of so many pixels."""
_TEXT_MARGIN = 0.1  # of a line's height
_STAYS = 0.6  # likeness of edges in two frames
_LINE_HEIGHT, _LINE_ASPECT = 0.1, 2.5
"""Of the frame, and of its height: what is higher, or not so wide, may be scenery (windows, fences), and is read."""
_READABLE, _READABLE_SHORT, _SHORT = 0.6, 0.9, 4
"""How sure the reader has to be, of words and of fewer letters than this, two at least."""
_LOGO_AREA, _EDGE, _STEADY, _STILL = 360 * 640, 10.0, 1.5, 0.3
_CHANGE, _LIVELY, _FILLED, _ROUND = 4.0, 0.2, 0.1, 0.1
_SMALLEST_LOGO, _LOGO_GAP = 0.04, 0.03  # of the frame's shorter side

Kind = Literal["words", "logo"]


@dataclass(frozen=True)
class Obstruction:
    """A box of the frame that something lies over."""

    kind: Kind
    box: Rectangle


class TextFinder(Protocol):
    """Finds lines of words in a picture, wherever they are."""

    def __call__(self, frame_HWC: Pixels) -> list[Rectangle]:
        """A box around each line."""
        ...


class LogoFinder(Protocol):
    """Finds what stays in the corners of a clip."""

    def __call__(self, frames_THWC: Pixels) -> list[Rectangle]:
        """A box around each logo."""
        ...


class Ocr:
    """The detector of PP-OCRv6 that RapidOCR ships; loaded when the first frame is shown to it.

    Its reader is asked only about what is high or short for a line, for the detector takes drawn scenery for words at
    times. Large words in a script that the reader does not know are missed by that.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._engine: Any = None

    def __call__(self, frame_HWC: Pixels) -> list[Rectangle]:
        """See `TextFinder`; boxes are a little larger than the letters.

        Raises:
            ValueError: RapidOCR is not installed.
        """
        if self._engine is None:
            self._engine = self._load()
        height, width = frame_HWC.shape[:2]
        scale = TEXT_SIDE / max(height, width)
        size = (max(32, round(width * scale)), max(32, round(height * scale)))
        picture = np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BILINEAR))
        found = self._engine(np.ascontiguousarray(picture[..., ::-1]), use_det=True, use_cls=False, use_rec=False)
        if found.boxes is None:
            return []
        corners = np.asarray(found.boxes, np.float64) * (width / size[0], height / size[1])
        boxes = [_around(quad, height, width) for quad in corners]
        return [box for box in boxes if _is_line(box, height) or self._can_read(frame_HWC[box.slices])]

    def _can_read(self, part_HWC: Pixels) -> bool:
        """Whether what looks like words is some."""
        picture = np.ascontiguousarray(part_HWC[..., ::-1])
        found = self._engine(picture, use_det=False, use_cls=False, use_rec=True)
        for text, score in zip(found.txts or (), found.scores or (), strict=True):
            letters = sum(letter.isalnum() for letter in text)
            if letters >= max(2, len(text) / 2) and score > (_READABLE_SHORT if letters < _SHORT else _READABLE):
                return True
        return False

    def _load(self) -> Any:  # noqa: ANN401 -- a class of an optional package
        try:
            from rapidocr import RapidOCR
        except ImportError:
            rule = "words are found with rapidocr and onnxruntime: pip install rapidocr onnxruntime"
            raise ValueError(f"text: {rule}") from None
        threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": self.threads for kind in ("intra", "inter")}
        engine = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Det.limit_type": "max",
                "Det.limit_side_len": TEXT_SIDE,
                **threads,
            }
        )
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        return engine


class SteadyLogos:
    """Finds edges that stay where they are, in the corners of a picture that moves.

    Where most edges of the picture stay, the camera stands still, a logo is nothing special, and none is found.
    """

    def __call__(self, frames_THWC: Pixels) -> list[Rectangle]:
        """See `LogoFinder`; of fewer than `LEAST_FRAMES` frames, none."""
        if len(frames_THWC) < LEAST_FRAMES:
            return []
        cv2 = opencv()
        height, width = frames_THWC.shape[1:3]
        with one_thread():
            small = [reduced(frame, _LOGO_AREA) for frame in frames_THWC]
            gray_THW = np.stack([cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in small])
            found = _Edges.of(gray_THW.astype(np.float32))
            rows, columns = found.steady_HW.shape
            outside_HW = found.any_HW & ~covered_by(corner_boxes(rows, columns), rows, columns)
            if not outside_HW.any() or found.steady_HW[outside_HW].mean() > _STILL:
                return []
            boxes = [box for box in _groups(found.steady_HW) if in_corner(box, rows, columns) and found.is_logo(box)]
        scale = height / rows, width / columns
        return [_scaled(box, scale, height, width) for box in boxes]


class ServedLogos:
    """Asks a chat model that sees which corners of a picture hold a logo; such a corner is covered as a whole."""

    NAMES = ("top_left", "top_right", "bottom_left", "bottom_right")

    def __init__(self, chat: ChatModel) -> None:
        self.chat = chat

    def __call__(self, frames_THWC: Pixels) -> list[Rectangle]:
        """See `LogoFinder`.

        Raises:
            ValueError: no answer can be used.
        """
        frame_HWC = frames_THWC[len(frames_THWC) // 2]
        corners = corner_boxes(*frame_HWC.shape[:2])
        asked = "These are the four corners of a film: top left, top right, bottom left, bottom right. "
        asked += "Which of them hold a logo, a watermark or the mark of a channel that was laid over the film?"
        pictures = [{"type": "image_url", "image_url": {"url": data_uri(frame_HWC[box.slices])}} for box in corners]
        properties = {name: {"type": "boolean"} for name in self.NAMES}
        schema = {
            "type": "object",
            "properties": properties,
            "required": [*self.NAMES],
            "additionalProperties": False,
        }
        question = {"role": "user", "content": [{"type": "text", "text": asked}, *pictures]}
        try:
            answer = json.loads(self.chat.answer([question], schema=schema, max_tokens=200))
            found = [answer[name] for name in self.NAMES]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ChatError(f"logos: the answer is not what was asked for ({error}); another model works") from None
        return [box for box, holds in zip(corners, found, strict=True) if holds is True]


def overlaid_words(frames_THWC: Pixels, boxes_by_frame: Sequence[Sequence[Rectangle]]) -> list[Obstruction]:
    """Of the lines found in each frame, those that were laid over the picture, near its borders.

    A line that was laid over has the same edges in the same place in another frame, while words on things go along with
    the picture. One that is in a frame alone is a subtitle if it is in the middle of the foot and did not come there
    from the side. A clip of one frame shows no difference.
    """
    height, width = frames_THWC.shape[1:3]
    gray_THW = frames_THWC.astype(np.float32).mean(axis=3)
    found: dict[Rectangle, Obstruction] = {}
    for number, boxes in enumerate(boxes_by_frame):
        others = [box for n, more in enumerate(boxes_by_frame) if n != number for box in more]
        for box in boxes:
            if not in_band(box, height, width):
                continue
            alone = _in_middle_of_foot(box, height, width) and not any(_came_by(box, other) for other in others)
            if len(frames_THWC) == 1 or alone or _stays(gray_THW, number, box):
                found[box] = Obstruction("logo" if in_corner(box, height, width) else "words", box)
    return list(found.values())


def share_of_text(boxes_by_frame: Sequence[Sequence[Rectangle]], within: Rectangle) -> float:
    """How much of a part of the frame is words, in the frame that has most of them there."""
    most = 0.0
    for boxes in boxes_by_frame:
        covered_HW = covered_by(boxes, within.top + within.height, within.left + within.width)
        most = max(most, float(covered_HW[within.slices].mean()))
    return most


def covered_by(boxes: Sequence[Rectangle], height: int, width: int) -> Mask:
    """The boxes as a mask of the frame."""
    covered_HW = np.zeros((height, width), np.bool_)
    for box in boxes:
        covered_HW[box.slices] = True
    return covered_HW


def corner_boxes(height: int, width: int) -> list[Rectangle]:
    """The four corners: top left, top right, bottom left, bottom right."""
    rows, columns = max(1, round(height * CORNER)), max(1, round(width * CORNER))
    return [Rectangle(top, left, rows, columns) for top in (0, height - rows) for left in (0, width - columns)]


def in_corner(box: Rectangle, height: int, width: int) -> bool:
    """Whether the middle of a box is in a corner of the frame."""
    y, x = (box.top + box.height / 2) / height, (box.left + box.width / 2) / width
    return min(y, 1 - y) < CORNER and min(x, 1 - x) < CORNER


def in_band(box: Rectangle, height: int, width: int) -> bool:
    """Whether the middle of a box is where subtitles are looked for."""
    y, x = (box.top + box.height / 2) / height, (box.left + box.width / 2) / width
    return y < TOP_BAND or y > 1 - FOOT_BAND or min(x, 1 - x) < SIDE_BAND


def _in_middle_of_foot(box: Rectangle, height: int, width: int) -> bool:
    below = box.top + box.height / 2 > (1 - FOOT_BAND / 2) * height
    return below and abs(box.left + box.width / 2 - width / 2) < 0.05 * width


def _is_line(box: Rectangle, height: int) -> bool:
    return box.height <= _LINE_HEIGHT * height and box.width >= _LINE_ASPECT * box.height


def _stays(gray_THW: Floats, number: int, box: Rectangle) -> bool:
    """Whether the edges in a box of a frame are there in another frame too."""
    if min(box.height, box.width) < 2:
        return False
    here = np.stack(np.gradient(gray_THW[number][box.slices]))
    for other, gray_HW in enumerate(gray_THW):
        if other != number:
            there = np.stack(np.gradient(gray_HW[box.slices]))
            power = float(np.sqrt((here**2).sum() * (there**2).sum()))
            if power > 0 and float((here * there).sum()) / power > _STAYS:
                return True
    return False


def _came_by(one: Rectangle, other: Rectangle) -> bool:
    """Whether a line looks like another that moved to the side."""
    near = 0.25 * max(one.height, other.height)
    rows = abs(one.top - other.top) <= near and abs(one.height - other.height) <= near
    moved = abs(one.left + one.width / 2 - other.left - other.width / 2)
    return rows and abs(one.width - other.width) <= near and moved > near


def _around(quad_42: Floats, height: int, width: int) -> Rectangle:
    """The upright box around four corners, with a margin."""
    (left, top), (right, bottom) = quad_42.min(axis=0), quad_42.max(axis=0)
    margin = _TEXT_MARGIN * (bottom - top)
    top, left = max(0, int(top - margin)), max(0, int(left - margin))
    bottom, right = min(height, int(np.ceil(bottom + margin))), min(width, int(np.ceil(right + margin)))
    return Rectangle(top, left, max(1, bottom - top), max(1, right - left))


@dataclass(frozen=True)
class _Edges:
    """A clip's edges: where there are any, which stay, how they lie, and where something changes."""

    any_HW: Mask
    steady_HW: Mask
    down_HW: Floats
    right_HW: Floats
    """The mean gradients."""
    changes_HW: Mask

    @classmethod
    def of(cls, gray_THW: Floats) -> _Edges:
        down_THW, right_THW = np.gradient(gray_THW, axis=(1, 2))
        down_HW, right_HW = down_THW.mean(axis=0), right_THW.mean(axis=0)
        strength_HW = np.hypot(down_HW, right_HW)
        spread_HW = np.sqrt(((down_THW - down_HW) ** 2 + (right_THW - right_HW) ** 2).mean(axis=0))
        any_HW = np.hypot(down_THW, right_THW).max(axis=0) > _EDGE
        steady_HW = (strength_HW > _EDGE) & (strength_HW > _STEADY * spread_HW)
        return cls(any_HW, steady_HW, down_HW, right_HW, gray_THW.std(axis=0) > _CHANGE)

    def is_logo(self, box: Rectangle) -> bool:
        """Whether steady edges fill a box, lie in all directions (a floor has one), and have change around them."""
        steady_HW = self.steady_HW[box.slices]
        down, right = self.down_HW[box.slices][steady_HW], self.right_HW[box.slices][steady_HW]
        tensor = np.array([[(down**2).sum(), (down * right).sum()], [(down * right).sum(), (right**2).sum()]])
        weak, strong = np.linalg.eigvalsh(tensor)
        near = max(3, box.height // 2)
        rows = slice(max(0, box.top - near), box.top + box.height + near)
        columns = slice(max(0, box.left - near), box.left + box.width + near)
        around_HW = np.zeros_like(self.any_HW)
        around_HW[rows, columns] = True
        around_HW[box.slices] = False
        moves = float(self.changes_HW[around_HW].mean())
        return bool(steady_HW.mean() >= _FILLED and weak >= _ROUND * strong and moves >= _LIVELY)


def _groups(steady_HW: Mask) -> list[Rectangle]:
    """Boxes around edges that are close together, of some size."""
    cv2 = opencv()
    side = min(steady_HW.shape)
    gap, smallest = max(1, round(_LOGO_GAP * side)), max(3, round(_SMALLEST_LOGO * side))
    joined_HW = cv2.dilate(steady_HW.astype(np.uint8), np.ones((2 * gap + 1, 2 * gap + 1), np.uint8))
    count, label_HW = cv2.connectedComponents(joined_HW)
    boxes = []
    for label in range(1, count):
        rows, columns = np.nonzero((label_HW == label) & steady_HW)
        top, left = int(rows.min()), int(columns.min())
        box = Rectangle(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        if min(box.height, box.width) >= smallest and len(rows) >= 2 * smallest:
            boxes.append(box)
    return boxes


def _scaled(box: Rectangle, scale: tuple[float, float], height: int, width: int) -> Rectangle:
    """A box of a smaller frame in the frame itself, with a pixel of the smaller one around it."""
    top, left = int((box.top - 1) * scale[0]), int((box.left - 1) * scale[1])
    bottom = min(height, int(np.ceil((box.top + box.height + 1) * scale[0])))
    right = min(width, int(np.ceil((box.left + box.width + 1) * scale[1])))
    top, left = max(0, top), max(0, left)
    return Rectangle(top, left, bottom - top, right - left)
