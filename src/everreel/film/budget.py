"""What a film holds in memory, and how a model is placed so that it stays within a budget.

Bytes are counted from what the networks really hold at once, in `needs`. The one invariant: the first placement that
fits wins, and they are tried in the order of what they cost: first time alone, last of all exactness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from everreel.checkpoint.catalog import ModelCard
from everreel.checkpoint.offload import SLOTS
from everreel.checkpoint.quantize import BYTES_PER_WEIGHT, check_quantization
from everreel.film.decoding import latents_at_once
from everreel.film.device import default_dtype
from everreel.film.loading import ModelOptions, parse_memory
from everreel.film.parts import Parts, parts_of
from everreel.film.placement import Placement
from everreel.film.plan import Plan, make_plan
from everreel.film.request import make_request
from everreel.memory import device_memory
from everreel.model.attention import QUERY_CHUNK
from everreel.model.config import Quantization
from everreel.model.dit import DiT
from everreel.parallel.shared import SharedDiT
from everreel.shapes import PATCH, SPATIAL, TEMPORAL

TILES = (64, 48, 32, 24)  # latents a side
_LATENT_BYTES = PATCH**2 * 16 * 4 * 10  # of a token: ten copies of its latents in float32, the solver's and the loop's
_ROTATION_BYTES = 64 * 8  # of a token: complex numbers for half a head's width
_DECODING_WIDTHS = 7.0  # activations of a full-size frame, in `base_dim` numbers a pixel
_SIDE_BY_SIDE_WIDTHS = 1.5  # more, where a CPU's convolution in float32 lays three frames side by side
_TAIL_WIDTHS = 25  # what the decoder keeps of the frames before, as many numbers a pixel
# Workspaces, compiled kernels, threads, and of a CPU freed blocks that are small: beside what is counted.
_PROGRAM_BYTES = {"cuda": 0.2e9, "cpu": 80e6}
_QUANTIZED_BYTES = 25e6  # of a CPU, the packages that quantise and what they work in
HOST_PROGRAM_BYTES = 440e6  # Python and its libraries
SCORES_BYTES_PER_TOKEN = 64  # activations alive at once, in model widths of bfloat16 a token (measured, rounded up)
DEVICE_SHARE = 0.9  # of a device's memory, that a film may take without a budget


@dataclass(frozen=True)
class Needs:
    """Bytes on the device, of the three things that are done one after the other."""

    encoding: float
    denoising: float
    decoding: float
    weights: float
    """The weights that are there during all three."""
    program: float

    @property
    def peak(self) -> float:
        """The most of the three."""
        return max(self.encoding, self.denoising, self.decoding)


def needs(plan: Plan, card: ModelCard, placement: Placement, parts: Parts | None = None) -> Needs:
    """What a film of this plan holds, placed so."""
    parts = parts or parts_of(card)
    width, kind = placement.dtype.itemsize, "cpu" if placement.device.type == "cpu" else "cuda"
    stays = _transformer_bytes(card, parts, placement)
    comes = {"text": 0.0 if placement.text_on_host else parts.text * width, "image": parts.image * width}
    comes["vae"] = parts.vae * width * 2  # convolutions keep their weights in a second order
    # Where a window's end is decoded and encoded again, that is done in float32, by a second VAE.
    again = plan.join != "carry"
    comes["vae"] += parts.vae * 4 * 2 if again else 0
    decodes = replace(placement, dtype=torch.float32) if again else placement
    working = max(_decoding_bytes(plan, parts, decodes), _encoding_bytes(plan, parts, decodes) if again else 0.0)
    beside = 0.0 if placement.parked and kind != "cpu" else sum(comes.values())
    arriving = comes if beside == 0 else dict.fromkeys(comes, 0.0)
    program = _PROGRAM_BYTES[kind] + (_QUANTIZED_BYTES if placement.quantization and kind == "cpu" else 0)
    cache = _cache_bytes(plan, card, width)
    tokens = plan.schedule.longest_window * plan.shape.tokens_per_frame
    latents = tokens * _LATENT_BYTES if kind != "cpu" else 0.0  # a CPU's program gave these back and takes them again
    weights = stays + beside
    common = program + weights
    kept = _tail_bytes(plan, parts, decodes) if _decodes_on(plan) else 0.0
    return Needs(
        common + max(arriving["text"], arriving["image"], arriving["vae"] + _encoding_bytes(plan, parts, placement)),
        common + cache + kept + _step_bytes(plan, card, placement),
        common + cache + kept + latents + arriving["vae"] + working,
        weights,
        program,
    )


def placed(options: ModelOptions, card: ModelCard, plan: Plan | None = None, parts: Parts | None = None) -> Placement:
    """Where a model's parts go, of resolved options; a budget is for a plan's film, or for one that suits the model.

    `parts` are what its files hold, if they were counted already.

    Raises:
        ValueError: the budget is too small, or the device cannot compute as asked.
    """
    if plan is None:
        picture = Path("picture.png") if card.image else None  # nothing of it is read
        plan = make_plan(make_request(prompt="a film", image=picture), card)
    budget = None if options.memory is None else parse_memory(options.memory)
    assert options.device is not None
    packed, parts = not options.merges, parts or parts_of(card, options.parts)
    wanted = options.quantization, options.torch_dtype if options.dtype_asked else None
    return place(plan, card, options.device, budget, *wanted, packed=packed, parts=parts)


def suits(placement: Placement | None, options: ModelOptions, card: ModelCard, plan: Plan) -> bool:
    """Whether a model that is placed so is placed as this plan's film would have it; raises as `placed`."""
    if placement is None:
        return False
    wanted = placed(options, card, plan)
    return (wanted.chosen(), wanted.dtype) == (placement.chosen(), placement.dtype)


