"""Rated and labelled pairs: films as they were shown, the better first, ties kept, contradictions named."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from everreel.media import FilmWriter
from everreel.train.generate import Way
from everreel.train.motion import rated
from everreel.train.motion.rated import LabelledPairsRecipe, RatedPairsRecipe
from everreel.world.scene import is_held_out
from tests.train.motion.clips import ANYTHING, FOX, write_clips


def line(films, value, rater="anna", prompt="a fox", axis="motion_quality"):
    better, worse = (None, None) if not value else films[::value]
    return {"prompt": prompt, "axis": axis, "films": list(films), "better": better, "worse": worse, "tie": not value,
            "rater": rater, "models": ["a", "b"], "seconds": 2.0}  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Paths of films whose brightness rises by 4 a frame, from another one each."""
    folder, paths = tmp_path_factory.mktemp("films"), {}
    for name, fps, frames in (("a", 24, 12), ("b", 24, 12), ("c", 48, 24), ("d", 12, 6), ("short", 24, 5)):
        paths[name] = str(folder / f"{name}.mp4")
        with FilmWriter(paths[name], 48, 64, fps) as film:
            levels = (24 / fps * 4 * np.arange(frames) + 30 * len(paths)).astype(np.uint8)
            film.append(np.broadcast_to(levels[:, None, None, None], (frames, 48, 64, 3)).copy())
    return paths


@pytest.fixture
def rating(recipe, tmp_path):
    return RatedPairsRecipe(
        preferences=str(tmp_path / "preferences.jsonl"), vae=recipe.vae, frames=3, height=32, width=48, shard_pairs=2,
        dtype=torch.float32,
    )  # fmt: skip


def written(rating, lines):
    Path(rating.preferences).write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return rating


def test_ratings_become_pairs_the_better_first(rating, films, tmp_path, capsys):
    a, b, c, short = (films[name] for name in ("a", "b", "c", "short"))
    lines = [
        line((a, b), -1),
        line((a, c), 0),
        line((b, c), 1),
        line((a, short), 1),
        line((a, b), 1, prompt="another"),
        line((a, b), -1, prompt="another"),
        line((a, b), 1, axis="overall"),
        *(line((a, b), 0, "tim", f"prompt {n}") for n in range(6)),
    ]
    store = written(rating, lines).run(tmp_path / "pairs")
    assert [label.facts["films"] for label in store.labels] == [[b, a], [a, c], [b, c]]
    assert [label.tie for label in store.labels] == [False, True, False]
    assert [label.margin for label in store.labels] == [1.0, None, 1.0]
    assert {(label.kind, label.prompt, label.fps_index) for label in store.labels} == {("rating", "a fox", 1)}
    assert len({label.split for label in store.labels}) == 1 and store.pair(0).shape == (2, 16, 3, 4, 6)
    torch.testing.assert_close(store.pair(0)[0], store.pair(2)[0])  # b both times
    said = capsys.readouterr().err
    assert "tim: 6 of 6 answers are ties (100%), at most 90% count" in said
    assert "anna: " in said and "'another' was answered in opposite ways" in said
    assert "lasts 0.21 s, a pair needs 0.38 s" in said and rating.is_done(tmp_path / "pairs")


def test_pairs_are_of_what_was_said_when_they_were_made(rating, films, tmp_path):
    lines = [line((films["a"], films["b"]), 1)]
    written(rating, lines).run(tmp_path / "pairs", quiet=True)
    written(rating, [*lines, line((films["a"], films["c"]), 1)])
    with pytest.raises(ValueError, match="holds pairs made with stamp="):
        rating.run(tmp_path / "pairs", quiet=True)


