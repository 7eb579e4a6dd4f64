"""The released sizes on a GPU, with random weights made there: seconds a step, peak memory, share of the matmul peak.

    PYTHONPATH=src python -m benchmarks.gpu --models 1.3b --films tiny --repeats 1
    PYTHONPATH=src python -m benchmarks.gpu --models 1.3b --ways auto,compiled,diffusers --repeats 2
    PYTHONPATH=src python -m benchmarks.gpu --models 14b --films 540p --repeats 2
    PYTHONPATH=src python -m benchmarks.gpu --models 14b --films 720p --repeats 1 --ways auto,compiled,fp8
    PYTHONPATH=src python -m benchmarks.gpu --models 14b --films 720p --repeats 1 --ways diffusers,24GB
    PYTHONPATH=src python -m benchmarks.gpu --models 14b --films 540p --repeats 1 --ways film,film-24GB
    PYTHONPATH=src python -m benchmarks.gpu --models 1.3b --repeats 1 --ways sdpa,cudnn,flash,sage,flex

Whole films take what the package does. For the rest it needs torch alone, not this package installed either: what else
is installed (flash_attn_interface, flash_attn, sageattention, torchao, diffusers) gets a row of its own, and what is
not says so. A step is both rows of guidance. Calls with one `--output` add up: what has a time there is kept, what
failed is tried again. Each of those above should end within ten minutes on an H200, by the operations counted, at 400
TFLOP/s; a call that is cut off goes on with the row that it was at. The one invariant: a row that could not be measured
is there all the same, with the reason.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, S text positions, D text width.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.flops import matmul_peak, synchronize, transformer_flops
from benchmarks.gpu_film import random_model, short_film
from benchmarks.measure import machine, peak_bytes, say
from everreel.checkpoint.offload import offload
from everreel.checkpoint.quantize import quantize
from everreel.diffusion.denoiser import Branch, Denoiser, Guidance
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.model.backends import Attention, Checked
from everreel.model.config import AttentionKernel, TransformerConfig, VAEConfig
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
VAES = {"tiny VAE": VAEConfig(base_dim=4, decoder_base_dim=4), "VAE": VAEConfig()}
FILMS = {"tiny": (5, 32, 48), "540p": (97, 544, 960), "720p": (121, 720, 1280)}
ROUNDED = ("sage", "fp8")
# torch's own attention is cuDNN's on Hopper from cuDNN 9.15.1 on, and "auto" is torch's own where FlashAttention 3 is
# not installed: measured by themselves they would be one kernel three times.
DEFAULT_WAYS = ("auto", "compiled", "fp8", "diffusers", "24GB")
FILM, FILM_24GB = "film", "film-24GB"  # text, two steps and decoding, of which the second is compared with the first
WAYS = (*DEFAULT_WAYS, "sdpa", "cudnn", "flash", "sage", "flex", FILM, FILM_24GB)
KERNELS = ("flash", "cudnn", "sage", "flex")
BUDGET = 24e9  # bytes: what `--memory 24GB` means
# Blocks that stay on the device (None: all), and whether guidance is one batch: what `everreel.film.budget.place` gives
# for 24e9 bytes and a film of one window. Noted here because `everreel.film` needs `av`; a test compares them.
Placed = tuple[int | None, bool]
PLACED: dict[tuple[str, str], Placed] = {
    ("14b", "tiny"): (30, True),
    ("14b", "540p"): (7, True),
    ("14b", "720p"): (4, False),
}
WHOLE: Placed = (None, True)  # the smaller ones
# What may not differ within a file: installed packages may, which is why one calls again.
SAME_MACHINE = ("CPU", "cores", "torch")
Name = tuple[str, str, str]
"""The model, the film and the way."""
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
    """Most that tensors took during a step, weights included."""
    share: float | None = None
    """Of the matmul peak."""
    why: str = ""
    reserved_bytes: int | None = None
    """The most that torch took from the device for it; None of a CPU."""

    @property
    def name(self) -> Name:
        """What two measurements of the same thing have in common."""
        return self.model, self.film, self.way


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
    ways: tuple[str, ...] = DEFAULT_WAYS
    device: str = "cuda"
    repeats: int = 3


class Missing(Exception):
    """What a row needs is not there."""


def run(
    setting: Setting, save: Callable[[Result], None] = lambda result: None, earlier: Result | None = None
) -> Result:
    """Measure, from cheap to dear; `save` is called after each row, so that what was measured outlives what goes wrong.

    Of `earlier` the rows with a time are kept and not measured again, and so is the peak that shares are of; a row that
    failed is replaced once it was tried again.

    Raises:
        ValueError: there is no such device, or `earlier` is of another device or machine.
    """
    device = _device(setting.device)
    result = Result(_device_name(device), machine(), 0.0)
    if earlier is not None:
        _check_same(result, earlier)
        result.peak, result.rows = earlier.peak, [*earlier.rows]
    else:
        result.peak = matmul_peak(device, torch.bfloat16)
    say(f"a large matrix product in bfloat16: {result.peak / 1e12:.3g} TFLOP/s")
    for name, measure in _wanted(setting, device, result.peak):
        if any(row.name == name and row.seconds is not None for row in result.rows):
            say(" | ".join((*name, "was measured before")))
            continue
        row = measure()
        result.rows = sorted([*(other for other in result.rows if other.name != name), row], key=_position)
        say(" | ".join(cell for cell in _cells(row, result.rows) if cell))
        save(result)
    return result


def write(result: Result, path: Path) -> None:
    """As JSON, replaced whole: whoever stops the program while it writes leaves the earlier file."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def read(path: Path) -> Result | None:
    """What `write` wrote; None where there is no such file.

    Raises:
        ValueError: the file is something else.
    """
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Result(**{**fields, "rows": [Row(**row) for row in fields["rows"]]})
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"output = {path}: is no file of this benchmark; nearest that works: a new file") from None


