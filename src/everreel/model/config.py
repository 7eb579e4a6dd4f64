"""What a network is made of: one frozen dataclass a network, with the sizes of the released models as a guide.

Sources: `config.json` of the released folders; sizes in section 3.1 of the paper. A config says what a network is,
never how it is run: block sizes, caches and devices are arguments of a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quantization = Literal["int8", "fp8", "int8_dynamic", "fp8_dynamic", "q8_0", "q4_0"]
"""How the weights of linear layers may be kept; "dynamic": their products are computed so, too."""
AttentionKernel = Literal["auto", "sdpa", "flash", "sage", "cudnn", "flex"]
"""What computes attention among video tokens, see `backends.Attention`."""


@dataclass(frozen=True)
class TransformerConfig:
    """The diffusion transformer (released: dim 1536 or 5120, 30 or 40 layers)."""

    dim: int = 1536
    ffn_dim: int = 8960
    num_heads: int = 12
    num_layers: int = 30
    in_dim: int = 16
    out_dim: int = 16
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    inject_sample_info: bool = False  # the frame-rate embedding
    image_dim: int | None = None  # width of the image tokens of the I2V models (1280), None without them

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim = {self.dim}: must be an even multiple of num_heads = {self.num_heads}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


@dataclass(frozen=True)
class VAEConfig:
    """The causal 3-D VAE (released: base_dim 96)."""

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = (0.0,) * 16
    latents_std: tuple[float, ...] = (1.0,) * 16


@dataclass(frozen=True)
class TextEncoderConfig:
    """The umT5 encoder (released: umt5-xxl)."""

    vocab_size: int = 256384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


@dataclass(frozen=True)
class ImageEncoderConfig:
    """The CLIP vision tower of the I2V models (released: ViT-H/14)."""

    image_size: int = 224
    patch_size: int = 14
    dim: int = 1280
    ffn_dim: int = 5120
    num_heads: int = 16
    num_layers: int = 32
    activation: str = "gelu"
    eps: float = 1e-5
