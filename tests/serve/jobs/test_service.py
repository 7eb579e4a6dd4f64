"""What is wrong with an order is said before it is a job, in one line that tells nothing of this machine's disk."""

import asyncio
import re
from dataclasses import replace

import pytest
from PIL import Image

from everreel.film.request import RequestError
from everreel.serve.jobs.job import ConflictError, Limits, NotFoundError, Once, Owner, Quota, QuotaError, Upload
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.service import Jobs, nameless, serve_options
from tests.film.films import natural, write
from tests.serve.jobs.conftest import SMALL

ANNA, BEN = Owner("anna"), Owner("ben")


def small(**values):
    return make_order(**SMALL | {"num_frames": 9} | values)


def picture(home, tmp_path, owner=ANNA, size=(64, 64)):
    Image.new("RGB", size, "red").save(tmp_path / "picture.png")
    return home.store.keep(tmp_path / "picture.png", owner.name, ".png")


@pytest.mark.parametrize(
    ("limits", "values", "said"),
    [
        (Limits(seconds=1), {"num_frames": 25}, r"^num_frames = 25: this server makes at most 1 s; .* works: 24$"),
        (Limits(seconds=1), {"num_frames": None, "seconds": 2}, r"^seconds = 2: this server makes at most 1 s"),
        (Limits(seconds=1), {"num_frames": None}, r"^seconds = 4.04167: this server makes at most 1 s"),
        (Limits(seconds=30), {"num_frames": None, "endless": True, "story": {9000: "a cat"}}, "at most 30 s"),
        (Limits(pixels=1000), {}, r"at most 1000 pixels a frame; nearest that works: 16x16"),
        (Limits(steps=1), {}, r"^num_inference_steps = 2: this server takes at most 1"),
        (Limits(prompt=5), {}, r"^prompt = 9 characters: this server takes at most 5"),
        (Limits(prompt=20), {"story": {5: "a very long part of it"}}, "characters"),
        (Limits(), {"prompt": "a fox " * 600}, r"^prompt = \d+ tokens: the model reads at most"),
        (Limits(), {"model": "smal"}, r"^model = 'smal': must be one of small; nearest that works: small"),
        (Limits(), {"schedule": "blockwise", "ar_step": 1}, "ar_step = 1"),
    ],
)
def test_an_order_that_cannot_be_made(home, limits, values, said):
    jobs = Jobs(home.queue, home.store, home.jobs.models, limits)
    with pytest.raises(RequestError, match=said):
        jobs.submit(small(**values), ANNA)
    assert not jobs.queue.page(None)


def test_an_endless_order_may_be_longer_than_any_other(home):
    jobs = Jobs(home.queue, home.store, home.jobs.models, Limits(seconds=10))
    job, _ = jobs.submit(small(num_frames=None, endless=True), ANNA)
    assert job.order.request.length is None and job.progress == 0


def test_an_order_that_nothing_ends_is_made_endless_and_no_other_is(home, tmp_path, monkeypatch):
    jobs, order = home.jobs, make_order(**SMALL)
    endless, usual = jobs.submit(jobs.without_end(order), ANNA)[0], jobs.submit(order, ANNA)[0]
    assert (endless.order.endless, endless.order.request.length) == (True, None)
    assert (usual.order.endless, usual.order.request.length) == (False, jobs.card("small").num_frames)
    beginning, end = make_order(**SMALL, image=picture(home, tmp_path)), picture(home, tmp_path)
    assert jobs.without_end(beginning).endless, "a beginning is no end"
    assert jobs.without_end(make_order(**SMALL, follows="file_" + "0" * 32)).endless, "nor is a film to go on with"
    assert jobs.without_end(jobs.extension(usual.id, ANNA)).endless
    assert not jobs.without_end(jobs.extension(usual.id, ANNA, seconds=2)).endless
    assert not jobs.without_end(jobs.extension(usual.id, ANNA, endless=False)).endless
    for values in ({"num_frames": 9}, {"seconds": 1}, {"loop": True}, {"end_image": end}, {"endless": False}):
        assert not jobs.without_end(make_order(**SMALL | values)).endless, values
    again = jobs.remix(usual.id, "a cat", ANNA)
    assert not jobs.without_end(again).endless, "a film that has a length is remade with it"
    with pytest.raises(RequestError, match="nearest that works: small"):
        jobs.submit(jobs.without_end(make_order(prompt="a fox", model="smal")), ANNA)
    card = replace(jobs.card("small"), kind="t2v")
    monkeypatch.setattr(jobs, "card", lambda model: card)
    assert not jobs.without_end(order).endless, "its model makes films of its own length alone"
    with pytest.raises(RequestError, match="cannot go on with a film"):
        jobs.submit(make_order(**SMALL, endless=True), ANNA)


