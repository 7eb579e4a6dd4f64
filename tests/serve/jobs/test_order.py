"""An order names films and uploads, and nothing of any disk."""

import pytest

from everreel.film.request import RequestError, VideoRequest
from everreel.serve.jobs.order import Order, make_order

FILE, FILM = "file_" + "0" * 32, "video_" + "0" * 32


def test_flat_values_become_a_request_and_what_goes_with_it():
    order = make_order(prompt="a fox", num_frames=9, model="small", image=FILE, keyframes={4: FILE}, seed=None)
    assert order.request == VideoRequest(prompt="a fox", num_frames=9)
    assert (order.model, order.image, order.keyframes, order.uploads) == ("small", FILE, {4: FILE}, {FILE})


def test_pictures_take_their_places(tmp_path):
    path = tmp_path / "picture.png"
    order = make_order(prompt="a fox", image=FILE, end_image=FILE, keyframes={4: FILE})
    request = order.whole({FILE: path})
    assert (request.image, request.end_image, request.keyframes) == (path, path, {4: path})


def test_an_order_of_before_there_were_notes_is_read_and_notes_come_back():
    old = '{"request": {"prompt": "full shot of a red fox"}, "enhance": true, "enhanced": "full shot of a red fox"}'
    order = Order.model_validate_json(old)
    assert order.enhanced_notes == {}
    noted = order.model_copy(update={"enhanced_notes": {0: "built-in: added shot", 24: "not known, kept: quagga"}})
    assert Order.model_validate_json(noted.model_dump_json(exclude_unset=True)) == noted


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": "/etc/passwd"}, "image"),
        ({"image": "file_../../secret"}, "image"),
        ({"keyframes": {1: "https://example.com/a.png"}}, "keyframes"),
        ({"extends": "video_1"}, "extends"),
        ({"extends": FILM, "follows": FILE}, "follows: give a film made here or an upload, not both"),
        ({"extends": FILM, "image": FILE}, "image: a film that goes on with another"),
        ({"endless": True, "num_frames": 9}, "endless = True: has no length"),
        ({"endless": True, "loop": True}, "endless = True"),
        ({"endless": True, "end_image": FILE}, "endless = True"),
        ({"fps": 25}, "fps = 25"),
        ({"nothing": 1}, "nothing"),
    ],
)
def test_what_is_no_order(values, said):
    with pytest.raises(RequestError, match=said) as refused:
        make_order(prompt="a fox", **values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"num_frames": 9},
        {"seconds": 1},
        {"loop": True},
        {"end_image": FILE},
        {"endless": True},
        {"endless": False},
    ],
)
def test_what_says_how_long_it_is_or_has_an_end_is_not_open_ended(values):
    for goes_on in ({}, {"image": FILE}, {"extends": FILM}, {"follows": FILE}):
        assert make_order(prompt="a fox", model="small", **goes_on).open_ended
    assert not make_order(prompt="a fox", **values).open_ended


def test_a_request_with_a_path_in_it_is_no_order(tmp_path):
    with pytest.raises(ValueError, match="image: give the id of an upload"):
        Order(request=VideoRequest(prompt="a fox", image=tmp_path))
