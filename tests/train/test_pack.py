"""A model put together from its runs holds what they made, and says what they reported."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from everreel.checkpoint.load import load_text_encoder, load_tokenizer, load_transformer, load_vae
from everreel.checkpoint.lora import Preset
from everreel.checkpoint.lora_files import LORA_FILE, preset_for
from everreel.evaluate.facts import read_facts
from everreel.train.pack import PackRecipe, StudentPackRecipe


@pytest.fixture
def recipe(tiny_folder, tmp_path):
    """The parts of a model as runs leave them, in a folder of runs where one of them reported something."""
    runs = tmp_path / "runs"
    (runs / "text").mkdir(parents=True)
    row = {"step": 7, "event": "train", "loss/text": 0.5, "steps_per_second": 1.0}
    (runs / "text" / "metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (runs / "text" / "report.json").write_text('{"said": 0.75}', encoding="utf-8")
    transformer = load_transformer(tiny_folder)
    save_file(transformer.state_dict(), runs / "transformer.safetensors")
    return PackRecipe(
        config=transformer.config,
        transformer=str(runs / "transformer.safetensors"),
        vae=str(tiny_folder),
        text=str(tiny_folder),
        shift=3.0,
        runs=str(runs),
        notes=("It is a test.",),
        dtype=torch.float32,
    )


def test_the_packed_folder_is_the_model(recipe, tiny_folder, tmp_path):
    folder = tmp_path / "packed"
    recipe.run(folder)
    for load in (load_transformer, load_vae, load_text_encoder):
        found, wanted = load(folder), load(tiny_folder)
        assert found.config == wanted.config
        assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in found.state_dict().items())
    prompt = ["a red fox runs"]
    assert torch.equal(load_tokenizer(folder)(prompt).ids, load_tokenizer(tiny_folder)(prompt).ids)
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert scheduler["flow_shift"] == 3.0
    facts = read_facts(folder)
    assert facts["text"][0]["steps"] == 7 and facts["text"][0]["report"] == {"said": 0.75}
    assert facts["notes"] == ["It is a test."]


def test_a_stage_that_has_not_run_is_named(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"transformer='nowhere\.safetensors': no such file; run its recipe first"):
        dataclasses.replace(recipe, transformer="nowhere.safetensors").run(tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_student_is_packed_with_what_it_says_of_itself(tmp_path):
    path, preset = tmp_path / "student.safetensors", Preset("x", 4, 1.0, 3.0, "euler", streams=True)
    save_file({"a": torch.full((2, 2), 0.1)}, path, {"format": "pt", **preset.metadata()})
    StudentPackRecipe(str(path)).run(tmp_path / "packed")
    packed = tmp_path / "packed" / LORA_FILE
    assert load_file(packed)["a"].dtype == torch.bfloat16
    assert preset_for(packed) == preset


def test_a_student_that_does_not_say_how_it_is_used_is_not_packed(tmp_path):
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="does not say how it is used"):
        StudentPackRecipe(str(tmp_path / "a.safetensors")).run(tmp_path / "packed")
    with pytest.raises(ValueError, match="no such file; run its recipe first"):
        StudentPackRecipe("nowhere.safetensors").run(tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
