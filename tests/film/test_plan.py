"""How a request is cut: defaults that are right unread, every option that does what it says, and what cannot be."""

import itertools
import random
import re
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from everreel.checkpoint.catalog import CATALOG, find_model
from everreel.film.plan import make_plan, opening_of
from everreel.film.request import RequestError, make_request
from everreel.shapes import frames_of, latent_index
from tests.diffusion.test_schedule import check_promises

FAST = {"prompt": "a red fox", "num_inference_steps": 2, "height": 32, "width": 32}


@pytest.mark.parametrize(
    ("model", "options", "noise"),
    [
        ("tiny", {}, None),  # all in sight at once
        ("tiny", {"num_frames": 98}, 0),
        ("tiny-fast", {"num_frames": 98}, 20),
        ("tiny-fast", {"num_frames": 98, "schedule": "rolling"}, 20),
        ("tiny-fast", {"num_frames": 98, "addnoise_condition": 0}, 0),
        ("tiny", {"addnoise_condition": 5}, 5),
        ("DF-1.3B-540P", {"num_frames": 257}, 0),
    ],
)
def test_noise_on_what_a_long_film_looks_back_at_is_the_models_own(model, options, noise):
    plan = make_plan(make_request(prompt="a red fox", **options), find_model(model, here=False))
    assert plan.request.addnoise_condition == noise


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, "synchronous"),
        (
            {"num_frames": 98},
            "rolling (a window of 25 latent frames, blocks of 5, 5 latent frames of history and a sink of 10, cached)",
        ),
        (
            {"num_frames": 98, "schedule": "blockwise"},
            "blockwise (blocks of 5, 10 latent frames of context and a sink of 10)",
        ),
        (
            {"num_frames": 98, "schedule": "blockwise", "sink": 0},
            "blockwise (blocks of 5, 20 latent frames of context)",
        ),
        ({"num_frames": 98, "sink": 0}, "rolling (a window of 25 latent frames, blocks of 5, 15 latent frames of hist"),
        ({"num_frames": 98, "ar_step": 7}, "rolling (a window of 25 latent frames, blocks of 5)"),
        ({"num_frames": 97, "ar_step": 7}, "asynchronous (ar_step 7, blocks of 5)"),
        ({"num_frames": 98, "cache": False}, "rolling (a window of 25 latent frames, blocks of 5)"),
        ({"num_frames": 98, "join": "hybrid"}, "windows (of 25 latent frames, 5 of them history, joined by hybrid)"),
        (
            {"num_frames": 98, "overlap_history": 9, "base_num_frames": 33},
            "windows (of 9 latent frames, 3 of them history, joined by carry)",
        ),
        ({"num_frames": 98, "schedule": "windows", "ar_step": 5}, "windows (of 25 latent frames"),
        (
            {"num_frames": 33, "base_num_frames": 17},
            "rolling (a window of 5 latent frames, blocks of 5, 1 latent frames of history and a sink of 0, cached)",
        ),
        (
            {"num_frames": 33, "base_num_frames": 17, "schedule": "blockwise"},
            "blockwise (blocks of 5, 1 latent frames of context)",
        ),
        (
            {"num_frames": 33, "causal_block_size": 3},
            "blockwise (blocks of 3, 12 latent frames of context and a sink of 10)",
        ),
        ({"num_frames": 97, "ar_step": 7, "cache": True}, "asynchronous (ar_step 7, blocks of 5, cached)"),
        (
            {"num_frames": 98, "ar_step": 15, "cache": True},
            "rolling (a window of 25 latent frames, blocks of 5, 5 latent",
        ),
    ],
)
def test_the_schedule_that_is_chosen(options, mode):
    assert make_plan(make_request(prompt="a fox", **options), find_model("tiny")).mode.startswith(mode)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"num_inference_steps": 1}, "1 block of 1 step, 1 denoising pass"),
        ({}, "1 block of 30 steps, 30 denoising passes"),
        ({"ar_step": 5}, "5 blocks of 30 steps, 50 denoising passes"),
        ({"ar_step": 5, "step_cache": 0.1}, "5 blocks of 30 steps, at most 50 denoising passes"),
        ({"num_frames": 481}, "25 blocks of 30 steps, 390 denoising passes"),
        ({"num_frames": 481, "schedule": "blockwise"}, "25 blocks of 30 steps, 750 denoising passes"),
        ({"num_frames": 481, "schedule": "windows"}, "6 windows, 6 blocks of 30 steps, 180 denoising passes"),
        (
            {"num_frames": 481, "schedule": "windows", "ar_step": 5},
            "6 windows, 25 blocks of 30 steps, 275 denoising passes",
        ),
        ({"num_frames": 33, "schedule": "windows"}, "1 window, 1 block of 30 steps, 30 denoising passes"),
        ({"loop": True, "schedule": "rolling"}, "5 blocks of 30 steps, 90 denoising passes after those of its opening"),
        (
            {"loop": True},
            "2 blocks of 30 steps, 60 denoising passes after those of its opening",
        ),
    ],
)
def test_a_plan_says_its_windows_blocks_steps_and_passes(options, counts):
    """Each block takes every step; a pass is one call, which moves all blocks that are in the making."""
    plan = make_plan(make_request(prompt="a fox", **options), find_model("tiny"))
    assert re.search(rf"[a-z)], {counts}, guidance", plan.describe()), plan.describe()


