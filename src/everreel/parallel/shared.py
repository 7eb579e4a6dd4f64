"""A transformer that several processes share, for who makes films: it is called like any other.

Source: none. The one invariant: the leader's films know of one `Transformer` and nothing of processes; draws, solver,
texts, VAE and files are the leader's alone, so they are what they would be without the others.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, S text positions, D widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from everreel.model.config import TransformerConfig
from everreel.model.dit import Context, DiT
from everreel.model.kv_cache import CacheState
from everreel.parallel.crew import Crew
from everreel.parallel.part import PartCache


class SharedDiT(nn.Module):
    """In the leader. Its parameters are those of the leader's own `DiT`, which every process has whole.

    Args:
        load: gives the transformer on a device; carried out in every process, so it must be picklable.

    Raises:
        ValueError: from `load`.
        LostError: another process has ended; so does everything here.
    """

    def __init__(self, crew: Crew, load: Callable[[torch.device], DiT]) -> None:
        super().__init__()
        self._crew = crew
        number = crew.number()
        self.model: DiT = crew.run("open", number, load)
        crew.keep(number, self.model)

    @property
    def config(self) -> TransformerConfig:
        """Of the transformer."""
        return self.model.config

    @property
    def processes(self) -> int:
        """How many share a pass, each with that part of its rows and tokens."""
        return self._crew.parallel.size

    def forward(
        self,
        x_BCTHW: Tensor,
        timestep_BT: Tensor,
        context: Context | Sequence[tuple[int, Context]],
        *,
        fps_B: Tensor | None = None,
        blocks: Sequence[int] | None = None,
        cache: SharedCache | None = None,
        write_cache: bool = False,
        skip: Sequence[int] = (),
    ) -> Tensor:
        """See `DiT.forward`; contexts and caches are from here."""
        number = self._crew.number_of
        texts = [(x_BCTHW.shape[2], context)] if isinstance(context, Context) else context
        velocity_BCTHW: Tensor = self._crew.run(
            "forward",
            number(self.model),
            x_BCTHW,
            timestep_BT,
            [(frames, number(text)) for frames, text in texts],
            fps_B,
            blocks,
            None if cache is None else number(cache),
            write_cache,
            skip,
        )
        return velocity_BCTHW

    def encode_context(self, text_BSD: Tensor, length_B: Sequence[int], image_BSD: Tensor | None = None) -> Context:
        """See `DiT.encode_context`."""
        number = self._crew.number()
        model = self._crew.number_of(self.model)
        context: Context = self._crew.run("encode", number, model, text_BSD, length_B, image_BSD)
        self._crew.keep(number, context)
        return context

    def new_cache(self, max_frames: int, sink_frames: int = 0) -> SharedCache:
        """See `DiT.new_cache`."""
        return SharedCache(self._crew, max_frames, sink_frames)


class SharedCache(PartCache):
    """The leader's part of a cache; what is done to it is done to all parts, and a state of it is the whole."""

    def __init__(self, crew: Crew, max_frames: int, sink_frames: int) -> None:
        super().__init__(max_frames, sink_frames)
        self._crew, self._number = crew, crew.number()
        crew.run("new_cache", self._number, max_frames, sink_frames)
        crew.keep(self._number, self)

    def save(self) -> CacheState:
        """See `KVCache.save`; on the CPU, gathered from all."""
        state: CacheState = self._crew.run("save", self._number)
        return state

    def load(self, state: CacheState) -> None:
        """See `KVCache.load`."""
        self._crew.run("load", self._number, state.num_frames, list(state.keys), list(state.values))

    def forget(self) -> None:
        """See `KVCache.forget`."""
        self._crew.run("forget", self._number)
