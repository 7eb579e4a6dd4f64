"""The camera-motion expert: signs, each kind of motion before a photograph, and films that tell nothing."""

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.camera_clips import Conditions, make_clip, photograph, through_h264
from benchmarks.camera_motion import name_of
from everreel.caption import camera
from everreel.caption.camera import CameraMotion, Measured, describe_motion
from everreel.caption.depth import travels
from everreel.caption.fit import fit_steps
from everreel.caption.flow import flows
from everreel.caption.runs import captioner_of
from everreel.caption.schema import StructuralCaption
from everreel.media import FrameSource
from everreel.world.scene import CAMERA_MOTIONS

pytest.importorskip("cv2")

SMALL = Conditions(height=96, width=160, fps=16.0, seconds=1.5, rate=0.12)
WORDS = {
    "static": "",
    "pan_left": "the camera pans left",
    "pan_right": "the camera pans right",
    "tilt_up": "the camera tilts up",
    "tilt_down": "the camera tilts down",
    "zoom_in": "the camera zooms in",
    "zoom_out": "the camera zooms out",
    "roll_left": "the camera rolls counter-clockwise",
    "roll_right": "the camera rolls clockwise",
    "handheld": "the handheld camera shakes slightly",
}


def sliding(count: int = 17, right: int = 0, down: int = 0) -> np.ndarray:
    """A window that moves over a photograph by whole pixels a frame."""
    large = photograph("astronaut")
    starts = [(40 + down * n, 120 + right * n) for n in range(count)]
    return np.stack([large[top : top + 96, left : left + 160] for top, left in starts])


@pytest.mark.parametrize("kind", WORDS)
def test_each_kind_before_a_photograph(kind: str) -> None:
    motion = describe_motion(make_clip(kind, "astronaut", 5, SMALL), 16)
    assert name_of(motion) == kind
    assert motion.words() == WORDS[kind]
    assert motion.film_world() in CAMERA_MOTIONS
    assert motion.film_world() == (kind if kind in CAMERA_MOTIONS else "static")


@pytest.mark.parametrize("kind", ["static", "pan_left", "zoom_in", "tilt_down"])
def test_what_real_footage_brings(kind: str) -> None:
    """Grain, a lamp that flickers, something that walks through the frame, and poor H.264."""
    hard = Conditions(96, 160, 24.0, 1.5, rate=0.1, noise=5.0, flicker=0.06, crf=30, walker=True)
    assert name_of(describe_motion(make_clip(kind, "coffee", 2, hard), 24)) == kind


def test_signs_are_those_of_the_camera() -> None:
    right = describe_motion(sliding(right=2), 16)
    assert right.axes == {"tx": 0, "ty": 0, "tz": 0, "roll": 0, "pitch": 0, "yaw": 1}
    assert right.per_second["right"] == pytest.approx(2 * 16 / 160, rel=0.03)
    down = describe_motion(sliding(down=1), 16)
    assert down.axes["pitch"] == -1
    assert down.per_second["up"] == pytest.approx(-16 / 96, rel=0.03)
    back = describe_motion(sliding(right=2)[::-1], 16)
    assert back.axes["yaw"] == -1
    nearer = describe_motion(make_clip("zoom_in", "astronaut", 5, SMALL), 16)  # a zoom counts as going forward
    assert nearer.axes == {"tx": 0, "ty": 0, "tz": 1, "roll": 0, "pitch": 0, "yaw": 0}
    assert (nearer.translation, nearer.zoom, nearer.words()) == ((0, 0, 0), 1, "the camera zooms in")


def test_tiers_of_speed() -> None:
    tiers = {}
    for rate in (0.03, 0.1, 0.35):
        clip = make_clip("pan_right", "chelsea", 1, Conditions(96, 160, 16.0, 1.0, rate=rate))
        motion = describe_motion(clip, 16)
        tiers[rate] = (motion.speed, motion.words())
    assert tiers == {
        0.03: ("slow", "the camera pans right slowly"),
        0.1: ("medium", "the camera pans right"),
        0.35: ("fast", "the camera pans right quickly"),
    }