def section(result: Result) -> list[str]:
    """For the page: the device, and the table."""
    return [
        *paragraph(
            f"{result.device}, torch {result.machine['torch']}, random weights, bfloat16; a step is both rows of "
            f"guidance, the median of several. A large matrix product reaches {result.peak / 1e12:.0f} TFLOP/s; the "
            f"share of it has a goal of {SHARE_GOAL:.0%}, the ratio to diffusers one of {EXACT_GOAL:g}×, and of "
            f"{ROUNDED_GOAL:g}× where matrix products or attention round to 8 bits. Peak memory is that of a step "
            "with the weights, reserved what torch took from the device for it. A film is its text, two steps and "
            "decoding; the ratio of one within 24 GB is to the same film without a budget."
        ),
        "",
        *rows_table(result.rows),
    ]


def rows_table(rows: Sequence[Row]) -> list[str]:
    """The table; without rows its head."""
    head = ("model", "film", "way", "seconds", "the first time", "peak memory", "share of peak", "", "ratio", "")
    return table(head, [_cells(row, rows) for row in rows])


def _cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    if row.seconds is None or row.peak_bytes is None:
        return (*row.name, row.why, *[""] * 6)
    share, reached = ("", "") if row.share is None else (f"{row.share:.0%}", verdict(row.share >= SHARE_GOAL))
    beside = FILM if row.way == FILM_24GB else "diffusers"
    theirs = [other.seconds for other in rows if other.name == (row.model, row.film, beside)]
    ratio = met = ""
    if theirs and theirs[0] is not None and row.way not in ("diffusers", "VAE decoding", FILM):
        faster = theirs[0] / row.seconds
        goal = ROUNDED_GOAL if row.way in ROUNDED else EXACT_GOAL
        ratio, met = f"{faster:.2f}×", "" if row.way == FILM_24GB else verdict(faster >= goal)
    first = "" if row.first_seconds is None else f"{row.first_seconds:.3g} s"
    memory = f"{row.peak_bytes / 1e9:.1f} GB"
    if row.reserved_bytes is not None:
        memory += f", {row.reserved_bytes / 1e9:.1f} GB reserved"
    return (*row.name, f"{row.seconds:.3g} s", first, memory, share, reached, ratio, met)


def _check_same(now: Result, earlier: Result) -> None:
    """Refuse to put rows of two machines into one table."""
    here, there = ({"device": result.device, **result.machine} for result in (now, earlier))
    for name in ("device", *SAME_MACHINE):
        if here[name] != there.get(name):
            why = f"the rows in the output are of {there.get(name)}; nearest that works: another output"
            raise ValueError(f"{name} = {here[name]}: {why}")


