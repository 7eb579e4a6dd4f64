"""The page of long films: what goes by is measured, and goals are met or missed in words."""

import numpy as np
import pytest

from benchmarks import long_video
from benchmarks.long_video import DRAWN, Measured, Setting, draw, page, ranked
from everreel.diffusion.schedule import blockwise
from everreel.evaluate.prompts import held_out_prompts

LENGTH = 97


@pytest.fixture
def read(monkeypatch):
    """A critic that reads everything right as long as a film is bright."""

    def score(critic, films, scenes, fps):
        return {name: float(films[0].mean() > 100) for name in ("subject", "color", "place")}

    monkeypatch.setattr(long_video, "score", score)


def filmed(levels, jump=0):
    """A film in blocks of twenty frames whose brightness follows `levels`, with grain, and a jump at each block."""
    still = np.random.default_rng(0).integers(0, 5, (8, 8, 1))
    grain = np.stack([np.roll(still, frame, axis=1) for frame in range(LENGTH)])
    film = np.clip(levels[:, None, None, None] + grain + np.zeros(3), 0, 255).astype(np.uint8)
    film[17:37] += jump
    film[57:77] += jump
    return np.split(film, range(17, LENGTH, 20))


def measured(blocks):
    found = Measured()
    prompt = held_out_prompts(1)[0]
    long_video._take(found, blocks, blockwise(25, 1, 5, context=5), None, prompt, LENGTH)
    return found


def test_a_film_that_stays_as_it_is_meets_every_goal(read, tmp_path):
    steady, drawing = (measured(filmed(np.full(LENGTH, 120.0))) for _ in range(2))
    assert steady.drift("brightness") < 0.002 and steady.seam == pytest.approx(1, abs=0.1) and steady.kept == 1
    assert steady.pictures[0].shape == (6, 8, 8, 3)
    setting = Setting(num_films=1, num_frames=LENGTH)
    found = {"blockwise": steady, DRAWN: drawing}
    promised = [("killed and resumed", "20 of 20", "19 of 20", "**missed**")]
    text = page([(setting, found)], "blockwise", promised, "python -m benchmarks.long_video")
    assert "a seam index of at most 1.1 met" in text
    assert "blockwise is 1 of 1 at 97 frames." in text and "so it is the default" in text and "processes" not in text
    fading = measured(filmed(np.linspace(140, 60, LENGTH)))
    assert ranked({"fading": fading, "steady": steady, DRAWN: drawing}) == ["steady", "fading"]
    assert "| killed and resumed | 20 of 20 | 19 of 20 | **missed** |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| blockwise")]
    assert row.split("|")[6:9] == [" 100 % ", " 100 % ", " 100 % "]
    draw(tmp_path, setting, found)
    assert all((tmp_path / name).stat().st_size > 500 for name in ("long-video-97.png", "long-video-97-brightness.png"))
    assert "long-video-97.png" in text


def test_a_film_that_fades_and_jumps_misses_them(read):
    fading = measured(filmed(np.linspace(140, 60, LENGTH), jump=20))
    assert fading.drift("brightness") > 1 and fading.seam > 2 and fading.kept == 0
    text = page([(Setting(num_films=1, num_frames=LENGTH), {"blockwise": fading, DRAWN: fading})], "blockwise", [], "x")
    assert text.count("**missed**") == 3
    runs = [
        (
            Setting(num_films=1, num_frames=LENGTH),
            {"other": measured(filmed(np.full(LENGTH, 120.0))), "own": fading, DRAWN: fading},
        )
    ]
    told = " ".join(page(runs, "own", [], "x", processes=2).split())
    assert "own is 2 of 2 at 97 frames." in told and "**another way should be the default**" in told
    assert "in 2 processes side by side" in told


def test_films_are_told_by_prompt_whichever_is_made_first(monkeypatch):
    def done(begin, jobs, processes, threads):
        return (
            (number, {name: Measured(first=[number]) for name in ("blockwise", DRAWN)}) for number in reversed(jobs)
        )

    monkeypatch.setattr(long_video, "done", done)
    found = long_video.run(Setting(num_films=3, ways=("blockwise",)), processes=2)
    assert {name: measured.first for name, measured in found.items()} == {"blockwise": [0, 1, 2], DRAWN: [0, 1, 2]}


def test_every_way_can_be_planned():
    """A way that is misspelt would only be found after hours."""
    from everreel.checkpoint.catalog import find_model
    from everreel.film.plan import make_plan
    from everreel.film.request import make_request

    modes = [
        make_plan(make_request(prompt="x", num_frames=481, num_inference_steps=6, **options), find_model("tiny")).mode
        for options in long_video.WAYS.values()
    ]
    assert [mode.split(" ")[0] for mode in modes] == [*["blockwise"] * 5, *["rolling"] * 5, *["windows"] * 6]
    assert long_video.default_way("tiny") == "rolling, cache, sink of 10, anchored"
