"""What a film will cost, before anything is loaded: time from the work there is and how fast this machine does it,
memory from what is held at once.

The one invariant: nothing is loaded and nothing is downloaded; without a calibration, a twentieth of a second of
multiplying is all the work.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from everreel.checkpoint.catalog import ModelCard
from everreel.diffusion.schedule import Row
from everreel.diffusion.solver import solver_for
from everreel.film.budget import HOST_PROGRAM_BYTES, needs, place
from everreel.film.decoding import FrameDecoder, latents_at_once
from everreel.film.device import default_device
from everreel.film.parts import Parts, parts_of
from everreel.film.placement import Placement
from everreel.film.plan import Plan, make_plan, opening_of
from everreel.parallel.shared import SharedDiT
from everreel.shapes import LATENT_CHANNELS, TEMPORAL, LatentShape

if TYPE_CHECKING:
    from everreel.film.loading import ModelOptions
    from everreel.film.pipeline import VideoPipeline

SAMPLED_ROWS = 200  # of a schedule, evenly spread
EFFICIENCY = 0.5  # of the machine's speed in matrix products: what a step of the transformer reaches
DECODING = 1.1  # the decoder's share comes on top
TEXT_TOKENS = 64
CALIBRATED_FRAMES = 5, 25  # latent frames that a step is measured with: of one block, and of a window
SLOW = 1.0  # seconds of such a block, next to which what every pass takes besides is nothing
CALIBRATED_SIZE = (12, 20)  # their height and width, where the model's own would take long


@dataclass(frozen=True)
class Calibration:
    """How fast a model runs here, as measured by `calibrate`."""

    operations: float
    """Floating-point operations of the transformer, a second."""
    pixels: float
    """Pixels of frames decoded a second."""
    latency: float = 0.0
    """Seconds that a pass takes beside its operations, however short it is."""

    def save(
        self,
        model: str,
        placement: Placement,
        options: ModelOptions | None = None,
        processes: int = 1,
        packed: float | None = None,
    ) -> Path:
        """Keep it for later runs, among those of other models and of other ways to run them.

        `packed` is that of the model's `Parts`.
        """
        file = _calibrations()
        known = _read(file) | {_key(model, placement, options, processes, packed): asdict(self)}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        part.replace(file)
        return file

    @classmethod
    def find(
        cls,
        model: str,
        placement: Placement,
        options: ModelOptions | None = None,
        processes: int = 1,
        packed: float | None = None,
    ) -> Calibration | None:
        """The one that was kept for this model, run in this way, if any."""
        found = _read(_calibrations()).get(_key(model, placement, options, processes, packed))
        try:
            return None if found is None else cls(*(float(found[name]) for name in ("operations", "pixels", "latency")))
        except (KeyError, TypeError, ValueError):  # of another version, or spoilt: as if there were none
            return None


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes: time to about a factor of two, or within a third once calibrated; memory is counted."""

    seconds: float
    """Not a number, where the device is not on this machine."""
    rows: int
    """Denoising passes, of a loop with those of its opening."""
    weights: float
    held: float
    """Activations, keys and values, latents, the decoder's: what is held at once besides weights."""
    placement: Placement
    calibrated: bool
    steady: bool
    """Longer films need no more: this one is longer than what is in sight at once."""

    @property
    def memory(self) -> float:
        """Bytes on the device; of a CPU, beyond what the program takes without a model."""
        return self.weights + self.held

    @property
    def total(self) -> float:
        """Bytes on the device, of a CPU with those of the program."""
        return self.memory + (HOST_PROGRAM_BYTES if self.placement.device.type == "cpu" else 0)

    def describe(self) -> list[str]:
        """Lines for people."""
        longer = "; no more for longer films" if self.steady else ""
        how = "as measured here" if self.calibrated else "loading not counted"
        time = f"about {_clock(self.seconds)} here, {self.seconds / self.rows:.2g} s a pass, {how}"
        return [
            f"time: {f'only where {self.placement.device} is' if math.isnan(self.seconds) else time}",
            f"memory: about {self.total / 1e9:.1f} GB, {self.weights / 1e9:.2g} GB of it weights{longer}",
        ]


