"""The names of one checkpoint in the official layout, in the diffusers layout and in transformers'.

Sources: the tensor lists of the released files. Our own modules use the official names. The one invariant:
every map is total and invertible; a name that a map does not know is an error that says the name, never a
tensor passed through.

Only CLIP's maps touch tensors: its fused query-key-value is split, its class embedding and positions lose
their leading ones, and its head is transposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from everreel.model.config import VAEConfig

State = dict[str, Tensor]
Rename = Callable[[str], str]


def transformer_to_diffusers(state: Mapping[str, Tensor]) -> State:
    """Official names of the transformer → diffusers' names."""
    return _rename(state, _template_map(_TRANSFORMER, "blocks"))


def transformer_from_diffusers(state: Mapping[str, Tensor]) -> State:
    """diffusers' names of the transformer → official names."""
    return _rename(state, _template_map(_inverse(_TRANSFORMER), "blocks"))


def vae_to_diffusers(state: Mapping[str, Tensor], config: VAEConfig) -> State:
    """Official names of the VAE → diffusers' names; the decoder's numbers depend on `config`."""
    return _rename(state, _module_map(_vae_modules(config)))


def vae_from_diffusers(state: Mapping[str, Tensor], config: VAEConfig) -> State:
    """diffusers' names of the VAE → official names."""
    return _rename(state, _module_map(_inverse(_vae_modules(config))))


def umt5_from_official(state: Mapping[str, Tensor]) -> State:
    """Official names of the text encoder → transformers' `UMT5EncoderModel`."""
    return _rename(state, _template_map(_UMT5, "blocks"))


def umt5_to_official(state: Mapping[str, Tensor]) -> State:
    """transformers' `UMT5EncoderModel` → official names."""
    return _rename(state, _template_map(_inverse(_UMT5), "encoder.block"))


def clip_from_official(state: Mapping[str, Tensor]) -> State:
    """Official names of the image encoder (`visual.…`) → transformers' `CLIPVisionModel` with projection."""
    plain: State = {}
    for name, tensor in state.items():
        fused = re.fullmatch(r"(visual\.transformer\.\d+\.attn\.)to_qkv\.(weight|bias)", name)
        if fused:
            if tensor.shape[0] % 3:
                raise ValueError(f"tensor {name!r} has {tensor.shape[0]} rows: must be a multiple of 3 (q, k, v)")
            parts = zip("qkv", tensor.chunk(3, dim=0), strict=True)
            plain |= {f"{fused[1]}{part}.{fused[2]}": rows.contiguous() for part, rows in parts}
        elif name in ("visual.cls_embedding", "visual.pos_embedding"):
            plain[name] = tensor[0] if name == "visual.pos_embedding" else tensor[0, 0]
        else:
            plain[name] = tensor.T.contiguous() if name == "visual.head" else tensor
    return _rename(plain, _template_map(_CLIP, "visual.transformer"))


def clip_to_official(state: Mapping[str, Tensor]) -> State:
    """transformers' `CLIPVisionModel` with projection → official names."""
    plain = _rename(state, _template_map(_inverse(_CLIP), "encoder.layers"))
    official: State = {}
    for name, tensor in plain.items():
        part = re.fullmatch(r"(visual\.transformer\.\d+\.attn\.)([qkv])\.(weight|bias)", name)
        if part:
            names = [f"{part[1]}{letter}.{part[3]}" for letter in "qkv"]
            if missing := [other for other in names if other not in plain]:
                raise ValueError(f"tensor {missing[0]!r} is missing: the official layout fuses it with {name!r}")
            official[f"{part[1]}to_qkv.{part[3]}"] = torch.cat([plain[other] for other in names])
        elif name in ("visual.cls_embedding", "visual.pos_embedding"):
            official[name] = tensor.reshape(1, -1, tensor.shape[-1])
        else:
            official[name] = tensor.T.contiguous() if name == "visual.head" else tensor
    return official


