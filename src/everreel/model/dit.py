"""The diffusion transformer of Wan2.1 and SkyReels-V2: a velocity for every latent frame at its own noise level.

Source: section 3.1 of the paper and `modules/transformer.py` of the released code, whose parameter names these are, so
that a released file loads as it is. The one invariant: time modulation is kept per frame, (B, T, 6, C), and broadcast
over a frame's tokens; nothing of the size tokens × 6 × C or tokens × tokens is ever made.

Shape suffixes: B batch, C channels or model width, T latent frames, H W latent height and width, L video tokens,
P tokens of one frame, S text positions, D text width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everreel.model import training
from everreel.model.attention import RMSNorm, attend, attend_blocks, norm_and_rotate, rope_table, rotate
from everreel.model.backends import Attention, Run
from everreel.model.config import TransformerConfig
from everreel.model.group import SequenceGroup, Split
from everreel.model.kv_cache import KVCache

# Tokens that go through a feed-forward net at once: enough to keep the device busy, few enough that they are no peak.
FFN_TOKENS_CPU, FFN_TOKENS = 2048, 16384


@dataclass(frozen=True)
class Context:
    """What cross-attention needs of the text (and the image): computed once a generation.

    `layers` holds a layer's (key, value), each (B, S, heads, head_dim); `bias` (B, S) is added to the logits of a key.
    `image_layers` holds the image branch's pairs, empty without one.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    bias: Tensor
    image_layers: tuple[tuple[Tensor, Tensor], ...] = ()

    def of(self, layer: int) -> LayerContext:
        """What one layer reads."""
        image = self.image_layers[layer] if self.image_layers else None
        return LayerContext(*self.layers[layer], self.bias, image)


class LayerContext(NamedTuple):
    """A layer's keys and values of the text, the bias of the keys, and the pair of the image, where there is one."""

    key: Tensor
    value: Tensor
    bias: Tensor
    image: tuple[Tensor, Tensor] | None


Texts = Sequence[tuple[int, LayerContext]]
"""Numbers of tokens, and the text that these tokens read."""


class Transformer(Protocol):
    """What films are made with: a `DiT`, or one that several processes share."""

    def __call__(
        self,
        x_BCTHW: Tensor,
        timestep_BT: Tensor,
        context: Context | Sequence[tuple[int, Context]],
        *,
        fps_B: Tensor | None = None,
        blocks: Sequence[int] | None = None,
        cache: KVCache | None = None,
        write_cache: bool = False,
        skip: Sequence[int] = (),
    ) -> Tensor:
        """As `DiT.forward`."""

    def encode_context(self, text_BSD: Tensor, length_B: Sequence[int], image_BSD: Tensor | None = None) -> Context:
        """As `DiT.encode_context`."""

    def new_cache(self, max_frames: int, sink_frames: int = 0) -> KVCache:
        """As `DiT.new_cache`."""


