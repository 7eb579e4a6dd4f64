"""What clients send: taken as it is seen, refused in one line, and read by a process that can do no harm."""

import errno
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.hostile import Result, look, trap
from benchmarks.hostile_files import Hostile, damaged, films, polyglots, texts, wholes
from everreel.film import source
from everreel.film.request import RequestError
from everreel.film.source import SourceFilm
from everreel.media import read_image
from everreel.serve.jobs import uploads
from everreel.serve.jobs.job import DiskFullError, JobError, Limits
from everreel.serve.jobs.uploads import UNREADABLE, inspect
from tests.film.films import natural, write

LIMITS = Limits()
PICTURE = natural(1, 40, 60)[0]


def picture(path: Path, mode: str = "RGB", **options: object) -> Path:
    image = Image.fromarray(PICTURE)
    if mode == "I;16":
        image = Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
    elif mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(PICTURE[..., 0]))
    image.convert(mode).save(path, **options)  # type: ignore[arg-type]
    return path


def refused(path: Path, limits: Limits = LIMITS) -> str:
    """Why a file is refused; it stays as it is, and nothing is left beside it."""
    before = path.read_bytes()
    with pytest.raises(RequestError) as error:
        inspect(path, limits)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]
    assert "\n" not in str(error.value) and str(path.parent) not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("options", "threads"), [(uploads.upload_options(".mp4"), "NONE"), ({}, "AUTO")])
