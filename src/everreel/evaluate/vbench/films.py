"""The films that VBench asks for: five of each prompt, and 25 where it looks for those that stand still.

Source: Vchitect/VBench, `prompts/README.md`. A folder holds `videos/` (whole films alone: the suite takes the ending of
whatever file it sees first there for that of all), `prompts.json` (the prompts in the suite's form, which it is run
with), `films.jsonl` (what each film is made of, its seed too) and `settings.json`.

The one invariant: a film depends on its prompt, its number and the seed of the run, and on nothing else that is asked
for at the time. So dimensions may be made one after the other, in any order, and a run that was stopped goes on with
the film it was at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everreel.checkpoint.catalog import ModelCard
from everreel.evaluate.films import Film, Making, claim, common_settings, make_films, write_json, write_lines
from everreel.evaluate.vbench.prompts import Prompt, renamed
from everreel.evaluate.vbench.scores import SEEDS
from everreel.film.journal import journal_path
from everreel.film.pipeline import VideoPipeline
from everreel.film.prompts import check_tokens
from everreel.film.request import RequestError

FLICKERING, FLICKERING_SEEDS = "temporal_flickering", 25
VIDEOS, PROMPTS, LIST, WORK = "videos", "prompts.json", "films.jsonl", "work"


@dataclass(frozen=True)
class Listed:
    """A film as `films.jsonl` has it."""

    file: str
    prompt: str
    seed: int
    dimensions: tuple[str, ...]


class SuiteFilms:
    """The films of some prompts by one model in one folder: which are there, how the others are made.

    Args:
        seeds: films of each prompt; by default what the suite asks for.
        seed: another one makes other films.
        loras: those that are merged into the model, with their strengths, the model's own first.

    Raises:
        ValueError: something asked for cannot be, or the folder cannot be used; nothing has been loaded by then.
    """

    def __init__(
        self,
        card: ModelCard,
        prompts: Sequence[Prompt],
        making: Making,
        output: str | Path,
        *,
        seeds: int | None = None,
        seed: int = 0,
        loras: Sequence[tuple[Path, float]] = (),
    ) -> None:
        check_asked(card, seeds)
        assert prompts
        self.output, self.prompts, self.notes = Path(output), list(prompts), tuple(renamed(prompts))
        self.films: list[Film] = []
        self._listed: dict[str, Listed] = {}
        for prompt in self.prompts:
            for index in range(seeds or (FLICKERING_SEEDS if FLICKERING in prompt.dimensions else SEEDS)):
                self._ask_for(card, prompt, index, seed, making)
        settings = {**common_settings(card, self.films[0].request, loras), "seed": seed}
        claim(self.output, settings, {prompt.stem: prompt.shown for prompt in self.prompts})
        self._write_down()

    def missing(self) -> list[Film]:
        """The films that are not there, or not to their end."""
        return [film for film in self.films if not film.is_whole]

    def make(self, pipe: VideoPipeline, on_film: Callable[[int, int], None] | None = None) -> None:
        """Make the films that are missing; `on_film(done, total)` is called before the first and after each.

        Raises:
            RequestError: a prompt is longer than the model reads; no film has been made by then.
        """
        for text in dict.fromkeys(film.request.prompt for film in self.films):
            try:
                check_tokens("prompt", pipe.tokenizer([text]), pipe.tokenizer.max_length)
            except RequestError as error:
                raise RequestError(f"{error}: {text!r}") from None

        def one(film: Film) -> None:
            # A film that is being made has its journal beside it, and neither is one that the suite may see.
            work = self.output / WORK / f"{hashlib.sha256(film.path.name.encode()).hexdigest()[:16]}.mp4"
            pipe(film.request, output=work)
            work.replace(film.path)
            journal_path(work).unlink(missing_ok=True)

        make_films(self.films, one, on_film)

    def _ask_for(self, card: ModelCard, prompt: Prompt, index: int, seed: int, making: Making) -> None:
        name = f"{prompt.stem}-{index}.mp4"
        if name in self._listed:  # the suite has some prompts twice, in other dimensions
            before = self._listed[name]
            dimensions = tuple(dict.fromkeys((*before.dimensions, *prompt.dimensions)))
            self._listed[name] = Listed(name, before.prompt, before.seed, dimensions)
            return
        request = making.request_for(prompt.shown, seed_of(prompt.text, index, seed)).resolve(card)
        self.films.append(Film(self.output / VIDEOS / name, request))
        self._listed[name] = Listed(name, request.prompt, request.seed, prompt.dimensions)

    def _write_down(self) -> None:
        """What has been asked for so far: that of earlier runs stays."""
        (self.output / VIDEOS).mkdir(exist_ok=True)
        (self.output / WORK).mkdir(exist_ok=True)
        self._check_cases()
        listed = {film.file: film for film in listed_films(self.output)}
        for name, film in self._listed.items():
            before = listed[name].dimensions if name in listed else ()
            dimensions = tuple(dict.fromkeys((*before, *film.dimensions)))
            listed[name] = Listed(name, film.prompt, film.seed, dimensions)
        write_json(self.output / PROMPTS, _merged(_entries(self.output), [prompt.entry() for prompt in self.prompts]))
        write_lines(self.output / LIST, (vars(film) for film in listed.values()))

    def _check_cases(self) -> None:
        """Refuse a disk on which two films would be one: the suite has prompts that differ in a capital."""
        if not (self.output / "SETTINGS.json").exists():
            return
        seen: dict[str, str] = {}
        for prompt in self.prompts:
            other = seen.setdefault(prompt.stem.casefold(), prompt.stem)
            if other != prompt.stem:
                reason = f"its disk does not tell {other!r} from {prompt.stem!r}"
                raise ValueError(f"output = {self.output}: {reason}; give a folder on a disk that does")


def check_asked(card: ModelCard, seeds: int | None) -> None:
    """Refuse models and numbers of which there can be no films. Raises: ValueError."""
    if card.image:
        raise ValueError(f"model = {card.name}: begins with a picture, and these prompts have none; a T2V works")
    if seeds is not None and not 1 <= seeds <= FLICKERING_SEEDS:
        nearest = min(max(seeds, 1), FLICKERING_SEEDS)
        raise ValueError(f"seeds = {seeds}: must lie in 1..{FLICKERING_SEEDS}; nearest that works: {nearest}")


def listed_films(folder: Path) -> list[Listed]:
    """The films that a folder was asked for so far; none where it is no such folder.

    Raises:
        ValueError: the list is there and cannot be read.
    """
    try:
        rows = [json.loads(line) for line in (folder / LIST).read_text(encoding="utf-8").split("\n") if line.strip()]
        return [Listed(row["file"], row["prompt"], row["seed"], tuple(row["dimensions"])) for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"films = {folder / LIST}: cannot be read ({error}); make the films again") from None


def seed_of(text: str, index: int, seed: int = 0) -> int:
    """The seed of a film: one of its own, the same whatever else is made."""
    found = hashlib.sha256(f"{seed}\0{text}\0{index}".encode()).digest()
    return int.from_bytes(found[:4])


def _entries(folder: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads((folder / PROMPTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ValueError(f"films = {folder / PROMPTS}: cannot be read ({error}); remove it") from None
    return list(entries)


def _merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both lists as one in which no prompt stands twice for one dimension: the suite would count it twice."""
    merged: list[dict[str, Any]] = []
    held: dict[str, set[str]] = {}
    for entry in (*old, *new):
        there = held.setdefault(entry["prompt_en"], set())
        fresh = [name for name in entry["dimension"] if name not in there]
        if fresh:
            merged.append({**entry, "dimension": fresh})
            there.update(fresh)
    return merged