class DiT(nn.Module):
    """The transformer. Holds weights only; caches and contexts are arguments.

    `attention` says which kernels compute the attention among video tokens: another one may be put there at any time.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = Attention()
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, config.patch_size, config.patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if config.inject_sample_info:
            self.fps_embedding = nn.Embedding(2, dim)
            self.fps_projection = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 6 * dim))
        if config.image_dim is not None:
            self.img_emb = ImageProjection(config.image_dim, dim)
        self.blocks = Blocks(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)

    def forward(
        self,
        x_BCTHW: Tensor,
        timestep_BT: Tensor,
        context: Context | Sequence[tuple[int, Context]],
        *,
        fps_B: Tensor | None = None,
        blocks: Sequence[int] | None = None,
        cache: KVCache | None = None,
        write_cache: bool = False,
        skip: Sequence[int] = (),
        group: SequenceGroup | None = None,
    ) -> Tensor:
        """The velocity noise - data, (B, out_dim, T, H, W), in float32.

        Args:
            x_BCTHW: noisy latents; for an I2V model with its mask and image channels behind them.
            timestep_BT: 0 (clean) to 1000 (noise) for each latent frame.
            context: from `encode_context`; or several, each with the number of frames that read it, first to last.
            fps_B: index of the frame rate, 0 for 16 and 1 for 24 (only where the model has the embedding).
            blocks: sizes in latent frames of the blocks of block-causal attention; None is full attention.
            cache: earlier frames of the film; the frames of x follow them.
            write_cache: add the keys and values of these frames to the cache.
            skip: layers that are left out, the first is 0; not while the cache is written.
            group: the processes that share the tokens, all of which make this call; each gets the whole velocity, and
                keeps what it attends with of the cache. None where this process has all tokens.

        Raises:
            ValueError: channels, size or blocks do not fit the model, or there are too many processes for the size.
        """
        assert not (skip and write_cache), "what is kept of a film has seen all layers"
        T, H, W = self._check(x_BCTHW, blocks)
        past, tokens, device = 0 if cache is None else cache.num_frames, H * W, x_BCTHW.device
        dtype = self.patch_embedding.weight.dtype
        table = rope_table(0, past + T, H, W, self.config.head_dim, device)
        table_past, table = table[: past * tokens], table[past * tokens :]
        split = None if group is None else group.split(T, tokens, self.config.num_heads)
        mine = range(tokens) if split is None else split.positions
        view = _View(
            table_past=table_past,
            table=table,
            table_queries=table if split is None else _of_frames(table, T, mine),
            block_tokens=[tokens * size for size in blocks or (T,)],
            cache=cache,
            write_cache=write_cache,
            split=split,
            kernel=self.attention.kernel(device, dtype, self.config.head_dim),
        )
        x_BLC, texts = self._patchify(x_BCTHW.to(dtype), mine), _texts(context, T)
        time_BTC, modulation_BT6C = self._modulation(timestep_BT, fps_B)
        for layer, block in enumerate(self.blocks):
            if layer in skip:
                continue
            # Not all layers' contexts and a number: a compiler would make a program for each number.
            read = [(len(mine) * frames, text.of(layer)) for frames, text in texts]
            x_BLC = block(x_BLC, modulation_BT6C, read, layer, view)
        if cache is not None and write_cache:
            cache.commit(T)
        out_BLC = self.head(x_BLC, time_BTC)
        return self._unpatchify(out_BLC if split is None else split.gather(out_BLC), T, H, W)

    def encode_context(self, text_BSD: Tensor, length_B: Sequence[int], image_BSD: Tensor | None = None) -> Context:
        """Keys and values of the text for every layer, the zero padding folded into one key.

        The released models attend to `text_len` positions of which those beyond the prompt are all the same vector.
        n equal keys weigh as much as one with log n added to its logit, so the result is exact.

        Args:
            text_BSD: the text encoder's output; what lies at and beyond `length_B` is ignored.
            length_B: number of real positions of each prompt, at most `text_len`.
            image_BSD: tokens of the CLIP image encoder, (B, 257, image_dim), for the I2V models.

        Raises:
            ValueError: a prompt is longer than `text_len`, or image tokens do not fit the model.
        """
        text_len, longest = self.config.text_len, max(length_B)
        if longest > text_len:
            raise ValueError(f"prompt = {longest} tokens: the model reads at most text_len = {text_len}")
        if (image_BSD is None) != (self.config.image_dim is None):
            raise ValueError(f"image tokens: {'needed' if image_BSD is None else 'not taken'} by this model")
        dtype = self.patch_embedding.weight.dtype
        padded_BSD = F.pad(text_BSD[:, :longest], (0, 0, 0, 1))  # one more position stands for all the padding
        length = torch.tensor(length_B, device=text_BSD.device)[:, None]
        position = torch.arange(longest + 1, device=text_BSD.device)[None]
        padded_BSD = padded_BSD.masked_fill((position >= length)[..., None], 0.0)
        bias = torch.zeros(len(length_B), longest + 1, device=text_BSD.device)
        bias.masked_fill_(position > length, -math.inf)
        bias = torch.where(position == length, (text_len - length).float().log(), bias)
        text = self.text_embedding(padded_BSD.to(dtype))
        layers = tuple(block.keys_values(text) for block in self._cross_attentions())
        image_layers: tuple[tuple[Tensor, Tensor], ...] = ()
        if image_BSD is not None:
            image = self.img_emb(image_BSD.to(dtype))
            image_layers = tuple(block.image_keys_values(image) for block in self._cross_attentions())
        return Context(layers, bias, image_layers)

    def new_cache(self, max_frames: int, sink_frames: int = 0) -> KVCache:
        """An empty cache for one generation."""
        return KVCache(max_frames, sink_frames)

    def init_weights(self, generator: torch.Generator) -> None:
        """The released initialisation: Xavier for linear layers, 0.02 for embeddings, a head of zeros (section 3.1)."""
        for name, parameter in self.named_parameters():
            if name.endswith("modulation"):
                nn.init.normal_(parameter, std=self.config.dim**-0.5, generator=generator)
            elif parameter.ndim == 1:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            elif name.startswith(("text_embedding", "time_embedding", "fps_embedding")):
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif name in ("head.head.weight", "fps_projection.2.weight"):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter.flatten(1), generator=generator)

    def _cross_attentions(self) -> Iterator[CrossAttention]:
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block.cross_attn

    def _check(self, x_BCTHW: Tensor, blocks: Sequence[int] | None) -> tuple[int, int, int]:
        _, C, T, H, W = x_BCTHW.shape
        _, ph, pw = self.config.patch_size
        if self.config.in_dim != C:
            raise ValueError(f"channels = {C}: the model takes {self.config.in_dim}")
        if H % ph or W % pw:
            raise ValueError(f"latent size = {H} x {W}: must be multiples of {ph} and {pw}")
        if blocks is not None and sum(blocks) != T:
            raise ValueError(f"blocks = {tuple(blocks)}: must add up to the {T} latent frames")
        return T, H // ph, W // pw

    def _patchify(self, x_BCTHW: Tensor, positions: range) -> Tensor:
        """Tokens in the order frame, row, column, some of each frame: the patch convolution as the matmul it is."""
        _, ph, pw = self.config.patch_size
        x_BTHWC = x_BCTHW.unflatten(4, (-1, pw)).unflatten(3, (-1, ph)).permute(0, 2, 3, 5, 1, 4, 6)
        weight = self.patch_embedding.weight.flatten(1)
        x_BTPC = x_BTHWC.flatten(4).flatten(2, 3)[:, :, positions.start : positions.stop]
        return F.linear(x_BTPC.flatten(1, 2), weight, self.patch_embedding.bias)

    def _unpatchify(self, x_BLC: Tensor, T: int, H: int, W: int) -> Tensor:
        _, ph, pw = self.config.patch_size
        x = x_BLC.float().unflatten(2, (ph, pw, self.config.out_dim)).unflatten(1, (T, H, W))
        x_BCTHW: Tensor = x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return x_BCTHW

    def _modulation(self, timestep_BT: Tensor, fps_B: Tensor | None) -> tuple[Tensor, Tensor]:
        # In float32, as the released code has it, a bfloat16 network comes no nearer to its float32 self (0.9 % off).
        dtype = self.patch_embedding.weight.dtype
        time_BTC = self.time_embedding(timestep_embedding(timestep_BT, self.config.freq_dim).to(dtype))
        modulation = self.time_projection(time_BTC)
        if self.config.inject_sample_info:
            if fps_B is None:
                raise ValueError("fps: needed by this model (0 for 16, 1 for 24 frames a second)")
            modulation = modulation + self.fps_projection(self.fps_embedding(fps_B))[:, None]
        return time_BTC, modulation.unflatten(-1, (6, -1))


@dataclass
class _View:
    """What of the film one forward pass sees: rotations, blocks and the cache."""

    table_past: Tensor
    table: Tensor
    table_queries: Tensor  # rows of `table`: those of the tokens that this process has
    block_tokens: list[int]
    cache: KVCache | None
    write_cache: bool
    split: Split | None
    kernel: Run | None


class Block(nn.Module):
    """Self-attention, cross-attention and a feed-forward net, the first and last modulated by time."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(dim, config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), TanhGELU(), nn.Linear(config.ffn_dim, dim))
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x_BLC: Tensor, modulation_BT6C: Tensor, texts: Texts, layer: int, view: _View) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = (
            (modulation_BT6C + self.modulation[:, None]).to(x_BLC.dtype).unbind(2)
        )
        x_BLC = _gated(x_BLC, self.self_attn(_modulate(x_BLC, shift, scale, self.eps), layer, view), gate)
        x_BLC = x_BLC + self.cross_attn(self.norm3(x_BLC), texts)
        return _gated(x_BLC, self._feed_forward(_modulate(x_BLC, shift2, scale2, self.eps)), gate2)

    def _feed_forward(self, x_BLC: Tensor) -> Tensor:
        """A part of the tokens at a time, where no gradients are wanted: what is between the layers is the largest."""
        tokens = FFN_TOKENS_CPU if x_BLC.device.type == "cpu" else FFN_TOKENS
        if torch.is_grad_enabled() or x_BLC.shape[1] <= tokens:
            out_BLC: Tensor = self.ffn(x_BLC)
            return out_BLC
        return torch.cat([self.ffn(part) for part in x_BLC.split(tokens, dim=1)], dim=1)


