"""Clips that show the same: perceptual hashes of frames, and which of those that are alike is kept.

The paper compares embeddings of a copy-detection network; here a hash of 64 bits stands for a frame: the signs of the
low frequencies of a cosine transform about their median (as in Zauner's pHash, 2010). It outlives an encoder, another
size and small changes of light; each frame is hashed whole and without its borders, so a small crop meets its like. The
one invariant: whatever order clips come in, of those that are alike the largest is kept, of equal ones the sharpest,
then the longest, then the first by name; every other names the one that is kept.

Shape suffixes: K frames of a clip, N frames of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from everreel.curate.record import Clip
from everreel.evaluate.meters import opencv
from everreel.media import Pixels

HASHES_A_SECOND, MOST_HASHES, FEWEST_HASHES = 2.0, 16, 3
BORDER = 0.06
"""Of each side, which the second hash leaves out."""
MATCHED = 0.6
"""The share of the frames of the shorter clip that have to be alike."""
_SIDE, _LOW = 32, 8
_BLOCK = 4096  # frames that are compared with one clip at a time
Hashes = npt.NDArray[np.uint64]


def hash_places(first: int, frames: int, fps: float) -> list[int]:
    """The frames of a clip that are hashed: two a second, so that a clip that begins later meets them too."""
    stride = max(1, round(fps / HASHES_A_SECOND), -(-frames // MOST_HASHES))
    stride = min(stride, max(1, frames // FEWEST_HASHES))
    return list(range(first + min(stride // 2, frames - 1), first + frames, stride))[:MOST_HASHES]


def hash_of(frame_HWC: Pixels) -> str:
    """A frame's hash, whole and without its borders: 16 and 16 hexadecimal digits."""
    gray = opencv().cvtColor(np.ascontiguousarray(frame_HWC), opencv().COLOR_RGB2GRAY)
    rows, columns = round(BORDER * gray.shape[0]), round(BORDER * gray.shape[1])
    inside = gray[rows : gray.shape[0] - rows, columns : gray.shape[1] - columns]
    return _bits(gray) + _bits(inside)


def without_duplicates(clips: Sequence[Clip], most: float | None) -> list[Clip]:
    """The clips in their order; those that are like a better one have its name in `like`.

    Args:
        most: bits of 64 by which two frames that are alike may differ; none takes nothing for a duplicate.
    """
    clips = [replace(clip, like="") for clip in clips]
    if most is None:
        return clips
    order = sorted(range(len(clips)), key=lambda place: _worth(clips[place]))
    kept = _Kept(most)
    for place in order:
        clip = clips[place]
        if not clip.hashes:
            continue
        whole, inside = _read(clip.hashes)
        like = kept.like(whole, inside)
        if like is None:
            kept.add(clip.name, whole, inside)
        else:
            clips[place] = replace(clip, like=like)
    return clips


def distance(one: Clip, other: Clip) -> int:
    """By how many bits frames differ at which so many of the shorter clip's have their like; 64 without hashes."""
    if not one.hashes or not other.hashes:
        return 64
    if len(one.hashes) > len(other.hashes):
        one, other = other, one
    nearest = _bits_apart(*_read(one.hashes), *_read(other.hashes)).min(1)
    return int(np.sort(nearest)[max(0, int(np.ceil(MATCHED * len(nearest))) - 1)])


class _Kept:
    """The hashes of the clips that are kept so far, in one array that grows."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.names: list[str] = []
        self._ends: list[int] = []
        self._whole: Hashes = np.empty(1024, np.uint64)
        self._inside: Hashes = np.empty(1024, np.uint64)

    def like(self, whole_K: Hashes, inside_K: Hashes) -> str | None:
        """The first of the clips that this one is like; those that are better come first."""
        count, best = self._ends[-1] if self._ends else 0, None
        near_N = np.empty((len(whole_K), count), np.bool_)
        for start in range(0, count, _BLOCK):
            part = slice(start, min(count, start + _BLOCK))
            near_N[:, part] = _bits_apart(whole_K, inside_K, self._whole[part], self._inside[part]) <= self.most
        if not near_N.any():
            return None
        starts = np.array([0, *self._ends[:-1]])
        for owner in np.unique(np.searchsorted(self._ends, np.flatnonzero(near_N.any(0)), "right")):
            found = near_N[:, starts[owner] : self._ends[owner]]
            share = found.any(1).mean() if len(found) <= found.shape[1] else found.any(0).mean()
            if share >= MATCHED:
                best = self.names[owner]
                break
        return best

    def add(self, name: str, whole_K: Hashes, inside_K: Hashes) -> None:
        """One more that is kept."""
        count = self._ends[-1] if self._ends else 0
        if (needed := count + len(whole_K)) > len(self._whole):
            more = np.empty(max(needed, len(self._whole)), np.uint64)
            self._whole, self._inside = np.concatenate([self._whole, more]), np.concatenate([self._inside, more])
        self._whole[count:needed], self._inside[count:needed] = whole_K, inside_K
        self._ends.append(needed)
        self.names.append(name)


def _worth(clip: Clip) -> tuple[float, float, float, str]:
    """The best first."""
    area = clip.crop.width * clip.crop.height if clip.crop else clip.width * clip.height
    return -area, -clip.measures.get("sharpness", 0.0), -clip.seconds, clip.name


def _bits_apart(whole_K: Hashes, inside_K: Hashes, whole_N: Hashes, inside_N: Hashes) -> npt.NDArray[np.uint8]:
    """How many bits differ, (K, N): of both frames whole, or of one whole and the other without its borders."""
    pairs = ((whole_K, whole_N), (whole_K, inside_N), (inside_K, whole_N))
    found: npt.NDArray[np.uint8] = np.bitwise_count(pairs[0][0][:, None] ^ pairs[0][1][None])
    for one, other in pairs[1:]:
        found = np.minimum(found, np.bitwise_count(one[:, None] ^ other[None]))
    return found


def _read(hashes: Sequence[str]) -> tuple[Hashes, Hashes]:
    numbers = np.array([[int(text[:16], 16), int(text[16:], 16)] for text in hashes], np.uint64)
    return numbers[:, 0], numbers[:, 1]


def _bits(gray_HW: Pixels) -> str:
    cv2 = opencv()
    small = cv2.resize(np.ascontiguousarray(gray_HW), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:_LOW, :_LOW].ravel()
    bits = low > np.median(low[1:])  # all but the first, which is the light of the whole
    return f"{int(np.packbits(bits).view('>u8')[0]):016x}"
