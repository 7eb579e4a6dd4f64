"""What a path holds: a model in one of the layouts that weights are published in, and where each of its parts is.

Sources: the released folders and diffusers' folders of SkyReels-V2; single files as ComfyUI users have them, whose
VAE, text and image encoders lie in sibling folders (`vae/`, `text_encoders/`, `clip/`, `clip_vision/`). The one
invariant: networks are told by their tensors, and what a model was trained for by what its publisher wrote down (a
class, a config, metadata), never by the name of a folder; where nothing says it, `kind` is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from everreel.checkpoint import configs, contents
from everreel.checkpoint.configs import KIND_OF_PIPELINE, Kind
from everreel.checkpoint.contents import SENTENCEPIECE, Config, Content, Role, Shards, recognise
from everreel.checkpoint.places import OFFICIAL, record_of
from everreel.checkpoint.tensors import AGAIN, open_tensors
from everreel.model.config import ImageEncoderConfig, TextEncoderConfig, TransformerConfig, VAEConfig

Layout = Literal["diffusers", "official", "single"]

KINDS: tuple[Kind, ...] = get_args(Kind)
TOKENIZERS = ("tokenizer", "google/umt5-xxl", "umt5-xxl", ".")
"""Where a folder keeps its tokenizer.json."""
_PLAIN = ("float32", "bfloat16", "float16")
_SIBLINGS = ("vae", "text_encoders", "clip", "clip_vision")
_NAMED = 8  # strays that are named
ConfigT = TypeVar("ConfigT")
SUFFIXES = (".safetensors", ".sft", ".gguf", ".pth", ".pt", ".ckpt", ".bin")
_PUBLISHED = re.compile(r"SkyReels-V2-(DF|T2V|I2V)-[\d.]+B-\d+P")
_TITLES = ("everreel.name", "modelspec.title", "general.name")
DIFFUSERS_STEM = "diffusion_pytorch_model"
_NEEDED = {
    "vae": "its VAE (wan_2.1_vae.safetensors or Wan2.1_VAE.pth)",
    "text_encoder": "its text encoder (umt5_xxl_*.safetensors or models_t5_umt5-xxl-enc-bf16.pth)",
    "image_encoder": f"its image encoder (clip_vision_h.safetensors or {OFFICIAL['image_encoder']})",
    "tokenizer": "tokenizer.json of its tokenizer (google/umt5-xxl)",
}


@dataclass(frozen=True)
class Part:
    """One network: its files, how their tensors are called, and its config."""

    paths: tuple[Path, ...]
    content: Content
    config: Config

    def open(self) -> Shards:
        """Its tensors, unread."""
        return Shards(self.paths, self.content)

    @property
    def is_mapped(self) -> bool:
        """Whether all tensors are of types to compute with; read as they are, they take no memory of their own."""
        return all(info.dtype in _PLAIN for info in self.open().infos.values())


@dataclass(frozen=True)
class Source:
    """A model on disk. The parts beside the transformer are looked for when they are asked for; None is not found."""

    path: Path
    layout: Layout
    transformer: Part
    kind: Kind | None
    name: str | None
    """That of the published repository, where the files say it."""
    parts: Path | None = None

    @property
    def config(self) -> TransformerConfig:
        """The transformer's."""
        assert isinstance(self.transformer.config, TransformerConfig)
        return self.transformer.config

    @cached_property
    def vae(self) -> Part | None:
        """The VAE."""
        return find_part(self.path, "vae", self.parts, self.config)

    @cached_property
    def text_encoder(self) -> Part | None:
        """The text encoder."""
        return find_part(self.path, "text_encoder", self.parts, self.config)

    @cached_property
    def image_encoder(self) -> Part | None:
        """The image encoder of an I2V model."""
        return find_part(self.path, "image_encoder", self.parts, self.config)

    @cached_property
    def tokenizer(self) -> Path | None:
        """The folder of tokenizer.json, or the text encoder's file that holds the tokenizer as a tensor."""
        return find_tokenizer(self.path, self.parts)

    @property
    def strays(self) -> list[str]:
        """A line for each network whose files hold tensors that are known to be none of its own, with their names."""
        image = self.image_encoder if self.config.image_dim else None
        parts = [part for part in (self.transformer, self.vae, self.text_encoder, image) if part is not None]
        return [_left_out(part, found) for part in parts if (found := part.open().strays)]

    @property
    def missing(self) -> tuple[str, ...]:
        """The parts that it needs and that are nowhere, in words."""
        needed = ["vae", "text_encoder", "tokenizer", *(["image_encoder"] if self.config.image_dim else [])]
        return tuple(_NEEDED[part] for part in needed if getattr(self, part) is None)


