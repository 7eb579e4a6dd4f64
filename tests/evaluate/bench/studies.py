"""Studies of small films, and raters who answer as a test wants them to."""

from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from everreel.evaluate.bench.ratings import Ratings
from everreel.evaluate.bench.study import StudySettings, make_study
from tests.film.films import natural, write

PROMPTS = ("a red fox runs", "a blue swan waits", "a cat jumps")


@cache
def film(number):
    """The bytes of a film that no other number has."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write(path, natural(8, 32, 48) // 2 + 9 * (number % 12))
        return path.read_bytes()


def films(folder, models=("old", "new"), prompts=PROMPTS):
    """A folder a model with a film and a caption a prompt; no two films are the same."""
    made = {}
    for number, model in enumerate(models):
        made[model] = folder / f"of-{model}"
        made[model].mkdir(parents=True)
        for place, text in enumerate(prompts):
            (made[model] / f"film-{place}.mp4").write_bytes(film(number * len(prompts) + place))
            (made[model] / f"film-{place}.txt").write_text(text)
    return made


def study_of(folder, models=("old", "new"), prompts=PROMPTS, pictures=None, **settings):
    """A study in a folder: its own folder, and the study."""
    settings.setdefault("kinds", ("scores", "pairs"))
    path = folder / "study"
    return path, make_study(path, films(folder, models, prompts), StudySettings(**settings), pictures)


def pictures(folder):
    """A folder of a picture a prompt, each of another colour, with words in it that nobody is to see."""
    made = folder / "pictures"
    made.mkdir()
    for number in range(len(PROMPTS)):
        words = PngInfo()
        words.add_text("Comment", "secret words")
        Image.new("RGB", (64, 36), (200, 40 * number, 60)).save(made / f"film-{number}.png", pnginfo=words)
    return made


def fake_study(folder, models, prompts, **settings):
    """As `study_of`, with many prompts: the films are bytes that nobody plays."""
    made = {}
    for model in models:
        made[model] = folder / f"of-{model}"
        made[model].mkdir(parents=True)
        for place in range(prompts):
            (made[model] / f"film-{place:03d}.mp4").write_bytes(f"{model} {place}".encode())
            (made[model] / f"film-{place:03d}.txt").write_text(f"prompt {place}")
    with patch("everreel.evaluate.bench.found._unplayable", lambda path: None):
        return folder / "study", make_study(folder / "study", made, StudySettings(**settings))


_nonces = count()


def nonce():
    return f"nonce-{next(_nonces):08d}"


def rate(folder, study, name, say, limit=None):
    """A rater answers all tasks, or the first of them: `say(task, films)` gives a value, or one for each axis."""
    rater = Ratings(folder, study).join(name)
    by_id = {film.id: film for film in study.films}
    for task in list(rater.tasks.values())[:limit]:
        said = say(task, [by_id[name] for name in task.films])
        if said is not None and not isinstance(said, dict):
            said = dict.fromkeys(study.axes_of(task.kind), said)
        rater.answer(task.id, nonce(), said, 3.0)
    return rater


def prefers(*order):
    """Whoever comes first in an order of models is better."""

    def say(task, shown):
        places = [order.index(film.model) for film in shown]
        return "tie" if places[0] == places[1] else "left" if places[0] < places[1] else "right"

    return say
