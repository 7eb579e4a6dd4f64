"""Nothing is lost: a film that was stopped anywhere becomes the film that it would have been, and grows next week."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from everreel.film import making
from everreel.film.decoding import to_uint8
from everreel.film.journal import Journal, journal_path, read_journal
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import RequestError, make_request
from everreel.film.source import SourceFilm
from everreel.film.splice import Splice
from everreel.media import FilmWriter, Video, resize_cover
from tests.film.films import natural, packets, shown, write

SMALL = {"prompt": "a red fox", "height": 32, "width": 32, "num_inference_steps": 2}
FILMS = {
    "blocks with a cache": {"num_frames": 42},
    "asynchronous": {"num_frames": 37, "ar_step": 1},
    "one window": {"num_frames": 21},
    "windows encoded again": {"num_frames": 45, "join": "reencode", "overlap_history": 9},
    "noise on history": {"num_frames": 33, "addnoise_condition": 20},
    "asynchronous with a cache": {"num_frames": 25, "ar_step": 1, "cache": True},
    "rolling with a cache and a sink": {"num_frames": 57, "schedule": "rolling", "cache": True, "sink": 2},
    "windows that fade": {"num_frames": 45, "join": "reencode", "overlap_history": 9, "blend_overlap": True},
    "anchored colours": {"num_frames": 57, "anchor_color": 0.5},
    "a ring": {"num_frames": 38, "loop": True},
}


def make(pipe, journal, film):
    with journal.open_film(film) as writer:
        return making.write(pipe, journal, writer)


def more_frames(num_frames):
    return make_request(prompt="a red fox", num_frames=num_frames)


class Stopped(BaseException):
    """Like a process that dies: nothing catches it."""


def stop_after(monkeypatch, count):
    """Die at the `count`-th time that anything reaches the disk: a source, a block of film, or a journal."""
    left = [count]

    def dying(method, before):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and before:
                raise Stopped
            result = method(*args, **kwargs)
            if left[0] == 0:
                raise Stopped
            return result

        return call

    for owner, name in ((FilmWriter, "append"), (Splice, "append"), (Splice, "_begin")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name), before=False))
    monkeypatch.setattr(Journal, "save", dying(Journal.save, before=count % 2 == 0))


@pytest.mark.parametrize("kind", FILMS)
def test_a_film_stopped_at_any_moment_becomes_the_same_bytes(pipe, tmp_path, kind):
    request = make_request(**SMALL, **FILMS[kind])
    whole = tmp_path / "whole.mp4"
    finished = make(pipe, making.begin(pipe, request), whole)
    assert finished.finished and Video(whole).num_frames == request.num_frames
    stops = 0
    for count in range(1, 40):
        film = tmp_path / f"{count}.mp4"
        try:
            with pytest.MonkeyPatch.context() as patch:
                stop_after(patch, count)
                make(pipe, making.begin(pipe, request), film)
        except Stopped:
            stops += 1
        else:
            break
        if not journal_path(film).exists():
            assert not film.exists()  # it died before anything was asked to last
            continue
        journal = read_journal(film)
        if film.exists():
            assert Video(film).num_frames >= journal.num_frames
        if not journal.finished:
            make(pipe, journal, film)
        assert film.read_bytes() == whole.read_bytes()
        assert journal_path(film).read_bytes() == journal_path(whole).read_bytes()
    assert stops > 3


def test_what_the_disk_did_not_keep_is_made_again(pipe, tmp_path):
    """Power loss: what was written to the film after the journal's moment may be there, in part or not at all."""
    request = make_request(**SMALL, num_frames=58)
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    make(pipe, making.begin(pipe, request), whole)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 6)
        make(pipe, making.begin(pipe, request), film)
    journal, data = read_journal(film), film.read_bytes()
    assert 0 < journal.num_bytes < len(data)
    for torn in (data[: journal.num_bytes], data[: journal.num_bytes + 100], data[:-1], data + b"\0" * 4096):
        film.write_bytes(torn)
        make(pipe, journal, film)
        assert film.read_bytes() == whole.read_bytes()


