"""A film whose end meets its beginning."""

import numpy as np
import pytest
import torch
from PIL import Image

from everreel.film import making
from everreel.film.given import encode_frames
from everreel.film.plan import Ring, make_plan, opening_of
from everreel.film.request import RequestError, make_request

SMALL = {"prompt": "a red fox", "height": 32, "width": 32, "num_inference_steps": 2, "loop": True}


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("num_frames", [*range(8, 30), 97, 481])
def test_the_last_latent_holds_the_frames_that_come_again(num_frames, pictures):
    ring = Ring.of(num_frames, 5, pictures)
    made = 1 + 4 * (ring.num_latents - 2)  # frames before that latent, with what is not shown
    again = [(frame - ring.unseen) % num_frames for frame in range(made, made + 4)]
    assert [frame - ring.unseen for frame in ring.met] == again
    assert ring.opening < ring.num_latents - 1 and ring.met.stop <= 1 + 4 * (ring.opening - 1)
    assert ring.known == (*range(ring.opening), ring.num_latents - 1)


@pytest.mark.parametrize("options", [{"num_frames": 24}, {"num_frames": 61}, {"num_frames": 45, "join": "hybrid"}])
def test_the_opening_is_the_film_and_the_end_leads_back_to_it(pipe, options):
    request = make_request(**SMALL, **options)
    plan = make_plan(request, pipe.card)
    ring, beginning = plan.ring, pipe.begin(request)
    blocks = list(pipe.stream(request, beginning=beginning))
    film = np.concatenate([block.frames for block in blocks])
    assert len(film) == request.num_frames
    alone = np.concatenate([block.frames for block in pipe.stream(opening_of(plan))])
    shown = alone[ring.unseen :]
    assert np.abs(film[: len(shown)].astype(int) - shown).max() <= 1
    met = alone[[max(ring.met.start - 1, 0), *ring.met]]
    wanted = encode_frames(met, pipe.vae)[:, -1]
    assert torch.equal(beginning.known[ring.num_latents - 1], wanted)
    for row in plan.schedule:
        first, _ = row.window
        assert not any(moves for at, moves in enumerate(row.update) if first + at in ring.known)
    assert any(row.ahead for row in plan.schedule)  # the end is made in sight of the beginning


def test_a_given_first_frame_is_shown(pipe, tmp_path):
    picture = tmp_path / "fox.png"
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(picture)
    request = make_request(**SMALL, num_frames=30, image=picture)
    ring = make_plan(request, pipe.card).ring
    assert ring.unseen == 0
    known = pipe.begin(request).known
    still = pipe.begin(make_request(**SMALL | {"loop": False}, num_frames=9, image=picture)).known[0]
    assert torch.equal(known[0], still)


def test_nothing_follows_a_ring(pipe, tmp_path):
    film = tmp_path / "film.mp4"
    journal = making.begin(pipe, make_request(**SMALL, num_frames=21))
    with journal.open_film(film) as writer:
        finished = making.write(pipe, journal, writer)
    with pytest.raises(RequestError, match="its end meets its beginning"):
        making.go_on_with(pipe, finished, make_request(prompt="a fox", num_frames=5))
