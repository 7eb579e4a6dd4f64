"""Workers are processes that are replaced when they are lost, and end with their server."""

import os
import signal
import subprocess
import sys
import time

import pytest

from everreel.serve.jobs.supervisor import Supervisor

LONG = {"num_frames": 57, "base_num_frames": 25, "overlap_history": 9}
DEADLINE = 120


def until(what, is_so):
    end = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture
def supervisor(home, small_model):
    supervisor = Supervisor(home.path, home.queue, {"small": small_model}, threads=1)
    supervisor.start()
    yield supervisor
    supervisor.stop()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_is_killed_is_replaced_and_its_film_is_the_same(home, supervisor):
    whole, killed = home.order(**LONG), home.order(**LONG)
    until("a film is made", lambda: home.queue.get(whole.id).status == "completed")
    until("the other is begun", lambda: home.film(killed).exists())
    (worker,) = supervisor.pids()
    os.kill(worker, signal.SIGKILL)
    until("it is made too", lambda: home.queue.get(killed.id).status == "completed")
    assert home.film(killed).read_bytes() == home.film(whole).read_bytes()
    assert os.getpriority(os.PRIO_PROCESS, supervisor.pids()[0]) > os.getpriority(os.PRIO_PROCESS, 0)
    second = Supervisor(home.path, home.queue, home.jobs.models)
    second.start()
    assert second.pids() == [], "another looks after this home"
    supervisor.stop()
    until("the second takes over", second.pids)
    (worker,) = second.pids()
    second.stop()
    assert not alive(worker)


def test_workers_end_when_their_server_is_killed(home, tiny_folder):
    code = f"""if True:
        import time
        from pathlib import Path
        from everreel.film.loading import model_options
        from everreel.serve.jobs.queue import SqliteQueue
        from everreel.serve.jobs.supervisor import Supervisor
        home = Path({str(home.path)!r})
        models = {{"small": model_options(model={str(tiny_folder)!r}, device="cpu").resolve()}}
        supervisor = Supervisor(home, SqliteQueue(home), models, threads=1)
        supervisor.start()
        while not supervisor.pids():
            time.sleep(0.02)
        print(supervisor.pids()[0], flush=True)
        time.sleep({DEADLINE})
    """
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(server.stdout.readline())
    assert alive(worker)
    server.kill()
    server.wait()
    until("the worker ends", lambda: not alive(worker))