def estimate(
    plan: Plan,
    card: ModelCard,
    device: str | None = None,
    placement: Placement | None = None,
    parts: Parts | None = None,
    options: ModelOptions | None = None,
) -> Estimate:
    """The cost of a plan on this machine, by default with the model as its files are and placed without a budget.

    `options` say how the model computes beside where it is, so that no calibration of another way is taken for its own.
    """
    where = torch.device(device or default_device())
    parts = parts or parts_of(card, options.parts if options else None)
    placement = placement or place(plan, card, where, parts=parts)
    films = [plan, make_plan(opening_of(plan), card)] if plan.ring else [plan]
    rows, work = sum(len(film.schedule) for film in films), sum(_work(film, card) for film in films)
    passes = rows + sum(film.num_blocks for film in films if film.remembers)
    is_here = where.type != "cuda" or torch.cuda.is_available()
    known = Calibration.find(card.name, placement, options, _processes(), parts.packed) if is_here else None
    if not is_here:
        seconds = math.nan
    elif known is None:
        seconds = work * DECODING / (EFFICIENCY * _speed(where, placement.dtype))
    else:
        shapes = [film.shape for film in films]
        pixels = sum(shape.num_frames * shape.pixel_height * shape.pixel_width for shape in shapes)
        seconds = work / known.operations + passes * known.latency + pixels / known.pixels
    steady = plan.shape.frames > plan.schedule.longest_window
    held = needs(plan, card, placement, parts)
    return Estimate(seconds, rows, held.weights, held.peak - held.weights, placement, known is not None, steady)


