"""Whether films show what was asked: a film for each held-out prompt, and the critic's word on every field of it.

The one invariant: the figures are those of the MP4s that lie in the output folder, made by the weights and with the
settings that its `settings.json` tells. So a run that was stopped goes on where it was and ends with the report that
it would have had, the films can be judged again by another critic, and two models never share a folder.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everreel.caption.critic import load_critic, read
from everreel.checkpoint.catalog import ModelCard
from everreel.evaluate.films import FILE, Film, Making, claim, common_settings, digest, make_films, write_json
from everreel.evaluate.prompts import Prompt, held_out_prompts
from everreel.film.pipeline import VideoPipeline
from everreel.media import Pixels, Video, contact_sheet, resize_cover
from everreel.world.scene import VOCABULARY

# The share of films in which a field has to be read as asked for.
GOALS = {
    "subject": 0.80,
    "color": 0.80,
    "place": 0.80,
    "action": 0.70,
    "camera_motion": 0.70,
    "shot_type": 0.75,
    "shot_angle": 0.75,
    "shot_position": 0.75,
}
FIELDS = (*GOALS, *(name for name in VOCABULARY if name not in GOALS))
SHEET_FILMS, SHEET_FRAMES, SHEET_COLUMNS, SHEET_WIDTH = 16, 4, 2, 160

Reader = Callable[[Pixels, int], Mapping[str, Mapping[str, float]]]
"""Frames and their rate → the probability of each value of each field, as `functools.partial(critic.read, critic)`."""


@dataclass(frozen=True)
class FilmSettings(Making):
    """Which films are made. Film number n has the seed `seed + n`."""

    num_films: int = 64
    seed: int = 0


@dataclass(frozen=True)
class FieldScore:
    """In how many of the films that show a field it is read as it was asked for."""

    name: str
    right: int
    films: int
    goal: float | None

    @property
    def accuracy(self) -> float:
        """The share of films; nan where none shows the field."""
        return self.right / self.films if self.films else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval: where the accuracy over endlessly many films lies, with a probability of 95 %."""
        return wilson(self.right, self.films)

    @property
    def missed(self) -> bool:
        """Whether there is a goal and the films fall short of it; no film at all falls short too."""
        return self.goal is not None and not self.accuracy >= self.goal


@dataclass(frozen=True)
class Answer:
    """What was asked of one field, what the critic reads, and how probable it finds what was asked."""

    asked: str
    read: str
    probability: float


@dataclass(frozen=True)
class FilmAnswers:
    """One film: its file, prompt, seed and scene, and the answer for each field that it shows."""

    file: str
    prompt: str
    seed: int
    scene: Mapping[str, Any]
    answers: Mapping[str, Answer]


@dataclass(frozen=True)
class Report:
    """What `report.json` holds. `settings` are those of the films, with the model's name and a digest of its files."""

    settings: Mapping[str, Any]
    films: tuple[FilmAnswers, ...]

    @property
    def fields(self) -> list[FieldScore]:
        """The score of each field, those with a goal first."""
        scores = []
        for name in FIELDS:
            found = [film.answers[name] for film in self.films if name in film.answers]
            right = sum(answer.read == answer.asked for answer in found)
            scores.append(FieldScore(name, right, len(found), GOALS.get(name)))
        return scores

    @property
    def confused(self) -> dict[str, int]:
        """What is taken for what, the commonest first."""
        pairs = [(name, answer) for film in self.films for name, answer in film.answers.items()]
        wrong = Counter(f"{name}: {a.asked} read as {a.read}" for name, a in pairs if a.asked != a.read)
        return dict(wrong.most_common(40))

    def describe(self) -> str:
        """The table for people, with the goals."""
        lines = [f"{'field':<15}{'as asked':>9}{'':>6}  {'95 % interval':<15}goal"]
        for score in self.fields:
            if not score.films:
                lines.append(f"{score.name:<15}{'seen in no film':>15}")
                continue
            low, high = score.interval
            goal = "" if score.goal is None else f"{score.goal:.0%} {'missed' if score.missed else 'reached'}"
            row = f"{score.name:<15}{f'{score.right}/{score.films}':>9}{score.accuracy:>6.0%}  "
            lines.append(f"{row}{f'{low:.0%} to {high:.0%}':<15}{goal}".rstrip())
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write the figures and everything that they are made from."""
        fields = {
            score.name: {
                "right": score.right,
                "films": score.films,
                "accuracy": round(score.accuracy, 4),
                "interval_95": [round(end, 4) for end in score.interval],
                "goal": score.goal,
                "missed": score.missed,
            }
            for score in self.fields
            if score.films
        }
        films = [asdict(film) for film in self.films]
        write_json(path, {"settings": dict(self.settings), "fields": fields, "confused": self.confused, "films": films})

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read what `save` wrote."""
        record = json.loads(path.read_text(encoding="utf-8"))
        films = []
        for film in record["films"]:
            answers = {name: Answer(**answer) for name, answer in film["answers"].items()}
            films.append(FilmAnswers(**{**film, "answers": answers}))
        return cls(record["settings"], tuple(films))


