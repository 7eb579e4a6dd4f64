"""The film of a job: begun, taken up where a lost worker left it, gone on with, or without an end.

The one invariant: whatever lies in the film's folder when it begins, the film ends with the bytes of one that was never
disturbed. The journal decides: it is written last, and what is there without one is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from everreel.film import making
from everreel.film.budget import suits
from everreel.film.control import Control
from everreel.film.journal import Journal, journal_path, read_journal
from everreel.film.loading import ModelOptions
from everreel.film.pipeline import Progress, VideoPipeline
from everreel.film.plan import Plan, make_plan
from everreel.film.request import RequestError, VideoRequest, make_request
from everreel.media import FilmWriter, FrameSource, Pixels, Video, resize_cover
from everreel.serve.jobs.job import FilmStore, Job
from everreel.serve.jobs.order import piece_frames
from everreel.serve.jobs.sent import SentFilm, sent_film, spliced
from everreel.shapes import TEMPORAL

FILM = "film.mp4"
SPRITES, SPRITE_COLUMNS, SPRITE_WIDTH, THUMBNAIL_WIDTH = 16, 4, 160, 480

OnProgress = Callable[[Progress, FilmWriter | None], None]
"""Called after every row, with the film as far as it is written."""


class Models:
    """The models that are served; one is loaded at a time, and stays until another is needed."""

    def __init__(self, served: Mapping[str, ModelOptions]) -> None:
        self.served = {name: options.resolve() for name, options in served.items()}
        self._loaded: tuple[str, VideoPipeline] | None = None
        self.threads = torch.get_num_threads()

    def load(self, name: str, plan: Plan | None = None) -> VideoPipeline:
        """The model of that name, placed as a plan needs it."""
        options = self.served[name]
        if self._loaded and self._loaded[0] == name:
            pipe = self._loaded[1]
            today = pipe.options is None or pipe.options.rules == options.rules
            if today and (plan is None or suits(pipe.placement, options, pipe.card, plan)):
                return pipe
        self._loaded = None  # its memory is needed first
        self._loaded = name, VideoPipeline.load(options, plan)
        return self._loaded[1]

    def of_journal(self, journal: Journal, name: str) -> VideoPipeline:
        """The model that a film was begun with, run as it was, with as many threads."""
        torch.set_num_threads(journal.maker.threads)
        if self._loaded and making.maker_of(self._loaded[1]) == journal.maker:
            return self._loaded[1]
        self._loaded = None
        self._loaded = name, making.pipeline_of(journal)
        return self._loaded[1]


class Film:
    """The film of one job, in its folder.

    `seconds_left` says how much more an endless film may have; None is without a limit.
    """

    def __init__(self, job: Job, store: FilmStore, models: Models, seconds_left: Callable[[], float | None]) -> None:
        self.order, self.folder = job.order, store.workplace(job.id)
        self.path = self.folder / FILM
        self._store, self._models, self._seconds_left = store, models, seconds_left

    def make(self, control: Control, on_progress: OnProgress, give_way: Callable[[], bool] = lambda: False) -> bool:
        """Make what is missing of it. Whether that is all done; if not, an endless film gave way to others.

        `give_way` is asked when a piece of an endless film was made and another may follow: whether that is to be made
        at the film's next turn, which goes on from what lies here.

        Raises:
            ValueError: it cannot be made.
            OSError: the disk is full or gone; what was written stays and can be taken up.
            CancelledError: `control` said so; so does that.
        """
        wrote = False
        while True:
            if not journal_path(self.path).is_file():
                self._begin(control, on_progress)
            journal = read_journal(self.path)
            if not journal.finished:
                self._write(journal, control, on_progress)
                wrote = True
            elif not self.order.endless or not self._may_go_on(journal):
                return True
            elif wrote and give_way():  # not before it had a turn: it would never get any
                return False
            else:
                self._go_on(journal)

    def standing(self) -> tuple[int, int]:
        """How many frames of it there are that nothing can undo, and how many bytes the film has."""
        if not journal_path(self.path).is_file() or not self.path.is_file():
            return 0, 0
        return read_journal(self.path).num_frames, self.path.stat().st_size

    def show(self) -> None:
        """A thumbnail and a sheet of small frames, of what there is of the film."""
        if not self.path.is_file():
            return
        if read_journal(self.path).source is None:
            self._show(Video(self.path))
        else:  # it begins with what somebody sent; where that can hardly be decoded the film is there none the less
            with suppress(RequestError), sent_film(self.path) as film:
                self._show(film)

    def _show(self, video: Video | SentFilm) -> None:
        frames: FrameSource = video.frames
        _save(frames[video.num_frames // 2], THUMBNAIL_WIDTH, self.folder / "thumbnail.webp")
        numbers = np.linspace(0, video.num_frames - 1, SPRITES).round().astype(int)
        height = max(2, round(SPRITE_WIDTH * video.height / video.width))
        sprites = [resize_cover(frames[int(number)], height, SPRITE_WIDTH) for number in numbers]
        rows = [np.concatenate(sprites[at : at + SPRITE_COLUMNS], axis=1) for at in range(0, SPRITES, SPRITE_COLUMNS)]
        sheet = np.concatenate(rows)
        _save(sheet, sheet.shape[1], self.folder / "spritesheet.jpg")

    def preview(self, frames_THWC: Pixels) -> None:
        """What is in the making, as a small picture."""
        if len(frames_THWC):
            _save(frames_THWC[-1], THUMBNAIL_WIDTH, self.folder / "preview.jpg")

    def _begin(self, control: Control, on_progress: OnProgress) -> None:
        """Put down the journal of a film that has no new frames yet."""
        order, store = self.order, self._store
        request = order.whole({name: store.upload(name) for name in order.uploads})
        if order.endless:
            request = self._piece(request)
        if order.extends:
            journal = self._extended(store.workplace(order.extends) / FILM, request)
        elif order.follows:
            card = self._models.served[order.model].card()
            with sent_film(store.upload(order.follows)) as source:
                pipe = self._model(make_plan(making.fitted(request, (source.height, source.width), card), card))
                journal = making.follow(pipe, request, source, splice=True)
        else:
            pipe = self._model(make_plan(request, self._models.served[order.model].card()))
            journal = making.begin(pipe, request, control, lambda progress: on_progress(progress, None))
        journal.save(self.path)

    def _model(self, plan: Plan) -> VideoPipeline:
        torch.set_num_threads(self._models.threads)
        return self._models.load(self.order.model, plan)

    def _extended(self, source: Path, request: VideoRequest) -> Journal:
        """Of a copy of a film made here, behind which more is to follow."""
        pipe = self._models.of_journal(read_journal(source), self.order.model)
        journal = read_journal(source, pipe.device)
        if not journal.finished:  # an endless one that was stopped
            journal = making.cut_short(journal)
        longer = making.go_on_with(pipe, journal, request)
        making.copy_film(source, self.path)  # the journal that names its bytes is on disk at once
        return longer

    def _write(self, journal: Journal, control: Control, on_progress: OnProgress) -> None:
        pipe = self._models.of_journal(journal, self.order.model)
        journal = read_journal(self.path, pipe.device)
        with journal.open_film(self.path, spliced) as writer:
            making.write(pipe, journal, writer, lambda progress: on_progress(progress, writer), control=control)

    def _may_go_on(self, journal: Journal) -> bool:
        left = self._seconds_left()
        return left is None or left * journal.request.fps >= 1

    def _go_on(self, journal: Journal) -> None:
        """Put down the journal of an endless film's next piece."""
        pipe = self._models.of_journal(journal, self.order.model)
        old = journal.request
        request = self._piece(make_request(prompt=old.last_prompt, fps=old.fps, seed=old.seed))
        making.go_on_with(pipe, read_journal(self.path, pipe.device), request, told=False).save(self.path)

    def _piece(self, request: VideoRequest) -> VideoRequest:
        """A piece of an endless film, as long as it may be; what would be told after its end is not."""
        left = self._seconds_left()
        frames = piece_frames(request)
        if left is not None:
            frames = max(1, min(frames, round(left * request.fps)))
        told = {at: prompt for at, prompt in request.story.items() if at + 2 * TEMPORAL <= frames}
        return request.model_copy(update={"num_frames": frames, "seconds": None, "story": told})


def _save(pixels_HWC: Pixels, width: int, path: Path) -> None:
    """A picture of that width at most, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    picture = Image.fromarray(pixels_HWC)
    picture.thumbnail((width, 10 * width))
    picture.save(part, format="WEBP" if path.suffix == ".webp" else "JPEG", quality=80)
    part.replace(path)
