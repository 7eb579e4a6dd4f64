"""The two hubs that publish the released models: what a repository holds, and one file of it.

Sources: `huggingface_hub` for what Hugging Face says of a repository, and the HTTP interface of ModelScope
(`api/v1/models/OWNER/NAME/repo`). Files come over plain HTTP from both: the library starts a file anew that was
stopped, and checks its length alone. The one invariant: what `fetch` gives back is as long as the hub says it is, and
lies where only the next `fetch` looks; whether it is what was published is for the caller to check.
"""

from __future__ import annotations

import errno
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

HubName = Literal["huggingface", "modelscope"]
Arrived = Callable[[int], None]
"""Is told how many bytes of a file are here."""

TIMEOUT, TRIES, PAUSE = 30.0, 5, 1.0  # seconds; tries in a row that bring nothing
CHUNK_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, and what the hub says of its content."""

    path: str
    num_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None  # of small files on Hugging Face, which have no other


class Hub(Protocol):
    """What differs between the hubs."""

    @property
    def label(self) -> str:
        """Its name for people."""

    @property
    def token(self) -> str | None:
        """What lets more be read than what is public."""

    def files(self, repository: str) -> tuple[str, list[RemoteFile]]:
        """The revision that is newest now, and its files.

        Raises:
            ValueError: the repository cannot be read; the message says what to do.
        """

    def url(self, repository: str, revision: str, path: str) -> str:
        """Where a file is."""


def hub_of(name: HubName, endpoint: str | None = None) -> Hub:
    """A hub, or one that answers like it at another address."""
    return HuggingFace(endpoint) if name == "huggingface" else ModelScope(endpoint)


class HuggingFace:
    """With the address and the token that its own library uses."""

    label = "Hugging Face"

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    @property
    def token(self) -> str | None:
        """See `Hub.token`."""
        from huggingface_hub import get_token

        return get_token()

    def files(self, repository: str) -> tuple[str, list[RemoteFile]]:
        """See `Hub.files`."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            info = HfApi(endpoint=self._endpoint).model_info(repository, files_metadata=True, timeout=TIMEOUT)
        except OfflineModeIsEnabled as error:
            raise ValueError(f"{repository}: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it") from error
        except Exception as error:  # its own, those of its transport and those of the system
            status = getattr(getattr(error, "response", None), "status_code", None)
            raise _refused(self, repository, status, str(error)) from error
        found = [
            RemoteFile(
                _inside(repository, file.rfilename),
                file.size or 0,
                sha256=file.lfs.sha256 if file.lfs else None,
                git_sha1=None if file.lfs else file.blob_id,
            )
            for file in info.siblings or []
        ]
        return info.sha or "main", found

    def url(self, repository: str, revision: str, path: str) -> str:
        """See `Hub.url`."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repository, path, revision=revision, endpoint=self._endpoint)


class ModelScope:
    """Only what is public there."""

    label, token = "ModelScope", None

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = (endpoint or "https://www.modelscope.cn").rstrip("/")

    def files(self, repository: str) -> tuple[str, list[RemoteFile]]:
        """See `Hub.files`."""
        try:
            with _open(f"{self._api(repository)}/files?Revision=master&Recursive=true", None) as response:
                listed = json.load(response)["Data"]["Files"]
            files = [file for file in listed if file["Type"] != "tree"]
            found = [
                RemoteFile(_inside(repository, file["Path"]), int(file["Size"]), sha256=file.get("Sha256") or None)
                for file in files
            ]
        except urllib.error.HTTPError as error:
            raise _refused(self, repository, error.code, str(error)) from error
        except (OSError, HTTPException) as error:
            raise _refused(self, repository, None, str(error)) from error
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{repository}: ModelScope answers with something else than a list of files") from error
        return "master", found

    def url(self, repository: str, revision: str, path: str) -> str:
        """See `Hub.url`."""
        return f"{self._api(repository)}?{urllib.parse.urlencode({'Revision': revision, 'FilePath': path})}"

    def _api(self, repository: str) -> str:
        return f"{self._endpoint}/api/v1/models/{urllib.parse.quote(repository)}/repo"


def fetch(hub: Hub, repository: str, revision: str, file: RemoteFile, staging: Path, arrived: Arrived) -> Path:
    """One file, under `staging`; goes on with what an earlier call left there.

    Raises:
        ValueError: the hub does not give it, or the disk is full; the message says what to do.
    """
    path = staging / f"{file.path}.incomplete"
    try:
        return _fetched(hub, repository, revision, file, path, arrived)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        rule = "free some room, and the same command goes on from there, or give a folder on another disk with --to"
        raise ValueError(f"{path}: the disk is full; what has come is kept: {rule}") from error


def _fetched(hub: Hub, repository: str, revision: str, file: RemoteFile, path: Path, arrived: Arrived) -> Path:
    """As `fetch`; raises OSError where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    tries, why = 0, "the connection was cut"
    while tries < TRIES:
        before = path.stat().st_size
        try:
            _append(hub, hub.url(repository, revision, file.path), path, file, arrived)
        except urllib.error.HTTPError as error:
            why = f"{file.path}: {error}"
            if error.code < 500 and error.code not in (408, 416, 429):
                raise _refused(hub, repository, error.code, why) from error
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            why = f"{file.path}: {error}"
        now = path.stat().st_size
        if now == file.num_bytes:
            return path
        tries = 0 if now > before else tries + 1
        time.sleep(PAUSE)
    raise _refused(hub, repository, None, why)


def _append(hub: Hub, url: str, path: Path, file: RemoteFile, arrived: Arrived) -> None:
    """What is missing of a file, up to where the connection breaks."""
    start = path.stat().st_size
    if start == file.num_bytes:
        arrived(start)
        return
    if start > file.num_bytes:
        start = 0
    with _open(url, hub.token, start) as response, path.open("r+b") as out:
        if response.status != 206:
            start = 0  # the server sends all of it
        out.truncate(start)
        out.seek(start)
        arrived(start)
        while piece := response.read(CHUNK_BYTES):
            start += len(piece)
            if start > file.num_bytes:
                raise ValueError(f"{file.path}: {hub.label} sends more than the {file.num_bytes} bytes it lists")
            out.write(piece)
            arrived(start)


def _open(url: str, token: str | None, start: int = 0) -> HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "everreel"})
    if token:
        # Not sent on to the servers that hold the files, which are others.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if start:
        request.add_header("Range", f"bytes={start}-")
    response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    return response


def _inside(repository: str, path: str) -> str:
    """The path of a file within its repository.

    Raises:
        ValueError: it leads out of it.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise ValueError(f"{repository}: lists a file {path!r}, which lies outside of it; nothing was downloaded")
    return path


def _refused(hub: Hub, repository: str, status: int | None, why: str) -> ValueError:
    """One line that says what happened and what to do."""
    if status in (401, 403):
        other = "ModelScope (--hub modelscope)" if hub.label == "Hugging Face" else "Hugging Face (--hub huggingface)"
        token = "set HF_TOKEN to a token that may read it, or take it" if hub.label == "Hugging Face" else "take it"
        return ValueError(f"{repository}: {hub.label} does not let it be read ({status}); {token} from {other}")
    if status == 404:
        rule = "or not with this file; try the other hub or layout"
        return ValueError(f"{repository}: is not on {hub.label} (404), {rule}")
    first = " ".join(why.split())[:200] or "no answer"
    rule = "what has come is kept, and the same command goes on from there"
    return ValueError(f"{repository}: {hub.label} cannot be read now: {first}; {rule}")
