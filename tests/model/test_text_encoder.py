"""The tokenizer and the text encoder: the released encoder's numbers, padding, cleaning, long prompts."""

from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from everreel.checkpoint.keymap import umt5_from_official
from everreel.model.config import TextEncoderConfig
from everreel.model.text_encoder import TextEncoder, Tokenizer, clean_prompt

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "official-umt5.safetensors")


@pytest.fixture(scope="module")
def encoder(golden):
    config = TextEncoderConfig(vocab_size=200, d_model=32, d_kv=8, d_ff=80, num_heads=4, num_layers=3)
    encoder = TextEncoder(config).eval()
    weights = {name[2:]: tensor for name, tensor in golden.items() if name.startswith("w.")}
    state = umt5_from_official(weights)
    encoder.model.load_state_dict({**state, "encoder.embed_tokens.weight": state["shared.weight"]})
    return encoder


@torch.no_grad()
def test_agrees_with_the_released_encoder(golden, encoder):
    context = encoder(golden["ids"], golden["mask"])
    error = (context - golden["context"]).abs().max() / golden["context"].abs().max()
    assert error < 1e-4
    assert (context[golden["mask"] == 0] == 0).all()


@torch.no_grad()
def test_padding_changes_nothing(golden, encoder):
    ids, mask = golden["ids"], golden["mask"]
    pad = torch.nn.functional.pad
    wider = encoder(pad(ids, (0, 44)), pad(mask, (0, 44)))
    assert wider.shape == (2, 64, 32)
    assert torch.allclose(wider[:, :20], encoder(ids, mask), atol=1e-6)
    assert (wider[:, 20:] == 0).all()


@torch.no_grad()
def test_a_row_without_tokens_is_zero(encoder):
    context = encoder(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, dtype=torch.int64))
    assert (context == 0).all()


def word_tokenizer(max_length=512):
    words = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "runs"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return Tokenizer(backend, max_length=max_length)


def test_tokens_end_with_the_end_mark_and_are_padded():
    tokens = word_tokenizer()(["a red  fox\n runs", ""])
    assert tokens.ids.shape == tokens.mask.shape == (2, 512)
    assert tokens.ids[0, :6].tolist() == [3, 4, 5, 6, 1, 0]
    assert tokens.mask.sum(dim=1).tolist() == [5, 1]
    assert tokens.num_dropped == (0, 0)


def test_a_long_prompt_says_what_was_dropped():
    tokens = word_tokenizer(max_length=4)(["a red fox runs a red", "a fox"])
    assert tokens.ids.tolist() == [[3, 4, 5, 1], [3, 5, 1, 0]]
    assert tokens.num_dropped == (3, 0)


def test_the_pad_token_must_exist():
    with pytest.raises(ValueError, match="pad_token = '<none>'"):
        Tokenizer(word_tokenizer().backend, pad_token="<none>")


def test_a_prompt_is_cleaned():
    assert clean_prompt("  a&amp;amp;b \t\n cafÃ© ") == "a&b café"
