"""Where published models lie on this machine, and which of them a folder is.

Source: the cache of `huggingface_hub`, which other programs fill as well, and the folder that `download` fills. The one
invariant: what is taken for a published repository was fetched as such. A folder's own name says nothing; the record
beside the files does, or the place that the cache gives a repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from everreel.checkpoint import configs

RECORD = "everreel.json"
"""Beside the files of a model: what `download` knows of it (`name`, `kind`, `repository`, `hub` and `revision`), and
what `convert` has no other place for (`name`, `kind`, the configs of the parts)."""
OFFICIAL = {
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "image_encoder": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
}
"""The files of the released folders."""
Layout = Literal["diffusers", "official"]
_SNAPSHOT = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")


def models_folder() -> Path:
    """Where `download` puts models: `$EVERREEL_MODELS`, else `everreel/models` in the user's cache."""
    if chosen := os.environ.get("EVERREEL_MODELS"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "everreel" / "models"


def copy_of(repository: str) -> Path | None:
    """The folder that holds a whole copy of a published repository, such as `Skywork/SkyReels-V2-DF-14B-540P`."""
    ours = models_folder() / repository
    if (ours / RECORD).is_file():
        return ours
    theirs = _cached(repository)
    return theirs if theirs is not None and is_whole(theirs) else None


def record_of(folder: Path) -> dict[str, Any]:
    """What `download` wrote down of a folder; nothing of one that it did not fill.

    Raises:
        ValueError: the record is torn.
    """
    return configs.read_json(folder / RECORD) if (folder / RECORD).is_file() else {}


def repository_of(folder: Path) -> str | None:
    """The published repository that a folder was fetched from, if it is known."""
    recorded = record_of(folder).get("repository")
    if recorded is not None:
        return str(recorded)
    path = folder.resolve()  # in the cache the files are links, and the folders are not
    found = _SNAPSHOT.fullmatch(path.parent.parent.name) if path.parent.name == "snapshots" else None
    return f"{found['owner']}/{found['name']}" if found else None


def is_whole(folder: Path) -> bool:
    """Whether every part of a model has its weights, and every index its shards; a stopped download leaves some out."""
    for index in folder.rglob("*.safetensors.index.json"):
        if not all((index.parent / shard).is_file() for shard in configs.shards_of(index)):
            return False
    layout: Layout
    parts, layout, config = [""], "official", folder / "config.json"
    if (folder / "model_index.json").is_file():
        parts, layout, config = ["transformer", "vae", "text_encoder"], "diffusers", folder / "model_index.json"
    if not config.is_file():
        return False
    fields = configs.read_json(config)
    image = "image_encoder" in fields or fields.get("model_type") == "i2v"
    parts += ["image_encoder"] if image and layout == "diffusers" else []
    there = all((folder / file).is_file() for file in needed(layout, image))
    return there and all(any((folder / part).glob("*.safetensors")) for part in parts)


def needed(layout: Layout, image: bool) -> tuple[str, ...]:
    """What every published model of a layout has beside its safetensors; `image`: with an image encoder."""
    if layout == "diffusers":
        roles = ("transformer", "vae", "text_encoder", *(["image_encoder"] if image else []))
        return ("model_index.json", *(f"{role}/config.json" for role in roles), "tokenizer/tokenizer.json")
    files = [OFFICIAL[role] for role in OFFICIAL if image or role != "image_encoder"]
    return ("config.json", *files, "google/umt5-xxl/tokenizer.json")


def _cached(repository: str) -> Path | None:
    """The newest snapshot in the cache that Hugging Face's programs share."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("model_index.json", "config.json"):
        try:
            found = try_to_load_from_cache(repository, file)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None
