"""The released sizes on a GPU, with random weights made there: seconds a step, peak memory, share of the matmul peak.

    python -m benchmarks.gpu --models 1.3b,14b --films 540p,720p

It needs torch and nothing else: what else is installed (flash_attn_interface, flash_attn, sageattention, torchao,
diffusers) gets a row of its own, and what is not says so. A step is both rows of guidance. The one invariant: a row
that could not be measured is there all the same, with the reason.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, S text positions, D text width.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.flops import matmul_peak, synchronize, transformer_flops
from benchmarks.measure import machine, peak_bytes, say
from benchmarks.real_size import fill
from everreel.diffusion.denoiser import Branch, Denoiser
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.model.backends import Attention
from everreel.model.config import AttentionKernel, TransformerConfig, VAEConfig
from everreel.model.dit import DiT
from everreel.model.vae import CausalVAE
from everreel.shapes import LATENT_CHANNELS, LatentShape

RESULT = Path(__file__).parents[1] / "docs" / "benchmarks-gpu.json"
SHARE_GOAL = 0.6  # of the matmul peak, the whole step
EXACT_GOAL, ROUNDED_GOAL = 1.5, 2.0  # times diffusers' speed; the second with fp8 or Sage
MODELS = {
    "tiny": TransformerConfig(dim=48, ffn_dim=96, num_heads=4, num_layers=2, text_dim=24, freq_dim=32),
    "1.3b": TransformerConfig(),
    "14b": TransformerConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
}
VAES = {"tiny": VAEConfig(base_dim=4, decoder_base_dim=4)}
FILMS = {"tiny": (5, 32, 48), "540p": (97, 544, 960), "720p": (121, 720, 1280)}
ROUNDED = ("sage", "fp8")
WAYS = ("sdpa", "auto", "flash", "cudnn", "sage", "fp8", "compiled", "diffusers")
PROMPT_TOKENS, TEXT_POSITIONS = 60, 512
GUIDANCE = 5.0


@dataclass(frozen=True)
class Row:
    """One measurement, or why there is none."""

    model: str
    film: str
    way: str
    seconds: float | None = None
    first_seconds: float | None = None
    """Of the first time, with all that compiles, and looks for kernels."""
    peak_bytes: int | None = None
    """Weights included."""
    share: float | None = None
    """Of the matmul peak."""
    why: str = ""


@dataclass
class Result:
    """What was measured on which device."""

    device: str
    machine: dict[str, str]
    peak: float
    """Operations a second of a large matrix product in bfloat16."""
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    models: tuple[str, ...] = ("1.3b", "14b")
    films: tuple[str, ...] = ("540p", "720p")
    ways: tuple[str, ...] = WAYS
    device: str = "cuda"
    repeats: int = 3


class Missing(Exception):
    """What a row needs is not there."""


def run(setting: Setting, save: Callable[[Result], None] = lambda result: None) -> Result:
    """Measure; `save` is called after each row, so that what was measured outlives what goes wrong.

    Raises:
        ValueError: there is no such device.
    """
    device = _device(setting.device)
    peak = matmul_peak(device, torch.bfloat16)
    say(f"a large matrix product in bfloat16: {peak / 1e12:.3g} TFLOP/s")
    result = Result(_device_name(device), machine(), peak)
    for model, film in ((model, film) for model in setting.models for film in setting.films):
        for way in setting.ways:
            result.rows.append(_row(model, film, way, device, peak, setting.repeats))
            say(" | ".join(cell for cell in _cells(result.rows[-1], result.rows) if cell))
            save(result)
    for film in setting.films:
        result.rows.append(_decoding(setting.models[0], film, device, setting.repeats))
        say(" | ".join(cell for cell in _cells(result.rows[-1], result.rows) if cell))
        save(result)
    return result


def write(result: Result, path: Path) -> None:
    """As JSON."""
    path.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Result | None:
    """What `write` wrote; None where there is no such file."""
    if not path.is_file():
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Result(**{**fields, "rows": [Row(**row) for row in fields["rows"]]})


def section(result: Result) -> list[str]:
    """For the page: the device, and the table."""
    return [
        *paragraph(
            f"{result.device}, torch {result.machine['torch']}, random weights, bfloat16; a step is both rows of "
            f"guidance, the median of several. A large matrix product reaches {result.peak / 1e12:.0f} TFLOP/s; the "
            f"share of it has a goal of {SHARE_GOAL:.0%}, the ratio to diffusers one of {EXACT_GOAL:g}×, and of "
            f"{ROUNDED_GOAL:g}× where matrix products or attention round to 8 bits. Peak memory includes the weights."
        ),
        "",
        *rows_table(result.rows),
    ]


def rows_table(rows: Sequence[Row]) -> list[str]:
    """The table; without rows its head."""
    head = ("model", "film", "way", "seconds", "the first time", "peak memory", "share of peak", "", "ratio", "")
    return table(head, [_cells(row, rows) for row in rows])


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    name = (row.model, row.film, row.way)
    if row.seconds is None or row.peak_bytes is None:
        return (*name, row.why, *[""] * 6)
    share, reached = ("", "") if row.share is None else (f"{row.share:.0%}", verdict(row.share >= SHARE_GOAL))
    theirs = [
        other.seconds for other in rows if (other.model, other.film, other.way) == (row.model, row.film, "diffusers")
    ]
    ratio = met = ""
    if theirs and theirs[0] is not None and row.way not in ("diffusers", "VAE decoding"):
        faster = theirs[0] / row.seconds
        ratio, met = f"{faster:.2f}×", verdict(faster >= (ROUNDED_GOAL if row.way in ROUNDED else EXACT_GOAL))
    first = "" if row.first_seconds is None else f"{row.first_seconds:.3g} s"
    return (*name, f"{row.seconds:.3g} s", first, f"{row.peak_bytes / 1e9:.1f} GB", share, reached, ratio, met)


def _row(model: str, film: str, way: str, device: torch.device, peak: float, repeats: int) -> Row:
    """A step of the model in one way."""
    config, shape = MODELS[model], LatentShape.from_pixels(*FILMS[film])
    make = _theirs if way == "diffusers" else partial(_ours, way)
    flops = 2 * transformer_flops(config, shape.tokens, PROMPT_TOKENS + 1)
    try:
        with torch.no_grad(), _cleared(device):
            first, seconds, held = _timed(make(config, shape, device), device, repeats)
    except (Missing, ImportError) as error:
        return Row(model, film, way, why=str(error))
    except Exception as error:  # whatever a package of another's raises: the other rows are to be measured
        return Row(model, film, way, why=f"{type(error).__name__}: {str(error).splitlines()[:1]}")
    return Row(model, film, way, seconds, first, held, flops / seconds / peak)


def _decoding(model: str, film: str, device: torch.device, repeats: int) -> Row:
    """The VAE from latents to pixels, all of the film."""
    shape = LatentShape.from_pixels(*FILMS[film])
    try:
        with torch.no_grad(), _cleared(device):
            with device:
                vae = CausalVAE(VAES.get(model, VAEConfig())).to(torch.bfloat16).eval()
            generator = torch.Generator(device).manual_seed(0)
            size = (1, LATENT_CHANNELS, shape.frames, shape.height, shape.width)
            latents_BCTHW = torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16)
            first, seconds, held = _timed(lambda: vae.decode(latents_BCTHW), device, min(repeats, 2))
    except torch.OutOfMemoryError as error:
        return Row("VAE", film, "VAE decoding", why=str(error).splitlines()[0])
    return Row("VAE", film, "VAE decoding", seconds, first, held)


def _ours(way: str, config: TransformerConfig, shape: LatentShape, device: torch.device) -> Callable[[], Tensor]:
    model = _random_model(config, device)
    model.attention = Attention(cast(AttentionKernel, way) if way in get_args(AttentionKernel) else "auto")
    if way in ("flash", "cudnn", "sage"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = model.attention.kernel(device, torch.bfloat16, config.head_dim)
        if found is None:
            raise Missing("; ".join(str(warning.message) for warning in caught))
    if way == "fp8":
        _in_fp8(model)
    if way == "compiled":
        from everreel.model.compile import compile_blocks

        compile_blocks(model)
    x_CTHW, text_BSD = _inputs(config, shape, device)
    contexts = [model.encode_context(text_BSD[:, :PROMPT_TOKENS], [length]) for length in (PROMPT_TOKENS, 1)]
    denoiser = Denoiser(model, [Branch(context) for context in contexts], GUIDANCE)
    timestep_T = torch.full((shape.frames,), 500)
    return lambda: denoiser(x_CTHW, timestep_T, (shape.frames,))


def _theirs(config: TransformerConfig, shape: LatentShape, device: torch.device) -> Callable[[], Tensor]:
    try:
        from diffusers import SkyReelsV2Transformer3DModel
    except ImportError:
        raise Missing("diffusers is not installed") from None
    with device:
        model: Any = SkyReelsV2Transformer3DModel(
            num_attention_heads=config.num_heads,
            attention_head_dim=config.head_dim,
            text_dim=config.text_dim,
            freq_dim=config.freq_dim,
            ffn_dim=config.ffn_dim,
            num_layers=config.num_layers,
        )
    exact = tuple(model._keep_in_fp32_modules)
    for name, weight in model.named_parameters():
        if not set(exact) & set(name.split(".")):
            weight.data = weight.data.to(torch.bfloat16)
    model.eval()
    x_CTHW, text_BSD = _inputs(config, shape, device)
    text_BSD = F.pad(text_BSD, (0, 0, 0, TEXT_POSITIONS - text_BSD.shape[1]))
    timestep_BT = torch.full((1, shape.frames), 500, device=device)

    def step() -> Tensor:
        given = (x_CTHW[None].to(torch.bfloat16), timestep_BT, text_BSD)
        conditional, unconditional = (
            model(*given, enable_diffusion_forcing=True, return_dict=False)[0] for _ in range(2)
        )
        guided: Tensor = unconditional + GUIDANCE * (conditional - unconditional)
        return guided

    return step


def _in_fp8(model: DiT) -> None:
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_
    except ImportError:
        raise Missing("torchao is not installed") from None
    quantize_(model.blocks, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))


def _random_model(config: TransformerConfig, device: torch.device) -> DiT:
    with torch.device("meta"):
        model = DiT(config)
    return fill(model, device, torch.bfloat16)


def _inputs(config: TransformerConfig, shape: LatentShape, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_CTHW = torch.randn(LATENT_CHANNELS, shape.frames, shape.height, shape.width, generator=generator)
    text_BSD = torch.randn(1, PROMPT_TOKENS, config.text_dim, generator=generator)
    return x_CTHW.to(device), text_BSD.to(device, torch.bfloat16)


def _timed(work: Callable[[], Tensor], device: torch.device, repeats: int) -> tuple[float, float, int]:
    """Seconds of the first time, the median of the later ones, and the peak of memory in bytes."""
    times = []
    for _ in range(1 + repeats):
        synchronize(device)
        start = time.perf_counter()
        out = work()
        synchronize(device)
        times.append(time.perf_counter() - start)
        if not bool(out.isfinite().all()):
            raise Missing("the result is not finite")
        del out
    held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()
    return times[0], statistics.median(times[1:]), held


class _cleared:
    """Nothing of the last row is left when the next one begins."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> None:
        self._clear()

    def __exit__(self, *_: object) -> None:
        self._clear()

    def _clear(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {name}: is not on this machine; nearest that works: cpu, with --models tiny")
    return device


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return tuple(text.split(","))

    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the JSON file, and the section of the page to the standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=_names(list(MODELS)), default=Setting.models, help=", ".join(MODELS))
    parser.add_argument("--films", type=_names(list(FILMS)), default=Setting.films, help=", ".join(FILMS))
    parser.add_argument("--ways", type=_names(WAYS), default=WAYS, help=", ".join(WAYS))
    parser.add_argument("--size", choices=["tiny"], help="to see that all of this runs: the tiny model and film")
    parser.add_argument("--device", default=Setting.device, help="cuda, cuda:1, cpu")
    parser.add_argument("--repeats", type=int, default=Setting.repeats, help="of a step, besides the first")
    parser.add_argument("--output", type=Path, default=RESULT, help="the JSON file")
    options = parser.parse_args(arguments)
    if options.size == "tiny":
        options.models = options.films = ("tiny",)
    setting = Setting(options.models, options.films, options.ways, options.device, options.repeats)
    try:
        result = run(setting, partial(write, path=options.output))
    except ValueError as error:
        sys.exit(f"benchmark: {error}")
    sys.stdout.write("\n".join(section(result)) + "\n")


if __name__ == "__main__":
    main()
