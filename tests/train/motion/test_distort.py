"""Distortions: each of the clip's size, each as its name says, and nothing by chance."""

from dataclasses import replace

import pytest
import torch

from everreel.checkpoint.load import load_transformer, load_vae
from everreel.data.draws import generator_for
from everreel.data.text import FrozenText
from everreel.diffusion.noise import draw_noise_frames
from everreel.diffusion.solver import sigmas_for
from everreel.train.generate import Wanted, Way
from everreel.train.motion.distort import KINDS, Distorter, Distortions, RealClip, film_of, shows
from everreel.train.motion.distort import Start as Beginning
from tests.train.motion.clips import BALL, FOX, frames_of

WAY = Way(8, guidance_scale=2.0)


@pytest.fixture(scope="module")
def tool(tiny_folder):
    vae = load_vae(tiny_folder)
    return Distorter(
        load_transformer(tiny_folder).eval(), FrozenText.load(tiny_folder), vae, WAY, Distortions(cache_strength=0.9)
    )


@pytest.fixture(scope="module")
def clip(tool):
    frames = frames_of(0)
    return RealClip(frames, tool.encode(frames[:9]), "a red fox", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_distortion_is_of_the_clips_size_and_no_chance(tool, clip, kind):
    film, facts = tool.distort(kind, clip, generator_for(3), 5)
    again, _ = tool.distort(kind, clip, generator_for(3), 5)
    assert film.shape == clip.latents_CTHW.shape and film.dtype == torch.float32
    assert torch.equal(film, again) and film.isfinite().all()
    assert (film - clip.latents_CTHW).abs().mean() > 0.01
    assert facts.get("seed", 5) == 5


def test_the_first_frame_is_kept_and_words_know_nothing_of_the_clip(tool, clip):
    film, _ = tool.distort("from_first_frame", clip, generator_for(3), 5)
    assert torch.equal(film[:, 0], clip.latents_CTHW[:, 0])
    other = replace(clip, latents_CTHW=clip.latents_CTHW.flip(1))
    assert not torch.equal(film, tool.distort("from_first_frame", other, generator_for(3), 5)[0])
    films = [tool.distort("from_text", one, generator_for(3), 5)[0] for one in (clip, other)]
    assert torch.equal(*films)


def test_blocks_go_on_from_a_first_frame_too(tool, clip):
    blocks = Distorter(tool.model, tool.text, tool.vae, replace(WAY, block=2, context=4), Distortions())
    film, _ = blocks.distort("from_first_frame", clip, generator_for(3), 5)
    assert torch.equal(film[:, 0], clip.latents_CTHW[:, 0])


def test_noise_is_put_on_up_to_the_strength(tiny_folder, tool, clip):
    still = load_transformer(tiny_folder).eval()
    torch.nn.init.zeros_(still.head.head.weight)
    torch.nn.init.zeros_(still.head.head.bias)  # it says that nothing moves: what is left is what it began with
    wanted = Wanted("a red fox", tuple(clip.latents_CTHW.shape[1:]), 1, 5)
    found = film_of(still, tool.text, wanted, Way(8, solver="euler"), Beginning(clip.latents_CTHW, 0.75))
    sigma = max(level for level in sigmas_for(8, 3.0).tolist() if level <= 0.75)
    noise = draw_noise_frames(5, "start", range(3), 0, (16, 4, 4))
    torch.testing.assert_close(found, (1 - sigma) * clip.latents_CTHW + sigma * noise)


def test_frames_are_taken_at_another_rate_and_backwards(tool, clip, monkeypatch):
    taken = []
    monkeypatch.setattr(tool, "encode", lambda frames: taken.append(frames) or clip.latents_CTHW)
    for rates in ((2.0,), (0.5,)):
        monkeypatch.setattr(tool, "distortions", Distortions(rates=rates))
        assert tool.distort("frame_rate", clip, generator_for(3), 5)[1] == {"rate": rates[0]}
    tool.distort("reversed", clip, generator_for(3), 5)
    frames = clip.frames_THWC
    assert (taken[0] == frames[::2]).all() and len(taken[0]) == 9
    assert (taken[1] == frames[[0, 0, 1, 1, 2, 2, 3, 3, 4]]).all()
    assert (taken[2] == frames[8::-1]).all()


def test_cached_steps_are_left_out(tool, clip):
    def passes(kind, settings):
        seen = []
        hook = tool.model.register_forward_hook(lambda *_: seen.append(1))
        Distorter(tool.model, tool.text, tool.vae, WAY, settings).distort(kind, clip, generator_for(3), 5)
        hook.remove()
        return len(seen)

    settings = Distortions(strengths=(0.9,), cache_strength=0.9)
    every = passes("renoised", settings)
    assert every == sum(level <= 0.9 for level in sigmas_for(8, 3.0)[:-1].tolist())
    assert passes("step_caching", settings) == 4 < every  # all that may be left out is


def test_only_what_has_a_front_and_gets_along_shows_that_time_is_reversed():
    assert shows("reversed", FOX) and not shows("reversed", BALL) and shows("from_text", BALL)
    assert not shows("reversed", replace(FOX, shot_position="front_view"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strengths": (1.5,)}, "strengths=1.5.*between 0 and 1"),
        ({"rates": (1.0,)}, "rates=1.*not 1"),
        ({"rates": ()}, "rates=.*at least one"),
        ({"cache_limit": 0.0}, "cache_limit=0"),
    ],
)
def test_settings_that_distort_nothing_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Distortions(**settings)


def test_a_way_too_short_for_a_kind_is_refused():
    with pytest.raises(ValueError, match=r"strength=0.1: must be from the last level of 4 steps, 0.500"):
        Distortions(strengths=(0.1,)).check_way(["renoised"], Way(4))
    with pytest.raises(ValueError, match=r"steps=4: takes 2 steps from 0.75, and 4 .*; the nearest that works is 10"):
        Distortions().check_way(["step_caching"], Way(4))
    Distortions().check_way(["step_caching"], Way(10))
    Distortions(strengths=(0.1,)).check_way(["from_text"], Way(4))
