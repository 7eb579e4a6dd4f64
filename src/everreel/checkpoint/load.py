"""Networks from files and back: the diffusers folder layout, and the layout of the released repositories.

Source: the released folders of SkyReels-V2 (`model_index.json`, `transformer/`, `vae/`, …, or `config.json`
beside `Wan2.1_VAE.pth`). The one invariant: loading is strict. Every tensor of the network is in the files,
every tensor of the files is in the network, and every shape agrees, before the first byte of weights is
read; a module never holds a weight that no file gave it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from everreel.checkpoint import configs, keymap
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig
from everreel.model.dit import DiT
from everreel.model.image_encoder import ImageEncoder
from everreel.model.text_encoder import TextEncoder, Tokenizer
from everreel.model.vae import CausalVAE

State = Mapping[str, Tensor]
Rename = Callable[[State], dict[str, Tensor]]
Device = str | torch.device

_DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"
_TRANSFORMERS_WEIGHTS = "model"
_OFFICIAL_VAE = "Wan2.1_VAE.pth"
_OFFICIAL_TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
_OFFICIAL_IMAGE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
_TIED = "encoder.embed_tokens.weight"  # a second name of umT5's token embedding


def load_transformer(path: str | Path, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> DiT:
    """The transformer of a model folder, in either layout.

    Raises:
        ValueError: a file, a field of the config or a tensor is missing, unknown or of the wrong shape.
    """
    folder = Path(path)
    to_file: Rename = dict
    from_file: Rename = dict
    if (folder / "transformer").is_dir():
        where = folder / "transformer"
        config = configs.transformer_config_from_diffusers(configs.read_json(where / "config.json"))
        files = _Files.find(where, _DIFFUSERS_WEIGHTS)
        to_file, from_file = keymap.transformer_to_diffusers, keymap.transformer_from_diffusers
    else:
        config = configs.transformer_config_from_official(configs.read_json(folder / "config.json"))
        files = _Files(folder, sorted(folder.glob("*.safetensors")))
        # A community file of the 14B model carries its name as a tensor.
        files.drop(name for name in list(files) if name.startswith("model_type."))
    with torch.device("meta"):
        module = DiT(config)
    files.fill(module, to_file, from_file, device, dtype)
    return module.eval()


def load_vae(path: str | Path, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> CausalVAE:
    """The VAE of a model folder, in either layout; raises as `load_transformer`."""
    folder = Path(path)
    to_file: Rename = dict
    from_file: Rename = dict
    if (folder / "vae").is_dir():
        config = configs.vae_config_from_diffusers(configs.read_json(folder / "vae" / "config.json"))
        files = _Files.find(folder / "vae", _DIFFUSERS_WEIGHTS)
        to_file = partial(keymap.vae_to_diffusers, config=config)
        from_file = partial(keymap.vae_from_diffusers, config=config)
    else:
        config = configs.released_vae_config()
        files = _Files(folder, [folder / _OFFICIAL_VAE])
    with torch.device("meta"):
        module = CausalVAE(config)
    files.fill(module, to_file, from_file, device, dtype)
    return module.eval()


def load_text_encoder(path: str | Path, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> TextEncoder:
    """The text encoder of a model folder, in either layout; raises as `load_transformer`."""
    folder = Path(path)
    to_file: Rename = _untied
    from_file: Rename = dict
    if (folder / "text_encoder").is_dir():
        config = configs.text_config_from_transformers(configs.read_json(folder / "text_encoder" / "config.json"))
        files = _Files.find(folder / "text_encoder", _TRANSFORMERS_WEIGHTS)
        if "shared.weight" in files:
            files.drop([_TIED])
        elif _TIED in files:
            to_file, from_file = _tied_only, _tied_to_shared
    else:
        config = TextEncoderConfig()
        files = _Files(folder, [folder / _OFFICIAL_TEXT])
        to_file, from_file = lambda state: keymap.umt5_to_official(_untied(state)), keymap.umt5_from_official
    with torch.device("meta"):
        module = TextEncoder(config)
    files.fill(module.model, to_file, lambda state: _tied(from_file(state)), device, dtype)
    module.tie()
    return module.eval()


def load_image_encoder(path: str | Path, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> ImageEncoder:
    """The image encoder of an I2V model folder, in either layout; raises as `load_transformer`."""
    folder = Path(path)
    to_file: Rename
    from_file: Rename
    if any((folder / name).is_dir() for name in ("image_encoder", "transformer")):
        config = configs.image_config_from_transformers(configs.read_json(folder / "image_encoder" / "config.json"))
        files = _Files.find(folder / "image_encoder", _TRANSFORMERS_WEIGHTS)
        nested = any(name.startswith("vision_model.") for name in files)
        prefix = "vision_model." if nested else ""
        files.drop(["visual_projection.weight", f"{prefix}embeddings.position_ids"])
        to_file, from_file = partial(_with_prefix, prefix=prefix), partial(_without_prefix, prefix=prefix)
    else:
        config = ImageEncoderConfig()
        files = _Files(folder, [folder / _OFFICIAL_IMAGE])
        # The file holds the text half of CLIP too, and the projection into the space that both share.
        files.drop(name for name in list(files) if not name.startswith("visual.") or name == "visual.head")
        to_file, from_file = keymap.clip_to_official, keymap.clip_from_official
    with torch.device("meta"):
        module = ImageEncoder(config)
    files.fill(module.model, to_file, from_file, device, dtype)
    module.number_positions(device)
    return module.eval()


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model folder, in either layout.

    Raises:
        ValueError: there is no `tokenizer.json`, or its padding token is not in its vocabulary.
    """
    import tokenizers

    folder = Path(path)
    where = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder / "google" / "umt5-xxl"
    file = where / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"model = {str(path)!r}: {file} is missing")
    settings = configs.read_json(where / "tokenizer_config.json")
    pad = settings.get("pad_token") or "<pad>"
    pad_token = str(pad["content"] if isinstance(pad, dict) else pad)
    # transformers writes an astronomic number where it knows no limit; the released models read 512.
    max_length = min(int(settings.get("model_max_length", 512)), 512)
    return Tokenizer(tokenizers.Tokenizer.from_file(str(file)), pad_token=pad_token, max_length=max_length)