def test_travelling_is_told_from_turning_where_there_is_depth() -> None:
    asked = Conditions(144, 200, 12.0, 1.2, rate=0.12)
    passes = describe_motion(make_clip("tracking_left", "motorcycle_left", 1, asked), 12)
    turns = describe_motion(make_clip("pan_left", "motorcycle_left", 1, asked), 12)
    assert (passes.kind, passes.translation, passes.rotation) == ("tracking", (-1, 0, 0), (0, 0, 0))
    assert passes.words() == "the camera tracks left"
    assert (turns.kind, turns.translation, turns.rotation) == ("pan", (0, 0, 0), (0, 0, -1))
    assert (passes.film_world(), turns.film_world()) == ("tracking_left", "pan_left")


def test_a_flat_motion_is_called_a_pan() -> None:
    """Without depth and without a lens there is nothing to tell from."""
    steps = fit_steps(flows(sliding(right=2), 16))
    assert travels(steps) < 0.5


def test_a_subject_that_fills_the_middle_is_not_the_camera() -> None:
    frames = sliding(count=25, right=2)
    frames[:, 20:90, 45:115] = sliding(count=25)[:, 20:90, 45:115] // 2 + 60  # stays in the frame
    assert describe_motion(frames, 24).film_world() == "pan_right"


def test_two_motions_at_once_are_both_told() -> None:
    pan = make_clip("pan_right", "astronaut", 5, SMALL)
    growing = [np.ascontiguousarray(frame) for frame in pan]
    import cv2

    for n, frame in enumerate(growing):
        matrix = cv2.getRotationMatrix2D((79.5, 47.5), 0, 1.1 * np.exp(0.1 * n / 16))
        growing[n] = cv2.warpAffine(frame, matrix, (160, 96))
    motion = describe_motion(growing, 16)
    assert (motion.rotation[2], motion.zoom) == (1, 1)
    assert motion.words() == "the camera pans right and zooms in"


def test_a_whip_is_abrupt() -> None:
    still, quick = sliding(count=24), sliding(count=8, right=8)
    frames = np.concatenate([still[:12], quick, np.repeat(quick[-1:], 12, axis=0)])
    motion = describe_motion(frames, 16)
    assert motion.kind == "abrupt"
    assert motion.words() == "the camera pans right abruptly"


def test_a_cut_is_no_motion() -> None:
    one = make_clip("pan_left", "astronaut", 5, SMALL)
    other = make_clip("zoom_in", "rocket", 5, Conditions(96, 160, 16.0, 0.7, rate=0.12))
    motion = describe_motion(np.concatenate([one, other]), 16)
    assert motion.words() == "the camera pans left"
    assert len(motion.cuts) == 1
    assert motion.cuts[0] == pytest.approx(1.5, abs=0.13)


@pytest.mark.parametrize("frames", [np.zeros((0, 48, 64, 3), np.uint8), np.zeros((1, 48, 64, 3), np.uint8)])
def test_fewer_than_two_frames_tell_nothing(frames: np.ndarray) -> None:
    motion = describe_motion(frames, 24)
    assert (motion.kind, motion.words(), motion.film_world(), motion.speed) == ("unknown", "", "static", "")


def test_two_frames_are_enough() -> None:
    motion = describe_motion(sliding(count=2, right=1), 24)
    assert motion.words() == "the camera pans right"
    assert motion.curves["seconds"] == (0.0,)