def find_source(path: str | Path, parts: str | Path | None = None) -> Source:
    """What a model's path holds.

    Args:
        path: a folder in the released or in diffusers' layout, a file of the transformer, or a folder of single files.
        parts: a model's folder, or one of single files, with the parts that are not beside `path`.

    Raises:
        ValueError: there is no model, there are two, a file is torn, or a config contradicts the tensors.
    """
    where, beside = Path(path).expanduser(), None if parts is None else Path(parts).expanduser()
    if beside is not None and not beside.is_dir():
        raise ValueError(f"parts = {str(parts)!r}: must be a folder")
    chosen = False
    for folder in where.parents[:2]:
        if where.parts[len(folder.parts)] == "transformer" and (folder / "model_index.json").is_file():
            where, chosen = folder, True  # what was given is a part of it
            break
    if not where.exists():
        raise ValueError(f"model = {str(path)!r}: no such file or folder")
    transformer, layout = find_transformer(where, chosen=chosen)
    shards = transformer.open()
    folder = where if where.is_dir() else where.parent
    kind, name = _kind(folder if where.is_dir() or layout == "official" else None, transformer, shards)
    return Source(where, layout, transformer, kind, name, beside)


def find_transformer(path: Path, *, chosen: bool = False) -> tuple[Part, Layout]:
    """The transformer at a path, and the layout that it is in; raises as `find_source`.

    With `chosen` the folder's own is meant, whatever else lies there.
    """
    if (path / "transformer").is_dir():
        where = path / "transformer"
        config = _configured(where / "config.json", configs.transformer_config_from_diffusers)
        part = Part(_indexed(where, DIFFUSERS_STEM), Content("transformer", "diffusers"), config)
        contents.check_transformer(config, part.open(), where / "config.json")
        if others := [] if chosen else _others(path, part):
            raise ValueError(f"model = {str(path)!r}: {_two([where, others[0]])}; give the path of one")
        return part, "diffusers"
    if path.is_dir():
        fields = _official_config(path)
        found, errors = _scan(path, deep=False)
        models = [group for group in found if group.content.role == "transformer"]
        if len(models) > 1:
            raise ValueError(
                f"model = {str(path)!r}: {_two([group.paths[0] for group in models])}; give the file of one"
            )
        if not models:
            raise errors[0] if errors else _no_transformer(path)
        group = models[0]
    else:
        fields = _official_config(path.parent)
        group = _group_of(path)
    return _single(group, fields)


def _others(path: Path, part: Part) -> list[Path]:
    """Transformers in a diffusers folder beside its own; other precisions of that are none."""
    beside = [group.paths[0] for group in _scan(path, deep=False)[0] if group.content.role == "transformer"]
    inside = sorted({*part.paths[0].parent.glob("*.safetensors")} - {*part.paths})
    return beside + [file for file in inside if not file.name.startswith(DIFFUSERS_STEM)]


