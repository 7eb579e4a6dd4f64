"""docs/benchmarks.md: every figure beside its goal, with the machine and the command that made it.

The one invariant: a goal that was missed says so, in the same place and as loudly as one that was met.
"""

from __future__ import annotations

import math

from benchmarks import against_diffusers, gpu, length, real_size
from benchmarks.measure import Comparison
from everreel.evaluate.follow import GOALS
from everreel.evaluate.markdown import paragraph, table, verdict

MB = 2**20


def render_page(
    against: against_diffusers.Result | None,
    long_film: length.Result | None,
    machine: dict[str, str],
    command: str,
    real: real_size.Result | None = None,
    on_gpu: gpu.Result | None = None,
) -> str:
    """The whole page; a benchmark that did not run has no section, but for the one that needs a GPU: it says so."""
    lines = [
        "# Benchmarks",
        "",
        "This page is written by a program; run it to have the figures of your own machine:",
        "",
        f"    {command}",
        "",
        "The goals are those of the embedded model at its own size on two CPU cores.",
        "",
        *table(("machine", ""), machine.items()),
        "",
    ]
    if against is not None:
        lines += [*against_diffusers_section(against), ""]
    if long_film is not None:
        lines += [*length_section(long_film), ""]
    if real is not None:
        lines += [*real_size_section(real), ""]
    lines += [*gpu_section(on_gpu), ""]
    return "\n".join(lines)


def against_diffusers_section(result: against_diffusers.Result) -> list[str]:
    """The three comparisons, and the film's own goal."""
    seconds = result.film.ours.median
    rows = [_compared(comparison) for comparison in (result.step, result.decode, result.film)]
    goal = against_diffusers.FILM_SECONDS_GOAL
    rows.append(("the same film, in seconds", f"under {goal:g} s", f"{seconds:.1f} s", verdict(seconds < goal), "", ""))
    own = result.recommended
    took = f"{own.median:.1f} s", verdict(own.median < goal), own.describe(), ""
    rows.append(("the film as the model recommends it, in seconds", f"under {goal:g} s", *took))
    films = paragraph(f"The film: {result.film_of}.")
    if result.asynchronous is not None:
        rows.append(_compared(result.asynchronous))
        films += paragraph(
            f"In blocks: {result.asynchronous_of}. diffusers computes finished blocks again in every pass, with the "
            "same attention."
        )
    return [
        "## Against diffusers",
        "",
        *paragraph(
            "The same weights, the same steps, by turns in one process on the CPU; medians, with the fastest and the "
            "slowest in brackets. Each side runs in the type that is fastest for it here, of float32 and bfloat16, and "
            "diffusers takes its step in the faster of one batch and two calls. Nothing is compiled on either side. A "
            "film is counted from the prompt to uint8 frames in memory, with the model loaded."
        ),
        "",
        *films,
        "",
        *table(("what", "goal", "measured", "", "everreel", "diffusers"), rows),
    ]


def length_section(result: length.Result) -> list[str]:
    """Memory, the first block, and what the critic reads."""
    short, long = result.short, result.long
    share = long.first_block_share
    more, ratio = length.MEMORY_GOAL - 1, result.memory_ratio
    rows = [
        (
            f"peak memory, {long.num_frames} frames against {short.num_frames}",
            f"at most {more:.0%} more",
            f"{abs(ratio - 1):.0%} {'more' if ratio >= 1 else 'less'}",
            verdict(ratio <= length.MEMORY_GOAL),
        ),
        (
            f"first block of {long.num_frames} frames on disk",
            f"before {length.FIRST_BLOCK_GOAL:.0%} of the time",
            f"at {share:.1%}",
            verdict(share < length.FIRST_BLOCK_GOAL),
        ),
    ]
    return [
        "## Films of any length",
        "",
        *paragraph(
            "Each film is made and written in a process of its own. Peak memory is all that the process holds at its "
            "height, libraries and weights included; time counts from the prompt, with the model loaded, to the closed "
            "file."
        ),
        "",
        *table(("what", "goal", "measured", ""), rows),
        "",
        *table(("film", "seconds", "first block", "loading", "memory, loaded", "peak"), map(_cost, (short, long))),
        "",
        *_reading(result),
    ]