def test_a_film_that_was_sent_is_decoded_again_in_one_thread(tmp_path, monkeypatch, options, threads):
    film = SourceFilm.open(write(tmp_path / "film.mp4", natural(12, 48, 64)), options)
    streams = []
    find = source.picture_stream
    monkeypatch.setattr(source, "picture_stream", lambda *given: streams.append(find(*given)) or streams[-1])
    seen = []
    for _ in film._frames_from(Fraction(0)):
        seen.append(streams[-1].thread_type.name)
    assert set(seen) == {threads} and len(seen) == 12


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.png", "RGB", {}),
        ("a.png", "RGBA", {}),
        ("a.png", "L", {}),
        ("a.png", "LA", {}),
        ("a.png", "1", {}),
        ("a.png", "I;16", {}),
        ("a.png", "P", {"transparency": 3}),
        ("a.jpg", "RGB", {"quality": 80}),
        ("a.jpg", "CMYK", {}),
        ("a.webp", "RGB", {}),
        ("a.webp", "RGBA", {}),
    ],
)
def test_a_picture_is_written_anew_with_the_same_pixels(
    tmp_path: Path, name: str, mode: str, options: dict[str, object]
) -> None:
    path = picture(tmp_path / name, mode, **options)
    before = read_image(path)
    found = inspect(path, LIMITS)
    assert (found.kind, found.suffix, found.width, found.height) == ("image", ".png", 60, 40)
    np.testing.assert_array_equal(read_image(path), before)
    with Image.open(path, formats=["PNG"]) as image:
        assert not image.info and not image.getexif()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_a_picture_is_no_larger_than_films_need(tmp_path: Path, mode: str) -> None:
    path = picture(tmp_path / "a.png", mode)
    whole = read_image(path).astype(float)
    found = inspect(path, Limits(pixels=2400 // 4 // uploads.SPARE))
    assert (found.width, found.height) == (30, 20)
    small = read_image(path)
    assert small.shape == (20, 30, 3)
    assert np.abs(whole.reshape(20, 2, 30, 2, 3).mean((1, 3)) - small).mean() < 6


def test_a_turned_photograph_stands_upright_and_forgets_where_it_was_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a telephone"
    path = picture(tmp_path / "a.jpg", exif=exif, icc_profile=b"colours", comment=b"at home")
    before = read_image(path)
    found = inspect(path, LIMITS)
    assert (found.width, found.height) == (40, 60)
    np.testing.assert_array_equal(read_image(path), before)
    assert not any(word in path.read_bytes() for word in (b"telephone", b"colours", b"at home"))


@pytest.mark.parametrize(
    ("name", "codec", "more"),
    [
        ("a.mp4", "libx264", {"sound": "aac"}),
        ("a.mp4", "libx264", {"turn": {"degrees": -90}, "aspect": Fraction(4, 3)}),
        ("a.mov", "prores_ks", {"pix_fmt": "yuv422p10le"}),
        ("a.mkv", "libx264", {"sound": "libopus", "fps": 10}),
        ("a.webm", "libvpx-vp9", {"sound": "libopus"}),
        ("a.mp4", "libsvtav1", {}),
    ],
)
def test_a_film_is_taken_as_it_is(tmp_path: Path, name: str, codec: str, more: dict[str, object]) -> None:
    path = write(tmp_path / name, natural(12, 96, 128), codec, **more)
    before, film = path.read_bytes(), SourceFilm.open(path)
    found = inspect(path, LIMITS)
    assert (found.kind, found.suffix, found.width, found.height) == ("video", path.suffix, film.width, film.height)
    assert found.seconds == pytest.approx(film.duration)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_is_too_large_is_refused_with_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "picture").mkdir()
    path = picture(tmp_path / "picture" / "a.png")
    size = path.stat().st_size
    assert refused(path, Limits(upload_bytes=size - 1)) == (
        f"upload = {size} bytes: at most {size - 1} bytes; a smaller file works"
    )
    assert refused(path, Limits(upload_pixels=2399)) == ("upload = 60x40: at most 2399 pixels; a smaller picture works")
    (tmp_path / "film").mkdir()
    film = write(tmp_path / "film" / "a.mp4", natural(12))
    assert refused(film, Limits(upload_pixels=64 * 48 - 1)).startswith("upload = 64x48: at most 3071 pixels")
    assert refused(film, Limits(upload_seconds=0.4)) == (
        "upload = 0.5 s: a film may have at most 0.4 s; a shorter one works"
    )
    for name, most, rule in (
        ("MOST_FRAMES", 11, "at most 11 frames"),
        ("MOST_DECODED", 64 * 48 * 11, "at most 33792 pixels together"),
        ("MOST_STREAMS", 0, "at most 0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(uploads, name, most)
            assert rule in refused(film)
    assert inspect(film, Limits(upload_pixels=64 * 48, upload_seconds=0.5)).kind == "video"


def test_a_picture_that_takes_more_memory_than_it_may_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (7000, 7000)).save(tmp_path / "a.png")
    monkeypatch.setattr(uploads, "MEMORY", 80_000_000)
    assert refused(tmp_path / "a.png") == "upload: takes too much memory to read; a smaller one works"


def test_a_film_in_a_rare_codec_is_refused_with_those_that_work(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", natural(3), "snow")
    assert refused(path) == "upload: is coded in a way that is not read here; H.264, HEVC, VP9, AV1 or ProRes works"


def test_nothing_but_a_file_is_opened(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("link.png", "pipe.png", "folder.png", "missing.png"):
        with pytest.raises(RequestError) as error:
            inspect(tmp_path / name, LIMITS)
        assert str(error.value) == UNREADABLE
    assert (tmp_path / "link.png").is_symlink()


def test_hostile_files_are_refused_or_harmless(tmp_path: Path) -> None:
    """A part of what the benchmark sends, `python -m benchmarks.hostile`."""
    result = Result()
    with trap() as (address, calls):
        whole, draw = wholes(), random.Random(1)
        broken = [Hostile(f"damaged {kind}", "", damaged(whole[kind], whole["PNG"], draw), "either") for kind in whole]
        files = [*texts(address), *polyglots(address), *list(films())[::3], *broken]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda each: look(each[1], tmp_path / str(each[0]), result), enumerate(files)))
    assert not result.wrong and not calls
    assert set(result.ends) == {"accepted", "refused"} and sum(result.ends.values()) == len(files) > 60


# What the reader itself may do, and what becomes of one that has been taken over.


def test_the_reader_can_open_nothing_when_it_begins_to_read() -> None:
    code = f"""
import importlib.util, os, socket, sys
spec = importlib.util.spec_from_file_location("reader", {str(uploads._READER)!r})
reader = importlib.util.module_from_spec(spec)
sys.modules["reader"] = reader
spec.loader.exec_module(reader)
assert not any(name.split(".")[0] in ("everreel", "torch") for name in sys.modules)
reader.shut()
done = []
for attempt in (lambda: open("/etc/passwd"), lambda: os.listdir("/"), socket.socket, os.pipe, lambda: os.dup(0)):
    try:
        attempt()
        done.append(attempt)
    except OSError:
        pass
print(len(done))
"""
    made = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout == "0\n"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts other code in the reader's place, and gives a picture to be read."""

    def put(code: str) -> Path:
        (tmp_path / "reader.py").write_text(f"import json, os, signal, sys, time\n{code}")
        monkeypatch.setattr(uploads, "_READER", tmp_path / "reader.py")
        (tmp_path / "sent").mkdir(exist_ok=True)
        return picture(tmp_path / "sent" / "a.png")

    return put


SAID = {"kind": "image", "width": 60, "height": 40, "seconds": 0}


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "sys.exit(0)",
        "sys.exit(3)",
        "print('all is well', file=sys.stderr)",
        "while True: os.write(2, b'a' * 10000)",
        f"os.write(2, b'{json.dumps(SAID)}\\n'); sys.exit(3)",
        f"os.write(2, b'{json.dumps(SAID)}\\n' * 2)",
        f"os.write(2, b'{json.dumps(SAID)}\\n')",  # but there is no picture
        f"os.write(2, b'{json.dumps(SAID | {'kind': 'video'})}\\n')",
        f"os.write(2, b'{json.dumps(SAID | {'width': -60, 'height': -40})}\\n')",
        f"os.write(2, b'{json.dumps(SAID | {'width': 10**9})}\\n')",
        f"os.write(2, b'{json.dumps(SAID | {'width': True})}\\n')",
        f"os.write(2, b'{json.dumps(SAID | {'seconds': float('nan')})}\\n')",
        f"os.write(2, b'{json.dumps(SAID | {'seconds': '1'})}\\n')",
        "os.write(2, b'[1]\\n')",
        "os.write(2, b'{}\\n')",
        'os.write(2, b\'{"refused": "<script>", "values": []}\\n\')',
        'os.write(2, b\'{"refused": "seconds", "values": ["<script>"]}\\n\')',
        'os.write(2, b\'{"refused": [], "values": 1}\\n\')',
    ],
)
def test_a_reader_that_dies_or_lies_refuses_the_file(reader: Callable[[str], Path], code: str) -> None:
    assert refused(reader(code)) == UNREADABLE


