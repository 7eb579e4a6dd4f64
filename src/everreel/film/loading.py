"""Which model makes a film and how it is run: written down once, for the command line, Python and journals alike.

The one invariant: what is wrong with an option is said before anything is loaded.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from everreel.checkpoint.catalog import BLOCKWISE, STREAMED, ModelCard, find_model, published
from everreel.checkpoint.configs import Kind
from everreel.film.request import checked
from everreel.model.config import AttentionKernel, Quantization, TransformerConfig

if TYPE_CHECKING:
    import torch

    from everreel.checkpoint.lora import Lora, Preset
    from everreel.checkpoint.source import Source
    from everreel.parallel.crew import Crew

LEAST_MEMORY = 1e6  # bytes; a smaller number was meant to have a unit
EMBEDDED = "tiny"
Dtype = Literal["bfloat16", "float32", "float16"]


def _memory(text: str | None) -> str | None:
    if text is not None:
        parse_memory(text)
    return text


RULES = 2  # 1 is of the time when long films of the embedded model were made block by block


class ModelOptions(BaseModel):
    """A model and how it is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(EMBEDDED, description="A name from `everreel models`, a folder, a file or a repository's name.")
    kind: Kind | None = Field(None, description="What its files do not say that it was trained for: df, t2v or i2v.")
    parts: Path | None = Field(
        None, description="Of a model in a single file: the folder of its VAE, text encoder and tokenizer."
    )
    lora: tuple[str, ...] = Field((), description="A LoRA's PATH, or PATH=STRENGTH; any number of them.")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, ...; by default cuda, else mps, if there is one.")
    dtype: Dtype | None = Field(None, description="bfloat16, float32 or float16; by default what suits the device.")
    memory: Annotated[str | None, AfterValidator(_memory)] = Field(
        None, description="At most so much of the device's memory, as in 24GB: what has to be is quantised or streamed."
    )
    quantization: Quantization | None = Field(
        None, description="The transformer's weights in int8, fp8, int8_dynamic, fp8_dynamic, q8_0 or q4_0."
    )
    attention: AttentionKernel = Field("auto", description="auto, sdpa, flash, sage, cudnn or flex.")
    compile: bool = Field(False, description="Let torch compile the transformer: slower to start, then faster.")

    _rules: int = PrivateAttr(RULES)
    _settled: bool = PrivateAttr(False)  # the type is what suits the device, and nobody asked for it

    @field_validator("lora")
    @classmethod
    def _loras(cls, asked: tuple[str, ...]) -> tuple[str, ...]:
        for text in asked:
            _lora(text)
        return asked

    def card(self, *, here: bool = True, otherwise: Kind | None = None) -> ModelCard:
        """What the model is; `here` and `otherwise` as in `find_model`. A few-step LoRA's settings are its own.

        Raises:
            ValueError: there is no such model, or its files are not as they must be.
        """
        card = find_model(self.model, here=here, kind=self.kind, otherwise=otherwise)
        for preset in self._presets():
            settings = vars(preset) | {"name": card.name}
            if preset.streams and card.schedule == "rolling":
                settings |= STREAMED
            # A model that makes all frames at once cannot be made to stream by settings.
            card = replace(card, **settings if card.forcing else settings | {"solver": card.solver, "streams": False})
        return replace(card, **BLOCKWISE) if self._rules < 2 and card.schedule == "rolling" else card

    @property
    def rules(self) -> int:
        """Of which time the model's defaults are: `RULES` are today's."""
        return self._rules

    def of_rules(self, rules: int) -> ModelOptions:
        """The same with the defaults of a time, for films that were begun then."""
        options = self.model_copy()
        options._rules = rules
        return options

    def source(self, card: ModelCard) -> Source:
        """Where the parts of the model are.

        Raises:
            ValueError: one is nowhere, or is not as it must be.
        """
        from everreel.checkpoint.source import find_source

        return find_source(card.require_path(), self.parts)

    def loras(self, config: TransformerConfig) -> list[tuple[Lora, float]]:
        """The LoRAs, read, each with its strength.

        Raises:
            ValueError: one cannot be read, or is of another model.
        """
        from everreel.checkpoint.lora_files import read_lora

        return [(read_lora(path, config), strength) for path, strength in self.asked]

    def notes(self, config: TransformerConfig) -> list[str]:
        """What the user should know of the LoRAs; raises as `loras`."""
        notes = [f"lora {lora.path}: {note}" for lora, _ in self.loras(config) for note in lora.notes]
        for preset in self._presets() if self.lora else ():
            steps = f"{preset.num_inference_steps} steps, guidance {preset.guidance_scale:g}, shift {preset.shift:g}"
            notes.append(f"lora: made for {steps} ({preset.name}); that is what is taken where nothing else is asked")
        return notes

    def resolve(self, crew: Crew | None = None, *, here: bool = True) -> ModelOptions:
        """With the device, by its number, and the type that are used; those of the processes that share the model.

        Without `here` it may be a device that this machine has not, for a plan.

        Raises:
            ValueError: the device is not on this machine, or not the one that the processes were started for.
        """
        import torch

        from everreel.film.device import check_device, default_device, default_dtype

        if crew is not None:
            chosen = crew.parallel.device
            if self.device not in (None, chosen.type, str(chosen)):
                raise ValueError(f"device = {self.device}: the processes were started for {chosen.type}")
        elif not here and self.device is not None and self.device.split(":")[0] == "cuda":
            chosen = torch.device(self.device)
        else:
            check_device(self.device)
            chosen = torch.zeros(0, device=self.device or default_device()).device  # cuda is cuda:0
        dtype = self.dtype or str(default_dtype(chosen)).removeprefix("torch.")
        resolved = self.model_copy(update={"device": str(chosen), "dtype": dtype})
        resolved._settled = self._settled or self.dtype is None
        return resolved

    def others(self) -> dict[str, Any]:
        """What was given beside model, device and type, as JSON has it; paths are whole."""
        given = self.model_dump(mode="json", exclude_defaults=True, exclude={"model", "device", "dtype"})
        if self.parts:
            given["parts"] = str(self.parts.resolve())
        if self.lora:
            given["lora"] = [f"{path.resolve()}={strength!r}" for path, strength in map(_lora, self.lora)]
        return given

    def files(self) -> list[Path]:
        """What changes the films beside the model's own files: LoRAs and parts."""
        return [path for path, _ in self.asked] + ([self.parts] if self.parts else [])

    @property
    def dtype_asked(self) -> bool:
        """Whether it must be this type; else a budget may take one that is smaller."""
        return self.dtype is not None and not self._settled

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of resolved options."""
        import torch

        assert self.dtype is not None
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def merges(self) -> bool:
        """Whether anything is merged into the transformer's weights."""
        return bool(self.asked)

    @property
    def asked(self) -> list[tuple[Path, float]]:
        """LoRAs and their strengths, the model's own first."""
        card = published(self.model)
        own = [(Path(card.lora), 1.0)] if card and card.lora else []
        return own + [_lora(text) for text in self.lora]

    def _presets(self) -> list[Preset]:
        if not self.asked:
            return []
        from everreel.checkpoint.lora_files import preset_for

        found = (preset_for(path) for path, _ in self.asked)
        return [preset for preset in found if preset is not None]


