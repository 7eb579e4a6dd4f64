"""Whatever lies in a film's folder when a worker begins, the film is the one that nothing disturbed."""

import os
import shutil
from pathlib import Path

import av
import pytest
from PIL import Image

from everreel.film.control import CancelledError, Control
from everreel.film.journal import Journal, journal_path, read_journal
from everreel.film.making import follow
from everreel.film.making import write as write_film
from everreel.film.request import RequestError, make_request
from everreel.film.source import SourceFilm
from everreel.media import Video
from everreel.serve.jobs.job import ConflictError, Owner, Report
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.produce import Film
from tests.film.films import CODECS, natural, write
from tests.serve.jobs.conftest import SMALL


def made(home, job, stop_at=None, left=None, **more):
    """Make the film of a job; `stop_at`: that many rows are done, then it is stopped."""
    control, rows = Control(), []

    def on_progress(progress, writer):
        rows.append(progress.row)
        if stop_at is not None and len(rows) == stop_at:
            control.cancel()

    film = Film(job, home.store, home.models, left or (lambda: None))
    film.make(control, on_progress)
    return film


def seconds_left(film, most, fps):
    """Of an owner who may have so many seconds of films, and has this one."""
    return lambda: most - (Video(film).num_frames / fps if film.exists() else 0)


LONG = {"num_frames": 57, "base_num_frames": 25, "overlap_history": 9}


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_a_film_that_was_stopped_ends_with_the_same_bytes(home, stop_at):
    whole, stopped = home.order(**LONG), home.order(**LONG)
    made(home, whole)
    with pytest.raises(CancelledError):
        made(home, stopped, stop_at)
    made(home, stopped)
    assert home.film(stopped).read_bytes() == home.film(whole).read_bytes()


def test_a_finished_film_is_not_made_again(home):
    job = home.order()
    made(home, job)
    stamp = home.film(job).stat().st_mtime_ns
    made(home, job, stop_at=1)  # not one row is computed
    assert home.film(job).stat().st_mtime_ns == stamp


def test_a_film_without_its_journal_is_made_anew(home):
    job = home.order()
    made(home, job)
    whole = home.film(job).read_bytes()
    journal_path(home.film(job)).unlink()
    home.film(job).write_bytes(b"half a header")
    made(home, job)
    assert home.film(job).read_bytes() == whole


def test_a_film_goes_on_with_one_made_here_wherever_that_is_stopped(home):
    first = home.order(num_frames=21)
    assert home.work().status == "completed"
    order = home.jobs.extension(first.id, Owner(), num_frames=12, num_inference_steps=2)
    one, other = (home.jobs.submit(order, Owner())[0] for _ in range(2))
    before = home.film(first).read_bytes()
    made(home, one)
    with pytest.raises(CancelledError):
        made(home, other, stop_at=1)
    shutil.copyfile(home.film(first), home.film(other))  # the first frames only, as a lost worker leaves it
    made(home, other)
    assert Video(home.film(one)).num_frames == 33
    assert home.film(other).read_bytes() == home.film(one).read_bytes()
    assert home.film(first).read_bytes() == before


@pytest.mark.parametrize("codec", ["h264", "vp9"])  # one is copied, one encoded again
def test_an_upload_is_decoded_neither_by_the_server_nor_by_a_worker(home, tmp_path, monkeypatch, codec):
    """From the order to what is shown of the film, and of one that goes on with that; the bytes are the usual ones."""
    suffix, encoder, pixel_format = CODECS[codec]
    theirs = write(tmp_path / f"theirs{suffix}", natural(24), encoder, pixel_format)
    source, path = SourceFilm.open(theirs), tmp_path / "here.mp4"
    request = make_request(prompt="a red fox", num_inference_steps=2, num_frames=12, height=32, width=32)
    journal = follow(home.models.load("small"), request, source, splice=True)
    with journal.open_film(path) as writer:
        expected = write_film(home.models.load("small"), journal, writer)
    upload = home.store.keep(theirs, "local", theirs.suffix)
    opened, read = [], av.open

    def watched(file, *args, **kwargs):
        opened.extend([file] if isinstance(file, str | Path) else [])  # others are blocks that are encoded in memory
        return read(file, *args, **kwargs)

    monkeypatch.setattr(av, "open", watched)
    job = home.order(follows=upload, num_frames=12)
    assert home.work().status == "completed"
    longer = home.jobs.submit(home.jobs.extension(job.id, Owner(), num_frames=8, num_inference_steps=2), Owner())[0]
    assert home.work().status == "completed"
    assert not opened
    monkeypatch.undo()
    assert expected.finished and home.film(job).read_bytes() == path.read_bytes()
    assert Video(home.film(longer)).num_frames == 24 + 12 + 8
    with Image.open(home.store.open(longer.id, "spritesheet.jpg")) as sheet:
        assert sheet.size == (640, 480)