class Released:
    card: ClassVar = replace(find_model("tiny"), causal=False, schedule="windows", join="reencode")


def test_weights_that_were_not_trained_for_blocks_get_windows():
    plan = make_plan(make_request(prompt="a fox", num_frames=200), Released.card)
    assert plan.mode.startswith("windows") and plan.join == "reencode" and not plan.remembers
    plan = make_plan(make_request(prompt="a fox", num_frames=200, schedule="blockwise"), Released.card)
    assert plan.mode.startswith("blockwise") and not plan.remembers
    plan = make_plan(make_request(prompt="a fox", num_frames=200, schedule="blockwise", cache=True), Released.card)
    assert plan.remembers and "which is an approximation with these weights" in plan.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_num_frames": 98}, "base_num_frames = 98: must be 4k . 1; nearest that works: 97"),
        ({"overlap_history": 16}, "overlap_history = 16: must be 4k . 1; nearest that works: 17"),
        (
            {"overlap_history": 25, "base_num_frames": 25},
            "overlap_history = 25: must be less than the window of 25 frames; nearest",
        ),
        (
            {"overlap_history": 17, "schedule": "rolling"},
            "overlap_history = 17: goes with schedule windows, not with rolling",
        ),
        ({"join": "carry", "schedule": "blockwise"}, "join = carry: goes with schedule windows, not with blockwise"),
        ({"ar_step": 3, "schedule": "blockwise"}, "ar_step = 3: goes with schedule rolling or windows"),
        ({"causal_block_size": 2, "schedule": "windows"}, "causal_block_size = 2: in windows, blocks need an ar_step"),
        (
            {"causal_block_size": 8},
            "causal_block_size = 8: must be at most the window of 7 latent frames; nearest that works: 7",
        ),
        (
            {"causal_block_size": (1, 9)},
            "causal_block_size = 1,9: must be at most the window .* nearest that works: 1,7",
        ),
        ({"causal_block_size": (1, 0)}, r"causal_block_size = \(1, 0\): must be at least 1; nearest that works: 1,1"),
        ({"causal_block_size": ()}, r"causal_block_size = \(\): must name at least one size; nearest that works: 1"),
        ({"causal_block_size": "four"}, "causal_block_size = 'four': input should be a valid integer"),
        (
            {"causal_block_size": (1, 4), "end_image": "z.png"},
            "causal_block_size = 1,4: blocks of several sizes do not see a picture ahead .* works: 4, or give ar_step",
        ),
        ({"cache": True, "schedule": "windows"}, "cache = True: goes with blocks, not with windows"),
        (
            {"cache": True, "num_frames": 9},
            "cache = True: goes with blocks; give causal_block_size, or ar_step as well",
        ),
        ({"sink": 2, "cache": False}, "sink = 2: is kept in the cache; leave out cache = False"),
        ({"sink": 2, "ar_step": 3}, "sink = 2: is kept in a cache; give cache as well"),
        (
            {"sink": 5, "schedule": "blockwise"},
            "sink = 5: must be less than what a block looks back at, 5 latent frames; nearest that works: 4",
        ),
        ({"blend_overlap": True}, "blend_overlap = True: goes with windows whose pixels are encoded again"),
        ({"blend_overlap": True, "join": "carry"}, "blend_overlap = True: goes with windows whose pixels"),
        ({"loop": True, "num_frames": 4}, "num_frames = 4: a film that meets its beginning has at least 9 frames"),
        ({"loop": True, "end_image": "a.png"}, "loop = True: the film ends where it begins; leave out end_image"),
        ({"anchor_color": 1.5}, "anchor_color = 1.5: must be at most 1; nearest that works: 1"),
        (
            {"story": {48: "a swan", 24: "an owl"}},
            r"story\[24\] = 'an owl': must come after frame 48, .* nearest that works: 49",
        ),
        ({"story": {"48": "a swan", "24": "an owl"}}, r"story\[24\] = 'an owl': must come after frame 48"),
        ({"story": {0: "a swan"}}, r"story\[0\] = 'a swan': must come after frame 0, .* nearest that works: 1"),
        ({"schedule": "round"}, "schedule = 'round': must be one of blockwise, rolling, windows; nearest that works: "),
        (
            {"ar_step": 1, "num_inference_steps": 30},
            "ar_step = 1: a block would leave the window .* smallest that works is",
        ),
    ],
)
def test_what_cannot_be_cut_is_one_line(pipe, options, message):
    with pytest.raises(RequestError, match=message) as caught:
        make_plan(make_request(**{**FAST, "num_frames": 61, **options}), pipe.card)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "card", [card for card in CATALOG if card.released and card.forcing], ids=lambda card: card.name
)
@pytest.mark.parametrize(("num_frames", "ar_step"), [(97, 5), (257, 6)])
def test_blocks_of_released_weights_see_with_full_attention__diffusers_defect_1(card, num_frames, ar_step):
    """`ar_step` and `causal_block_size` turned on an attention there that the weights do not know."""
    plan = make_plan(make_request(prompt="a fox", num_frames=num_frames, ar_step=ar_step, causal_block_size=5), card)
    assert not plan.remembers and plan.context == 0 and "cached" not in plan.mode
    if num_frames == 97:
        assert {row.window for row in plan.schedule} == {(0, 25)}, "every row sees the whole window"


