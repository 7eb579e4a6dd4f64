"""A served captioner against chat models that keep their word and such that do not, and over a real connection."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from everreel.caption.schema import Captioner, StructuralCaption, caption_schema
from everreel.caption.served import ServedCaptioner, data_uri
from everreel.chat import ChatError, Endpoint, UnreachableError

CAPTION = {
    "subjects": [
        {
            "TYPES": {"type": "Animal", "sub_type": "Fox"}, "appearance": "red", "action": "runs", "expression": "",
            "position": "in the middle", "is_main_subject": True,
        }
    ],
    "shot_type": "long_shot", "shot_angle": "eye_level", "shot_position": "side_view", "camera_motion": "",
    "environment": "a forest", "lighting": "daylight",
}  # fmt: skip
EXPECTED = StructuralCaption.model_validate(CAPTION)


def film(count, height, width):
    ramp = np.linspace(0, 255, count * height * width * 3).astype(np.uint8)
    return ramp.reshape(count, height, width, 3)


class Chat:
    """Answers what it was told to, one after the other; an exception among the answers is raised."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def answer(self, messages, *, schema=None, max_tokens=2048, temperature=0.0):
        self.asked.append((messages, schema, max_tokens, temperature))
        said = self.answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return said


def pictures_of(message):
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]


def test_a_good_answer_is_the_caption():
    chat = Chat(json.dumps(CAPTION))
    made: Captioner = ServedCaptioner(chat)
    assert made.caption(film(97, 90, 160), 24.0) == EXPECTED
    ((messages, schema, max_tokens, temperature),) = chat.asked
    assert schema == caption_schema() and (max_tokens, temperature) == (2048, 0.05)
    pictures = pictures_of(messages[0])
    assert len(pictures) == 16 and {picture.size for picture in pictures} == {(504, 280)}
    brightness = [np.asarray(picture).mean() for picture in pictures]
    assert brightness == sorted(brightness)
    words = [part["text"] for part in messages[0]["content"] if part["type"] == "text"]
    assert "4.0 seconds, 16 frames" in words[0] and "over_the_shoulder" in words[1]


@pytest.mark.parametrize(("size", "shown"), [((1, 33, 47), 1), ((5, 40, 200), 5), ((16, 200, 40), 15)])
def test_a_short_film_shows_each_frame_once(size, shown):
    chat = Chat(json.dumps(CAPTION))
    ServedCaptioner(chat).caption(film(*size), 24.0)
    assert len(pictures_of(chat.asked[0][0][0])) == shown


def test_pictures_are_what_they_show():
    frame = film(1, 60, 80)[0]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data_uri(frame).split(",")[1]))))
    assert decoded.shape == frame.shape
    assert np.abs(decoded.astype(int) - frame.astype(int)).mean() < 4


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("I see a fox.", "is no JSON object"),
        ('{"subjects": [', "JSON"),
        ('{"subjects": ' + "[" * 100_000, "is nested too deeply"),
        (json.dumps({**CAPTION, "shot_type": "huge"}), "shot_type = 'huge': must be one of"),
        (json.dumps({name: value for name, value in CAPTION.items() if name != "shot_angle"}), "shot_angle is missing"),
        (json.dumps({**CAPTION, "subjects": "a fox"}), "subjects = 'a fox'"),
    ],
)
def test_an_answer_that_is_none_is_asked_for_again_with_what_was_wrong__released_defect_45(wrong, named):
    """From an endpoint that took the schema and then did not keep to it."""
    chat = Chat(wrong, f"Here it is:\n```json\n{json.dumps(CAPTION)}\n```")
    assert ServedCaptioner(chat).caption(film(4, 32, 32), 24.0) == EXPECTED
    first, second = (messages for messages, *_ in chat.asked)
    assert second[0] == first[0] and second[1] == {"role": "assistant", "content": wrong[:2000]}
    assert named in second[2]["content"] and '"shot_position"' in second[2]["content"]
    assert [schema is None for _, schema, *_ in chat.asked] == [False, True]


def test_one_that_cannot_be_held_to_a_schema_is_asked_in_words():
    chat = Chat(ChatError("endpoint = x: 500, grammar too complex"), json.dumps(CAPTION))
    assert ServedCaptioner(chat).caption(film(4, 32, 32), 24.0) == EXPECTED
    (_, schema, *_), (messages, without, *_) = chat.asked
    assert schema is not None and without is None
    assert len(messages) == 1 and "JSON schema" in messages[0]["content"][-1]["text"]
    assert len(pictures_of(messages[0])) == 4


def test_in_the_end_it_is_named():
    chat = Chat(*["no"] * 9)
    with pytest.raises(ValueError, match=r"^captioner = seer: gave no caption; caption = 'no': is no JSON") as caught:
        ServedCaptioner(chat, "seer").caption(film(4, 32, 32), 24.0)
    assert len(chat.asked) == 3 and "\n" not in str(caught.value)
    chat = Chat(ChatError("it is slow"), ChatError("it is slow still"), json.dumps(CAPTION))
    with pytest.raises(ValueError, match=r"^captioner = seer: gave no caption; it is slow still$"):
        ServedCaptioner(chat, "seer").caption(film(4, 32, 32), 24.0)


def test_who_is_not_there_is_not_asked_again():
    chat = Chat(UnreachableError("endpoint = x: no answer in one try"), json.dumps(CAPTION))
    with pytest.raises(UnreachableError, match=r"no answer in one try"):
        ServedCaptioner(chat).caption(film(4, 32, 32), 24.0)
    assert len(chat.asked) == 1


def test_what_is_no_film_is_refused_before_anybody_is_asked():
    chat = Chat()
    for frames, fps, message in (
        (film(1, 32, 32)[:0], 24.0, r"^frames = 0 frames"),
        (film(2, 32, 32), float("nan"), r"^fps = nan: must be above 0; 24 works$"),
        (film(2, 32, 32).astype(float), 24.0, r"^frames = float64"),
    ):
        with pytest.raises(ValueError, match=message):
            ServedCaptioner(chat).caption(frames, fps)
    with pytest.raises(ValueError, match=r"^tries = 0: must be 1 or more"):
        ServedCaptioner(chat, tries=0)


def test_over_a_connection_to_a_server_that_says_yes_and_does_otherwise():
    """It takes `response_format` and answers prose, until the schema stands in the question."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            told = "JSON schema" in json.dumps(body["messages"])
            text = json.dumps(CAPTION) if told else "A fox runs."
            reply = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        chat = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "seer")
        assert ServedCaptioner(chat).caption(film(3, 32, 48), 24.0) == EXPECTED
    finally:
        server.shutdown()
        server.server_close()
    assert asked[0]["response_format"]["json_schema"]["schema"] == caption_schema()
    assert len(pictures_of(asked[0]["messages"][0])) == 3
