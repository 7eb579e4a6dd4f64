"""Captions by Qwen2.5-VL, which SkyCaptioner-V1 is, with transformers.

Follows the released captioner's script: 16 frames, a temperature of 0.05, 2048 tokens. Frames are made into patches
here, without the video processor and its torchvision; the answer is held to the schema while it is written. The one
invariant: a film has the same caption every time, and whatever the weights are, it is a caption.
"""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from everreel.caption.constrained import Constraint, caption_grammar
from everreel.caption.frames import FrameRule, Patches, film_patches
from everreel.caption.schema import StructuralCaption, parse_caption
from everreel.caption.wording import END, check_tokenizer, question
from everreel.film.device import check_device, default_dtype
from everreel.media import FrameSource
from everreel.memory import give_back_freed_memory
from everreel.model.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ATTENTION = ("sdpa", "eager", "flash_attention_2")
DTYPES = ("bfloat16", "float16", "float32")
TEMPERATURE, MAX_TOKENS = 0.05, 2048
_KIND = "qwen2_5_vl"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
_FILM = 2  # what transformers calls a place of a film, where a word is 0


class QwenCaptioner:
    """A Qwen2.5-VL that writes structured captions.

    Args:
        path: a folder as transformers saves it, or a hub's repository such as `Skywork/SkyCaptioner-V1`.
        dtype: bfloat16, float16 or float32; by default what suits the device.
        attention: sdpa, eager or flash_attention_2.
        rule: how frames are shown; by default as released, and as the folder's `preprocessor_config.json` says.

    Raises:
        ValueError: it is no Qwen2.5-VL, cannot be loaded whole, or a value is none of the above.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "cpu",
        dtype: str | None = None,
        attention: str = "sdpa",
        *,
        rule: FrameRule | None = None,
        max_tokens: int = MAX_TOKENS,
        temperature: float = TEMPERATURE,
    ) -> None:
        check_device(device)
        where = torch.device(device)
        qwen = load_qwen(path, dtype or str(default_dtype(where)).removeprefix("torch."), attention)
        self.rule = rule or FrameRule.of_model(qwen.folder, qwen.model.config.vision_config)
        self._writer: Writer | None = Writer(qwen.tokenizer, qwen.model, max_tokens, temperature)
        qwen.model.to(where).eval()

    def caption(self, frames: FrameSource, fps: float) -> StructuralCaption:
        """See `Captioner`; of frames that lie in a file, only those that are seen are read."""
        if self._writer is None:
            raise ValueError(f"captioner: is closed; make another {type(self).__name__}")
        return self._writer.caption(film_patches(frames, fps, self.rule))

    def close(self) -> None:
        """Free the model."""
        self._writer = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        give_back_freed_memory()


class Writer:
    """Writes the captions of films that are patches already, with a model that is there.

    Raises:
        ValueError: `max_tokens` hold no caption.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        model: Any,  # noqa: ANN401 -- transformers' Qwen2_5_VLForConditionalGeneration, whose types say little
        max_tokens: int = MAX_TOKENS,
        temperature: float = TEMPERATURE,
    ) -> None:
        self._tokenizer, self._model = tokenizer, model
        self._max_tokens, self._temperature = max_tokens, temperature
        self._end: int = tokenizer.get_added_vocab()[END]
        self._grammar = caption_grammar(tokenizer, model.config.text_config.vocab_size, self._end)
        Constraint(self._grammar, max_tokens, temperature, torch.Generator())  # which says whether it can be

    def caption(self, patches: Patches) -> StructuralCaption:
        """The caption of one film.

        Raises:
            ValueError: the film and the question leave no room for an answer.
        """
        config = self._model.config
        asked = question(self._tokenizer, patches.num_tokens(config.vision_config.spatial_merge_size))
        room = config.text_config.max_position_embeddings - len(asked)
        generator = torch.Generator().manual_seed(0)
        most = min(self._max_tokens, room)
        try:
            constraint = Constraint(self._grammar, most, self._temperature, generator)
        except ValueError:
            least = f"its question alone has {len(asked)} tokens of {len(asked) + room}; fewer pixels or frames work"
            raise ValueError(f"frames: {least}") from None
        inputs = model_inputs([asked], [patches], config.video_token_id)
        settings = copy.deepcopy(self._model.generation_config)
        # Nothing of the folder's own settings counts: the choice of words is made by the constraint.
        settings.update(do_sample=False, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0)
        settings.update(max_new_tokens=most, eos_token_id=self._end, pad_token_id=self._end)
        with torch.inference_mode(), quiet():
            from transformers import LogitsProcessorList

            here = {name: value.to(self._model.device) for name, value in inputs.items()}
            here["pixel_values_videos"] = here["pixel_values_videos"].to(self._model.dtype)
            rows = self._model.generate(
                **here, generation_config=settings, logits_processor=LogitsProcessorList([constraint])
            )
        said = rows[0, len(asked) :].tolist()
        return parse_caption(str(self._tokenizer.decode(said, skip_special_tokens=True)))


