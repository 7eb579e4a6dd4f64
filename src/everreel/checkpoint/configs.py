"""Our frozen configs in the words of the released `config.json` files, and back.

Sources: the fields of diffusers' `SkyReelsV2Transformer3DModel` and `AutoencoderKLWan`, of transformers'
`UMT5Config` and `CLIPVisionConfig`, and of the released official folders. The one invariant: a field that
our networks do not implement is refused unless it has the value they implement; to file and back gives an
equal config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig

Fields = Mapping[str, Any]
Kind = Literal["df", "t2v", "i2v"]
"""What a model was trained for: diffusion forcing, or all frames at once of words or of a picture."""
DIFFUSERS_VERSION = "0.35.0"  # the first with these classes

# Mean and deviation of each latent channel under the released VAE; its official file does not hold them.
RELEASED_LATENTS_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
RELEASED_LATENTS_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

MODEL_INDEX = {
    "_class_name": "SkyReelsV2DiffusionForcingPipeline",
    "_diffusers_version": DIFFUSERS_VERSION,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "SkyReelsV2Transformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
TEXT_MODEL_INDEX = {**MODEL_INDEX, "_class_name": "SkyReelsV2Pipeline"}
IMAGE_MODEL_INDEX = {
    **MODEL_INDEX,
    "_class_name": "SkyReelsV2ImageToVideoPipeline",
    "image_encoder": ["transformers", "CLIPVisionModel"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
}
KIND_OF_PIPELINE: Mapping[str, Kind] = {
    "SkyReelsV2DiffusionForcingPipeline": "df",
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": "df",
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": "df",
    "SkyReelsV2Pipeline": "t2v",
    "SkyReelsV2ImageToVideoPipeline": "i2v",
}


def transformer_config_from_diffusers(fields: Fields) -> TransformerConfig:
    """`transformer/config.json` → our config.

    Raises:
        ValueError: a field is unknown, or asks for something that the transformer does not do.
    """
    defaults = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 16,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 8192,
        "num_layers": 32,
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "inject_sample_info": False,
        # How it is run, not what it is: a size of table, and the default block of causal attention.
        "rope_max_seq_len": 1024,
        "num_frame_per_block": 1,
    }
    fixed = {"cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "pos_embed_seq_len": None}
    found = _take("transformer", fields, defaults, fixed, "SkyReelsV2Transformer3DModel")
    dim = found["num_attention_heads"] * found["attention_head_dim"]
    branch = dim if found["image_dim"] is not None else None
    if found["added_kv_proj_dim"] != branch:
        raise _wrong("transformer", "added_kv_proj_dim", found["added_kv_proj_dim"], branch)
    return TransformerConfig(
        dim=dim,
        ffn_dim=found["ffn_dim"],
        num_heads=found["num_attention_heads"],
        num_layers=found["num_layers"],
        in_dim=found["in_channels"],
        out_dim=found["out_channels"] or found["in_channels"],
        text_dim=found["text_dim"],
        freq_dim=found["freq_dim"],
        patch_size=_patch(found["patch_size"]),
        eps=found["eps"],
        inject_sample_info=found["inject_sample_info"],
        image_dim=found["image_dim"],
    )


def transformer_config_to_diffusers(config: TransformerConfig) -> dict[str, Any]:
    """Our config → `transformer/config.json`."""
    return {
        "_class_name": "SkyReelsV2Transformer3DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "patch_size": list(config.patch_size),
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.in_dim,
        "out_channels": config.out_dim,
        "text_dim": config.text_dim,
        "freq_dim": config.freq_dim,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.num_layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": config.eps,
        "image_dim": config.image_dim,
        "added_kv_proj_dim": None if config.image_dim is None else config.dim,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
        "inject_sample_info": config.inject_sample_info,
        "num_frame_per_block": 1,
    }


def transformer_config_from_official(fields: Fields) -> TransformerConfig:
    """The `config.json` of a released official folder → our config; raises as the diffusers one."""
    sizes = ("dim", "ffn_dim", "num_heads", "num_layers")
    if missing := [name for name in sizes if name not in fields]:
        raise ValueError(f"transformer: {missing[0]} is missing in config.json")
    defaults = {
        **dict.fromkeys(sizes),
        "model_type": "t2v",
        "in_dim": 16,
        "out_dim": 16,
        "text_dim": 4096,
        "text_len": 512,
        "freq_dim": 256,
        "patch_size": (1, 2, 2),
        "eps": 1e-6,
        "inject_sample_info": False,
    }
    fixed = {"cross_attn_norm": True, "qk_norm": True, "window_size": [-1, -1]}
    found = _take("transformer", fields, defaults, fixed)
    image_dim = 1280 if found.pop("model_type") == "i2v" else None
    found["patch_size"] = _patch(found["patch_size"])
    return TransformerConfig(**found, image_dim=image_dim)


def transformer_config_to_official(config: TransformerConfig) -> dict[str, Any]:
    """Our config → the `config.json` of an official folder; the width of image tokens is left to the tensors."""
    names = (
        "dim",
        "ffn_dim",
        "num_heads",
        "num_layers",
        "in_dim",
        "out_dim",
        "text_dim",
        "text_len",
        "freq_dim",
        "eps",
    )
    return {
        "_class_name": "WanModel",
        "model_type": "t2v" if config.image_dim is None else "i2v",
        **{name: getattr(config, name) for name in names},
        "inject_sample_info": config.inject_sample_info,
    }


def vae_config_from_diffusers(fields: Fields) -> VAEConfig:
    """`vae/config.json` → our config; raises as the transformer's."""
    defaults = {
        "base_dim": 96,
        "decoder_base_dim": None,
        "z_dim": 16,
        "dim_mult": (1, 2, 4, 4),
        "num_res_blocks": 2,
        "temperal_downsample": (False, True, True),
        "latents_mean": RELEASED_LATENTS_MEAN,
        "latents_std": RELEASED_LATENTS_STD,
        "scale_factor_temporal": 4,  # follow from the others
        "scale_factor_spatial": 8,
    }
    fixed = {
        "attn_scales": [],
        "dropout": 0.0,
        "is_residual": False,
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": None,
    }
    found = _take("vae", fields, defaults, fixed, "AutoencoderKLWan")
    return VAEConfig(
        base_dim=found["base_dim"],
        decoder_base_dim=found["decoder_base_dim"],
        z_dim=found["z_dim"],
        dim_mult=tuple(found["dim_mult"]),
        num_res_blocks=found["num_res_blocks"],
        temporal_downsample=tuple(found["temperal_downsample"]),
        latents_mean=tuple(found["latents_mean"]),
        latents_std=tuple(found["latents_std"]),
    )


