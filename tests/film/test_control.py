"""A film can be paused, cancelled and looked at while it is being made."""

import threading

import numpy as np
import pytest

from everreel.film import making
from everreel.film.control import CancelledError, Control
from everreel.film.journal import read_journal
from everreel.film.request import make_request
from everreel.media import Video

SMALL = {"prompt": "a red fox", "height": 32, "width": 32, "num_inference_steps": 2}


def test_a_cancelled_film_keeps_its_blocks_and_can_be_gone_on_with(pipe, tmp_path):
    request = make_request(**SMALL, num_frames=58)
    whole, film, control = tmp_path / "whole.mp4", tmp_path / "film.mp4", Control()
    pipe(request, output=whole)

    def after_two_blocks(progress):
        if progress.block == 3:
            control.cancel()

    with pytest.raises(CancelledError):
        pipe(request, output=film, on_progress=after_two_blocks, control=control)
    assert control.cancelled
    journal = read_journal(film)
    assert Video(film).num_frames == journal.num_frames > 0 and not journal.finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "pipeline_of", lambda *_: pipe)
        assert making.resume(film).num_frames == 58
    assert film.read_bytes() == whole.read_bytes()
    assert making.resume(film).num_frames == 58  # nothing is left to do


def test_a_paused_film_waits_and_goes_on(pipe):
    request = make_request(**SMALL, num_frames=42)
    control, rows, waiting = Control(), [], threading.Event()

    def on_progress(progress):
        rows.append(progress.row)
        if progress.row == 3:
            control.pause()
            waiting.set()

    blocks = []
    maker = threading.Thread(
        target=lambda: blocks.extend(pipe.stream(request, on_progress=on_progress, control=control))
    )
    maker.start()
    assert waiting.wait(60)
    maker.join(0.3)
    assert maker.is_alive() and control.paused and rows == [1, 2, 3]
    control.go_on()
    maker.join(60)
    assert not control.paused and rows == list(range(1, len(rows) + 1))
    assert sum(len(block.frames) for block in blocks) == 42


def test_a_paused_film_can_be_cancelled():
    control = Control()
    control.pause()
    threading.Timer(0.05, control.cancel).start()
    with pytest.raises(CancelledError):
        control.check()


@pytest.mark.parametrize("schedule", ["blockwise", "rolling"])
def test_the_last_preview_of_a_block_is_the_block(pipe, schedule):
    """Decoded by itself: exact where the film begins, and of the same frames elsewhere."""
    request = make_request(**SMALL | {"num_inference_steps": 3}, num_frames=42, schedule=schedule)
    seen = {}

    def on_progress(progress):
        seen[progress.row] = progress.block, progress.preview()

    blocks = [block.frames for block in pipe.stream(request, on_progress=on_progress)]
    assert {number for number, _ in seen.values()} == set(range(1, len(blocks) + 1))
    first = [preview for number, preview in seen.values() if number == 1]
    assert [preview.shape for preview in first] == [(5, 32, 32, 3)] * 3
    far = [np.abs(preview.astype(int) - blocks[0]).mean() for preview in first]
    assert far[-1] < 0.5 and far[0] > far[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 9},
        {"num_frames": 42, "schedule": "blockwise"},
        {"num_frames": 42, "schedule": "rolling"},
        {"num_frames": 42, "ar_step": 2},
        {"num_frames": 42, "schedule": "windows"},
        {"num_frames": 42, "schedule": "windows", "ar_step": 2},
    ],
)
def test_progress_names_the_block_that_is_finished_next_and_its_step(pipe, options):
    request = make_request(**SMALL | {"num_inference_steps": 3}, **options)
    seen, ended, state = [], [], None
    for block in pipe.stream(request, on_progress=seen.append):
        ended.append((seen[-1].block, seen[-1].step))
        state = block.state if seen[-1].block < seen[-1].plan.num_blocks else state
    plan = seen[0].plan
    assert {(progress.block, progress.step) for progress in seen} >= set(ended)
    assert [block for block, _ in dict.fromkeys(ended)] == list(range(1, plan.num_blocks + 1))
    assert {step for _, step in ended} == {3} and {progress.step for progress in seen} == {1, 2, 3}
    if state is not None:
        resumed = []
        list(pipe.stream(request, state=state, on_progress=resumed.append))
        assert [(each.row, each.block, each.step) for each in resumed] == [
            (each.row, each.block, each.step) for each in seen if each.row >= resumed[0].row
        ]
