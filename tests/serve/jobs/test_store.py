"""Films and uploads in folders: whose they are, what may be part of a path, a full disk, and what is deleted when."""

import os
import shutil
import threading
import time
from collections import namedtuple

import pytest

from everreel.serve.jobs import store as module
from everreel.serve.jobs.job import DiskFullError, NotFoundError, QuotaError, new_id
from everreel.serve.jobs.store import FolderStore

DAY = 86400
Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "home", reserve=0)


@pytest.fixture
def clock(monkeypatch):
    clock = {"now": 500.0}
    monkeypatch.setattr("everreel.serve.jobs.age.time.monotonic", lambda: clock["now"])
    return clock


def spool(store, data=b"picture", name="spooled"):
    path = store.incoming() / name
    path.write_bytes(data)
    return path


def keep(store, owner="anna", data=b"picture", suffix=".png"):
    return store.keep(spool(store, data), owner, suffix)


def test_ids_are_drawn():
    ids = {new_id("video") for _ in range(100)} | {new_id("file") for _ in range(100)}
    assert len(ids) == 200 and all(len(name.partition("_")[2]) == 32 for name in ids)


def test_a_film_has_a_folder(store):
    name = new_id("video")
    assert store.size(name, "film.mp4") == 0
    with pytest.raises(NotFoundError, match=r"has no film\.mp4 yet"):
        store.open(name, "film.mp4")
    folder = store.workplace(name)
    assert folder == store.workplace(name) and folder.is_dir()
    (folder / "film.mp4").write_bytes(b"frames")
    with store.open(name, "film.mp4") as file:
        assert file.read() == b"frames" and store.size(name, "film.mp4") == 6
        (folder / "film.mp4.journal").write_bytes(b"state")
        store.delete(name)
        file.seek(0)
        assert file.read() == b"frames", "who reads it can read on"
    assert not folder.exists()
    store.delete(name)


WRONG = ["", "..", "video_", "video_" + "A" * 32, "video_" + "0" * 31 + "/", "video_" + "0" * 32 + "\n", "/etc/passwd",
         "video_" + "0" * 32 + "/../x", "file_" + "0" * 32, "\ud800", "video_" + "٣" * 32]  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_only_an_id_becomes_part_of_a_path(store, name):
    for call in (store.workplace, store.delete, store.wish, store.take_wish, lambda n: store.open(n, "film.mp4"),
                 lambda n: store.size(n, "film.mp4")):  # fmt: skip
        with pytest.raises(NotFoundError, match=r"^video = '.*': there is no such film"):
            call(name)
    with pytest.raises(NotFoundError):
        store.upload(name.replace("video_", "file_") if name != WRONG[-3] else "x")


def test_only_parts_of_a_film_are_opened(store):
    name = new_id("video")
    (store.workplace(name) / "film.mp4.journal").write_bytes(b"state")
    for part in ("film.mp4.journal", "../x", "", ".", "\0"):
        with pytest.raises(NotFoundError, match="has no such part"):
            store.open(name, part)
        with pytest.raises(NotFoundError):
            store.size(name, part)


def test_no_link_is_followed(store, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "film.mp4").write_bytes(b"secret")
    name, linked = new_id("video"), new_id("video")
    folder = store.workplace(name)
    (folder / "film.mp4").symlink_to(secret / "film.mp4")
    (folder / "deep").symlink_to(secret)
    folder.with_name(linked).symlink_to(secret)
    for film in (name, linked):
        with pytest.raises(NotFoundError):
            store.open(film, "film.mp4")
    assert store.size(name, "film.mp4") == 0
    with pytest.raises(NotFoundError):
        store.workplace(linked)
    store.delete(name)
    assert not folder.exists() and (secret / "film.mp4").read_bytes() == b"secret"
    (store.incoming() / "link").symlink_to(secret / "film.mp4")
    with pytest.raises(ValueError, match="upload: must be a file"):
        store.keep(store.incoming() / "link", "anna", ".mp4")


def test_a_pipe_is_no_film(store):
    name = new_id("video")
    os.mkfifo(store.workplace(name) / "film.mp4")
    with pytest.raises(NotFoundError):
        store.open(name, "film.mp4")


def test_wishes(store):
    name = new_id("video")
    store.wish(name)
    assert not store.take_wish(name), "it was not begun"
    folder = store.workplace(name)
    store.wish(name)
    store.wish(name)
    assert store.take_wish(name) and not store.take_wish(name)
    assert list(folder.iterdir()) == []


