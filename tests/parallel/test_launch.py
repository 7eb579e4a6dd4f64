"""Who is refused before any process is met, and what is no group of processes at all."""

import pytest
import torch

from everreel.checkpoint.catalog import find_model
from everreel.film.pipeline import VideoPipeline
from everreel.parallel import crew, launch
from everreel.parallel.part import Part

STARTED = {
    "WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    def say(**changes):
        for name in STARTED:
            monkeypatch.delenv(name, raising=False)
        for name, value in changes.items():
            monkeypatch.setenv(name, value)

    return say


@pytest.mark.parametrize("changes", [{}, {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}])
def test_one_process_is_no_group(environment, changes):
    environment(**changes)
    assert launch.setup() is None
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("changes", "device", "guidance", "message"),
    [
        ({"WORLD_SIZE": "many"}, "cpu", None, r"WORLD_SIZE = 'many': must be a number; start with torchrun"),
        ({"RANK": None}, "cpu", None, r"WORLD_SIZE = 3: needs RANK, .* start with torchrun"),
        ({"MASTER_PORT": None}, "cpu", None, r"WORLD_SIZE = 3: needs .* MASTER_PORT"),
        ({}, "cpu", True, r"processes = 3: guidance parallelism needs an even number; nearest that works: 2"),
        ({}, "cuda:1", None, r"device = cuda:1: with several processes it must be cuda or cpu"),
        (
            {},
            "cuda",
            None,
            r"processes = 3 on this machine: it has 1 CUDA devices, .* nearest that works: --nproc-per-node 1",
        ),
    ],
)
def test_what_cannot_be_started_is_refused_in_one_line(environment, monkeypatch, changes, device, guidance, message):
    environment(**{name: value for name, value in (STARTED | changes).items() if value is not None})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=message) as caught:
        launch.setup(device, guidance=guidance)
    assert "\n" not in str(caught.value)


def test_one_process_of_a_machine_says_so(environment):
    environment(**STARTED | {"RANK": "1", "LOCAL_RANK": "1"})
    with pytest.raises(SystemExit) as caught:
        launch.setup("cpu", guidance=True)
    assert caught.value.code == 2


def parallel(rank):
    mesh = launch.Mesh(None, None)
    return launch.Parallel(rank, 2, torch.device("cpu"), torch.distributed.HashStore(), None, mesh, mesh)


def test_a_device_that_processes_were_not_started_for_is_refused(tiny_folder):
    name = find_model(tiny_folder).path
    with pytest.raises(ValueError, match=r"device = cuda: the processes were started for cpu"):
        VideoPipeline.from_pretrained(str(name), device="cuda", crew=crew.Crew(parallel(0)))


def test_what_the_leader_has_no_more_nobody_has(monkeypatch):
    """Texts and caches of films that were made would fill every device but the leader's."""
    leader, part = crew.Crew(parallel(0)), Part(parallel(1))
    told = []
    monkeypatch.setattr(crew.dist, "gather_object", lambda *_, **__: None)
    monkeypatch.setattr(crew.dist, "broadcast_object_list", lambda box, **_: told.append(box[0]))
    kept, dropped = torch.nn.Identity(), torch.nn.Identity()
    for number, thing in ((leader.number(), kept), (leader.number(), dropped)):
        leader.keep(number, thing)
        part.held[number] = object()
    assert leader.number_of(kept) == 0
    del dropped, thing
    leader.run("new_cache", leader.number(), 3, 1)
    monkeypatch.setattr(crew.dist, "broadcast_object_list", lambda box, **_: box.__setitem__(0, told[-1]))
    assert crew._told(part) == "new_cache"
    assert sorted(part.held) == [0, 2]