def vae_config_to_diffusers(config: VAEConfig) -> dict[str, Any]:
    """Our config → `vae/config.json`."""
    return {
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": DIFFUSERS_VERSION,
        "base_dim": config.base_dim,
        "decoder_base_dim": config.decoder_base_dim,
        "z_dim": config.z_dim,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": list(config.temporal_downsample),
        "dropout": 0.0,
        "latents_mean": list(config.latents_mean),
        "latents_std": list(config.latents_std),
    }


def released_vae_config() -> VAEConfig:
    """The config of `Wan2.1_VAE.pth`."""
    return VAEConfig(latents_mean=RELEASED_LATENTS_MEAN, latents_std=RELEASED_LATENTS_STD)


# Our field → transformers' field and the value that a file means by leaving it out.
_UMT5_FIELDS: Mapping[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 250112),
    "d_model": ("d_model", 512),
    "d_kv": ("d_kv", 64),
    "d_ff": ("d_ff", 1024),
    "num_heads": ("num_heads", 6),
    "num_layers": ("num_layers", 8),
    "num_buckets": ("relative_attention_num_buckets", 32),
    "max_distance": ("relative_attention_max_distance", 128),
    "eps": ("layer_norm_epsilon", 1e-6),
}
_CLIP_FIELDS: Mapping[str, tuple[str, Any]] = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
    "dim": ("hidden_size", 768),
    "ffn_dim": ("intermediate_size", 3072),
    "num_heads": ("num_attention_heads", 12),
    "num_layers": ("num_hidden_layers", 12),
    "activation": ("hidden_act", "quick_gelu"),
    "eps": ("layer_norm_eps", 1e-5),
}


def text_config_from_transformers(fields: Fields) -> TextEncoderConfig:
    """`text_encoder/config.json` → our config; fields of the decoder and of training say nothing to us."""
    if fields.get("model_type") != "umt5":
        raise _wrong("text_encoder", "model_type", fields.get("model_type"), "umt5")
    if fields.get("feed_forward_proj", "gated-gelu") != "gated-gelu":
        raise _wrong("text_encoder", "feed_forward_proj", fields["feed_forward_proj"], "gated-gelu")
    return TextEncoderConfig(**_values("text_encoder", fields, _UMT5_FIELDS))