def test_an_upload_belongs_to_its_owner(store, tmp_path):
    source = spool(store)
    name = store.keep(source, "anna", ".png")
    assert not source.exists() and list(store.incoming().iterdir()) == []
    path = store.upload(name, "anna")
    assert path == store.upload(name) and path.suffix == ".png" and path.read_bytes() == b"picture"
    assert path.stat().st_mode & 0o777 == 0o600 and path.is_relative_to(tmp_path / "home")
    for other in ("ben", "Anna", "", "anna/..", ".", "\ud800"):
        with pytest.raises(NotFoundError, match="there is no such upload"):
            store.upload(name, other)
        assert store.uploads(other) == 0
    keep(store, "anna", b"12345", ".mp4")
    keep(store, "Anna", b"1", ".mp4")
    assert (store.uploads("anna"), store.uploads(None)) == (12, 13)
    for missing in (new_id("file"), name[:-1], name + "x", "file_*", new_id("video"), "x" * 10**6):
        with pytest.raises(NotFoundError) as error:
            store.upload(missing, "anna")
        assert len(str(error.value)) < 600


def test_an_upload_from_another_disk_is_copied(store, tmp_path, monkeypatch):
    source, replace = tmp_path / "elsewhere", module.Path.replace
    source.write_bytes(b"picture")

    def apart(path, target):
        if path == source:
            raise OSError(18, "Invalid cross-device link")
        return replace(path, target)

    monkeypatch.setattr(module.Path, "replace", apart)
    name = store.keep(source, "anna", ".png")
    assert store.upload(name).read_bytes() == b"picture" and not source.exists()
    assert list(store.incoming().iterdir()) == []


def test_of_two_uploads_at_once_only_one_takes_the_last_room(store, monkeypatch):
    sources, size, outcomes = [spool(store, b"x" * 60, name=f"{n}") for n in range(4)], module._size, []
    monkeypatch.setattr(module, "_size", lambda path: (time.sleep(0.02), size(path))[1])

    def keep_one(source):
        try:
            outcomes.append(store.keep(source, "anna", ".mp4", 100))
        except QuotaError:
            outcomes.append(None)

    threads = [threading.Thread(target=keep_one, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4 and outcomes.count(None) == 3 and store.uploads("anna") == 60
    assert list(store.incoming().iterdir()) == [], "what is refused is not kept"
    store.keep(spool(store, b"x" * 40), "anna", ".mp4", 100)
    store.keep(spool(store, b"x" * 60), "ben", ".mp4", 100)


def test_a_reserve_is_left_alone(store, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1000, 600, 400))
    assert store.free_bytes() == 400
    full = FolderStore(tmp_path / "home", reserve=400)
    assert full.free_bytes() == FolderStore(tmp_path / "home").free_bytes() == 0
    with pytest.raises(DiskFullError, match=r"^disk: is full on the server"):
        keep(full)
    assert store.upload(keep(store)).exists()


def test_a_disk_that_fills_keeps_nothing_by_halves(store, monkeypatch):
    source = spool(store)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(DiskFullError):
            store.keep(source, "anna", ".png")
    assert store.uploads("anna") == 0 and list(store.incoming().iterdir()) == []


def test_uploads_are_dropped_after_a_day_that_passed(store, clock, monkeypatch):
    old, needed = keep(store), keep(store)
    monkeypatch.setattr(module.time, "time", lambda: 1e12)
    clock["now"] += DAY - 10
    young = keep(store)
    for name in (old, needed, young):
        os.utime(store.upload(name), (0, 0))
    store.drop_uploads({needed})
    assert store.upload(old)
    clock["now"] += 20
    store.drop_uploads({needed})
    with pytest.raises(NotFoundError):
        store.upload(old)
    assert store.upload(needed) and store.upload(young)
    store.drop_uploads(set())
    with pytest.raises(NotFoundError):
        store.upload(needed)
    clock["now"] += DAY
    FolderStore(store.incoming().parent).drop_uploads(set())
    with pytest.raises(NotFoundError):
        store.upload(young)


def test_what_was_being_received_is_forgotten_after_an_hour(store, clock):
    lost, growing = spool(store, name="lost"), spool(store, name="growing")
    for _ in range(3):
        store.drop_uploads(set())
        assert lost.exists()
        clock["now"] += 1500
        with growing.open("ab") as file:
            file.write(b"more")
    store.drop_uploads(set())
    assert not lost.exists() and growing.exists()