@pytest.mark.parametrize(
    ("options", "mode", "sizes"),
    [
        ({"num_frames": 97, "ar_step": 7}, "asynchronous (ar_step 7, blocks of 1,4)", (1, 4, 4, 4, 4, 4, 4)),
        (
            {"num_frames": 97, "ar_step": 7, "image": "a.png", "end_image": "z.png"},
            "asynchronous",
            (1, 4, 4, 4, 4, 4, 4),
        ),
        (
            {"num_frames": 94, "ar_step": 7, "cache": True},
            "asynchronous (ar_step 7, blocks of 1,4",
            (1, 4, 4, 4, 4, 4, 4),
        ),
        ({"num_frames": 106}, "blockwise (blocks of 1,4, 11 latent frames", (1, 4, 4, 4, 4, 4, 4, 3)),
        ({"num_frames": 106, "schedule": "rolling"}, "rolling (a window of 25 latent frames, blocks of 1,4,", None),
        ({"num_frames": 200, "schedule": "windows", "ar_step": 7}, "windows (of 25 latent frames", None),
    ],
)
def test_blocks_may_have_a_size_each(options, mode, sizes):
    """1, 4, 4, ...: as the frames of a film fill its latents."""
    plan = make_plan(make_request(prompt="a fox", causal_block_size=[1, 4], **options), find_model("tiny"))
    assert plan.mode.startswith(mode)
    assert sizes is None or plan.schedule.sizes == sizes
    check_promises(plan.schedule)


def drawn(case: int, folder) -> dict:
    draw = random.Random(case)
    frames = draw.randint(1, 60)
    options: dict = {"num_frames": frames, "seed": case, "guidance_scale": draw.choice([1, 4])}
    options["schedule"] = draw.choice([None, "blockwise", "rolling", "windows"])
    if options["schedule"] in (None, "windows") and draw.random() < 0.6:
        options |= {"join": draw.choice(["reencode", "carry", "hybrid"]), "overlap_history": draw.choice([1, 5, 9, 13])}
    if draw.random() < 0.4:
        options["base_num_frames"] = draw.choice([17, 21, 33])
    if options["schedule"] != "blockwise" and draw.random() < 0.4:
        options |= {
            "ar_step": draw.randint(2, 4),
            "causal_block_size": draw.choice([draw.randint(1, 4), (1, 4), (2, 1, 3)]),
        }
    options["addnoise_condition"] = draw.choice([0, 20])
    if options["schedule"] in ("blockwise", "rolling") and draw.random() < 0.5:
        options |= {"cache": True, "sink": draw.choice([0, 1, 2])}
    if options.get("join") in ("reencode", "hybrid"):
        options["blend_overlap"] = draw.random() < 0.5
    options["anchor_color"] = draw.choice([0, 0, 0.5])
    options["loop"] = frames >= 9 and draw.random() < 0.2
    for field in ("image",) if options["loop"] else ("image", "end_image"):
        if frames > 9 and draw.random() < 0.3:
            options[field] = folder / "a.png"
    if frames > 20 and draw.random() < 0.3:
        options["keyframes"] = {draw.randint(6, frames - 8): folder / "b.png"}
    return options


