"""`make benchmark`: all benchmarks, and the page that shows them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import against_diffusers, gpu, length, real_size
from benchmarks.measure import machine, say
from benchmarks.page import render_page
from everreel.memory import keep_freed_memory

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PARTS = ("against_diffusers", "length", "real_size")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="make benchmark", description=__doc__)
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    parser.add_argument("--only", choices=PARTS, help="one benchmark; the page then has no other")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    against_diffusers.add_options(parser.add_argument_group("against diffusers"))
    length.add_options(parser.add_argument_group("length"))
    real_size.add_options(parser.add_argument_group("real layer sizes"))
    options = parser.parse_args(arguments)
    parts = PARTS if options.only is None else (options.only,)
    keep_freed_memory()  # as the command everreel does; both sides gain
    try:
        # The films come first: their processes start from this one while it is still small.
        long_film = length.run(length.setting_of(options)) if "length" in parts else None
        real = real_size.run(real_size.setting_of(options)) if "real_size" in parts else None
        against = against_diffusers.run(against_diffusers.setting_of(options)) if "against_diffusers" in parts else None
    except ValueError as error:
        sys.exit(f"benchmark: {error}")
    page = render_page(against, long_film, machine(), command_of(arguments), real, gpu.read(gpu.RESULT))
    options.output.write_text(page, encoding="utf-8")
    say(f"wrote {options.output}")


def command_of(arguments: Sequence[str]) -> str:
    """What anyone would type for the same; of folders only the name, for a page speaks of no machine's paths."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    pairs = zip(words[::2], words[1::2], strict=True)  # every flag has one value
    shown = [part for flag, value in pairs if flag != "--output" for part in (flag, Path(value).name)]
    return f'make benchmark ARGS="{shlex.join(shown)}"' if shown else "make benchmark"


if __name__ == "__main__":
    main()