def test_a_worker_that_was_lost_amid_an_upload_leaves_nothing_behind(home, tmp_path):
    upload = home.store.keep(write(tmp_path / "theirs.mp4", natural(24)), "local", ".mp4")
    whole, other = (home.order(follows=upload, num_frames=12) for _ in range(2))
    made(home, whole)
    folder = home.film(other).parent
    (folder / "film.mp4.begun-0123").write_bytes(b"half of it")
    with pytest.raises(CancelledError):
        made(home, other, stop_at=1)
    made(home, other)
    assert home.film(other).read_bytes() == home.film(whole).read_bytes()
    assert not list(folder.glob("*.begun-*")) and not list(folder.glob("*.part"))


def test_a_copy_that_is_gone_on_with_is_on_disk_before_the_journal_says_so(home, monkeypatch):
    first = home.order()
    assert home.work().status == "completed"
    job = home.jobs.submit(home.jobs.extension(first.id, Owner(), num_frames=8), Owner())[0]
    folder, synced, sync, save = home.film(job).parent, [], os.fsync, Journal.save

    def noting(handle):
        synced.append(os.fstat(handle).st_ino)
        sync(handle)

    def saving(journal, film):
        if "journal" not in synced:
            named = film.stat().st_ino, folder.stat().st_ino
            assert [inode for inode in synced if inode in named] == [*named], "the bytes first, then their name"
            synced.append("journal")
        save(journal, film)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Journal, "save", saving)
    made(home, job)
    assert "journal" in synced


def test_pictures_that_were_uploaded_are_where_they_were_asked(home, tmp_path):
    ids = []
    for color in ("red", "blue"):
        Image.new("RGB", (64, 64), color).save(tmp_path / "picture.png")
        ids.append(home.store.keep(tmp_path / "picture.png", "local", ".png"))
    job = home.order(image=ids[0], end_image=ids[1], num_frames=17)
    plain = home.order(num_frames=17)
    made(home, job)
    made(home, plain)
    assert home.film(job).read_bytes() != home.film(plain).read_bytes()
    request = read_journal(home.film(job)).request
    assert request.image and request.end_image


def test_an_endless_film_ends_when_its_owner_has_no_seconds_left(home):
    job = home.order(endless=True, num_frames=None, fps=16)
    film = home.film(job)
    left = seconds_left(film, 3.0, 16)
    made(home, job, left=left)
    assert Video(film).num_frames == 48


def test_an_endless_film_is_made_in_pieces_that_go_on_with_each_other(home, monkeypatch):
    monkeypatch.setattr("everreel.serve.jobs.order.PIECE_SECONDS", 1)
    ends = []
    for stop_at in (None, 4):
        job = home.order(endless=True, num_frames=None, fps=16, story={20: "a blue cat"})
        film = home.film(job)

        left = seconds_left(film, 3.0, 16)
        if stop_at:
            with pytest.raises(CancelledError):
                made(home, job, stop_at, left)
        made(home, job, left=left)
        ends.append(film.read_bytes())
        assert Video(film).num_frames == 48
        assert read_journal(film).request.prompt == "a blue cat"
    assert ends[0] == ends[1]


