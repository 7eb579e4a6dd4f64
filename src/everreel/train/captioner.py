"""Fine-tuning of a Qwen2.5-VL captioner on films and their structured captions.

Source: the paper's section on SkyCaptioner-V1, a Qwen2.5-VL-7B taught with such pairs (AdamW, 1e-5, two epochs, 512
films a step). The one invariant: the captioner is shown a film and asked for its caption exactly as `QwenCaptioner`
does, and the loss is that of the answer's tokens alone, the mark of its end among them.

Shape suffixes: B films, L tokens, A tokens from the first answer on, V vocabulary.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import av
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everreel.caption.frames import NUM_FRAMES, PIXELS, FrameRule, Patches, film_patches
from everreel.caption.qwen import Writer, load_qwen, model_inputs
from everreel.caption.schema import StructuralCaption, parse_caption
from everreel.caption.wording import answer, question
from everreel.data.draws import draw_int
from everreel.data.sources import PATH_COLUMNS, PICTURES, Row, Skipped, read_rows
from everreel.media import Video, read_image
from everreel.train.batches import follow, move
from everreel.train.blocks import recompute_blocks
from everreel.train.lora import Adapter, AdapterShape
from everreel.train.trainer import Outcome, Trainer, TrainerSettings

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What a LoRA changes of every block of the language model by default."""
CAPTION_COLUMN = "structural_caption"
FOLDER = "captioner"
_VISION = "model.visual."
_NO_LOSS = -100
_CLOSED = ("shot_type", "shot_angle", "shot_position")
_BESIDE = ("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json", "chat_template.jinja")


