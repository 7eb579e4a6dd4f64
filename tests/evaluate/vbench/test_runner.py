"""The suite is run in an environment of its own; here a stand-in of it that fails in all the ways that one can.

The stand-in is a folder with a `bin/python`, which is this python with a package `vbench` of its own: the same modules,
options and files as the suite's, and nothing measured.
"""

import json
import os
import sys
import threading
import time

import pytest

from everreel.evaluate.vbench.results import read_results
from everreel.evaluate.vbench.runner import RunSettings, find_environment, find_films, run_suite

EVALUATE = """
import argparse, json, os, pathlib, signal, sys, time

parser = argparse.ArgumentParser()
for flag in ("--output_path", "--full_json_dir", "--videos_path", "--load_ckpt_from_local"):
    parser.add_argument(flag)
parser.add_argument("--dimension", nargs="+")
args = parser.parse_args()
(dimension,) = args.dimension
here = pathlib.Path(__file__).parents[2]
plans = json.loads((here / "plans.json").read_text())
count = here / f"{dimension}.count"
attempt = int(count.read_text()) if count.is_file() else 0
count.write_text(str(attempt + 1))
plan = (plans.get(dimension) or ["ok"])[attempt:][:1] or ["ok"]
print(f"plan: {plan[0]} {args.load_ckpt_from_local} {'MASTER_PORT' in os.environ} {os.environ.get('RANK')}", flush=True)
os.makedirs(args.output_path, exist_ok=True)
result = pathlib.Path(args.output_path) / "results_2025-01-01-10:00:00_eval_results.json"
names = os.listdir(args.videos_path)
ending = pathlib.Path(names[0]).suffix
found = []
for entry in json.load(open(args.full_json_dir)):
    if dimension in entry["dimension"]:
        found += [f"{entry['prompt_en']}-{i}{ending}" for i in range(5) if f"{entry['prompt_en']}-{i}{ending}" in names]
rows = [{"video_path": name, "video_results": 0.5} for name in found]
(result.parent / "x_full_info.json").write_text("[]")
if plan[0] == "fail":
    sys.exit("RuntimeError: CUDA error: no kernel image is available")
if plan[0] == "garbage":
    result.write_bytes(b"\\xff\\x00{half a fi")
    sys.stdout.buffer.write(b"\\xff\\xfe not text\\n")
elif plan[0] == "nan":
    result.write_text(json.dumps({dimension: [float("nan"), rows]}))
elif plan[0] == "other":
    result.write_text(json.dumps({"Human_Anatomy": [0.5, rows]}))
elif plan[0] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif plan[0] == "slow":
    os.system("sleep 60 & wait")
elif plan[0] != "silent":
    result.write_text(json.dumps({dimension: [0.5, rows]}))
    if plan[0] == "late":
        sys.exit("a fault after the result")
    if plan[0] == "killed late":
        os.kill(os.getpid(), signal.SIGKILL)
    if plan[0] == "slow late":
        os.system("sleep 60 & wait")
"""

FILTER = """
import argparse, pathlib, shutil

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["static_filter"])
    parser.add_argument("--videos_path")
    parser.add_argument("--result_path")
    args = parser.parse_args()
    kept = pathlib.Path(args.result_path) / "filtered_videos"
    kept.mkdir(parents=True)
    still = sorted(pathlib.Path(args.videos_path).glob("In a still frame*"))
    here = pathlib.Path(__file__).parents[2]
    if (here / "nothing_is_still").exists():
        still = []
    for number, path in enumerate(still[:3]):
        shutil.copy(path, kept / f"In a still frame, a sign-{number}.mp4")
"""

INFO = [
    {"prompt_en": "a red car", "dimension": ["color"]},
    {"prompt_en": 'an "alley", 50% $HOME', "dimension": ["scene", "background_consistency"]},
    {"prompt_en": "a person runs", "dimension": ["subject_consistency", "dynamic_degree", "motion_smoothness"]},
    {"prompt_en": "In a still frame, a sign", "dimension": ["temporal_flickering"]},
]


class StandIn:
    def __init__(self, folder):
        self.root, self.packages = folder / "an environment", folder / "packages"
        for name, text in (
            ("vbench/__init__.py", ""),
            ("vbench/VBench_full_info.json", json.dumps(INFO)),
            ("vbench/launch/__init__.py", ""),
            ("vbench/launch/evaluate.py", EVALUATE),
            ("vbench/cli/__init__.py", ""),
            ("vbench/cli/vbench.py", FILTER),
        ):
            path = self.packages / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        python = self.root / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{self.packages}" exec "{sys.executable}" -S "$@"\n')
        python.chmod(0o755)
        self.plan()

    def plan(self, **plans):
        """What happens to each dimension, attempt by attempt; "ok" after that."""
        (self.packages / "plans.json").write_text(json.dumps(plans))
        for path in self.packages.glob("*.count"):
            path.unlink()

    def attempts(self, dimension):
        path = self.packages / f"{dimension}.count"
        return int(path.read_text()) if path.exists() else 0