def fitted(placement: Placement, options: ModelOptions) -> list[str]:
    """What the user should know where nobody gave a budget and the device has too little for all of the model."""
    if options.memory is not None or placement.together is None:
        return []
    how = "; ".join(placement.describe())
    return [f"memory: not all of the model fits at once, so it is {how}; --memory gives it another budget"]


def place(
    plan: Plan,
    card: ModelCard,
    device: str | torch.device,
    budget: float | None = None,
    quantization: Quantization | None = None,
    dtype: torch.dtype | None = None,
    *,
    packed: bool = True,
    parts: Parts | None = None,
) -> Placement:
    """The placement of a model for a film: whole and exact where that fits, else the first that does.

    Args:
        budget: bytes of the device's memory; of a CPU, of the whole process. Without one it is `DEVICE_SHARE` of a
            GPU's memory, and a CPU has no limit.
        quantization: if it must be this one.
        dtype: by default what suits the device; where that is float32 and does not fit, bfloat16.
        packed: see `Placement`.
        parts: what the model's files hold.

    Raises:
        ValueError: the budget is too small for anything, or the device cannot compute so.
    """
    where, parts = torch.device(device), parts or parts_of(card)
    if quantization is not None:
        check_quantization(quantization, where)
    at_once = latents_at_once(plan.shape.pixel_height, plan.shape.pixel_width)
    first = Placement(where, dtype or default_dtype(where), quantization, packed, decode_latents=at_once)
    fixed = HOST_PROGRAM_BYTES if where.type == "cpu" else 0.0
    least, whose = None, ""
    if budget is None:
        # Of the whole memory, as in `fits_as_batch`, which decides about guidance where all weights fit.
        held, whose = device_memory(where), f" of {where}"
        budget = math.inf if held is None else DEVICE_SHARE * held
        if needs(plan, card, replace(first, together=False), parts).peak <= budget:
            peak = needs(plan, card, first, parts).peak
            return replace(first, memory=peak, together=None, decode_latents=None)  # as it comes
    halved = dtype is None and first.dtype == torch.float32
    for placement in _ways(first, card, plan, (torch.float32, torch.bfloat16) if halved else (first.dtype,)):
        peak = needs(plan, card, placement, parts).peak + fixed
        tried = replace(placement, memory=peak - fixed)
        if peak <= budget:
            return tried
        if least is None or tried.memory < least.memory:
            least = tried
    assert least is not None
    most = math.ceil((least.memory + fixed) / 1e7) / 100
    raise ValueError(
        f"memory = {_size(budget)}{whose}: {card.name} needs at least {most:.2f} GB for "
        f"{plan.request.width}x{plan.request.height}; {_advice(needs(plan, card, least, parts), plan, budget - fixed)}"
    )