class Evaluation:
    """The films of one model in one folder: which are there, how the others are made, what the critic says.

    Raises:
        ValueError: a setting is wrong, or the folder cannot be used for these films; nothing has been loaded by then.
    """

    def __init__(
        self,
        card: ModelCard,
        settings: FilmSettings,
        output: str | Path,
        loras: Sequence[tuple[Path, float]] = (),
    ) -> None:
        """`loras` as for `common_settings`."""
        self.card, self.output = card, Path(output)
        self.prompts: list[Prompt] = held_out_prompts(settings.num_films, settings.seed)
        self.films = [
            Film(self.path(n), settings.request_for(prompt.text, settings.seed + n).resolve(card))
            for n, prompt in enumerate(self.prompts)
        ]
        self.settings = {**common_settings(card, self.films[0].request, loras), "seed": settings.seed}
        claim(self.output, self.settings, {film.path.name: film.request.prompt for film in self.films})

    def path(self, number: int) -> Path:
        """Where a film lies, by its number from 0."""
        return self.output / FILE.format(number)

    def missing(self) -> list[int]:
        """The numbers of the films that are not there, or not to their end."""
        return [number for number, film in enumerate(self.films) if not film.is_whole]

    def make(self, pipe: VideoPipeline, on_film: Callable[[int, int], None] | None = None) -> None:
        """Make the films that are missing; `on_film(done, total)` is called before the first and after each."""
        make_films(self.films, lambda film: pipe(film.request, output=film.path), on_film)

    def score(self, reader: Reader) -> Report:
        """Read every field off every film, and leave `report.json` in the folder."""
        films = [self._answers(number, reader) for number in range(len(self.prompts))]
        by = {"critic": reader.digest} if isinstance(reader, CriticReader) else {}
        report = Report({**self.settings, "num_films": len(films), **by}, tuple(films))
        report.save(self.output / "report.json")
        return report

    def sheet(self, count: int = SHEET_FILMS) -> Pixels:
        """Some frames of each of the first films with their prompts, as one picture."""
        films, captions = [], []
        for number, prompt in enumerate(self.prompts[:count]):
            frames = Video(self.path(number)).frames
            moments = np.linspace(0, len(frames) - 1, SHEET_FRAMES).round().astype(int).tolist()
            films.append(np.stack([_thumbnail(frames[moment]) for moment in moments]))
            captions.append(prompt.text[:1].upper() + prompt.text[1:].removesuffix("."))
        return contact_sheet(films, columns=SHEET_COLUMNS, frames_per_film=SHEET_FRAMES, captions=captions)

    def _answers(self, number: int, reader: Reader) -> FilmAnswers:
        prompt, request = self.prompts[number], self.films[number].request
        values = reader(np.asarray(Video(self.path(number)).frames, dtype=np.uint8), request.fps)
        answers = {}
        for name, asked in prompt.asked.items():
            best = max(values[name], key=values[name].__getitem__)
            answers[name] = Answer(asked, best, round(values[name][asked], 4))
        return FilmAnswers(self.path(number).name, prompt.text, request.seed, asdict(prompt.scene), answers)


class CriticReader:
    """The reader that a critic's folder holds; `digest` tells its files from those of another critic.

    Raises:
        ValueError: it does not hold one.
    """

    def __init__(self, critic: str | Path) -> None:
        self._critic, self.digest = load_critic(critic), digest(Path(critic))

    def __call__(self, frames: Pixels, fps: int) -> Mapping[str, Mapping[str, float]]:
        """The probability of each value of each field."""
        return read(self._critic, frames, fps)


def reader_of(critic: str | Path) -> CriticReader:
    """The reader that a critic's folder holds.

    Raises:
        ValueError: it does not hold one.
    """
    return CriticReader(critic)


def measure(
    load: Callable[[], VideoPipeline],
    reader: Reader,
    evaluation: Evaluation,
    on_film: Callable[[int, int], None] | None = None,
) -> Report:
    """Make what is missing, loading the model only if something is, and score it all."""
    if evaluation.missing():
        evaluation.make(load(), on_film)
    return evaluation.score(reader)


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    if not count:
        return 0.0, 1.0
    z = statistics.NormalDist().inv_cdf(0.975)
    share, wide = right / count, 1 + z * z / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - spread) / wide), min(1.0, (middle + spread) / wide)


def _thumbnail(frame: Pixels) -> Pixels:
    """Small enough for a sheet, and with a thin white line on either side that keeps neighbours apart."""
    height, width = frame.shape[:2]
    if width > SHEET_WIDTH:
        frame = resize_cover(frame, round(SHEET_WIDTH * height / width), SHEET_WIDTH)
    return np.pad(frame, ((0, 0), (1, 1), (0, 0)), constant_values=255)