def _wanted(setting: Setting, device: torch.device, peak: float) -> Iterator[tuple[Name, Callable[[], Row]]]:
    """Names of rows and how to measure them, from cheap to dear, so that what ends a run early costs the least."""
    films = [film for film in FILMS if film in setting.films]
    vaes = sorted({"tiny VAE" if model == "tiny" else "VAE" for model in setting.models}, key=list(VAES).index)
    for vae, film in ((vae, film) for vae in vaes for film in films):
        yield (vae, film, "VAE decoding"), partial(_decoding, vae, film, device, setting.repeats)
    pairs = {(model, film) for model in setting.models for film in films}
    for model, film in sorted(pairs, key=lambda pair: _step_flops(*pair)):
        for way in dict.fromkeys(setting.ways):
            yield (model, film, way), partial(_row, model, film, way, device, peak, setting.repeats)


def _position(row: Row) -> tuple[float, ...]:
    """Where a row stands in the table, whichever call measured it; names of another version come last."""
    if row.film in FILMS and row.model in VAES:
        return 0, list(VAES).index(row.model), list(FILMS).index(row.film)
    if row.film in FILMS and row.model in MODELS and row.way in WAYS:
        return 1, _step_flops(row.model, row.film), WAYS.index(row.way)
    return 2, 0, 0


def _step_flops(model: str, film: str) -> float:
    """Operations of both rows of guidance."""
    return 2 * transformer_flops(MODELS[model], LatentShape.from_pixels(*FILMS[film]).tokens, PROMPT_TOKENS + 1)


def _row(model: str, film: str, way: str, device: torch.device, peak: float, repeats: int) -> Row:
    """A step of the model in one way, or a film."""
    if way in (FILM, FILM_24GB):
        vae = VAES["tiny VAE" if model == "tiny" else "VAE"]
        make = partial(short_film, MODELS[model], vae, FILMS[film], device, BUDGET if way == FILM_24GB else None)
        return _measured((model, film, way), make, device, repeats)
    placed = PLACED.get((model, film), WHOLE) if way == "24GB" else (None, False)
    take = _theirs if way == "diffusers" else partial(_ours, way, placed)
    make = partial(take, MODELS[model], LatentShape.from_pixels(*FILMS[film]), device)
    row = _measured((model, film, way), make, device, repeats)
    return row if row.seconds is None else replace(row, share=_step_flops(model, film) / row.seconds / peak)


def _decoding(vae: str, film: str, device: torch.device, repeats: int) -> Row:
    """The VAE from latents to pixels, all of the film."""
    shape = LatentShape.from_pixels(*FILMS[film])

    def make() -> Callable[[], Tensor]:
        with device:
            network = CausalVAE(VAES[vae]).to(torch.bfloat16).eval()
        generator = torch.Generator(device).manual_seed(0)
        size = (1, LATENT_CHANNELS, shape.frames, shape.height, shape.width)
        latents_BCTHW = torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16)
        return lambda: network.decode(latents_BCTHW)

    return _measured((vae, film, "VAE decoding"), make, device, min(repeats, 2))


def _measured(name: Name, make: Callable[[], Callable[[], Tensor]], device: torch.device, repeats: int) -> Row:
    """The row of what `make` gives, without a share; or of why there is none."""
    try:
        _clear(device)  # nothing of the last row is left when this one begins
        with torch.no_grad():
            work = make()
            with _capped(device, BUDGET if name[2] in ("24GB", FILM_24GB) else math.inf):
                return _timed(name, work, device, repeats)
    except Missing as error:
        return Row(*name, why=_one_line(str(error)))
    except Exception as error:  # whatever a package of another's raises: the other rows are to be measured
        return Row(*name, why=_one_line(f"{type(error).__name__}: {error}"))


def _one_line(text: str) -> str:
    """For a table's cell; all lines, because the first often says only that something failed."""
    return textwrap.shorten(text.replace("|", "/"), 300, placeholder=" …").rstrip(": ")


