"""What is decided at which level: sentences that differ in one thing, clips between noise and what they are."""

import pytest
import torch

from benchmarks.levels import FIELDS, VAE_ALONE, clip_of, main, otherwise_of, read_from, rises, way_of
from everreel.data.text import FrozenText
from everreel.evaluate.prompts import held_out_scenes
from everreel.film.pipeline import VideoPipeline

SCENES = held_out_scenes(6)


@pytest.mark.parametrize("number", range(6))
def test_sentences_say_one_thing_otherwise(number):
    text, asked, others = otherwise_of(SCENES[number], number)
    assert set(others) <= set(asked) <= set(FIELDS) and len(others) >= len(asked) - 1
    assert all(sentence != text for sentence in others.values()) and len({*others.values()}) == len(others)
    assert otherwise_of(SCENES[number], number) == (text, asked, others)


@pytest.fixture(scope="module")
def pipe():
    return VideoPipeline.from_pretrained("tiny", device="cpu", dtype=torch.float32)


def test_a_model_that_knows_a_word_is_worse_with_another(pipe):
    text, rows = FrozenText(pipe.tokenizer, pipe.text_encoder), []
    for number in range(3):
        rows.append(rises(pipe, text, clip_of(pipe, SCENES[number], number, 5), 0.9))
    assert sum(row["place"] for row in rows) > 0.1 and sum(row["color"] for row in rows) > 0


def test_a_clip_that_is_hardly_noised_stays_what_it_is(pipe):
    text, seen = FrozenText(pipe.tokenizer, pipe.text_encoder), []
    clip = clip_of(pipe, SCENES[1], 1, 5)

    def read(frames, fps):
        seen.append(torch.from_numpy(frames.copy()).float())
        return {name: {value: 1.0, "other": 0.0} for name, value in clip.asked.items()}

    for level in (VAE_ALONE, 0.3, 1.0):
        found = read_from(pipe, text, clip, way_of(pipe.card, 8), level, read)
        assert found == dict.fromkeys(clip.asked, 1.0)
    clean, near, far = seen
    assert 0 < (near - clean).abs().mean() < 0.5 * (far - clean).abs().mean()


def test_the_page_has_a_row_for_each_level(tmp_path):
    page = tmp_path / "levels.md"
    main(
        [
            "--num-films",
            "2",
            "--num-frames",
            "5",
            "--steps",
            "3",
            "--levels",
            "0.9",
            "--starts",
            "1",
            "--page",
            str(page),
        ]
    )
    text = page.read_text()
    assert "| 0.9 | +" in text or "| 0.9 | -" in text
    assert "| 1 | " in text and "| the VAE alone | " in text and "of 2 |" in text