def fits_as_batch(tokens: int, transformer: DiT | SharedDiT, parts: Iterable[nn.Module]) -> bool:
    """Whether both branches of guidance can run as one batch, of so many video tokens each; `parts` have the weights.

    By the device's whole memory and not by what is free of it: one batch and two round otherwise, so a film that is
    made again would not have the same bytes. Whoever shares a device gives a budget.
    """
    device = next(transformer.parameters()).device
    if device.type != "cuda":
        return True
    if isinstance(transformer, SharedDiT):
        tokens = -(-tokens // transformer.processes)
    need = 2 * tokens * transformer.config.dim * SCORES_BYTES_PER_TOKEN
    tensors = {tensor for part in parts for tensor in part.parameters() if tensor.device == device}
    weights = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
    return need < DEVICE_SHARE * torch.cuda.get_device_properties(device).total_memory - weights


def _ways(first: Placement, card: ModelCard, plan: Plan, dtypes: Sequence[torch.dtype]) -> Iterator[Placement]:
    """Every placement worth trying, best first."""
    ways_to_guide = (True,) if plan.request.guidance_scale == 1.0 else (True, False)
    smaller: tuple[Quantization, ...] = ("q8_0", "q4_0") if first.device.type == "cpu" else ("int8", "q4_0")
    exact_first = (first.quantization,) if first.quantization else (None, *smaller)
    for now in (replace(first, quantization=how, dtype=dtype) for how in exact_first for dtype in dtypes):
        yield now
        if first.device.type == "cpu":
            # Nothing is elsewhere than in host memory: what can be saved is what is computed at once, then exactness.
            # Tiles save nothing: they overlap, and what the decoder keeps of each has nowhere else to wait.
            yield from (replace(now, decode_latents=1, together=together) for together in ways_to_guide)
            continue
        parked = [replace(now, parked=True, text_on_host=on_host) for on_host in (False, True)]
        for together in ways_to_guide:
            for way in parked:
                yield from (replace(way, tile=tile, together=together) for tile in (None, *TILES))
        # Fewer and fewer blocks stay; what the decoder or guidance would need of their room costs less than they do.
        for together in ways_to_guide:
            for resident in range(card.num_layers - SLOTS - 1, -1, -1):
                streamed = replace(parked[-1], resident=resident, together=together)
                yield from (replace(streamed, tile=tile) for tile in (None, TILES[0], TILES[-1]))


def _transformer_bytes(card: ModelCard, parts: Parts, placement: Placement) -> float:
    width = placement.dtype.itemsize
    smaller = parts.packed if placement.packed else None
    if placement.quantization:
        smaller = BYTES_PER_WEIGHT[placement.quantization]
    block = (8 * card.dim**2 + 2 * card.dim * card.ffn_dim) * (smaller or width)
    around = max(parts.transformer - parts.blocks, 0) * width
    held = card.num_layers if placement.resident is None else placement.resident + SLOTS
    unpacked = card.dim * card.ffn_dim * width if smaller else 0  # one layer at a time, at most
    return around + held * block + unpacked


def _cache_bytes(plan: Plan, card: ModelCard, width: int) -> float:
    """Keys and values, rotated keys, and the keys and values of the last block's state, which may still be written."""
    kept = (plan.context + plan.sink) * plan.shape.tokens_per_frame if plan.remembers else 0
    return 5.0 * kept * card.num_layers * _branches(plan) * width * card.dim


def _branches(plan: Plan) -> int:
    return 1 if plan.request.guidance_scale == 1.0 else 2


def _step_bytes(plan: Plan, card: ModelCard, placement: Placement) -> float:
    """Of one call of the transformer: at most in rotating queries and keys, in float32, or in the feed-forward net."""
    width = placement.dtype.itemsize
    tokens = plan.schedule.longest_window * plan.shape.tokens_per_frame
    batch = 1 if placement.together is False else _branches(plan)
    rotating = 6 + 20 / width
    widths = max(rotating, 3 + 2 * card.ffn_dim / card.dim)
    scores = 2 * QUERY_CHUNK * tokens * width if placement.device.type == "cpu" else 0
    return batch * tokens * card.dim * width * widths + tokens * (_LATENT_BYTES + _ROTATION_BYTES) + scores


def _decoding_bytes(plan: Plan, parts: Parts, placement: Placement) -> float:
    """Of some latents: the decoder's last level, at full size, and what it keeps of the frames before."""
    width, on_cpu = placement.dtype.itemsize, placement.device.type == "cpu"
    at_once = placement.decode_latents or latents_at_once(plan.shape.pixel_height, plan.shape.pixel_width)
    frames = TEMPORAL * min(at_once, plan.shape.frames - 1) or 1  # a film's first latent is one frame
    widths = _DECODING_WIDTHS + (_SIDE_BY_SIDE_WIDTHS if on_cpu and width == 4 else 0)
    inside = _pixels(plan, placement.tile)
    faded = 0 if placement.tile is None else 2 * 3 * 4 * frames * _pixels(plan)
    # Of the frames before, old and new while a piece is decoded. Behind a film's first latent, which is one frame,
    # there is less to keep than behind each other.
    old_and_new = _tail_bytes(plan, parts, placement) * (0.8 if plan.shape.frames <= 2 else 2.0 if on_cpu else 1.8)
    return widths * frames * inside * parts.base_dim * width + old_and_new + faded


def _tail_bytes(plan: Plan, parts: Parts, placement: Placement) -> float:
    """What the decoder keeps of the frames before; of other tiles it waits in host memory."""
    return _TAIL_WIDTHS * _pixels(plan, placement.tile) * parts.base_dim * placement.dtype.itemsize


def _pixels(plan: Plan, tile: int | None = None) -> int:
    """Of a frame, or of a tile of it."""
    sides = plan.shape.pixel_height, plan.shape.pixel_width
    return math.prod(sides if tile is None else (min(tile * SPATIAL, side) for side in sides))


def _decodes_on(plan: Plan) -> bool:
    """Whether the decoder stands in the middle of the film while later frames are denoised."""
    return plan.schedule.num_finished > 1 and (plan.join == "carry" or plan.request.ar_step > 0)


def _encoding_bytes(plan: Plan, parts: Parts, placement: Placement) -> float:
    """Of given pictures, or of a window's end that is encoded again: a piece of four frames."""
    if not plan.schedule.given and plan.join == "carry":
        return 0.0
    return _decoding_bytes(plan, parts, replace(placement, decode_latents=1, tile=None))


def _advice(needs: Needs, plan: Plan, budget: float) -> str:
    """What to do where a film needs more than the budget."""
    if needs.weights + needs.program > budget:
        return "give more, or take a smaller model: the weights alone are more than that"
    if needs.peak == needs.denoising and plan.shape.frames > 1:
        return (
            f"lower base_num_frames or num_frames (now a window of {plan.schedule.longest_window} latents) or the size"
        )
    return "lower the size of the picture"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.3g} MB"
