"""A film that somebody asked for, where it stands, and what the two interfaces behind the server must be able to do.

`JobQueue` knows what is to be made and `FilmStore` holds what is made; both have one implementation here
(`queue.SqliteQueue`, `store.FolderStore`), which `home.open_home` alone names, and a distributed engine may put others
in their place. The one invariant: a job in progress belongs to one worker, and whatever another worker reports of it is
refused, so no film is made twice.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from everreel.serve.jobs.order import Order

Status = Literal["queued", "in_progress", "paused", "completed", "failed", "cancelled"]
Wanted = Literal["run", "pause", "cancel"]
Part = Literal["film.mp4", "thumbnail.webp", "spritesheet.jpg", "preview.jpg"]
OVER: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})
HELD = "paused"
"""What a film waits for that is paused while its worker keeps it in memory."""
ROUNDING = 1e-6  # seconds: sums of thirds are no whole numbers
LOCAL = "local"
"""Who asks where no key is needed."""
PRIORITIES = range(-1000, 1001)
FILM_ID, UPLOAD_ID = r"video_[0-9a-f]{32}", r"file_[0-9a-f]{32}"


def new_id(kind: Literal["video", "file"]) -> str:
    """128 bits drawn at random, so that nobody guesses another's."""
    return f"{kind}_{secrets.token_hex(16)}"


class JobError(Exception):
    """What cannot be done, as one line for whoever asked; it names no path."""


class NotFoundError(JobError):
    """There is no such film, or it is somebody else's, which is the same to whoever asks."""


class ConflictError(JobError):
    """The film's state does not allow it, or a key of idempotency was used for something else."""


class QuotaError(JobError):
    """The owner has as much as is allowed."""


FULL_DISK = "disk: is full on the server; try again when films were deleted"


class DiskFullError(JobError):
    """There is no room for another film; those in progress wait."""


class BusyError(JobError):
    """Not now, but soon; nothing was done."""


class EnhancerError(JobError):
    """The language model that makes prompts whole gave no answer that can be used; the order is not wrong for that."""


class LateEnhancerError(EnhancerError):
    """It gave none in time."""


class LostJobError(Exception):
    """A worker reports of a film that is not its own any more; it lets go of it."""


@dataclass(frozen=True)
class Failure:
    """Why a film failed, in one line that names no path."""

    code: Literal["invalid_request", "generation_failed", "worker_lost", "internal_error"]
    message: str


