"""The transformer's blocks through torch's compiler, by choice.

Source: `nn.Module.compile` of torch. The one invariant: what is compiled is each block in place; names of parameters,
the forward pass and its results stay what they are, and all blocks share one compiled program.
"""

from __future__ import annotations

from torch import nn

from everreel.model.dit import DiT


def compile_blocks(model: DiT) -> DiT:
    """Have torch compile the blocks when they are first run; gives `model` back.

    One program serves all blocks, and all sizes after the second: lengths are taken as they come. It needs a C++
    compiler on a CPU and Triton on a GPU, and torch says so if there is none.
    """
    for block in model.blocks:
        assert isinstance(block, nn.Module)
        block.compile(dynamic=None)
    return model