@pytest.mark.parametrize("begins", ["here", "elsewhere"])
def test_a_film_goes_on_with_another_without_an_end(home, tmp_path, monkeypatch, begins):
    monkeypatch.setattr("everreel.serve.jobs.order.PIECE_SECONDS", 1)
    first = home.order(num_frames=21)
    assert home.work().status == "completed"
    upload = home.store.keep(write(tmp_path / "theirs.mp4", natural(21)), "local", ".mp4")
    ends = []
    for stop_at in (None, 3):
        order = home.jobs.extension(first.id, Owner(), num_inference_steps=2, endless=True)
        if begins == "elsewhere":
            order = make_order(**SMALL, follows=upload, endless=True)
        job = home.jobs.submit(order, Owner())[0]
        film = home.film(job)
        assert home.jobs.outlook(order, Owner()).endless and job.progress == 0

        left = seconds_left(film, 2.5, 24)
        if stop_at:
            with pytest.raises(CancelledError):
                made(home, job, stop_at, left)
        made(home, job, left=left)
        ends.append(film.read_bytes())
        assert Video(film).num_frames == 60 and (Video(film).frames[20] - Video(film).frames[0]).any()
    assert ends[0] == ends[1]


def test_an_endless_film_that_was_stopped_is_gone_on_with(home):
    job = home.order(endless=True, num_frames=None, fps=16, story={20: "a blue cat"})
    worker = home.worker()
    claimed = home.queue.claim(worker.name)
    with pytest.raises(ConflictError, match="is in progress"):
        home.jobs.submit(home.jobs.extension(job.id, Owner(), num_frames=8), Owner())
    with pytest.raises(CancelledError):
        made(home, job, stop_at=9)
    home.queue.report(job.id, worker.name, Report(9, 20, *home_standing(home, claimed)))
    home.queue.finish(job.id, worker.name, "cancelled")
    before = Video(home.film(job)).num_frames
    longer = home.jobs.submit(home.jobs.extension(job.id, Owner(), prompt="a green dog", num_frames=8), Owner())[0]
    made(home, longer)
    assert Video(home.film(longer)).num_frames == before + 8
    assert read_journal(home.film(longer)).request.prompt == "a green dog"
    assert not read_journal(home.film(job)).finished, "it can still be resumed itself"


def test_a_film_whose_next_piece_has_not_begun_is_gone_on_with(home):
    """It ends where the one did that it was to go on with."""
    first = home.order(num_frames=21)
    assert home.work().status == "completed"
    asked = {"prompt": "a green dog", "num_frames": 8, "num_inference_steps": 2, "seed": 3}
    plain = home.jobs.submit(home.jobs.extension(first.id, Owner(), **asked), Owner())[0]
    made(home, plain)
    home.jobs.want(plain.id, "cancel", Owner())
    endless = home.jobs.submit(home.jobs.extension(first.id, Owner(), num_inference_steps=2, endless=True), Owner())[0]
    worker = home.worker()
    claimed = home.queue.claim(worker.name)
    assert claimed.id == endless.id
    with pytest.raises(CancelledError):
        made(home, endless, stop_at=1)
    home.queue.report(endless.id, worker.name, Report(1, 20, *home_standing(home, claimed)))
    home.queue.finish(endless.id, worker.name, "cancelled")
    assert home.queue.get(endless.id).whole and Video(home.film(endless)).num_frames == 21
    longer = home.jobs.submit(home.jobs.extension(endless.id, Owner(), **asked), Owner())[0]
    made(home, longer)
    assert home.film(longer).read_bytes() == home.film(plain).read_bytes()


def test_a_film_that_can_hardly_be_decoded_is_there_without_pictures(home, tmp_path, monkeypatch):
    upload = home.store.keep(write(tmp_path / "theirs.mp4", natural(24)), "local", ".mp4")
    job = home.order(follows=upload, num_frames=12)

    def slow(path, *given):
        raise RequestError("upload: takes too long to decode; a smaller or shorter film works")

    with monkeypatch.context() as patch:
        film = made(home, job)
        patch.setattr("everreel.serve.jobs.produce.sent_film", slow)
        film.show()
    assert Video(home.film(job)).num_frames == 36 and not (home.film(job).parent / "thumbnail.webp").exists()


def home_standing(home, job):
    return Film(job, home.store, home.models, lambda: None).standing()


def test_what_is_shown_of_a_film(home):
    job = home.order(num_frames=9)
    film = made(home, job)
    film.show()
    with Image.open(home.store.open(job.id, "thumbnail.webp")) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (32, 32))
    with Image.open(home.store.open(job.id, "spritesheet.jpg")) as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", (640, 640))
