"""The ablation of levels: every run is asked the same, and what is not known is said."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import ablation
from benchmarks.ablation import LEVELS, Setting, encoded, losses_of, main, overall, runs_of
from everreel.caption.critic import Critic, CriticConfig, save_critic
from everreel.checkpoint.load import load_transformer
from everreel.data.clips import ClipLabel, shard_writer
from everreel.data.draws import generator_for
from everreel.evaluate.follow import Answer, FilmAnswers, Report
from everreel.film.pipeline import VideoPipeline
from everreel.media import FilmWriter, Video
from everreel.world.scene import sample_scene

RECIPE = """
from everreel.diffusion.noise import LevelMixture
from everreel.model.config import TransformerConfig
from everreel.train.diffusion_forcing import DiffusionForcingRecipe
from everreel.train.trainer import TrainerSettings
stage = DiffusionForcingRecipe(
    settings=TrainerSettings(steps=20), films="none", text={model!r}, vae={model!r}, windows=((1, 0.5), (3, 0.5)),
    tokens=60, config=TransformerConfig(dim=48, ffn_dim=96, freq_dim=32, text_dim=24, num_heads=4, num_layers=2,
                                        inject_sample_info=True),
)
recipe = (("zero", stage), ("fopp", stage), ("never_run", stage))
"""


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """A recipe, two of its three runs, held-out clips and a critic that has learnt nothing."""
    where = tmp_path_factory.mktemp("ablation")
    (where / "levels.py").write_text(RECIPE.format(model=str(tiny_folder)))
    weights = {name: tensor.clone() for name, tensor in load_transformer(tiny_folder).state_dict().items()}
    silent = {name: tensor * (0 if name.startswith("head.head.") else 1) for name, tensor in weights.items()}
    for name, tensors, step in (("zero", silent, 20), ("fopp", weights, 12)):
        (where / "runs" / name).mkdir(parents=True)
        save_file(tensors, where / "runs" / name / "transformer.safetensors")
        line = {"step": step, "event": "train", "loss/transformer": 1.0}
        (where / "runs" / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    generator, pixels = generator_for(0), np.random.default_rng(0)
    (where / "held-out").mkdir()
    labels = [ClipLabel(sample_scene(generator), 24, 0.0) for _ in range(3)]
    with shard_writer(where / "held-out", 0, (3, 17, 32, 48), labels) as clips:
        clips[:] = pixels.integers(0, 256, clips.shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_critic(
            where / "critic",
            Critic(CriticConfig(widths=(4, 8), depths=(1, 1), fine=0, dim=16, num_heads=2, num_layers=1, num_slots=4)),
        )
    return where


def test_a_model_that_says_nothing_has_one_loss_under_all_levels(folder):
    """What it misses does not depend on the noise: so windows and noise are the same, and only levels differ."""
    silent, other, _ = runs_of([folder / "runs"], folder / "levels.py")
    store = encoded(folder / "held-out", silent, folder / "work", "cpu")
    setting = Setting(windows=7)
    found = {kind: losses_of(silent, kind, store, setting) for kind in LEVELS}
    assert len({round(losses["all"], 5) for losses in found.values()}) == 1 and found["equal"]["all"] > 1
    assert len({losses["0.75"] for losses in found.values()}) == 3
    assert losses_of(silent, "equal", store, setting) == found["equal"]
    assert losses_of(other, "equal", store, setting)["all"] != found["equal"]["all"]
    assert set(found["equal"]) == {"all", "0.25", "0.5", "0.75", "1"}


def asked(folder, *more):
    options = {
        "--recipe": folder / "levels.py", "--held-out": folder / "held-out", "--critic": folder / "critic",
        "--work": folder / "work", "--windows": 4, "--films": 2, "--frames": 9, "--long-films": 1, "--seconds": 1,
        "--steps": 1, "--device": "cpu",
    }  # fmt: skip
    return [*map(str, (word for pair in options.items() for word in pair)), "--size", "32", "48", *map(str, more)]


def cells(page):
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_table_holds_what_was_measured_and_names_the_rest(folder, capsys, monkeypatch):
    main([str(folder / "runs"), *asked(folder)])
    page = capsys.readouterr().out
    rows = cells(page)
    assert rows[""] == ["zero", "fopp", "never_run"] and rows["steps"] == ["20", "12", ""]
    wanted = [f"loss, {levels} levels" for levels in ("equal", "independent", "non-decreasing")]
    wanted += ["loss, equal levels, noise to 0.5", "as asked, at once", "as asked, block by block"]
    wanted += ["color, at once", "drift of brightness", "drift of saturation"]
    for name in wanted:
        assert all(rows[name][:2]) and rows[name][2] == "", name
    assert "fopp was stopped at step 12 of 20; no transformer.safetensors of never_run" in page.splitlines()[-1]
    settings = json.loads((folder / "work/fopp/block-by-block/settings.json").read_text())
    assert (settings["schedule"], settings["base_num_frames"], settings["anchor_color"]) == ("blockwise", 9, 0)
    assert json.loads((folder / "work/fopp/at-once/settings.json").read_text())["schedule"] is None
    assert Video(folder / "work/zero/long-25/film-000.mp4").num_frames == 25

    def never(*args, **options):
        raise AssertionError("no film is missing, so no model is loaded")

    monkeypatch.setattr(VideoPipeline, "from_pretrained", never)
    main([str(folder / "runs" / name) for name in ("zero", "fopp")] + asked(folder))
    again = cells(capsys.readouterr().out)
    assert again == {name: row[:2] for name, row in rows.items()}


def test_what_is_left_out_is_said(folder, capsys):
    main([str(folder / "runs/zero"), *asked(folder, "--held-out", folder / "none", "--films", 0, "--long-films", 0)])
    last = capsys.readouterr().out.splitlines()[-1]
    for words in ("the loss, there are no held-out clips", "what the critic reads, of 0 films", "drift, of 0 films"):
        assert words in last


def test_a_folder_without_runs_is_named(folder, capsys):
    with pytest.raises(SystemExit):
        main([str(folder / "held-out"), *asked(folder)])
    assert "no run of levels.py is here; it has zero, fopp, never_run" in capsys.readouterr().err


def test_drift_is_a_share_of_a_minute_whichever_way(tmp_path):
    """Brightness that falls by a tenth in a second goes by some six times itself in a minute."""
    path = tmp_path / "film.mp4"
    with FilmWriter(path, 32, 48, 24) as writer:
        for start in range(0, 73, 24):
            level = np.linspace(150, 105, 73)[start : start + 24].round().astype(np.uint8)
            writer.append(np.broadcast_to(level[:, None, None, None], (len(level), 32, 48, 3)).copy())
    found = ablation.drift_of([path])
    assert found["brightness"][0] == pytest.approx(20 * 45 / 127.5, rel=0.1)


def test_all_fields_of_a_film_count_as_one_share():
    def film(*right):
        answers = {str(n): Answer("a", "a" if hit else "b", 0.5) for n, hit in enumerate(right)}
        return FilmAnswers("", "", 0, {}, answers)

    mean, low, high = overall(Report({}, (film(True, False), film(True, True, True), film(False))))
    assert mean == 0.5 and 0 <= low < mean < high <= 1
    assert overall(Report({}, ())) is None


def test_the_recipe_of_the_ablation_is_understood(tmp_path):
    """Its own stages differ in the mixture of levels, and can all be measured."""
    (tmp_path / "fopp").mkdir()
    runs = runs_of([tmp_path], ablation.RECIPE)
    assert [run.name for run in runs] == ["full", "equal", "independent", "fopp"] and {run.window for run in runs} == {
        9
    }
    assert all(run.recipe.config == runs[0].recipe.config for run in runs)
