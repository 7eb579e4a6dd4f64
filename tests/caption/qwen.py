"""Tiny Qwen2.5-VL and Qwen2.5 models with random weights, in folders as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from everreel.caption.schema import caption_schema

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
SPARE = 23
"""Scores that a model gives beyond the tokens there are, as the released one does."""


def train_tokenizer() -> Any:
    """Bytes and what they commonly make, as Qwen's is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=560, initial_alphabet=alphabet, show_progress=False)
    words = [
        "a red fox runs through a snowy forest, the camera pans right",
        '{"subjects": [{"TYPES": {"type": "Animal"',
    ]
    backend.train_from_iterator([*words * 3, json.dumps(caption_schema())], trainer)
    backend.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def save_captioner(folder: Path, seed: int = 0) -> Path:
    """A Qwen2.5-VL of two layers; its tokenizer, configuration and preprocessor beside it."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = train_tokenizer()
    number = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + SPARE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
            "bos_token_id": None, "eos_token_id": number["<|im_end|>"], "pad_token_id": number["<|endoftext|>"],
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
            "fullatt_block_indexes": [1], "window_size": 112, "tokens_per_second": 2,
        },
        image_token_id=number["<|image_pad|>"], video_token_id=number["<|video_pad|>"],
        vision_start_token_id=number["<|vision_start|>"], vision_end_token_id=number["<|vision_end|>"],
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)  # a fresh one finds all words alike, whatever it is taught
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"min_pixels": 3136, "max_pixels": 12845056, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes))
    return folder


def save_writer(folder: Path) -> Path:
    """A Qwen2.5 that reads words, with a chat template."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer()
    turn = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tokenizer.chat_template = turn + "<|im_start|>assistant\n"
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
