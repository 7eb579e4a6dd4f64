"""The tokenizer and the text encoder: marks, the fields said, and files that transformers reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everreel.data.draws import generator_for
from everreel.data.text import FrozenText
from everreel.train.text import NOT_SAID, TextObjective, TextRecipe, sentences, train_tokenizer
from everreel.train.trainer import TrainerSettings
from everreel.world.scene import VOCABULARY

SETTINGS = TrainerSettings(
    steps=40, learning_rate=1e-2, warmup=5, ema_decay=0.8, sample_every=100, log_every=5, device="cpu"
)
RECIPE = TextRecipe(
    SETTINGS,
    vocab_size=400,
    tokenizer_sentences=800,
    d_model=32,
    num_layers=1,
    num_heads=2,
    d_kv=16,
    d_ff=64,
    batch=16,
    checked_sentences=100,
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text")
    assert RECIPE.run(path, quiet=True).step == 40
    return path


def test_the_loss_falls(run_dir: Path) -> None:
    from everreel.train.progress import read_metrics

    losses = [r["loss/text"] for r in read_metrics(run_dir / "metrics.jsonl") if "loss/text" in r]
    assert losses[-1] < 0.9 * losses[0]
    assert (run_dir / "report.json").exists()


def test_transformers_reads_the_files(run_dir: Path) -> None:
    from transformers import AutoTokenizer, UMT5EncoderModel

    prompt = "A red fox runs right through a snowy forest at dusk, wide shot, camera pans right."
    text = FrozenText.load(run_dir, length=64)
    ids = text.ids([prompt, ""])
    theirs = AutoTokenizer.from_pretrained(run_dir / "tokenizer")
    rows = theirs([prompt, ""], padding="max_length", max_length=64, truncation=True, return_tensors="pt")
    assert torch.equal(rows.input_ids, ids) and torch.equal(rows.attention_mask, (ids != 0).long())
    model = UMT5EncoderModel.from_pretrained(run_dir / "text_encoder").eval()
    embeddings, mask = text.embed(ids)
    with torch.no_grad():
        expected = model(rows.input_ids, attention_mask=rows.attention_mask)[0]
    torch.testing.assert_close(embeddings, expected * mask[..., None], atol=1e-5, rtol=1e-4)


def test_the_tokenizer_keeps_words_and_spells_strange_ones() -> None:
    tokenizer = train_tokenizer((text for text, _ in sentences(500, 0, "tokenizer")), 400)
    backend = tokenizer.backend
    assert [backend.token_to_id(mark) for mark in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    assert backend.get_vocab_size() <= 400
    encoded = backend.encode("A Zebra xylophone #5!")
    assert encoded.ids[-1] == 1 and 2 not in encoded.ids
    assert backend.encode("A RED fox").ids == backend.encode("a red fox").ids
    assert backend.encode("").ids == [1]
    assert 2 in backend.encode("狐").ids
    with pytest.raises(ValueError, match="vocab_size=50"):
        train_tokenizer(["a fox"], 50)


def test_targets_are_what_was_said() -> None:
    tokenizer = train_tokenizer((text for text, _ in sentences(200, 0, "tokenizer")), 300)
    objective = TextObjective.__new__(TextObjective)
    objective.tokenizer, objective.recipe = tokenizer, replace(RECIPE, max_length=96)
    batch = objective.encode([("a red fox", {"subject": "fox", "color": "red"}), ("", {})])
    row = dict(zip(VOCABULARY, batch["targets"][0].tolist(), strict=True))
    assert VOCABULARY["subject"][row.pop("subject") - 1] == "fox"
    assert VOCABULARY["color"][row.pop("color") - 1] == "red"
    assert set(row.values()) == {NOT_SAID} and not batch["targets"][1].any()
    assert batch["ids"].shape == batch["mask"].shape and int(batch["mask"][1].sum()) == 1


def test_batches_are_a_pure_function_of_the_step(run_dir: Path) -> None:
    objective = RECIPE.objective(run_dir)
    first, again = (objective.batch(3, generator_for(0, "batch", 3)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = objective.batch(4, generator_for(0, "batch", 4))
    assert first["ids"].shape != other["ids"].shape or not torch.equal(first["ids"], other["ids"])
