"""A model from a hub onto this machine.

Source: the repositories that publish SkyReels-V2, in the layout of the released code and in that of diffusers; and
whatever else is published in one of them, such as somebody's fine-tuned model. The one
invariant: a model's folder has its name only when every file that is needed is in it with the checksum that the hub
gave. Until then it is NAME.incomplete, and what has come stays there for the next try.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from everreel.checkpoint import configs, places
from everreel.checkpoint.catalog import CATALOG, ModelCard, published
from everreel.checkpoint.hubs import HubName, RemoteFile, fetch, hub_of
from everreel.checkpoint.places import OFFICIAL, Layout

CHUNK_BYTES = 1 << 22
_STAGING, _LOCK = ".staging", ".lock"

_DIFFUSERS_PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler", "image_encoder", "image_processor")
_TAKEN: dict[Layout, re.Pattern[str]] = {
    "diffusers": re.compile(
        rf"LICEN[CS]E[^/]*|model_index\.json|(?:{'|'.join(_DIFFUSERS_PARTS)})/[^/]+\.(?:json|safetensors)"
    ),
    "official": re.compile(
        r"LICEN[CS]E[^/]*|config\.json|[^/]+\.safetensors(?:\.index\.json)?|google/umt5-xxl/[^/]+\.json|"
        + "|".join(map(re.escape, OFFICIAL.values()))
    ),
}
_VARIANT = re.compile(r"\.(?:fp16|bf16|fp32)[.-]")  # the same weights once more, in another precision


@dataclass(frozen=True)
class Progress:
    """How far a download is."""

    file: str
    num_bytes: int
    """Of all files that are here."""
    total: int


def download(
    name: str,
    *,
    to: str | Path | None = None,
    hub: HubName = "huggingface",
    layout: Layout | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    endpoint: str | None = None,
) -> Path:
    """The folder of a published model, after fetching what is missing of it.

    Args:
        name: of the catalog, or of the repository that publishes it, OWNER/NAME.
        to: a folder that is not there yet; by default one where `find_model` looks.
        layout: by default the one that `name` says, else diffusers' on Hugging Face and the official one on ModelScope;
            of a repository that the catalog does not know, the one that it has.
        endpoint: another address of the hub.

    Raises:
        ValueError: there is no such model, its repository cannot be read, the disk has no room for it, or a file is not
            what was published; the message says what to do.
    """
    for field, value, known in (("hub", hub, get_args(HubName)), ("layout", layout, (None, *get_args(Layout)))):
        if value not in known:
            raise ValueError(f"{field} = {value!r}: must be one of {', '.join(filter(None, known))}")
    card, repository = _wanted(name, hub, layout)
    folder = Path(to).expanduser() if to is not None else places.models_folder() / repository
    if folder.is_dir() and any(folder.iterdir()):
        if places.record_of(folder).get("repository") == repository:
            return folder
        raise ValueError(f"to = {folder}: holds other files; give a folder that is not there yet")
    source = hub_of(hub, endpoint)
    revision, listed = source.files(repository)
    files = needed_files(repository, listed, card, layout)
    part = folder.with_name(f"{folder.name}.incomplete")
    with _alone(part):
        missing = [file for file in files if not _is_right(part / file.path, file)]
        check_space(folder, max(sum(file.num_bytes for file in missing) - _begun(part / _STAGING), 0))
        done = sum(file.num_bytes for file in files) - sum(file.num_bytes for file in missing)
        for file in missing:
            arrived = _reporter(on_progress, file.path, done, files)
            staged = fetch(source, repository, revision, file, part / _STAGING, arrived)
            _put_in_place(repository, staged, part / file.path, file)
            done += file.num_bytes
        shutil.rmtree(part / _STAGING, ignore_errors=True)
        told: dict[str, str] = {} if card is None else {"name": card.official.split("/")[1], "kind": card.kind}
        record = {**told, "repository": repository, "hub": hub, "revision": revision}
        configs.write_json(part / places.RECORD, record)
    if folder.is_dir():
        folder.rmdir()
    part.rename(folder)
    return folder


def needed_files(
    repository: str, listed: list[RemoteFile], card: ModelCard | None, layout: Layout | None = None
) -> list[RemoteFile]:
    """Of all that a repository holds what a model is loaded from, each tensor once.

    Without a card the repository itself tells its layout, and whether its model begins with pictures.

    Raises:
        ValueError: something that every model has is not there.
    """
    there = {file.path for file in listed}
    if card is not None:
        layout, image = "diffusers" if repository.endswith("-Diffusers") else "official", card.image
    else:
        layout = layout or ("diffusers" if "model_index.json" in there else "official")
        image = bool(there & {"image_encoder/config.json", OFFICIAL["image_encoder"]})
    taken = [f for f in listed if _TAKEN[layout].fullmatch(f.path) and not _VARIANT.search(f.path)]
    if not image:
        taken = [f for f in taken if f.path != OFFICIAL["image_encoder"] and not f.path.startswith("image_")]
    paths = [file.path for file in taken]
    for path in places.needed(layout, image):
        if path not in paths:
            raise ValueError(f"{repository}: holds no {path}, so it is no model of the {layout} layout; try the other")
    weights = "transformer/" if layout == "diffusers" else ""
    if not any(path.startswith(weights) and path.endswith(".safetensors") for path in paths):
        raise ValueError(f"{repository}: holds no safetensors of a transformer; try the other layout")
    return taken


def check_space(folder: Path, num_bytes: int) -> None:
    """There is room for so many bytes where a folder is to be.

    Raises:
        ValueError: there is not; the message says how much is missing.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if num_bytes > free:
        lacking = f"free {_size(num_bytes - free)} more, or give a folder on another disk with --to"
        raise ValueError(f"{folder}: needs {_size(num_bytes)}, and {there} has {_size(free)} free; {lacking}")


