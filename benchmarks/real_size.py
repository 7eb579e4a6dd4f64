"""The transformer at the real layer sizes of the released 1.3B, two layers of it, beside diffusers and compiled, on the
CPU.

The same random weights on both sides; the one invariant, as in `against_diffusers`: what is timed was seen to agree in
float32 before. Memory is that of a forward pass in a process of its own, above what the loaded process holds; and what
the released form of the modulation, the mask and the text takes at the sizes of the 14B is said by arithmetic.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, S text positions, D text width.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.flops import matmul_peak, transformer_flops
from benchmarks.measure import Comparison, Form, Options, Times, best_form, compare, elapsed, relative_error, say
from everreel.memory import give_back_freed_memory, keep_freed_memory, take_large_pages
from everreel.model.compile import compile_blocks
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT
from everreel.shapes import LATENT_CHANNELS, LatentShape, video_frames

GOAL = 1.5  # times diffusers' speed
AGREEMENT = 1e-3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROMPT_TOKENS = 60
TIMESTEP = 500
CAUSAL_BLOCK = 2  # latent frames; of one it does not see blocks
CLEAR_PEAK = Path("/proc/self/clear_refs")
SIDES = ("everreel", "diffusers")
SIZES = {"540P, 97 frames": (97, 544, 960), "720P, 121 frames": (121, 720, 1280)}


@dataclass(frozen=True)
class Setting:
    """What is computed, and how often."""

    layers: int = 2
    latent_frames: int = 3
    height: int = 544
    width: int = 960
    real_repeats: int = 2
    narrow: bool = False  # a model of the same form and no size, to see that all of this runs
    compiler: str = "inductor"

    @property
    def config(self) -> TransformerConfig:
        """The 1.3B of the released models, of few layers."""
        config = TransformerConfig(num_layers=self.layers)
        return replace(config, dim=48, ffn_dim=96, num_heads=4, text_dim=24, freq_dim=32) if self.narrow else config

    @property
    def shape(self) -> LatentShape:
        """Of the latents."""
        return LatentShape.from_pixels(video_frames(self.latent_frames), self.height, self.width)


@dataclass(frozen=True)
class Memory:
    """What one forward pass takes above what the process held before it, in bytes.

    It is of one layer, in bfloat16, with an even number of latent frames.
    """

    side: str
    causal: bool
    bytes: int


@dataclass(frozen=True)
class Compiled:
    """The pass with its blocks through torch's compiler, beside the same one without, by turns."""

    compiled: Times
    eager: Times
    first_seconds: float
    """Of the first pass, in which it is compiled."""
    error: float
    """Of the result, as a share of the eager one's; nan where it is not finite."""

    @property
    def gain(self) -> float:
        """How many times faster it is once compiled."""
        return self.eager.median / self.compiled.median


@dataclass(frozen=True)
class Result:
    """Speed, the share of the peak, and memory."""

    setting: Setting
    forward: Comparison
    shares: dict[str, float]
    """Of the matmul peak of the type that it ran in, by side."""
    peaks: dict[str, float]
    """Operations a second, by type."""
    memory: tuple[Memory, ...]
    compiled: Compiled | None
    """None where nothing can be compiled."""


def run(setting: Setting) -> Result:
    """Compare; takes a few minutes and 2 GB.

    Raises:
        ValueError: the two sides do not compute the same.
    """
    memory = tuple(
        memory_in_own_process(setting, side, causal)
        for causal in (False, True)
        for side in SIDES
        if CLEAR_PEAK.exists()
    )
    with torch.no_grad():
        _see_that_they_agree(setting)
        best = [best_form(side, forms(setting, side), 1) for side in SIDES]
        peaks = {name: matmul_peak(torch.device("cpu"), dtype) for name, dtype in DTYPES.items()}
        forward = compare("a forward pass at real layer sizes", GOAL, best[0], best[1], setting.real_repeats)
    flops = transformer_flops(setting.config, setting.shape.tokens, PROMPT_TOKENS + 1)
    shares = {
        side: flops / times.median / peaks[times.label]
        for side, times in zip(SIDES, (forward.ours, forward.theirs), strict=True)
    }
    return Result(setting, forward, shares, peaks, memory, compiled(setting, forward.ours.label))