def find_part(
    path: str | Path, role: Role, parts: Path | None = None, transformer: TransformerConfig | None = None
) -> Part | None:
    """A network beside a transformer: in a model's own folder, in `parts`, or where ComfyUI keeps such files.

    Args:
        path: of the model.
        role: which network.
        parts: is looked in first.
        transformer: what it must fit, where several files could be meant.

    Raises:
        ValueError: its files are torn or incomplete, or there are two that differ in more than precision.
    """
    where = Path(path)
    errors: list[ValueError] = []
    for folder in [*([parts] if parts else []), where if where.is_dir() else where.parent]:
        if (folder / role).is_dir() and (
            (folder / "transformer").is_dir() or (folder / role / "config.json").is_file()
        ):
            return _diffusers_part(folder / role, role)
        found, torn = _scan(folder, deep=False)
        errors += torn
        if part := _choose(found, role, transformer):
            return part
    base = where if where.is_dir() else where.parent
    for folder in _siblings(parts) + _siblings(base):
        if part := _choose(_scan(folder, deep=True)[0], role, transformer):
            return part
    # The torn file that carries the part's published name, or failing that any: it may be the one.
    errors.sort(key=lambda error: OFFICIAL.get(role, "") not in str(error))
    if errors:
        raise errors[0]
    return None


def find_tokenizer(path: str | Path, parts: Path | None = None) -> Path | None:
    """The folder that holds tokenizer.json, or a text encoder's file with the tokenizer in it."""
    where = Path(path)
    base = where if where.is_dir() else where.parent
    places = [*([parts] if parts else []), base, *_siblings(parts), *_siblings(base)]
    for folder in places:
        for inner in TOKENIZERS:
            if (folder / inner / "tokenizer.json").is_file():
                return folder / inner
    for folder in places:
        for group in _scan(folder, deep=folder != base and folder != parts)[0]:
            held = group.content.role == "text_encoder" and len(group.paths) == 1
            if held and SENTENCEPIECE in open_tensors(group.paths[0]).tensors:
                return group.paths[0]
    return None


def lacking(path: str | Path, *parts: str) -> ValueError:
    """The error of parts that are nowhere: what is needed, and how to give it."""
    *most, last = (_NEEDED[part] for part in parts)
    named, are, them = (f"{', '.join(most)} and {last}", "are", "them") if most else (last, "is", "it")
    return ValueError(
        f"model = {str(path)!r}: {named} {are} missing; put {them} beside the model or in ComfyUI's folder for {them}, "
        f"or give the folder that holds {them} as parts"
    )


@dataclass(frozen=True)
class _Group:
    """Files that hold one network."""

    paths: tuple[Path, ...]
    content: Content


def _single(group: _Group, fields: Mapping[str, Any] | None) -> tuple[Part, Layout]:
    """A transformer out of single files, with the official config beside it if there is one."""
    part = Part(group.paths, group.content, TransformerConfig())
    shards = part.open()
    if fields is None:
        return replace(part, config=contents.transformer_config(shards)), "single"
    where = group.paths[0].parent / "config.json"
    config = _configured(where, configs.transformer_config_from_official)
    names = contents.official_names(shards)
    if config.image_dim is not None and "img_emb.proj.1.weight" in names:
        # The official config has no word for this width; the released models are all of the same.
        shape = shards.infos[names["img_emb.proj.1.weight"]].shape
        config = replace(config, image_dim=shape[-1])
    contents.check_transformer(config, shards, where)
    return replace(part, config=config), "official"


def _left_out(part: Part, names: tuple[str, ...]) -> str:
    """The line for strays. Of an image encoder they may be half a model, so the first stand for the rest."""
    more = f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
    what = part.content.role.replace("_", " ")
    return f"{part.paths[0]}: left out, as none of the {what}'s: {', '.join(names[:_NAMED])}{more}"


def _official_config(folder: Path) -> Mapping[str, Any] | None:
    """The official config.json of a folder; None where there is none, or one of something else."""
    if not (folder / "config.json").is_file():
        return None
    fields = configs.read_json(folder / "config.json")
    kind = fields.get("model_type")
    return fields if kind in ("t2v", "i2v") or (kind is None and "_class_name" not in fields) else None


