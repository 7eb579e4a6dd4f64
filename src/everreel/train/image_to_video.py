"""Films from their first picture: a transformer that makes films of words, widened and trained on.

Source: section 6 of the paper, the first of its two ways, and `zero_init_i2v_cross_attn` of the released code. Beside
16 channels of noise the model is shown 4 of a mask, which is 1 on the first latent frame, and 16 of the encoded picture
with grey behind it; the picture's CLIP tokens are a second pair of keys and values of cross-attention, whose output is
added. What is new in the first convolution and makes the values of the image branch begins at zero, all else new is
random. The one invariant: at step 0 the widened model gives what the one it was made of gives.

All frames of a window have one level and a window begins with its film, as I2V models are served. Text is left out at
times and the picture never, for both branches of guidance see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from everreel.checkpoint.load import load_transformer
from everreel.data.draws import generator_for
from everreel.data.latents import LatentStore
from everreel.diffusion.noise import LevelMixture
from everreel.film.loading import source_of
from everreel.film.state import Beginning
from everreel.model.dit import DiT
from everreel.shapes import TEMPORAL
from everreel.train.diffusion_forcing import DiffusionForcing, DiffusionForcingRecipe, Shown
from everreel.train.generate import SampleFilms, Way
from everreel.train.pictures import PictureStore
from everreel.train.selection import Selection
from everreel.train.trainer import Outcome, Trainer, TrainerSettings


@dataclass(frozen=True)
class ImageToVideoRecipe:
    """The values of one stage.

    `model` is what it starts from: a name from `everreel models`, a folder or a file, of a model of words, which is
    widened, or of an I2V model, which is trained on as it is. `films` is a latent store and `pictures` the folder of a
    `PictureRecipe` of it. `windows`, `tokens`, `batches`, `text`, `vae`, `select` and `empty` are as in
    `DiffusionForcingRecipe`; `shift` moves the one level of a window towards noise. `init` is the
    `transformer.safetensors` of an earlier stage. The run's pictures are films of the first `sample_films` clips,
    `sample_frames` latents long.
    """

    settings: TrainerSettings
    films: str
    pictures: str
    model: str = "tiny"
    text: str | None = None
    vae: str | None = None
    windows: tuple[tuple[int, float], ...] = ()
    tokens: int = 4096
    batches: tuple[tuple[int, int, int, int], ...] = ()
    init: str | None = None
    select: tuple[Selection, ...] = ()
    shift: float = 3.0
    empty: float = 0.1
    sample_films: int = 0
    sample_frames: int = 9

    def __post_init__(self) -> None:
        if any(frames < 2 for frames, _ in self.windows):
            shortest = min(frames for frames, _ in self.windows)
            raise ValueError(f"windows: {shortest} latent frame: is the picture itself; the nearest that works is 2")
        if not self.shift > 0:
            raise ValueError(f"shift={self.shift}: must be above 0; the embedded model's, 3, works")

    def forcing(self) -> DiffusionForcingRecipe:
        """The same stage as diffusion forcing has it: whole films from their first latent, at one level."""
        level = LevelMixture(equal=1.0, non_decreasing=0.0, clean_prefix=0.0, given_anywhere=0.0, shift=self.shift)
        return DiffusionForcingRecipe(
            settings=self.settings, films=self.films, text=self.text, vae=self.vae, windows=self.windows,
            tokens=self.tokens, batches=self.batches, model=self.model, mixture=level, causal=0.0, inside=0.0,
            stills=0.0, empty=self.empty, select=self.select, sample_frames=self.sample_frames,
        )  # fmt: skip

    def objective(self) -> ImageToVideo:
        """The objective, its transformer widened, or with the weights of the stage before."""
        return ImageToVideo(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train; `transformer.safetensors` in the run folder holds the averaged weights."""
        return Trainer(self.objective(), self.settings, run_dir, quiet).run()


class ImageToVideo(DiffusionForcing):
    """Diffusion forcing's objective where nothing is known in the latents, and the picture is shown beside them."""

    def __init__(self, recipe: ImageToVideoRecipe) -> None:
        self.pictures = PictureStore(recipe.pictures)
        self._sample_films = recipe.sample_films
        super().__init__(recipe.forcing(), start_of(recipe, self.pictures.width))
        longest = max(frames for frames, *_ in self._store.groups)
        self.pictures.check(self._store, max((frames for frames, _ in recipe.windows), default=longest))

    @property
    def _store(self) -> LatentStore:
        assert self._films is not None
        return self._films.store

    def shown(self, indices: Sequence[int], frames: int) -> Shown:
        """Channels and tokens of the clips' first pictures."""
        return Shown(*self.pictures.shown(indices, frames))

    def samples(self, way: Way) -> SampleFilms:
        """Films of the first clips that are long enough, from their first pictures and first sentences."""
        store, frames = self._store, self.recipe.sample_frames
        size = min((key for key in store.groups if key[0] >= frames), default=None)
        if size is None or not self._sample_films:
            return replace(super().samples(way), prompts=())
        chosen = store.groups[size][: self._sample_films]
        channels_BCTHW, tokens_BND = self.pictures.shown(chosen, frames)
        beginnings = [
            Beginning(channels=channels_BCTHW[row], image_tokens=tokens_BND[row : row + 1])
            for row in range(len(chosen))
        ]
        prompts = [store.sentences[index][0] for index in chosen]
        return SampleFilms(
            prompts, (frames, *size[1:]), way, self.text, self.recipe.vae or self.source, beginnings=beginnings
        )


def start_of(recipe: ImageToVideoRecipe, image_dim: int) -> DiT:
    """The transformer that a recipe begins with.

    Raises:
        ValueError: the model is one of pictures whose tokens have another width.
    """
    transformer = load_transformer(source_of(recipe.model))
    have = transformer.config.image_dim
    if have is None:
        transformer = widened(transformer, image_dim, generator_for(recipe.settings.seed, "widen"))
    elif have != image_dim:
        rule = f"reads image tokens of {have} channels, pictures={recipe.pictures!r} has {image_dim}"
        raise ValueError(f"model = {recipe.model!r}: {rule}; make the pictures with the model's own image encoder")
    for parameter in transformer.parameters():
        parameter.data = parameter.data.clone()  # not the mapped file
    if recipe.init is not None:
        transformer.load_state_dict(load_file(recipe.init))
    return transformer


def widened(transformer: DiT, image_dim: int, generator: torch.Generator) -> DiT:
    """A transformer that reads a picture too, and for the time being makes nothing of it.

    Args:
        transformer: of a model of words, full-sequence or of diffusion forcing.
        image_dim: width of the image tokens.
        generator: of what is new and random.

    Raises:
        ValueError: it reads pictures already, or is not shown latents alone.
    """
    config = transformer.config
    if config.image_dim is not None or config.in_dim != config.out_dim:
        found = f"image_dim = {config.image_dim}, in_dim = {config.in_dim}"
        raise ValueError(f"model: {found}: must be None and out_dim = {config.out_dim}, as in models df and t2v")
    wide = DiT(replace(config, in_dim=2 * config.in_dim + TEMPORAL, image_dim=image_dim))
    wide.init_weights(generator)
    weight = transformer.patch_embedding.weight
    with torch.no_grad():
        new = wide.patch_embedding.weight.zero_()
        new[:, : config.in_dim] = weight
        for name, parameter in wide.named_parameters():
            if ".cross_attn.v_img." in name:
                parameter.zero_()
    known = {name: value for name, value in transformer.state_dict().items() if name != "patch_embedding.weight"}
    wide.load_state_dict({**wide.state_dict(), **known})
    return wide.to(weight.device, weight.dtype)
