"""LoRA: a style or a subject taught to a model whose own weights stay as they are.

Source: the LoRA paper (a weight grows by alpha / rank · up · down, up beginning at zero), with peft's layers; batches
and loss are diffusion forcing's. The one invariant: what is trained, averaged, kept in checkpoints and saved is the
adapter alone, so a run costs the memory of its frozen model once and little beside it.

Shape suffixes: as in `diffusion_forcing`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from everreel.checkpoint.load import load_transformer
from everreel.checkpoint.lora import Lora, Pair
from everreel.checkpoint.lora_files import LORA_FILE, write_lora
from everreel.checkpoint.lora_keys import diffusers_module
from everreel.checkpoint.source import Source
from everreel.data.draws import generator_for
from everreel.diffusion.noise import LevelMixture
from everreel.film.loading import source_of
from everreel.model.dit import DiT
from everreel.model.quiet import quiet
from everreel.train.batches import follow, move
from everreel.train.blocks import recompute_blocks
from everreel.train.diffusion_forcing import Batch, DiffusionForcing, DiffusionForcingRecipe
from everreel.train.trainer import Outcome, Trainer, TrainerSettings

LAYERS = ("q", "k", "v", "o", "ffn.0", "ffn.2")
"""What is changed of every block by default: both attentions and the feed-forward net."""
HELD_OUT_BATCHES = 8


@dataclass(frozen=True)
class AdapterShape:
    """Which layers an adapter changes, and how much it can say of each; targets as in `LoraRecipe`."""

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = LAYERS
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}: must be 1 or more; the nearest that works is 1")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha={self.alpha}: must be above 0; the rank, {self.rank}, works")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: must lie in 0..1, below 1; 0 works")
        if not self.targets:
            raise ValueError(f"targets=(): name at least one layer, such as {LAYERS[0]!r}")


@dataclass(frozen=True)
class LoraRecipe:
    """The values of one LoRA.

    `model` is a name from `everreel models`, a folder or a file; `parts` as in `find_source`. `targets` are ends of the
    names of linear layers, official ones or those of diffusers. The frozen weights are held in `dtype`, the adapter in
    float32. `films`, `images`, `windows` and `tokens` are what they are in `DiffusionForcingRecipe`, as is all that
    follows them; `text` is the folder of the text encoder, that of the model where it is None. On the latents in
    `held_out` the loss is measured with every sample.
    """

    settings: TrainerSettings
    model: str
    films: str
    windows: tuple[tuple[int, float], ...]
    tokens: int
    images: str = ""
    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = LAYERS
    dropout: float = 0.0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    parts: str | None = None
    text: str | None = None
    held_out: str | None = None
    mixture: LevelMixture = field(default_factory=LevelMixture)
    causal: float = 0.3
    inside: float = 0.5
    stills: float = 0.15
    empty: float = 0.1
    largest_block: int = 6
    subject_weight: float = 0.0
    sample_prompts: tuple[str, ...] = ()
    sample_frames: int = 1

    def __post_init__(self) -> None:
        _ = self.shape  # which says what is wrong with it
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"dtype={self.dtype!r}: must be bfloat16 or float32")
        lengths = {frames for frames, _ in self.windows}
        if self.held_out is not None and not lengths - {1}:
            raise ValueError(
                f"held_out={self.held_out!r}: is measured on films; name a window of 2 or more, as (3, 1.0)"
            )
        if not self.images and 1 in lengths:
            raise ValueError("images='': windows of 1 latent frame need a store of images; or leave those windows out")

    @property
    def shape(self) -> AdapterShape:
        """Of the adapter."""
        return AdapterShape(self.rank, self.alpha, self.targets, self.dropout)

    def source(self) -> Source:
        """The model on disk.

        Raises:
            ValueError: it is not here, or begins with a picture, which this training does not show.
        """
        source = source_of(self.model, Path(self.parts) if self.parts else None)
        if source.config.in_dim != source.config.out_dim:
            raise ValueError(
                f"model={self.model!r}: is shown a picture beside the noise, which this training does not do; "
                "train on the df or t2v model of its size: the LoRA fits both"
            )
        return source

    def forcing(self, source: Source) -> DiffusionForcingRecipe:
        """How a model is trained on these stores."""
        others = self.parts or str(source.path)
        return DiffusionForcingRecipe(
            settings=self.settings, config=source.config, films=self.films, images=self.images or None,
            text=self.text or others, vae=others, windows=self.windows, tokens=self.tokens, mixture=self.mixture,
            causal=self.causal, inside=self.inside, stills=self.stills, empty=self.empty,
            largest_block=self.largest_block, subject_weight=self.subject_weight,
            sample_prompts=self.sample_prompts, sample_frames=self.sample_frames,
        )  # fmt: skip

    def objective(self) -> LoraTraining:
        """The objective, with an adapter that changes nothing yet."""
        return LoraTraining(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train; `pytorch_lora_weights.safetensors` in the run folder is the LoRA that everreel and diffusers load."""
        trainer = Trainer(self.objective(), self.settings, run_dir, quiet)
        outcome = trainer.run()
        write_adapter(run_dir / LORA_FILE, trainer)
        return outcome


