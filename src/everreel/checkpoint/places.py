"""Where published models lie on this machine, and which of them a folder is.

Source: the cache of `huggingface_hub`, which other programs fill as well, and the folder that `download` fills. The one
invariant: what is taken for a published repository was fetched as such. A folder's own name says nothing; the record
beside the files does, or the place that the cache gives a repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from everreel.checkpoint import configs

RECORD = "everreel.json"
"""Beside the files of a model: what `download` knows of it (`name`, `kind`, `repository`, `hub` and `revision`), and
what `convert` has no other place for (`name`, `kind`, the configs of the parts)."""
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
    if (folder / "model_index.json").is_file():
        named = configs.read_json(folder / "model_index.json")
        parts = {"transformer", "vae", "text_encoder"} | ({"image_encoder"} & named.keys())
        tokenizer = folder / "tokenizer" / "tokenizer.json"
        return tokenizer.is_file() and all(any((folder / part).glob("*.safetensors")) for part in parts)
    pickles = list(folder.glob("*.pth"))
    tokenizer = folder / "google" / "umt5-xxl" / "tokenizer.json"
    return len(pickles) >= 2 and tokenizer.is_file() and any(folder.glob("*.safetensors"))


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
