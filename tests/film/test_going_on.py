"""A film that goes on: nothing is lost by what is refused or stopped, its colours stay, and it looks back at its end.

Shape suffixes: C channels, T frames, H height, W width.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from everreel.film import making
from everreel.film.decoding import to_uint8
from everreel.film.journal import Journal, journal_path, read_journal
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import RequestError, make_request
from everreel.film.source import SourceFilm
from everreel.media import Video
from everreel.shapes import video_frames
from tests.film.films import natural, write
from tests.film.test_making import SMALL, Stopped, make, more_frames, stop_after

FILM = ("--height", 32, "--width", 32, "--num-inference-steps", 2, "--guidance-scale", 1, "--dtype", "float32")
LONG = "a red fox " * 300


@pytest.fixture
def refused(run, monkeypatch):
    """Runs a command line that must be refused before a model is loaded; gives back its one line."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    def refused(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(VideoPipeline, "load", load)
            code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    return refused


def test_what_is_refused_leaves_a_finished_film_as_it_was(run, refused, tiny_folder, tmp_path):
    """Its journal is all that it can go on from."""
    film, copy = tmp_path / "fox.mp4", tmp_path / "copy.mp4"
    steps = ("--ar-step", 1, "--causal-block-size", 5)
    assert run("generate", "a fox", "--model", tiny_folder, *FILM, *steps, "--num-frames", 9, "-o", film)[0] == 0
    before = film.read_bytes(), journal_path(film).read_bytes()
    for more, message in (
        (("--prompt", LONG), "tokens: the model reads at most 512"),
        (("--prompt", "a fox", "--prompt", "1s: a swan", "--num-frames", 24), "too near the end of 24 frames"),
        (("--num-inference-steps", 30, "--num-frames", 400), "ar_step = 1: "),
    ):
        for output in ((), ("-o", copy)):
            assert message in refused("extend", film, *more, *output)
            assert (film.read_bytes(), journal_path(film).read_bytes()) == before
            assert sorted(path.name for path in tmp_path.iterdir()) == ["fox.mp4", "fox.mp4.journal"]
    assert run("extend", film, "--num-frames", 5)[0] == 0 and Video(film).num_frames == 14


def test_a_journal_is_not_saved_over_by_one_of_what_cannot_be_made(pipe, tmp_path):
    film = tmp_path / "film.mp4"
    first = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=9)), film)
    before = film.read_bytes(), journal_path(film).read_bytes()
    longer = making.go_on_with(pipe, first, more_frames(20), told=False)
    for values in ({"prompt": LONG}, {"story": {19: "a swan"}}):
        with pytest.raises(RequestError):
            making.go_on_with(pipe, first, make_request(**SMALL | {"num_frames": 20} | values))
        unchecked = replace(longer, request=longer.request.model_copy(update=values))
        with pytest.raises(RequestError):
            make(pipe, unchecked, film)
        assert (film.read_bytes(), journal_path(film).read_bytes()) == before


def test_a_film_that_nothing_can_follow_is_refused_before_a_model_is_loaded(pipe, refused, tmp_path):
    film = tmp_path / "film.mp4"
    making.begin(pipe, make_request(**SMALL, num_frames=21)).save(film)
    assert "has 0 of its frames; finish it first with everreel resume" in refused("extend", film)
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=21, loop=True)), film)
    assert "its end meets its beginning" in refused("extend", film)


def test_a_long_prompt_is_refused_before_a_model_is_loaded_and_leaves_nothing(pipe, refused, tiny_folder, tmp_path):
    """Whichever way the film is begun."""
    film, source = tmp_path / "film.mp4", write(tmp_path / "holiday.mkv", natural(6))
    for command in (("generate", LONG), ("extend", source, "--prompt", LONG)):
        assert "tokens: the model reads" in refused(*command, "--num-frames", 9, "--model", tiny_folder, "-o", film)
        assert [path.name for path in tmp_path.iterdir()] == ["holiday.mkv"]
    for loop in (False, True):
        with pytest.raises(RequestError, match="the model reads"):
            pipe(make_request(**SMALL | {"prompt": LONG}, num_frames=21, loop=loop), output=film)
        assert [path.name for path in tmp_path.iterdir()] == ["holiday.mkv"]