@pytest.fixture
def stand_in(tmp_path):
    return StandIn(tmp_path)


@pytest.fixture
def films(tmp_path):
    """A folder of films with the suite's names, which nobody opens here."""
    folder = tmp_path / "the films"
    folder.mkdir()
    for entry in INFO:
        for index in range(5):
            (folder / f"{entry['prompt_en']}-{index}.mp4").write_bytes(b"film")
    return folder


def run(stand_in, films, output, *dimensions, on_line=None, **settings):
    environment = find_environment(stand_in.root)
    return run_suite(environment, find_films(films, environment), output, dimensions, RunSettings(**settings), on_line)


def test_dimensions_are_measured_and_kept(stand_in, films, tmp_path):
    lines = []
    first = run(stand_in, films, tmp_path / "out", on_line=lambda *line: lines.append(line))
    names = ["dynamic_degree", "subject_consistency", "background_consistency", "motion_smoothness", "color", "scene"]
    assert first.done == [*names, "temporal_flickering"]  # what fetches the filter's weights first, the filter last
    assert not first.kept and not first.failed
    found = read_results([tmp_path / "out"])
    assert set(found.raw) == set(first.done) and set(found.raw.values()) == {0.5}
    assert found.scores["scene"].num_films == 5 and found.scores["temporal_flickering"].num_films == 3
    assert ("color", "plan: ok None True None") in lines
    assert "plan: ok" in (tmp_path / "out" / "logs" / "color.log").read_text()
    second = run(stand_in, films, tmp_path / "out")
    assert second.kept == first.done and not second.done and stand_in.attempts("color") == 1


def test_every_way_to_fail_is_told_and_the_others_go_on(stand_in, films, tmp_path):
    stand_in.plan(
        color=["fail", "fail"],
        scene=["garbage", "garbage"],
        background_consistency=["killed", "killed"],
        dynamic_degree=["silent", "nan"],
        motion_smoothness=["other", "other"],
        subject_consistency=["fail", "ok"],
    )
    outcome = run(stand_in, films, tmp_path / "out")
    assert outcome.done == ["subject_consistency", "temporal_flickering"]
    failed = outcome.failed
    assert "ended with code 1: RuntimeError: CUDA error" in failed["color"] and "color.log" in failed["color"]
    assert "is no whole JSON file" in failed["scene"]
    assert "was killed by signal 9" in failed["background_consistency"]
    assert "dynamic_degree = nan: must be a number" in failed["dynamic_degree"]
    assert "Human_Anatomy: is one of VBench-2.0" in failed["motion_smoothness"]
    assert stand_in.attempts("color") == 2 and stand_in.attempts("subject_consistency") == 2
    assert set(read_results([tmp_path / "out"]).raw) == set(outcome.done)  # nothing of the others is left to be counted
    again = run(stand_in, films, tmp_path / "out")
    assert again.kept == outcome.done and len(again.done) == 5 and not again.failed


@pytest.mark.parametrize("end", ["late", "killed late", "slow late"])
def test_a_result_that_can_be_read_counts_however_the_process_ended(stand_in, films, tmp_path, end):
    stand_in.plan(color=[end, "fail"])
    outcome = run(stand_in, films, tmp_path / "out", "color", time_limit=5)
    assert outcome.done == ["color"] and not outcome.failed and stand_in.attempts("color") == 1
    assert read_results([tmp_path / "out"]).raw == {"color": 0.5}
    assert run(stand_in, films, tmp_path / "out", "color").kept == ["color"]


def test_a_silent_end_without_a_result_is_no_success(stand_in, films, tmp_path):
    stand_in.plan(color=["silent"])
    outcome = run(stand_in, films, tmp_path / "out", "color", retries=0)
    assert outcome.failed["color"].startswith("it left no result; its last words: plan: silent")


def test_one_that_hangs_is_ended_with_all_that_it_started(stand_in, films, tmp_path):
    stand_in.plan(color=["slow", "slow"])
    begun = time.monotonic()
    outcome = run(stand_in, films, tmp_path / "out", "color", "scene", time_limit=5, retries=0)
    assert outcome.done == ["scene"] and "took longer than 5 s" in outcome.failed["color"]
    assert time.monotonic() - begun < 50