def save_diffusers(
    folder: str | Path,
    *,
    transformer: DiT,
    vae: CausalVAE,
    text_encoder: TextEncoder,
    tokenizer: Tokenizer,
    shift: float = 8.0,
    dtype: torch.dtype = torch.bfloat16,
    image_encoder: ImageEncoder | None = None,
) -> None:
    """Write a folder that `load_*` and diffusers' `SkyReelsV2DiffusionForcingPipeline` read.

    With an image encoder it is one of an I2V model, for its `SkyReelsV2ImageToVideoPipeline`.
    """
    root = Path(folder)
    _write_json(root / "model_index.json", configs.MODEL_INDEX if image_encoder is None else configs.IMAGE_MODEL_INDEX)
    _write_json(root / "scheduler" / "scheduler_config.json", configs.scheduler_config(shift))
    fields = configs.transformer_config_to_diffusers(transformer.config)
    state = keymap.transformer_to_diffusers(transformer.state_dict())
    _save_network(root / "transformer", _DIFFUSERS_WEIGHTS, fields, state, dtype)
    fields = configs.vae_config_to_diffusers(vae.config)
    state = keymap.vae_to_diffusers(vae.state_dict(), vae.config)
    _save_network(root / "vae", _DIFFUSERS_WEIGHTS, fields, state, dtype)
    fields = configs.text_config_to_transformers(text_encoder.config, str(dtype).removeprefix("torch."))
    state = _untied(text_encoder.model.state_dict())
    _save_network(root / "text_encoder", _TRANSFORMERS_WEIGHTS, fields, state, dtype)
    _save_tokenizer(root / "tokenizer", tokenizer)
    if image_encoder is not None:
        fields = configs.image_config_to_transformers(image_encoder.config, str(dtype).removeprefix("torch."))
        state = _with_prefix(image_encoder.model.state_dict(), "vision_model.")
        _save_network(root / "image_encoder", _TRANSFORMERS_WEIGHTS, fields, state, dtype)
        settings = configs.image_processor_config(image_encoder.config.image_size)
        _write_json(root / "image_processor" / "preprocessor_config.json", settings)


