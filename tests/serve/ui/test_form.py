"""The desk's form and orders: the same thing, both ways, and one line for whatever a browser may send."""

import pytest

from everreel.film.request import RequestError
from everreel.serve.jobs.order import make_order
from everreel.serve.ui.form import back_on_desk, form_of, order_of

START, END, MIDDLE = (f"file_{digit * 32}" for digit in "abc")
SIZES = {"16:9": (96, 160), "9:16": (160, 96), "1:1": (128, 128)}
FOX = {"prompt": "a red fox runs"}


def line(**values):
    return FOX | {"timeline": {"seconds": 4, **values}}


def test_a_timeline_becomes_a_story_and_pictures_at_frames():
    timeline = {
        "seconds": 5.5,
        "parts": [{"at": 3, "text": "it sleeps"}, {"at": 1.5, "text": "it jumps", "key": "x"}],
        "pictures": [
            {"at": "start", "id": START, "thumb": "data:,"},
            {"at": "end", "id": END},
            {"at": 2, "id": MIDDLE},
        ],
    }
    order = order_of(form_of(FOX | {"timeline": timeline, "seed": 7, "aspect": "9:16"}))
    assert (order.request.prompt, order.request.story) == ("a red fox runs", {36: "it jumps", 72: "it sleeps"})
    assert (order.image, order.end_image, order.keyframes) == (START, END, {48: MIDDLE})
    assert (order.request.length, order.request.seed, order.request.aspect) == (132, 7, "9:16")


def test_what_is_left_open_is_left_to_the_model():
    order = order_of(form_of(FOX | {"steps": 0, "guidance": None, "schedule": "", "size": "", "negative": " "}))
    assert order.request.model_fields_set == {"prompt", "seconds", "fps", "seed", "aspect"}


@pytest.mark.parametrize(
    "values",
    [
        line(),
        line(parts=[{"at": 1.5, "text": "it jumps"}], pictures=[{"at": "start", "id": START}, {"at": 2, "id": END}]),
        line(loop=True),
        line(endless=True),
        FOX | {"size": "320x192", "steps": 12, "guidance": 3.5, "schedule": "rolling", "negative": "blur", "fps": 16},
        FOX | {"size": "540P", "aspect": "1:1", "model": "tiny-fast", "seed": 2**40},
        FOX | {"aspect": "9:16"},
    ],
)
def test_an_order_that_goes_onto_the_desk_comes_back_as_it_was(values):
    order = order_of(form_of(values))
    assert order_of(back_on_desk(order, SIZES)) == order


def test_an_order_whose_size_was_settled_is_put_back_by_its_shape():
    order = make_order(prompt="a fox", height=160, width=96, num_frames=48)
    form = back_on_desk(order, SIZES)
    assert (form.aspect, form.size, form.timeline.seconds) == ("9:16", "", 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt": " "}, "prompt is empty"),
        (line(parts=[{"at": 2, "text": " "}]), "story at 2 s: says nothing"),
        (line(parts=[{"at": 2, "text": "a"}, {"at": 2.01, "text": "b"}]), "another part begins there too"),
        (line(pictures=[{"at": 1, "id": START}, {"at": 1, "id": END}]), "picture at 1 s: there is one already"),
        (line(pictures=[{"at": "start", "id": START}] * 2), "picture at the start"),
        (line(pictures=[{"at": "start", "id": "../../etc/passwd"}]), "pictures"),
        (line(pictures=[{"at": "middle", "id": START}]), "pictures"),
        (line(seconds="long"), "seconds"),
        (line(seconds=float("nan")), "seconds"),
        (line(parts=[{"at": float("inf"), "text": "x"}]), "parts"),
        (line(pictures=[{"at": float("nan"), "id": START}]), "pictures"),
        (FOX | {"timeline": "no"}, "timeline"),
        (FOX | {"size": "big"}, "size = 'big'"),
        (FOX | {"size": "321x192"}, "width = 321"),
        (FOX | {"seed": -1}, "seed = -1"),
        (FOX | {"steps": -1}, "num_inference_steps = -1"),
        (FOX | {"aspect": "4:3"}, "aspect"),
        (FOX | {"schedule": "random"}, "schedule = 'random'"),
        (line(endless=True, pictures=[{"at": "end", "id": END}]), "picture at the end: an endless film has no end"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(values, said):
    with pytest.raises(RequestError) as error:
        order_of(form_of(values))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
