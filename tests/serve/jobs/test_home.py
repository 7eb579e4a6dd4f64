"""A home: where it is, and that whoever opens it finds the same."""

from everreel.serve.jobs.home import default_home, open_home
from everreel.serve.jobs.job import new_id
from tests.serve.jobs.orders import put


def test_where_films_are_if_nothing_else_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_home() == tmp_path / "everreel"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", unset)
        assert default_home() == tmp_path / ".local/share/everreel"


def test_whoever_opens_a_home_finds_the_same(tmp_path):
    folder, film = tmp_path / "deep" / "home", new_id("video")
    server, worker = open_home(folder), open_home(folder)
    assert folder.stat().st_mode & 0o077 == 0, "it is for its user alone"
    assert worker.queue.claim("worker") is None
    job = put(server.queue)
    assert worker.queue.claim("worker").id == job.id and server.queue.get(job.id).status == "in_progress"
    (worker.store.workplace(film) / "film.mp4").write_bytes(b"film")
    assert server.store.size(film, "film.mp4") == 4