def _ours(
    way: str, placed: Placed, config: TransformerConfig, shape: LatentShape, device: torch.device
) -> Callable[[], Tensor]:
    resident, together = placed
    attention = Attention(cast(AttentionKernel, way) if way in get_args(AttentionKernel) else "auto")
    kernel = _kernel(attention, device, config.head_dim) if way in KERNELS else None
    if way == "fp8":
        _check_torchao()  # what is missing is missed before a model is made
    model = random_model(config, device, device if resident is None else torch.device("cpu"))
    model.attention = attention
    if way == "fp8":
        quantize(model, "fp8_dynamic", device)
    if resident is not None:
        offload(model, device, resident)
    if way == "compiled":
        from everreel.model.compile import compile_blocks

        torch.compiler.reset()  # after another model's, torch would make this one's program for lengths as they come
        compile_blocks(model)
    x_CTHW, text_BSD = _inputs(config, shape, device)
    rows = [[PROMPT_TOKENS, 1]] if together else [[PROMPT_TOKENS], [1]]
    contexts = [model.encode_context(text_BSD.expand(len(lengths), -1, -1), lengths) for lengths in rows]
    denoiser = Denoiser(model, [Branch(context) for context in contexts], Guidance(GUIDANCE))
    timestep_T = torch.full((shape.frames,), 500)
    work = partial(denoiser, x_CTHW, timestep_T, (shape.frames,))
    return work if kernel is None else partial(_by_kernel, kernel, work)


def _kernel(attention: Attention, device: torch.device, head_dim: int) -> Checked:
    """The kernel that was asked for, or the reason why torch's own would be used."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = attention.kernel(device, torch.bfloat16, head_dim)
    if found is None:
        raise Missing("; ".join(str(warning.message) for warning in caught))
    return found


def _by_kernel(kernel: Checked, work: Callable[[], Tensor]) -> Tensor:
    """What the work gives, if the kernel computed it: one that fails at full size gives way to torch's own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = work()
    if kernel.broken:
        raise Missing("; ".join(str(warning.message) for warning in caught) or f"{kernel.name} failed")
    return out


def _theirs(config: TransformerConfig, shape: LatentShape, device: torch.device) -> Callable[[], Tensor]:
    try:
        from diffusers import SkyReelsV2Transformer3DModel
    except ModuleNotFoundError as error:
        if error.name != "diffusers":  # something that it needs itself
            raise
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


def _check_torchao() -> None:
    try:
        import torchao.quantization  # noqa: F401 -- `quantize` takes it
    except ModuleNotFoundError as error:
        if error.name != "torchao":
            raise
        raise Missing("torchao is not installed") from None


def _inputs(config: TransformerConfig, shape: LatentShape, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_CTHW = torch.randn(LATENT_CHANNELS, shape.frames, shape.height, shape.width, generator=generator)
    text_BSD = torch.randn(1, PROMPT_TOKENS, config.text_dim, generator=generator)
    return x_CTHW.to(device), text_BSD.to(device, torch.bfloat16)


def _timed(name: Name, work: Callable[[], Tensor], device: torch.device, repeats: int) -> Row:
    """Seconds of the first time, the median of the later ones, and the peaks of memory while that lasted."""
    _clear(device)  # peaks are of the work, not of what was held while its model was made
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
    on_gpu = device.type == "cuda"
    held = torch.cuda.max_memory_allocated(device) if on_gpu else peak_bytes()
    reserved = torch.cuda.max_memory_reserved(device) if on_gpu else None
    return Row(*name, statistics.median(times[1:]), times[0], held, reserved_bytes=reserved)


def _clear(device: torch.device) -> None:
    """Give back what nothing holds any more, and count peaks from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


@contextmanager
def _capped(device: torch.device, limit: float) -> Iterator[None]:
    """Let torch take no more of a GPU than `limit` bytes meanwhile."""
    if device.type != "cuda":
        yield
        return
    share = limit / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {name}: is not on this machine; nearest that works: cpu, with --models tiny")
    if device.type == "cuda" and device.index is None:  # torch caps the memory of a numbered device only
        return torch.device("cuda", torch.cuda.current_device())
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
    parser.add_argument("--ways", type=_names(WAYS), default=DEFAULT_WAYS, help=", ".join(WAYS))
    parser.add_argument("--size", choices=["tiny"], help="to see that all of this runs: the tiny model and film")
    parser.add_argument("--device", default=Setting.device, help="cuda, cuda:1, cpu")
    parser.add_argument("--repeats", type=int, default=Setting.repeats, help="of a step, besides the first")
    parser.add_argument("--output", type=Path, default=RESULT, help="the JSON file; what is in it is kept")
    options = parser.parse_args(arguments)
    if options.size == "tiny":
        options.models = options.films = ("tiny",)
    setting = Setting(options.models, options.films, options.ways, options.device, options.repeats)
    try:
        result = run(setting, partial(write, path=options.output), read(options.output))
    except ValueError as error:
        sys.exit(f"benchmark: {error}")
    sys.stdout.write("\n".join(section(result)) + "\n")


if __name__ == "__main__":
    main()
