"""The tokenizer and the small umT5 of the embedded model, taught to read the fields of a scene off a
sentence.

The one invariant: a field that a sentence does not mention is a class of its own, so the encoder learns
what was said and never guesses what was not. The heads are thrown away after training; the transformer
attends to the embeddings.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F

from everreel.checkpoint import configs
from everreel.checkpoint.load import load_tokenizer
from everreel.data.draws import draw_float, draw_int, generator_for
from everreel.model.config import TextEncoderConfig
from everreel.model.text_encoder import TextEncoder, Tokenizer
from everreel.train.trainer import Outcome, Trainer, TrainerSettings
from everreel.world.caption import sentence_with_fields
from everreel.world.scene import VOCABULARY, sample_scene

MARKS = PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SPACE = "\u2581"  # what stands for the space before a word
LETTER_SCORE = -40.0
NOT_SAID = 0
EMPTY_SHARE = 0.02
STRANGE_SHARE = 0.1

Said = tuple[str, dict[str, str]]


@dataclass(frozen=True)
class TextRecipe:
    """What is trained, and on how many sentences."""

    settings: TrainerSettings
    vocab_size: int = 1500
    tokenizer_sentences: int = 60_000
    d_model: int = 160
    num_layers: int = 4
    num_heads: int = 5
    d_kv: int = 32
    d_ff: int = 384
    batch: int = 64
    max_length: int = 64
    checked_sentences: int = 4000

    def config(self, vocab_size: int) -> TextEncoderConfig:
        """The encoder's config for a tokenizer of this size."""
        return TextEncoderConfig(
            vocab_size=vocab_size,
            d_model=self.d_model,
            d_kv=self.d_kv,
            d_ff=self.d_ff,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
        )

    def objective(self, run_dir: Path) -> TextObjective:
        """The objective; its tokenizer is trained now if the run folder has none yet."""
        seed = self.settings.seed
        if not (run_dir / "tokenizer" / "tokenizer.json").exists():
            lines = (text for text, _ in sentences(self.tokenizer_sentences, seed, "tokenizer"))
            save_tokenizer(run_dir, train_tokenizer(lines, self.vocab_size))
        tokenizer = load_tokenizer(run_dir)
        torch.manual_seed(seed)
        reader = FieldReader(TextEncoder(self.config(tokenizer.backend.get_vocab_size())))
        return TextObjective(reader, tokenizer, self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train, then leave `tokenizer/`, `text_encoder/` and `report.json` in the run folder."""
        run_dir.mkdir(parents=True, exist_ok=True)
        objective = self.objective(run_dir)
        trainer = Trainer(objective, self.settings, run_dir, quiet)
        outcome = trainer.run()
        with trainer.averaged():
            save_text_encoder(run_dir, objective.reader.encoder)
            report = objective.accuracy(self.checked_sentences)
        (run_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        return outcome


class FieldReader(nn.Module):
    """The encoder with one attention-pooled head a field; class 0 is "not said"."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.d_model
        # A T5 of this size starts far from linear with the token embeddings of unit size that it is made
        # with.
        nn.init.normal_(encoder.model.get_parameter("shared.weight"), std=0.3)
        self.queries = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in VOCABULARY})
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(v) + 1) for name, v in VOCABULARY.items()})

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) of each field."""
        hidden_BLD = self.encoder(ids_BL, mask_BL)
        queries_FD = torch.stack([self.queries[name] for name in VOCABULARY])
        scores_BFL = queries_FD @ hidden_BLD.transpose(1, 2)
        scores_BFL = scores_BFL.masked_fill(mask_BL[:, None] == 0, float("-inf"))
        pooled_BFD = scores_BFL.softmax(-1) @ hidden_BLD
        return {name: self.heads[name](pooled_BFD[:, i]) for i, name in enumerate(VOCABULARY)}


@dataclass
class TextObjective:
    """Sentences → cross-entropy of each field, the unsaid ones too."""

    reader: FieldReader
    tokenizer: Tokenizer
    recipe: TextRecipe
    metrics: dict[str, float] = field(default_factory=dict)

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return {"text": self.reader}

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Token numbers, mask, and the class of each field (B, F)."""
        said = [_say(generator, "train", STRANGE_SHARE) for _ in range(self.recipe.batch)]
        return self.encode(said)

    def encode(self, said: Sequence[Said]) -> dict[str, Tensor]:
        """The batch of some sentences, as long as the longest of them."""
        tokens = self.tokenizer([text for text, _ in said], length=self.recipe.max_length)
        length = int(tokens.mask.sum(1).max())
        targets = [[_class_of(name, fields.get(name)) for name in VOCABULARY] for _, fields in said]
        return {
            "ids": tokens.ids[:, :length],
            "mask": tokens.mask[:, :length],
            "targets": torch.tensor(targets),
            "dropped": torch.tensor(tokens.num_dropped),
        }

    def losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The sum over the fields of their cross-entropies."""
        logits = self.reader(batch["ids"], batch["mask"])
        targets = batch["targets"].unbind(1)
        pairs = list(zip(logits.values(), targets, strict=True))
        losses = [F.cross_entropy(scores.float(), target) for scores, target in pairs]
        hits = torch.stack([(scores.argmax(-1) == target).float().mean() for scores, target in pairs])
        self.metrics = {"accuracy": float(hits.mean()), "cut": float((batch["dropped"] > 0).float().mean())}
        return {"text": torch.stack(losses).sum()}

    def sample(self, folder: Path, step: int) -> None:
        """No pictures, but the accuracy on held-out sentences as metrics."""
        self.metrics = self.accuracy(500)

    @torch.no_grad()
    def accuracy(self, count: int) -> dict[str, float]:
        """The share of fields read rightly on held-out sentences: of what is said, of what is not, and a
        field each.
        """
        device = next(self.reader.parameters()).device
        hits: dict[str, list[float]] = {name: [] for name in VOCABULARY}
        unsaid: list[float] = []
        seed = self.recipe.settings.seed
        said = list(sentences(count, seed, "check", split="held_out"))
        for start in range(0, count, 250):
            batch = {k: v.to(device) for k, v in self.encode(said[start : start + 250]).items()}
            logits = self.reader(batch["ids"], batch["mask"])
            for target, (name, scores) in zip(batch["targets"].unbind(1), logits.items(), strict=True):
                right = (scores.argmax(-1) == target).float()
                hits[name] += right[target != NOT_SAID].tolist()
                unsaid += right[target == NOT_SAID].tolist()
        flat = [hit for values in hits.values() for hit in values]
        each = {f"said/{name}": _mean(values) for name, values in hits.items()}
        return {"said": _mean(flat), "unsaid": _mean(unsaid), **each}


def sentences(count: int, seed: int, purpose: str, split: str = "train") -> Iterator[Said]:
    """Sentences of the world, each with the fields that it mentions."""
    for index in range(count):
        yield _say(generator_for(seed, "sentence", purpose, index), split)


def train_tokenizer(lines: Iterable[str], vocab_size: int) -> Tokenizer:
    """A lower-casing Unigram tokenizer: pad, end and unknown as tokens 0, 1 and 2, the commonest words, and
    letters.

    The world has some hundred words, so each is a piece of its own, as likely as it is common. A letter is
    far less likely than any word: only words that nobody trained on are spelt.
    """
    normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    counts = Counter[str]()
    for line in lines:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)))
    letters = [SPACE, *(chr(code) for code in range(33, 127) if not chr(code).isupper())]
    room = vocab_size - len(MARKS) - len(letters)
    if room < 1:
        least = len(MARKS) + len(letters) + 1
        raise ValueError(f"vocab_size={vocab_size}: must leave room for words; the nearest that works is {least}")
    # Equally common words stand in the order of the alphabet, so that the same lines give the same file.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [(word, count) for word, count in ranked if word not in letters][:room]
    total = sum(counts.values())
    pieces = [(mark, 0.0) for mark in MARKS] + [(word, math.log(count / total)) for word, count in words]
    pieces += [(letter, LETTER_SCORE) for letter in letters]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=MARKS.index(UNK)))
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, splitter, decoders.Metaspace()
    backend.add_special_tokens(list(MARKS))
    backend.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    return Tokenizer(backend, pad_token=PAD)


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write `tokenizer/`, which transformers reads as a `PreTrainedTokenizerFast`."""
    where = folder / "tokenizer"
    where.mkdir(parents=True, exist_ok=True)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.max_length,
        "pad_token": PAD,
        "eos_token": EOS,
        "unk_token": UNK,
    }
    (where / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    tokenizer.backend.save(str(where / "tokenizer.json"))


def save_text_encoder(folder: Path, encoder: TextEncoder) -> None:
    """Write `text_encoder/` in transformers' layout, in float32."""
    from safetensors.torch import save_file

    where = folder / "text_encoder"
    where.mkdir(parents=True, exist_ok=True)
    config = configs.text_config_to_transformers(encoder.config, "float32")
    (where / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = encoder.model.state_dict()
    # The token embedding has two names; files hold one.
    tensors = {n: v.detach().cpu().contiguous() for n, v in state.items() if n != "encoder.embed_tokens.weight"}
    save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})


def _say(generator: torch.Generator, split: str, strange: float = 0.0) -> Said:
    scene = sample_scene(generator, split)
    if draw_float(generator) < EMPTY_SHARE:
        return "", {}
    text, mentioned = sentence_with_fields(scene, generator)
    if draw_float(generator) < strange:
        text = _with_strange_words(text, generator)
    return text, {name: getattr(scene, name) for name in mentioned if getattr(scene, name) is not None}


def _with_strange_words(text: str, generator: torch.Generator) -> str:
    """With one or two words that mean nothing: people use words that the world has none of."""
    words = text.split(" ")
    for _ in range(draw_int(generator, 1, 3)):
        letters = [chr(97 + draw_int(generator, 0, 26)) for _ in range(draw_int(generator, 3, 9))]
        words.insert(draw_int(generator, 0, len(words) + 1), "".join(letters))
    return " ".join(words)


def _class_of(name: str, value: str | None) -> int:
    return NOT_SAID if value is None else 1 + VOCABULARY[name].index(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
