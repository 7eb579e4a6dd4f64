"""Answers held to a JSON schema while they are written, so that each is valid by construction.

The grammar, and which tokens it allows, are llguidance's: the library that vLLM and llama.cpp use for the same. What
is ours is how an answer ends: before the limit of tokens leaves too few for the shortest valid end, that end is
written, and a string that has begun to repeat itself is closed. The one invariant: whatever the model's scores are,
what is written within `max_tokens` is the whole JSON of an object of the schema.

Shape suffixes: B = 1 answer, L tokens, V tokens of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from everreel.caption.schema import caption_schema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_SUBJECTS = 12
MOST_CHARACTERS = 1500
"""Of one field: twice what the longest of the published examples has."""
REPEATS, REPEATED_TOKENS, LONGEST_REPEAT = 3, 24, 64
"""A string repeats itself where its last words stand there this often, are so many tokens in all, and each so short."""
_ENDS = (b'"', b"]", b"}")
_SLACK = 24
"""Tokens that the end of an enumerated value, an escape or a character may take."""


def caption_grammar(tokenizer: PreTrainedTokenizerFast, vocabulary: int, end: int) -> Grammar:
    """The grammar of a structured caption, as `Grammar`."""
    return Grammar(tokenizer, bounded(caption_schema()), '{"subjects": [{', vocabulary, end)


class Grammar:
    """What a schema allows, in the tokens of one tokenizer; serves any number of answers, one after the other.

    Args:
        tokenizer: transformers' fast tokenizer.
        schema: a JSON schema of an object, without references.
        opened: the beginning of an answer that has just opened what takes longest to be closed again.
        vocabulary: how many scores the model gives, often more than the tokenizer has tokens.
        end: the token that ends an answer.

    Raises:
        ValueError: llguidance is not installed, or cannot follow the schema or the tokenizer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, schema: Mapping[str, Any], opened: str, vocabulary: int, end: int
    ) -> None:
        try:
            from llguidance import LLMatcher
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise ValueError("llguidance: captions by a local model need it; install everreel[caption]") from None
        # The spaces of Python's json, which the published examples have; no others, which a model could go on writing.
        spaces: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        self.tokens = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=end)
        self.end = end
        self._empty = LLMatcher(self.tokens, LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=spaces))
        if self._empty.is_error():
            raise ValueError(f"schema: cannot be followed ({' '.join(self._empty.get_error().split())})")
        begun, beginning = self.begin(), self.tokens.tokenize_str(opened)
        consumed = begun.try_consume_tokens(beginning)
        assert consumed == len(beginning), f"no answer begins with {opened}"
        self.shortest = len(self.shortest_end(self.begin()))
        self.growth = max(0, len(self.shortest_end(begun)) - self.shortest) + _SLACK
        """By how many tokens one that is written can lengthen the shortest end: it may open another subject."""

    def begin(self) -> Any:  # noqa: ANN401 -- llguidance's matcher
        """The state before the first token."""
        return self._empty.deep_copy()

    def allowed(self, state: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:  # noqa: ANN401
        """Which tokens (V,) may follow."""
        bits = np.frombuffer(state.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self.tokens.vocab_size].astype(bool)

    def shortest_end(self, state: Any) -> list[int]:  # noqa: ANN401
        """A short way from a state to the end of a whole object, as tokens; `state` stays as it is."""
        state = state.deep_copy()
        written: list[int] = []
        while not state.is_accepting():
            forced = state.compute_ff_tokens()
            more = forced or [self._towards_end(state)]
            consumed = state.try_consume_tokens(more)
            assert consumed == len(more), "a token that is allowed was refused"
            written += more
        return written

    def closes_string(self, state: Any) -> int | None:  # noqa: ANN401
        """The token that ends the string which is being written, if one is."""
        token = self.tokens.tokenize_bytes(_ENDS[0])[0]
        return token if state.validate_tokens([token]) else None

    def _towards_end(self, state: Any) -> int:  # noqa: ANN401
        """Where there is a choice: end a string, a list or an object, else whatever comes first, of which none is
        without an end: the values of an enumeration, what an escape lacks, the rest of a character.
        """
        for mark in _ENDS:
            token: int = self.tokens.tokenize_bytes(mark)[0]
            if state.validate_tokens([token]):
                return token
        return int(self.allowed(state).argmax())


class Constraint:
    """A logits processor for one answer: the scores of what the grammar does not allow are minus infinity.

    Args:
        grammar: what is allowed.
        max_tokens: how long the answer may be, with the token that ends it.
        temperature: words are drawn by their scores over this, with draws from `generator`; 0 takes the likeliest.

    Raises:
        ValueError: so few tokens hold no answer.
    """

    def __init__(self, grammar: Grammar, max_tokens: int, temperature: float, generator: torch.Generator) -> None:
        least = grammar.shortest + grammar.growth + 1
        if max_tokens < least:
            raise ValueError(f"max_tokens = {max_tokens}: no answer is that short; the nearest that works is {least}")
        self.grammar, self.max_tokens, self.temperature = grammar, max_tokens, temperature
        self._generator, self._state = generator, grammar.begin()
        self._prompt: int | None = None
        self._written: list[int] = []
        self._closing: list[int] = []

    def __call__(self, ids_BL: Tensor, scores_BV: Tensor) -> Tensor:
        """The scores of the next token; to be called once for each."""
        if self._prompt is None:
            self._prompt = ids_BL.shape[1]
        else:
            token = int(ids_BL[0, -1])
            self._written.append(token)
            consumed = self._state.try_consume_tokens([token])
            assert consumed or token == self.grammar.end, f"token {token} was written and is not allowed"
        assert ids_BL.shape[1] == self._prompt + len(self._written), "one answer, one token at a time"
        only = self._only_choice()
        allowed = np.zeros(scores_BV.shape[1], dtype=bool)
        if only is not None:
            allowed[only] = True
        else:
            found = self.grammar.allowed(self._state)
            allowed[: len(found)] = found
        scores_BV = scores_BV.float()
        if self.temperature > 0:  # the largest of scores with this noise on them is a draw of their softmax
            noise_BV = torch.empty(scores_BV.shape).exponential_(generator=self._generator).log_()
            scores_BV = scores_BV / self.temperature - noise_BV.to(scores_BV.device)
        # A model gone wrong scores with nan, which would win over everything that is allowed.
        finite = scores_BV.nan_to_num(0.0)
        return finite.masked_fill(~torch.from_numpy(allowed).to(finite.device), -torch.inf)

    def _only_choice(self) -> int | None:
        """The token that has to follow for a reason of ours."""
        if self._closing:
            return self._closing.pop(0)
        if self._state.is_accepting():
            return self.grammar.end
        left = self.max_tokens - len(self._written)
        # The end of what has been begun may be as long as that of a subject just opened.
        if left <= self.grammar.shortest + 2 * self.grammar.growth:
            end = self.grammar.shortest_end(self._state)
            if left <= len(end) + self.grammar.growth + 1:
                self._closing = end[1:]
                return end[0]
        return self.grammar.closes_string(self._state) if repeats(self._written) else None


def repeats(tokens: Sequence[int]) -> bool:
    """Whether the last tokens say one thing several times over."""
    for length in range(1, LONGEST_REPEAT + 1):
        times = max(REPEATS, -(-REPEATED_TOKENS // length))
        if length * times > len(tokens):
            continue
        last = tokens[-length * times :]
        if all(last[place] == last[place - length] for place in range(length, len(last))):
            return True
    return False


def bounded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema whose lists and strings cannot go on for ever."""
    found: dict[str, Any] = {
        name: bounded(value) if isinstance(value, Mapping) else value for name, value in schema.items()
    }
    if found.get("type") == "array":
        found["maxItems"] = MOST_SUBJECTS
    if found.get("type") == "string" and "enum" not in found:
        found["maxLength"] = MOST_CHARACTERS
    return found
