"""The transformer's objective: flow matching with a noise level for every latent frame.

Source: sections 3.2 and 4c of the paper; what it leaves open (the mixture of levels, the share of causal attention,
pictures given later than frame 0) stands in `DiffusionForcingRecipe`. The one invariant: a window is trained as it is
met in generation. Half of the windows start inside a film, with latents of four frames, which are known; given pictures
are latents of stills and carry no loss; the same weights see full and block-causal attention.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from everreel.checkpoint.load import load_transformer, load_vae
from everreel.checkpoint.source import Source
from everreel.data.draws import draw_float, draw_int, generator_for
from everreel.data.latents import LatentStore
from everreel.data.prepare import check_vae, is_prepared
from everreel.data.text import text_of
from everreel.data.windows import WindowSource
from everreel.diffusion.conditioning import FPS_INDEX
from everreel.diffusion.noise import LevelMixture, add_noise
from everreel.film.loading import source_of
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT
from everreel.shapes import LatentShape
from everreel.train.generate import SampleFilms, Way, context_of
from everreel.train.selection import Selection, chances_of
from everreel.train.trainer import Outcome, Trainer, TrainerSettings

BANDS = (0.25, 0.5, 0.75, 1.0)  # the loss is reported by noise level, in four bands


@dataclass(frozen=True)
class DiffusionForcingRecipe:
    """The values of one stage.

    `films` and `images` are latent stores; where one is not given, the other has both. `windows` are (latent frames,
    weight): a step draws one length; without them a step draws a bucket of the stores, by its clips, and takes clips
    whole. `tokens` is the size of a batch in video tokens, so that a batch of images holds many and one of films few;
    `batches` names it for single sizes instead, as (frames, height, width, clips) in pixels.

    What is trained is either new, of the sizes of `config`, or `model`: a name from `everreel models`, a folder or a
    file in any layout, of any size. `text` and `vae` are folders; without them the model's own are taken, and no text
    encoder is loaded for stores whose text was embedded ahead. `init` is a `transformer.safetensors` of an earlier
    stage, whose weights take the place of new ones or of the model's.

    `select` says which clips are drawn and how often, by the labels of the stores (`train/labels.py`); the chances of
    several are multiplied.

    `subject_weight` is how much more the latents that the subject covers count in the loss of their frame: as 1 +
    subject_weight (1 - level) to 1, where the store says which these are. A subject far off is two tokens of sixty and
    next to nothing of a plain mean. Where its place is known, the best prediction stays what it was; at level 1 nobody
    can tell the place, and a weight would make the model see a subject everywhere: hence the factor.
    """

    settings: TrainerSettings
    config: TransformerConfig | None = None
    films: str | None = None
    images: str | None = None
    text: str | None = None
    vae: str | None = None
    windows: tuple[tuple[int, float], ...] = ()
    tokens: int = 4096
    batches: tuple[tuple[int, int, int, int], ...] = ()
    model: str | None = None
    init: str | None = None
    select: tuple[Selection, ...] = ()
    mixture: LevelMixture = field(default_factory=LevelMixture)
    causal: float = 0.3
    inside: float = 0.5
    stills: float = 0.15
    empty: float = 0.1
    largest_block: int = 6
    text_gain: float = 3.0
    subject_weight: float = 0.0
    sample_prompts: tuple[str, ...] = ()
    sample_frames: int = 1
    sample_size: tuple[int, int] = (96, 160)

    def __post_init__(self) -> None:
        if (self.config is None) == (self.model is None):
            raise ValueError("model: give either it or config, the sizes of a new one; model='tiny' works")
        if self.films is None and self.images is None:
            raise ValueError("films: give a latent store of films or one of images; everreel prepare makes one")
        if not self.subject_weight >= 0:
            raise ValueError(f"subject_weight={self.subject_weight}: must be 0 or more; the nearest that works is 0")

    def objective(self) -> DiffusionForcing:
        """The objective with fresh weights, or with those of the stage before."""
        return DiffusionForcing(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train; `transformer.safetensors` in the run folder holds the averaged weights."""
        return Trainer(self.objective(), self.settings, run_dir, quiet).run()


class Shown(NamedTuple):
    """What an I2V model is shown of the picture that each window begins with."""

    channels_BCTHW: Tensor
    """Behind those of the latents: the mask and the encoded picture."""
    tokens_BND: Tensor


