"""Files that an agent names by path: those of allowed folders; of others nothing, not even whether they are there."""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest

pytest.importorskip("mcp", reason="the extra `serve` is not installed")

from PIL import Image

from everreel.film.request import RequestError
from everreel.media import FilmWriter
from everreel.serve.agents.files import Folders, is_path
from everreel.serve.jobs.job import DiskFullError
from everreel.serve.jobs.service import Jobs
from tests.serve.agents.calls import ask, calling, order, png, refused, run
from tests.serve.agents.house import HEIGHT, WIDTH, Painter, frames

MOST = 1000


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    return folder


@pytest.fixture
def files(allowed: Path) -> Folders:
    return Folders.of([allowed])


def copied(files: Folders, path: object, tmp_path: Path) -> bytes:
    place = tmp_path / "copy"
    place.unlink(missing_ok=True)
    files.copy("image", str(path), place, MOST)
    return place.read_bytes()


def why(files: Folders, path: object, tmp_path: Path) -> str:
    with pytest.raises(RequestError) as refusal:
        copied(files, path, tmp_path)
    said = str(refusal.value)
    assert said.startswith("image = ") and "\n" not in said
    return said


def test_a_path_is_told_from_base64_and_from_an_id(tmp_path: Path) -> None:
    assert is_path(str(tmp_path))
    assert not is_path("/9j/4AAQSkZJRg") and not is_path(png()) and not is_path("file_" + "0" * 32)
    assert not is_path("pictures/fox.png") and not is_path("file:///fox.png")


def test_a_file_is_copied_from_wherever_in_the_folder_it_is(allowed: Path, files: Folders, tmp_path: Path) -> None:
    (allowed / "a" / "b").mkdir(parents=True)
    (allowed / "a" / "b" / "ä fox").write_bytes(b"fox")
    (allowed / "link").symlink_to("a/b")
    (tmp_path / "other name").symlink_to(allowed)
    assert copied(files, allowed / "a" / "b" / "ä fox", tmp_path) == b"fox"
    assert copied(files, allowed / "link" / "ä fox", tmp_path) == b"fox"
    by_link = Folders.of([tmp_path / "other name"])
    for folder in (allowed, tmp_path / "other name"):
        assert copied(by_link, folder / "link" / "ä fox", tmp_path) == b"fox"
    assert by_link.describe() == str(tmp_path / "other name")