def test_black_frames_stand_still() -> None:
    black = describe_motion(np.zeros((24, 64, 96, 3), np.uint8), 24)
    assert (black.kind, black.words(), black.cuts) == ("static", "", ())
    noise = np.random.default_rng(0).integers(0, 255, (24, 64, 96, 3), dtype=np.uint8)
    assert describe_motion(noise, 24).words() == ""


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (31, 33), (8, 640), (640, 8)])
def test_any_size(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(1).integers(0, 255, (1, *size, 3), dtype=np.uint8).repeat(9, axis=0)
    motion = describe_motion(frames, 8)
    assert (motion.kind, motion.words()) == ("static", "")


def test_an_iterator_of_any_length_is_read_once() -> None:
    """An hour's frames do not fit in memory; what is kept of a look is some kilobytes."""
    frame = sliding(count=1)[0]
    tracemalloc.start()
    try:
        motion = describe_motion(itertools.repeat(frame, 2000), 24)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert motion.kind == "static"
    assert peak < 16 * 2**20 < 2000 * frame.nbytes


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), 0, "fps = 0: must be positive"),
        (np.zeros((4, 8, 8, 3), np.uint8), float("nan"), "fps = nan"),
        (np.zeros((4, 8, 8, 3), np.float32), 24, "frames = float32"),
        (np.zeros((4, 8, 8), np.uint8), 24, "each must be uint8"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], 24, "first one's size, 8 x 8"),
    ],
)
def test_what_cannot_be_read_is_named(frames: object, fps: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        describe_motion(frames, fps)  # type: ignore[arg-type]


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'everreel\[caption\]'"):
        describe_motion(np.zeros((4, 8, 8, 3), np.uint8), 24)


def test_the_same_film_is_described_the_same() -> None:
    clip = through_h264(make_clip("zoom_out", "rocket", 1, SMALL), 16, 28)
    one, two = describe_motion(clip, 16), describe_motion(iter(clip), 16)
    assert isinstance(one, CameraMotion)
    assert one == two


class Says:
    """A captioner that always says the same of the camera."""

    def __init__(self, words: str) -> None:
        self.words, self.closed = words, False

    def caption(self, frames: FrameSource, fps: float) -> StructuralCaption:
        return StructuralCaption.model_validate_json(
            '{"subjects": [], "shot_type": "other", "shot_angle": "other", "shot_position": "other", '
            f'"camera_motion": "{self.words}", "environment": "a room", "lighting": ""}}'
        )

    def close(self) -> None:
        self.closed = True


def test_a_captioner_is_corrected_where_the_camera_can_be_told() -> None:
    says = Says("the camera rolls")
    expert = Measured(says)
    moving = sliding(right=2)
    corrected = expert.caption(moving, 24)
    assert corrected.camera_motion == describe_motion(moving, 24).words() != ""
    assert corrected.environment == "a room"
    assert expert.motion is not None and expert.motion.axes["yaw"] == 1
    assert expert.caption(moving[:1], 24).camera_motion == "the camera rolls"  # one frame tells nothing
    assert expert.motion.kind == "unknown"
    black = np.zeros((24, 64, 96, 3), np.uint8)
    assert expert.caption(black, 24).camera_motion == ""  # where nothing changes, the camera stands
    expert.close()
    assert says.closed
    assert isinstance(captioner_of("tiny+flow"), Measured)


@pytest.mark.parametrize(
    ("kind", "agreed", "kept"),
    [
        ("pan", 0.41, False),
        ("pan", 0.4, True),
        ("static", 0.5, False),
        ("static", 0.3, True),
        ("handheld", 0.85, False),  # which the film world's network has no word for
        ("handheld", 0.74, True),  # in a close shot the subject is what is followed
        ("abrupt", 0.75, True),
    ],
)
def test_what_was_said_stays_where_the_motion_is_not_sure(
    monkeypatch: pytest.MonkeyPatch, kind: str, agreed: float, kept: bool
) -> None:
    frames = sliding(count=2, right=1)
    motion = replace(describe_motion(frames, 24), kind=kind, agreed=agreed)
    monkeypatch.setattr(camera, "describe_motion", lambda *_: motion)
    told = Measured(Says("the camera zooms out")).caption(frames, 24).camera_motion
    assert told == ("the camera zooms out" if kept else motion.words())
    assert Measured(Says("")).caption(frames, 24).camera_motion == motion.words()  # no word to keep
