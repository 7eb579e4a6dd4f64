"""The laws that a film shows while it is made: flat memory, a cache that changes nothing, bytes from its seed."""

import tracemalloc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from everreel.diffusion.denoiser import Branch
from everreel.film import decoding
from everreel.film import pipeline as film
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from everreel.media import FilmWriter, Video

SMALL = {"prompt": "a red fox", "height": 32, "width": 32, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    """A window of 7 latent frames and blocks of 2, so that short films are long ones."""
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32)
    pipe.card = replace(
        pipe.card, num_frames=25, block_size=2, context=4, sink=0, anchor_color=0.0, addnoise_condition=0.0
    )
    return pipe


class Alive(TorchDispatchMode):
    """Bytes of all tensors that were made since and are still held by anything, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._held = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage):
        # Storages of tensors that were there before are counted too when they are seen; that is the same in each film.
        if storage._cdata not in self._held:
            self._held.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())

    def _let_go(self, storage, num_bytes):
        self._held.discard(storage)
        self.now -= num_bytes


def most_held(pipe, path, **options):
    """The most bytes of tensors, and of Python objects and arrays, while a film is made and written."""
    alive = Alive()
    tracemalloc.start()
    try:
        with alive:
            video = pipe(make_request(**SMALL, **options), output=path)
        return alive.peak, tracemalloc.get_traced_memory()[1], video
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("causal", "options", "mode"),
    [
        (True, {"guidance_scale": 1, "schedule": "blockwise"}, "blockwise"),
        (False, {"guidance_scale": 1, "schedule": "blockwise"}, "blockwise"),
        (True, {"schedule": "rolling", "cache": True, "sink": 1, "anchor_color": 1}, "rolling"),
        (True, {"ar_step": 1}, "rolling"),
        (True, {"join": "carry"}, "windows"),
        (True, {"join": "reencode", "overlap_history": 9}, "windows"),
    ],
)
def test_memory_does_not_grow_with_length__released_defect_23(pipe, tmp_path, monkeypatch, causal, options, mode):
    """Law 2."""
    monkeypatch.setattr(pipe, "card", replace(pipe.card, causal=causal))
    plan = make_plan(make_request(**SMALL, num_frames=289, **options), pipe.card)
    assert plan.mode.startswith(mode) and plan.schedule.longest_window <= 7
    assert plan.remembers == ((causal and mode == "blockwise") or "cache" in options)
    list(pipe.stream(make_request(**SMALL, num_frames=57, **options)))  # fills the tables that all films share
    short, short_host, _ = most_held(pipe, tmp_path / "short.mp4", num_frames=57, **options)
    long, long_host, video = most_held(pipe, tmp_path / "long.mp4", num_frames=289, **options)
    assert video.num_frames == 289
    assert long == short
    assert long_host < short_host + 289 * 32 * 32, "the host holds a third of the film's pixels or more"


def test_frames_are_read_when_they_are_asked_for(tmp_path):
    """Law 2: neither opening a film nor going through it holds more than a few of its frames."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 96, 160, 3)).astype(np.uint8)
    with FilmWriter(tmp_path / "film.mp4", 96, 160, 24) as writer:
        for block in np.split(noise, 6):
            writer.append(block)
    tracemalloc.start()
    video = Video(tmp_path / "film.mp4")
    total = sum(int(frame[0, 0, 0] >= 0) for frame in video.frames)
    last = video.frames[-1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 60 and last.shape == (96, 160, 3)
    assert peak < 8 * last.nbytes


def latents_of(pipe, request):
    """What reaches the decoder."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "_decode", lambda blocks, *rest: (found.append(block.latents_CTHW) for block in blocks))
        list(pipe.stream(request))
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_a_film_with_a_cache_is_the_film_without_one(pipe, monkeypatch, guidance_scale):
    """Law 3 from words to latents: in one window, with block-causal attention, the cache changes nothing."""
    monkeypatch.setattr(pipe, "card", replace(pipe.card, num_frames=49, context=12))
    request = make_request(**SMALL, num_frames=41, causal_block_size=3, guidance_scale=guidance_scale, sink=0)
    assert make_plan(request, pipe.card).remembers
    with_cache = latents_of(pipe, request)
    monkeypatch.setattr(film, "Branch", lambda context, cache, later: Branch(context, None, later))
    without = latents_of(pipe, request)
    assert (with_cache - without).norm() < 1e-4 * without.norm()


def test_the_same_seed_gives_the_same_bytes(pipe, tmp_path):
    """Law 4: on a rerun, whatever was drawn elsewhere meanwhile, and nothing is drawn from what all share."""
    files = []
    for number, seed in enumerate((5, 5, 6)):
        path = tmp_path / f"{number}.mp4"
        torch.manual_seed(number)
        np.random.seed(number)
        before = torch.get_rng_state()
        pipe(make_request(**SMALL, num_frames=33, seed=seed), output=path)
        assert torch.equal(torch.get_rng_state(), before)
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_longer_film_begins_as_the_shorter_one(pipe):
    """Law 4: noise belongs to a frame of the film, not to the window or the length."""
    short, long = (latents_of(pipe, make_request(**SMALL, num_frames=length)) for length in (37, 53))
    assert (short.shape[1], long.shape[1]) == (10, 14)
    assert torch.equal(short, long[:, :10])


def test_pieces_of_any_size_decode_to_the_same_film(pipe, monkeypatch):
    """Law 1: the frames of a window, however they are cut for the decoder; rounding may turn one level of 255."""
    films = []
    for pieces in (1, 2, 5, 100):
        monkeypatch.setattr(decoding, "DECODE_FRAMES", pieces)
        blocks = list(pipe.stream(make_request(**SMALL, num_frames=25)))
        assert len(blocks) == -(-7 // pieces)
        films.append(np.concatenate([block.frames for block in blocks]).astype(int))
    assert all(np.abs(other - films[0]).max() <= 1 for other in films)


@pytest.mark.parametrize("options", [{}, {"schedule": "rolling"}, {"schedule": "windows"}, {"base_num_frames": 93}])
def test_a_prompt_takes_over_at_its_frame(pipe, options):
    """Block by block nothing before it changes; where frames are made together, those before it may, but little."""
    story = make_request(**SMALL, num_frames=77, story={40: "a blue swan"}, **options)
    told, plain = latents_of(pipe, story), latents_of(pipe, make_request(**SMALL, num_frames=77, **options))
    changed = (told - plain).flatten(2).norm(dim=(0, 2)) / plain.flatten(2).norm(dim=(0, 2))
    (turn,) = make_plan(story, pipe.card).turns
    assert turn == 11 and changed[turn:].min() > 3 * changed[:turn].max()
    if not options:
        assert torch.equal(told[:, :10], plain[:, :10])  # whole blocks


def test_a_story_with_a_cache_is_the_story_without_one(pipe, monkeypatch):
    """Law 3: what is remembered of a frame was read from that frame's own text, so nothing has to be computed anew."""
    monkeypatch.setattr(pipe, "card", replace(pipe.card, num_frames=49, context=12))
    request = make_request(**SMALL, num_frames=41, causal_block_size=3, story={17: "a blue swan", 31: "a red fox"})
    with_cache = latents_of(pipe, request)
    monkeypatch.setattr(film, "Branch", lambda context, cache, later: Branch(context, None, later))
    assert (with_cache - latents_of(pipe, request)).norm() < 1e-4 * with_cache.norm()
