"""The commands for VBench, from prompts to totals."""

import json
import re
import sys
import zipfile

import pytest
import typer
from typer.testing import CliRunner

from everreel.benches import vbench
from everreel.film.pipeline import VideoPipeline
from everreel.media import Video

PROMPTS = [
    {"prompt_en": "a red car", "dimension": ["color"]},
    {"prompt_en": "a green car", "dimension": ["color"]},
    {"prompt_en": "an alley", "dimension": ["scene", "background_consistency"]},
]
SMALL = ("--num-frames", 9, "--height", 32, "--width", 48, "--num-inference-steps", 1, "--guidance-scale", 1)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "vbench.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("vbench/VBench_full_info.json", json.dumps(PROMPTS))
    return path


@pytest.fixture
def call():
    """The commands as `everreel evaluate vbench`; gives back exit code, output, error stream and error."""
    app = typer.Typer()
    app.add_typer(vbench, name="vbench")

    def call(*arguments):
        result = CliRunner().invoke(app, ["vbench", *map(str, arguments)])
        return result.exit_code, result.stdout, result.stderr, result.exception

    return call


def test_films_are_made_measured_and_put_together(call, prompts, tiny_folder, tmp_path):
    folder = tmp_path / "films"
    command = ("films", "--prompts", prompts, "-o", folder, "--model", tiny_folder, *SMALL, "--dtype", "float32")
    some = ("--dimensions", "color, background_consistency", "--num-prompts", 1, "--seeds", 1)
    code, out, err, error = call(*command, *some)
    assert code == 0, (err, error)
    assert "2 films of 2 prompts, 2 of them to be made" in out and "film 2/2" in err
    assert Video(folder / "videos" / "a red car-0.mp4").num_frames == 9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoPipeline, "load", None)  # nothing is missing, so no model is loaded
        assert call(*command, *some)[0] == 0
    code, out, err, error = call("measure", folder)
    assert code == 0 and "temporal_flickering: " in err and "has no films of it" in err and not out
    code, out, err, error = call("measure", folder / "videos")
    assert code == 0 and "temporal_flickering" in out and "films that move are not left out" in out, (err, error)
    results = folder / "videos-measured"
    assert results.is_dir() and not [path for path in (folder / "videos").iterdir() if path.suffix != ".mp4"]
    code, out, err, error = call("score", results)
    assert code == 1 and isinstance(error, ValueError) and "scene, appearance_style" in str(error)
    code, out, err, error = call("score", results, "--partial", "-o", tmp_path / "totals.json")
    assert code == 0 and "Quality of 1 of 16 dimensions" in out and "Total: a half is missing" in out
    code, out, err, error = call("score", results, "--partial", "--beside", "paper")
    assert code == 0 and re.search(r"SkyReels-V2 +83\.9% +84\.7% +80\.8%", out) and "longer prompts" in out
    assert "must be paper" in str(call("score", results, "--partial", "--beside", "papers")[-1])
    record = json.loads((tmp_path / "totals.json").read_text())
    assert record["suite"] == "VBench" and record["total"] is None and len(record["missing"]) == 15


def test_two_models_of_one_folder_of_weights_share_no_folder_of_films(call, prompts, tmp_path, monkeypatch):
    """`tiny-fast` is the weights of `tiny` with a LoRA."""
    monkeypatch.setattr("everreel.benches._make", lambda films, model: None)
    folder = tmp_path / "films"
    command = ("films", "--prompts", prompts, "-o", folder, *SMALL, "--seeds", 1)
    assert call(*command, "--model", "tiny")[0] == 0
    (folder / "videos" / "a red car-0.mp4").touch()
    code, *_, error = call(*command, "--model", "tiny-fast")
    assert code == 1 and "holds films with loras = None, and this run has [['" in str(error)
    assert call(*command, "--model", "tiny")[0] == 0