@dataclass(frozen=True)
class CaptionerRecipe:
    """The values of a fine-tuning run.

    `films` and `held_out` are tables (JSON Lines, CSV, Parquet) with a column of paths and one called
    `structural_caption`, as `everreel caption` writes them. With a `rank` a LoRA is trained beside weights that are
    held in `dtype`, at the layers of the language model whose names end in one of `targets`; without, all weights are,
    in float32. `vision` has the part that sees trained as well. What is left in the run folder is a whole captioner in
    `dtype`. With every sample the loss on `held_out` is measured, and the first `checked` films of it are captioned.
    """

    settings: TrainerSettings
    model: str
    films: str
    held_out: str | None = None
    rank: int | None = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = LAYERS
    dropout: float = 0.0
    vision: bool = False
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    attention: str = "sdpa"
    films_per_batch: int = 1
    num_frames: int = NUM_FRAMES
    pixels: int = PIXELS
    seconds: float | None = 1.0
    checked: int = 4
    held_out_films: int = 64

    def __post_init__(self) -> None:
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"dtype={self.dtype!r}: must be bfloat16 or float32")
        for field in ("films_per_batch", "held_out_films"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: must be 1 or more; the nearest that works is 1")
        if self.checked < 0:
            raise ValueError(f"checked={self.checked}: must be 0 or more; the nearest that works is 0")
        _ = self.shape  # which says what is wrong with it

    @property
    def shape(self) -> AdapterShape | None:
        """Of the LoRA, if it is one."""
        return None if self.rank is None else AdapterShape(self.rank, self.alpha, self.targets, self.dropout)

    def objective(self) -> CaptionerTraining:
        """The objective, with the model as it is."""
        return CaptionerTraining(self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train; the run folder's `captioner` is a folder for `QwenCaptioner`, `skipped.json` names what was left out.

        Raises:
            ValueError: the model or a table cannot be used.
        """
        objective = self.objective()
        trainer = Trainer(objective, self.settings, run_dir, quiet)
        outcome = trainer.run()
        with trainer.averaged():
            if trainer.first:
                objective.save(run_dir / FOLDER)
        if trainer.first and (skipped := objective.skipped()):
            text = json.dumps([asdict(each) for each in skipped], indent=1, ensure_ascii=False)
            (run_dir / "skipped.json").write_text(text + "\n", encoding="utf-8")
        return outcome


@dataclass(frozen=True)
class CaptionedFilm:
    """A film, or a picture, and what it shows."""

    name: str
    path: Path
    caption: StructuralCaption


@dataclass(frozen=True)
class CaptionBatch:
    """What the model takes, the tokens (B, L) that it is to say next to each of its own, and whose films these are."""

    inputs: dict[str, Tensor]
    labels_BL: Tensor
    names: tuple[str, ...]


class CaptionerTraining:
    """See the module. `metrics` holds the share of tokens that are the likeliest, and of samples what is held out."""

    def __init__(self, recipe: CaptionerRecipe) -> None:
        self.recipe = recipe
        self.films, self._skipped = read_captions(recipe.films)
        self.held_out, more = read_captions(recipe.held_out) if recipe.held_out is not None else ([], [])
        self._skipped += more
        qwen = load_qwen(recipe.model, recipe.dtype if recipe.rank else "float32", recipe.attention)
        self.model, self.tokenizer, self._source = qwen.model, qwen.tokenizer, qwen.folder
        shown = {"num_frames": recipe.num_frames, "pixels": recipe.pixels, "seconds": recipe.seconds}
        self.rule = FrameRule.of_model(qwen.folder, self.model.config.vision_config, **shown)
        self.metrics: dict[str, float] = {}
        self._unread: dict[str, str] = {}
        self.adapter: Adapter | None = None
        if recipe.shape is not None:
            self.model.requires_grad_(False).eval()
            self.adapter = Adapter.at(self.model, _layers(self.model, recipe), recipe.shape, recipe.settings.seed)
            if recipe.settings.checkpointing == "blocks":
                recompute_blocks(self.model)  # the trainer sees the adapter alone, which has none
        elif not recipe.vision:
            self.model.model.visual.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        """The one role: the adapter, or the whole captioner."""
        return {"captioner": self.model} if self.adapter is None else {"lora": self.adapter}

    def batch(self, step: int, generator: torch.Generator) -> CaptionBatch:
        """Some films, drawn at random; one that cannot be read makes room for the next in the table."""
        drawn = [draw_int(generator, 0, len(self.films)) for _ in range(self.recipe.films_per_batch)]
        return self._batch([self._readable(self.films, index) for index in drawn])

    def describe(self, batch: CaptionBatch) -> str:
        """The films of a batch, for the line about one that could not be learned from."""
        return ", ".join(batch.names)

    def losses(self, batch: CaptionBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The mean cross-entropy of the answers' tokens."""
        if self.adapter is not None:
            follow(batch.labels_BL.device, self.model)
        (role,) = self.modules()
        loss, right = self._loss(batch)
        self.metrics = {"right": float(right)}
        return {role: loss}

    def sample(self, folder: Path, step: int) -> None:
        """The loss on what is held out, and captions of some of it in a file."""
        films = self.held_out or self.films
        device = next(next(iter(self.modules().values())).parameters()).device
        follow(device, self.model)
        chosen = [self._readable(films, index) for index in range(min(len(films), self.recipe.held_out_films))]
        if self.held_out:
            found = [self._loss(move(self._batch([one]), device)) for one in chosen]
            losses, rights = zip(*found, strict=True)
            self.metrics = {
                "held_out": float(torch.stack(losses).mean()), "held_out_right": float(torch.stack(rights).mean())
            }  # fmt: skip
        if self.recipe.checked:
            self.metrics |= self._check(folder / f"captions-{step:06d}.jsonl", chosen[: self.recipe.checked])

    def save(self, folder: Path) -> None:
        """The captioner with what it has learnt, whole or not at all, in a folder for `QwenCaptioner`."""
        dtype = getattr(torch, self.recipe.dtype)
        changes = {} if self.adapter is None else self.adapter.changes()
        tensors = {}
        for name, value in self.model.state_dict().items():
            plain = name.replace(".base_layer.", ".")
            if ".lora_" in name:
                continue
            change = changes.get(plain.removesuffix(".weight")) if plain.endswith(".weight") else None
            whole = value if change is None else value.float() + change.to(value.device)
            tensors[plain] = whole.to(dtype).cpu() if whole.is_floating_point() else whole.cpu()
        half_done = folder.with_name(folder.name + ".part")
        shutil.rmtree(half_done, ignore_errors=True)
        half_done.mkdir(parents=True)
        for file in _BESIDE:
            if (self._source / file).is_file():
                shutil.copyfile(self._source / file, half_done / file)
        self.tokenizer.save_pretrained(half_done)
        self.model.save_pretrained(half_done, state_dict=tensors)
        shutil.rmtree(folder, ignore_errors=True)
        half_done.replace(folder)

    def skipped(self) -> list[Skipped]:
        """What was left out so far: rows of the tables, and films that could not be read when they were drawn."""
        return [*self._skipped, *(Skipped(name, reason) for name, reason in sorted(self._unread.items()))]

    def _check(self, file: Path, chosen: Sequence[tuple[CaptionedFilm, Patches]]) -> dict[str, float]:
        """Captions of some films, written beside what they should be; the share of the fields of fixed lists."""
        writer = Writer(self.tokenizer, self.model)
        right = dict.fromkeys(_CLOSED, 0)
        with file.open("w", encoding="utf-8") as lines:
            for film, patches in chosen:
                written = writer.caption(patches)
                for name in _CLOSED:
                    right[name] += getattr(written, name) == getattr(film.caption, name)
                row = {"path": film.name, "written": written.model_dump(), "expected": film.caption.model_dump()}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        return {f"right/{name}": count / len(chosen) for name, count in right.items()}

    def _loss(self, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy of the answers' tokens, and the share of them that the model finds likeliest."""
        answered = (batch.labels_BL != _NO_LOSS).any(dim=0).nonzero()
        kept = batch.labels_BL.shape[1] - int(answered[0])
        # Scores of the question are never made: with a vocabulary of 152,000 they would be most of a batch's memory.
        scores_BAV = self.model(**batch.inputs, use_cache=False, logits_to_keep=kept).logits.float()
        labels_BA = batch.labels_BL[:, -kept:]
        loss = F.cross_entropy(scores_BAV.flatten(0, 1), labels_BA.flatten(), ignore_index=_NO_LOSS)
        counted = labels_BA != _NO_LOSS
        return loss, (scores_BAV.detach().argmax(-1) == labels_BA)[counted].float().mean()

    def _batch(self, films: Sequence[tuple[CaptionedFilm, Patches]]) -> CaptionBatch:
        rows, labels = [], []
        for film, patches in films:
            asked = question(self.tokenizer, patches.num_tokens(self.rule.merge))
            said = answer(self.tokenizer, film.caption)
            rows.append([*asked, *said])
            # At each place stands what comes next; the question's last token is followed by the answer's first.
            labels.append([_NO_LOSS] * (len(asked) - 1) + said + [_NO_LOSS])
        inputs = model_inputs(rows, [patches for _, patches in films], self.model.config.video_token_id)
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.model.dtype)
        labels_BL = torch.full_like(inputs["input_ids"], _NO_LOSS)
        for number, row in enumerate(labels):
            labels_BL[number, : len(row)] = torch.tensor(row)
        return CaptionBatch(inputs, labels_BL, tuple(film.name for film, _ in films))

    def _readable(self, films: Sequence[CaptionedFilm], index: int) -> tuple[CaptionedFilm, Patches]:
        """A film of a table and its patches, or the first behind it that can be read."""
        for number in range(len(films)):
            film = films[(index + number) % len(films)]
            try:
                return film, _patches(film.path, self.rule)
            except (ValueError, OSError, av.error.FFmpegError) as error:
                self._unread[film.name] = reason = " ".join(str(error).split())
        raise ValueError(f"films={self.recipe.films!r}: no film of it can be read; {films[index].name}: {reason}")


def read_captions(table: str | Path) -> tuple[list[CaptionedFilm], list[Skipped]]:
    """The films of a table with structured captions, and the rows that have to be left out. Films are not opened here;
    their paths go from the table's folder on.

    Raises:
        ValueError: it is no such table, or all of it has to be left out.
    """
    path = Path(table).expanduser()
    if not path.is_file():
        raise ValueError(f"films={str(table)!r}: no such file; a table with paths and {CAPTION_COLUMN} works")
    rows = list(read_rows(path))
    columns = {column for _, row in rows if isinstance(row, Mapping) for column in row}
    path_column = next((name for name in PATH_COLUMNS if name in columns), None)
    if path_column is None or CAPTION_COLUMN not in columns:
        needed = CAPTION_COLUMN if path_column is not None else f"one of {', '.join(PATH_COLUMNS)}"
        there = ", ".join(sorted(map(str, columns))) or "none"
        raise ValueError(f"films={str(table)!r}: has the columns {there}; must have {needed}")
    found = [_film(path, number, row, path_column) for number, row in rows]
    films = [each for each in found if isinstance(each, CaptionedFilm)]
    skipped = [each for each in found if isinstance(each, Skipped)]
    if not films:
        raise ValueError(
            f"films={str(table)!r}: has no film with a caption; {skipped[0] if skipped else 'it is empty'}"
        )
    return films, skipped


def _film(table: Path, number: int, row: Row | str, path_column: str) -> CaptionedFilm | Skipped:
    """What a row is."""
    line = f"{table.name} line {number}"
    if isinstance(row, str):
        return Skipped(line, row)
    name, said = row.get(path_column), row.get(CAPTION_COLUMN)
    if not isinstance(name, str) or not name.strip():
        return Skipped(line, f"{path_column} is empty")
    file = table.parent / Path(name.strip()).expanduser()
    if not file.is_file():
        return Skipped(name, "is a folder" if file.is_dir() else "does not exist")
    if not said:
        return Skipped(name, f"has no {CAPTION_COLUMN}")
    try:
        return CaptionedFilm(name, file, parse_caption(said if isinstance(said, str) else json.dumps(said)))
    except ValueError as error:
        return Skipped(name, str(error))


def _patches(path: Path, rule: FrameRule) -> Patches:
    """A film, or a picture as a film of one frame."""
    if path.suffix.lower() in PICTURES:
        return film_patches(read_image(path)[None], 24.0, rule)
    video = Video(path)
    return film_patches(video.frames, video.fps, rule)


def _layers(model: nn.Module, recipe: CaptionerRecipe) -> list[str]:
    """The linear layers that a LoRA changes.

    Raises:
        ValueError: a target is the end of no layer's name.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    linear = [name for name in linear if recipe.vision or not name.startswith(_VISION)]
    for end in recipe.targets:
        if not any(name.endswith(f".{end}") for name in linear):
            there = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(f"targets: {end!r} ends the name of no linear layer; there are {', '.join(there)}")
    return [name for name in linear if name.endswith(tuple(f".{end}" for end in recipe.targets))]
