"""A picture → the image tokens that the I2V models attend to: CLIP's vision tower.

The released I2V models take the tokens that enter the last layer of the open-CLIP ViT-H/14, without the
final norm (paper, section 3.1; 257 tokens of 1280). The arithmetic is transformers' `CLIPVisionModel`. The
one invariant: the tokens are the penultimate ones, so the last layer's weights never matter.

B pictures, C colours, H height, W width, N tokens, D channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from everreel.model.config import ImageEncoderConfig
from everreel.model.quiet import quiet

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(nn.Module):
    """CLIP: prepared pixels → penultimate tokens. `model` holds transformers' tower, with its names."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        with quiet():
            from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        self.config = config
        self.model: CLIPVisionModel = CLIPVisionModel(CLIPVisionConfig(**clip_settings(config)))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Tokens (B, N, D) of pixels that `prepare` made: the class token, then one a patch."""
        tokens_BND: Tensor = self.model(pixel_values=pixels_BCHW, output_hidden_states=True).hidden_states[-2]
        return tokens_BND

    def prepare(self, image_BCHW: Tensor) -> Tensor:
        """Pictures in [-1, 1] of any size → the square of CLIP's size, with CLIP's mean and deviation."""
        size = (self.config.image_size, self.config.image_size)
        square_BCHW = nn.functional.interpolate(image_BCHW.float(), size, mode="bicubic", align_corners=False)
        mean_C = torch.tensor(CLIP_MEAN, device=image_BCHW.device)[:, None, None]
        std_C = torch.tensor(CLIP_STD, device=image_BCHW.device)[:, None, None]
        return (square_BCHW * 0.5 + 0.5 - mean_C) / std_C

    def number_positions(self, device: str | torch.device) -> None:
        """Make the one buffer that no file holds, for a module that was made on the meta device."""
        embeddings = self.model.embeddings
        embeddings.position_ids = nn.Buffer(
            torch.arange(embeddings.num_positions, device=device)[None], persistent=False
        )


def clip_settings(config: ImageEncoderConfig) -> dict[str, Any]:
    """`config` in the words of transformers' `CLIPVisionConfig`."""
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "hidden_act": config.activation,
        "layer_norm_eps": config.eps,
    }
