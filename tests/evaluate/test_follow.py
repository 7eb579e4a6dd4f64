"""Films of held-out prompts: made once, taken up where a run stopped, and scored as the critic reads them."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch

from everreel.caption.critic import Critic, CriticConfig, save_critic
from everreel.checkpoint.catalog import find_model
from everreel.cli import main
from everreel.evaluate.films import digest
from everreel.evaluate.follow import FIELDS, GOALS, Evaluation, FilmSettings, Report, measure, wilson
from everreel.evaluate.prompts import held_out_prompts
from everreel.film.pipeline import VideoPipeline
from everreel.media import FilmWriter, Video
from everreel.world.scene import VOCABULARY

SETTINGS = FilmSettings(num_films=3, num_frames=9, height=32, width=48, num_inference_steps=1, guidance_scale=1)


@pytest.fixture(scope="module")
def card(tiny_folder):
    return find_model(tiny_folder)


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def critic_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("critic")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_critic(
            folder,
            Critic(CriticConfig(widths=(4, 8), depths=(1, 2), fine=4, dim=16, num_heads=2, num_layers=1, num_slots=4)),
        )
    return folder


class Stub:
    """A critic that reads every film as it was asked for, but for some fields of some films."""

    def __init__(self, num_films, wrong=()):
        self.prompts, self.wrong, self.number = held_out_prompts(num_films), set(wrong), count()
        self.seen = []

    def __call__(self, frames, fps):
        number = next(self.number)
        self.seen.append(frames)
        answers = {name: dict.fromkeys(words, 0.01) for name, words in VOCABULARY.items()}
        for name, asked in self.prompts[number].asked.items():
            words = VOCABULARY[name]
            other = words[(words.index(asked) + 1) % len(words)]
            answers[name][other if (number, name) in self.wrong else asked] = 0.9
        return answers


def test_known_answers_give_known_figures(card, pipe, tmp_path):
    calls = []
    wrong = {(0, "subject"), (2, "subject"), (1, "color")}
    evaluation = Evaluation(card, SETTINGS, tmp_path)
    report = measure(lambda: pipe, Stub(3, wrong), evaluation, lambda *done: calls.append(done))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    scores = {score.name: score for score in report.fields}
    assert tuple(scores) == FIELDS
    assert (scores["subject"].right, scores["subject"].films, scores["subject"].accuracy) == (1, 3, 1 / 3)
    assert scores["subject"].missed and scores["subject"].interval == wilson(1, 3)
    assert scores["color"].accuracy == 2 / 3 and scores["color"].missed
    assert scores["place"].accuracy == 1 and not scores["place"].missed
    assert all(score.goal == GOALS.get(name) for name, score in scores.items())
    for name, score in scores.items():
        assert score.films == sum(name in prompt.asked for prompt in evaluation.prompts)
    table = report.describe()
    assert "subject              1/3   33%" in table and "80% missed" in table and "80% reached" in table


def test_the_report_holds_all_that_it_is_made_from(card, pipe, tmp_path):
    report = measure(lambda: pipe, Stub(3, {(1, "color")}), Evaluation(card, SETTINGS, tmp_path))
    assert Report.load(tmp_path / "report.json") == report
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["settings"]["num_inference_steps"] == 1 and record["settings"]["shift"] == card.shift
    assert record["fields"]["color"] | {"interval_95": 0} == {
        "right": 2, "films": 3, "accuracy": 0.6667, "interval_95": 0, "goal": 0.8, "missed": True,
    }  # fmt: skip
    color = record["films"][1]["answers"]["color"]
    assert color["probability"] == 0.01
    assert record["confused"] == {f"color: {color['asked']} read as {color['read']}": 1}


def test_a_run_that_was_stopped_goes_on_where_it_was(card, pipe, tmp_path, monkeypatch):
    whole = measure(lambda: pipe, Stub(3), Evaluation(card, SETTINGS, tmp_path / "whole"))
    evaluation = Evaluation(card, SETTINGS, tmp_path / "parts")
    made, stream = [], VideoPipeline.stream

    def counted(self, request, **options):
        made.append(request.seed)
        if len(made) == 2:
            raise KeyboardInterrupt
        return stream(self, request, **options)

    monkeypatch.setattr(VideoPipeline, "stream", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(lambda: pipe, Stub(3), evaluation)
    assert evaluation.missing() == [1, 2]
    # What a process that was killed leaves: a film that plays, but is shorter.
    with FilmWriter(evaluation.path(1), 32, 48, 24) as writer:
        writer.append(np.zeros((4, 32, 48, 3), np.uint8))
    stub = Stub(3)
    assert measure(lambda: pipe, stub, Evaluation(card, SETTINGS, tmp_path / "parts")) == whole
    assert made == [0, 1, 1, 2]
    for number, frames in enumerate(stub.seen):
        assert np.array_equal(frames, Video(tmp_path / "whole" / f"film-{number:03d}.mp4").frames[:])

    def never():
        raise AssertionError("nothing is missing, so no model is loaded")

    assert measure(never, Stub(3), Evaluation(card, SETTINGS, tmp_path / "parts")) == whole
    more = replace(SETTINGS, num_films=4)
    assert Evaluation(card, more, tmp_path / "parts").missing() == [3]
    assert Evaluation(card, SETTINGS, tmp_path / "parts").missing() == []


def test_a_folder_holds_films_of_one_kind(card, tmp_path, monkeypatch):
    evaluation = Evaluation(card, SETTINGS, tmp_path)
    Evaluation(card, replace(SETTINGS, guidance_scale=3), tmp_path)  # no film is there yet
    Evaluation(card, SETTINGS, tmp_path)
    with FilmWriter(evaluation.path(0), 32, 48, 24) as writer:
        writer.append(np.zeros((9, 32, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=r"holds films with guidance_scale = 1.0, and this run has 3.0; give another"):
        Evaluation(card, replace(SETTINGS, guidance_scale=3), tmp_path)
    Evaluation(replace(card, name="another name"), SETTINGS, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("everreel.evaluate.films.digest", lambda folder: "other")
        with pytest.raises(ValueError, match="holds films with weights = "):
            Evaluation(card, SETTINGS, tmp_path)


def test_the_sheet_shows_the_first_films_small(card, tmp_path):
    evaluation = Evaluation(card, replace(SETTINGS, height=96, width=320), tmp_path)
    for number in range(3):
        with FilmWriter(evaluation.path(number), 96, 320, 24) as writer:
            writer.append(np.full((9, 96, 320, 3), 90, np.uint8))
    assert 1000 <= evaluation.sheet().shape[1] <= 1400
    assert evaluation.sheet(1).shape[0] < evaluation.sheet(3).shape[0]


def test_intervals_are_wilsons():
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(64, 64)[1] == 1.0 and wilson(0, 0) == (0.0, 1.0)
    assert math.isclose(wilson(3, 7)[0], 1 - wilson(4, 7)[1])


def run(capsys, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["everreel", "evaluate", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, *capsys.readouterr()


def test_the_command_measures_and_writes_a_card(tiny_folder, critic_folder, tmp_path, capsys, monkeypatch):
    assert FilmSettings().num_frames == 97
    small = partial(FilmSettings, num_frames=9, height=32, width=48)
    monkeypatch.setattr("everreel.evaluate.follow.FilmSettings", small)
    options = ("--num-films", 1, "--num-inference-steps", 1, "--guidance-scale", 1, "--dtype", "float32")
    command = ("--model", tiny_folder, "--critic", critic_folder, "-o", tmp_path / "films", *options)
    code, out, err = run(capsys, *command, "--model-card", tmp_path / "card.md")
    assert code == 0, err
    assert "film 1/1" in err and "95 % interval" in out and f"wrote {tmp_path / 'card.md'}" in out
    assert Video(tmp_path / "films" / "film-000.mp4").num_frames == 9
    record = json.loads((tmp_path / "films" / "report.json").read_text())
    assert record["settings"]["critic"] == digest(critic_folder), "two reports tell whether one critic read both"
    assert {path.name for path in tmp_path.iterdir()} == {"films", "films.png", "card.md"}
    assert (tmp_path / "card.md").read_text().startswith("# Model card: ")
    code, out, err = run(capsys, *command)  # all is there
    assert (code, err) == (0, "") and (tmp_path / "films" / "films.png").is_file()


def test_bad_input_is_one_line_and_two(tiny_folder, critic_folder, tmp_path, capsys, monkeypatch):
    def never(*_, **__):
        raise AssertionError("refused before a model is loaded")

    monkeypatch.setattr(VideoPipeline, "from_pretrained", never)
    (tmp_path / "file").write_text("")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text((critic_folder / "config.json").read_text())
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"not tensors")
    usual = {"--model": tiny_folder, "--critic": critic_folder, "-o": tmp_path / "films", "--num-films": 1}
    for options, message in (
        ({"--critic": tmp_path / "none"}, "there is no config.json; train one with recipes/critic.py"),
        ({"--critic": tmp_path / "torn"}, "its files are not those of a critic"),
        ({"--num-films": 0}, "num_films = 0: must lie in 1..650; nearest that works: 1"),
        ({"--num-films": 9999}, "num_films = 9999: must lie in 1..650; nearest that works: 650"),
        ({"-o": tmp_path / "file"}, f"output = {tmp_path / 'file'}: is a file"),
        ({"-o": tmp_path / "file" / "films"}, f"output = {tmp_path / 'file' / 'films'}: "),
        ({"--seed": -1}, "seed = -1: must be at least 0"),
        ({"--shift": 0}, "shift = 0.0: must be at least 0.01"),
        ({"--model": "huge"}, "model = 'huge'"),
        ({"--model-card": tmp_path}, f"model_card = {tmp_path}: is a folder"),
        ({"--model-card": tmp_path / "no" / "card.md"}, "does not exist; nearest that does"),
    ):
        arguments = [part for pair in (usual | options).items() for part in pair]
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err


def test_stopped_says_how_far_it_is(tiny_folder, critic_folder, tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoPipeline, "stream", stopped)
    command = ("--model", tiny_folder, "--critic", critic_folder, "-o", tmp_path, "--num-films", 2)
    code, _, err = run(capsys, *command)
    assert code == 2 and f"stopped: 0 of 2 films are in {tmp_path}" in err.splitlines()[-1]
