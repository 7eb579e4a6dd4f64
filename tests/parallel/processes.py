"""Starts processes as torchrun does, and lets the first of them do something with the others."""

import multiprocessing
import os
import pickle
from datetime import timedelta

import torch
import torch.distributed as dist

from everreel.parallel.crew import Crew, serve
from everreel.parallel.launch import setup

CONTEXT = multiprocessing.get_context("forkserver")  # what is long to import is imported once
CONTEXT.set_forkserver_preload(["everreel.film.pipeline", "transformers.models.umt5.modeling_umt5"])


def together(size, job, *arguments, guidance=None):
    """What `job(crew, *arguments)` gives in the first of so many processes, and the exit codes of all."""
    # As torchrun does, so that no port can be taken by somebody else in between.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    ours, theirs = CONTEXT.Pipe(duplex=False)
    started = [
        CONTEXT.Process(target=_member, args=(rank, size, store.port, guidance, theirs, job, arguments))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    theirs.close()
    try:
        result = pickle.loads(ours.recv_bytes()) if ours.poll(120) else None
    except EOFError:
        result = None
    for process in started:
        process.join(30)
        process.kill()
        process.join()
    if isinstance(result, Exception):
        raise result
    return result, [process.exitcode for process in started]


def _member(rank, size, port, guidance, pipe, job, arguments):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    parallel = setup("cpu", guidance=guidance)
    if not parallel.leads:
        raise SystemExit(serve(parallel))
    crew = Crew(parallel)
    try:
        result = job(crew, *arguments)
    except Exception as error:
        result = error
    finally:
        crew.close()
    pipe.send_bytes(pickle.dumps(result))  # not `send`: of tensors that hands out files, which end with the process
