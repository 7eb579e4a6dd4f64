"""Starts processes as torchrun does and lets all of them do the same; objectives that are small enough for it."""

import multiprocessing
import os
import pickle
import signal
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from everreel.data.draws import generator_for
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT
from everreel.train import processes
from everreel.train.trainer import Trainer, TrainerSettings

CONTEXT = multiprocessing.get_context("forkserver")  # what is long to import is imported once
CONTEXT.set_forkserver_preload(["everreel.train.sharding", "everreel.train.shared_muon", "tests.train.together"])
SETTINGS = TrainerSettings(
    steps=6,
    learning_rate=0.01,
    warmup=3,
    accumulation=4,
    checkpoint_every=3,
    sample_every=3,
    log_every=1,
    device="cpu",
    seed=7,
)


class Net(nn.Module):
    """Blocks of which one has fewer rows than there are processes, dropout, and a weight that not all batches use."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 5), nn.Linear(5, 1), nn.Linear(1, 6)])
        self.rare = nn.Parameter(torch.ones(6))
        self.register_buffer("seen", torch.zeros(1))
        self.head = nn.Linear(6, 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x, rare):
        for block in self.blocks:
            x = self.dropout(torch.tanh(block(x)))
        return self.head(x * self.rare if rare else x)


class Regression:
    """Learns a function of six numbers; `judge` learns what `net` gets wrong."""

    def __init__(self, roles=("net",)):
        torch.manual_seed(0)
        self.nets = {role: Net() for role in roles}
        self.metrics = {}
        self.seen = []
        self.bad = self.stop = None

    def modules(self):
        return dict(self.nets)

    def batch(self, step, generator):
        if (step, processes.here() and processes.here().rank) == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randn(8, 6, generator=generator)
        return {"x": x, "rare": bool(torch.rand((), generator=generator) < 0.5), "step": step}

    def losses(self, batch, generator):
        noise = 0.01 * torch.randn(8, 6, generator=generator)
        made = self.nets["net"](batch["x"] + noise, batch["rare"])
        loss = F.mse_loss(made, batch["x"].sum(-1, keepdim=True).sin())
        if batch["step"] == self.bad and processes.here().rank == 1:
            loss = loss * float("nan")
        if "judge" not in self.nets:
            return {"net": loss}
        judged = self.nets["judge"](made.expand(8, 6), batch["rare"]).square().mean()
        return {"net": loss + judged} | ({"judge": -judged} if batch["step"] % 2 == 0 else {})

    def sample(self, folder, step):
        net = self.nets["net"]
        self.seen.append((step, {name: value.clone() for name, value in net.state_dict().items()}))
        self.metrics = {"made": float(net(torch.ones(1, 6), True))}


class Films:
    """The transformer, whose text is read before its blocks are called."""

    def __init__(self):
        config = TransformerConfig(
            dim=32, ffn_dim=48, num_heads=2, num_layers=2, text_dim=8, text_len=6, freq_dim=8, in_dim=4, out_dim=4
        )
        self.transformer = DiT(config)
        self.transformer.init_weights(generator_for(0, "init"))
        nn.init.normal_(self.transformer.head.head.weight, std=0.1, generator=generator_for(0, "head"))
        self.metrics = {}

    def modules(self):
        return {"transformer": self.transformer}

    def batch(self, step, generator):
        frames = 1 + int(torch.randint(0, 3, (), generator=generator))
        return torch.randn(2, 4, frames, 4, 4, generator=generator), torch.randn(2, 3, 8, generator=generator)

    def losses(self, batch, generator):
        x, text = batch
        context = self.transformer.encode_context(text, [3, 2])
        level = torch.rand(x.shape[0], x.shape[2], generator=generator)
        return {"transformer": (self.transformer(x, 1000 * level, context) - x).square().mean()}

    def sample(self, folder, step):
        context = self.transformer.encode_context(torch.ones(1, 3, 8), [3])
        self.metrics = {"made": float(self.transformer(torch.ones(1, 4, 1, 4, 4), torch.ones(1, 1), context).mean())}


def together(job, *arguments, size=2):
    """What `job(*arguments)` gives in each of so many processes, by rank; an exception is given as it is."""
    # As torchrun does, so that no port can be taken by somebody else in between.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    pipes, started = [], []
    for rank in range(size):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_member, args=(rank, size, store.port, theirs, job, arguments))
        process.start()
        theirs.close()
        pipes.append(ours)
        started.append(process)
    try:
        return [pickle.loads(pipe.recv_bytes()) if pipe.poll(120) else None for pipe in pipes]
    finally:
        for process in started:
            process.join(10)
            process.kill()
            process.join()


def train(objective, settings, folder):
    """Train; a process that must not write is given a folder that is not there."""
    here = processes.here()
    trainer = Trainer(objective, settings, folder if here is None or here.first else folder / "nowhere", quiet=True)
    outcome = trainer.run()
    with trainer.averaged():
        averages = {
            role: {name: value.clone() for name, value in module.state_dict().items()}
            for role, module in trainer.modules.items()
        }
    return outcome, averages


def _member(rank, size, port, pipe, job, arguments):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    met = processes.meet("cpu")
    try:
        result = job(*arguments)
    except Exception as error:
        result = error
    pipe.send_bytes(pickle.dumps(result))  # not `send`: of tensors that hands out files, which end with the process
    met.wait()
    met.part()
