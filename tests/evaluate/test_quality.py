"""The measures of any film: each speaks up for its own fault, and says why where it has nothing to measure."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from benchmarks import faults
from everreel.caption.critic import Critic, CriticConfig, look_length, read
from everreel.diffusion.schedule import blockwise
from everreel.evaluate import meters, quality
from everreel.evaluate.drift import DriftMeter, joins_of
from everreel.evaluate.quality import MEASURES, Measure, Quality, QualityMeter, measure_film, text_alignment
from everreel.film.source import SourceFilm
from everreel.world.scene import VOCABULARY
from tests.film.films import cut, natural, write

pytest.importorskip("cv2")


def measured(frames, fps=24.0, pieces=1, joins=None) -> Quality:
    meter = QualityMeter(fps, joins)
    for piece in np.array_split(frames, pieces):
        meter.add(piece)
    return meter.result()


@pytest.fixture(scope="module")
def found() -> dict[str, Quality]:
    """The measures of films made to have a fault, shortened where that changes nothing."""
    return {name: measured(film) for name, film in faults.films().items()}


@pytest.mark.parametrize(
    ("measure", "worse"),
    [
        ("subject_sameness", ["a subject that changes", "fading"]),
        ("background_sameness", ["a cut in the middle", "fading", "blinking"]),
        ("flicker", ["blinking", "grainy", "noise"]),
        ("smoothness", ["shaking", "grainy", "blinking", "noise"]),
        ("largest_jump", ["a cut in the middle", "blinking", "noise"]),
        ("sharpness", ["blurred"]),
        ("liveliness", ["standing still"]),
    ],
)
def test_a_fault_is_worse_than_none(found: dict[str, Quality], measure: str, worse: list[str]) -> None:
    sign = 1 if MEASURES[measure].better == "higher" else -1
    plain = sign * found["plain"].values[measure]
    for name in worse:
        assert sign * found[name].values[measure] < plain - 0.02 * abs(plain), (name, found[name].values)


@pytest.mark.parametrize(
    ("measure", "unmoved"),
    [
        ("subject_sameness", ["shaking", "grainy"]),
        ("background_sameness", ["shaking", "grainy", "a subject that changes"]),
        ("flicker", ["fading", "a cut in the middle", "shaking", "standing still"]),
        ("smoothness", ["fading", "blurred", "a cut in the middle"]),
        ("sharpness", ["shaking", "fading", "standing still"]),
    ],
)
def test_what_is_no_fault_of_its_own_hardly_moves_it(found: dict[str, Quality], measure: str, unmoved: list[str]):
    plain = found["plain"].values[measure]
    for name in unmoved:
        wide = 0.05 if measure == "flicker" else 0.03
        assert found[name].values[measure] == pytest.approx(plain, abs=wide), name


def test_what_stands_still_is_as_same_and_smooth_as_can_be(found: dict[str, Quality]) -> None:
    still = found["standing still"]
    assert still.values["background_sameness"] == pytest.approx(1) and still.values["smoothness"] == 1
    assert still.values["flicker"] == still.values["largest_jump"] == 0
    assert still.values["liveliness"] == pytest.approx(0, abs=0.02)
    assert math.isnan(still.values["subject_sameness"])
    assert still.missing["subject_sameness"] == "nothing moves against the camera"


def test_every_figure_lies_in_its_range(found: dict[str, Quality]) -> None:
    for name, quality_ in found.items():
        assert set(quality_.values) | {"as_asked"} == set(MEASURES)
        for measure, value in quality_.values.items():
            if math.isnan(value):
                assert quality_.missing[measure], (name, measure)
            else:
                assert MEASURES[measure].low <= value <= MEASURES[measure].high, (name, measure)
                assert measure not in quality_.missing


def test_faster_is_livelier_in_short_sides_a_second() -> None:
    slow, fast = (measured(faults.plain(25, camera=speed)).values["liveliness"] for speed in (1, 3))
    assert fast > 1.8 * slow
    film = np.stack([np.roll(faults.plain(1)[0], 2 * number, axis=1) for number in range(25)])
    assert measured(film).values["liveliness"] == pytest.approx(2 * 24 / faults.HEIGHT, rel=0.35)


def test_pieces_and_length_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    film = faults.plain(30)[:, :48, :64]
    assert measured(film, pieces=1).values == pytest.approx(measured(film, pieces=11).values, nan_ok=True)
    meter, sizes = QualityMeter(24), []
    for _ in range(3):
        meter.add(film)
        sizes.append(len(pickle.dumps(meter)))
    assert sizes[2] - sizes[1] < 100, "what is kept of a film does not grow with it"


def test_threads_do_not_matter_and_are_left_as_they_were() -> None:
    import cv2

    film, before = faults.plain(6), cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 3):
            cv2.setNumThreads(threads)
            results.append(measured(film).values)
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert results[0] == pytest.approx(results[1], nan_ok=True, abs=0)


@pytest.mark.parametrize("size", [(33, 47), (17, 16), (90, 16), (501, 403), (5, 7), (1, 1)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    film = np.random.default_rng(0).integers(0, 256, (8, *size, 3), dtype=np.uint8)
    result = measured(film)
    assert (result.height, result.width) == size
    if min(size) < meters.LEAST_SIDE:
        assert math.isnan(result.values["smoothness"]) and "less than 16 pixels" in result.missing["smoothness"]
    else:
        assert 0 < result.values["smoothness"] < 1 and result.values["liveliness"] > 0


def test_few_frames_say_what_they_cannot_tell() -> None:
    film = faults.plain(7)
    one = measured(film[:1])
    assert set(one.missing) == set(one.values) - {"sharpness"} and one.values["sharpness"] > 0
    assert one.missing["smoothness"] == "one frame"
    two = measured(film[:2])
    assert two.missing["smoothness"] == "needs 3 frames" and two.values["largest_jump"] > 0
    assert two.missing["liveliness"] == "needs 4 frames" and two.missing["background_sameness"] == "needs 7 frames"
    seven = measured(film)
    assert seven.values["liveliness"] > 0 and seven.values["background_sameness"] > 0
    black = measured(np.zeros((30, 32, 32, 3), np.uint8))
    assert "one colour" in black.missing["sharpness"] and black.values["smoothness"] == 1
    with pytest.raises(ValueError, match="frames = 0 frames: a film has at least one"):
        QualityMeter(24).result()


def test_drift_is_that_of_the_meter_of_long_films() -> None:
    levels = np.linspace(1, 0.6, 48)[:, None, None, None]
    film = (faults.plain(1)[0][:32, :32] * levels).astype(np.uint8)
    meter = DriftMeter()
    meter.add(film)
    result = measured(film, fps=4)  # at 4 a second, every frame is a look
    for name in ("brightness", "saturation", "contrast"):
        assert result.values[f"{name}_drift"] == pytest.approx(abs(meter.drift(name, 4)), rel=1e-6)
    assert result.values["brightness_drift"] > 1
    assert measured(film, fps=24).missing["brightness_drift"] == "shorter than 8 seconds"
    gray = np.repeat(film[..., :1], 3, axis=-1)
    assert measured(gray, fps=4).missing["saturation_drift"] == "there is no saturation that could drift"


def test_seams_are_those_of_the_meter_of_long_films() -> None:
    schedule = blockwise(10, 1, 4, context=2)
    joins = joins_of(schedule)
    film, level = np.zeros((37, 16, 16, 3), np.uint8), 0
    for frame in range(1, 37):
        level += 6 if frame in joins else 2
        film[frame] = level
    meter = DriftMeter()
    meter.add(film)
    assert measured(film, joins=joins).values["seams"] == pytest.approx(meter.seam_index(schedule)) == pytest.approx(3)
    assert "no journal" in measured(film).missing["seams"]
    assert "do not meet" in measured(film, joins=set()).missing["seams"]


def test_a_film_in_a_file_is_measured_as_it_is_seen(tmp_path) -> None:
    path = write(tmp_path / "film.mp4", natural(12, 32, 48), turn={"degrees": 90})
    result = measure_film(path)
    assert (result.num_frames, result.height, result.width) == (12, 48, 32)
    assert result.missing["as_asked"] == "what was asked of it is not known"
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="is cut off, its end is missing"):
        measure_film(cut(path, len(whole) // 2))
    (tmp_path / "words.mp4").write_text("no film")
    with pytest.raises(ValueError, match=r"video = .*words\.mp4: "):
        measure_film(tmp_path / "words.mp4")


def test_the_journal_of_a_film_tells_where_its_pieces_meet(run, tiny_folder, tmp_path) -> None:
    size = ("--height", 32, "--width", 48, "--num-frames", 29, "--schedule", "blockwise", "--base-num-frames", 17)
    few = ("--num-inference-steps", 1, "--guidance-scale", 1, "--dtype", "float32", "--causal-block-size", 2)
    film = tmp_path / "film.mp4"
    code, _, err = run("generate", "a red fox", "-o", film, "--model", tiny_folder, *size, *few)
    assert code == 0, err
    joins = quality.known_joins(film)
    assert joins and all(frame % 4 == 1 for frame in joins)
    assert measure_film(film).values["seams"] > 0
    (tmp_path / "film.mp4.journal").write_bytes(b"torn")
    assert quality.known_joins(film) is None
    (tmp_path / "film.mp4.journal").unlink()
    assert quality.known_joins(film) is None


class Sure:
    """A critic that is sure of one value a field, and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, frames, fps):
        self.seen.append(frames.shape)
        return {"color": {"red": 0.75, "blue": 0.25}, "place": {"beach": frames.mean() / 255, "city": 0.0}}