@pytest.mark.parametrize("older", [False, True])
def test_a_copy_that_grows_is_whole_or_not_there(pipe, run, tmp_path, monkeypatch, older):
    """Killed in the middle of the copy, or in the dark: what the journal tells of has reached the disk before it."""
    film, copy = tmp_path / "fox.mp4", tmp_path / "copy.mp4"
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=9)), film)
    if older:
        make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=5, seed=3)), copy)
    before = copy.read_bytes() if older else None

    def torn(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:1000])
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(shutil, "copyfile", torn)
        run("extend", film, "-o", copy, "--num-frames", 5)
    assert (copy.read_bytes() if copy.exists() else None) == before
    assert journal_path(copy).exists() == older and not copy.with_name("copy.mp4.part").exists()

    def killed(*_):
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Journal, "save", killed)
        run("extend", film, "-o", copy, "--num-frames", 5)
    assert copy.read_bytes() == film.read_bytes() and not journal_path(copy).exists()  # no journal of another film
    copy.unlink()

    told = []
    sync, sync_folder, save = os.fsync, making.sync_folder, Journal.save
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: (told.append(os.fstat(file).st_size), sync(file)))
        patch.setattr(making, "sync_folder", lambda folder: (told.append(copy.read_bytes()), sync_folder(folder)))
        patch.setattr(Journal, "save", lambda journal, path: (told.append("journal"), save(journal, path)))
        assert run("extend", film, "-o", copy, "--num-frames", 5)[0] == 0
    whole = film.read_bytes()
    assert told[:2] == [len(whole), whole] and told[3] == "journal"  # between them the folder
    assert Video(copy).num_frames == 14 and read_journal(copy).num_frames == 14


def test_a_film_that_its_copy_is_begun_as_is_not_written_over(pipe, refused, tmp_path):
    film = tmp_path / "film.mp4.part"
    make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=9)), tmp_path / "a.mp4")
    before = (tmp_path / "a.mp4").rename(film).read_bytes()
    journal_path(tmp_path / "a.mp4").rename(journal_path(film))
    assert "is begun as film.mp4.part, which is the source itself" in refused(
        "extend", film, "-o", tmp_path / "film.mp4"
    )
    assert film.read_bytes() == before


@pytest.mark.parametrize("first", [57, 21])
def test_colours_are_held_at_those_of_one_film_however_often_it_goes_on(pipe, tmp_path, first):
    """A film of blocks, and one that was finished at once and needed no holding then."""
    film = tmp_path / "film.mp4"
    begun = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=first, anchor_color=1)), film)
    if first == 57:
        one = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=97, anchor_color=1)), tmp_path / "one.mp4")
        assert torch.equal(one.state.anchor, begun.state.anchor)
        held_at = begun.state.anchor
    else:
        assert begun.state.anchor is None
        latents_CN = begun.state.rollout.solver.latents[0, :, 1:].double().flatten(1)
        held_at = torch.cat([latents_CN.mean(1)[None], latents_CN.cov(correction=0), torch.zeros(1, 16)])
    for more in (8, 40):  # in one window, and beyond
        journal = making.go_on_with(pipe, read_journal(film), more_frames(more), told=False)
        assert torch.allclose(journal.beginning.anchor, held_at)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            stop_after(patch, 1)
            make(pipe, journal, film)
        longer = make(pipe, read_journal(film), film)
        assert torch.allclose(longer.state.anchor, held_at)
        new_CTHW = longer.state.rollout.solver.latents[0, :, -2:]  # the last block of each
        assert torch.allclose(new_CTHW.flatten(2).double().mean(2), held_at[0, :, None].expand(-1, 2), atol=1e-4)


def test_new_words_have_colours_of_their_own_and_the_same_words_have_not(pipe, tmp_path):
    film = tmp_path / "film.mp4"
    story = make_request(**SMALL, num_frames=77, anchor_color=1, story={40: "a blue swan"})
    begun = make(pipe, making.begin(pipe, story), film)
    assert begun.state.anchor[-1, 0] > 0
    for prompt, carried in (("a blue swan", True), ("a red fox", False)):
        longer = making.go_on_with(pipe, begun, make_request(prompt=prompt, num_frames=40))
        assert (longer.beginning.anchor is not None) == carried
        if carried:
            assert torch.equal(longer.beginning.anchor[:-1], begun.state.anchor[:-1])
            assert not longer.beginning.anchor[-1].any()  # its frames are counted anew
    free = replace(begun, request=begun.request.model_copy(update={"anchor_color": 0.0}))
    assert making.go_on_with(pipe, free, more_frames(40), told=False).beginning.anchor is None