def test_the_outlook_of_an_endless_film_says_that_it_is_one(home):
    endless, usual = (home.jobs.outlook(make_order(**SMALL, endless=value), ANNA) for value in (True, False))
    assert endless.endless and "first" in endless.lines[0] and f"{endless.num_frames} frames" in endless.lines[0]
    assert endless.num_frames == 480 and "rolling" in endless.summary, "as its first 20 seconds are made"
    assert not usual.endless and not any("until it is stopped" in line for line in usual.lines)


def test_pictures_and_films_are_their_owners(home, tmp_path):
    upload = picture(home, tmp_path)
    assert home.jobs.submit(small(image=upload), ANNA)[1]
    with pytest.raises(NotFoundError):
        home.jobs.submit(small(image=upload), BEN)
    film = home.jobs.submit(small(), ANNA)[0]
    for refused in (
        lambda: home.jobs.get(film.id, BEN),
        lambda: home.jobs.want(film.id, "cancel", BEN),
        lambda: home.jobs.remove(film.id, BEN),
        lambda: home.jobs.open(film.id, "film.mp4", BEN),
        lambda: home.jobs.remix(film.id, "a cat", BEN),
        lambda: home.jobs.extension(film.id, BEN),
    ):
        with pytest.raises(NotFoundError):
            refused()
    assert home.jobs.get(film.id, ANNA).status == "queued"


def test_what_the_engine_says_of_a_picture_names_the_upload_and_no_path(home, tmp_path):
    upload = picture(home, tmp_path, size=(8, 8))
    with pytest.raises(RequestError, match=upload) as refused:
        home.jobs.submit(small(image=upload), ANNA)
    assert "/" not in str(refused.value)


def test_an_outlook_says_what_an_order_would_cost(home):
    found = home.jobs.outlook(small(num_frames=57, base_num_frames=25, overlap_history=9), ANNA)
    assert (found.num_frames, found.width, found.height, found.fps, found.seconds) == (57, 32, 32, 24, 57 / 24)
    assert found.blocks > 1 and found.takes > 0
    assert f"{found.memory / 1e9:.1f} GB" in "".join(found.lines), "the figure is that of the line"
    assert not home.queue.page(None)


def test_only_a_completed_film_is_gone_on_with(home):
    film = home.order()
    with pytest.raises(ConflictError, match="is queued; go on with one that is completed"):
        home.jobs.submit(home.jobs.extension(film.id, Owner(), num_frames=8), Owner())
    assert home.work().status == "completed"
    order = home.jobs.extension(film.id, Owner(), prompt=None, num_frames=8)
    assert order.request.prompt == "a red fox", "what was told last"
    longer = home.jobs.submit(order, Owner())[0]
    assert (longer.order.request.height, longer.order.request.num_frames) == (32, 8)
    again = home.jobs.extension(longer.id, Owner(), prompt="it jumps")
    assert (again.extends, again.request.prompt) == (longer.id, "it jumps")


def test_a_ring_is_not_gone_on_with(home):
    film = home.order(loop=True)
    assert home.work().status == "completed"
    with pytest.raises(RequestError, match="its end meets its beginning"):
        home.jobs.submit(home.jobs.extension(film.id, Owner(), num_frames=8), Owner())


def test_a_remix_is_the_same_but_for_its_words(home):
    film = home.order(story={5: "a cat"}, seed=7)
    order = home.jobs.remix(film.id, "a blue fox", Owner())
    assert (order.request.prompt, order.request.story, order.request.seed) == ("a blue fox", {}, 7)
    assert (order.remixed_from, order.request.num_frames, order.model) == (film.id, 9, "small")


