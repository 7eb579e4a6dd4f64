"""A model put together from its runs holds what they made, and says what they reported."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from everreel.checkpoint.load import load_text_encoder, load_tokenizer, load_transformer, load_vae
from everreel.checkpoint.lora import Lora, Pair, Preset
from everreel.checkpoint.lora_files import LORA_FILE, preset_for, read_lora, write_lora
from everreel.evaluate.facts import read_facts
from everreel.model.config import TransformerConfig
from everreel.train.pack import PackRecipe, StudentPackRecipe

CONFIG = TransformerConfig(dim=32, ffn_dim=64, freq_dim=32, text_dim=24, num_heads=2, num_layers=1)


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


@pytest.mark.parametrize("rank", [None, 2])
def test_a_student_is_packed_with_what_it_says_of_itself(tmp_path, rank):
    path, preset = tmp_path / "student.safetensors", Preset("x", 4, 1.0, 3.0, "euler", streams=True)
    wide = CONFIG.dim
    pair = Pair(torch.randn(4, wide), torch.randn(wide, 4), 8.0)
    write_lora(path, Lora(path, {"blocks.0.self_attn.q": pair}, {}, metadata=preset.metadata()))
    StudentPackRecipe(str(path), CONFIG, rank).run(tmp_path / "packed")
    packed = tmp_path / "packed" / LORA_FILE
    found = read_lora(packed, CONFIG).pairs["blocks.0.self_attn.q"]
    assert found.down.dtype == torch.bfloat16 and len(found.down) == (rank or 4) and found.scale == 2.0
    wanted = pair if rank is None else pair.of_rank(rank)
    assert torch.allclose(found.up.float() @ found.down.float(), wanted.up @ wanted.down, atol=0.1)
    assert preset_for(packed) == preset


def test_a_student_that_does_not_say_how_it_is_used_is_not_packed(tmp_path):
    pair = Pair(torch.zeros(1, CONFIG.dim), torch.zeros(CONFIG.dim, 1), 1.0)
    write_lora(tmp_path / "a.safetensors", Lora(tmp_path, {"blocks.0.self_attn.q": pair}, {}))
    with pytest.raises(ValueError, match="does not say how it is used"):
        StudentPackRecipe(str(tmp_path / "a.safetensors"), CONFIG).run(tmp_path / "packed")
    with pytest.raises(ValueError, match="no such file; run its recipe first"):
        StudentPackRecipe("nowhere.safetensors", CONFIG).run(tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