def test_a_reader_that_draws_another_picture_than_it_says_is_not_believed(reader: Callable[[str], Path]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (61, 40)).save(file, "PNG")
    code = "os.write(1, bytes.fromhex('{}')); os.write(2, {!r})"
    said = json.dumps(SAID).encode() + b"\n"
    assert refused(reader(code.format(file.getvalue().hex(), said))) == UNREADABLE
    path = reader(code.format(file.getvalue().hex(), said.replace(b"60", b"61")))
    assert inspect(path, LIMITS).width == 61 and path.read_bytes() == file.getvalue()


@pytest.mark.parametrize("code", ["time.sleep(60)", "os.close(2); time.sleep(60)"])
def test_a_reader_that_takes_too_long_is_ended(
    reader: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    path = reader(code)
    monkeypatch.setitem(uploads._PICTURES, "PNG", uploads._Kind("PNG", ".png", cpu=30, clock=0.3))
    assert refused(path) == "upload: takes too long to read; a smaller or shorter one works"


def test_a_reader_that_works_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system, with the reader's own limit."""
    code = uploads._READER.read_text().replace("    shut()\n", "    while True:\n        pass\n")
    (tmp_path / "reader.py").write_text(code)
    (tmp_path / "sent").mkdir()
    monkeypatch.setattr(uploads, "_READER", tmp_path / "reader.py")
    monkeypatch.setitem(uploads._PICTURES, "PNG", uploads._Kind("PNG", ".png", cpu=1, clock=60))
    path = picture(tmp_path / "sent" / "a.png")
    assert refused(path) == "upload: takes too long to read; a smaller or shorter one works"


def test_a_reader_is_told_no_path_and_knows_nothing_of_this_process(
    reader: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERREEL_API_KEY", "a secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    path = reader(
        "assert not os.listdir('.') and 'sent' not in ' '.join(sys.argv) + os.getcwd()\n"
        "assert not {*os.environ} - {'LC_CTYPE', 'LD_LIBRARY_PATH', 'SYSTEMROOT'}, os.environ\n"
        "assert sys.flags.isolated and sys.flags.no_site\n"
        "assert {int(fd) for fd in os.listdir('/dev/fd')} - {3} == {0, 1, 2}\n"
        'os.write(2, b\'{"refused": "pixels", "values": [1, 2]}\\n\')'
    )
    assert refused(path) == f"upload = 1x2: at most {LIMITS.upload_pixels} pixels; a smaller picture works"


def test_few_are_read_at_once(reader: Callable[[str], Path], tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = reader(
        f"def note(what):\n    with open({str(log)!r}, 'a') as file: file.write(what)\n"
        "note('+'); time.sleep(0.1); note('-')\n"
        'os.write(2, b\'{"refused": "memory", "values": []}\\n\')'
    )

    def read(_: int) -> None:
        with pytest.raises(RequestError, match="too much memory"):
            inspect(path, LIMITS)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(read, range(6)))
    now, most = 0, 0
    for sign in log.read_text():
        now += 1 if sign == "+" else -1
        most = max(most, now)
    assert len(log.read_text()) == 12 and most == uploads.AT_ONCE


def test_who_would_wait_too_long_is_told_to_come_again(
    reader: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = reader("")
    monkeypatch.setattr(uploads, "_TURNS", threading.BoundedSemaphore(1))
    monkeypatch.setitem(uploads._PICTURES, "PNG", uploads._Kind("PNG", ".png", cpu=30, clock=0.1))
    with uploads._TURNS, pytest.raises(JobError, match=r"^upload: too many are being read; try again in a minute$"):
        inspect(path, LIMITS)


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [(errno.ENOSPC, DiskFullError, "disk is full"), (errno.EAGAIN, JobError, "cannot be read now")],
)
def test_trouble_of_this_machine_is_not_the_files(
    reader: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, number: int, kind: type[JobError], said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/a/path")

    path = reader("")
    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(kind, match=said) as error:
        inspect(path, LIMITS)
    assert "/a/path" not in str(error.value) and list(path.parent.iterdir()) == [path]