def _diffusers_part(folder: Path, role: Role) -> Part:
    readers: dict[Role, tuple[str, Callable[[Mapping[str, Any]], Config]]] = {
        "vae": ("diffusion_pytorch_model", configs.vae_config_from_diffusers),
        "text_encoder": ("model", configs.text_config_from_transformers),
        "image_encoder": ("model", configs.image_config_from_transformers),
    }
    stem, reader = readers[role]
    config = _configured(folder / "config.json", reader)
    paths = _indexed(folder, stem)
    if role == "vae":
        return Part(paths, Content(role, "diffusers"), config)
    names = [name for path in paths for name in open_tensors(path).tensors]
    nested = role == "image_encoder" and any(name.startswith("vision_model.") for name in names)
    return Part(paths, Content(role, "transformers", "vision_model." if nested else ""), config)


def _configured(file: Path, reader: Callable[[Mapping[str, Any]], ConfigT]) -> ConfigT:
    """A config out of its file, which is named where something is wrong with it."""
    fields = configs.read_json(file)
    try:
        return reader(fields)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _indexed(folder: Path, stem: str) -> tuple[Path, ...]:
    """The files that a folder's index names, or its one file `stem`.safetensors; all of them are there."""
    index = folder / f"{stem}.safetensors.index.json"
    files = [folder / f"{stem}.safetensors"]
    if index.is_file():
        files = [folder / name for name in configs.shards_of(index)]
    return _present(files)


def _present(files: Iterable[Path]) -> tuple[Path, ...]:
    files = tuple(files)
    for file in files:
        if not file.is_file():
            raise ValueError(f"model = {str(file.parent)!r}: {file} is missing: {AGAIN}")
    return files


def _scan(folder: Path, *, deep: bool) -> tuple[list[_Group], list[ValueError]]:
    """The networks whose files lie in a folder, and why files could not be read."""
    if not folder.is_dir():
        return [], []
    files = folder.rglob("*") if deep else folder.iterdir()
    left = sorted(file for file in files if file.suffix.lower() in SUFFIXES and file.is_file())
    groups, errors = [], []
    while left:
        try:
            shards = _shards_of(left[0])
            content = _content_of(shards)
            if content is not None:
                groups.append(_Group(shards, content))
        except ValueError as error:
            shards = (left[0],)
            errors.append(error)
        left = [file for file in left if file not in shards]
    return groups, errors


def _content_of(paths: Iterable[Path]) -> Content | None:
    return recognise({name for path in paths for name in open_tensors(path).tensors})


def _no_transformer(path: Path) -> ValueError:
    """Why a folder or a file is no model, in terms of what it holds."""
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    for file in files:
        opened = open_tensors(file)
        if opened.format == "gguf":
            other = opened.metadata.get("general.architecture", "an unknown one")
            rule = "must be one of Wan2.1 or SkyReels-V2, which holds 'patch_embedding.weight'"
            return ValueError(f"{file} is a GGUF of another model ({other}): {rule}")
    if path.is_dir():
        missing = f"{path / 'config.json'} is missing, and no file beside it holds a transformer"
        return ValueError(f"model = {str(path)!r}: {missing}")
    return ValueError(f"model = {str(path)!r}: holds no transformer of this model; give the file of one")


def _shards_of(file: Path) -> tuple[Path, ...]:
    """All the files of the network that `file` holds a part of: by an index beside it, or by their numbers."""
    for index in sorted(file.parent.glob("*.safetensors.index.json")):
        names = configs.shards_of(index)
        if file.name in names:
            return _present(file.parent / name for name in names)
    match = re.fullmatch(r"(.+)-(\d+)-of-(\d+)(\.\w+)", file.name)
    if match is None:
        return (file,)
    stem, digits, total, suffix = match[1], len(match[2]), match[3], match[4]
    return _present(
        file.with_name(f"{stem}-{number:0{digits}}-of-{total}{suffix}") for number in range(1, int(total) + 1)
    )


def _group_of(file: Path) -> _Group:
    """The transformer that a file holds, or its part of one."""
    paths = _shards_of(file)
    content = _content_of(paths)
    if content is None:
        raise _no_transformer(file)
    if content.role != "transformer":
        what = content.role.replace("_", " ")
        raise ValueError(f"model = {str(file)!r}: holds the {what} of a model; give the file of the transformer")
    return _Group(paths, content)