class _Files:
    """The tensors of a few files by name: shapes first, weights when asked."""

    def __init__(self, folder: Path, files: Iterable[Path]) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.file: dict[str, Path] = {}
        self._pickled: dict[Path, dict[str, Tensor]] = {}
        files = list(files)
        if not files:
            raise ValueError(f"model = {str(folder)!r}: holds no *.safetensors")
        for file in files:
            if not file.is_file():
                raise ValueError(f"model = {str(folder)!r}: {file} is missing")
            for name, shape in self._list(file):
                if name in self.file:
                    raise ValueError(f"tensor {name!r} is in {self.file[name]} and in {file}")
                self.shapes[name], self.file[name] = shape, file

    @classmethod
    def find(cls, folder: Path, stem: str) -> _Files:
        """The files that a folder's index names, or its one file `stem`.safetensors."""
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            shards = set(configs.read_json(index)["weight_map"].values())
            return cls(folder, [folder / name for name in sorted(shards)])
        return cls(folder, [folder / f"{stem}.safetensors"])

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def drop(self, names: Iterable[str]) -> None:
        """Forget tensors that the network has no use for."""
        for name in names:
            self.shapes.pop(name, None)
            self.file.pop(name, None)

    def fill(self, module: nn.Module, to_file: Rename, from_file: Rename, device: Device, dtype: torch.dtype) -> None:
        """Give `module`, whose tensors are on the meta device, the tensors of these files."""
        self._check({name: tuple(tensor.shape) for name, tensor in to_file(module.state_dict()).items()})
        module.load_state_dict(from_file(self._read(device, dtype)), strict=True, assign=True)

    def _check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        missing = [name for name in expected if name not in self.shapes]
        extra = [name for name in self.shapes if name not in expected]
        wrong = [name for name, shape in self.shapes.items() if name in expected and expected[name] != shape]
        if missing:
            raise ValueError(f"tensor {missing[0]!r} is missing in {self.folder}{_more(missing)}")
        if extra:
            file = self.file[extra[0]]
            raise ValueError(f"tensor {extra[0]!r} in {file} is not one of this network{_more(extra)}")
        if wrong:
            name = wrong[0]
            raise ValueError(
                f"tensor {name!r} in {self.file[name]} has the shape {self.shapes[name]}: "
                f"must be {expected[name]}{_more(wrong)}"
            )

    def _list(self, file: Path) -> list[tuple[str, tuple[int, ...]]]:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as tensors:
                    names = list(tensors.keys())
                    return [(name, tuple(tensors.get_slice(name).get_shape())) for name in names]
            self._pickled[file] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # the libraries raise their own kinds for a torn or foreign file
            raise ValueError(f"{file} cannot be read: {error}") from error
        return [(name, tuple(tensor.shape)) for name, tensor in self._pickled[file].items()]

    def _read(self, device: Device, dtype: torch.dtype) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for file in sorted(set(self.file.values())):
            names = [name for name, where in self.file.items() if where == file]
            if file in self._pickled:
                state |= {name: _cast(self._pickled[file][name].to(device), dtype) for name in names}
                continue
            with safe_open(file, framework="pt", device=str(device)) as tensors:
                state |= {name: _cast(tensors.get_tensor(name), dtype) for name in names}
        self._pickled.clear()
        return state


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _with_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _without_prefix(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _untied(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != _TIED}


def _tied(state: State) -> dict[str, Tensor]:
    return {**state, _TIED: state["shared.weight"]}


def _tied_only(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != "shared.weight"}


def _tied_to_shared(state: State) -> dict[str, Tensor]:
    return {"shared.weight" if name == _TIED else name: tensor for name, tensor in state.items()}


def _save_network(folder: Path, stem: str, fields: Mapping[str, object], state: State, dtype: torch.dtype) -> None:
    _write_json(folder / "config.json", fields)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def _save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    marks = {"pad_token": tokenizer.pad_token, "eos_token": "</s>", "unk_token": "<unk>"}
    settings: dict[str, object] = {
        name: mark for name, mark in marks.items() if tokenizer.backend.token_to_id(mark) is not None
    }
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.max_length}
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(file: Path, content: Mapping[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
