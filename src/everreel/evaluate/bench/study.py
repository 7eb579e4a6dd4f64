"""A study of SkyReels-Bench: which films of which models people rate, on what, and how they are shown.

The protocol is that of the SkyReels-V2 paper's human evaluation: scores from 1 to 5 for instruction adherence,
consistency, visual quality and motion quality. Pairs, Better, Worse or Tie on each of these and overall, are what its
motion reinforcement learning is taught with. The one invariant: `study.json` is all that the shown order depends on,
and a study that has ratings does not change; its films may move, as what they are is known by their contents.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everreel.data.sources import Skipped
from everreel.evaluate.bench.found import Found, digest_of, find_films
from everreel.evaluate.films import write_text
from everreel.media import read_image

Kind = Literal["scores", "pairs"]
Medium = Literal["t2v", "i2v"]
KINDS: tuple[Kind, ...] = get_args(Kind)
AXES = {
    "instruction_adherence": "Instruction adherence",
    "consistency": "Consistency",
    "visual_quality": "Visual quality",
    "motion_quality": "Motion quality",
}
"""The paper's dimensions, in the order of its tables."""
OVERALL = "overall"
PAIR_AXES = {**AXES, OVERALL: "Overall"}
FILE, RATINGS = "study.json", "ratings"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class Start(BaseModel):
    """The picture that films begin with. `path` is seen from the study's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    digest: str


class Prompt(BaseModel):
    """What the films of one key, one of each model, were made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    text: str
    start: Start | None = None


