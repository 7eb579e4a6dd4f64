"""Duplicates: what an encoder, another size and a small crop leave alike, and which of them is kept."""

import itertools

import cv2
import numpy as np

from everreel.curate.dedup import distance, hash_of, hash_places, without_duplicates
from everreel.curate.record import Clip
from tests.curate.clips import moving, scaled


def hashed(name, frames, start=0, **more):
    hashes = tuple(hash_of(frames[place]) for place in hash_places(start, len(frames) - start, 12))
    height, width = frames.shape[1:3]
    return Clip(name, 0, len(frames), 0.0, len(frames) / 12, 12.0, width, height, hashes=hashes, **more)


def jpeg(frames, quality=25):
    encoded = (cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for frame in frames)
    return np.stack([cv2.imdecode(data, cv2.IMREAD_COLOR) for data in encoded])


FILM = moving(seed=0)
BASE = hashed("base", FILM)


def test_copies_are_alike_and_other_films_are_not() -> None:
    copies = {
        "worn": jpeg(FILM),
        "small": scaled(FILM, 60, 100),
        "dark": (FILM * 0.8).astype(np.uint8),
        "cropped": FILM[:, 5:-5, 8:-8],
    }
    for name, frames in copies.items():
        assert distance(BASE, hashed(name, frames)) <= 10, name
    assert distance(BASE, hashed("later", FILM, start=7)) <= 10
    others = [hashed(f"o{seed}", moving(24, seed=seed)) for seed in range(1, 9)]
    assert min(distance(one, other) for one, other in itertools.combinations([BASE, *others], 2)) > 12


def test_the_largest_then_the_sharpest_is_kept_in_any_order() -> None:
    small = hashed("a-small", scaled(FILM, 60, 100))
    worn = hashed("a-worn", jpeg(FILM), measures={"sharpness": 0.2})
    sharp = hashed("z-sharp", FILM, measures={"sharpness": 0.6})
    other = hashed("other", moving(seed=5))
    for order in itertools.permutations([small, worn, sharp, other]):
        likes = {clip.source: clip.like for clip in without_duplicates(order, 10)}
        assert likes == {"a-small": sharp.name, "a-worn": sharp.name, "z-sharp": "", "other": ""}


def test_off_takes_nothing_for_a_duplicate() -> None:
    assert not any(clip.like for clip in without_duplicates([BASE, hashed("copy", FILM)], None))


def test_many_clips_are_compared_in_blocks() -> None:
    draw = np.random.default_rng(0)
    many = []
    for number in range(700):
        hashes = tuple(f"{int(a):016x}{int(b):016x}" for a, b in draw.integers(0, 2**63, (8, 2)))
        many.append(Clip(f"{number:03}", 0, 48, 0, 2, 24.0, 64, 64, hashes=hashes))
    many.append(Clip("zz", 0, 48, 0, 2, 24.0, 64, 64, hashes=many[650].hashes))
    assert [clip.like for clip in without_duplicates(many, 8) if clip.like] == [many[650].name]


def test_places_lie_within_the_clip() -> None:
    for frames in (1, 2, 5, 24, 480, 5000):
        places = hash_places(100, frames, 24)
        assert 1 <= len(places) <= 16 and places[0] >= 100 and places[-1] < 100 + frames
        assert places == sorted(set(places))
