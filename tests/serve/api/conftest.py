import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from everreel.serve.jobs import uploads
from tests.serve.api import servers


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Start servers that end with the test."""
    monkeypatch.setattr(uploads, "inspect", servers.inspect)
    running = []

    def start(home=None, **given):
        running.append(servers.Served(tmp_path / (home or f"home{len(running)}"), **given).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__(None, None, None)