def test_a_folder_may_be_named_from_here_or_from_home(
    allowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (allowed / "fox").write_bytes(b"fox")
    monkeypatch.chdir(allowed)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (Path(), Path("../allowed"), Path("~/allowed")):
        found = Folders.of([folder])
        assert found.describe() == str(allowed) and copied(found, allowed / "fox", tmp_path) == b"fox"
    with pytest.raises(ValueError, match="files = fox: must be a folder that is there"):
        Folders.of([Path("fox")])


def test_links_lead_from_one_allowed_folder_into_another(allowed: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "fox").write_bytes(b"fox")
    (allowed / "fox").symlink_to(second / "fox")
    assert copied(Folders.of([allowed, second]), allowed / "fox", tmp_path) == b"fox"
    assert f"must lie in {allowed}, without" in why(Folders.of([allowed]), allowed / "fox", tmp_path)
    assert f"{allowed} or {second}" in why(Folders.of([allowed, second]), tmp_path / "x", tmp_path)


def test_of_what_lies_elsewhere_nothing_is_told(allowed: Path, files: Folders, tmp_path: Path) -> None:
    """In the same words whether it is there or not, a file or a folder, and by whichever way it is named."""
    other = tmp_path / "other"
    (other / "folder").mkdir(parents=True)
    (other / "there").write_bytes(b"secret")
    (tmp_path / "allowed2").mkdir()
    (tmp_path / "allowed2" / "there").write_bytes(b"secret")
    (allowed / "out").symlink_to(other)
    (allowed / "file").symlink_to(other / "there")
    (allowed / "gone").symlink_to(other / "gone")
    (allowed / "inner").mkdir()
    (allowed / "inner" / "fox").write_bytes(b"fox")
    paths = [other / name for name in ("there", "gone", "folder", "folder/gone")]
    paths += [allowed / "out" / name for name in ("there", "gone", "folder", "there/gone")]
    paths += [allowed / name for name in ("file", "gone", "out", "../other/there", "../other/gone", "out/../there")]
    paths += [allowed / "inner/../inner/fox", allowed / "gone/../inner/fox", tmp_path / "allowed2/there", tmp_path]
    texts = [*map(str, paths), f"/{allowed}/inner/fox", f"{other}/there\0", f"{allowed}/\0", f"{allowed}/\ud800", "/"]
    texts.append(f"{allowed}/" + "inner/" * 1000)
    said = {why(files, text, tmp_path).partition(": ")[2] for text in texts}
    assert said == {f"must lie in {allowed}, without '..' and links that lead out; no other files are read"}


def test_elsewhere_the_disk_is_not_even_looked_at(
    allowed: Path, files: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(*_: object, **__: object) -> Any:
        raise AssertionError("it looked")

    for name in ("lstat", "stat", "open", "readlink"):
        monkeypatch.setattr(os, name, looked)
    assert "must lie in" in why(files, "/no/such/place", allowed)
    assert "must lie in" in why(files, f"{allowed}/../other", allowed)


def test_what_is_no_file_is_not_opened(allowed: Path, files: Folders, tmp_path: Path) -> None:
    (allowed / "folder").mkdir()
    os.mkfifo(allowed / "pipe")
    (allowed / "loop").symlink_to("loop")
    for path, rule in (
        (allowed, "is a folder"),
        (allowed / "folder", "is a folder"),
        (allowed / "gone", "is not there"),
        (allowed / "gone" / "gone", "is not there"),
        (allowed / "pipe", "is no file that can be read"),
        (allowed / "loop", "is no file that can be read"),
        (allowed / ("x" * 300), "is no file that can be read"),
    ):
        assert f": {rule}; a picture or a film works" in why(files, path, tmp_path)


def test_a_device_is_no_file(allowed: Path, files: Folders, tmp_path: Path) -> None:
    try:
        os.mknod(allowed / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except (OSError, AttributeError):
        pytest.skip("only the superuser makes devices, and not everywhere")
    assert "is no file that can be read" in why(files, allowed / "zero", tmp_path)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_comes_in_between_is_not_followed(
    allowed: Path, files: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Once it was seen where a path leads, somebody puts a link in its place."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "fox").write_bytes(b"secret")
    (allowed / "inner").mkdir()
    (allowed / "inner" / "fox").write_bytes(b"fox")
    before = os.path.realpath

    def slow(path: Any) -> str:
        found = before(path)
        (allowed / "inner" / "fox").unlink()
        if what == "folder":
            (allowed / "inner").rmdir()
            (allowed / "inner").symlink_to(tmp_path / "other")
        else:
            (allowed / "inner" / "fox").symlink_to(tmp_path / "other" / "fox")
        return found

    monkeypatch.setattr(os.path, "realpath", slow)
    assert "image = " in why(files, allowed / "inner" / "fox", tmp_path)
    assert (tmp_path / "copy").exists() is False


def test_bytes_are_counted_before_and_while_they_are_copied(
    allowed: Path, files: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (allowed / "large").write_bytes(bytes(MOST + 1))
    (allowed / "right").write_bytes(bytes(MOST))
    assert f"must have at most {MOST} bytes; a smaller file works" in why(files, allowed / "large", tmp_path)
    assert len(copied(files, allowed / "right", tmp_path)) == MOST
    before = os.fstat

    def small(handle: int) -> Any:
        found = before(handle)
        return os.stat_result((*found[:6], 1, *found[7:10]))

    monkeypatch.setattr(os, "fstat", small)
    assert "must have at most" in why(files, allowed / "large", tmp_path)


def test_a_full_disk_is_said_to_be_full(allowed: Path, files: Folders) -> None:
    """Also where it is seen only when the file is closed."""

    class Full(io.BytesIO):
        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    class Place:
        def open(self, _: str) -> io.BytesIO:
            return Full()

    (allowed / "fox").write_bytes(b"fox")
    with pytest.raises(DiskFullError, match="disk: is full on the server"):
        files.copy("image", str(allowed / "fox"), Place(), MOST)  # type: ignore[arg-type]


def test_the_tools_say_so_only_where_it_is_so(jobs: Jobs, files: Folders) -> None:
    async def look(files: Folders | None) -> Any:
        async with calling(jobs, files=files) as client:
            return {tool.name: tool for tool in (await client.list_tools()).tools}

    without, tools = run(look(None)), run(look(files))
    where = f"in {files.describe()}; never another path or a web address."
    for name, tool in tools.items():
        for field, schema in tool.input_schema["properties"].items():
            said, before = schema["description"], without[name].input_schema["properties"][field]["description"]
            if field in ("image", "end_image", "keyframes"):
                assert before.endswith("Never a path or a web address.")
                assert said.endswith(f"Or the whole path of a picture {where}")
            elif field == "film" and name in ("extend_film", "caption_film"):
                assert said == f"{before} Or the whole path of a film {where}" and "path" not in before
            else:
                assert said == before and "path" not in said


def test_pictures_and_films_by_path_are_uploads_like_any_other(jobs: Jobs, allowed: Path, files: Folders) -> None:
    """A picture is written anew, as large as a frame may be, and a film is gone on with; nothing is left behind."""
    Image.new("RGB", (WIDTH, HEIGHT), "teal").save(allowed / "fox.webp")
    with FilmWriter(allowed / "fox.mp4", HEIGHT, WIDTH, 24) as writer:
        writer.append(frames(24))
    picture, film = str(allowed / "fox.webp"), str(allowed / "fox.mp4")

    async def go() -> Any:
        async with calling(jobs, files=files) as client:
            made = await ask(client, "generate_film", prompt="a fox", num_frames=24, image=f" {picture}")
            plan = await ask(client, "plan_film", prompt="a fox", num_frames=24, end_image=picture)
            Painter(jobs).finish(made["film"])
            again = await ask(client, "add_keyframes", film=made["film"], keyframes=[{"frame": 12, "picture": picture}])
            longer = await ask(client, "extend_film", film=film, prompt="it stops", num_frames=24)
            caption = await ask(client, "caption_film", film=film)
            wrong = [
                await refused(client, "extend_film", film=film),
                await refused(client, "extend_film", film=film, prompt="a", seconds=-1),
                await refused(client, "extend_film", film=picture, prompt="a"),
                await refused(client, "caption_film", film=picture),
                await refused(client, "caption_film", film=str(allowed / "none.mp4")),
                await refused(client, "film_status", film=film),
                await refused(client, "generate_film", prompt="a", image=film),
                await refused(client, "generate_film", prompt="a", image="fox.webp"),
                await refused(client, "generate_film", prompt="a", keyframes=[{"frame": 3, "picture": "/none"}]),
            ]
            return made["film"], plan, again["film"], longer["film"], caption, wrong

    made, plan, again, longer, caption, wrong = run(go())
    with Image.open(jobs.store.upload(order(jobs, made).image)) as kept:
        assert kept.format == "PNG" and kept.size == (WIDTH, HEIGHT)
    assert plan["num_frames"] == 24 and list(order(jobs, again).keyframes) == [12]
    assert jobs.store.upload(order(jobs, longer).follows).read_bytes() == Path(film).read_bytes()
    assert caption["film"] == film and caption["caption"].endswith(".")
    rules = (
        "prompt: must be given for an uploaded film",
        "seconds = -1",
        "film: is a picture; give a film",
        "film: is a picture; give a film",
        "none.mp4': is not there; a picture or a film works",
        "no such film",
        "image: is a film; give a picture",
        f"image = 'fox.webp': must be base64 of a picture, the id of an upload, or {{'film': id, 'frame': number}}, or "
        f"a whole path in {allowed}",
        f"keyframes[3] = '/none': must lie in {allowed}",
    )
    for said, rule in zip(wrong, rules, strict=True):
        assert rule in said, said
    assert not list(jobs.store.incoming().iterdir())


def test_films_that_were_sent_are_decoded_in_a_process_of_their_own(
    jobs: Jobs, allowed: Path, files: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those by path, and those of the store, which may begin with what somebody sent."""
    with FilmWriter(allowed / "fox.mp4", HEIGHT, WIDTH, 24) as writer:
        writer.append(frames(24))
    opened: list[Any] = []
    read = av.open

    def watched(*given: Any, **named: Any) -> Any:
        opened.append(given)
        return read(*given, **named)

    async def go() -> None:
        async with calling(jobs, files=files) as client:
            made = await ask(client, "generate_film", prompt="a fox", num_frames=24)
            Painter(jobs).finish(made["film"])
            monkeypatch.setattr(av, "open", watched)
            await ask(client, "caption_film", film=str(allowed / "fox.mp4"))
            await ask(client, "caption_film", film=made["film"])
            await ask(client, "look_at_film", film=made["film"])
            await ask(client, "add_keyframes", film=made["film"], image={"film": made["film"], "frame": 3})

    run(go())
    assert not opened


def test_limits_are_those_of_uploads(jobs: Jobs, allowed: Path, files: Folders) -> None:
    jobs.limits = replace(jobs.limits, upload_bytes=5000, upload_pixels=1000, upload_seconds=0.5)
    Image.new("RGB", (40, 30), "teal").save(allowed / "wide.png")
    (allowed / "large.png").write_bytes(bytes(5001))
    with FilmWriter(allowed / "long.mp4", 16, 16, 24) as writer:
        writer.append(frames(24)[:, :16, :16].copy())

    async def go() -> Any:
        async with calling(jobs, files=files) as client:
            pictures = [str(allowed / name) for name in ("wide.png", "large.png")]
            said = [await refused(client, "generate_film", prompt="a", image=path) for path in pictures]
            return [*said, await refused(client, "caption_film", film=str(allowed / "long.mp4"))]

    wide, large, long = run(go())
    assert "image: at most 1000 pixels" in wide and "at most 5000 bytes" in large
    assert "film: a film may have at most 0.5 s" in long
    assert not list(jobs.store.incoming().iterdir())