# `{n}` is the number of the block; a name ends in `*` where a weight and perhaps a bias follow.
_ATTENTION = {
    f"blocks.{{n}}.{ours}.{a}.*": f"blocks.{{n}}.{theirs}.{b}.*"
    for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
    for a, b in (
        *(("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0")),
        *(("norm_q", "norm_q"), ("norm_k", "norm_k")),
    )
}
_TRANSFORMER = {
    "patch_embedding.*": "patch_embedding.*",
    "time_embedding.0.*": "condition_embedder.time_embedder.linear_1.*",
    "time_embedding.2.*": "condition_embedder.time_embedder.linear_2.*",
    "time_projection.1.*": "condition_embedder.time_proj.*",
    "text_embedding.0.*": "condition_embedder.text_embedder.linear_1.*",
    "text_embedding.2.*": "condition_embedder.text_embedder.linear_2.*",
    "img_emb.proj.0.*": "condition_embedder.image_embedder.norm1.*",
    "img_emb.proj.1.*": "condition_embedder.image_embedder.ff.net.0.proj.*",
    "img_emb.proj.3.*": "condition_embedder.image_embedder.ff.net.2.*",
    "img_emb.proj.4.*": "condition_embedder.image_embedder.norm2.*",
    "fps_embedding.weight": "fps_embedding.weight",
    "fps_projection.0.*": "fps_projection.net.0.proj.*",
    "fps_projection.2.*": "fps_projection.net.2.*",
    **_ATTENTION,
    "blocks.{n}.cross_attn.k_img.*": "blocks.{n}.attn2.add_k_proj.*",
    "blocks.{n}.cross_attn.v_img.*": "blocks.{n}.attn2.add_v_proj.*",
    "blocks.{n}.cross_attn.norm_k_img.*": "blocks.{n}.attn2.norm_added_k.*",
    # The official order is norm1, norm3, norm2; diffusers counts them in the order of use.
    "blocks.{n}.norm3.*": "blocks.{n}.norm2.*",
    "blocks.{n}.norm2.*": "blocks.{n}.norm3.*",
    "blocks.{n}.ffn.0.*": "blocks.{n}.ffn.net.0.proj.*",
    "blocks.{n}.ffn.2.*": "blocks.{n}.ffn.net.2.*",
    "blocks.{n}.modulation": "blocks.{n}.scale_shift_table",
    "head.head.*": "proj_out.*",
    "head.modulation": "scale_shift_table",
}
_UMT5 = {
    "token_embedding.weight": "shared.weight",
    "norm.weight": "encoder.final_layer_norm.weight",
    "blocks.{n}.norm1.weight": "encoder.block.{n}.layer.0.layer_norm.weight",
    **{
        f"blocks.{{n}}.attn.{part}.weight": f"encoder.block.{{n}}.layer.0.SelfAttention.{part}.weight"
        for part in "qkvo"
    },
    "blocks.{n}.pos_embedding.embedding.weight": (
        "encoder.block.{n}.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "blocks.{n}.norm2.weight": "encoder.block.{n}.layer.1.layer_norm.weight",
    "blocks.{n}.ffn.gate.0.weight": "encoder.block.{n}.layer.1.DenseReluDense.wi_0.weight",
    "blocks.{n}.ffn.fc1.weight": "encoder.block.{n}.layer.1.DenseReluDense.wi_1.weight",
    "blocks.{n}.ffn.fc2.weight": "encoder.block.{n}.layer.1.DenseReluDense.wo.weight",
}
_CLIP = {
    "visual.cls_embedding": "embeddings.class_embedding",
    "visual.pos_embedding": "embeddings.position_embedding.weight",
    "visual.patch_embedding.weight": "embeddings.patch_embedding.weight",
    "visual.pre_norm.*": "pre_layrnorm.*",  # transformers' own spelling
    "visual.transformer.{n}.norm1.*": "encoder.layers.{n}.layer_norm1.*",
    **{f"visual.transformer.{{n}}.attn.{p}.*": f"encoder.layers.{{n}}.self_attn.{p}_proj.*" for p in "qkv"},
    "visual.transformer.{n}.attn.proj.*": "encoder.layers.{n}.self_attn.out_proj.*",
    "visual.transformer.{n}.norm2.*": "encoder.layers.{n}.layer_norm2.*",
    "visual.transformer.{n}.mlp.0.*": "encoder.layers.{n}.mlp.fc1.*",
    "visual.transformer.{n}.mlp.2.*": "encoder.layers.{n}.mlp.fc2.*",
    "visual.post_norm.*": "post_layernorm.*",
    "visual.head": "visual_projection.weight",
}
_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_RESAMPLE = {"resample.1": "resample.1", "time_conv": "time_conv"}
_ATTENTION_2D = {"norm": "norm", "to_qkv": "to_qkv", "proj": "proj"}


def _vae_modules(config: VAEConfig) -> dict[str, str]:
    """Every module of the VAE that holds tensors: official path → diffusers path."""
    modules = {"conv1": "quant_conv", "conv2": "post_quant_conv"}

    def add(ours: str, theirs: str, inner: Mapping[str, str]) -> None:
        modules.update({f"{ours}.{a}": f"{theirs}.{b}" for a, b in inner.items()})

    for half in ("encoder", "decoder"):
        modules |= {f"{half}.conv1": f"{half}.conv_in", f"{half}.head.0": f"{half}.norm_out"}
        modules[f"{half}.head.2"] = f"{half}.conv_out"
        add(f"{half}.middle.0", f"{half}.mid_block.resnets.0", _RESIDUAL)
        add(f"{half}.middle.1", f"{half}.mid_block.attentions.0", _ATTENTION_2D)
        add(f"{half}.middle.2", f"{half}.mid_block.resnets.1", _RESIDUAL)
    stages, down, up = len(config.dim_mult), 0, 0
    for stage in range(stages):
        last = stage == stages - 1
        for _ in range(config.num_res_blocks):
            add(f"encoder.downsamples.{down}", f"encoder.down_blocks.{down}", _RESIDUAL)
            down += 1
        for block in range(config.num_res_blocks + 1):
            add(f"decoder.upsamples.{up}", f"decoder.up_blocks.{stage}.resnets.{block}", _RESIDUAL)
            up += 1
        if not last:
            add(f"encoder.downsamples.{down}", f"encoder.down_blocks.{down}", _RESAMPLE)
            add(f"decoder.upsamples.{up}", f"decoder.up_blocks.{stage}.upsamplers.0", _RESAMPLE)
            down, up = down + 1, up + 1
    return modules


def _rename(state: Mapping[str, Tensor], rename: Rename) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        other = rename(name)
        if other in renamed:
            raise ValueError(f"tensor {name!r}: another tensor is also called {other!r}")
        renamed[other] = tensor
    return renamed


def _template_map(templates: Mapping[str, str], blocks: str) -> Rename:
    """The renaming that `templates` spell; `blocks` is the path before a block's number."""
    numbered = re.compile(re.escape(blocks) + r"\.(\d+)\.")

    def rename(name: str) -> str:
        match = numbered.match(name)
        number = match[1] if match else ""
        pattern = f"{blocks}.{{n}}.{name[match.end() :]}" if match else name
        module, _, leaf = pattern.rpartition(".")
        if pattern in templates:
            found = templates[pattern]
        elif leaf in ("weight", "bias") and f"{module}.*" in templates:
            found = templates[f"{module}.*"][:-1] + leaf
        else:
            raise ValueError(f"unknown tensor {name!r}: not a name of this layout")
        return found.replace("{n}", number)

    return rename


def _module_map(modules: Mapping[str, str]) -> Rename:
    def rename(name: str) -> str:
        module, _, leaf = name.rpartition(".")
        if module not in modules or leaf not in ("weight", "bias", "gamma"):
            raise ValueError(f"unknown tensor {name!r}: not a name of this layout")
        return f"{modules[module]}.{leaf}"

    return rename


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    inverse = {b: a for a, b in names.items()}
    assert len(inverse) == len(names), "two names map to one"
    return inverse