def test_its_words_come_while_it_works_and_a_stop_ends_it(stand_in, films, tmp_path):
    stand_in.plan(color=["slow"])

    def stop(dimension, line):
        if line.startswith("plan: slow"):
            raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(stand_in, films, tmp_path / "out", "scene", "color", on_line=stop)
    assert time.monotonic() - begun < 50 and threading.active_count() < 10
    assert run(stand_in, films, tmp_path / "out", "scene", "color").kept == ["scene"]


def test_other_films_of_the_same_names_are_measured_again(stand_in, films, tmp_path):
    run(stand_in, films, tmp_path / "out", "color", "scene")
    film = films / "a red car-2.mp4"
    film.write_bytes(film.read_bytes()[:-1] + b"!")  # as long as before
    stand_in.plan(color=["fail"])
    outcome = run(stand_in, films, tmp_path / "out", "color", "scene", retries=0)
    assert outcome.kept == ["scene"] and set(outcome.failed) == {"color"}
    assert set(read_results([tmp_path / "out"]).raw) == {"scene"}  # the old result stands for other films
    assert (tmp_path / "out" / "color_eval_results.json.old").is_file()


def test_a_result_that_was_torn_is_measured_again(stand_in, films, tmp_path):
    run(stand_in, films, tmp_path / "out", "color", "scene")
    (tmp_path / "out" / "color_eval_results.json").write_text('{"color": [0.')
    assert run(stand_in, films, tmp_path / "out", "color", "scene").done == ["color"]
    (tmp_path / "out" / "stamps.json").write_text("torn")
    assert set(run(stand_in, films, tmp_path / "out", "color", "scene").done) == {"color", "scene"}


def test_missing_films_are_named_and_not_measured_around(stand_in, films, tmp_path):
    (films / "a red car-1.mp4").unlink()
    outcome = run(stand_in, films, tmp_path / "out", "color", "scene")
    assert outcome.done == ["scene"]
    assert outcome.failed == {"color": "1 of its 5 films are missing, such as a red car-1.mp4"}


def test_films_that_all_move_are_told(stand_in, films, tmp_path):
    (stand_in.packages / "nothing_is_still").touch()
    outcome = run(stand_in, films, tmp_path / "out", "temporal_flickering", retries=0)
    assert "none of its films stands still" in outcome.failed["temporal_flickering"]


def test_weights_may_be_local(stand_in, films, tmp_path):
    lines = []
    run(stand_in, films, tmp_path / "out", "color", local=True, on_line=lambda *line: lines.append(line))
    assert ("color", "plan: ok True True None") in lines


def test_what_is_no_environment_is_refused_with_the_commands_that_make_one(stand_in, tmp_path):
    with pytest.raises(ValueError, match=r"is no environment with a bin/python; .*python3.10 -m venv vbench"):
        find_environment(tmp_path / "none")
    (stand_in.packages / "vbench" / "VBench_full_info.json").unlink()
    with pytest.raises(ValueError, match="has no vbench package"):
        find_environment(stand_in.root)
    (stand_in.packages / "vbench" / "__init__.py").write_text("raise ImportError('numpy is too new')")
    with pytest.raises(ValueError, match=r"has no vbench package \(ImportError: numpy is too new\)"):
        find_environment(stand_in.root / "bin" / "python")
    (stand_in.root / "bin" / "python").write_bytes(b"no program")
    with pytest.raises(ValueError, match="cannot be run"):
        find_environment(stand_in.root / "bin" / "vbench")


def test_what_are_no_films_is_refused(stand_in, films, tmp_path):
    environment = find_environment(stand_in.root)
    for dimensions, message in ((["colour"], "nearest that works: color"), (["human_action"], "make them first")):
        with pytest.raises(ValueError, match=message):
            run_suite(environment, find_films(films, environment), tmp_path / "out", dimensions)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        run_suite(environment, find_films(films, environment), tmp_path / "file")
    (films / "Thumbs.db").touch()
    with pytest.raises(ValueError, match=r"holds Thumbs.db, and must hold nothing but .mp4 files"):
        find_films(films, environment)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is empty"):
        find_films(tmp_path / "empty", environment)
    with pytest.raises(ValueError, match="is no folder"):
        find_films(tmp_path / "none", environment)


def test_variables_of_another_crew_are_not_handed_on(stand_in, films, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    lines = []
    run(stand_in, films, tmp_path / "out", "color", on_line=lambda *line: lines.append(line))
    assert ("color", "plan: ok None True None") in lines