class Blocks(nn.ModuleList):
    """A transformer's blocks, first to last."""

    def compile_each(self, backend: str | Callable[..., Any]) -> None:
        """Have torch compile them in place."""
        for block in self:
            block.compile(backend=backend)


class SelfAttention(nn.Module):
    """Attention among video tokens, with RMS-normed queries and keys and rotary positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, config.eps)
        self.norm_k = RMSNorm(dim, config.eps)

    def forward(self, x_BLC: Tensor, layer: int, view: _View) -> Tensor:
        v = self.v(x_BLC).unflatten(2, (self.num_heads, -1))
        q = norm_and_rotate(self.q(x_BLC), self.norm_q, self.num_heads, view.table_queries).to(v.dtype)
        k = self.k(x_BLC)
        cache = view.cache
        if view.split is None and cache is None:
            k = norm_and_rotate(k, self.norm_k, self.num_heads, view.table).to(v.dtype)
        else:
            raw_k = norm_and_rotate(k, self.norm_k, self.num_heads)
            if view.split is not None:
                q, raw_k, v = view.split.exchange(q, raw_k, v)
            k = rotate(raw_k, view.table).to(v.dtype)
        if cache is not None:
            if view.write_cache:
                cache.write(raw_k, v)
            if cache.num_frames:
                past_k, past_v = cache.context(layer, view.table_past)
                k, v = torch.cat([past_k, k], dim=1), torch.cat([past_v, v], dim=1)
        out_BLHD = attend_blocks(q, k, v, view.block_tokens, view.kernel)
        if view.split is not None:
            out_BLHD = view.split.give_back(out_BLHD)
        out_BLC: Tensor = self.o(out_BLHD.flatten(2))
        return out_BLC


class CrossAttention(nn.Module):
    """Attention from video tokens to the text, and in the I2V models to the image as well."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, config.eps)
        self.norm_k = RMSNorm(dim, config.eps)
        if config.image_dim is not None:
            self.k_img = nn.Linear(dim, dim)
            self.v_img = nn.Linear(dim, dim)
            self.norm_k_img = RMSNorm(dim, config.eps)

    def forward(self, x_BLC: Tensor, texts: Texts) -> Tensor:
        q = norm_and_rotate(self.q(x_BLC), self.norm_q, self.num_heads).to(texts[0][1].value.dtype)
        read = [
            _read(part, context)
            for part, (_, context) in zip(q.split([tokens for tokens, _ in texts], dim=1), texts, strict=True)
        ]
        out_BLC: Tensor = self.o((read[0] if len(read) == 1 else torch.cat(read, dim=1)).flatten(2))
        return out_BLC

    def keys_values(self, text_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text, (B, S, heads, head_dim) each."""
        v = self.v(text_BSC).unflatten(2, (self.num_heads, -1))
        return norm_and_rotate(self.k(text_BSC), self.norm_k, self.num_heads).to(v.dtype), v

    def image_keys_values(self, image_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the image tokens."""
        heads = (self.num_heads, -1)
        v = self.v_img(image_BSC).unflatten(2, heads)
        return self.norm_k_img(self.k_img(image_BSC)).unflatten(2, heads).to(v.dtype), v


def _read(q_BLHD: Tensor, context: LayerContext) -> Tensor:
    """What these tokens take from the text, and from the image where there is one."""
    out_BLHD = attend(q_BLHD, context.key, context.value, context.bias)
    return out_BLHD if context.image is None else out_BLHD + attend(q_BLHD, *context.image)


class Head(nn.Module):
    """From tokens to velocities, modulated by the time embedding."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, math.prod(config.patch_size) * config.out_dim)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, x_BLC: Tensor, time_BTC: Tensor) -> Tensor:
        shift, scale = (time_BTC[:, :, None] + self.modulation[:, None]).to(x_BLC.dtype).unbind(2)
        out_BLC: Tensor = self.head(_modulate(x_BLC, shift, scale, self.eps))
        return out_BLC


class TanhGELU(nn.GELU):
    """GELU in its tanh form. torch's own is slow in bfloat16 on a CPU, where x·sigmoid(2u) takes 0.6 of its time."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        if training.is_for(x):
            return training.tanh_gelu(x)
        if x.device.type != "cpu" or x.dtype != torch.bfloat16 or torch.is_grad_enabled():
            return super().forward(x)
        # 0.5·(1 + tanh u) = sigmoid(2u), with u = sqrt(2/π)·(x + 0.044715·x³).
        twice = 2 * math.sqrt(2 / math.pi)
        inner = torch.addcmul(torch.tensor(twice, dtype=x.dtype), x, x, value=twice * 0.044715)
        return inner.mul_(x).sigmoid_().mul_(x)


class ImageProjection(nn.Module):
    """CLIP tokens to the transformer's width (I2V models)."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(image_dim),
            nn.Linear(image_dim, image_dim),
            nn.GELU(),
            nn.Linear(image_dim, dim),
            nn.LayerNorm(dim),
        )

    def forward(self, image_BSC: Tensor) -> Tensor:
        out_BSC: Tensor = self.proj(image_BSC)
        return out_BSC


def _texts(context: Context | Sequence[tuple[int, Context]], num_frames: int) -> Sequence[tuple[int, Context]]:
    """How many frames read which text."""
    texts = [(num_frames, context)] if isinstance(context, Context) else context
    frames = [count for count, _ in texts]
    if sum(frames) != num_frames:
        raise ValueError(f"context = {frames} frames: must add up to the {num_frames} latent frames")
    return texts


def _of_frames(table_LD: Tensor, frames: int, positions: range) -> Tensor:
    """The rows of some tokens of each frame."""
    rows_LD: Tensor = table_LD.unflatten(0, (frames, -1))[:, positions.start : positions.stop].flatten(0, 1)
    return rows_LD


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of a timestep at `width` / 2 frequencies; float64 inside, float32 out, shape + (width,)."""
    device = torch.device("cpu") if timestep.device.type == "mps" else timestep.device  # which has no float64
    frequency = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64, device=device) / (width // 2))
    angle = timestep.to(device, torch.float64)[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1).float().to(timestep.device)


def _modulate(x_BLC: Tensor, shift_BTC: Tensor, scale_BTC: Tensor, eps: float) -> Tensor:
    """Norm without weights, then scale and shift by frame."""
    frames = shift_BTC.shape[1]
    x_BTPC = F.layer_norm(x_BLC, x_BLC.shape[-1:], eps=eps).unflatten(1, (frames, -1))
    return torch.addcmul(shift_BTC[:, :, None], x_BTPC, 1 + scale_BTC[:, :, None]).flatten(1, 2)


def _gated(x_BLC: Tensor, y_BLC: Tensor, gate_BTC: Tensor) -> Tensor:
    """x + gate · y, the gate by frame."""
    frames = (gate_BTC.shape[1], -1)
    return torch.addcmul(x_BLC.unflatten(1, frames), y_BLC.unflatten(1, frames), gate_BTC[:, :, None]).flatten(1, 2)
