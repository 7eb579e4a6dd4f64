"""Films that were sent are decoded by a process that has limits, dies alone, and is not believed."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from everreel.film.request import RequestError
from everreel.film.source import FilmFrames, SourceFilm
from everreel.serve.jobs import sent
from everreel.serve.jobs.job import BusyError
from everreel.serve.jobs.sent import LOOK, WRITE, sent_film, spliced
from tests.film.films import natural, write


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sent") / "film.mp4", natural(30))


def test_it_is_seen_as_any_film_is(film):
    source = SourceFilm.open(film)
    with sent_film(film) as sent:
        assert (sent.height, sent.width, sent.fps, sent.num_bytes) == (48, 64, source.fps, source.num_bytes)
        frames = FilmFrames(source)
        assert len(sent.frames) == len(frames) == 30
        for number in (29, 0, 3, -1):
            assert (sent.frames[number] == frames[number]).all()
        with pytest.raises(IndexError):
            sent.frames[30]
        assert (sent.tail(9, 16, (32, 32)) == source.tail(9, 16, (32, 32))).all()
        assert len(sent.tail(900, 24, (32, 32))) == len(source.tail(900, 24, (32, 32)))


def test_it_is_opened_as_what_it_was_taken_for_and_as_nothing_else(film):
    with pytest.raises(RequestError, match="cannot be read as a film"), sent_film(film, ".webm"):
        pass


def test_a_film_without_its_end_is_told_so(film, tmp_path):
    (tmp_path / "short.mp4").write_bytes(film.read_bytes()[:-100])
    with pytest.raises(RequestError, match="is cut off, its end is missing"), sent_film(tmp_path / "short.mp4"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has no limit")
def test_its_memory_has_a_limit(tmp_path):
    large = write(tmp_path / "large.mp4", np.zeros((4, 2160, 3840, 3), np.uint8))
    with sent_film(large) as sent:
        assert sent.frames[3].shape == (2160, 3840, 3)
    with (
        pytest.raises(RequestError, match=r"^upload: (takes too much memory|cannot be decoded)"),
        sent_film(large, bounds=replace(LOOK, memory=100_000_000)) as sent,
    ):
        assert sent.frames[3].shape


@pytest.mark.skipif(sys.platform != "linux", reason="only here the limits of another process can be read")
@pytest.mark.parametrize("bounds", [LOOK, WRITE])
def test_its_work_has_a_limit(film, bounds):
    with sent_film(film, bounds=bounds) as sent:
        limits = Path(f"/proc/{sent._process.pid}/limits").read_text()
    found = {line[:26].strip(): line[26:47].strip() for line in limits.splitlines()}
    asked = {"cpu time": bounds.cpu, "address space": bounds.memory, "file size": bounds.output, "core file size": 0}
    assert {name: int(found[f"Max {name}"]) for name in asked} == asked


@pytest.mark.skipif(sys.platform == "win32", reason="there only the clock counts")
def test_one_that_works_too_long_is_ended(film, tmp_path, monkeypatch):
    program = tmp_path / "busy"
    program.write_text("#!/bin/sh\nulimit -S -t 1\nwhile :; do :; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(sent.sys, "executable", str(program))
    with pytest.raises(RequestError, match="takes too long"), sent_film(film):
        pass


def test_an_answer_that_does_not_come_is_not_waited_for(film):
    with pytest.raises(RequestError, match="takes too long"), sent_film(film, bounds=replace(LOOK, clock=0.01)):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="there a file has no limit")
def test_it_may_write_no_more_than_it_needs(film, tmp_path):
    with pytest.raises(RequestError, match="cannot be decoded"), sent_film(film) as sent:  # it needs to write nothing
        sent.splice(tmp_path / "out.mp4", 24)
    with pytest.raises(OSError, match="File too large"), sent_film(film, bounds=replace(WRITE, output=500)) as sent:
        sent.splice(tmp_path / "out.mp4", 24)


def test_of_one_that_was_ended_nothing_is_left(film, tmp_path):
    with pytest.raises(RequestError), sent_film(film, bounds=WRITE) as sent:
        sent._process.kill()
        sent.splice(tmp_path / "out.mp4", 24)
    (tmp_path / "film.mp4.begun-00.part").write_bytes(b"of a process that was ended")
    spliced(film, tmp_path / "film.mp4", 24).close()
    assert not list(tmp_path.iterdir())


def test_no_more_than_a_few_are_decoded_at_a_time_for_a_server(film, monkeypatch):
    monkeypatch.setattr(sent, "LOOK", replace(LOOK, clock=0.1))
    with sent.looked_at(film), sent.looked_at(film), pytest.raises(BusyError, match="try again"), sent.looked_at(film):
        pass
    with sent.looked_at(film) as one:
        assert one.num_frames == 30
    monkeypatch.setattr(sent.sys, "executable", "/nowhere")
    with pytest.raises(BusyError, match="try again"), sent.looked_at(film):
        pass


def test_a_film_that_still_grows_is_seen_as_it_was_opened(film, tmp_path):
    grows = tmp_path / "film.mp4"
    grows.write_bytes(film.read_bytes())
    with sent_film(grows) as sent:
        with grows.open("ab") as file:
            file.write(struct.pack(">I4s", 8, b"free"))
        assert sent.frames[29].shape == (48, 64, 3)


def test_a_film_that_cannot_be_spliced_leaves_nothing(tmp_path, film):
    (tmp_path / "film.mp4.begun-00").write_bytes(b"of a process that was ended")
    with pytest.raises(RequestError):
        spliced(tmp_path / "gone.mp4", tmp_path / "film.mp4", 24)
    assert not list(tmp_path.iterdir())
    with spliced(film, tmp_path / "film.mp4", 24) as writer:
        writer.append(natural(8))
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


GOOD = {"height": 48, "width": 64, "fps": 24.0, "num_frames": 30}
LIES = {
    "nothing": b"",
    "no JSON": b"\xff\xfe\n",
    "half a line": json.dumps(GOOD).encode(),
    "a list": b"[1]\n",
    "a number": b"1\n",
    "no facts": b"{}\n",
    "a word for a number": json.dumps(GOOD | {"height": "48"}).encode() + b"\n",
    "no number": json.dumps(GOOD | {"fps": math.nan}).encode() + b"\n",
    "pixels without end": json.dumps(GOOD | {"height": 60_000, "width": 60_000}).encode() + b"\n",
    "frames without end": json.dumps(GOOD | {"num_frames": 10**12}).encode() + b"\n",
    "no rate": json.dumps(GOOD | {"fps": 0}).encode() + b"\n",
    "a number of many digits": json.dumps(GOOD | {"fps": 10**400}).encode() + b"\n",
    "lists in lists": b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "an error of no disk": b'{"errno": 28}\n',
    "a line without end": b"9" * (sent.MOST_TOLD + 10),
}


def liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *said: bytes) -> None:
    """In the place of the process one that says just this, whatever it is asked."""
    (tmp_path / "said").write_bytes(b"".join(said))
    program = tmp_path / "liar"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/said; exec cat >/dev/null\n")
    program.chmod(0o755)
    monkeypatch.setattr(sent.sys, "executable", str(program))


@pytest.mark.skipif(sys.platform == "win32", reason="has no shell")
@pytest.mark.parametrize("said", LIES.values(), ids=LIES)
def test_what_it_says_of_the_film_is_not_believed(film, tmp_path, monkeypatch, said):
    liar(tmp_path, monkeypatch, said)
    bounds = replace(LOOK, clock=1.0)
    with pytest.raises(RequestError, match=r"^upload: "), sent_film(film, bounds=bounds):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="has no shell")
@pytest.mark.parametrize(
    "said",
    [
        b"{}\n",
        b'{"shape": [1, 48, 64, 4]}\n',
        b'{"shape": [2, 48, 64, 3]}\n' + bytes(2 * 48 * 64 * 3),
        b'{"shape": [0, 48, 64, 3]}\n',
        b'{"shape": [1, 48, 64, 3]}\n' + bytes(100),
        b'{"shape": "1, 48, 64, 3"}\n',
    ],
)
def test_nor_are_its_pixels(film, tmp_path, monkeypatch, said):
    liar(tmp_path, monkeypatch, json.dumps(GOOD).encode() + b"\n", said)
    with (
        pytest.raises(RequestError, match=r"^upload: "),
        sent_film(film, bounds=replace(LOOK, clock=1.0)) as lying,
    ):
        lying.frame(0)


@pytest.mark.skipif(sys.platform == "win32", reason="has no shell")
@pytest.mark.parametrize("said", [b"{}\n", b'{"seam": 5}\n', b'{"seam": {"picture": {}}}\n'])
def test_nor_is_its_seam(film, tmp_path, monkeypatch, said):
    liar(tmp_path, monkeypatch, json.dumps(GOOD).encode() + b"\n", said)
    with pytest.raises(RequestError, match=r"^upload: "):
        spliced(film, tmp_path / "out.mp4", 24)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("options", {"x264-params": "sps-id=1:dump-yuv=/tmp/x"}),
        ("options", {"x264-params": "sps-id=1", "stats": "/tmp/x"}),
        ("options", {"profile": "high444"}),
        ("clock", 0),
        ("clock", "24"),
        ("pixel_format", "rgb48"),
        ("picture", {"height": 2**15, "width": 2**15}),
        ("picture", {"pixel_aspect": "1/0"}),
        ("num_bytes", 7),
    ],
)
def test_what_a_seam_says_to_the_encoder_is_what_ours_would(film, tmp_path, monkeypatch, field, value):
    with sent_film(film, bounds=WRITE) as one:
        facts = one.splice(tmp_path / "begun", 24).facts()
    facts = facts | {field: {**facts[field], **value} if field == "picture" else value}
    with sent_film(film, bounds=WRITE) as one:
        monkeypatch.setattr(one, "_ask", lambda question: ({"seam": facts}, None))
        with pytest.raises(RequestError, match=r"^upload: "):
            one.splice(tmp_path / "begun", 24)


def test_a_refusal_can_be_written_down_whatever_it_says(film, tmp_path, monkeypatch):
    liar(tmp_path, monkeypatch, b'{"refused": "\\ud800 ' + b"x" * 900 + b'"}\n')
    with pytest.raises(RequestError) as error, sent_film(film):
        pass
    assert len(str(error.value).encode()) <= 500


@pytest.mark.skipif(sys.platform == "win32", reason="ends processes otherwise")
def test_it_ends_with_who_started_it(film):
    program = f"""
from pathlib import Path
from everreel.serve.jobs.sent import sent_film
with sent_film(Path({str(film)!r})) as sent:
    print(sent._process.pid, flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").is_file() and Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            return  # it ended, and nobody has asked yet how
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("it goes on without anybody to answer")
