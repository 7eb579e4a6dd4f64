"""Prints: the film world in two inks, a look that no ordinary film of it has.

What a subject or a style LoRA is trained on and measured with: every colour is a mix of a dark and a light ink, by how
bright it was. The one invariant: a print's colours lie on the line between its inks, so that `off_inks` of one is zero
but for rounding, and of any other film how far it is from that look.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Color = tuple[int, int, int]

INKS: Mapping[str, tuple[Color, Color]] = MappingProxyType(
    {
        "sepia": ((46, 26, 14), (250, 236, 206)),
        "cyanotype": ((8, 34, 84), (240, 247, 250)),
    }
)
"""The dark and the light ink of each print."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def check_style(style: str | None) -> None:
    """Raise ValueError where there is no such print; None is the world as it is."""
    if style is not None and style not in INKS:
        raise ValueError(f"style={style!r}: must be None or one of {', '.join(INKS)}")


def printed(frames: npt.NDArray[np.uint8], style: str) -> npt.NDArray[np.uint8]:
    """Frames (..., 3) in the inks of a print."""
    check_style(style)
    dark, light = (np.array(ink, np.float32) for ink in INKS[style])
    luma = (frames @ _LUMA)[..., None] / 255
    inked: npt.NDArray[np.uint8] = np.rint(dark + (light - dark) * luma).astype(np.uint8)
    return inked


def off_inks(frames: npt.NDArray[np.uint8], style: str) -> float:
    """The mean distance of pixels (..., 3), in levels of 0 to 255, from the colours that a print mixes of its inks."""
    check_style(style)
    dark, light = (np.array(ink, np.float32) for ink in INKS[style])
    way = light - dark
    place = ((frames - dark) @ way / (way @ way)).clip(0, 1)
    distance = np.linalg.norm(frames - (dark + place[..., None] * way), axis=-1)
    return float(distance.mean(dtype=np.float64))