def model_options(**values: Any) -> ModelOptions:  # noqa: ANN401 -- whatever a command line or a JSON body holds
    """Checked options.

    Raises:
        ValueError: with one line for the first thing that is wrong.
    """
    return checked(ModelOptions, values)


def source_of(model: str, parts: Path | None = None) -> Source:
    """Where the parts of a model are that a name or a path says; what it was trained for does not matter.

    Raises:
        ValueError: there is no such model here, or its files are not as they must be.
    """
    from everreel.checkpoint.source import find_source

    here = Path(model).expanduser()
    if here.exists():
        return find_source(here, parts)
    return find_source(model_options(model=model).card(otherwise="df").require_path(), parts)


def parse_memory(text: str) -> float:
    """Bytes of "24GB", "500 MB" or "8e9".

    Raises:
        ValueError: it is no amount of memory.
    """
    num_bytes = bytes_of(text)
    if num_bytes is None:
        raise ValueError(f"memory = {text!r}: must be an amount of memory; 24GB works")
    if num_bytes < LEAST_MEMORY:
        nearest = "24GB" if set(text.lower()) & set("bkmgt") else f"{text.strip()}GB"
        raise ValueError(f"memory = {text!r}: is {num_bytes:g} bytes, too little for anything; {nearest} works")
    return num_bytes


def bytes_of(text: str) -> float | None:
    """Bytes of "24GB", "500 MB", "2 GiB" or "8e9"; None where it says no such amount."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not match or not float(match[1]):
        return None
    unit: int = 1024 if match[3] else 1000
    return float(match[1]) * float(unit ** " KMGT".index(match[2].upper() or " "))


def _lora(text: str) -> tuple[Path, float]:
    """The file and its strength."""
    path, equals, strength = text.rpartition("=")
    if not equals or Path(text).exists():
        path, strength = text, "1"
    try:
        number = float(strength)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"lora = {text!r}: its strength {strength!r} must be a number, as in {path}=0.8")
    file = Path(path).expanduser()
    if not file.exists():
        raise ValueError(f"lora = {text!r}: there is no {path}")
    return file, number
