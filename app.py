"""everreel's page for everybody, as Hugging Face Spaces run it: the embedded model, and a small quota for each visitor.

`python app.py` serves it on port 7860. The one invariant: a visitor is the session of an open page and nothing else, so
nobody sees another's films, and all of them go with the folder that they are made in. Films are ordered on the page
alone: the HTTP interface only hands out those that the page has given a token for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

if importlib.util.find_spec("everreel") is None:  # a Space installs requirements.txt, and not the repository
    sys.path.insert(0, str(Path(__file__).parent / "src"))
    os.environ["PYTHONPATH"] = sys.path[0]  # of the worker

from everreel.film.loading import model_options
from everreel.serve.api.app import make_app
from everreel.serve.api.settings import Settings
from everreel.serve.api.tokens import Tokens
from everreel.serve.jobs.job import Limits, Owner, Quota
from everreel.serve.jobs.queue import SqliteQueue
from everreel.serve.jobs.service import Jobs, serve_options
from everreel.serve.jobs.store import FolderStore
from everreel.serve.jobs.supervisor import Supervisor
from everreel.serve.ui.page import mount
from everreel.serving import cleaning
from everreel.web import bind, run

HOST, PORT = "0.0.0.0", 7860
QUOTA = Quota(films=4, seconds=30, bytes=30_000_000)
LIMITS = Limits(
    seconds=10,
    pixels=160 * 96,
    steps=30,
    prompt=1000,
    upload_bytes=8_000_000,
    upload_pixels=12_000_000,
    upload_seconds=1,
    retention=3600,
)
PARENTS = "https://huggingface.co https://*.hf.space"


class _Nobody:
    """Keys, of which there are none, so that nothing of the HTTP interface opens without a token."""

    def any(self) -> bool:
        return True

    def owner(self, key: str) -> Owner | None:
        return None


def visitor(session: str) -> Owner:
    """Who has this page open."""
    return Owner(f"visitor-{hashlib.sha256(session.encode()).hexdigest()[:24]}", QUOTA)


def make(home: Path) -> tuple[Any, Jobs, Supervisor]:
    """The application, its films, and who looks after its worker."""
    inbox = home / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    models = serve_options(model_options())
    queue = SqliteQueue(home)
    jobs = Jobs(queue, FolderStore(home), models, LIMITS)
    supervisor = Supervisor(home, queue, models)
    tokens = Tokens.of(home)
    app = make_app(jobs, _Nobody(), Settings(inbox, page=True, requests_per_minute=600), tokens, supervisor.pids)
    mount(app, jobs, lambda key: None, tokens, visitor=visitor, parents=PARENTS)
    return app, jobs, supervisor


def main() -> None:
    """Serve until stopped."""
    with tempfile.TemporaryDirectory(prefix="everreel-") as home:
        app, jobs, supervisor = make(Path(home))
        with bind(HOST, PORT) as bound, cleaning(jobs):
            supervisor.start()
            try:
                with contextlib.suppress(KeyboardInterrupt):
                    run(app, bound)
            finally:
                supervisor.stop()


if __name__ == "__main__":
    main()
