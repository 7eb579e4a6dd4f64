"""The films that the suite asks for: how many, what they are called, and that a run goes on."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from everreel.checkpoint.catalog import find_model
from everreel.checkpoint.load import load_tokenizer
from everreel.checkpoint.source import find_source
from everreel.evaluate.films import Making
from everreel.evaluate.vbench.films import SuiteFilms, listed_films, seed_of
from everreel.evaluate.vbench.prompts import Prompt
from everreel.evaluate.vbench.runner import find_films
from everreel.media import FilmWriter, Video

MAKING = Making(num_frames=9, height=32, width=48, num_inference_steps=1, guidance_scale=1)
CARS = Prompt("a red car", ("color",), auxiliary={"color": {"color": "red"}})
ALLEY = Prompt("an alley", ("scene", "background_consistency"))
STILL = Prompt("In a still frame, a stop sign", ("temporal_flickering",))


@pytest.fixture(scope="module")
def card(tiny_folder):
    return find_model(tiny_folder)


class Pipe:
    """A model that makes grey films quickly, and can be stopped before one of them."""

    def __init__(self, folder, stop_before=None):
        self.tokenizer, self.made, self.stop_before = load_tokenizer(find_source(folder)), [], stop_before

    def __call__(self, request, *, output):
        assert output.parent.name == "work"  # where the suite does not look
        if len(self.made) == self.stop_before:
            with FilmWriter(output, 32, 48, 24) as writer:  # what a process that was killed leaves
                writer.append(np.zeros((4, 32, 48, 3), np.uint8))
            raise KeyboardInterrupt
        self.made.append(request)
        output.with_name(output.name + ".journal").write_text("a journal")
        with FilmWriter(output, 32, 48, 24) as writer:
            writer.append(np.full((9, 32, 48, 3), request.seed % 251, np.uint8))


def names(folder):
    return sorted(path.name for path in (folder / "videos").iterdir())


def test_five_of_each_and_25_that_stand_still_and_nothing_else_beside_them(card, tiny_folder, tmp_path):
    films, pipe, calls = SuiteFilms(card, [CARS, STILL], MAKING, tmp_path), Pipe(tiny_folder), []
    films.make(pipe, lambda *done: calls.append(done))
    assert calls[0] == (0, 30) and calls[-1] == (30, 30)
    stills = [f"In a still frame, a stop sign-{index}.mp4" for index in range(25)]
    assert names(tmp_path) == sorted([f"a red car-{index}.mp4" for index in range(5)] + stills)
    assert len({request.seed for request in pipe.made}) == 30
    assert json.loads((tmp_path / "prompts.json").read_text()) == [CARS.entry(), STILL.entry()]
    listed = {film.file: film for film in listed_films(tmp_path)}
    assert listed["a red car-3.mp4"].seed == seed_of("a red car", 3) and listed["a red car-3.mp4"].prompt == "a red car"
    wanted = find_films(tmp_path, SimpleNamespace(info=None)).wanted
    assert len(wanted["color"]) == 5 and len(wanted["temporal_flickering"]) == 25 and not wanted["scene"]


def test_a_run_that_was_stopped_goes_on_and_what_is_torn_is_made_again(card, tiny_folder, tmp_path):
    def ask():
        return SuiteFilms(card, [CARS], MAKING, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        ask().make(Pipe(tiny_folder, stop_before=2))
    assert names(tmp_path) == ["a red car-0.mp4", "a red car-1.mp4"]
    with FilmWriter(tmp_path / "videos" / "a red car-1.mp4", 32, 48, 24) as writer:  # copied half
        writer.append(np.zeros((4, 32, 48, 3), np.uint8))
    assert [film.path.name for film in ask().missing()] == [f"a red car-{index}.mp4" for index in (1, 2, 3, 4)]
    pipe = Pipe(tiny_folder)
    ask().make(pipe)
    assert [request.seed for request in pipe.made] == [seed_of("a red car", index) for index in (1, 2, 3, 4)]
    assert not ask().missing() and not list((tmp_path / "work").iterdir())
    ask().make(Pipe(tiny_folder, stop_before=0))  # nothing is left to make


def test_a_film_is_the_same_whatever_else_is_asked_for(card, tmp_path):
    alone = SuiteFilms(card, [CARS], MAKING, tmp_path / "a", seeds=2)
    after = SuiteFilms(card, [STILL, ALLEY, CARS], MAKING, tmp_path / "b")
    seeds = {film.path.name: film.request.seed for film in after.films}
    assert {film.path.name: film.request.seed for film in alone.films}.items() <= seeds.items()
    other = SuiteFilms(card, [CARS], MAKING, tmp_path / "c", seed=1)
    assert all(seeds[film.path.name] != film.request.seed for film in other.films)


def test_dimensions_may_come_one_after_the_other(card, tmp_path):
    both = Prompt("a red car", ("overall_consistency", "aesthetic_quality"))
    SuiteFilms(card, [CARS], MAKING, tmp_path)
    SuiteFilms(card, [replace(both, dimensions=("aesthetic_quality",)), ALLEY], MAKING, tmp_path)
    SuiteFilms(card, [both, CARS], MAKING, tmp_path)
    assert json.loads((tmp_path / "prompts.json").read_text()) == [
        CARS.entry(),
        {"prompt_en": "a red car", "dimension": ["aesthetic_quality"]},
        ALLEY.entry(),
        {"prompt_en": "a red car", "dimension": ["overall_consistency"]},
    ]
    listed = {film.file: film.dimensions for film in listed_films(tmp_path)}
    assert len(listed) == 10
    assert set(listed["a red car-0.mp4"]) == {"color", "aesthetic_quality", "overall_consistency"}


def test_a_long_prompt_makes_the_film_and_the_short_one_names_it(card, tiny_folder, tmp_path):
    long = replace(CARS, long="A glossy red car glides along a coastal road.")
    films, pipe = SuiteFilms(card, [long], MAKING, tmp_path, seeds=1), Pipe(tiny_folder)
    films.make(pipe)
    assert names(tmp_path) == ["a red car-0.mp4"] and pipe.made[0].prompt == long.long
    with pytest.raises(ValueError, match="holds films of other prompts; give another folder"):
        SuiteFilms(card, [CARS], MAKING, tmp_path, seeds=1)


def test_a_prompt_that_no_file_can_be_called_is_told_and_the_suite_knows(card, tmp_path):
    films = SuiteFilms(card, [Prompt("black and/or white", ("color",))], MAKING, tmp_path, seeds=1)
    assert (
        films.films[0].path.name == "black and_or white-0.mp4" and films.films[0].request.prompt == "black and/or white"
    )
    assert len(films.notes) == 1
    assert json.loads((tmp_path / "prompts.json").read_text())[0]["prompt_en"] == "black and_or white"


def test_what_cannot_be_is_refused_before_anything_is_made(card, tiny_folder, i2v_folder, tmp_path):
    films = SuiteFilms(card, [CARS], MAKING, tmp_path / "films", seeds=1)
    films.make(Pipe(tiny_folder))
    with pytest.raises(ValueError, match=r"holds films with num_inference_steps = 1, and this run has 2"):
        SuiteFilms(card, [CARS], replace(MAKING, num_inference_steps=2), tmp_path / "films")
    with pytest.raises(ValueError, match=r"holds films with seed = 0, and this run has 1"):
        SuiteFilms(card, [CARS], MAKING, tmp_path / "films", seed=1)
    for seeds, nearest in ((0, 1), (26, 25)):
        with pytest.raises(ValueError, match=rf"seeds = {seeds}: must lie in 1..25; nearest that works: {nearest}"):
            SuiteFilms(card, [CARS], MAKING, tmp_path / "films", seeds=seeds)
    with pytest.raises(ValueError, match="begins with a picture, and these prompts have none"):
        SuiteFilms(find_model(i2v_folder), [CARS], MAKING, tmp_path / "i2v")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        SuiteFilms(card, [CARS], MAKING, tmp_path / "file")
    endless = SuiteFilms(card, [CARS, Prompt("car " * 2000, ("color",))], MAKING, tmp_path / "endless", seeds=1)
    with pytest.raises(ValueError, match="the model reads at most"):
        endless.make(Pipe(tiny_folder, stop_before=0))
    (tmp_path / "films" / "films.jsonl").write_text("{torn")
    with pytest.raises(ValueError, match=r"films.jsonl: cannot be read"):
        listed_films(tmp_path / "films")


def test_films_of_other_loras_are_not_mixed(card, tiny_folder, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    first, other = [(tmp_path / "a.safetensors", 1.0)], [(tmp_path / "b.safetensors", 1.0)]
    output = tmp_path / "films"
    SuiteFilms(card, [CARS], MAKING, output, seeds=1, loras=first).make(Pipe(tiny_folder))
    assert not SuiteFilms(card, [CARS], MAKING, output, seeds=1, loras=first).missing()
    for loras in ((), other, [(first[0][0], 0.5)], first + other):
        with pytest.raises(ValueError, match=r"holds films with loras = \[\[.*give another folder"):
            SuiteFilms(card, [CARS], MAKING, output, seeds=1, loras=loras)


def test_a_disk_that_knows_no_capitals_is_refused_only_where_it_matters(card, tmp_path):
    pair = [Prompt("A fantasy landscape", ("color",)), Prompt("a fantasy landscape", ("color",))]
    SuiteFilms(card, pair, MAKING, tmp_path / "usual", seeds=1)
    (tmp_path / "blind").mkdir()
    (tmp_path / "blind" / "SETTINGS.json").write_text("{}")  # what such a disk seems to have
    SuiteFilms(card, [CARS], MAKING, tmp_path / "blind", seeds=1)
    with pytest.raises(ValueError, match="does not tell 'A fantasy landscape' from 'a fantasy landscape'"):
        SuiteFilms(card, pair, MAKING, tmp_path / "blind", seeds=1)


def test_a_real_model_makes_them(card, tiny_folder, tmp_path):
    from everreel.film.pipeline import VideoPipeline

    films = SuiteFilms(card, [CARS], MAKING, tmp_path, seeds=1)
    films.make(VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32))
    assert names(tmp_path) == ["a red car-0.mp4"] and not list((tmp_path / "work").iterdir())
    assert Video(films.films[0].path).num_frames == 9 and not films.missing()