def _wanted(name: str, hub: HubName, layout: Layout | None) -> tuple[ModelCard | None, str]:
    """The model, if it is a released one, and the repository that has it in the layout."""
    card = published(name)
    released = [card.name for card in CATALOG if card.released]
    if card is None:
        if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
            return None, name
        rule = "or a repository, OWNER/NAME; everreel models says more"
        raise ValueError(f"model = {name!r}: must be one of {', '.join(released)}, {rule}")
    if not card.released:
        raise ValueError(f"model = {name!r}: is inside the package, there is nothing to download")
    if layout is None:
        said = name.lower().endswith("-diffusers") or ("/" not in name and hub == "huggingface")
        layout = "diffusers" if said else "official"
    if layout == "diffusers" and hub == "modelscope":
        rule = "ModelScope has the official layout alone; leave out --layout, or take it from huggingface"
        raise ValueError(f"layout = {layout}: {rule}")
    return card, card.diffusers if layout == "diffusers" else card.official


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """The folder of an unfinished download, for one process at a time."""
    from filelock import FileLock, Timeout

    part.mkdir(parents=True, exist_ok=True)
    lock = FileLock(part / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{part}: another process downloads into it; wait for it, or stop it") from None
    try:
        yield
    finally:
        (part / _LOCK).unlink(missing_ok=True)
        lock.release()
        if not any(part.iterdir()):
            part.rmdir()


def _put_in_place(repository: str, staged: Path, place: Path, file: RemoteFile) -> None:
    """A file that has come, if it is what was published; else it is removed."""
    if not _is_right(staged, file):
        staged.unlink()
        rule = "came with another checksum than was published and was removed; the same command fetches it again"
        raise ValueError(f"{repository}: {file.path} {rule}")
    place.parent.mkdir(parents=True, exist_ok=True)
    staged.replace(place)


def _is_right(path: Path, file: RemoteFile) -> bool:
    """Whether a file is there and is what the hub says of it."""
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    if file.sha256 is not None:
        return _digest(path, hashlib.sha256()) == file.sha256
    if file.git_sha1 is not None:
        return _digest(path, hashlib.sha1(b"blob %d\0" % file.num_bytes, usedforsecurity=False)) == file.git_sha1
    return True


def _digest(path: Path, so_far: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            so_far.update(piece)
    return so_far.hexdigest()


def _begun(staging: Path) -> int:
    """Bytes of files that have come and are not in their place yet."""
    return sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())


def _reporter(
    on_progress: Callable[[Progress], None] | None, path: str, done: int, files: list[RemoteFile]
) -> Callable[[int], None]:
    total = sum(file.num_bytes for file in files)

    def arrived(num_bytes: int) -> None:
        if on_progress is not None:
            on_progress(Progress(path, done + num_bytes, total))

    return arrived


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