class LoraTraining:
    """See the module. `metrics` holds the loss by noise level, and of samples the loss on what is held out."""

    def __init__(self, recipe: LoraRecipe) -> None:
        self.recipe = recipe
        source = recipe.source()
        self.transformer = load_transformer(source, dtype=getattr(torch, recipe.dtype)).requires_grad_(False).eval()
        self.lora = Adapter.into(self.transformer, recipe.shape, recipe.settings.seed)
        if recipe.settings.checkpointing == "blocks":
            recompute_blocks(self.transformer)  # the trainer sees the adapter alone, which has none
        self._forcing = DiffusionForcing(recipe.forcing(source), self.transformer)
        self._held_out: DiffusionForcing | None = None
        if recipe.held_out is not None:
            windows = tuple((frames, weight) for frames, weight in recipe.windows if frames > 1)
            held_out = replace(self._forcing.recipe, films=recipe.held_out, windows=windows, subject_weight=0.0)
            self._held_out = DiffusionForcing(held_out, self.transformer)
        self._loss_without: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers for the journal."""
        return self._forcing.metrics

    @metrics.setter
    def metrics(self, values: dict[str, float]) -> None:
        self._forcing.metrics = values

    def modules(self) -> dict[str, nn.Module]:
        """The one role: the adapter."""
        return {"lora": self.lora}

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        """As `DiffusionForcing.batch`."""
        return self._forcing.batch(step, generator)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """As `DiffusionForcing.losses`, of the adapter."""
        follow(batch.x0_BCTHW.device, self.transformer)
        return {"lora": self._forcing.losses(batch, generator)["transformer"]}

    def sample(self, folder: Path, step: int) -> None:
        """A contact sheet of the recipe's prompts, and the loss on what is held out with and without the adapter."""
        follow(next(self.lora.parameters()).device, self.transformer)
        self._forcing.sample(folder, step)
        if self._held_out is None:
            return
        if self._loss_without is None:
            with self.lora.off():
                self._loss_without = self._loss(self._held_out)
        loss = self._loss(self._held_out)
        self.metrics |= {"held_out": loss, "held_out_without": self._loss_without}

    @torch.no_grad()
    def _loss(self, held_out: DiffusionForcing) -> float:
        """The mean over batches that are the same every time."""
        device, total = next(self.lora.parameters()).device, 0.0
        for number in range(HELD_OUT_BATCHES):
            batch = move(held_out.batch(number, generator_for(0, "held out", number)), device)
            total += float(held_out.losses(batch, generator_for(0, "held out noise", number))["transformer"])
        return total / HELD_OUT_BATCHES