def test_frames_are_those_that_are_shown_at_the_models_rate(rating, films):
    making = rated._Rating(written(rating, [line((films["c"], films["d"]), 1)]))
    for name, step in (("c", 4.0), ("d", 4.0)):
        frames, _ = making._film(films[name])
        assert frames.shape == (9, 32, 48, 3)
        levels = frames.mean(axis=(1, 2, 3))
        assert levels[8] - levels[0] == pytest.approx(8 * step, abs=3)
    assert np.abs(np.diff(levels)[::2]).max() < 1  # of 12 a second, each is shown twice


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"axis": "motion_quality"}], "line 1 is no preference"),
        ([line(("a", "b"), 1) | {"better": "z"}], "line 1 is no preference.*not its films"),
        ([line(("a", "a"), 0)], "both films are one"),
        ([line(("a", "b"), 1, axis="overall")], "nothing on axis='motion_quality'; it has overall"),
        ([line(("/nowhere/a.mp4", "/nowhere/b.mp4"), 1)], "2 of its 2 films are not there"),
        (
            [line(("a", "b"), 0, prompt=str(n)) for n in range(5)],
            "nothing is left of 5 answers.*5 of 5 answers are ties",
        ),
        ([line(("a", "b"), 1), line(("b", "a"), 1)], "nothing is left of 2 answers.*opposite ways"),
    ],
)
def test_preferences_that_say_nothing_are_refused(rating, tmp_path, lines, said):
    with pytest.raises(ValueError, match=said):
        written(rating, lines).run(tmp_path / "pairs")
    assert not (tmp_path / "pairs" / "shard-00000.jsonl").exists()


def test_bad_values_are_refused(rating):
    for change, said in (({"fps": 30}, "fps=30"), ({"axis": "taste"}, "axis='taste'"), ({"width": 50}, "nearest 48")):
        with pytest.raises(ValueError, match=said):
            replace(rating, **change)


@dataclass(frozen=True)
class Light:
    score: float


def judge(frames, fps, scene):
    assert frames.dtype == np.uint8 and fps == 24 and scene.subject
    return Light(float(frames.mean()))


def prefer(one, other):
    gap = one.score - other.score
    return 0 if abs(gap) < 0.2 else 1 if gap > 0 else -1


def never(one, other):
    return 0


def first(one, other):
    return 1


@pytest.fixture(scope="module")
def labelling(recipe, tiny_folder, tmp_path_factory):
    colors = ("red", "blue", "green", "white", "black", "pink", "gray", "brown", "orange", "yellow", "purple")
    scenes = [replace(FOX, color=color, place=place) for color in colors for place in ("meadow", "beach", "park")]
    scenes = sorted(scenes, key=is_held_out)[-3:]
    assert [is_held_out(scene) for scene in scenes][-1] and not is_held_out(scenes[0])
    stores = write_clips(tmp_path_factory.mktemp("stores"), scenes, recipe.vae)
    return LabelledPairsRecipe(
        stores.latents, 2, judge, prefer, model=str(tiny_folder), films=3, vae=recipe.vae, frames=3, way=Way(2),
        matching=ANYTHING, shard_prompts=1, dtype=torch.float32,
    )  # fmt: skip


def test_a_labeller_compares_all_films_of_a_prompt(labelling, tmp_path):
    store = labelling.run(tmp_path, quiet=True)
    assert len(store) == 6 and labelling.is_done(tmp_path)
    for label in store.labels:
        better, worse = label.facts["scores"]
        assert label.kind == "labeller" and label.margin == pytest.approx(abs(better - worse), abs=1e-3)
        assert label.tie == (label.margin < 0.2) and (label.tie or better > worse)
        assert not is_held_out(rated.LatentStore(labelling.latents).scene(label.facts["clip"]))
    before = (tmp_path / "pairs-00001.npy").read_bytes()
    (tmp_path / "tally-00001.json").unlink()
    labelling.run(tmp_path, quiet=True)
    assert (tmp_path / "pairs-00001.npy").read_bytes() == before


def test_a_labeller_who_sees_nothing_or_the_first_only_is_refused(labelling, tmp_path):
    with pytest.raises(ValueError, match=r"prefer: 6 of 6 pairs are ties .100%., and at most 90% may be"):
        replace(labelling, prefer=never).run(tmp_path / "ties", quiet=True)
    with pytest.raises(ValueError, match="says 1 of two films and 1 of them turned round"):
        replace(labelling, prefer=first).run(tmp_path / "first", quiet=True)
    with pytest.raises(ValueError, match="films=1"):
        replace(labelling, films=1)
    with pytest.raises(ValueError, match="holds pairs made with prefer="):
        replace(labelling, prefer=prefer).run(tmp_path / "ties", quiet=True)