def real_size_section(result: real_size.Result) -> list[str]:
    """Speed, the share of the peak, and memory."""
    setting, found = result.setting, result.forward
    peaks = ", ".join(f"{peak / 1e9:.0f} GFLOP/s in {name}" for name, peak in result.peaks.items())
    rows = [
        (*_compared(found), *(f"{result.shares[side]:.0%}" for side in real_size.SIDES)),
    ]
    lines = [
        "## At the layer sizes of the released 1.3B",
        "",
        *paragraph(
            f"One row of {setting.shape.tokens:,} tokens ({setting.latent_frames} latent frames of {setting.width}x"
            f"{setting.height}) through {setting.layers} of its layers, with random weights that both sides share, by "
            f"turns in one process. A large matrix product reaches {peaks} on this machine; the last columns are the "
            "share of it that the products of the pass reach, all else that the pass does counted as lost time."
        ),
        "",
        *table(("what", "goal", "measured", "", "everreel", "diffusers", "share, everreel", "share, diffusers"), rows),
    ]
    lines += ["", *_compiled(result.compiled)]
    if result.memory:
        taken = {(memory.side, memory.causal): f"{memory.bytes / MB:.0f} MB" for memory in result.memory}
        passes = (("full attention", False), (f"block-causal, blocks of {real_size.CAUSAL_BLOCK}", True))
        lines += [
            "",
            *paragraph(
                "What one pass through one layer takes in bfloat16, above what the loaded process holds, each in a "
                "process of its own, with an even number of latent frames."
            ),
            "",
            *table(
                ("memory of a pass", *real_size.SIDES),
                [(name, *(taken[side, causal] for side in real_size.SIDES)) for name, causal in passes],
            ),
        ]
    arithmetic = [
        (f"{what}, {size}", *(_size(count) for count in counts))
        for size in real_size.SIZES
        for what, counts in real_size.bytes_of_a_pass(size).items()
    ]
    return [
        *lines,
        "",
        "By arithmetic, for one pass of the 14B:",
        "",
        *table(("what is held", "the released code", "diffusers", "everreel"), arithmetic),
    ]


def _compiled(found: real_size.Compiled | None) -> list[str]:
    if found is None:
        return ["What `--compile` gains is not measured here: there is no compiler."]
    right = "not finite" if math.isnan(found.error) else f"{found.error:.1%} off the eager one's"
    times = found.compiled.describe(), found.eager.describe()
    return [
        *paragraph(
            "The same pass as `--compile` makes it, its blocks through torch's compiler, by turns with the eager one."
        ),
        "",
        *table(
            ("faster by", "compiled", "eager", "the first pass, compiling included", "result"),
            [(f"{found.gain:.2f}×", *times, f"{found.first_seconds:.1f} s", right)],
        ),
    ]


def gpu_section(result: gpu.Result | None) -> list[str]:
    """Real sizes on a GPU, or how to have them."""
    lines = ["## Real sizes on a GPU", ""]
    if result is None:
        return [
            *lines,
            *paragraph(
                "No GPU could be had where this page was written, so the rows are empty. Where there is one, these "
                "calls measure it with random weights, from the project's folder, and write "
                f"`{gpu.RESULT.name}` beside this page, which the next run reads:"
            ),
            "",
            *(line for line in (gpu.__doc__ or "").splitlines() if "-m benchmarks.gpu" in line),
            "",
            *gpu.rows_table([]),
        ]
    return [*lines, *gpu.section(result)]


def _size(count: float) -> str:
    if not count:
        return "none"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _compared(found: Comparison) -> tuple[str, ...]:
    return (
        found.what,
        f"at least {found.goal:g}× faster",
        f"{found.ratio:.2f}×",
        verdict(found.ratio >= found.goal),
        found.ours.describe(),
        found.theirs.describe(),
    )


def _cost(film: length.FilmCost) -> tuple[str, ...]:
    return (
        film.description,
        f"{film.seconds:.1f}",
        f"{film.first_block_seconds:.1f} s",
        f"{film.load_seconds:.1f} s",
        f"{film.loaded_bytes / MB:.0f} MB",
        f"{film.peak_bytes / MB:.0f} MB",
    )


def _reading(result: length.Result) -> list[str]:
    reading, frames = result.reading, result.long.num_frames
    if reading is None:
        return [
            "Whether the end of a film still shows what was asked is not measured here: there is no critic to read it."
        ]
    rows = []
    for name, goal in GOALS.items():
        found = reading.last.get(name, math.nan)
        met = "" if math.isnan(found) else verdict(found >= goal)
        shares = (_share(where.get(name, math.nan)) for where in (reading.last, reading.first, reading.drawn))
        rows.append((name.replace("_", " "), f"at least {goal:.0%}", next(shares), met, *shares))
    return [
        *paragraph(
            f"What the critic reads in the last {reading.seconds} seconds of {reading.num_films} films of {frames} "
            "frames, from prompts that were never trained on: the share of looks in which a field is what was asked, "
            "beside the film's first seconds and beside the world's own drawing of the same last seconds. The goals "
            "are those of a film of 97 frames."
        ),
        "",
        *table(("field", "goal", "last seconds", "", "first seconds", "drawn"), rows),
    ]


def _share(value: float) -> str:
    return "not seen" if math.isnan(value) else f"{value:.0%}"
