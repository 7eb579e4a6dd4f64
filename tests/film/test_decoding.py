"""Pieces to frames, and the three joins against a plain reading of what they are."""

import numpy as np
import pytest
import torch

from everreel.film.decoding import FrameDecoder, to_uint8
from everreel.film.pipeline import VideoPipeline
from everreel.film.placement import Placement
from everreel.film.request import make_request
from everreel.model.vae import CausalVAE


def latents(count, seed=0):
    return torch.randn(16, count, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def film(pipe):
    """Nine latents and their video, decoded at once."""
    with torch.no_grad():
        return latents(9), pipe.vae.decode(latents(9)[None])[0]


def played(pipe, join, pieces=(4, 5), overlap=3):
    decoder = FrameDecoder(pipe.vae, join, overlap)
    frames = [decoder(piece) for piece in latents(9).split(list(pieces), dim=1)]
    return decoder, np.concatenate(frames)


@pytest.mark.parametrize("join", ["carry", "reencode", "hybrid"])
def test_pieces_are_the_film(pipe, film, join):
    _, frames = played(pipe, join)
    assert np.abs(frames.astype(int) - to_uint8(film[1])).max() <= 1


def test_no_more_is_decoded_at_a_time_than_may_be(pipe, monkeypatch):
    """Of what a join decodes again, a film that is looked back at and a preview either."""
    decode, counts = CausalVAE.decode_stream, []

    def counted(vae, latents_BCTHW, state=None):
        counts.append(latents_BCTHW.shape[2])
        return decode(vae, latents_BCTHW, state)

    monkeypatch.setattr(CausalVAE, "decode_stream", counted)
    whole, piecemeal = (FrameDecoder(pipe.vae, "reencode", 3, at_once=at_once) for at_once in (9, 2))
    for decoder in (whole, piecemeal):
        decoder.look_back(latents(9))
        decoder.join(latents(9)[:, -3:])
        decoder(latents(4))
    assert counts == [9, 3, 4, 2, 2, 2, 2, 1, 2, 1, 2, 2]
    torch.testing.assert_close(whole.tail, piecemeal.tail, rtol=1e-4, atol=1e-4)
    counts.clear()
    request = make_request(prompt="a red fox", num_frames=17, height=32, width=48, num_inference_steps=1)
    monkeypatch.setattr(pipe, "placement", Placement(pipe.device, torch.float32, decode_latents=1))
    for _ in pipe.stream(request, on_progress=lambda progress: progress.preview()):
        pass
    assert set(counts) == {1}


def test_carried_latents_are_the_same_and_decoding_goes_on__released_defect_16(pipe):
    decoder, _ = played(pipe, "carry")
    before, history = decoder.state, latents(9)[:, -3:]
    assert decoder.join(history) is history and decoder.state is before and decoder.tail is None


@pytest.mark.parametrize("pieces", [(4, 5), (8, 1), (9,)])
def test_encoded_again_is_the_pixels_of_the_end(pipe, film, pieces):
    """17 frames are five latents, here 9 are three: the newest, in whatever pieces they came."""
    decoder, _ = played(pipe, "reencode", pieces)
    joined = decoder.join(latents(9)[:, -3:])
    with torch.no_grad():
        torch.testing.assert_close(joined, pipe.vae.encode(film[1][None, :, -9:])[0], rtol=1e-4, atol=1e-4)


def test_hybrid_encodes_the_first_one_only(pipe, film):
    """The frame that the first one ends with; it was a latent of four and becomes one of a single frame."""
    decoder, _ = played(pipe, "hybrid")
    joined = decoder.join(latents(9)[:, -3:])
    with torch.no_grad():
        first = pipe.vae.encode(film[1][None, :, -9:-8])[0, :, 0]
    torch.testing.assert_close(joined[:, 0], first, rtol=1e-4, atol=1e-4)
    assert torch.equal(joined[:, 1:], latents(9)[:, -2:])


@pytest.mark.parametrize("join", ["reencode", "hybrid"])
def test_after_a_join_decoding_begins_at_its_front(pipe, join):
    """As released: a window is decoded from its own first latent, and the frames of the overlap are dropped."""
    decoder, _ = played(pipe, join)
    joined = decoder.join(latents(9)[:, -3:])
    new = latents(4, seed=1)
    frames = decoder(new)
    with torch.no_grad():
        window = to_uint8(pipe.vae.decode(torch.cat([joined, new], dim=1)[None])[0])
    assert frames.shape == (16, 32, 48, 3) and np.abs(frames.astype(int) - window[9:]).max() <= 1


def test_what_is_encoded_again_is_encoded_in_float32(pipe):
    half = VideoPipeline.from_pretrained(pipe.card.path, device="cpu", dtype=torch.bfloat16)
    decoder = FrameDecoder(half.vae, "reencode", 3)
    assert {parameter.dtype for parameter in decoder.vae.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in half.vae.parameters()} == {torch.bfloat16}
    assert FrameDecoder(half.vae, "carry", 3).vae is half.vae


def test_the_tail_is_no_longer_than_a_join_needs(pipe):
    decoder, _ = played(pipe, "reencode", (1,) * 9)
    assert decoder.tail.shape == (3, 9, 32, 48)


def test_a_window_sees_what_the_join_made(pipe):
    """From words to film: the first window is the same for all, the second differs with the join and has no gap."""
    films = {}
    for join in ("carry", "reencode", "hybrid"):
        request = make_request(
            prompt="a red fox", num_frames=41, height=32, width=48, num_inference_steps=2, join=join, overlap_history=9
        )
        films[join] = np.concatenate([block.frames for block in pipe.stream(request)]).astype(int)
    assert {len(film) for film in films.values()} == {41}
    for other in ("reencode", "hybrid"):
        assert np.abs(films["carry"][:25] - films[other][:25]).max() <= 1
        assert np.abs(films["carry"][25:] - films[other][25:]).max() > 1


def test_windows_fade_into_each_other_and_no_frame_is_lost(pipe):
    """Held back until the next window has made them too, then from the one to the other, a little more each frame."""
    plain, fading = (FrameDecoder(pipe.vae, "reencode", 3, blend) for blend in (False, True))
    handed = [[decoder(latents(9)[:, :5])] for decoder in (plain, fading)]
    assert [len(frames[0]) for frames in handed] == [17, 17 - 9]
    again = [decoder.join(latents(9)[:, 2:5]) for decoder in (plain, fading)]
    assert torch.equal(*again)
    with torch.no_grad():
        made = to_uint8(pipe.vae.decode_stream(again[0][None].to(torch.float32), None)[0][0])
    for decoder, frames in zip((plain, fading), handed, strict=True):
        frames.append(decoder(latents(9, seed=1)[:, :4]))
    handed[1].append(fading.flush())
    old, new = (np.concatenate(frames).astype(int) for frames in handed)
    assert old.shape == new.shape and fading.held is None
    assert np.array_equal(old[:8], new[:8]) and np.array_equal(old[17:], new[17:])
    share = np.arange(1, 10)[:, None, None, None] / 10
    assert np.abs(new[8:17] - (old[8:17] * (1 - share) + made.astype(int) * share)).max() <= 1
    assert len(plain.flush()) == 0


def test_the_decoder_keeps_nothing_of_a_window_that_is_over(pipe):
    """What it keeps is gigabytes at full size, and the next window is denoised in the meantime."""
    states = {}
    for join in ("carry", "reencode", "hybrid"):
        request = make_request(
            prompt="a red fox", num_frames=41, height=32, width=48, num_inference_steps=2, join=join, overlap_history=9
        )
        states[join] = [block.state for block in pipe.stream(request) if block.state is not None]
    assert len(states["carry"]) == 2 and all(state.decoder is not None for state in states["carry"])
    for join in ("reencode", "hybrid"):
        ends, last = states[join]
        assert ends.decoder is None and last.decoder is not None
    decoder, _ = played(pipe, "reencode")
    decoder.join(latents(9)[:, -3:])
    assert decoder.state is None, "it stands behind the front before the window's own latents come"


def test_joins_are_computed_in_all_of_float32__released_defect_17(pipe, monkeypatch):
    """NVIDIA's convolutions round to 10 bits where they may."""
    seen = []
    for name in ("encode", "decode_stream"):
        method = getattr(CausalVAE, name)

        def told(self, *args, method=method, name=name):
            seen.append((name, torch.backends.cudnn.conv.fp32_precision))
            return method(self, *args)

        monkeypatch.setattr(CausalVAE, name, told)
    before = torch.backends.cudnn.conv.fp32_precision
    decoder, _ = played(pipe, "reencode")
    decoder.join(latents(9)[:, -3:])
    decoder(latents(4))
    assert {name for name, _ in seen} == {"encode", "decode_stream"} and {how for _, how in seen} == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before