def test_an_enhanced_order_says_with_which_words_it_is_made(home):
    job, _ = home.jobs.submit(small(enhance=True), ANNA)
    assert job.order.enhanced == job.order.request.prompt != "a red fox"
    assert "red fox" in job.order.request.prompt
    text, note = home.jobs.enhanced("a red fox")
    assert (job.order.enhanced, job.order.enhanced_notes) == (text, {0: note})
    again = home.jobs.remix(job.id, "a blue fox", ANNA)
    assert again.enhanced is None and again.enhanced_notes == {}


def test_an_enhanced_order_keeps_what_is_said_of_each_prompt(home):
    asked = small(prompt="a quagga runs", story={5: "a snark jumps"}, enhance=True)
    job, _ = home.jobs.submit(asked, ANNA)
    notes = home.jobs.get(job.id).order.enhanced_notes
    assert notes.keys() == {0, 5} and all(note.startswith("built-in: ") for note in notes.values())
    assert "not known, kept: quagga" in notes[0] and "not known, kept: snark" in notes[5]


def test_priorities_are_allowed_or_not(home):
    with pytest.raises(RequestError, match=r"^priority = 2: yours may be at most 1; nearest that works: 1"):
        home.jobs.submit(small(), Owner("anna", highest_priority=1), priority=2)
    assert home.jobs.submit(small(), Owner("anna", highest_priority=1), priority=1)[0].priority == 1


def test_the_same_request_is_one_film(home):
    once = Once("key", "digest")
    film, new = home.jobs.submit(small(), ANNA, once=once)
    assert new and home.jobs.submit(small(), ANNA, once=once) == (film, False)
    with pytest.raises(ConflictError):
        home.jobs.submit(small(), ANNA, once=Once("key", "other"))


def test_uploads_count_towards_the_quota(home, tmp_path, monkeypatch):
    monkeypatch.setattr("everreel.serve.jobs.uploads.inspect", lambda *_: Upload("image", ".png", 64, 64))
    owner = Owner("anna", Quota(bytes=400))
    path = home.store.incoming() / "sent"
    path.write_bytes(b"x" * 300)
    taken = home.jobs.upload(path, owner)
    assert (taken.num_bytes, home.store.upload(taken.id, "anna").read_bytes()) == (300, b"x" * 300)
    path.write_bytes(b"x" * 300)
    with pytest.raises(QuotaError, match="you may have 400 bytes"):
        home.jobs.upload(path, owner)


def test_a_film_that_follows_an_upload_has_its_shape(home, tmp_path):
    write(tmp_path / "tall.mp4", natural(24, height=64, width=32))
    upload = home.store.keep(tmp_path / "tall.mp4", "anna", ".mp4")
    order = small(follows=upload, height=None, width=None)
    job = home.jobs.submit(order, ANNA)[0]
    assert job.order.request.height > job.order.request.width


def test_watching_ends_with_the_film(home):
    film = home.order()

    async def watch():
        seen = []
        async for job in home.jobs.watch(film.id):
            seen.append(job.status)
            if len(seen) == 1:
                await asyncio.to_thread(home.work)
        return seen

    seen = asyncio.run(watch())
    assert (seen[0], seen[-1]) == ("queued", "completed")
    assert asyncio.run(anext(home.jobs.watch(film.id))).status == "completed"
    home.jobs.remove(film.id, Owner())
    with pytest.raises(StopAsyncIteration):
        asyncio.run(anext(home.jobs.watch(film.id)))


def test_what_is_too_old_goes(home, monkeypatch):
    film = home.order()
    home.work()
    home.jobs.clean()
    folder = home.film(film).parent
    assert home.film(film).exists()
    jobs = Jobs(home.queue, home.store, home.jobs.models, Limits(retention=0))
    jobs.clean()
    assert not folder.exists()
    with pytest.raises(NotFoundError):
        jobs.get(film.id)


def test_lines_without_paths():
    line = "image = /data/films/uploads/ab12/file_" + "0" * 32 + ".png: 8x8 pixels"
    assert nameless(line) == "image = file_" + "0" * 32 + ": 8x8 pixels"
    assert not re.search("/", nameless("film = /a/b/films/video_" + "1" * 32 + "/film.mp4: has no journal"))


def test_the_models_of_a_server_have_names(tiny_folder, small_model):
    served = serve_options(small_model)
    assert list(served) == [tiny_folder.name]
    assert all(options.device == "cpu" for options in served.values())