@dataclass(frozen=True)
class Qwen:
    """A Qwen2.5-VL on the CPU, as transformers has it, and the folder that it comes from."""

    folder: Path
    tokenizer: PreTrainedTokenizerFast
    model: Any


def load_qwen(path: str | Path, dtype: str = "float32", attention: str = "sdpa") -> Qwen:
    """Load a Qwen2.5-VL, all of it.

    Raises:
        ValueError: as `QwenCaptioner`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype!r}: must be one of {', '.join(DTYPES)}; bfloat16 works")
    if attention not in ATTENTION:
        raise ValueError(f"attention = {attention!r}: must be one of {', '.join(ATTENTION)}; sdpa works")
    folder = _folder(path)
    with quiet():
        from safetensors import SafetensorError
        from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation=attention, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ValueError(f"model = {str(path)!r}: cannot be loaded ({_line(error)})") from None
    model, notes = loaded
    if missing := sorted(notes["missing_keys"]):
        count = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ValueError(f"model = {str(path)!r}: its files lack {missing[0]}{count}; download it again")
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"model = {str(path)!r}: has no tokenizer.json; the folder of a Qwen2.5-VL has one")
    check_tokenizer(tokenizer, str(path))
    return Qwen(folder, tokenizer, model)


def model_inputs(rows: Sequence[Sequence[int]], films: Sequence[Patches], video_token: int) -> dict[str, Tensor]:
    """What the model takes of some conversations, each with its film: tokens (B, L), padded behind, and patches."""
    longest = max(len(row) for row in rows)
    ids_BL, seen_BL = (torch.zeros(len(rows), longest, dtype=torch.int64) for _ in range(2))
    for number, row in enumerate(rows):
        ids_BL[number, : len(row)] = torch.tensor(row)
        seen_BL[number, : len(row)] = 1
    return {
        "input_ids": ids_BL,
        "attention_mask": seen_BL,
        "mm_token_type_ids": torch.where(ids_BL == video_token, _FILM, 0),
        "pixel_values_videos": torch.cat([film.pixel_values_videos for film in films]),
        "video_grid_thw": torch.cat([film.video_grid_thw for film in films]),
        "second_per_grid_ts": torch.cat([film.second_per_grid_ts for film in films]),
    }


def _folder(path: str | Path) -> Path:
    """The folder of a model, once it says that it is of the kind."""
    folder = Path(path).expanduser()
    if not folder.exists():
        folder = _downloaded(str(path))
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"model = {str(path)!r}: has no config.json; the folder of a Qwen2.5-VL works")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise ValueError(f"model = {str(path)!r}: its config.json is no JSON object") from None
    if kind != _KIND:
        raise ValueError(f"model = {str(path)!r}: is of the kind {kind!r}; must be {_KIND!r}, as SkyCaptioner-V1 is")
    return folder


def _downloaded(name: str) -> Path:
    """A hub's repository, from this machine if it is here."""
    with quiet():
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, allow_patterns=_FILES))
        except (OSError, ValueError) as error:  # all that the hub's library raises is one of them
            rule = "there is no such folder, and it cannot be had from the hub"
            raise ValueError(f"model = {name!r}: {rule} ({_line(error)})") from None


def _line(error: BaseException) -> str:
    """The first words of an error."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 160 else f"{words[:157]}..."
