"""A tokenizer out of a SentencePiece model, as ComfyUI's text encoder files carry it in a tensor of bytes.

Source: SentencePiece's `ModelProto`, of which four fields count; the pieces of umT5 are a Unigram model that falls back
to bytes. The one invariant: a text is cut into the pieces that SentencePiece cuts it into, and `</s>` follows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

SPACE = "\u2581"  # what stands for the space before a word
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_PIECES, _NORMALIZER = 1, 3  # fields of the model
_TEXT, _SCORE, _TYPE = 1, 2, 3  # of a piece
_CHARSMAP = 2  # of the normalizer


def tokenizer_from_spiece(content: bytes) -> tokenizers.Tokenizer:
    """The tokenizer that a SentencePiece model describes.

    Raises:
        ValueError: the bytes are none.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces: list[tuple[str, float]] = []
    special: list[str] = []
    unknown, has_bytes, charsmap = None, False, b""
    try:
        for field, value in _fields(content):
            if field == _PIECES:
                found = dict(_fields(_bytes(value)))
                text, kind = _bytes(found[_TEXT]).decode(), found.get(_TYPE, 1)
                if kind == _UNKNOWN:
                    unknown = len(pieces)
                if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED):
                    special.append(text)
                has_bytes |= kind == _BYTE
                pieces.append((text, struct.unpack("<f", _bytes(found.get(_SCORE, bytes(4))))[0]))
            elif field == _NORMALIZER:
                charsmap = _bytes(dict(_fields(_bytes(value))).get(_CHARSMAP, b""))
        if unknown is None or "</s>" not in special:
            raise ValueError("it has no unknown piece or no </s>")
    except (KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"the tokenizer in it is no SentencePiece model ({error})") from None
    backend = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=has_bytes))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(charsmap)] if charsmap else []
    steps += [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), SPACE)]
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    end = [text for text, _ in pieces].index("</s>")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return backend


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a protobuf message: its number, and its bytes or whole number."""
    at = 0
    while at < len(message):
        key, at = _whole_number(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _whole_number(message, at)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind, 0)
        if kind == 2:
            length, at = _whole_number(message, at)
        elif not length:
            raise ValueError(f"a field of the kind {kind}")
        if at + length > len(message):
            raise ValueError("it is cut off")
        yield key >> 3, message[at : at + length]
        at += length


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where text should be")
    return value


def _whole_number(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