def test_given_pictures_need_not_be_there_any_more(pipe, tmp_path):
    picture = tmp_path / "fox.png"
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(picture)
    request = make_request(**SMALL, num_frames=41, image=picture, end_image=picture)
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    make(pipe, making.begin(pipe, request), whole)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 3)
        make(pipe, making.begin(pipe, request), film)
    picture.unlink()
    make(pipe, read_journal(film), film)
    assert film.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("codec", [None, "libvpx-vp9"])
def test_kill_9(tiny_folder, tmp_path, codec):
    """A real process, really killed in the middle of a film, one of its own or one that goes on with another."""
    source = codec and str(write(tmp_path / "source.mkv", natural(12), codec, sound="aac"))
    script = f"""
import torch; torch.set_num_threads(1)
from everreel.film import making
from everreel.film.decoding import to_uint8
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from everreel.film.source import SourceFilm
from pathlib import Path
import sys
pipe = VideoPipeline.from_pretrained({str(tiny_folder)!r}, device="cpu", dtype=torch.float32)
request, source = make_request(**{SMALL!r}, num_frames=189), {source!r}
journal = making.follow(pipe, request, SourceFilm.open(source), splice=True) if source else making.begin(pipe, request)
with journal.open_film(Path(sys.argv[1])) as writer:
    making.write(pipe, journal, writer, lambda progress: print(progress.row, flush=True))
"""
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    subprocess.run([sys.executable, "-c", script, str(whole)], check=True, capture_output=True)
    with subprocess.Popen([sys.executable, "-c", script, str(film)], stdout=subprocess.PIPE, text=True) as process:
        assert any(int(line) == 8 for line in process.stdout)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    journal = read_journal(film)
    assert 0 < journal.num_frames < 189 and not journal.finished
    assert len(shown(film)[1]) >= journal.num_frames + 12 * bool(codec)
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
    make(pipe, journal, film)
    assert film.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("length", [21, 22, 24, 58])
def test_a_film_grows_from_its_own_latents(pipe, tmp_path, length):
    """Nothing that was shown changes, the count is exact, and what follows goes on from the last frame."""
    film = tmp_path / "film.mp4"
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=length)), film)
    before = Video(film).frames[:]
    for more, total in ((10, length + 10), (1, length + 11), (17, length + 28)):
        journal = making.go_on_with(pipe, read_journal(film), more_frames(more), told=False)
        assert journal.num_frames == total - more
        make(pipe, journal, film)
        after = Video(film).frames[:]
        assert len(after) == total
        assert np.array_equal(after[: len(before)], before)
        before = after
    assert journal_path(film).stat().st_size < 100_000


def test_what_follows_joins_without_a_seam(pipe, tmp_path):
    """Six frames more show the hidden frames of the last latent first: those that a longer film shows there."""
    film = tmp_path / "film.mp4"
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=22)), film)
    make(pipe, making.go_on_with(pipe, read_journal(film), more_frames(6), told=False), film)
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=25)), tmp_path / "longer.mp4")
    grown, longer = Video(film).frames[:].astype(int), Video(tmp_path / "longer.mp4").frames[:].astype(int)
    assert np.abs(grown[:25] - longer).mean() < 3  # blocks of a film are encoded by themselves


def test_a_grown_film_can_be_stopped_too(pipe, tmp_path):
    start, whole, film = (tmp_path / name for name in ("start.mp4", "whole.mp4", "film.mp4"))
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=21)), start)
    for path in (whole, film):
        path.write_bytes(start.read_bytes())
        journal_path(path).write_bytes(journal_path(start).read_bytes())
    make(pipe, making.go_on_with(pipe, read_journal(whole), more_frames(30), told=False), whole)
    for count in (1, 2, 4):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            stop_after(patch, count)
            journal = read_journal(film)
            make(
                pipe,
                making.go_on_with(pipe, journal, more_frames(30), told=False) if journal.finished else journal,
                film,
            )
        assert Video(film).num_frames >= 21
    make(pipe, read_journal(film), film)
    assert film.read_bytes() == whole.read_bytes()