@dataclass(frozen=True)
class Job:
    """One film. Times are whole seconds since 1970, for people only: nothing is ordered or decided by them."""

    id: str
    """`video_` and 32 hexadecimal digits, drawn at random."""
    owner: str
    order: Order
    status: Status
    created_at: int
    number: int
    """Counts the films of a queue up; the order of lists."""
    version: int
    """Counts up with every change of this job."""
    wanted: Wanted = "run"
    priority: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    row: int = 0
    """Rows of the schedule that are done, of `num_rows`."""
    num_rows: int = 0
    num_frames: int = 0
    """Frames on disk, without those of a film that was uploaded to be gone on with."""
    num_bytes: int = 0
    attempts: int = 0
    """How often a worker was lost since the film last had new frames."""
    failure: Failure | None = None
    waiting: str = ""
    """What holds up a film in progress, such as a full disk; empty where nothing does."""

    @property
    def state(self) -> Status:
        """The status for whoever looks on: a film that its worker holds is paused, too."""
        return "paused" if self.status == "in_progress" and self.waiting == HELD else self.status

    @property
    def over(self) -> bool:
        """Whether nothing more will happen unless somebody asks."""
        return self.status in OVER

    @property
    def whole(self) -> bool:
        """Whether the film is as long as it was to be: completed, or endless and stopped."""
        return self.status == "completed" or (self.order.endless and self.over and self.num_frames > 0)

    @property
    def progress(self) -> int:
        """Percent; 100 only when the film is completed. An endless film has none."""
        if self.status == "completed":
            return 100
        if self.order.endless or not self.num_rows:
            return 0
        return min(99, 100 * self.row // self.num_rows)


@dataclass(frozen=True)
class Report:
    """What a worker says of its film, now and then."""

    row: int
    num_rows: int
    num_frames: int
    num_bytes: int
    waiting: str = ""


@dataclass(frozen=True)
class Quota:
    """What an owner may have at once; None is without a limit."""

    films: int | None = None
    seconds: float | None = None
    """Of film: asked for and not over yet, or made and kept."""
    bytes: int | None = None
    """Of films and uploads that are kept."""

    def check(self, used: Usage, seconds: float, uploaded: int) -> None:
        """Whether another film of so many seconds may be asked for. Raises: QuotaError."""
        if self.films is not None and used.films >= self.films:
            raise QuotaError(f"films = {used.films}: you may have {self.films} at once; delete some")
        most, have = self.seconds, used.seconds
        if most is not None and (have + seconds > most + ROUNDING or have >= most):
            left = max(0.0, most - have)
            rule = f"you may have {most:g} s of film and have {have:g} s"
            raise QuotaError(f"seconds = {seconds:g}: {rule}; " + (f"{left:g} works" if left else "delete some"))
        self.check_bytes(used, uploaded)

    def check_bytes(self, used: Usage, uploaded: int) -> None:
        """Whether a film may be begun, with so many bytes of uploads. Raises: QuotaError."""
        if self.bytes is not None and used.bytes + uploaded >= self.bytes:
            rule = f"you may have {self.bytes} of films and uploads"
            raise QuotaError(f"bytes = {used.bytes + uploaded}: {rule}; delete some")


@dataclass(frozen=True)
class Usage:
    """What an owner has; see `Quota`."""

    films: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Owner:
    """Somebody with a key: how much they may have, and how urgent their films may be."""

    name: str = LOCAL
    quota: Quota = field(default_factory=Quota)
    highest_priority: int = 0


@dataclass(frozen=True)
class Limits:
    """What one order may ask of this server."""

    seconds: float = 600
    """Of a film with an end."""
    pixels: int = 1280 * 736
    """Of a frame."""
    steps: int = 100
    prompt: int = 8000
    """Characters of all prompts together."""
    upload_bytes: int = 256_000_000
    upload_pixels: int = 50_000_000
    """Of a picture, or of a frame of a film."""
    upload_seconds: float = 3600
    retention: float | None = None
    """Seconds that a film is kept after it is done; None: for ever."""


@dataclass(frozen=True)
class Upload:
    """A picture or a film that was sent, read and found whole."""

    kind: Literal["image", "video"]
    suffix: str
    """Of its file, by what it holds: .png, .mp4, ..."""
    width: int
    height: int
    seconds: float = 0
    """Of a film."""
    id: str = ""
    num_bytes: int = 0


@dataclass(frozen=True)
class Once:
    """A key of idempotency, and a digest of what came with it: the same request is one film, however often it comes."""

    key: str
    digest: str

    @property
    def hashed(self) -> str:
        """The key as it is kept: keys are what clients make up, of any length and any characters."""
        return hashlib.sha256(self.key.encode("utf-8", "surrogatepass")).hexdigest()


class JobQueue(Protocol):
    """What is to be made. Every call is one transaction; any number of processes may use it at once."""

    def put(
        self,
        order: Order,
        owner: Owner,
        *,
        seconds: float,
        uploaded: int = 0,
        priority: int = 0,
        once: Once | None = None,
    ) -> tuple[Job, bool]:
        """A new job, or the one that was put `once`; True where it is new.

        `seconds` is how long the film will be, which counts towards the quota; of an endless one counts what is made.
        `uploaded` is how many bytes of uploads the owner has.

        Raises:
            RequestError: the priority is none of `PRIORITIES`.
            NotFoundError: the film that this one goes on with is gone.
            QuotaError: with the quota and what works.
            ConflictError: the key of idempotency belongs to another request.
            DiskFullError: nothing can be written down.
        """
        ...

    def known(self, owner: str, once: Once) -> Job | None:
        """The job that was put `once` already, if any. Raises: ConflictError, as from `put`."""
        ...

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """Raises: NotFoundError; with `owner`, also where the job is somebody else's."""
        ...

    def page(
        self, owner: str | None, *, after: str | None = None, limit: int = 20, newest_first: bool = True
    ) -> Sequence[Job]:
        """Jobs of an owner (of everybody: None) behind the one called `after`. Raises: NotFoundError of `after`."""
        ...

    def claim(self, worker: str, models: Sequence[str] | None = None) -> Job | None:
        """The next job, now in progress and this worker's: by priority, then by turns among owners, then by age.

        None also where that cannot be written down, as the disk is full.
        """
        ...

    def report(self, job_id: str, worker: str, report: Report) -> Wanted:
        """Write down how far a film is, and hear what its owner wants. Raises: LostJobError, DiskFullError."""
        ...

    def finish(self, job_id: str, worker: str, status: Status, failure: Failure | None = None) -> Job:
        """A worker lets go: completed, failed, cancelled, paused, or queued again. Raises: LostJobError, DiskFullError.

        Whether a film that is not done is then paused, cancelled or queued is as was wanted last.
        """
        ...

    def give_way(self, job_id: str, worker: str, models: Sequence[str] | None = None) -> bool:
        """A worker lets go of a job between two parts of it, if another of these models that is no less urgent waits:
        it is then queued behind all that its owner has there, and its owner's turn is over. Whether it did.

        Raises: LostJobError, DiskFullError.
        """
        ...

    def release(self, worker: str | None = None) -> int:
        """A worker is gone (all of this home are: None): its jobs wait for another, are paused or cancelled as was
        wanted, and fail after too many attempts without a new frame; that all are gone counts for none. How many there
        were.
        """
        ...

    def want(self, job_id: str, wanted: Wanted, owner: str | None = None) -> Job:
        """Pause, cancel, or go on with a job that is paused, failed or cancelled. To ask twice is no conflict.

        Raises:
            NotFoundError: as from `get`.
            ConflictError: a completed film cannot be paused or cancelled, and so on; the message says what works.
            QuotaError: to go on, the film needs more seconds or bytes than its owner has left.
        """
        ...

    def remove(self, job_id: str, owner: str | None = None) -> None:
        """Cancel if need be, and forget: from now on it is not found, and its key of idempotency is free again.

        Raises: NotFoundError.
        """
        ...

    def removed(self) -> Sequence[str]:
        """Removed jobs whose files may go: no worker has them, no film is to go on with them. `forget` them then."""
        ...

    def forget(self, job_id: str) -> None:
        """Nothing is left of a removed job."""
        ...

    def expire(self, seconds: float) -> int:
        """Remove films that were completed, failed or cancelled so long ago, by no clock that jumps; how many.

        From then on, films tell when they will expire.
        """
        ...

    def usage(self, owner: str) -> Usage:
        """What an owner has, uploads not counted."""
        ...

    def check_bytes(self, owner: str, uploaded: int = 0) -> None:
        """Whether an owner, who has so many bytes of uploads, may begin a film, by the quota of the last order.

        Raises:
            QuotaError: they have as many bytes as are allowed.
        """
        ...

    def seconds_left(self, owner: str) -> float | None:
        """How much more film an owner may have, by the quota of the last order; None: as much as there is time for.

        Nothing is left where the owner has as many bytes as are allowed.
        """
        ...

    def needed(self) -> set[str]:
        """Uploads that are named by jobs, which may be made, gone on with or asked for again."""
        ...

    def running(self) -> Sequence[Job]:
        """Jobs in progress, everybody's."""
        ...

    def counts(self) -> Mapping[Status, int]:
        """Jobs by status; every status is there."""
        ...


class FilmStore(Protocol):
    """Films and uploads by id. An id is checked before it becomes part of a path: it is what `new_id` draws."""

    def workplace(self, job_id: str) -> Path:
        """A folder of this machine in which a worker makes the film; it is there.

        What a worker writes there is what `open` and `size` read at once, each part by its name. And of a film that
        exists already all its files are there, its journal too: a worker takes it up from them, and a later film goes
        on with them. So a store that spans machines is a folder that they share, or brings the files there. Whoever
        makes a film holds the file `lock` there; in a folder that machines share, a lock must hold for all of them.

        Raises: NotFoundError, where that is no id.
        """
        ...

    def open(self, job_id: str, part: Part) -> BinaryIO:
        """A part of a film, as far as it is there. It can be sought in, and read to its end though the film is deleted.

        Raises: NotFoundError.
        """
        ...

    def size(self, job_id: str, part: Part) -> int:
        """Bytes; 0 where it is not there."""
        ...

    def wish(self, job_id: str) -> None:
        """Somebody watches, and would like a new preview. A film that was not begun need not remember it."""
        ...

    def take_wish(self, job_id: str) -> bool:
        """Whether somebody would; the wish is gone then."""
        ...

    def delete(self, job_id: str) -> None:
        """All of a film; nothing happens where there is none."""
        ...

    def incoming(self) -> Path:
        """A folder for what is just being received, from which `keep` takes it over; what is forgotten there goes."""
        ...

    def keep(self, source: Path, owner: str, suffix: str, most: int | None = None) -> str:
        """Take a checked file over as an upload, and give it an id; the owner's uploads are then `most` bytes at most,
        whatever else is kept at the same time.

        Raises:
            QuotaError: they would be more; the file is gone all the same.
            DiskFullError: there is no room.
        """
        ...

    def upload(self, upload_id: str, owner: str | None = None) -> Path:
        """An upload's file on this machine. Its name begins with the id, by which errors tell of it; then its suffix.

        Raises: NotFoundError; with `owner`, also where it is somebody else's.
        """
        ...

    def uploads(self, owner: str | None) -> int:
        """Bytes of an owner's uploads (of everybody's: None)."""
        ...

    def drop_uploads(self, but: set[str]) -> None:
        """Delete uploads that are older than a day and not among these, which jobs still need."""
        ...

    def free_bytes(self) -> int:
        """Room on the disk, less what is kept in reserve."""
        ...
