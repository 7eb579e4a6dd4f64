"""What the transformer asks of processes that share the tokens of one pass; `everreel.parallel` answers.

Source: the sequence parallelism of DeepSpeed-Ulysses, where attention alone needs tokens of other processes. The one
invariant: a process has the same positions of every latent frame, so whatever goes by frame (modulation, texts, blocks,
the cache) is right for its tokens as they lie, and no token is ever padding.

Shape suffixes: B batch, L tokens of this process, H heads, D head width, C channels.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class SequenceGroup(Protocol):
    """Processes that run the same pass, each on its share of the tokens."""

    def split(self, frames: int, tokens: int, heads: int) -> Split:
        """Share `frames` latent frames of `tokens` tokens each, and attention of `heads` heads.

        Raises:
            ValueError: a frame has fewer tokens than there are processes.
        """


class Split(Protocol):
    """One pass, shared: every process makes the same calls in the same order."""

    @property
    def positions(self) -> range:
        """The tokens of each frame that this process has."""

    def exchange(self, q_BLHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From all heads of this process's tokens to what it attends with, in the order of the film.

        Keys and values are those of all tokens, of some heads; queries are those of these heads, of all tokens or,
        where heads cannot be shared out among all processes, of the same part of every frame.
        """

    def give_back(self, out_BLHD: Tensor) -> Tensor:
        """The way back, of what came of the queries: all heads of this process's tokens."""

    def gather(self, x_BLC: Tensor) -> Tensor:
        """All tokens, in every process."""
