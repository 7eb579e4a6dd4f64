"""Which model makes a film and how it is run: written down once, for the command line, Python and journals alike.

The one invariant: what is wrong with an option is said before anything is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everreel.checkpoint.catalog import ModelCard, find_model
from everreel.checkpoint.configs import Kind
from everreel.film.request import one_line

if TYPE_CHECKING:
    import torch

Dtype = Literal["bfloat16", "float32", "float16"]


class ModelOptions(BaseModel):
    """A model and how it is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("tiny", description="A name from `everreel models`, or a folder.")
    kind: Kind | None = Field(None, description="What a model was trained for, where its files do not say: df, t2v or i2v.")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, ...; by default a CUDA device if there is one.")
    dtype: Dtype | None = Field(None, description="bfloat16, float32 or float16; by default what suits the device.")

    def card(self, *, here: bool = True) -> ModelCard:
        """What the model is; with `here` only of one that can be loaded now.

        Raises:
            ValueError: there is no such model, or its files are not as they must be.
        """
        return find_model(self.model, here=here, kind=self.kind)

    def resolve(self) -> ModelOptions:
        """With the device, by its number, and the type that are used.

        Raises:
            ValueError: the device is not on this machine.
        """
        import torch

        from everreel.film.device import check_device, default_device, default_dtype

        check_device(self.device)
        chosen = torch.zeros(0, device=self.device or default_device()).device  # cuda is cuda:0
        dtype = self.dtype or str(default_dtype(chosen)).removeprefix("torch.")
        return self.model_copy(update={"device": str(chosen), "dtype": dtype})

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of resolved options."""
        import torch

        assert self.dtype is not None
        found: torch.dtype = getattr(torch, self.dtype)
        return found


def model_options(**values: Any) -> ModelOptions:  # noqa: ANN401 -- whatever a command line or a JSON body holds
    """Checked options.

    Raises:
        ValueError: with one line for the first thing that is wrong.
    """
    try:
        return ModelOptions(**values)
    except ValidationError as error:
        raise ValueError(one_line(error)) from None