def compiled(setting: Setting, dtype: str) -> Compiled | None:
    """A pass in one of `DTYPES`, compiled; None, and why, where torch finds no compiler."""
    eager, work = (_ours(setting, DTYPES[dtype]) for _ in range(2))
    compile_blocks(work.func, setting.compiler)
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        truth = eager()
        try:
            first = elapsed(work)
        except RuntimeError as problem:
            say(f"nothing is compiled here: {str(problem).splitlines()[0]}")
            return None
        error = relative_error(work(), truth)
        for _ in range(setting.real_repeats):
            for run, found in zip((work, eager), times, strict=True):
                found.append(elapsed(run))
    made = Compiled(Times(dtype, tuple(times[0])), Times(dtype, tuple(times[1])), first, error)
    say(f"compiled: {made.compiled.median:.3g} s, eager {made.eager.median:.3g} s, {first:.3g} s the first time")
    return made


def forms(setting: Setting, side: str) -> list[Form]:
    """A forward pass of one row in each type, the weights made when it is first asked for and then kept."""
    make = _ours if side == SIDES[0] else _theirs
    return [Form(name, dtype, _Once(partial(make, setting, dtype))) for name, dtype in DTYPES.items()]


def bytes_of_a_pass(size: str, dim: int = 5120, layers: int = 40) -> dict[str, tuple[float, float, float]]:
    """Bytes that a pass of the 14B takes in the released code, in diffusers and in ours: modulation, mask and text.

    The released code expands the six vectors of modulation to every token in float32, and once more in each block;
    diffusers does so in bfloat16, and in each block in float32 (transformer_skyreels_v2.py, `forward` of the model and
    of a block). Both make a mask of all tokens by all tokens for blocks; and in each layer of each pass they make the
    keys and values of 512 positions of text, where ours are made once a film, those of the prompt and one more, and
    held for all layers.
    """
    shape = LatentShape.from_pixels(*SIZES[size])
    modulation, text, mask = 6.0 * dim * 4, 2.0 * dim * 2, float(shape.tokens) ** 2
    ours = text * (PROMPT_TOKENS + 1) * layers
    return {
        "modulation": (2 * modulation * shape.tokens, 1.5 * modulation * shape.tokens, modulation * shape.frames),
        "mask of a block-causal pass": (mask, mask, 0.0),
        f"keys and values of a text of {PROMPT_TOKENS} tokens": (text * 512, text * 512, ours),
    }


def memory_in_own_process(setting: Setting, side: str, causal: bool) -> Memory:
    """`forward_memory` of a process that has done nothing else."""
    say(f"memory of a forward pass: {side}{', block-causal' if causal else ''}")
    order = [
        sys.executable,
        "-m",
        "benchmarks.real_size",
        "--memory-of",
        side,
        "--setting",
        json.dumps(asdict(setting)),
    ]
    done = subprocess.run([*order, *(["--causal"] if causal else [])], capture_output=True, text=True, check=True)
    return Memory(side, causal, int(done.stdout.split()[-1]))


