"""Films that are made to be judged: what was asked of each, which are there, how the others are made.

The one invariant: a folder's films are all made by the weights and with the settings that its `settings.json` tells,
and each of the prompt that it tells. So a run that was stopped goes on where it was, and two models never share a
folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from everreel.checkpoint.catalog import LongSchedule, ModelCard
from everreel.film.request import VideoRequest, make_request
from everreel.media import Video

FILE = "film-{:03d}.mp4"
"""What the films of `everreel evaluate` are called, by their numbers from 0."""
NOT_WEIGHTS = ("training.json", "report.json")
EACH_FILMS_OWN = {"prompt", "seed", "seconds", "resolution", "aspect"}
"""The fields of a request in which the films of a folder differ, and those that others have replaced."""


@dataclass(frozen=True)
class Making:
    """How films are made. `None` means: as the model recommends."""

    num_frames: int = 97
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_level: float | None = None
    guidance_until: float | None = None
    skip_layer_guidance_scale: float = 0.0
    shift: float | None = None
    ar_step: int = 0
    causal_block_size: int | None = None
    schedule: LongSchedule | None = None
    base_num_frames: int | None = None
    cache: bool | None = None
    sink: int | None = None
    anchor_color: float | None = None

    def request_for(self, prompt: str, seed: int) -> VideoRequest:
        """The request for one film, checked."""
        values = {name: value for name, value in asdict(self).items() if name in VideoRequest.model_fields}
        return make_request(**{**values, "prompt": prompt, "seed": seed})


@dataclass(frozen=True)
class Film:
    """One film: where it lies or will lie, and what it is made of."""

    path: Path
    request: VideoRequest

    @property
    def is_whole(self) -> bool:
        """Whether it is there, to its end."""
        try:
            return Video(self.path).num_frames == self.request.num_frames
        except (ValueError, OSError):
            return False


def make_films(
    films: Sequence[Film], make: Callable[[Film], object], on_film: Callable[[int, int], None] | None = None
) -> None:
    """Make those that are missing; `on_film(done, total)` is called before the first and after each."""
    missing, total = [film for film in films if not film.is_whole], len(films)
    for made in range(len(missing) + 1):
        if on_film is not None:
            on_film(total - len(missing) + made, total)
        if made < len(missing):
            make(missing[made])


def common_settings(card: ModelCard, request: VideoRequest, loras: Sequence[tuple[Path, float]] = ()) -> dict[str, Any]:
    """What `settings.json` tells of all films of a folder, from the request for one of them.

    `loras` are those that are merged into the model, with their strengths: other LoRAs make other films.
    """
    settings = {
        "model": card.name,
        "weights": digest(card.require_path()),
        **request.model_dump(mode="json", exclude=EACH_FILMS_OWN),
    }
    if loras:
        settings["loras"] = [[digest(path), strength] for path, strength in loras]
    return settings


def claim(output: Path, settings: Mapping[str, Any], prompts: Mapping[str, str]) -> None:
    """Write down what the folder's films are: `settings` are those of all, `prompts` one by the name of each file.

    Names that an earlier run wrote down stay.

    Raises:
        ValueError: it holds films of other settings or prompts, or cannot be a folder of films.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"output = {output}: is a file; give a folder, such as {output}-films")
    record, known = output / "settings.json", dict(prompts)
    if record.is_file() and any(output.rglob("*.mp4")):
        # What an earlier version wrote lacks what could not be asked for then.
        unasked = {name: field.default for name, field in VideoRequest.model_fields.items()}
        there = {**unasked, **json.loads(record.read_text(encoding="utf-8"))}
        # The name may change, the files may not.
        for name in dict.fromkeys((*settings, "loras")):  # which are left out where there are none
            if name != "model" and there.get(name) != settings.get(name):
                raise ValueError(
                    f"output = {output}: holds films with {name} = {there.get(name)!r}, and this run has "
                    f"{settings.get(name)!r}; give another folder, or empty it"
                )
        old = prompts_of(there)
        if any(old.get(name, text) != text for name, text in prompts.items()):
            raise ValueError(f"output = {output}: holds films of other prompts; give another folder")
        known = {**old, **prompts}
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(record, {**settings, "prompts": known})
    except OSError as error:
        reason = error.strerror or "cannot be written"
        raise ValueError(f"output = {output}: {reason}; give a folder of your own, such as films") from None


def prompts_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The prompts that a folder's `settings.json` tells, by the names of their films."""
    told = settings.get("prompts")
    if isinstance(told, list):  # as `everreel evaluate` wrote them down before: in the order of its films
        told = {FILE.format(number): prompt for number, prompt in enumerate(told)}
    return {name: prompt for name, prompt in told.items() if isinstance(prompt, str)} if isinstance(told, dict) else {}


def digest(model: Path) -> str:
    """What tells one model's files from another's: their names and contents, but for notes on how it was made."""
    found = hashlib.sha256()
    files = sorted(model.rglob("*")) if model.is_dir() else [model]
    for path in (path for path in files if path.is_file() and path.name not in NOT_WEIGHTS):
        if path.suffix in (".safetensors", ".json", ".pth", ".gguf"):
            found.update(f"{path.relative_to(model).as_posix()}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """A JSON file that is there in full or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines, there in full or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """A text file that is there in full or not at all."""
    half_done = path.with_name(path.name + ".part")
    half_done.write_text(text, encoding="utf-8")
    half_done.replace(path)
