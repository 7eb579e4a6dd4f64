"""A home with a queue, a store and one small random model, as the server has them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from everreel.film.loading import model_options
from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.produce import Models
from everreel.serve.jobs.queue import SqliteQueue
from everreel.serve.jobs.service import Jobs
from everreel.serve.jobs.store import FolderStore
from everreel.serve.jobs.worker import Worker

SMALL = {"prompt": "a red fox", "height": 32, "width": 32, "num_inference_steps": 2, "model": "small"}


@dataclass
class Home:
    path: Path
    queue: SqliteQueue
    store: FolderStore
    jobs: Jobs
    models: Models

    def order(self, **values):
        job, new = self.jobs.submit(make_order(**SMALL | {"num_frames": 9} | values), Owner())
        assert new
        return job

    def worker(self, name="worker"):
        return Worker(name, self.queue, self.store, self.models)

    def film(self, job):
        return self.store.workplace(job.id) / "film.mp4"

    def work(self, name="worker"):
        """Claim one job and make its film; gives back how it ended."""
        worker = self.worker(name)
        job = self.queue.claim(worker.name)
        worker.work(job)
        return self.queue.get(job.id)


@pytest.fixture(scope="session")
def small_model(tiny_folder):
    return model_options(model=str(tiny_folder), device="cpu").resolve()


@pytest.fixture(scope="session")
def loaded(small_model):
    models = Models({"small": small_model})
    models.load("small")
    return models


@pytest.fixture
def home(tmp_path, small_model, loaded):
    path = tmp_path / "home"
    path.mkdir()
    queue, store = SqliteQueue(path), FolderStore(path, reserve=0)
    return Home(path, queue, store, Jobs(queue, store, {"small": small_model}), loaded)
