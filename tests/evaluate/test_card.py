"""The model card: figures from files and reports, goals that are missed, and what nobody recorded."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from everreel.checkpoint.catalog import find_model
from everreel.checkpoint.load import load_text_encoder, load_transformer, load_vae
from everreel.evaluate.card import RECIPES, critic_accuracy, model_card, num_parameters
from everreel.evaluate.facts import FILE, gather, read_facts
from everreel.evaluate.follow import Answer, FilmAnswers, Report
from everreel.evaluate.prompts import held_out_prompts

SETTINGS = {
    "model": "tiny", "weights": "0", "num_frames": 97, "fps": 24, "height": 96, "width": 160,
    "num_inference_steps": 30, "guidance_scale": 5.0, "shift": 8.0, "seed": 0, "num_films": 4,
}  # fmt: skip


def report(wrong=()):
    films = []
    for number, prompt in enumerate(held_out_prompts(4)):
        answers = {name: Answer(word, "?" if name in wrong else word, 0.5) for name, word in prompt.asked.items()}
        films.append(FilmAnswers(f"film-{number:03d}.mp4", prompt.text, number, asdict(prompt.scene), answers))
    return Report(SETTINGS, tuple(films))


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def critic(tmp_path):
    folder = tmp_path / "critic"
    folder.mkdir()
    return folder


def test_a_missed_goal_is_called_missed(folder, critic):
    card = model_card(find_model(folder), report(wrong=("color",)), critic, "films.png")
    assert "| colour | 0 of 4 | 0% | 0% to 49% | 80% | **missed** |" in card
    assert "| subject | 4 of 4 | 100% | 51% to 100% | 80% | met |" in card
    assert "\nMissed: colour.\n" in card and "color: " in card
    assert "](films.png)" in card
    assert all(len(line) <= 120 for line in card.splitlines() if not line.startswith("|"))
    assert not any(line.endswith(" ") for line in card.splitlines())
    assert "Every goal is met." in model_card(find_model(folder), report(), critic)


def test_sizes_are_counted(folder, critic):
    card = model_card(find_model(folder), report(), critic)
    for part, load in (("transformer", load_transformer), ("vae", load_vae)):
        count = sum(value.numel() for value in load(folder).state_dict().values())
        assert num_parameters(folder / part) == count
    text = load_text_encoder(folder)
    assert num_parameters(folder / "text_encoder") == sum(p.numel() for p in text.parameters())
    assert "2 layers of width 48, 4 heads" in card and "| the whole folder |" in card


def test_what_is_not_recorded_is_said_to_be_missing(folder, critic):
    card = model_card(replace(find_model(folder), name="tiny"), report(), critic)
    assert f"How many clips there were is not recorded in {FILE}." in card
    assert "the steps and hours of text, vae, diffusion_forcing" in card
    assert "Its decibels on held-out clips are not recorded" in card
    assert "**Critic.** Its accuracy on held-out renders is not recorded" in card
    assert "`make model-card`" in card
    stranger = model_card(find_model(folder), report(), critic)
    assert f"Not recorded: there is no {FILE}" in stranger and "film world" not in stranger


def test_the_figures_of_the_runs_are_told(folder, critic):
    facts = {
        "world": {"films": {"count": 1600, "num_frames": 97, "split": "train"}},
        "vae": [
            {"stage": "narrow", "steps": 4400, "hours": 0.5, "report": {"psnr_clips": 25.0, "psnr_frames": 29.0}},
            {"stage": "wide", "steps": 4600, "hours": 1.0, "report": {"psnr_clips": 30.25, "psnr_frames": 31.5}},
        ],
        "text": [{"stage": "", "steps": 1200, "hours": 0.1, "report": {"said": 0.998, "said/color": 0.9}}],
        "notes": ["It learnt on a Sunday."],
    }
    (folder / FILE).write_text(json.dumps(facts))
    (critic / "report.json").write_text(json.dumps({"accuracy": {"subject": 0.99, "color": 0.955}, "confused": {}}))
    card = model_card(find_model(folder), report(), critic)
    assert "| films | 1,600 | 97 | trained on |" in card
    assert "| 4,400 + 4,600 | 1.5 |" in card
    assert "with 30.2 dB (goal 30 dB: met), single frames 31.5 dB" in card
    assert "least well colour, 90.0%" in card
    assert "goal 97% each: **missed** for colour" in card and "| colour | 95.5% | **missed** |" in card
    assert "the steps and hours of diffusion_forcing" in card
    assert "\nIt learnt on a Sunday.\n" in card


def test_the_critics_figures_are_looked_for_in_its_run_too(critic):
    assert critic_accuracy(critic) == {}
    (critic.parent / "report.json").write_text(json.dumps({"accuracy": {"subject": 0.5}}))
    assert critic_accuracy(critic) == {"subject": 0.5}


def test_a_card_names_every_recipe_of_what_ships():
    others = {
        "ablation_levels",
        "captioner_qwen",
        "captioner_tiny",
        "clip",
        "image_to_video",
        "lora",
        "motion",
        "own_films",
    }
    others |= {"post_training", "smallest", "smallest_post"}
    assert set(RECIPES) | others == {path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.py")}


def test_facts_are_gathered_from_runs(tmp_path):
    (tmp_path / "world" / "films").mkdir(parents=True)
    layout = {"count": 8, "num_frames": 5, "split": "train", "seed": 0}
    (tmp_path / "world" / "films" / "layout.json").write_text(json.dumps(layout))
    stages = (("vae/narrow", 10, {"psnr_clips": 20.0}), ("vae/wide", 30, {"psnr_clips": 31.23456}), ("critic", 5, {}))
    for name, steps, figures in stages:
        (tmp_path / name).mkdir(parents=True)
        lines = [{"step": step, "event": "train", "steps_per_second": 0.01} for step in (steps // 2, steps)]
        lines.append({"step": steps, "event": "sample", "psnr": 1.0})
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99'
        (tmp_path / name / "metrics.jsonl").write_text(text)
        (tmp_path / name / "report.json").write_text(json.dumps({**figures, "accuracy": {"subject": 1.0}}))
    assert gather(tmp_path) == {
        "world": {"films": {"count": 8, "num_frames": 5, "split": "train"}},
        "vae": [
            {"stage": "narrow", "steps": 10, "hours": 0.28, "report": {"psnr_clips": 20.0}},
            {"stage": "wide", "steps": 30, "hours": 0.83, "report": {"psnr_clips": 31.2346}},
        ],
        "critic": [{"stage": "", "steps": 5, "hours": 0.14}],
    }
    assert gather(tmp_path / "nowhere") == {} and read_facts(tmp_path) == {}
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"training\.json: is not JSON"):
        read_facts(tmp_path)