def test_an_older_journal_that_holds_no_colours_is_read(pipe, tmp_path):
    film = tmp_path / "film.mp4"
    begun = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=57, anchor_color=1)), film)
    replace(begun, state=replace(begun.state, anchor=None)).save(film)
    make(pipe, making.go_on_with(pipe, read_journal(film), more_frames(9), told=False), film)
    assert Video(film).num_frames == 66


def test_a_loop_stopped_while_its_opening_is_made_goes_on(pipe, run, tiny_folder, tmp_path, monkeypatch):
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    command = ("generate", "a fox", "--model", tiny_folder, *FILM, "--loop", "--num-frames", 21, "-o")
    assert run(*command, whole)[0] == 0

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VideoPipeline, "_stream", stopped)
        code, _, err = run(*command, film)
    assert code == 2 and err.endswith(f"stopped: no frame was written; go on with: everreel resume {film}\n")
    assert read_journal(film).is_unopened and not film.exists()
    assert run("resume", film)[0] == 0
    assert film.read_bytes() == whole.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VideoPipeline, "_stream", stopped)
        pipe(make_request(**SMALL, num_frames=21, loop=True), output=tmp_path / "other.mp4")
    making.resume(tmp_path / "other.mp4")
    assert Video(tmp_path / "other.mp4").num_frames == 21


@pytest.mark.parametrize("num_frames", [25, 58])
def test_what_is_looked_back_at_is_the_newest_end_of_the_film__released_defect_8(pipe, tmp_path, num_frames):
    """The released code cut an overlap that was too long at its end: the newest moment was lost, and made again."""
    film = tmp_path / "film.mp4"
    begun = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=num_frames)), film)
    held_CTHW = begun.state.rollout.solver.latents[0]
    beginning = making.go_on_with(pipe, begun, more_frames(9), told=False).beginning
    assert 1 < beginning.history < held_CTHW.shape[1], "something has to be left out"
    assert torch.equal(torch.stack(list(beginning.known.values()), dim=1), held_CTHW[:, -beginning.history :])
    assert list(beginning.known) == list(range(beginning.history))

    source = SourceFilm.open(write(tmp_path / "source.mkv", natural(60, 32, 32)))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            making, "encode_frames", lambda frames_THWC, vae: seen.append(frames_THWC) or torch.zeros(16, 4, 4, 4)
        )
        making.follow(pipe, make_request(**SMALL, num_frames=9), source)
    assert np.array_equal(seen[0], source.tail(13, 24))


def test_a_cached_film_leaves_nothing_behind_for_a_plain_one__diffusers_defect_2(tiny_folder):
    """There the block size of a causal film was written into the model, and later films were made with it too."""
    blocks = {"num_frames": 25, "causal_block_size": 2, "ar_step": 1}
    pipes = [VideoPipeline.from_pretrained(str(tiny_folder), device="cpu", dtype=torch.float32) for _ in range(2)]
    before = vars(pipes[0].transformer.config).copy()
    list(pipes[0].stream(make_request(**SMALL, **blocks, cache=True)))
    for plain in ({"num_frames": 21}, {**blocks, "cache": False}):
        request = make_request(**SMALL, **plain)
        after, fresh = (np.concatenate([block.frames for block in pipe.stream(request)]) for pipe in pipes)
        assert np.array_equal(after, fresh)
    assert vars(pipes[0].transformer.config) == before


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_looked_back_at_is_not_shown_again__diffusers_defect_5(pipe, tmp_path, elsewhere):
    """There the last 17 frames came twice. New are those frames alone that decode behind all that is looked back at."""
    film = tmp_path / "film.mp4"
    if elsewhere:
        source = SourceFilm.open(write(tmp_path / "source.mkv", natural(30, 32, 32)))
        journal = making.follow(pipe, make_request(**SMALL, num_frames=12), source)
    else:
        begun = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=21)), film)
        journal = making.go_on_with(pipe, begun, more_frames(12), told=False)
    blocks = list(pipe.stream(journal.request, beginning=journal.beginning))
    new_THWC = np.concatenate([block.frames for block in blocks])
    latents_BCTHW = blocks[-1].state.rollout.solver.latents
    history = journal.beginning.history
    assert history > 1 and latents_BCTHW.shape[2] == history + 3
    with torch.no_grad():
        all_THWC = to_uint8(pipe.vae.decode(latents_BCTHW)[0])
    assert np.abs(new_THWC.astype(int) - all_THWC[video_frames(history) :]).max() <= 1
    old_THWC = all_THWC[video_frames(history) - 12 : video_frames(history)]
    assert np.abs(new_THWC.astype(int) - old_THWC).mean() > 3