def _choose(groups: list[_Group], role: Role, transformer: TransformerConfig | None) -> Part | None:
    """The one of them that is the part; of one network in several precisions, the largest file."""
    fitting = []
    for group in groups:
        if group.content.role == role:
            part = _with_config(group)
            if transformer is None or _fits(part.config, transformer):
                fitting.append(part)
    if len(fitting) > 1 and role == "vae":
        # Another model's VAE has the same tensors; files of this one say whose it is.
        fitting = [part for part in fitting if "wan" in part.paths[0].name.lower()] or fitting
        if not any("wan" in part.paths[0].name.lower() for part in fitting):
            paths = [part.paths[0] for part in fitting]
            raise ValueError(f"{_two(paths)} for the VAE; leave one in {paths[0].parent}")
    return max(fitting, key=lambda part: sum(path.stat().st_size for path in part.paths), default=None)


def _with_config(group: _Group) -> Part:
    """A part out of single files: its config from notes or metadata, else off its shapes."""
    role, folder = group.content.role, group.paths[0].parent
    shards = Shards(group.paths, group.content)
    notes = record_of(folder).get(role) if group.paths[0].name == OFFICIAL.get(role) else None
    readers: dict[Role, tuple[Callable[[Any], Config], Callable[[Shards], Config]]] = {
        "vae": (configs.vae_config_from_diffusers, contents.vae_config),
        "text_encoder": (configs.text_config_from_transformers, contents.text_config),
        "image_encoder": (configs.image_config_from_transformers, contents.image_config),
    }
    noted, shaped = readers[role]
    return Part(group.paths, group.content, shaped(shards) if notes is None else noted(notes))


def _fits(config: Config, transformer: TransformerConfig) -> bool:
    if isinstance(config, TextEncoderConfig):
        return config.d_model == transformer.text_dim
    if isinstance(config, VAEConfig):
        return config.z_dim == transformer.out_dim
    return isinstance(config, ImageEncoderConfig) and config.dim == transformer.image_dim


def _siblings(folder: Path | None) -> list[Path]:
    """ComfyUI's folders of parts, beside the one of a model, which may be nested in that, or in `folder` itself."""
    roots = [] if folder is None else [folder, *folder.absolute().parents[:2]]
    return [root / name for root in roots for name in _SIBLINGS if (root / name).is_dir()]


def _kind(folder: Path | None, part: Part, shards: Shards) -> tuple[Kind | None, str | None]:
    """What the model is for and its published name, from what its publisher wrote; the tensors where they tell."""
    notes: Mapping[str, Any] = record_of(folder) if folder else {}
    texts = [str(notes.get("name", "")), *(shards.metadata.get(key, "") for key in _TITLES), *shards.strays]
    for inner in (Path("config.json"), Path("transformer") / "config.json", Path("model_index.json")):
        if folder and (folder / inner).is_file():
            fields = configs.read_json(folder / inner)
            texts += [str(fields.get("_name_or_path", ""))]
            if fields.get("_class_name") in KIND_OF_PIPELINE:
                notes = {"kind": KIND_OF_PIPELINE[fields["_class_name"]], **notes}
    published = next((match for text in texts if (match := _PUBLISHED.search(text))), None)
    stated = notes.get("kind", shards.metadata.get("everreel.kind"))
    config = part.config
    assert isinstance(config, TransformerConfig)
    kind: Kind | None = stated if stated in KINDS else None
    if config.image_dim is not None:
        kind = "i2v"  # whatever a class says: no other has the branch
    elif kind == "i2v":
        raise ValueError(f"{part.paths[0]}: kind = 'i2v', and its transformer has no image branch; must be df or t2v")
    elif kind is None and published:
        kind = {"DF": "df", "T2V": "t2v", "I2V": "i2v"}[published[1]]  # type: ignore[assignment]
    elif kind is None and config.inject_sample_info:
        kind = "df"  # of all published models one has the frame rate's embedding
    return kind, published[0] if published else None


def _two(paths: list[Path]) -> str:
    return f"holds two models, {paths[0].name} and {paths[1].name}"
