"""Prompts that were made whole, and who is not asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

from everreel.answers import ChatError
from everreel.prompt.enhancer import Enhanced
from everreel.prompt.remembered import Remembered

PROMPT = "a fox \u2028 狐狸"


class Counts:
    """Says something else each time."""

    def __init__(self) -> None:
        self.asked = 0

    def enhance(self, prompt: str, *, has_image: bool) -> Enhanced:
        self.asked += 1
        if prompt == "nothing":
            raise ChatError("model = m: answered nothing")
        return Enhanced(f"{prompt}, {self.asked}", "m", True, ("asdf",), "counted")


def test_what_was_answered_is_answered_so_again(tmp_path: Path) -> None:
    who, path = Counts(), tmp_path / "prompts.jsonl"
    first = Remembered(who, path, "m", False)
    made = first.enhance(PROMPT, has_image=False)
    assert first.enhance(PROMPT, has_image=False) == made
    assert Remembered(who, path, "m", False).enhance(PROMPT, has_image=False) == made
    assert who.asked == 1 and made.unknown == ("asdf",) and made.describe() == "m: counted; not known, kept: asdf"


def test_with_a_picture_by_another_model_or_for_another_it_is_another_question(tmp_path: Path) -> None:
    who, path = Counts(), tmp_path / "prompts.jsonl"
    for backend, world, has_image in (("m", False, False), ("n", False, False), ("m", True, False), ("m", False, True)):
        for _ in range(2):
            Remembered(who, path, backend, world).enhance("a fox", has_image=has_image)
    assert who.asked == 4


def test_a_refusal_is_not_remembered_and_half_an_answer_is_none(tmp_path: Path) -> None:
    who, path = Counts(), tmp_path / "prompts.jsonl"
    with pytest.raises(ChatError):
        Remembered(who, path, "m", False).enhance("nothing", has_image=False)
    assert not path.exists()
    Remembered(who, path, "m", False).enhance("a fox", has_image=False)
    path.write_bytes(path.read_bytes()[:-9])
    assert Remembered(who, path, "m", False).enhance("a fox", has_image=False).text == "a fox, 3"
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a fox"}',
        '{"prompt": 1, "has_image": false, "world": false, "backend": "m", "enhanced": {"text": "a"}}',
        '{"prompt": "a", "has_image": false, "world": false, "backend": "m", "enhanced": {"text": "a"}}',
        '{"prompt": "a", "has_image": false, "world": false, "backend": "m", "enhanced": null}',
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"prompts = .*prompts\.jsonl.*: is no file of prompts that were made whole"):
        Remembered(Counts(), path, "m", False)
    assert path.read_text() == line + "\n"