def text_config_to_transformers(config: TextEncoderConfig, dtype: str) -> dict[str, Any]:
    """Our config → `text_encoder/config.json`."""
    return {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        **{theirs: getattr(config, ours) for ours, (theirs, _) in _UMT5_FIELDS.items()},
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "dtype": dtype,
    }


def image_config_from_transformers(fields: Fields) -> ImageEncoderConfig:
    """`image_encoder/config.json` → our config."""
    if fields.get("model_type") != "clip_vision_model":
        raise _wrong("image_encoder", "model_type", fields.get("model_type"), "clip_vision_model")
    return ImageEncoderConfig(**_values("image_encoder", fields, _CLIP_FIELDS))


def image_config_to_transformers(config: ImageEncoderConfig, dtype: str) -> dict[str, Any]:
    """Our config → `image_encoder/config.json`."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        **{theirs: getattr(config, ours) for ours, (theirs, _) in _CLIP_FIELDS.items()},
        "dtype": dtype,
    }


def image_processor_config(image_size: int) -> dict[str, Any]:
    """`image_processor/preprocessor_config.json`, for diffusers: CLIP's own mean and deviation are its defaults."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": image_size, "width": image_size},
        "size": {"shortest_edge": image_size},
    }


def scheduler_config(shift: float) -> dict[str, Any]:
    """`scheduler/scheduler_config.json` for flow matching with UniPC of order 2."""
    return {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "num_train_timesteps": 1000,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
        "final_sigmas_type": "zero",
        "timestep_spacing": "linspace",
    }


def write_json(file: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object as people like to read it, and its folder if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; ValueError names the file if it is missing or torn."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"model = {str(file.parent)!r}: {file} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must hold a JSON object")
    return content


def shards_of(index: Path) -> list[str]:
    """The files that an index of shards names; ValueError names the index if it is missing, torn or of something else.

    A name is one of a file beside the index: whatever leads elsewhere is refused.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(_is_file_name(name) for name in names.values()):
        raise ValueError(f"{index}: weight_map must name a file beside it for each tensor; download it again")
    return sorted(set(names.values()))


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _take(what: str, fields: Fields, defaults: Fields, fixed: Fields, class_name: str | None = None) -> dict[str, Any]:
    """The values of `defaults`' fields; refuses unknown fields, another class and other values of `fixed`."""
    if class_name is not None and fields.get("_class_name", class_name) != class_name:
        raise _wrong(what, "_class_name", fields["_class_name"], class_name)
    for name, value in fields.items():
        if name in fixed and value != fixed[name]:
            raise _wrong(what, name, value, fixed[name])
        if name not in fixed and name not in defaults and not name.startswith("_"):
            raise ValueError(f"{what}: unknown field {name!r} = {value!r}")
    found = {name: fields.get(name, default) for name, default in defaults.items()}
    for name, value in found.items():
        _check_like(what, name, value, defaults[name])
    return found


def _check_like(what: str, name: str, value: object, default: object) -> None:
    """A field is of the kind that its default shows; a default of None is that of a size that need not be given."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if value is None or isinstance(default, str):
        return
    if isinstance(default, bool):
        rule, right = "true or false", isinstance(value, bool)
    elif isinstance(default, float):
        rule, right = "a number", isinstance(value, int | float)
    elif isinstance(default, Sequence):
        rule, right = "a list", isinstance(value, Sequence) and not isinstance(value, str)
    else:
        rule, right = "a whole number above 0", whole
    if not right:
        raise ValueError(f"{what}: {name} = {value!r}: must be {rule}")


def _values(what: str, fields: Fields, names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    for theirs, default in names.values():
        _check_like(what, theirs, fields.get(theirs), default)
    return {ours: fields.get(theirs, default) for ours, (theirs, default) in names.items()}


def _patch(value: Sequence[int]) -> tuple[int, int, int]:
    if tuple(value) != (1, 2, 2):
        raise _wrong("transformer", "patch_size", value, (1, 2, 2))
    return (1, 2, 2)


def _wrong(what: str, name: str, value: object, needed: object) -> ValueError:
    return ValueError(f"{what}: {name} = {value!r}: must be {needed!r}")