def test_films_are_made_of_prompts_that_were_made_whole(call, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("everreel.benches._make", lambda films, model: made.append(films.films))
    made, folder = [], tmp_path / "films"
    command = ("films", "--prompts", prompts, "-o", folder, *SMALL, "--seeds", 1, "--enhance")
    code, out, err, error = call(*command)
    assert code == 0, (err, error)
    asked = {film.path.name: film.request.prompt for film in made[0]}
    assert list(asked) == [f"{row['prompt_en']}-0.mp4" for row in PROMPTS]  # the suite knows them by its own words
    assert all("shot" in prompt and len(prompt) > 2 * len(name) for name, prompt in asked.items())
    assert all(f"{name.removesuffix('-0.mp4')}: {prompt}" in out for name, prompt in asked.items())
    (folder / "enhanced.jsonl").write_text((folder / "enhanced.jsonl").read_text().replace("shot", "view"))
    assert call(*command)[0] == 0 and {film.path.name: film.request.prompt for film in made[1]} == {
        name: prompt.replace("shot", "view") for name, prompt in asked.items()
    }
    code, *_, error = call(*command, "--longer", prompts)
    assert code == 1 and "is what --enhance makes of the prompts" in str(error)


def test_the_suite_is_run_and_what_failed_is_told(call, tmp_path):
    (tmp_path / "films").mkdir()
    for prompt in PROMPTS:
        for index in range(5):
            (tmp_path / "films" / f"{prompt['prompt_en']}-{index}.mp4").write_bytes(b"film")
    (tmp_path / "films" / "an alley-3.mp4").unlink()
    package = tmp_path / "packages" / "vbench"
    (package / "launch").mkdir(parents=True)
    (package / "VBench_full_info.json").write_text(json.dumps(PROMPTS))
    (package / "__init__.py").touch()
    (package / "launch" / "__init__.py").touch()
    (package / "launch" / "evaluate.py").write_text(
        "import os, sys\n"
        "out = sys.argv[sys.argv.index('--output_path') + 1]\n"
        "os.makedirs(out)\n"
        "open(out + '/r_eval_results.json', 'w').write('{\"color\": [0.75, []]}')\n"
    )
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    code, out, err, error = call("run", tmp_path / "films", "--vbench", python, "--dimensions", "color,scene")
    assert code == 1 and str(error) == "dimensions: 1 failed (scene); the same command tries them again"
    assert "color is measured" in out and "scene failed: 1 of its 5 films are missing, such as an alley-3.mp4" in err
    results = tmp_path / "films-results"
    assert json.loads((results / "color_eval_results.json").read_text()) == {"color": [0.75, []]}
    code, out, _, error = call("run", tmp_path / "films", "--vbench", python, "--dimensions", "color")
    assert code == 0 and "color was measured before" in out
    code, out, err, error = call("score", results, "--partial")
    assert code == 0 and "75.00%" in out


def test_stopped_says_how_far_it_is(call, prompts, tiny_folder, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoPipeline, "stream", stopped)
    command = ("films", "--prompts", prompts, "-o", tmp_path / "films", "--model", tiny_folder, *SMALL)
    code, _, err, _ = call(*command)
    assert code == 2 and f"stopped: 0 of 15 films are in {tmp_path / 'films'}; go on with the same command" in err


def test_bad_input_is_refused_before_a_model_is_loaded(call, prompts, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(VideoPipeline, "load", None)
    usual = {"--prompts": prompts, "-o": tmp_path / "films", "--model": tiny_folder}
    for options, message in (
        ({"--prompts": tmp_path / "none.json"}, "does not exist"),
        ({"--dimensions": "colour"}, "nearest that works: color"),
        ({"--dimensions": "human_action"}, "these prompts have none of it"),
        ({"--seeds": 0}, "seeds = 0"),
        ({"--num-prompts": 0}, "num_prompts = 0"),
        ({"--longer": prompts}, "must be text in UTF-8"),
        ({"--model": "huge"}, "model = 'huge'"),
    ):
        code, out, _, error = call("films", *(part for pair in (usual | options).items() for part in pair))
        assert code == 1 and isinstance(error, ValueError) and message in str(error) and not out, options
    code, _, _, error = call("score", tmp_path / "none")
    assert code == 1 and "does not exist" in str(error)
    code, _, _, error = call("run", tmp_path, "--vbench", tmp_path / "none")
    assert code == 1 and "python3.10 -m venv vbench" in str(error)
