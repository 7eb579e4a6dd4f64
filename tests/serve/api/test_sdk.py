"""The openai SDK as the client, for every call of its Videos API that is served, as its users write them."""

import io

import pytest
from PIL import Image

from everreel.media import Video
from tests.serve.api.servers import picture, small_film, wait

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PROMPT = "a red fox runs through a snowy forest"
SHORT = {"num_frames": 17}


def test_a_film_is_made_waited_for_and_fetched(serve, tmp_path):
    client = serve().openai()
    film = client.videos.create_and_poll(prompt=PROMPT, seconds="1", size="160x96", extra_body={"seed": 7, "fps": 16})
    assert (film.status, film.progress, film.seconds, film.size) == ("completed", 100, "1", "160x96")
    assert (film.seed, film.fps, film.state, film.object, film.model) == (7, 16, "completed", "video", "tiny")
    assert film.error is None and film.prompt == PROMPT and film.completed_at >= film.created_at
    client.videos.download_content(film.id).write_to_file(tmp_path / "film.mp4")
    assert Video(tmp_path / "film.mp4").num_frames == 16
    thumbnail = client.videos.download_content(film.id, variant="thumbnail").read()
    spritesheet = client.videos.download_content(film.id, variant="spritesheet").read()
    assert Image.open(io.BytesIO(thumbnail)).format == "WEBP" and Image.open(io.BytesIO(spritesheet)).format == "JPEG"


def test_clients_are_told_how_soon_to_ask_again(serve):
    client = serve(make=False).openai()
    made = client.videos.with_raw_response.create(prompt=PROMPT, extra_body=SHORT)
    again = client.videos.with_raw_response.retrieve(made.parse().id)
    assert made.headers["openai-poll-after-ms"] == again.headers["openai-poll-after-ms"] == "20"


def test_the_asynchronous_client_waits_too(serve):
    import asyncio

    server = serve()

    async def make():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
            return await client.videos.create_and_poll(prompt=PROMPT, extra_body=SHORT)

    assert asyncio.run(make()).status == "completed"


def test_films_are_listed_page_by_page(serve):
    client = serve(make=False).openai()
    made = [client.videos.create(prompt=f"{PROMPT} {n}", extra_body=SHORT).id for n in range(5)]
    page = client.videos.list(limit=2)
    assert [film.id for film in page.data] == [made[4], made[3]] and page.has_more
    assert [film.id for film in client.videos.list(limit=2)] == made[::-1]  # it asks for all pages
    assert [film.id for film in client.videos.list(limit=2, order="asc", after=made[1]).data] == made[2:4]


