"""Answers that are valid whatever the scores are: of random models, of stubborn ones, and at every length."""

import json

import pytest
import torch

from everreel.caption.constrained import MOST_SUBJECTS, Constraint, Grammar, caption_grammar, repeats
from everreel.caption.schema import StructuralCaption, caption_schema
from tests.caption.qwen import SPARE, train_tokenizer

PROMPT = [5, 6, 7]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return caption_grammar(tokenizer, len(tokenizer) + SPARE, tokenizer.eos_token_id)


def write(grammar, max_tokens, score, temperature=0.0):
    """The tokens of an answer, each the one of the highest score; the mark of its end is among them."""
    constraint = Constraint(grammar, max_tokens, temperature, torch.Generator().manual_seed(1))
    tokens = []
    while grammar.end not in tokens:
        assert len(tokens) < max_tokens
        scores = constraint(torch.tensor([[*PROMPT, *tokens]]), score(tokens)[None])
        tokens.append(int(scores[0].argmax()))
    return tokens


def noise(tokenizer, seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda tokens: torch.randn(len(tokenizer) + SPARE, generator=generator) * 3


def wants(tokenizer, *texts):
    """Scores of a model that would say this over and over."""
    row = [tokenizer.encode(text) for text in texts]
    flat = [token for tokens in row for token in tokens]

    def score(tokens):
        scores = torch.zeros(len(tokenizer) + SPARE)
        scores[flat] = 5.0
        scores[flat[len(tokens) % len(flat)]] = 9.0
        return scores

    return score


def text_of(tokenizer, tokens):
    return tokenizer.decode(tokens[:-1])


@pytest.mark.parametrize("seed", range(6))
def test_random_scores_write_a_caption(tokenizer, grammar, seed):
    text = text_of(tokenizer, write(grammar, 500, noise(tokenizer, seed), temperature=(0, 0.05, 1)[seed % 3]))
    caption = StructuralCaption.model_validate_json(text)
    assert json.dumps(json.loads(text), ensure_ascii=False) == text
    assert list(json.loads(text)) == list(caption_schema()["properties"])
    assert len(caption.subjects) <= MOST_SUBJECTS


def test_every_limit_is_kept(tokenizer, grammar):
    """Whatever has been begun when the tokens run out: a name, a character, an escape, a subject."""
    least = grammar.shortest + grammar.growth + 1
    for extra in range(0, 150, 11):
        StructuralCaption.model_validate_json(
            text_of(tokenizer, write(grammar, least + extra, noise(tokenizer, extra)))
        )
    with pytest.raises(ValueError, match=rf"^max_tokens = {least - 1}: .* the nearest that works is {least}$"):
        Constraint(grammar, least - 1, 0.0, torch.Generator())


@pytest.mark.parametrize("half", ["é", "🦊", "\\u00", "\\"])
def test_what_is_half_said_is_ended(tokenizer, grammar, half):
    """A character of several bytes, an escape: the first token of it, and then the limit."""
    begun = grammar.begin()
    first = grammar.tokens.tokenize_bytes(b'{"subjects": [{"TYPES": {"type": "')
    assert begun.try_consume_tokens(first) == len(first)
    data = half.encode()
    data = data[:-1] if data[0] > 127 else data
    half_said = grammar.tokens.tokenize_bytes(data)
    assert begun.try_consume_tokens(half_said) == len(half_said)
    end = grammar.shortest_end(begun)
    text = grammar.tokens.decode_bytes([*first, *half_said, *end]).decode()
    assert len(StructuralCaption.model_validate_json(text).subjects) == 1
    assert len(end) <= grammar.shortest + grammar.growth


def test_what_it_would_rather_say_is_not_said(tokenizer, grammar):
    for texts in (("Sure! Here is the caption:",), ("```json\n{",), ('{"subjects": 5}',), ("<|im_end|>",), ("\n", " ")):
        StructuralCaption.model_validate_json(text_of(tokenizer, write(grammar, 400, wants(tokenizer, *texts))))


def test_it_does_not_say_the_same_for_ever(tokenizer, grammar):
    tokens = write(grammar, 4000, wants(tokenizer, " the fox"))
    caption = StructuralCaption.model_validate_json(text_of(tokenizer, tokens))
    assert len(tokens) < 1500
    assert 3 <= caption.environment.count("the fox") <= 20


def test_repeats():
    assert repeats([7] * 24) and not repeats([7] * 23)
    assert repeats([1, 2, 3, *[4, 5, 6] * 8]) and not repeats([*[4, 5, 6] * 8, 7])
    assert repeats(list(range(64)) * 3) and not repeats(list(range(65)) * 3)
    assert not repeats(list(range(64)) * 2 + list(range(63))) and not repeats([])


def test_scores_that_are_no_numbers(tokenizer, grammar):
    broken = torch.full((len(tokenizer) + SPARE,), torch.nan)
    broken[::2] = torch.inf
    StructuralCaption.model_validate_json(text_of(tokenizer, write(grammar, 400, lambda tokens: broken)))


def test_the_same_seed_draws_the_same(tokenizer, grammar):
    first, again = (write(grammar, 300, noise(tokenizer, 3), temperature=0.7) for _ in range(2))
    assert first == again != write(grammar, 300, noise(tokenizer, 3))


def test_a_schema_that_cannot_be_followed(tokenizer):
    with pytest.raises(ValueError, match=r"^schema: cannot be followed") as caught:
        Grammar(tokenizer, {"type": "of another kind"}, "{", len(tokenizer), tokenizer.eos_token_id)
    assert "\n" not in str(caught.value)


def test_without_the_library_it_says_what_to_install(tokenizer, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(ValueError, match=r"^llguidance: .* install everreel\[caption\]$"):
        caption_grammar(tokenizer, len(tokenizer), tokenizer.eos_token_id)
