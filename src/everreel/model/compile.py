"""The transformer's blocks through torch's compiler, by choice.

Source: `nn.Module.compile` of torch. The one invariant: what is compiled is each block in place; names of parameters,
the forward pass and its results stay what they are, and all blocks share one compiled program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from everreel.model.dit import DiT


def compile_blocks(model: DiT, backend: str | Callable[..., Any] = "inductor") -> DiT:
    """Have torch compile the blocks when they are first run; gives `model` back.

    One program serves all blocks. At the second size of a film it is made anew to take lengths as they come, and then
    serves all later sizes. It needs a C++ compiler on a CPU and Triton on a GPU; torch says so where there is none.
    A CPU gains little (1.15 times the speed in bfloat16 with the embedded model, none in float32, for 8 seconds of
    compiling; docs/benchmarks.md has real layer sizes). With a KV cache the number of a block matters, and each has
    its own program, as far as torch makes many.
    """
    model.blocks.compile_each(backend)
    return model