class Film(BaseModel):
    """One film. `prompt` is the number of its prompt, `path` is seen from the study's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    model: str
    prompt: int
    path: str
    num_bytes: int
    digest: str


class Study(BaseModel):
    """What `study.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1
    title: str
    kinds: tuple[Kind, ...] = Field(min_length=1)
    axes: tuple[str, ...] = Field(min_length=1)
    medium: Medium
    seed: int
    repeats: int = Field(ge=0)
    checks: int = Field(ge=0)
    prompts_per_rater: int | None = Field(ge=1)
    secret: str
    """What no rater knows: it makes the names under which films are shown."""
    models: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    films: tuple[Film, ...]
    left_out: tuple[str, ...] = ()

    def axes_of(self, kind: Kind) -> tuple[str, ...]:
        """What is asked about a film, or about two; there is no overall score, only the mean of the others."""
        return tuple(axis for axis in self.axes if kind == "pairs" or axis != OVERALL)

    @property
    def digest(self) -> str:
        """What tells this study from one with other films or rules; where its films lie is no part of it."""
        start: Any = {"start": {"path"}} if any(prompt.start for prompt in self.prompts) else {"start"}
        content = self.model_dump_json(
            exclude={"title": True, "left_out": True, "films": {"__all__": {"path"}}, "prompts": {"__all__": start}}
        )
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StudySettings:
    """How a study is run. `prompts_per_rater` None means all; repeats and checks are counted for each kind."""

    title: str = "Which films are good?"
    kinds: tuple[str, ...] = ("scores",)
    axes: tuple[str, ...] = tuple(PAIR_AXES)
    medium: str = "t2v"
    seed: int = 0
    repeats: int = 0
    checks: int = 0
    prompts_per_rater: int | None = None


def make_study(
    folder: Path, models: Mapping[str, Path], settings: StudySettings, pictures: Path | None = None
) -> Study:
    """Write `study.json` for the films that lie in a folder a model, paired by their names.

    A prompt that one of the models has no film of is left out for all, and named in `left_out`.

    Args:
        pictures: a folder of the pictures that the films begin with, called as these are; a prompt without one is left
            out too.

    Raises:
        ValueError: a setting is wrong, a folder has no films, two folders have no film in common, or the study's folder
            holds ratings of another study.
        OSError: it cannot be written.
    """
    _check(settings, models)
    old = _there(folder)
    found, left_out = _find(models)
    prompts, gone = _pair(found)
    if pictures is not None and prompts:
        prompts, without = _begun(prompts, pictures, folder)
        gone += without
        if not prompts:
            raise ValueError(f"pictures = {pictures}: none is of a film of the study; {gone[-1]}")
    if not prompts:
        least = min(found, key=lambda model: len(found[model]))
        why = f"; {(left_out + gone)[0]}" if left_out + gone else ""
        raise ValueError(f"films = {models[least]}: no prompt has a film of every model{why}; names must be the same")
    secret = old.secret if old else secrets.token_hex(16)
    films = [
        Film(
            id=opaque(secret, model, prompt.key),
            model=model,
            prompt=number,
            path=_seen_from(folder, film.path),
            num_bytes=film.num_bytes,
            digest=film.digest,
        )
        for number, prompt in enumerate(prompts)
        for model in models
        for film in [found[model][prompt.key]]
    ]
    record = {
        **vars(settings),
        "secret": secret,
        "models": tuple(models),
        "prompts": prompts,
        "films": films,
        "left_out": tuple(map(str, left_out + gone)),
    }
    study = _valid(record, folder / FILE)
    if old and old.digest != study.digest and any((folder / RATINGS).glob("rater-*.jsonl")):
        raise ValueError(
            f"study = {folder}: holds ratings of other films or rules; give a new folder, {folder}-2 works"
        )
    _write(folder, study)
    return study


def load_study(folder: Path) -> Study:
    """Read a study.

    Raises:
        ValueError: the folder holds none, or `study.json` is damaged.
    """
    path = folder / FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"study = {folder}: has no {FILE}; make one with: everreel rate make {folder} FILMS") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "is no JSON"
        raise ValueError(f"study = {path}: {reason}; put back the file that `everreel rate make` wrote") from None
    return _valid(record, path)


def opaque(secret: str, *words: str) -> str:
    """A name that tells nothing to those who do not know the secret, the same for the same words."""
    return hmac.new(secret.encode(), "\0".join(words).encode(), hashlib.sha256).hexdigest()[:32]


def _seen_from(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _check(settings: StudySettings, models: Mapping[str, Path]) -> None:
    fields: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
        ("kind", settings.kinds, KINDS),
        ("axis", settings.axes, tuple(PAIR_AXES)),
        ("medium", (settings.medium,), get_args(Medium)),
    ]
    for field, given, allowed in fields:
        for value in given:
            if value not in allowed:
                raise ValueError(f"{field} = {value!r}: must be one of {', '.join(allowed)}")
        if not given or len(set(given)) < len(given):
            raise ValueError(f"{field} = {', '.join(given) or 'nothing'}: must name one or more, each once")
    if settings.axes == (OVERALL,) and "scores" in settings.kinds:
        raise ValueError(f"axis = {OVERALL}: is asked of pairs alone; add one of {', '.join(AXES)}")
    for name in ("repeats", "checks"):
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} = {getattr(settings, name)}: must be 0 or more; 0 works")
    if settings.prompts_per_rater is not None and settings.prompts_per_rater < 1:
        raise ValueError(f"prompts_per_rater = {settings.prompts_per_rater}: must be 1 or more; 1 works")
    if not models or ("pairs" in settings.kinds and len(models) < 2):
        raise ValueError(f"films = {len(models)} folders: pairs need two models or more, scores one; give more folders")


def _there(folder: Path) -> Study | None:
    """The study that the folder holds already."""
    if (folder / FILE).is_file():
        return load_study(folder)
    if any((folder / RATINGS).glob("rater-*.jsonl")):
        raise ValueError(f"study = {folder}: holds ratings but no {FILE}; put it back, or give a new folder")
    return None


def _find(models: Mapping[str, Path]) -> tuple[dict[str, dict[str, Found]], list[Skipped]]:
    found, left_out = {}, []
    for model, folder in models.items():
        films, skipped = find_films(folder)
        left_out += [Skipped(f"{model}: {missed.name}", missed.reason) for missed in skipped]
        if not films:
            why = f"; {skipped[0]}" if skipped else ""
            raise ValueError(f"films = {folder}: holds no film that can be shown{why}; MP4s with prompts work")
        found[model] = {film.key: film for film in films}
    return found, left_out


def _pair(found: Mapping[str, Mapping[str, Found]]) -> tuple[list[Prompt], list[Skipped]]:
    """The prompts that every model has a film of, and which were left out."""
    prompts, gone = [], []
    for key in sorted({key for films in found.values() for key in films}):
        lacking = [model for model, films in found.items() if key not in films]
        texts = list(dict.fromkeys(films[key].prompt for films in found.values() if key in films))
        if lacking:
            gone.append(Skipped(key, f"is left out, as there is no film of {', '.join(lacking)}"))
        elif len(texts) > 1:
            gone.append(Skipped(key, f"is left out, as models have other prompts: {texts[0]!r}, {texts[1]!r}"))
        else:
            prompts.append(Prompt(key=key, text=texts[0]))
    return prompts, gone


def _begun(prompts: Sequence[Prompt], pictures: Path, folder: Path) -> tuple[list[Prompt], list[Skipped]]:
    """The prompts with the pictures that their films begin with, and those of which there is none that can be shown."""
    if not pictures.is_dir():
        raise ValueError(f"pictures = {pictures}: no such folder; one of pictures called as the films are works")
    begun, gone = [], []
    files = [path for path in sorted(pictures.rglob("*")) if path.suffix.lower() in PICTURES and path.is_file()]
    there = {path.relative_to(pictures).with_suffix("").as_posix(): path for path in files}
    for prompt in prompts:
        try:
            if prompt.key not in there:
                raise ValueError(f"there is no {prompt.key}.png in {pictures}")
            read_image(there[prompt.key])
        except (ValueError, OSError) as error:
            gone.append(Skipped(prompt.key, f"is left out: {error}"))
            continue
        path = there[prompt.key]
        start = Start(path=_seen_from(folder, path), digest=digest_of(path))
        begun.append(prompt.model_copy(update={"start": start}))
    return begun, gone


def _valid(record: object, path: Path) -> Study:
    try:
        study = Study.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"study = {path}: {field}: {first['msg']}; put back what `everreel rate make` wrote") from None
    if any(not 0 <= film.prompt < len(study.prompts) or film.model not in study.models for film in study.films):
        raise ValueError(f"study = {path}: names films of no prompt or model of its own; make the study again")
    return study


def _write(folder: Path, study: Study) -> None:
    """There in full or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"study = {folder}: is a file; give a folder, such as {folder}-study") from None
    write_text(folder / FILE, study.model_dump_json(indent=1) + "\n")
