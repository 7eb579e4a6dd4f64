"""What a vision-language model is asked for a structured caption, and how its chat is written down.

The fields and their values are those of the released captioner's instruction, the words are ours. Qwen's chat is
ChatML; the film's patches stand where `<|video_pad|>` stands, one mark for each square of merged patches. The one
invariant: training and captioning ask the same question in the same tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everreel.caption.schema import SHOT_ANGLES, SHOT_POSITIONS, SHOT_TYPES, StructuralCaption

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

INSTRUCTION = f"""Describe this video as one JSON object, with nothing before or after it. Its keys, in this order:
"subjects": a list with one object for every person, animal or thing that matters in the video, the main one first, with
  "TYPES": an object with "type", the kind of subject (such as Human, Animal, Vehicles, Plant, Scenery, Sport), and \
"sub_type", which of that kind (such as Woman, Bird, Ship, Tree, Mountain);
  "appearance": how the subject looks, with clothes and colours;
  "action": what it does from the beginning of the video to its end;
  "expression": the feeling in its face, for humans and animals; empty for all others;
  "position": where it is in the picture, or beside, before or behind what;
  "is_main_subject": true for the main subject, false for the others.
"shot_type": how much of the subject is shown: {", ".join(SHOT_TYPES)}.
"shot_angle": how high the camera is: {", ".join(SHOT_ANGLES)}.
"shot_position": from which side it looks: {", ".join(SHOT_POSITIONS)}.
"camera_motion": how the camera moves; empty where it does not.
"environment": the place and the background.
"lighting": the light, and where it comes from.
A field of which the video shows nothing is an empty string."""

PAD, END = "<|video_pad|>", "<|im_end|>"
_MARKS = ("<|im_start|>", END, "<|vision_start|>", "<|vision_end|>", PAD)


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Refuse a tokenizer without the marks of Qwen's chat.

    Raises:
        ValueError: names the first that is missing, and whose tokenizer it is.
    """
    for mark in _MARKS:
        if tokenizer.get_added_vocab().get(mark) is None:
            raise ValueError(f"model = {name!r}: its tokenizer has no {mark}; that of a Qwen2.5-VL works")


def question(tokenizer: PreTrainedTokenizerFast, num_places: int) -> list[int]:
    """The tokens before the answer, of a film that takes so many places."""
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    user = f"<|im_start|>user\n<|vision_start|>{PAD * num_places}<|vision_end|>{INSTRUCTION}{END}\n"
    return _tokens(tokenizer, f"{system}{user}<|im_start|>assistant\n")


def answer(tokenizer: PreTrainedTokenizerFast, caption: StructuralCaption) -> list[int]:
    """The tokens of an answer, with the mark of its end."""
    # A caption may say anything, a mark of the chat too, which is then no mark.
    words: list[int] = tokenizer(caption.to_json(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*words, *_tokens(tokenizer, END)]


def _tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found
