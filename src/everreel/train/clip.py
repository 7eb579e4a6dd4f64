"""A small CLIP for the film world: a picture's tokens mean something, and nothing has to be downloaded for it.

Source: CLIP (arXiv 2103.00020): a picture and its own sentence belong together, all others of the batch do not; half of
the patches are left out while training, as in FLIP (arXiv 2212.00794), which halves the time of a step. The sentences
come through the frozen text encoder of a model. The one invariant: what ships is the image tower alone, in the folder
that I2V models have it in; heads, scale and what pools the text stay in the run.

Shape suffixes: B pictures or sentences, C colours, H height, W width, L token numbers, N image tokens, D channels.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everreel.checkpoint import configs
from everreel.checkpoint.load import with_prefix
from everreel.data.clips import ClipStore
from everreel.data.draws import draw_int, generator_for
from everreel.data.latents import draw_group
from everreel.data.text import FrozenText
from everreel.model.config import ImageEncoderConfig
from everreel.model.image_encoder import ImageEncoder
from everreel.train.pictures import folder_or_model
from everreel.train.trainer import Outcome, Trainer, TrainerSettings
from everreel.world.caption import sentence
from everreel.world.scene import VOCABULARY, visible_fields

NETWORK = ImageEncoderConfig(dim=128, ffn_dim=512, num_heads=4, num_layers=4)  # 1 million weights, 257 tokens
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
CROPPED = 0.1  # of a side, at most
FIELDS = ("subject", "color", "place", "time")  # that a single picture shows, and that one word names
CHECKED_AT_ONCE = 32


@dataclass(frozen=True)
class ClipRecipe:
    """What is trained, and on which frames.

    Each step takes one of `stores`, as often as the square root of its size says, and of each clip one frame. `text` is
    a model's name, or a folder with `text_encoder/` and `tokenizer/`. `width` is that of the space in which pictures
    and sentences meet. `kept` is the share of patches that a step looks at.
    """

    settings: TrainerSettings
    stores: tuple[str, ...]
    held_out: str
    text: str = "tiny"
    network: ImageEncoderConfig = NETWORK
    width: int = 128
    batch: int = 64
    kept: float = 0.5

    def __post_init__(self) -> None:
        if not self.stores:
            raise ValueError("stores=(): name at least one clip store; recipes/world.py makes them")
        if self.batch < 2:
            raise ValueError(f"batch={self.batch}: pictures are told from each other; the nearest that works is 2")
        if not 0 < self.kept <= 1:
            raise ValueError(f"kept={self.kept}: a share of the patches lies above 0 and up to 1; 0.5 works")

    def objective(self) -> Clip:
        """The objective with a fresh image tower."""
        text = FrozenText.load(folder_or_model(self.text))
        torch.manual_seed(self.settings.seed)
        towers = Towers(ImageEncoder(self.network), text.dim, self.width)
        return Clip(towers, text, [ClipStore(path) for path in self.stores], ClipStore(self.held_out), self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train, then leave `image_encoder/` and `report.json`, how well held-out pictures find their sentences."""
        objective = self.objective()
        trainer = Trainer(objective, self.settings, run_dir, quiet)
        outcome = trainer.run()
        with trainer.averaged():
            save_image_encoder(run_dir, objective.towers.encoder)
            report = objective.check()
        (run_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        return outcome


class Towers(nn.Module):
    """The image tower, and what brings pictures and sentences into one space."""

    def __init__(self, encoder: ImageEncoder, text_dim: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        # Plain matmuls: of so few tokens the fused kernel's backward pass on a CPU takes half of a step.
        encoder.model.set_attn_implementation("eager")
        self.image_head = nn.Linear(encoder.config.dim, width, bias=False)
        self.query = nn.Parameter(torch.zeros(text_dim))
        self.text_head = nn.Linear(text_dim, width, bias=False)
        self.scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def picture(self, pixels_BCHW: Tensor, kept: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Prepared pictures as vectors of length 1, (B, D) float32: by the class token, as CLIP has it."""
        tower = self.encoder.model
        tokens_BND = tower.embeddings(pixels_BCHW)
        if kept < 1:
            tokens_BND = _some(tokens_BND, kept, generator)
        hidden_BND = tower.encoder(inputs_embeds=tower.pre_layrnorm(tokens_BND)).last_hidden_state
        return F.normalize(self.image_head(tower.post_layernorm(hidden_BND[:, 0])).float(), dim=-1)

    def sentence(self, embedding_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Embedded sentences as vectors of length 1, (B, D) float32."""
        scores_BL = (embedding_BLD @ self.query).masked_fill(mask_BL == 0, -math.inf)
        pooled_BD = (scores_BL.softmax(-1)[..., None] * embedding_BLD).sum(1)
        return F.normalize(self.text_head(pooled_BD).float(), dim=-1)


class ClipBatch(NamedTuple):
    """A frame of each of some clips of one size, and a sentence of each as numbers."""

    frames_BHWC: Tensor
    ids_BL: Tensor


@dataclass
class Clip:
    """Frames and sentences → cross-entropy of who belongs to whom, both ways."""

    towers: Towers
    text: FrozenText
    stores: Sequence[ClipStore]
    held_out: ClipStore
    recipe: ClipRecipe
    metrics: dict[str, float] = field(default_factory=dict)

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return {"clip": self.towers}

    def batch(self, step: int, generator: torch.Generator) -> ClipBatch:
        """Frames of one store and one size, each cut by a little, alike for all in size and not in place."""
        often = torch.tensor([len(store) for store in self.stores], dtype=torch.float64).sqrt()
        store = self.stores[int(torch.multinomial(often, 1, generator=generator))]
        (_, height, width), chosen = draw_group(store.groups, generator, self.recipe.batch)
        rows, columns = (draw_int(generator, round(side * (1 - CROPPED)), side + 1) for side in (height, width))
        frames, told = [], []
        for index in chosen:
            clip = store.clip(index)
            top, left = draw_int(generator, 0, height - rows + 1), draw_int(generator, 0, width - columns + 1)
            frames.append(clip[draw_int(generator, 0, len(clip)), top : top + rows, left : left + columns])
            told.append(sentence(store.scene(index), generator))
        return ClipBatch(torch.from_numpy(np.stack(frames)), self.text.ids(told))

    def losses(self, batch: ClipBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """InfoNCE with a learnt temperature."""
        pixels_BCHW = self.towers.encoder.prepare(_unit_range(batch.frames_BHWC))
        pictures_BD = self.towers.picture(pixels_BCHW, self.recipe.kept, generator)
        sentences_BD = self.towers.sentence(*self.text.embed(batch.ids_BL))
        scores_BB = self.towers.scale.exp().clamp(max=LARGEST_SCALE) * pictures_BD @ sentences_BD.T
        own_B = torch.arange(len(scores_BB), device=scores_BB.device)
        loss = (F.cross_entropy(scores_BB, own_B) + F.cross_entropy(scores_BB.T, own_B)) / 2
        right = (scores_BB.detach().argmax(1) == own_B).float().mean()
        self.metrics = {"accuracy": float(right), "scale": float(self.towers.scale.detach().exp())}
        return {"clip": loss}

    def sample(self, folder: Path, step: int) -> None:
        """No pictures, but what the report says as metrics."""
        self.metrics = self.check()

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """How often a held-out picture finds its own sentence among all of them and the other way round, and a word
        its value among all of a field; beside them what chance gives, and what guessing the commonest value gives.
        """
        count, seed = len(self.held_out), self.recipe.settings.seed
        frames, told = [], []
        for index in range(count):
            generator, clip = generator_for(seed, "check", index), self.held_out.clip(index)
            frames.append(clip[draw_int(generator, 0, len(clip))])
            told.append(sentence(self.held_out.scene(index), generator))
        pictures_BD = torch.cat([self._pictures([frame]) for frame in frames])
        scores_BB = pictures_BD @ self._sentences(told).T
        report = {"clips": float(count)}
        for name, scores in (("picture_to_sentence", scores_BB), ("sentence_to_picture", scores_BB.T)):
            # A sentence that is there twice belongs to both.
            rank_B = (scores > scores.diagonal()[:, None]).sum(1)
            for top in (1, 5):
                report[f"{name}/top_{top}"] = float((rank_B < top).float().mean())
        report |= {f"chance/top_{top}": min(1.0, top / count) for top in (1, 5)}
        for name in FIELDS:
            report |= self._named(name, pictures_BD)
        return report

    def _named(self, name: str, pictures_BD: Tensor) -> dict[str, float]:
        """The share of pictures whose value of a field is the nearest of all its words."""
        values = VOCABULARY[name]
        scores_BV = pictures_BD @ self._sentences([value.replace("_", " ") for value in values]).T
        seen = [visible_fields(self.held_out.scene(index)).get(name) for index in range(len(pictures_BD))]
        right = [values[int(row.argmax())] == value for row, value in zip(scores_BV, seen, strict=True) if value]
        often = Counter(value for value in seen if value).most_common(1)
        guessed = often[0][1] if often else 0
        return {f"named/{name}": sum(right) / max(1, len(right)), f"guessed/{name}": guessed / max(1, len(right))}

    def _pictures(self, frames: Sequence[np.ndarray]) -> Tensor:
        device = next(self.towers.parameters()).device
        frames_BHWC = torch.from_numpy(np.stack(frames)).to(device)
        return self.towers.picture(self.towers.encoder.prepare(_unit_range(frames_BHWC)))

    def _sentences(self, told: Sequence[str]) -> Tensor:
        ids_BL = self.text.ids(told).to(next(self.towers.parameters()).device)
        return torch.cat([self.towers.sentence(*self.text.embed(part)) for part in ids_BL.split(CHECKED_AT_ONCE)])


def save_image_encoder(folder: Path, encoder: ImageEncoder) -> None:
    """Write `image_encoder/` in transformers' layout, in float32, and `image_processor/` for other programs."""
    from safetensors.torch import save_file

    where = folder / "image_encoder"
    configs.write_json(where / "config.json", configs.image_config_to_transformers(encoder.config, "float32"))
    state = with_prefix(encoder.model.state_dict())
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
    settings = configs.image_processor_config(encoder.config.image_size)
    configs.write_json(folder / "image_processor" / "preprocessor_config.json", settings)


def _unit_range(frames_BHWC: Tensor) -> Tensor:
    """Frames of 0..255 as pictures (B, 3, H, W) of -1..1."""
    return frames_BHWC.movedim(-1, 1).float() / 127.5 - 1


def _some(tokens_BND: Tensor, kept: float, generator: torch.Generator | None) -> Tensor:
    """The class token and a share of the others, drawn for each picture."""
    batch, count, width = tokens_BND.shape
    drawn_BN = torch.rand(batch, count - 1, generator=generator).argsort(1)[:, : max(1, round(kept * (count - 1)))] + 1
    places_BN1 = F.pad(drawn_BN, (1, 0)).to(tokens_BND.device)[..., None]
    return tokens_BND.gather(1, places_BN1.expand(-1, -1, width))