class Batch(NamedTuple):
    """Windows of clips of one size."""

    x0_BCTHW: Tensor
    ids_BL: Tensor
    fps_B: Tensor
    sigma_BT: Tensor
    loss_BT: Tensor
    blocks: tuple[int, ...] | None
    shown: Shown | None = None
    subject_BTHW: Tensor | None = None
    """How much of each latent the subject covers, where it is to count more."""


class DiffusionForcing:
    """See the module. `metrics` holds the loss by noise level."""

    def __init__(self, recipe: DiffusionForcingRecipe, transformer: DiT | None = None) -> None:
        """A `transformer` that is given is trained as it is, whatever the recipe says of the beginning."""
        self.recipe = recipe
        self.metrics: dict[str, float] = {}
        self.source = None if recipe.model is None else source_of(recipe.model)
        self.transformer = transformer or new_transformer(recipe, self.source, recipe.text_gain)
        stores = {path: LatentStore(path) for path in (recipe.films, recipe.images) if path is not None}
        self.text = text_of(list(stores.values()), recipe.text or self.source)
        if self.text.dim != self.transformer.config.text_dim:
            rule = f"the transformer reads text_dim = {self.transformer.config.text_dim}; use the model's own"
            raise ValueError(f"text: its embeddings have {self.text.dim} channels, and {rule}")
        self.text.ids(recipe.sample_prompts)  # of what was not embedded ahead one should hear now
        self._check_stores(list(stores))
        if recipe.subject_weight and not any(store.knows_subjects for store in stores.values()):
            rule = "prepare the clips with masks (fox-masklabel.png), or 0 works"
            raise ValueError(
                f"subject_weight={recipe.subject_weight:g}: the stores do not say where subjects are; {rule}"
            )
        opened = {}
        for path, store in stores.items():
            opened[path] = WindowSource.open(store, self.text, chances_of(store, recipe.select))
        films, images = opened.get(recipe.films or ""), opened.get(recipe.images or "")
        lengths = {frames for frames, _ in recipe.windows} or {0}
        self._films = (films or images) if lengths - {1} else None
        self._images = (images or films) if lengths & {0, 1} else None
        for frames in lengths:
            source = self._images if frames == 1 else self._films
            assert source is not None
            source.members(frames)
        self._samples = self.samples(Way(20, guidance_scale=5.0))

    def _check_stores(self, stores: Sequence[str]) -> None:
        """Latents of another VAE are refused, where a store says whose they are."""
        where = self.recipe.vae or self.source
        prepared = [path for path in stores if is_prepared(path)]
        if where is not None and prepared:
            vae = load_vae(where)
            for path in prepared:
                check_vae(path, vae)

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return {"transformer": self.transformer}

    def batch(self, step: int, generator: torch.Generator) -> Batch:
        """Windows of one length and size, their sentences and their levels."""
        recipe = self.recipe
        source, members, frames = self._draw_bucket(generator)
        count = self._batch_size(source, members[0], frames)
        chosen = source.draw(members, generator, count)
        starts = [self._start(source, index, frames, generator) for index in chosen]
        windows = [(start, start + frames) for start in starts]
        x0_BCTHW = source.store.batch(chosen, windows)
        causal = frames > 1 and draw_float(generator) < recipe.causal
        blocks = random_blocks(frames, recipe.largest_block, generator) if causal else None
        sigma_BT, loss_BT = window_levels(recipe.mixture, starts, frames, generator, blocks)
        for row, (index, start) in enumerate(zip(chosen, starts, strict=True)):
            if frames > 1 and draw_float(generator) < recipe.stills:
                _give_stills(source.store, index, start, x0_BCTHW[row], sigma_BT[row], loss_BT[row], generator)
        fps_B = torch.tensor([FPS_INDEX[source.store.fps(index)] for index in chosen])
        ids_BL = source.text.draw(chosen, generator, recipe.empty)
        subject_BTHW = source.store.subjects(chosen, windows) if recipe.subject_weight else None
        return Batch(x0_BCTHW, ids_BL, fps_B, sigma_BT, loss_BT, blocks, self.shown(chosen, frames), subject_BTHW)

    def shown(self, indices: Sequence[int], frames: int) -> Shown | None:
        """What the model is shown beside windows of these clips: nothing, but see `train.image_to_video`."""
        return None

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The mean squared error of the velocity over the frames that are to be made, subjects weighted."""
        error_BT = self.errors(batch, generator)
        self._report(error_BT.detach(), batch.sigma_BT, batch.loss_BT)
        return {"transformer": mean_where(error_BT, batch.loss_BT)}

    def errors(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The mean squared error of the velocity of each frame, given ones too, (B, T) float32, subjects weighted."""
        x0_BCTHW, sigma_BT = batch.x0_BCTHW, batch.sigma_BT
        noise_BCTHW = torch.randn(x0_BCTHW.shape, generator=generator).to(x0_BCTHW)
        x_BCTHW = add_noise(x0_BCTHW, noise_BCTHW, sigma_BT)
        if batch.shown is not None:
            x_BCTHW = torch.cat([x_BCTHW, batch.shown.channels_BCTHW], dim=1)
        context = context_of(
            self.transformer, self.text, batch.ids_BL, None if batch.shown is None else batch.shown.tokens_BND
        )
        velocity_BCTHW = self.transformer(
            x_BCTHW, 1000 * sigma_BT, context, fps_B=batch.fps_B, blocks=batch.blocks
        )  # fmt: skip
        error_BTHW = (velocity_BCTHW.float() - (noise_BCTHW - x0_BCTHW)).square().mean(dim=1)
        if batch.subject_BTHW is not None:
            known_BT11 = (1 - sigma_BT)[..., None, None]
            weight_BTHW = 1 + self.recipe.subject_weight * known_BT11 * batch.subject_BTHW
            error_BTHW = error_BTHW * (weight_BTHW / weight_BTHW.mean(dim=(2, 3), keepdim=True))
        error_BT: Tensor = error_BTHW.mean(dim=(2, 3))
        return error_BT

    def sample(self, folder: Path, step: int) -> None:
        """A contact sheet of the recipe's prompts."""
        self._samples.write(folder, step, self.transformer)

    def samples(self, way: Way) -> SampleFilms:
        """Films of the recipe's prompts, made in a way."""
        recipe = self.recipe
        shape = LatentShape.from_pixels(1, *recipe.sample_size)
        size = (recipe.sample_frames, shape.height, shape.width)
        return SampleFilms(recipe.sample_prompts, size, way, self.text, recipe.vae or self.source)

    def _draw_bucket(self, generator: torch.Generator) -> tuple[WindowSource, Sequence[int], int]:
        """Clips of one size, and how many latents of each are taken."""
        recipe = self.recipe
        if recipe.windows:
            weights = torch.tensor([weight for _, weight in recipe.windows], dtype=torch.float64)
            frames = recipe.windows[int(torch.multinomial(weights, 1, generator=generator))][0]
            source = self._images if frames == 1 else self._films
            assert source is not None
            return source, source.draw_size(generator, frames), frames
        assert self._films is not None and self._images is not None
        place, films = draw_int(generator, 0, self._num_clips()), len(self._films.store)
        source, index = (self._films, place) if place < films else (self._images, place - films)
        if source.chances is not None:  # of the same store, one that may be drawn
            (index,) = source.draw(range(len(source.store)), generator, 1)
        group = source.group_of(index)
        return source, source.groups[group], group[0]

    def _num_clips(self) -> int:
        """Of both stores, which may be one."""
        assert self._films is not None and self._images is not None
        return len(self._films.store) + (len(self._images.store) if self._images is not self._films else 0)

    def _batch_size(self, source: WindowSource, index: int, frames: int) -> int:
        _, height, width = source.group_of(index)
        shape = LatentShape(frames, height, width)
        for num_frames, pixel_height, pixel_width, clips in self.recipe.batches:
            if (num_frames, pixel_height, pixel_width) == (shape.num_frames, shape.pixel_height, shape.pixel_width):
                return clips
        return max(1, self.recipe.tokens // shape.tokens)

    def _start(self, source: WindowSource, index: int, frames: int, generator: torch.Generator) -> int:
        """The window's first latent: that of the film, or one from inside, which stands for four frames."""
        last = source.group_of(index)[0] - frames
        inside = draw_float(generator) < self.recipe.inside
        return draw_int(generator, 1, last + 1) if inside and last > 0 and frames > 1 else 0

    def _report(self, error_BT: Tensor, sigma_BT: Tensor, loss_BT: Tensor) -> None:
        low = 0.0
        for high in BANDS:
            band = loss_BT & (sigma_BT > low) & (sigma_BT <= high)
            if band.any():
                self.metrics[f"loss_to_{high:g}"] = float(error_BT[band].mean())
            low = high


class Begins(Protocol):
    """What a recipe says of the weights that it begins with, as in `DiffusionForcingRecipe`."""

    @property
    def settings(self) -> TrainerSettings: ...
    @property
    def config(self) -> TransformerConfig | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def init(self) -> str | None: ...


def new_transformer(recipe: Begins, source: Source | None, text_gain: float = 1.0) -> DiT:
    """With fresh weights, with those of the model, which is `source`, or with those of the stage before.

    Raises:
        ValueError: the model begins with a picture.
    """
    from safetensors.torch import load_file

    if source is None:
        assert recipe.config is not None
        transformer = DiT(recipe.config)
    else:
        if source.config.image_dim is not None:
            raise ValueError(f"model = {recipe.model!r}: begins with a picture; a model of the kind df or t2v works")
        transformer = load_transformer(source)
        for parameter in transformer.parameters():
            parameter.data = parameter.data.clone()  # not the mapped file
    if recipe.init is not None:
        transformer.load_state_dict(load_file(recipe.init))
    elif source is None:
        transformer.init_weights(generator_for(recipe.settings.seed, "init"))
        _sharpen_text(transformer, text_gain)
    return transformer


def window_levels(
    mixture: LevelMixture,
    starts: Sequence[int],
    frames: int,
    generator: torch.Generator,
    blocks: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    """Noise levels and where the loss counts, (B, T) each, of windows that begin at a latent of their film.

    A window from inside a film goes on with what is known: its first latents are clean. Were they noise too,
    nothing would tell a film's first latent, which is one frame and of half the contrast, from one of four.
    """
    sigma_BT, loss_BT, _ = mixture.sample(len(starts), frames, generator, blocks)
    inside_B1 = torch.tensor(starts)[:, None] > 0
    if not inside_B1.any():
        return sigma_BT, loss_BT
    known = replace(
        mixture, equal=0.0, independent=0.0, non_decreasing=0.0, clean_prefix=1.0, given_anywhere=0.0
    )  # fmt: skip
    several = blocks if blocks is not None and len(blocks) > 1 else None  # one block alone would have no history
    known_BT, new_BT, _ = known.sample(len(starts), frames, generator, several)
    return torch.where(inside_B1, known_BT, sigma_BT), torch.where(inside_B1, new_BT, loss_BT)


def mean_where(error_BT: Tensor, counts_BT: Tensor) -> Tensor:
    """The mean of the frames that count, 0 where none does."""
    weight_BT = counts_BT.to(error_BT)
    return (error_BT * weight_BT).sum() / weight_BT.sum().clamp(min=1)


def random_blocks(frames: int, largest: int, generator: torch.Generator) -> tuple[int, ...]:
    """Blocks of one random size, the first one of its own: 1, 4, 4, ... and 3, 5, 5, ... are met too."""
    size = draw_int(generator, 1, min(largest, frames) + 1)
    sizes = [draw_int(generator, 1, size + 1)]
    while sum(sizes) < frames:
        sizes.append(min(size, frames - sum(sizes)))
    return tuple(sizes)


def _sharpen_text(transformer: DiT, gain: float) -> None:
    """Let text count from the first step, although most of the positions it is read from are padding."""
    for name, parameter in transformer.named_parameters():
        if name.endswith("cross_attn.norm_q.weight"):
            nn.init.constant_(parameter, gain)


def _give_stills(
    store: LatentStore,
    index: int,
    start: int,
    x0_CTHW: Tensor,
    sigma_T: Tensor,
    loss_T: Tensor,
    generator: torch.Generator,
) -> None:
    """Put the stills that fall into a window in the place of its frames: clean, and without a loss."""
    places, stills = store.stills(index)
    inside = [n for n, place in enumerate(places) if 0 <= place - start < x0_CTHW.shape[1]]
    kept = [n for n in inside if draw_float(generator) < 0.7] or inside[:1]
    if len(set(kept)) >= x0_CTHW.shape[1]:
        kept = kept[:-1]
    for n in kept:
        place = places[n] - start
        x0_CTHW[:, place] = torch.from_numpy(stills[n].copy()).float()
        sigma_T[place], loss_T[place] = 0.0, False


def staged(*stages: tuple[str, DiffusionForcingRecipe], run_dir: str) -> tuple[tuple[str, DiffusionForcingRecipe], ...]:
    """Stages that each start from the weights of the one before."""
    chained, init = [], stages[0][1].init
    for name, stage in stages:
        chained.append((name, replace(stage, init=init)))
        init = f"{run_dir}/{name}/transformer.safetensors"
    return tuple(chained)