def test_new_noise_follows_old(pipe, tmp_path):
    """A film that goes on does not draw the noise of its beginning again."""
    film = tmp_path / "film.mp4"
    first = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=58)), film)
    second = making.go_on_with(pipe, first, more_frames(20), told=False)
    third = making.go_on_with(pipe, make(pipe, second, film), more_frames(20), told=False)
    assert [journal.beginning.offset + journal.beginning.history for journal in (second, third)] == [16, 21]


def test_only_a_finished_film_grows(pipe):
    with pytest.raises(RequestError, match="has 0 of its frames; finish it first with everreel resume"):
        making.go_on_with(pipe, making.begin(pipe, make_request(**SMALL, num_frames=21)), more_frames(10), told=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "has no journal"),
        (lambda path: path.write_bytes(b"{}"), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "cannot be read"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b'version\\": 1', b'version\\": 9')),
            "version 9, this program reads",
        ),
    ],
)
def test_a_journal_that_is_none_is_one_line(pipe, tmp_path, spoil, message):
    film = tmp_path / "film.mp4"
    making.begin(pipe, make_request(**SMALL, num_frames=21)).save(film)
    spoil(journal_path(film))
    with pytest.raises(ValueError, match=message) as caught:
        read_journal(film)
    assert "\n" not in str(caught.value)


def test_the_maker_is_written_down(pipe, tmp_path):
    film = tmp_path / "film.mp4"
    making.begin(pipe, make_request(**SMALL, num_frames=21)).save(film)
    maker = read_journal(film).maker
    assert (maker.model, maker.device, maker.dtype, maker.threads) == (pipe.card.path, "cpu", "float32", 1)
    assert json.dumps(maker.fingerprint) and len(maker.fingerprint) == 16


def test_a_story_goes_on_with_the_film(pipe, tmp_path):
    """Behind another film a part's frames are counted from where the new ones begin."""
    film = tmp_path / "film.mp4"
    first = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=21)), film)
    longer = make_request(**SMALL, num_frames=24, story={12: "a blue swan"})
    journal = making.go_on_with(pipe, first, longer)
    assert journal.request.story == {12: "a blue swan"}
    beginning = journal.beginning
    plan = make_plan(journal.request, pipe.card, beginning.history, len(beginning.spare))
    assert plan.turns == (beginning.history + 3,)
    plain = replace(journal, request=journal.request.model_copy(update={"story": {}}))

    told, untold = (
        np.concatenate([block.frames for block in pipe.stream(which.request, beginning=beginning)]).astype(int)
        for which in (journal, plain)
    )
    changed = np.abs(told - untold)
    assert changed[12:].mean() > 3 * changed[:12].mean()  # what is made together may differ a little before it too


@pytest.mark.parametrize(("length", "history"), [(60, 4), (14, 4), (7, 2), (1, 1)])
def test_any_film_is_gone_on_with(pipe, tmp_path, length, history):
    """What is looked back at are its last moments, in the model's shape; what follows is counted from its end."""
    write(tmp_path / "source.mkv", natural(length, 96, 128), fps=24)
    source = SourceFilm.open(tmp_path / "source.mkv")
    request = make_request(**{**SMALL, "height": None, "width": None}, num_frames=10, seed=4)
    pipe.card = replace(pipe.card, height=32, width=64)
    journal = making.follow(pipe, request, source)
    assert journal.beginning.history == history == len(journal.beginning.known)
    assert (journal.request.height, journal.request.width) == (48, 48)  # a square is nearest to 4:3
    last = source.tail(1, 24)[0]
    with torch.no_grad():
        known = torch.stack(list(journal.beginning.known.values()), dim=1)
        seen = to_uint8(pipe.vae.decode(known[None])[0])
    small = resize_cover(last, 48, 48)
    assert seen.shape[0] == 4 * history - 3
    with torch.no_grad():
        again = pipe.vae.encode(torch.tensor(small).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1)[0]
    if history == 1:
        torch.testing.assert_close(known, again)
    film = make(pipe, journal, tmp_path / "new.mp4")
    assert film.finished and Video(tmp_path / "new.mp4").num_frames == 10


