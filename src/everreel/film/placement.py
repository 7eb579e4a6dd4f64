"""Where a model's parts are and how they compute: what a budget of memory decides, and people are told.

The one invariant: a placement changes where and in which pieces numbers are computed; only `quantization`, `tile` and
`dtype` change what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from everreel.film.decoding import DECODE_FRAMES
from everreel.model.config import Quantization
from everreel.shapes import SPATIAL


@dataclass(frozen=True)
class Placement:
    """Where a model's parts are and how they compute. The defaults are those without a budget."""

    device: torch.device
    dtype: torch.dtype
    quantization: Quantization | None = None
    packed: bool = True
    """What a file holds quantised stays so, where nothing else is done to the weights."""
    resident: int | None = None
    """Blocks that stay on the device while the others stream there; None: all, nothing streams."""
    parked: bool = False
    """The encoders and the VAE are on the device only while they work."""
    text_on_host: bool = False
    """The text encoder, larger than the budget, works on the CPU."""
    decode_latents: int | None = None
    """Latent frames that are decoded at a time; None: as many as suit the size of the picture."""
    tile: int | None = None
    """Latents a side of the tiles that are decoded; None: pictures are decoded whole."""
    together: bool | None = True
    """The branches of guidance run as one batch; None: if there is room when they begin."""
    memory: float = 0.0
    """Bytes that the film is going to need so, on the device or, of a CPU, beyond the program's own."""

    def chosen(self) -> dict[str, Any]:
        """What was chosen beside device and type, as JSON has it: `Placement(device, dtype, **chosen)` is the same."""
        beside = ("device", "dtype", "memory")
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in beside}

    def describe(self) -> list[str]:
        """Lines for people."""
        kind = str(self.dtype).removeprefix("torch.")
        weights = f", the transformer's weights in {self.quantization}" if self.quantization else ""
        lines = [f"on {self.device} in {kind}{weights}"]
        if self.parked:
            lines.append("the encoders and the VAE are on the device only while they work")
        if self.text_on_host:
            lines.append("the text encoder works on the CPU")
        if self.resident is not None:
            lines.append(f"blocks of the transformer stream from host memory, {self.resident} of them stay")
        if self.together is False:
            lines.append("guidance in two calls")
        if self.tile is not None:
            lines.append(f"decoded in tiles of {self.tile * SPATIAL} pixels")
        if self.decode_latents is not None and self.decode_latents < DECODE_FRAMES:
            lines.append(f"decoded {self.decode_latents} latent frame{'s' * (self.decode_latents > 1)} at a time")
        return lines
