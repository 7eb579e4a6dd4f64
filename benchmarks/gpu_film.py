"""A whole short film on a GPU, for `benchmarks.gpu`: text, two steps and decoding, as a pipeline with a budget does it.

The weights are random and made on the device, each part moved to where it belongs at once. The one invariant: where
parts are and in which pieces they work is what `everreel.film.budget.place` says, for a budget and for none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.real_size import fill
from everreel.checkpoint.offload import offload
from everreel.model.config import TextEncoderConfig, TransformerConfig, VAEConfig
from everreel.model.dit import DiT
from everreel.model.vae import CausalVAE

RELEASED = "DF-14B-540P"  # whose settings the film has
STEPS, TOKENS = 2, 60
TEXT = TextEncoderConfig()
SMALL_TEXT = TextEncoderConfig(vocab_size=100, d_kv=8, d_ff=32, num_heads=3, num_layers=2)


def short_film(
    config: TransformerConfig,
    vae_config: VAEConfig,
    film: tuple[int, int, int],
    device: torch.device,
    budget: float | None = None,
) -> Callable[[], Tensor]:
    """Makes the model; what comes back makes the film of so many frames, height and width, and gives its frames.

    Raises:
        ModuleNotFoundError: this takes all that the package needs.
        ValueError: the budget is too small.
    """
    from everreel.checkpoint.catalog import find_model
    from everreel.film.budget import place
    from everreel.film.parts import Parts
    from everreel.film.pipeline import VideoPipeline
    from everreel.film.plan import make_plan
    from everreel.film.request import make_request
    from everreel.model.text_encoder import TextEncoder

    size = {"dim": config.dim, "ffn_dim": config.ffn_dim, "num_layers": config.num_layers}
    card = replace(find_model(RELEASED, here=False), **size)
    text_config = TEXT if config.text_dim == TEXT.d_model else replace(SMALL_TEXT, d_model=config.text_dim)
    frames, height, width = film
    request = make_request(
        prompt="a film",
        num_inference_steps=STEPS,
        num_frames=frames,
        base_num_frames=frames,
        height=height,
        width=width,
    )
    with torch.device("meta"):
        transformer, vae, text = DiT(config), CausalVAE(vae_config), TextEncoder(text_config)
    blocks = float(config.num_layers * (8 * config.dim**2 + 2 * config.dim * config.ffn_dim))
    base_dim = vae_config.decoder_base_dim or vae_config.base_dim
    parts = Parts(_numbers(transformer), blocks, _numbers(text), 0.0, _numbers(vae), base_dim)
    placement = place(make_plan(request, card), card, device, budget, dtype=torch.bfloat16, parts=parts)
    host = torch.device("cpu")
    home = host if placement.parked else device
    _filled(text, device, host if placement.text_on_host else home)
    text.tie()
    model = random_model(config, device, device if placement.resident is None else host)
    if placement.resident is not None:
        offload(model, device, placement.resident)
    _filled(vae, device, home)
    pipe = VideoPipeline(card, model, vae, text, cast(Any, _Words()), placement=placement)
    return lambda: torch.cat([torch.from_numpy(block.frames) for block in pipe.stream(request)])


def random_model(config: TransformerConfig, device: torch.device, home: torch.device) -> DiT:
    """Weights made on the device, where that is quick, and each part moved home at once: all need not fit there."""
    with torch.device("meta"):
        model = DiT(config)
    for part in (*model.blocks, *(child for name, child in model.named_children() if name != "blocks")):
        _filled(part, device, home)
    return model.eval()


class _Words:
    """Stands for a tokenizer: every prompt has as many tokens."""

    def __call__(self, prompts: Sequence[str]) -> Any:  # noqa: ANN401 -- `Tokens`, which is there when this is called
        from everreel.model.text_encoder import Tokens

        ids = torch.arange(1, 1 + TOKENS).expand(len(prompts), -1)
        return Tokens(ids, torch.ones_like(ids), (0,) * len(prompts))


def _filled(part: nn.Module, device: torch.device, home: torch.device) -> None:
    fill(cast(DiT, part), device, torch.bfloat16).to(home)


def _numbers(part: nn.Module) -> float:
    return float(sum(weight.numel() for weight in part.parameters()))