@pytest.mark.parametrize("part", range(8))
def test_any_film_has_every_frame_asked_for_and_the_pictures_in_it(pipe, tmp_path, part):
    """200 drawn films through a random model, whatever the schedule, window, join, blocks and pictures."""
    for name, level in (("a", 60), ("b", 200)):
        Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(tmp_path / f"{name}.png")
    for case in range(25 * part, 25 * part + 25):
        options = drawn(case, tmp_path)
        request = make_request(**{**FAST, "height": 16, "width": 16}, **options)
        known = pipe.begin(request).known
        found = {}
        for block in pipe.stream(request):
            found[block.start] = block.frames
            state = block.state
        frames = np.concatenate(list(found.values()))
        assert frames.shape == (options["num_frames"], 16, 16, 3), options
        assert list(found) == list(np.cumsum([0, *map(len, found.values())])[:-1])
        rollout = state.rollout
        for index, latent in known.items():
            if index >= rollout.start:
                assert index - rollout.start < rollout.solver.num_frames, (index, options)
                assert torch.equal(rollout.solver.latents[0, :, index - rollout.start], latent), options


def any_request(draw: random.Random) -> dict:
    """A film of 1 to 900 frames in any way there is, with pictures anywhere."""
    frames = draw.randint(1, draw.choice([20, 120, 900]))
    schedule = draw.choice([None, "blockwise", "rolling", "windows"])
    options: dict = {"num_frames": frames, "schedule": schedule, "num_inference_steps": draw.randint(1, 5)}
    options["base_num_frames"] = 1 + 4 * draw.randint(7, 30)
    if schedule != "windows" or draw.random() < 0.5:
        size = options["causal_block_size"] = draw.randint(1, 7)
        if schedule in ("rolling", "windows") and draw.random() < 0.3:
            options["causal_block_size"] = [draw.randint(1, size) for _ in range(draw.randint(1, 4))]
    if schedule == "windows":
        options |= {"overlap_history": 1 + 4 * draw.randint(0, 6), "join": draw.choice(["carry", "reencode", "hybrid"])}
        options["ar_step"] = draw.randint(1, 5) if "causal_block_size" in options else 0
    elif schedule != "blockwise" and draw.random() < 0.4:
        options["ar_step"] = draw.randint(1, 5)
    if schedule in ("blockwise", "rolling") and draw.random() < 0.5:
        options |= {"cache": True, "sink": draw.randint(0, 2)}
    places = sorted(draw.sample(range(frames), min(frames, draw.randint(0, 4))))
    options["keyframes"] = {frame: f"{frame}.png" for frame in places}
    options["loop"] = draw.random() < 0.2 and frames >= 9
    if not options["loop"] and draw.random() < 0.3:
        options["end_image"] = "end.png"
    if draw.random() < 0.3:
        options["image"] = "first.png"
    ahead = places or options["loop"] or "end_image" in options
    if schedule == "blockwise" and not ahead and draw.random() < 0.6:  # with pictures ahead that is refused
        options["causal_block_size"] = [draw.randint(1, size) for _ in range(draw.randint(1, 4))]
    return options


@pytest.mark.parametrize("part", range(4))
def test_every_plan_of_up_to_900_frames_keeps_its_promises(part):
    """Every latent is made, each frame once, and what is given is where it was given and is never stepped."""
    card, draw, refused = find_model("tiny"), random.Random(part), 0
    for _ in range(150):
        options = any_request(draw)
        try:
            plan = make_plan(make_request(prompt="a fox", **options), card)
        except RequestError as error:
            # Two pictures in one latent frame, or an ar_step with which a block would leave its window.
            assert re.search("has frames? |the smallest that works is|nothing is left to make", str(error)), options
            assert "given =" not in str(error), options
            refused += 1
            continue
        check_promises(plan.schedule)
        request, made = plan.request, 1 + 4 * (plan.schedule.num_frames - 1)
        shown = [frame for frame in range(made) if frame not in request.hidden][: request.num_frames]
        assert len(shown) == request.num_frames and made - shown[-1] <= 4, options
        for frame in request.keyframes:
            assert latent_index(shown[frame]) in plan.schedule.given, options
        if request.image:
            assert latent_index(shown[0]) in plan.schedule.given, options
        if request.end_image or request.loop:
            assert shown[-1] == made - 1 and plan.schedule.num_frames - 1 in plan.schedule.given, options
    assert refused < 75


