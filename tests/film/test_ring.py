"""A film whose end meets its beginning."""

import numpy as np
import pytest
import torch
from PIL import Image

from everreel.film import making
from everreel.film.given import encode_frames
from everreel.film.plan import make_plan, opening_of
from everreel.film.request import RequestError, Ring, make_request
from everreel.shapes import latent_index

SMALL = {"prompt": "a red fox", "height": 32, "width": 32, "num_inference_steps": 2, "loop": True}


@pytest.mark.parametrize("num_frames", [*range(9, 30), 97, 481])
def test_the_last_latent_holds_the_frames_that_come_again(num_frames):
    request = make_request(prompt="x", num_frames=num_frames, loop=True)
    ring = Ring.of(request, 5)
    made = 1 + 4 * (ring.num_latents - 1)
    assert made - len(request.hidden) == num_frames  # it ends with the last frame of its last latent
    again = [(request.shown(frame) - num_frames) % num_frames for frame in range(made - 4, made)]
    assert [request.hidden.stop - frame for frame in ring.met] == [num_frames - frame for frame in again]
    assert ring.met[0] > 0  # frame 0 is of another kind
    assert ring.opening < ring.num_latents - 1 and ring.met.stop <= 1 + 4 * (ring.opening - 1)
    assert ring.known == (*range(ring.opening), ring.num_latents - 1)


@pytest.mark.parametrize("options", [{"num_frames": 24}, {"num_frames": 61}, {"num_frames": 45, "join": "hybrid"}])
def test_the_opening_is_the_film_and_the_end_leads_back_to_it(pipe, options):
    request = make_request(**SMALL, **options)
    plan = make_plan(request, pipe.card)
    ring, beginning = plan.ring, pipe.begin(request)
    film = np.concatenate([block.frames for block in pipe.stream(request, beginning=beginning)])
    assert len(film) == request.num_frames
    alone = np.concatenate([block.frames for block in pipe.stream(opening_of(plan))])
    first = alone[len(plan.request.hidden) :]
    assert np.abs(film[: len(first)].astype(int) - first).max() <= 1
    wanted = encode_frames(alone[ring.met.start - 1 : ring.met.stop], pipe.vae)[:, -1]
    assert torch.equal(beginning.known[ring.num_latents - 1], wanted)
    for row in plan.schedule:
        first, _ = row.window
        assert not any(moves for at, moves in enumerate(row.update) if first + at in ring.known)
    assert any(row.ahead for row in plan.schedule)  # the end is made in sight of the beginning


def test_pictures_keep_their_places_in_a_ring(pipe, tmp_path):
    picture = tmp_path / "fox.png"
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(picture)
    request = make_request(**SMALL, num_frames=30, image=picture, keyframes={20: picture})
    plan = make_plan(request, pipe.card)
    assert list(plan.request.pictures()) == [latent_index(request.made(frame)) for frame in (0, 20)]
    known = pipe.begin(request).known
    still = pipe.begin(make_request(**SMALL | {"loop": False}, num_frames=30, end_image=picture)).known[8]
    assert all(torch.equal(known[at], still) for at in plan.request.pictures())


def test_nothing_follows_a_ring(pipe, tmp_path):
    film = tmp_path / "film.mp4"
    journal = making.begin(pipe, make_request(**SMALL, num_frames=21))
    with journal.open_film(film) as writer:
        finished = making.write(pipe, journal, writer)
    with pytest.raises(RequestError, match="its end meets its beginning"):
        making.go_on_with(pipe, finished, make_request(prompt="a fox", num_frames=5))


def test_the_opening_is_watched_too(pipe):
    seen = []
    request = make_request(**SMALL, num_frames=24)
    pipe.begin(request, on_progress=seen.append)
    opening = opening_of(make_plan(request, pipe.card))
    assert [(progress.row, progress.num_rows) for progress in seen] == [(1, 2), (2, 2)]
    assert {progress.plan.request.num_frames for progress in seen} == {opening.num_frames}