def forward_memory(setting: Setting, side: str, causal: bool) -> int:
    """The peak of one pass in bfloat16 through one layer, above what is held before it, in bytes (Linux)."""
    blocks = -(-setting.latent_frames // CAUSAL_BLOCK)
    one = replace(setting, layers=1, latent_frames=blocks * CAUSAL_BLOCK)
    run = (_ours if side == SIDES[0] else _theirs)(one, torch.bfloat16, causal=causal)
    give_back_freed_memory()  # or the pass is not seen to take what lies there free
    with torch.no_grad():
        CLEAR_PEAK.write_text("5")
        before = _status("VmRSS")
        run()
    return _status("VmHWM") - before


def _ours(setting: Setting, dtype: torch.dtype, causal: bool = False) -> partial[Tensor]:
    model, given = _random_model(setting.config), _inputs(setting)
    model.to(dtype)
    with torch.no_grad():
        context = model.encode_context(given[2][:, :PROMPT_TOKENS].to(dtype), [PROMPT_TOKENS])
    blocks = (CAUSAL_BLOCK,) * (setting.latent_frames // CAUSAL_BLOCK) if causal else None
    return partial(model, given[0], given[1], context, blocks=blocks)


def _theirs(setting: Setting, dtype: torch.dtype, causal: bool = False) -> Callable[[], Tensor]:
    from diffusers import SkyReelsV2Transformer3DModel

    from everreel.checkpoint.configs import transformer_config_to_diffusers
    from everreel.checkpoint.keymap import transformer_to_diffusers

    fields = {
        key: value for key, value in transformer_config_to_diffusers(setting.config).items() if not key.startswith("_")
    }
    with torch.device("meta"):
        model: Any = SkyReelsV2Transformer3DModel(**fields)
    exact = set(model._keep_in_fp32_modules)  # as its loader does
    state = {
        name: weight if exact & set(name.split(".")) else weight.to(dtype)
        for name, weight in transformer_to_diffusers(_random_model(setting.config).state_dict()).items()
    }
    model.load_state_dict(state, assign=True)
    del state
    model.eval()
    # Made by its constructor and in no file.
    model.rope = type(model.rope)(setting.config.head_dim, setting.config.patch_size, model.config.rope_max_seq_len)
    if causal:
        model._set_ar_attention(CAUSAL_BLOCK)
    x_BCTHW, timestep_BT, text_BSD = _inputs(setting)

    def run() -> Tensor:
        given = (x_BCTHW.to(dtype), timestep_BT, text_BSD.to(dtype))
        out_BCTHW: Tensor = model(*given, enable_diffusion_forcing=True, return_dict=False)[0]
        return out_BCTHW

    return run


def _inputs(setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, a level for each frame, and a text with zeros behind it."""
    shape, generator = setting.shape, torch.Generator().manual_seed(1)
    x_BCTHW = torch.randn(1, LATENT_CHANNELS, shape.frames, shape.height, shape.width, generator=generator)
    text_BSD = torch.randn(1, PROMPT_TOKENS, setting.config.text_dim, generator=generator)
    text_BSD = F.pad(text_BSD, (0, 0, 0, setting.config.text_len - PROMPT_TOKENS))
    return x_BCTHW, torch.full((1, shape.frames), TIMESTEP), text_BSD


def _random_model(config: TransformerConfig) -> DiT:
    with torch.device("meta"):
        model = DiT(config)
    return fill(model, torch.device("cpu"), torch.float32)


def fill(model: DiT, device: torch.device, dtype: torch.dtype) -> DiT:
    """Random weights of a size that keeps activations in range, made where they are to be."""
    model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                spread = 0.02 if name.endswith("modulation") else weight[0].numel() ** -0.5
                weight.normal_(0.0, spread, generator=generator)
    return model.eval()


def _see_that_they_agree(setting: Setting) -> None:
    short = replace(setting, latent_frames=1)
    with torch.no_grad():
        ours, theirs = (make(short, torch.float32)() for make in (_ours, _theirs))
    error = relative_error(ours, theirs)
    if not error < AGREEMENT:
        raise ValueError(f"everreel and diffusers differ by {error:.2g} in float32: must be below {AGREEMENT}")
    say(f"at real layer sizes the two sides agree within {error:.1g} in float32")


class _Once:
    """A form that makes its weights when it is first run."""

    def __init__(self, make: Callable[[], Callable[[], Tensor]]) -> None:
        self.make, self.work = make, None

    def __call__(self) -> Tensor:
        if self.work is None:
            self.work = self.make()
        return self.work()


def _status(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def add_options(parser: Options) -> None:
    """The flags that make a `Setting`."""
    parser.add_argument("--latent-frames", type=int, default=Setting.latent_frames, help="2,040 tokens each")
    parser.add_argument("--real-repeats", type=int, default=Setting.real_repeats, help="of the forward pass")


def setting_of(options: argparse.Namespace) -> Setting:
    """What the flags say."""
    return Setting(latent_frames=options.latent_frames, real_repeats=options.real_repeats)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and write the section of the page to the standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_size", description=__doc__.split("\n")[0])
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    parser.add_argument("--causal", action="store_true", help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command everreel does; both sides gain
    take_large_pages()
    if options.memory_of:
        setting = Setting(**json.loads(options.setting))
        sys.stdout.write(f"{forward_memory(setting, options.memory_of, options.causal)}\n")
        return
    result = run(setting_of(options))
    from benchmarks.page import real_size_section

    sys.stdout.write("\n".join(real_size_section(result)) + "\n")


if __name__ == "__main__":
    main()