@pytest.mark.parametrize("frame", [9, 18, 31, 40, 50])
@pytest.mark.parametrize(
    "options", [{}, {"end_image": "fox.png"}, {"image": "fox.png", "end_image": "fox.png"}, {"loop": True}]
)
def test_a_part_of_a_story_begins_at_the_nearest_latent_whatever_is_hidden(pipe, options, frame):
    request = make_request(prompt="x", num_frames=60, story={frame: "y"}, **options)
    (turn,) = make_plan(request, pipe.card).turns
    begins = request.shown(frames_of(turn)[0])
    assert abs(begins - frame) <= 2


def test_a_part_of_a_story_is_counted_from_where_a_film_goes_on(pipe):
    request = make_request(prompt="x", num_frames=40, story={8: "y", 21: "z"})
    assert make_plan(request, pipe.card, history=4).turns == (6, 9)
    assert make_plan(request, pipe.card, history=4, spare=3).turns == (5, 8)  # three of its frames are there already
    with pytest.raises(RequestError, match=re.escape("comes too soon; nearest that works: 4")):
        make_plan(make_request(prompt="x", num_frames=40, story={1: "y"}), pipe.card, history=4)
    with pytest.raises(
        RequestError, match=re.escape("too near the end of 40 frames to be seen; nearest that works: 36")
    ):
        make_plan(make_request(prompt="x", num_frames=40, story={39: "y"}), pipe.card, history=4)


def test_the_frame_where_a_part_takes_over_is_said(pipe):
    """Parts begin where a latent does; behind another film its spare frames come first."""
    for asked in ({}, {"end_image": "fox.png"}, {"loop": True}):
        request = make_request(prompt="x", num_frames=60, story={30: "y", 41: "z"}, **asked)
        plan = make_plan(request, pipe.card)
        assert plan.told_from == tuple(plan.request.shown(frames_of(turn)[0]) for turn in plan.turns)
        lines = plan.explain()[:2]
        for (frame, prompt), at, line in zip(request.story.items(), plan.told_from, lines, strict=True):
            in_fact = "" if at == frame else f" (it takes over at {at})"
            assert line == f"from frame {frame} on{in_fact}: {prompt}"
    grown = make_plan(make_request(prompt="x", num_frames=40, story={8: "y", 21: "z"}), pipe.card, history=4, spare=3)
    assert grown.told_from == (7, 19)


@pytest.mark.parametrize(
    ("model", "fps", "told"),
    [("DF-14B-540P", 16, False), ("I2V-1.3B-540P", 16, False), ("DF-1.3B-540P", 16, True), ("DF-14B-540P", 24, True)],
)
def test_a_rate_that_a_model_is_not_told_is_said__released_defect_12(model, fps, told):
    """The released code takes it in silence, and makes the film that it makes at 24."""
    pictures = {"image": "fox.png"} if model.startswith("I2V") else {}
    plan = make_plan(make_request(prompt="x", fps=fps, **pictures), find_model(model, here=False))
    assert (not plan.notes) == told and list(plan.notes) == plan.explain()[: len(plan.notes)]
    assert told or plan.notes[0].startswith(f"fps = 16: {model} is not told the rate of its films")


@pytest.mark.parametrize("schedule", ["blockwise", "rolling", "windows"])
def test_every_piece_that_leads_to_a_picture_is_told(schedule):
    """However far behind the first ones it comes."""
    card, draw = find_model("tiny"), random.Random(schedule)
    for pictures in ([], [400], [400, 900], [1456]):
        length = draw.randrange(1457, 1500)
        asked = {"prompt": "x", "schedule": schedule, "keyframes": dict.fromkeys(pictures, "fox.png")}
        plan = make_plan(make_request(**asked, num_frames=length), card)
        lines = plan.explain()[len(pictures) :]
        pieces = [row for row in plan.schedule if row.finished]
        told = pieces[:8] + [row for row in pieces[8:-1] if row.ahead] + pieces[-1:]
        assert [line for line in lines if line.startswith("frames")] == [plan._piece(row) for row in told]
        ahead = [line for line in lines if line.endswith("a picture lies ahead")]
        assert len(ahead) == sum(row.ahead for row in pieces) * plan.remembers
        if not pictures:
            assert lines[8] == f"... {len(pieces) - 9} more ..."
        for line, after in itertools.pairwise(lines):
            if line.startswith("... more"):
                assert after.startswith(f"frames {int(line.split()[-2]) + 1}..")


def test_the_opening_of_a_loop_reads_its_part_of_the_story(pipe):
    request = make_request(prompt="x", num_frames=80, loop=True, story={1: "y", 60: "z"})
    plan = make_plan(request, pipe.card)
    opening = make_plan(opening_of(plan), pipe.card)
    assert opening.request.prompt == "x" and list(opening.request.story.values()) == ["y"]
    assert opening.turns == plan.turns[:1]