@torch.no_grad()
def calibrate(pipe: VideoPipeline) -> Calibration:
    """Measure a loaded model: a step with few frames and one with many, and decoding some. Kept for `estimate`."""
    model, card, device = pipe.transformer, pipe.card, pipe.device
    placement = pipe.placement or Placement(device, next(model.parameters()).dtype)
    height, width = CALIBRATED_SIZE if device.type == "cpu" else (card.height // 8, card.width // 8)
    text_BSD = torch.zeros(1, TEXT_TOKENS, model.config.text_dim, device=device, dtype=placement.dtype)
    image_dim = model.config.image_dim
    image_BSD = None if image_dim is None else torch.zeros(1, 257, image_dim, device=device, dtype=placement.dtype)
    context = model.encode_context(text_BSD, [TEXT_TOKENS], image_BSD)
    fps_B = torch.zeros(1, dtype=torch.long, device=device)

    def step(frames: int) -> tuple[float, float]:
        """Operations, and seconds."""
        x_BCTHW = torch.zeros(1, model.config.in_dim, frames, height, width, device=device)
        timestep_BT = torch.full((1, frames), 500.0, device=device)
        tokens = LatentShape(frames, height, width).tokens
        took = _seconds(lambda: model(x_BCTHW, timestep_BT, context, fps_B=fps_B), device)
        return _operations(tokens, tokens, card), took

    speed, latency = _speed_of(step)
    shape = LatentShape(CALIBRATED_FRAMES[0], height, width)
    at_once = placement.decode_latents or latents_at_once(shape.pixel_height, shape.pixel_width)
    decoder = FrameDecoder(pipe.vae, "carry", 0, tile=placement.tile, at_once=at_once, device=pipe.parks)
    latents_CTHW = torch.zeros(LATENT_CHANNELS, at_once, height, width, device=device)
    decoding = _seconds(lambda: decoder(latents_CTHW), device)
    pixels = TEMPORAL * at_once * shape.pixel_height * shape.pixel_width
    found = Calibration(speed, pixels / decoding, latency)
    packed = parts_of(card, pipe.options.parts if pipe.options else None).packed
    found.save(card.name, placement, pipe.options, model.processes if isinstance(model, SharedDiT) else 1, packed)
    return found


def _speed_of(step: Callable[[int], tuple[float, float]]) -> tuple[float, float]:
    """Operations a second, and what a pass takes besides: the line through a step of a block and one of a window."""
    few, many = CALIBRATED_FRAMES
    work, took = step(few)
    if took > SLOW:
        return work / took, 0.0
    more_work, longer = step(many)
    speed = (more_work - work) / (longer - took) if longer > took else 0.0
    latency = took - work / speed if speed else 0.0
    # A short pass that was the faster one for its work has nothing besides; the longer one is the rule then.
    return (speed, latency) if latency > 0 else (more_work / longer, 0.0)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """The median of three runs, warm: the first is none of them, and a film's first piece is another than the rest."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[1]


def _branches(plan: Plan, card: ModelCard) -> Callable[[Row], int]:
    """How many rows of guidance the pass of a row of the schedule computes."""
    request, steps = plan.request, plan.schedule.num_steps
    skips = bool(request.skip_layer_guidance_scale)
    rows = (1 if request.guidance_scale == 1.0 else 2) + skips
    level, until = request.guidance_level, request.guidance_until
    if rows == 1 or (plan.remembers and not skips) or level is None or until is None:
        return lambda row: rows
    assert request.num_inference_steps and request.shift
    sigmas: list[float] = solver_for(card.solver, request.num_inference_steps, request.shift).sigmas.tolist()
    guided = [until <= sigma <= level for sigma in sigmas]
    return lambda row: rows if any(guided[level] for level in row.levels if level < steps) else 1


def _work(plan: Plan, card: ModelCard) -> float:
    """Floating-point operations of all rows, told from some."""
    step = max(1, len(plan.schedule) // SAMPLED_ROWS)
    while math.gcd(step, plan.schedule.num_steps) > 1:  # else it meets the same levels of every block
        step += 1
    branches = _branches(plan, card)
    sampled = [branches(row) * _row_work(row, plan, card) for row in plan.schedule[::step]]
    work = len(plan.schedule) * sum(sampled) / len(sampled)
    if plan.remembers:  # each block once more when it is finished, so that it is kept
        per_frame, rows = plan.shape.tokens_per_frame, branches(plan.schedule[0])
        keys = (plan.schedule.longest_window + plan.sink) * per_frame
        work += plan.num_blocks * rows * _operations(plan.shape.frames * per_frame // plan.num_blocks, keys, card)
    return work


def _row_work(row: Row, plan: Plan, card: ModelCard) -> float:
    """Floating-point operations of one branch's forward pass."""
    per_frame = plan.shape.tokens_per_frame
    seen = row.window[1] - row.window[0]
    fresh = seen
    if plan.remembers and not row.ahead:
        fresh = sum(level < plan.schedule.num_steps for level in row.levels)
        seen += min(plan.sink, row.window[0])
    return _operations(fresh * per_frame, seen * per_frame, card)


def _operations(tokens: int, keys: int, card: ModelCard) -> float:
    products = 2 * tokens * (6 * card.dim**2 + 2 * card.dim * card.ffn_dim)
    return float(card.num_layers * (products + 4 * tokens * (keys + TEXT_TOKENS) * card.dim))


def _speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second in matrix products of a size that keeps the device busy."""
    size = 4096 if device.type == "cuda" else 768
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    fastest, began = math.inf, time.perf_counter()
    while time.perf_counter() - began < 0.05 or fastest == math.inf:
        started = time.perf_counter()
        (a @ b)[0, 0].item()
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest


def _calibrations() -> Path:
    """Where the system keeps what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "everreel" / "calibration.json"


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _key(model: str, placement: Placement, options: ModelOptions | None, processes: int, packed: float | None) -> str:
    """All that changes how fast it is; the way that most films are made in needs few words.

    How many blocks stay, and how large tiles are, is another number for every size and length of a film, and what
    streams comes while the device computes: that it does so is what counts.
    """
    device, dtype = placement.device, str(placement.dtype).removeprefix("torch.")
    threads = f"{device.type}, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    unpacks = placement.packed and placement.quantization is None and packed is not None
    how = {
        f"{placement.quantization}": placement.quantization is not None,
        f"{8 * (packed or 0):.1f} bits a weight": unpacks,
        "blocks stream": placement.resident is not None,
        "parked": placement.parked,
        "in tiles": placement.tile is not None,
        f"attention {options and options.attention}": options is not None and options.attention != "auto",
        "compiled": options is not None and options.compile,
        f"{processes} processes": processes > 1,
    }
    return ", ".join([model, where, dtype, *(words for words, so in how.items() if so)])


def _processes() -> int:
    """How many share the transformer."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 60 * 72 else f"{minutes / 60 / 24:.0f} days"
