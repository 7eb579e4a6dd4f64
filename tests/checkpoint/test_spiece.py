"""SentencePiece models: the pieces it would cut, written here field by field as its files are."""

import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from everreel.checkpoint import load
from everreel.checkpoint.source import find_source
from everreel.checkpoint.spiece import SPACE, tokenizer_from_spiece

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
WORDS = {f"{SPACE}a": -2.0, f"{SPACE}red": -3.0, f"{SPACE}fox": -3.5, f"{SPACE}fo": -2.5, "x": -9.0, "es": -4.0}
LETTERS = {SPACE: -8.0, **dict.fromkeys("adefhor", -10.0)}


def number(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(index, content):
    return number(index << 3 | 2) + number(len(content)) + content


def piece(text, score=0.0, kind=NORMAL):
    """As SentencePiece writes it: the kind is left out where it is the usual one."""
    content = field(1, text.encode()) + number(2 << 3 | 5) + struct.pack("<f", score)
    return field(1, content + (number(3 << 3) + number(kind) if kind != NORMAL else b""))


def model():
    pieces = [piece("<pad>", 0, CONTROL), piece("</s>", 0, CONTROL), piece("<unk>", 0, UNKNOWN)]
    pieces += [piece(f"<0x{byte:02X}>", 0, BYTE) for byte in range(256)]
    pieces += [piece(text, score) for text, score in (WORDS | LETTERS).items()]
    trainer = number(3 << 3) + number(1) + field(35, b"skipped" * 40)
    return b"".join(pieces) + field(2, trainer) + field(3, field(1, b"identity") + number(3 << 3) + number(1))


@pytest.mark.parametrize(
    "text,pieces",
    [
        ("a red fox", ["▁a", "▁red", "▁fox"]),
        ("  a   foxes  ", ["▁a", "▁fox", "es"]),
        ("fo", ["▁fo"]),
        ("é", ["▁", "<0xC3>", "<0xA9>"]),
        ("", []),
    ],
)
def test_the_best_pieces_and_the_end(text, pieces):
    assert tokenizer_from_spiece(model()).encode(text).tokens == [*pieces, "</s>"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 30, b"hello", model()[:-3], piece("a")])
def test_what_is_none_is_refused(content):
    with pytest.raises(ValueError, match="no SentencePiece model"):
        tokenizer_from_spiece(content)


def test_a_text_encoder_brings_its_tokenizer(comfy):
    file = comfy()
    text = file.parent.parent / "text_encoders"
    for inner in ("tokenizer.json", "tokenizer_config.json"):
        (text / "umt5-xxl" / inner).unlink()
    encoder = text / "umt5_xxl_fp16.safetensors"
    with pytest.raises(ValueError, match=r"'spiece_model' in .*umt5_xxl_fp16\.safetensors: .*no SentencePiece"):
        load.load_tokenizer(find_source(file))
    state = load_file(encoder) | {"spiece_model": torch.frombuffer(bytearray(model()), dtype=torch.uint8)}
    save_file(state, encoder)
    source = find_source(file)
    assert source.missing == () and source.tokenizer == encoder
    tokens = load.load_tokenizer(source)(["a red fox"], length=6)
    assert tokens.ids.tolist() == [[259, 260, 261, 1, 0, 0]] and tokens.mask.sum() == 4