SOURCES = {
    "copied": ("film.mp4", "libx264", {"options": {"bf": "3"}}),
    "copied, with sound": ("film.mkv", "libx264", {"sound": "aac", "seconds": 1}),
    "vp9, with sound": ("film.webm", "libvpx-vp9", {"sound": "libopus"}),
    "mpeg4, turned": ("film.mp4", "mpeg4", {"turn": {"degrees": 90}, "aspect": Fraction(4, 3)}),
}


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source.mp4", natural(12, 32, 48), sound="aac")


def follow(pipe, source, film, num_frames=28):
    """As the command does it: the journal is there before the source is."""
    journal = making.follow(pipe, make_request(**SMALL, num_frames=num_frames), SourceFilm.open(source), splice=True)
    journal.save(film)
    return make(pipe, journal, film)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_film_made_elsewhere_that_was_being_made_longer_goes_on_too(pipe, tmp_path, kind):
    name, codec, more = SOURCES[kind]
    source = write(tmp_path / name, natural(12, 36, 50), codec, **more)
    whole = tmp_path / "whole.mp4"
    assert follow(pipe, source, whole).finished
    assert len(shown(whole)[1]) == 12 + 28 and packets(whole, "audio") == packets(source, "audio")
    before = source.read_bytes()
    for count in range(1, 40):
        film = tmp_path / f"{count}.mp4"
        try:
            with pytest.MonkeyPatch.context() as patch:
                stop_after(patch, count)
                follow(pipe, source, film)
        except Stopped:
            pass
        else:
            break
        if not journal_path(film).exists():
            assert not film.exists()
            continue
        journal = read_journal(film)
        if film.exists():
            assert len(shown(film)[1]) >= 12 + journal.num_frames
        if journal.num_frames:
            source.unlink()  # the film holds it
        if not journal.finished:
            make(pipe, journal, film)
        assert film.read_bytes() == whole.read_bytes()
        assert journal_path(film).read_bytes() == journal_path(whole).read_bytes()
        source.write_bytes(before)
    assert count > 10


def test_what_the_disk_did_not_keep_of_new_frames_is_made_again(pipe, tmp_path, source):
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    follow(pipe, source, whole)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 6)
        follow(pipe, source, film)
    journal, data = read_journal(film), film.read_bytes()
    assert 0 < journal.source.seam.num_bytes < journal.num_bytes < len(data)
    for torn in (data[: journal.num_bytes], data[: journal.num_bytes + 100], data[:-1], data + b"\0" * 4096):
        film.write_bytes(torn)
        make(pipe, journal, film)
        assert film.read_bytes() == whole.read_bytes()


def test_only_what_was_begun_is_gone_on_with(pipe, tmp_path, source):
    film = tmp_path / "film.mp4"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 7)
        follow(pipe, source, film)
    journal, data = read_journal(film), film.read_bytes()
    for other, message in (
        (source.read_bytes() * 9, "was begun with another size"),
        (data[: journal.num_bytes - 1], "no block ends at byte"),
    ):
        film.write_bytes(other)
        with pytest.raises(ValueError, match=rf"film\.mp4: {message}"):
            make(pipe, journal, film)
        assert film.read_bytes() == other
    film.unlink()
    with pytest.raises(FileNotFoundError, match=r"the film to resume is not there.*film\.mp4"):
        make(pipe, journal, film)
    film.write_bytes(data)
    seam = replace(journal.source.seam, avcc=b"another")
    with pytest.raises(ValueError, match="was begun with another encoder"):
        make(pipe, replace(journal, source=replace(journal.source, seam=seam)), film)
    assert film.read_bytes() == data[: journal.num_bytes] and len(shown(film)[1]) == 12 + journal.num_frames


