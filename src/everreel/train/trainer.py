"""One trainer for everything that is trained here; what is special about a stage is its `Objective`.

The one invariant: a batch is a pure function of (seed, step), and so is every other draw. The state of a
run is then its step, weights, averages and optimizers, and a run that was killed and resumed ends with the
same bits as one that was not.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from everreel.data.draws import generator_for, seed_for
from everreel.train.optimize import EMA, RoleOptimizer, Rule
from everreel.train.progress import Journal

CHECKPOINT = "checkpoint.pt"
MAX_SKIPS_IN_A_ROW = 25


class Objective(Protocol):
    """A thing that is trained. Roles name its modules; each role has a loss, an optimizer and an average of
    its own.

    `losses` gives a loss for each role that learns from this batch. `sample` is called with the averaged
    weights in the modules, and writes pictures. Both may leave numbers in `metrics`. Helpers that are
    frozen follow the device of the batch by themselves.
    """

    metrics: dict[str, float]

    def modules(self) -> dict[str, nn.Module]: ...

    def batch(self, step: int, generator: torch.Generator) -> Any: ...  # noqa: ANN401

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]: ...  # noqa: ANN401

    def sample(self, folder: Path, step: int) -> None: ...


@dataclass(frozen=True)
class TrainerSettings:
    """The values of a training run.

    `decay` starts at the share `decay_from` of the steps and ends at `final_rate` times the learning rate.
    `prefetch` batches are made ahead by a thread. `role_rates` scales the learning rate of single roles.
    """

    steps: int
    learning_rate: float = 3e-4
    optimizer: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup: int = 100
    decay: Literal["constant", "cosine", "linear"] = "cosine"
    decay_from: float = 0.0
    final_rate: float = 0.0
    role_rates: tuple[tuple[str, float], ...] = ()
    ema_decay: float = 0.999
    grad_clip: float | None = 1.0
    accumulation: int = 1
    precision: Literal["bf16", "float32"] = "float32"
    checkpoint_every: int = 500
    sample_every: int = 500
    log_every: int = 20
    max_seconds: float | None = None
    prefetch: int = 0
    seed: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for field in ("steps", "accumulation", "checkpoint_every", "sample_every", "log_every"):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field}={value}: must be 1 or more; the nearest that works is 1")
        choices = {"optimizer": ("adamw", "muon"), "decay": ("constant", "cosine", "linear")}
        for field, allowed in (*choices.items(), ("precision", ("bf16", "float32"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r}: must be one of {', '.join(allowed)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: must lie in 0..1, below 1; 0.999 works")

    def rate(self, step: int) -> float:
        """The learning rate of a step (counted from 0), a pure function of it."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        start = self.decay_from * self.steps
        passed = min(max((step - start) / max(self.steps - start, 1), 0.0), 1.0)
        if self.decay == "constant":
            left = 1.0
        elif self.decay == "linear":
            left = 1.0 - passed
        else:
            left = 0.5 * (1 + math.cos(math.pi * passed))
        return self.learning_rate * warm * (self.final_rate + (1 - self.final_rate) * left)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `reason` is "done", "time" or the name of the signal that stopped it."""

    step: int
    reason: str
    skipped: int


class TrainingFailed(RuntimeError):
    """Raised when a run cannot go on, with the reason in one line."""


class Trainer:
    """Trains an objective in `run_dir`, going on from the checkpoint there if there is one."""

    def __init__(
        self, objective: Objective, settings: TrainerSettings, run_dir: str | Path, quiet: bool = False
    ) -> None:
        self.objective, self.settings, self.run_dir = objective, settings, Path(run_dir)
        self.quiet = quiet
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.device = _device(settings.device)
        self.modules = {role: module.to(self.device) for role, module in objective.modules().items()}
        rates = dict(settings.role_rates)
        rule = Rule(settings.optimizer, settings.betas, settings.weight_decay, settings.grad_clip)
        self.optimizers = {role: RoleOptimizer(m, rule, rates.get(role, 1.0)) for role, m in self.modules.items()}
        self.averages = {role: EMA(module, settings.ema_decay) for role, module in self.modules.items()}
        self.step, self.skipped, self._skips_in_a_row = 0, 0, 0
        self._stop: str | None = None
        if (self.run_dir / CHECKPOINT).exists():
            self._restore()

    def run(self) -> Outcome:
        """Train until the steps or the seconds are used up, or a signal asks to stop; leaves a checkpoint."""
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        began, reason, saved = time.monotonic(), "done", self.step
        journal = Journal(self.run_dir, self.step, self.settings.steps, self.quiet)
        with journal, self._signals(), self._batches() as next_batch:
            window = _Window(self.step)
            while self.step < self.settings.steps:
                values = self._train_step(next_batch(self.step))
                self.step += 1
                window.add(values)
                self._report(journal, window)
                reason = self._reason_to_stop(began)
                if reason != "done":
                    break
                if self.step % self.settings.checkpoint_every == 0:
                    saved = self.save()
                if self.step % self.settings.sample_every == 0 and self.step < self.settings.steps:
                    self._sample(journal)
            if saved != self.step or not (self.run_dir / CHECKPOINT).exists():
                self.save()
            if reason == "done":
                self._sample(journal)
        return Outcome(self.step, reason, self.skipped)

    def save(self) -> int:
        """Write the checkpoint and the averaged weights, each whole or not at all; the step is returned."""
        state = {
            "step": self.step,
            "skipped": self.skipped,
            "skips_in_a_row": self._skips_in_a_row,
            "settings": asdict(self.settings),
            "modules": {role: module.state_dict() for role, module in self.modules.items()},
            "averages": {role: average.values for role, average in self.averages.items()},
            "optimizers": {role: optimizer.state() for role, optimizer in self.optimizers.items()},
        }
        with _written_whole(self.run_dir / CHECKPOINT) as half_done:
            torch.save(state, half_done)
        for role in self.modules:
            self.save_weights(role, self.run_dir / f"{role}.safetensors")
        return self.step

    def save_weights(self, role: str, path: Path) -> None:
        """Write the averaged weights of one role as safetensors."""
        from safetensors.torch import save_file

        tensors = {
            name: value.detach().cpu().contiguous().clone() for name, value in self.averages[role].values.items()
        }
        with _written_whole(path) as half_done:
            save_file(tensors, half_done, metadata={"format": "pt", "step": str(self.step)})

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules hold their averaged weights, in evaluation mode, inside this context."""
        kept = {role: self.averages[role].swap_in(module) for role, module in self.modules.items()}
        modes = {role: module.training for role, module in self.modules.items()}
        try:
            for module in self.modules.values():
                module.eval()
            with torch.no_grad():
                yield
        finally:
            for role, module in self.modules.items():
                self.averages[role].swap_out(module, kept[role])
                module.train(modes[role])

    def _train_step(self, batches: list[Any]) -> dict[str, float]:
        settings, sums = self.settings, dict[str, float]()
        # Dropout draws from the global generator, so that one too is set by the step.
        torch.manual_seed(seed_for(settings.seed, "global", self.step))
        for module in self.modules.values():
            module.train()
        learners = set[str]()
        for micro, batch in enumerate(batches):
            generator = generator_for(settings.seed, "losses", self.step, micro)
            with self._autocast():
                losses = self.objective.losses(_move(batch, self.device), generator)
            self._backward(losses)
            learners.update(losses)
            for role, loss in losses.items():
                sums[f"loss/{role}"] = sums.get(f"loss/{role}", 0.0) + float(loss.detach()) / settings.accumulation
        finite = all(math.isfinite(value) for value in sums.values())
        # In the order of the modules, not of the set, so that two runs do the same things in the same order.
        roles = [role for role in self.modules if role in learners]
        norms = {role: self.optimizers[role].clip() for role in roles}
        if finite and all(math.isfinite(norm) for norm in norms.values()):
            self._skips_in_a_row = 0
            for role in roles:
                self.optimizers[role].step(settings.rate(self.step))
                self.averages[role].update(self.modules[role], self.step)
        else:
            self._skip(sums | {f"grad_norm/{role}": norm for role, norm in norms.items()})
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        return {
            **sums,
            **{f"grad_norm/{role}": norm for role, norm in norms.items()},
            **self.objective.metrics,
        }

    def _backward(self, losses: Mapping[str, Tensor]) -> None:
        unknown = set(losses) - set(self.modules)
        assert not unknown, f"losses for roles without a module: {unknown}"
        for index, (role, loss) in enumerate(losses.items()):
            # A loss moves the weights of its own role only, although its graph may run through the others.
            inputs = None if len(self.modules) == 1 else self.optimizers[role].parameters
            retain = index < len(losses) - 1
            scaled = loss / self.settings.accumulation
            torch.autograd.backward(scaled, inputs=inputs, retain_graph=retain)

    def _skip(self, values: Mapping[str, float]) -> None:
        self.skipped += 1
        self._skips_in_a_row += 1
        if self._skips_in_a_row >= MAX_SKIPS_IN_A_ROW:
            bad = ", ".join(name for name, value in values.items() if not math.isfinite(value))
            raise TrainingFailed(
                f"step {self.step}: {bad} not finite for {self._skips_in_a_row} steps in a row; "
                f"the last good checkpoint is {self.run_dir / CHECKPOINT}; "
                f"lower learning_rate={self.settings.learning_rate}"
            )

    def _report(self, journal: Journal, window: _Window) -> None:
        due = self.step % self.settings.log_every == 0 or self.step == self.settings.steps
        losses = {name.removeprefix("loss/"): v for name, v in window.means().items() if name.startswith("loss/")}
        if due:
            rate = self.settings.rate(self.step - 1)
            extra = {
                "rate": rate,
                "steps_per_second": window.speed(self.step),
                "skipped": float(self.skipped),
            }
            journal.log(self.step, window.means() | extra)
            window.restart(self.step)
        journal.advance(self.step, losses, line=due)

    def _sample(self, journal: Journal) -> None:
        folder = self.run_dir / "samples"
        folder.mkdir(exist_ok=True)
        self.objective.metrics = {}
        with self.averaged():
            self.objective.sample(folder, self.step)
        if self.objective.metrics:
            journal.log(self.step, self.objective.metrics, event="sample")
        self.objective.metrics = {}

    def _reason_to_stop(self, began: float) -> str:
        if self._stop is not None:
            return self._stop
        limit = self.settings.max_seconds
        used_up = limit is not None and time.monotonic() - began >= limit
        return "time" if used_up and self.step < self.settings.steps else "done"

    def _restore(self) -> None:
        state = torch.load(self.run_dir / CHECKPOINT, map_location="cpu", weights_only=True)
        for field in ("seed", "accumulation", "optimizer"):
            found, wanted = state["settings"][field], getattr(self.settings, field)
            if found != wanted:
                raise ValueError(
                    f"{field}={wanted!r}: the checkpoint in {self.run_dir} was trained with {found!r}; "
                    "use that or another run folder"
                )
        for role, module in self.modules.items():
            module.load_state_dict(state["modules"][role])
            self.averages[role].restore(state["averages"][role])
            self.optimizers[role].restore(state["optimizers"][role])
        self.step, self.skipped = state["step"], state["skipped"]
        self._skips_in_a_row = state["skips_in_a_row"]

    def _autocast(self) -> AbstractContextManager[None]:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @contextmanager
    def _batches(self) -> Iterator[Any]:
        """A function step → micro-batches, that makes `prefetch` steps ahead in a thread."""
        seed, ahead = self.settings.seed, self.settings.prefetch

        def make(step: int) -> list[Any]:
            parts = range(self.settings.accumulation)
            return [self.objective.batch(step, generator_for(seed, "batch", step, part)) for part in parts]

        if not ahead:
            yield make
            return
        with ThreadPoolExecutor(1) as pool:
            waiting: dict[int, Future[list[Any]]] = {}

            def take(step: int) -> list[Any]:
                for later in range(step, min(step + ahead + 1, self.settings.steps)):
                    if later not in waiting:
                        waiting[later] = pool.submit(make, later)
                return waiting.pop(step).result()

            try:
                yield take
            finally:
                for job in waiting.values():
                    job.cancel()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C ask for a stop after this step; asked twice, the run is cut off as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self._stop is not None:
                raise KeyboardInterrupt
            self._stop = signal.Signals(number).name

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Window:
    """Means of what was seen since the last log line."""

    def __init__(self, step: int) -> None:
        self.restart(step)

    def restart(self, step: int) -> None:
        self._since, self._first = time.monotonic(), step
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value, count + 1

    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items()}

    def speed(self, step: int) -> float:
        return (step - self._first) / max(time.monotonic() - self._since, 1e-9)


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, that takes the place of `path` once its bytes are on the disk."""
    half_done = path.with_name(path.name + ".part")
    yield half_done
    with half_done.open("rb+") as file:
        os.fsync(file.fileno())
    half_done.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _move(batch: Any, device: torch.device) -> Any:  # noqa: ANN401 (a batch is whatever its objective makes)
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: _move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        moved = [_move(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    if is_dataclass(batch) and not isinstance(batch, type):
        parts = {field.name: getattr(batch, field.name) for field in fields(batch) if field.init}
        moved_parts = {n: _move(v, device) for n, v in parts.items()}
        return replace(batch, **{n: v for n, v in moved_parts.items() if v is not parts[n]})
    return batch


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