def test_what_was_asked_is_weighed_by_the_critic(tmp_path) -> None:
    bright = np.full((10, 32, 48, 3), 204, np.uint8)
    path = write(tmp_path / "bright.mp4", bright)
    reader = Sure()
    result = measure_film(path, {"color": "blue", "place": "beach"}, reader)
    assert result.values["as_asked"] == pytest.approx((0.25 + 0.8) / 2, abs=0.01)
    assert reader.seen == [(10, 32, 48, 3)] and "as_asked" not in result.missing
    with pytest.raises(ValueError, match="asked color = 'green': the critic does not know it"):
        measure_film(path, {"color": "green"}, reader)


def test_a_long_film_is_read_in_three_looks_as_the_critic_would(tmp_path) -> None:
    fps = 6
    path = write(tmp_path / "long.mp4", natural(4 * look_length(fps), 32, 48), fps=fps)
    film, shapes = SourceFilm.open(path), Sure()
    text_alignment(film, {"color": "red"}, shapes)
    assert shapes.seen == [(look_length(fps), 32, 48, 3)] * 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = Critic(
            CriticConfig(widths=(4, 8), depths=(1, 1), fine=0, dim=16, num_heads=2, num_layers=1, num_slots=4)
        )
    whole = read(critic, np.stack(list(film.frames_at(film.timeline.shown_at))), fps)
    asked = {name: values[0] for name, values in VOCABULARY.items()}
    expected = np.mean([whole[name][value] for name, value in asked.items()])
    assert text_alignment(film, asked, lambda frames, rate: read(critic, frames, rate)) == pytest.approx(expected)


def test_bad_frames_and_rates_are_refused() -> None:
    for fps in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be positive; 24 works"):
            QualityMeter(fps)
    meter = QualityMeter(24)
    with pytest.raises(ValueError, match="must be uint8"):
        meter.add(np.zeros((2, 8, 8), np.uint8))
    meter.add(np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="frames = 48x32: those before were of another size"):
        meter.add(np.zeros((2, 32, 48, 3), np.uint8))


def test_a_measure_shows_its_figures() -> None:
    share = Measure("a", "a", "higher", "share", 0, 1, "")
    assert share.show(0.123) == "12.3 %" and share.show(math.nan) == "–"
    assert MEASURES["flicker"].show(1.23456) == "1.235"


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'everreel\[caption\]'"):
        QualityMeter(24)
