"""Where the subject of a film of the film world is, frame by frame, from its colours and from where such films have it.

The renderer says which pixels of a scene are the subject: those that change when it is left out. From some such films
the colours of subject and scenery are counted (two histograms in CIELAB), and how often each part of the frame is the
subject; together these are a naive Bayes classifier of pixels. The one invariant: nothing is learnt from the film that
is searched, so two films of one scene are searched by the same rule.

Shape suffixes: T frames, H height, W width, C = 3 channels, RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from everreel.evaluate.meters import opencv
from everreel.media import Pixels

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BINS = (16, 32, 32)  # of L, a, b
_SURE = 4.0  # the most that a colour counts, in natural logarithms of odds
_RARE = 1e-5  # a colour that was never counted
_ACROSS, _DOWN = 0.2, 0.06  # shares of width and height by which another film may have its subject elsewhere
_NOWHERE = 0.01
_PART = 0.2  # of the largest piece: a smaller one is not the subject


@dataclass(frozen=True)
class Finder:
    """What was counted: the odds of each colour, and of each place in the frame, as logarithms."""

    colors: Floats
    places_HW: Floats

    @classmethod
    def of(cls, films: Sequence[Pixels], masks: Sequence[Mask]) -> Finder:
        """Count frames T x H x W x 3 of which the subject is known, T x H x W."""
        counts = np.zeros((2, *BINS))
        for frames, known in zip(films, masks, strict=True):
            for frame, mask in zip(frames, known, strict=True):
                flat = _bins(frame)
                for which, of_it in ((0, ~mask), (1, mask)):
                    counts[which] += np.bincount(flat[of_it], minlength=counts[0].size).reshape(BINS)
        shares = [_smooth(count) / max(1.0, count.sum()) + _RARE for count in counts]
        odds = np.clip(np.log(shares[1] / shares[0]), -_SURE, _SURE).ravel()
        often = np.concatenate(list(masks)).mean(0).astype(np.float64)
        height, width = often.shape
        cv2 = opencv()
        spread = cv2.GaussianBlur(
            often, (0, 0), sigmaX=_ACROSS * width, sigmaY=_DOWN * height, borderType=cv2.BORDER_REPLICATE
        )
        share = np.clip(spread, _NOWHERE, 0.9)
        return cls(odds, np.log(share / (1 - share)))

    def mask(self, frame_HWC: Pixels) -> Mask:
        """The pixels of a frame that are the subject; none where nothing looks like it."""
        cv2 = opencv()
        odds = cv2.blur(self.colors[_bins(frame_HWC)], (3, 3)) + self.places_HW
        found = cv2.morphologyEx((odds > 0).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(found)
        if count < 2:
            return np.zeros(found.shape, np.bool_)
        sizes = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
        sizes[0] = 0
        return np.asarray((sizes >= _PART * sizes.max())[labels] & (labels > 0), np.bool_)

    def overlap(self, frames_THWC: Pixels, known_THW: Mask) -> float:
        """How well it finds the subject of a film where that is known: intersection over union, over all frames."""
        both = either = 0
        for frame, known in zip(frames_THWC, known_THW, strict=True):
            found = self.mask(frame)
            both += int((found & known).sum())
            either += int((found | known).sum())
        return both / either if either else 0.0


def _bins(frame_HWC: Pixels) -> npt.NDArray[np.int64]:
    """The bin of the colour histogram for each pixel, H x W."""
    cv2 = opencv()
    lab = cv2.cvtColor(np.ascontiguousarray(frame_HWC), cv2.COLOR_RGB2LAB).astype(np.int64)
    l, a, b = (lab[..., channel] * size // 256 for channel, size in enumerate(BINS))  # noqa: E741 -- CIELAB's names
    return np.asarray((l * BINS[1] + a) * BINS[2] + b, np.int64)


def _smooth(counts: Floats) -> Floats:
    """Counts shared with the bins beside: a film that was made by a model is a shade off."""
    kernel = np.array([0.25, 0.5, 0.25])
    for axis in range(counts.ndim):
        counts = np.apply_along_axis(np.convolve, axis, counts, kernel, "same")
    return counts