class Adapter(nn.Module):
    """The pairs that were put into a transformer, as a module of their own.

    It shares its layers with the transformer. Its tensors are called `MODULE.lora_A.weight`, `MODULE.lora_B.weight` and
    `MODULE.alpha`, with the official names of modules, so that a file of them is a LoRA too.
    """

    def __init__(self, layers: Mapping[str, Any], alpha: float) -> None:
        super().__init__()
        self.names = tuple(layers)
        self._layers = tuple(layers.values())  # peft's, with the frozen layer inside: no submodules of this one
        for name, layer in layers.items():
            node: nn.Module = self
            for part in name.split("."):
                if part not in node._modules:
                    node.add_module(part, nn.Module())
                node = node.get_submodule(part)
            for part in ("lora_A", "lora_B", "lora_dropout"):
                node.add_module(part, getattr(layer, part)[_NAME])
            node.register_buffer("alpha", torch.tensor(float(alpha)))

    @classmethod
    def into(cls, transformer: DiT, shape: AdapterShape, seed: int) -> Adapter:
        """Put an adapter into a transformer, as `at` does.

        Raises:
            ValueError: peft is not installed, or a target is no linear layer.
        """
        return cls.at(transformer, _targets(transformer, shape.targets), shape, seed)

    @classmethod
    def at(cls, model: nn.Module, names: Sequence[str], shape: AdapterShape, seed: int) -> Adapter:
        """Put an adapter at these layers of any model, beginning with no effect; its draws are a function of the seed.

        Raises:
            ValueError: peft is not installed.
        """
        try:
            with quiet():
                from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise ValueError("peft: LoRA training needs it; install everreel[train]") from None
        alpha = cast("int", shape.alpha)  # peft says so, and takes any number
        settings = LoraConfig(r=shape.rank, lora_alpha=alpha, lora_dropout=shape.dropout, target_modules=list(names))
        with quiet(), torch.random.fork_rng(devices=[]):  # what peft draws is drawn again below
            inject_adapter_in_model(settings, model, _NAME)
        adapter = cls({name: model.get_submodule(name) for name in names}, shape.alpha)
        adapter.float()  # peft gives it the type of the frozen weights
        generator = generator_for(seed, "lora")
        for name in names:
            nn.init.kaiming_uniform_(adapter._half(name, "lora_A"), a=math.sqrt(5), generator=generator)
        return adapter

    def changes(self) -> dict[str, Tensor]:
        """What the adapter adds to the weight of each layer, in float32, by the layers' names."""
        found = {}
        for name in self.names:
            down, up = self._half(name, "lora_A").detach(), self._half(name, "lora_B").detach()
            found[name] = float(self.get_buffer(f"{name}.alpha")) / len(down) * (up.float() @ down.float())
        return found

    def lora(self, path: Path) -> Lora:
        """What the adapter does to the transformer, for a file."""
        pairs = {}
        for name in self.names:
            down, up = (self._half(name, half).detach() for half in ("lora_A", "lora_B"))
            pairs[name] = Pair(down, up, float(self.get_buffer(f"{name}.alpha")))
        return Lora(path, dict(sorted(pairs.items())), {})

    @contextmanager
    def off(self) -> Iterator[None]:
        """The transformer is the frozen one inside this context."""
        for layer in self._layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(True)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """As of any module.

        Raises:
            ValueError: the tensors are of other targets, another rank or alpha, or another model.
        """
        wanted = self.state_dict()
        if other := sorted(state_dict.keys() ^ wanted.keys()):
            which = "has" if other[0] in state_dict else "lacks"
            raise ValueError(f"targets: the checkpoint {which} {other[0]!r}; {_INSTEAD}")
        for name, tensor in wanted.items():
            theirs = state_dict[name]
            if name.endswith(".alpha"):
                what, mine, found = "alpha", float(tensor), float(theirs)
            else:  # (rank, in) or (out, rank)
                axis = 0 if name.endswith("lora_A.weight") else 1
                what, mine, found = "rank", tensor.shape[axis], theirs.shape[axis]
            if mine != found:
                raise ValueError(f"{what}={mine:g}: the checkpoint was trained with {found:g}; {_INSTEAD}")
            if theirs.shape != tensor.shape:
                raise ValueError(
                    f"model: the checkpoint is of another one, where {name!r} has the shape {tuple(theirs.shape)}, "
                    f"not {tuple(tensor.shape)}; {_INSTEAD}"
                )
        return super().load_state_dict(state_dict, strict, assign)

    def _half(self, name: str, half: str) -> Tensor:
        return self.get_parameter(f"{name}.{half}.weight")


def write_adapter(path: Path, trainer: Trainer, metadata: Mapping[str, str] | None = None) -> None:
    """A trained adapter, its averaged weights, as a LoRA file with what is to be known of it."""
    adapter = trainer.modules["lora"]
    assert isinstance(adapter, Adapter)
    with trainer.averaged():
        if trainer.first:
            write_lora(path, replace(adapter.lora(path), metadata=metadata or {}))


_NAME = "default"  # of the adapter, to peft
_INSTEAD = "use that or another run folder"


def _targets(transformer: DiT, ends: Sequence[str]) -> list[str]:
    """The linear layers whose official or diffusers' names end so."""
    linear = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    called = {name: (f".{name}", f".{diffusers_module(name)}") for name in linear}
    names = [full for both in called.values() for full in both]
    for end in ends:
        if not any(name.endswith(f".{end}") for name in names):
            last = {".".join(name.split(".")[-count:]) for name in names for count in (1, 2)}
            known = sorted(name for name in last if not name.isdecimal())
            (nearest,) = difflib.get_close_matches(end, known, 1, 0)
            raise ValueError(f"targets: {end!r} ends the name of no linear layer of this model; nearest {nearest!r}")
    wanted = tuple(f".{end}" for end in ends)
    return [name for name, both in called.items() if any(full.endswith(wanted) for full in both)]