def test_a_source_that_is_not_what_it_was_is_refused_while_it_is_needed(pipe, tmp_path, source):
    """One line that names it, and when it is put back the film is what it would have been."""
    whole, film, before = tmp_path / "whole.mp4", tmp_path / "film.mp4", source.read_bytes()
    follow(pipe, source, whole)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 3)
        follow(pipe, source, film)
    journal = read_journal(film)
    assert journal.num_frames == 0 and journal.source.path == source and not film.exists()
    changed = bytearray(before)
    changed[len(before) // 2] ^= 1
    for other, message in (
        (bytes(changed), "is not the film any more"),
        (before + b"x", "is not the film any more"),
        (None, "is gone"),
    ):
        source.unlink() if other is None else source.write_bytes(other)
        with pytest.raises(ValueError, match=rf"video = {source}: {message}") as caught:
            make(pipe, journal, film)
        assert "\n" not in str(caught.value) and not film.exists()
    source.write_bytes(before)
    make(pipe, read_journal(film), film)
    assert film.read_bytes() == whole.read_bytes()


def test_a_film_that_was_made_longer_grows_from_its_own_latents(pipe, tmp_path, source):
    """And can be stopped while it does; the source is needed no more."""
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    for path in (whole, film):
        follow(pipe, source, path, 10)
    source.unlink()
    make(pipe, making.go_on_with(pipe, read_journal(whole), more_frames(30), told=False), whole)
    times, frames = shown(whole)
    assert len(frames) == 12 + 10 + 30 and times == [Fraction(k, 24) for k in range(52)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 4)
        make(pipe, making.go_on_with(pipe, read_journal(film), more_frames(30), told=False), film)
    make(pipe, read_journal(film), film)
    assert film.read_bytes() == whole.read_bytes()


def test_how_much_is_looked_back_at(pipe):
    request = make_request(**SMALL, overlap_history=9)
    assert making.history_frames(request, pipe.card) == 9
    assert making.history_frames(make_request(**SMALL), pipe.card) == 13
    assert making.history_frames(make_request(**SMALL), replace(pipe.card, causal=False)) == 17


def test_the_shape_that_is_nearest(pipe):
    card = replace(pipe.card, height=96, width=160)
    for height, width, want in ((54, 96, (96, 160)), (96, 54, (160, 96)), (64, 64, (128, 128)), (40, 96, (96, 160))):
        fitted = making.fitted(make_request(prompt="x"), (height, width), card)
        assert (fitted.height, fitted.width) == want
    fitted = making.fitted(make_request(prompt="x", resolution="540P"), (96, 54), card)
    assert (fitted.height, fitted.width, fitted.resolution) == (960, 544, None)
    asked = make_request(prompt="x", height=32, width=64)
    assert making.fitted(asked, (96, 54), card) is asked


@pytest.mark.parametrize("join", ["reencode", "hybrid"])
def test_windows_join_behind_a_history_too(pipe, tmp_path, join):
    """What is looked back at was shown before, and still a window may have to encode it again."""
    film = tmp_path / "film.mp4"
    request = make_request(**SMALL, num_frames=33, schedule="windows", join=join, base_num_frames=25)
    make(pipe, making.begin(pipe, request), film)
    make(pipe, making.go_on_with(pipe, read_journal(film), more_frames(61), told=False), film)
    assert Video(film).num_frames == 94


def test_a_journal_of_an_older_film_does_not_outlive_it(pipe, tmp_path):
    film = tmp_path / "film.mp4"
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=9)), film)
    pipe(make_request(**SMALL, num_frames=5), output=film)
    assert read_journal(film).num_frames == 5 and read_journal(film).finished


def test_an_older_film_keeps_its_journal_until_it_is_replaced(pipe, tmp_path):
    film = tmp_path / "film.mp4"
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=9)), film)
    before = journal_path(film).read_bytes()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(pipe, "_stream", lambda *_: (_ for _ in ()).throw(Stopped))
        make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=21)), film)
    assert journal_path(film).read_bytes() == before and Video(film).num_frames == 9


def test_a_full_disk_is_an_error_of_the_disk(pipe, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        making.begin(pipe, make_request(**SMALL, num_frames=9)).save(tmp_path / "gone" / "film.mp4")