def test_a_film_is_deleted(serve):
    client = serve(make=False).openai()
    film = client.videos.create(prompt=PROMPT)
    gone = client.videos.delete(film.id)
    assert (gone.id, gone.deleted, gone.object) == (film.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(film.id)


def test_a_remix_is_the_same_order_with_another_prompt(serve):
    client = serve(make=False).openai()
    old = client.videos.create(prompt=PROMPT, seconds="2", extra_body={"seed": "9"})
    new = client.videos.remix(old.id, prompt="a blue fox")
    assert (new.remixed_from_video_id, new.prompt, new.seed, new.seconds) == (old.id, "a blue fox", 9, "2")


def test_an_extension_of_a_film_made_here(serve):
    client = serve().openai()
    old = client.videos.create_and_poll(prompt=PROMPT, extra_body={"num_frames": 49, "size": "96x160"})
    # The SDK takes {"id": ...} by its types and refuses it when it is called; this is the way round.
    new = client.videos.extend(
        prompt="it finds a lake", seconds="2", video=openai.omit, extra_body={"video": {"id": old.id}}
    )
    assert (new.extended_from_video_id, new.size) == (old.id, "96x160")
    assert float(new.seconds) == pytest.approx((49 + 48) / 24)


def test_an_extension_of_a_film_that_is_sent(serve, tmp_path):
    server = serve(make=False)
    film = server.openai().videos.extend(prompt="it finds a lake", seconds="2", video=small_film(tmp_path))
    job = server.jobs.get(film.id)
    assert job.order.follows and job.order.request.prompt == "it finds a lake"


@pytest.mark.parametrize("made", [picture, small_film])
def test_an_input_reference_is_a_picture_or_a_film(serve, tmp_path, made):
    server = serve(make=False)
    with made(tmp_path).open("rb") as file:
        film = server.openai().videos.create(prompt=PROMPT, input_reference=file)
    order = server.jobs.get(film.id).order
    assert bool(order.image) == (made is picture) and bool(order.follows) == (made is small_film)


def test_files_are_uploaded_once_and_named(serve, tmp_path):
    server = serve(make=False)
    client = server.openai()
    with picture(tmp_path).open("rb") as file:
        uploaded = client.files.create(file=file, purpose="vision")
    assert (uploaded.object, uploaded.filename, uploaded.purpose) == ("file", "fox.png", "vision")
    more = {"keyframes": {"48": uploaded.id}, "input_reference": {"file_id": uploaded.id}}
    film = client.videos.create(prompt=PROMPT, extra_body=more)
    order = server.jobs.get(film.id).order
    assert (order.image, order.keyframes) == (uploaded.id, {48: uploaded.id})


def test_lists_and_objects_of_extra_body_arrive_as_the_sdk_spells_them_in_a_form(serve):
    server = serve(make=False)
    told = [{"seconds": 1, "prompt": "it jumps"}, {"seconds": 2, "prompt": "it sleeps"}]
    more = {"story": told, "loop": True, "guidance_scale": 4.5, "extra_params": {"seed": 3}}
    film = server.openai().videos.create(prompt=PROMPT, seconds="3", extra_body=more)
    request = server.jobs.get(film.id).order.request
    assert request.story == {24: "it jumps", 48: "it sleeps"}
    assert (request.loop, request.guidance_scale, request.seed) == (True, 4.5, 3)


def test_waiting_ends_when_a_film_is_cancelled(serve):
    server = serve(step=True)
    client = server.openai()
    film = client.videos.create(prompt=PROMPT)
    assert client.post(f"/videos/{film.id}/cancel", cast_to=openai.types.Video).id == film.id
    ended = client.videos.poll(film.id)
    assert (ended.status, ended.state, ended.error.code) == ("failed", "cancelled", "cancelled")


def test_waiting_ends_when_a_film_fails(serve):
    server = serve(step=True)
    server.maker.failing = True
    server.maker.go()
    ended = server.openai().videos.create_and_poll(prompt=PROMPT)
    assert (ended.status, ended.error.code, ended.error.message) == ("failed", "generation_failed", "it did not work")


def test_waiting_goes_on_while_a_film_is_paused(serve):
    server = serve(step=True)
    client = server.openai()
    film = client.videos.create(prompt=PROMPT, extra_body=SHORT)
    wait(lambda: server.jobs.get(film.id).status == "in_progress")
    client.post(f"/videos/{film.id}/pause", cast_to=object)
    wait(lambda: server.jobs.get(film.id).status == "paused")
    held = client.videos.retrieve(film.id)
    assert (held.status, held.state) == ("in_progress", "paused")
    client.post(f"/videos/{film.id}/resume", cast_to=object)
    server.maker.go(9)
    assert client.videos.poll(film.id).status == "completed"


def test_models_are_listed(serve):
    client = serve(make=False).openai()
    assert [model.id for model in client.models.list()] == ["tiny", "tiny-fast"]
    assert client.models.retrieve("tiny").owned_by == "everreel"


def test_what_is_not_served_says_so(serve, tmp_path):
    client = serve(make=False).openai()
    with small_film(tmp_path).open("rb") as file:
        with pytest.raises(openai.APIStatusError, match="not edited") as edited:
            client.videos.edit(prompt=PROMPT, video=file)
        file.seek(0)
        with pytest.raises(openai.APIStatusError, match="characters are not served"):
            client.videos.create_character(name="Fox", video=file)
    assert edited.value.status_code == 501
    with pytest.raises(openai.APIStatusError, match="characters are not served"):
        client.videos.get_character("char_1")


def test_errors_have_the_classes_that_users_catch(serve):
    client = serve(make=False).openai()
    with pytest.raises(openai.BadRequestError) as refused:
        client.videos.create(prompt=PROMPT, extra_body={"fps": 25})
    assert (refused.value.param, refused.value.type) == ("fps", "invalid_request_error")
    assert "24" in refused.value.message
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve("video_" + "0" * 32)


def test_a_retry_of_the_sdk_makes_no_second_film(serve, tmp_path):
    again = {"Idempotency-Key": "one"}
    films = set()
    for _ in range(2):  # with the file sent again, as a retry does, to a server that was started again
        client = serve("home", make=False).openai()
        with picture(tmp_path).open("rb") as file:
            film = client.videos.create(prompt=PROMPT, input_reference=file, extra_headers=again)
            films.add(film.id)
    assert len(films) == 1 and len(client.videos.list().data) == 1
    with pytest.raises(openai.ConflictError):
        client.videos.create(prompt="another", extra_headers=again)
