"""One trainer for everything that is trained here; what is special about a stage is its `Objective`.

The one invariant: a batch is a pure function of (seed, step, micro-batch), and so is every other draw. The state of a
run is then its step, weights, averages and optimizers, and a run that was killed and resumed ends with the same bits as
one that was not; several processes that share the micro-batches end with the same weights within rounding.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from everreel.data.draws import generator_for, seed_for
from everreel.parallel.talk import LostError
from everreel.train import batches, memory, processes
from everreel.train.blocks import recompute_blocks
from everreel.train.checkpoints import CHECKPOINT, read_checkpoint, write_checkpoint, write_weights
from everreel.train.optimize import EMA, RoleOptimizer, Rule
from everreel.train.progress import Journal, Unwritten
from everreel.train.settings import TrainerSettings, TrainingFailed

__all__ = ["CHECKPOINT", "Objective", "Outcome", "Trainer", "TrainerSettings", "TrainingFailed"]


ENDS = ("done", "enough")


class Objective(Protocol):
    """A thing that is trained. Roles name its modules; each role has a loss, an optimizer and an average of
    its own.

    `losses` gives a loss for each role that learns from this batch. `sample` is called with the averaged
    weights in the modules, and writes pictures. Both may leave numbers in `metrics`. Helpers that are
    frozen follow the device of the batch by themselves; they are whole in each of several processes. Which
    roles learn is then a function of the step alone, and of all that is sampled and written only what the
    first process does is kept.

    `describe(batch)`, which need not be there, says in a few words what a batch was made of, for the line
    about a batch that could not be learned from.

    Nor need these be there, of an objective that can end a run before its steps are used up: `told(values)` is given
    what each step has given, `enough` says whether that will do, and what `memory()` gives is kept in the checkpoint
    and handed to `remember(memory)` after a resume.
    """

    metrics: dict[str, float]

    def modules(self) -> dict[str, nn.Module]: ...

    def batch(self, step: int, generator: torch.Generator) -> Any: ...  # noqa: ANN401

    def losses(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]: ...  # noqa: ANN401

    def sample(self, folder: Path, step: int) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `reason` is "done", "enough", "time" or the name of the signal that stopped it."""

    step: int
    reason: str
    skipped: int

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do in it."""
        return self.reason in ENDS


class Trainer:
    """Trains an objective in `run_dir`, going on from the checkpoint there if there is one.

    Where torchrun started several processes that have met (`processes.meet`), they train it together; all of them
    do the same with their trainers, and the first reads and writes the folder.

    Raises:
        ValueError: the checkpoint is of something else, the memory is too small, or the settings do not fit the
            number of processes.
    """

    def __init__(
        self, objective: Objective, settings: TrainerSettings, run_dir: str | Path, quiet: bool = False
    ) -> None:
        self.objective, self.settings, self.run_dir = objective, settings, Path(run_dir)
        self.quiet, self.together = quiet, processes.here()
        self.first = self.together is None or self.together.first
        if self.first:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        self.device = device_for(settings, self.together)
        self.modules = objective.modules()
        memory.check_memory(self.modules, settings, self.device, self.together)
        if settings.checkpointing == "blocks":
            for module in self.modules.values():
                recompute_blocks(module)
        self.sharded = None
        if self.together is None:
            for module in self.modules.values():
                module.to(self.device)
        else:
            from everreel.train.sharding import Sharded  # long to import, and most train alone

            self.sharded = Sharded(self.modules, objective.losses, self.together, settings.sharding)
        rates = dict(settings.role_rates)
        rule = Rule(settings.optimizer, settings.betas, settings.weight_decay, settings.grad_clip)
        self.optimizers = {role: RoleOptimizer(m, rule, rates.get(role, 1.0)) for role, m in self.modules.items()}
        self.averages = {role: EMA(module, settings.ema_decay) for role, module in self.modules.items()}
        self.step, self.skipped, self._skips_in_a_row = 0, 0, 0
        self._stop: str | None = None
        self._saved: int | None = None
        self._journal: Journal | Unwritten = Unwritten()
        self._restore()

    def run(self) -> Outcome:
        """Train until the steps or the seconds are used up, or a signal asks to stop; leaves a checkpoint.

        Raises:
            TrainingFailed: a loss, a gradient, the memory or the disk does not allow to go on. The last checkpoint
                stays.
        """
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        began, settings = time.monotonic(), self.settings
        if self.first:
            self._journal = Journal(self.run_dir, self.step, settings.steps, self.quiet)
        made = batches.made_ahead(self._make, settings.prefetch, settings.steps)
        with self._journal, self._signals(), made as next_batches:
            window, reason = _Window(self.step), "enough" if self._has_enough else "done"
            while reason == "done" and self.step < settings.steps:
                values = self._train_step(next_batches(self.step))
                self.step += 1
                if hasattr(self.objective, "told"):
                    self.objective.told(values)
                window.add(values)
                self._report(window)
                reason = self._reason_to_stop(began)
                if reason != "done":
                    break
                if self.step % settings.checkpoint_every == 0:
                    self.save()
                if self.step % settings.sample_every == 0 and self.step < settings.steps:
                    self._sample()
            if self._saved != self.step:
                self.save()
            if reason in ENDS:
                self._sample()
        return Outcome(self.step, reason, self.skipped)

    def save(self) -> int:
        """Write the checkpoint and the averaged weights, each whole or not at all; the step is returned.

        Raises:
            TrainingFailed: they cannot be written; those before them stay.
        """
        state: dict[str, Any] = {
            "step": self.step,
            "skipped": self.skipped,
            "skips_in_a_row": self._skips_in_a_row,
            "settings": asdict(self.settings),
            "modules": {role: module.state_dict() for role, module in self.modules.items()},
            "averages": {role: average.values for role, average in self.averages.items()},
            "optimizers": {role: optimizer.state() for role, optimizer in self.optimizers.items()},
            "objective": self.objective.memory() if hasattr(self.objective, "memory") else None,
        }
        if self.sharded is not None:
            state = self.sharded.gathered(state)
        with self._one_acts() as acts:
            if acts:
                write_checkpoint(self.run_dir, state)
                for role, tensors in state["averages"].items():
                    write_weights(self.run_dir / f"{role}.safetensors", tensors, self.step)
        self._saved = self.step
        return self.step

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules hold their averaged weights, in evaluation mode, inside this context; whole in every process."""
        modes = {role: module.training for role, module in self.modules.items()}
        with self._swapped():
            try:
                for module in self.modules.values():
                    module.eval()
                with torch.no_grad():
                    yield
            finally:
                for role, module in self.modules.items():
                    module.train(modes[role])

    def autocast(self) -> AbstractContextManager[None]:
        """What a step is computed in: the precision of the settings."""
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        if self.sharded is not None:
            with self.sharded.holding({role: average.values for role, average in self.averages.items()}):
                yield
            return
        kept = {role: self.averages[role].swap_in(module) for role, module in self.modules.items()}
        try:
            yield
        finally:
            for role, module in self.modules.items():
                self.averages[role].swap_out(module, kept[role])

    @property
    def _numbers(self) -> range:
        """The micro-batches of a step that this process has."""
        rank, size = (0, 1) if self.together is None else (self.together.rank, self.together.size)
        return range(rank, self.settings.accumulation, size)

    def _make(self, step: int) -> list[Any]:
        seed = self.settings.seed
        return [self.objective.batch(step, generator_for(seed, "batch", step, number)) for number in self._numbers]

    def _train_step(self, parts: Sequence[Any]) -> dict[str, float]:
        tally = _Tally()
        for module in self.modules.values():
            module.train()
        for number, batch in zip(self._numbers, parts, strict=True):
            with self._explained(number, batch):
                losses = self._learn(number, batch)
            tally.add(losses, self.settings.accumulation)
            if not all(map(math.isfinite, losses.values())):
                tally.bad.append(batches.describe(self.objective, [number], [batch]))
        tally.metrics = dict(self.objective.metrics)
        if self.together is not None and self.sharded is not None:
            tally.unused = self.sharded.unused()
            tally = _Tally.of(self.together.exchange(tally))
            self.sharded.forget_gradients(tally.unused)
        # In the order of the modules, so that two runs do the same things in the same order.
        roles = [role for role in self.modules if role in tally.losses]
        norms = {f"grad_norm/{role}": self.optimizers[role].clip() for role in roles}
        values = {f"loss/{role}": loss for role, loss in tally.losses.items()} | norms
        if all(map(math.isfinite, values.values())):
            self._skips_in_a_row = 0
            for role in roles:
                self.optimizers[role].step(self.settings.rate(self.step))
                self.averages[role].update(self.modules[role], self.step)
        else:
            self._skip(values, tally.bad, parts)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        return values | tally.metrics

    def _learn(self, number: int, batch: Any) -> dict[str, float]:  # noqa: ANN401 (whatever the objective makes)
        """The losses of a micro-batch by role, their gradients added to what is there."""
        seed, place = self.settings.seed, (self.step, number) if number else (self.step,)
        # Dropout draws from the global generator, so that one too is set by the step and the micro-batch.
        torch.manual_seed(seed_for(seed, "global", *place))
        generator = generator_for(seed, "losses", self.step, number)
        compute = self.objective.losses if self.sharded is None else self.sharded.losses
        with self.autocast():
            losses = compute(batches.move(batch, self.device), generator)
        unknown = set(losses) - set(self.modules)
        assert not unknown, f"losses for roles without a module: {unknown}"
        # The mean over the micro-batches of this process; over the processes FSDP takes it.
        scaled = {role: loss / len(self._numbers) for role, loss in losses.items()}
        if self.sharded is not None:
            self.sharded.backward(scaled, {role: optimizer.parameters for role, optimizer in self.optimizers.items()})
        else:
            self._backward(scaled)
        return {role: float(loss.detach()) for role, loss in losses.items()}

    def _backward(self, losses: Mapping[str, Tensor]) -> None:
        for index, (role, loss) in enumerate(losses.items()):
            # A loss moves the weights of its own role only, although its graph may run through the others.
            inputs = None if len(self.modules) == 1 else self.optimizers[role].parameters
            torch.autograd.backward(loss, inputs=inputs, retain_graph=index < len(losses) - 1)

    def _skip(self, values: Mapping[str, float], bad: Sequence[str], parts: Sequence[Any]) -> None:
        self.skipped += 1
        self._skips_in_a_row += 1
        if not bad:  # the losses are finite and a gradient is not: it is the sum of all micro-batches
            said = batches.describe(self.objective, self._numbers, parts)
            bad = [said] if self.together is None else self.together.exchange(said)
        names = ", ".join(name for name, value in values.items() if not math.isfinite(value))
        row = f" for {self._skips_in_a_row} steps in a row" if self._skips_in_a_row > 1 else ""
        line = f"step {self.step}: {names} not finite{row}, in {'; '.join(bad)}"
        if self._skips_in_a_row <= self.settings.max_skips:
            self._journal.say(f"{line}; skipped")
            return
        rate = self.settings.learning_rate
        raise TrainingFailed(
            f"{line}; {self._kept()}; lower learning_rate={rate:g}, or go past it with max_skips={self._skips_in_a_row}"
        )

    def _report(self, window: _Window) -> None:
        due = self.step % self.settings.log_every == 0 or self.step == self.settings.steps
        losses = {name.removeprefix("loss/"): v for name, v in window.means().items() if name.startswith("loss/")}
        if due:
            extra = {
                "rate": self.settings.rate(self.step - 1),
                "steps_per_second": window.speed(self.step),
                "skipped": float(self.skipped),
            }
            self._journal.log(self.step, window.means() | extra)
            window.restart(self.step)
        self._journal.advance(self.step, losses, line=due)

    def _sample(self) -> None:
        self.objective.metrics = {}
        with self.averaged(), self._one_acts() as acts:
            if acts:
                folder = self.run_dir / "samples"
                folder.mkdir(exist_ok=True)
                self.objective.sample(folder, self.step)
        if self.objective.metrics:
            self._journal.log(self.step, self.objective.metrics, event="sample")
        self.objective.metrics = {}

    @property
    def _has_enough(self) -> bool:
        """Whether the objective says that this will do; all processes have told theirs the same."""
        return bool(getattr(self.objective, "enough", False))

    def _reason_to_stop(self, began: float) -> str:
        limit, reason = self.settings.max_seconds, self._stop or ("enough" if self._has_enough else "done")
        if reason == "done" and limit is not None and self.step < self.settings.steps:
            reason = "time" if time.monotonic() - began >= limit else "done"
        if self.together is None:
            return reason
        # Whoever was asked, all stop here.
        return next((said for said in self.together.exchange(reason) if said != "done"), "done")

    def _restore(self) -> None:
        state: dict[str, Any] | None = None
        with self._one_acts() as acts:
            if acts and (self.run_dir / CHECKPOINT).exists():
                sizes = {role: optimizer.sizes() for role, optimizer in self.optimizers.items()}
                state = read_checkpoint(self.run_dir, self.settings, self.modules, sizes)
        if self.sharded is not None:
            state = self.sharded.spread(state)
        if state is None:
            return
        for role, module in self.modules.items():
            module.load_state_dict(state["modules"][role])
            self.averages[role].restore(state["averages"][role])
            self.optimizers[role].restore(state["optimizers"][role])
        self.step, self.skipped = state["step"], state["skipped"]
        self._skips_in_a_row, self._saved = state["skips_in_a_row"], state["step"]
        if hasattr(self.objective, "remember") and state.get("objective") is not None:
            self.objective.remember(state["objective"])

    def _kept(self) -> str:
        path = self.run_dir / CHECKPOINT
        return "there is no checkpoint yet" if self._saved is None else f"{path} of step {self._saved} is kept"

    @contextmanager
    def _one_acts(self) -> Iterator[bool]:
        """Whether this process is the one that acts; the others wait until it has, and fail if it does."""
        if self.together is None:
            yield True
            return
        said: tuple[str, str] | None = None
        try:
            yield self.first
        except (ValueError, TrainingFailed) as error:
            said = type(error).__name__, str(error)
        if said := self.together.from_first(said):
            kind, words = said
            raise ValueError(words) if kind == "ValueError" else TrainingFailed(words)

    @contextmanager
    def _explained(self, number: int, batch: Any) -> Iterator[None]:  # noqa: ANN401
        """What a device or another process did to this micro-batch, in one line."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if self.together is not None and processes.is_lost(error):
                raise LostError(f"step {self.step}: another process has ended; {self._kept()}") from error
            if not memory.is_out_of_memory(error):
                raise
            said = batches.describe(self.objective, [number], [batch])
            line = memory.out_of_memory(f"step {self.step}", said, self.device, self.settings)
            raise TrainingFailed(f"{line}; {self._kept()}") from error

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C ask for a stop after this step; asked twice, the run is cut off as usual.

        Not so with several processes: torchrun passes on what a terminal has sent to all of them already.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            if self._stop is not None and self.together is None:
                raise KeyboardInterrupt
            self._stop = signal.Signals(number).name

        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class _Tally:
    """What the micro-batches of a step have given: means of the losses, and those that had one that is not finite."""

    losses: dict[str, float] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)

    def add(self, losses: Mapping[str, float], count: int) -> None:
        """Add the losses of one of `count` micro-batches."""
        for role, loss in losses.items():
            self.losses[role] = self.losses.get(role, 0.0) + loss / count

    @classmethod
    def of(cls, parts: Sequence[_Tally]) -> _Tally:
        """Those of all processes together; a metric is the mean of those that have it."""
        whole = cls(bad=[said for part in parts for said in part.bad])
        whole.unused = set.intersection(*(part.unused for part in parts))
        for part in parts:
            whole.add(part.losses, 1)
        for name in dict.fromkeys(name for part in parts for name in part.metrics):
            values = [part.metrics[name] for part in parts if name in part.metrics]
            whole.metrics[name] = sum(values) / len(values)
        return whole


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


def device_for(settings: TrainerSettings, together: processes.Processes | None) -> torch.device:
    """What is computed on.

    Raises:
        ValueError: several processes cannot share the micro-batches, or have met on another device.
    """
    name = settings.device
    if together is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
    count, size = settings.accumulation, together.size
    if count % size:
        nearest = max(round(count / size), 1) * size
        raise ValueError(f"accumulation={count}: must be a multiple of the {size} processes; the nearest is {nearest}")
    if name not in ("auto", together.device.type):
        raise ValueError(f"device={name!r}: the processes have met on {together.device.type}, which works")
    return together.device
