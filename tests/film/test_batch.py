"""A file of requests: every line is checked before anything is made, and no film is replaced by another."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from everreel.answers import ChatError, UnreachableError
from everreel.film import making
from everreel.film.batch import BatchError, Enhancing, open_journal, read_batch
from everreel.film.journal import Journal, journal_path, read_journal
from everreel.film.loading import model_options
from everreel.film.placement import Placement
from everreel.film.request import RequestError, make_request
from everreel.media import FilmWriter, Video, write_image

SMALL = {"prompt": "a red fox", "height": 32, "width": 32, "num_inference_steps": 2}


class Whole:
    """Makes prompts whole by shouting; keeps what it was asked. Of `answers` by prompt, an error is raised."""

    def __init__(self, every=False, answers=()):
        self.asked, self.said, self.begun, self.answers = [], [], 0, dict(answers)
        self.how = Enhancing(self.begin, self.said.append, every)

    def begin(self):
        self.begun += 1
        return self.whole

    def whole(self, request):
        self.asked.append(request.prompt)
        answer = self.answers.get(request.prompt, request.prompt.upper())
        if isinstance(answer, Exception):
            raise answer
        return request.model_copy(update={"prompt": answer}), [f"prompt: {answer}", "  louder"]


class Stopped(BaseException):
    """Like a process that dies: nothing catches it."""


@pytest.fixture
def batch(pipe, tmp_path):
    """Reads lines, given as text, bytes or fields, as a batch whose films go to the folder `films`."""

    def batch(*lines, whole=None, **maker):
        texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        data = b"\n".join(text if isinstance(text, bytes) else text.encode() for text in texts)
        requests = tmp_path / "requests.jsonl"
        requests.write_bytes(data)
        made_by = replace(making.maker_for(pipe.card, model_options(device="cpu", dtype="float32")), **maker)
        return read_batch(requests, tmp_path / "films", pipe.card, made_by, (whole or Whole()).how)

    return batch


@pytest.fixture
def wrong(batch, tmp_path):
    """What is said of lines that are wrong, without the name of the file."""

    def wrong(*lines, **maker):
        with pytest.raises(BatchError) as caught:
            batch(*lines, **maker)
        start = f"{tmp_path / 'requests.jsonl'}:"
        assert all(line.startswith(start) and line.isprintable() for line in caught.value.lines)
        return [line.removeprefix(start) for line in caught.value.lines]

    return wrong


def make(pipe, item):
    item.output.parent.mkdir(exist_ok=True)
    journal = open_journal(item, pipe)
    with journal.open_film(item.output) as writer:
        return making.write(pipe, journal, writer)


def stop(pipe, item, blocks=2):
    """Make a film, and die when so many blocks are in its journal and one more only on disk."""
    before, left = Journal.save, [blocks]

    def save(journal, film):
        left[0] -= journal.num_frames > 0
        if left[0] < 0:
            raise Stopped
        before(journal, film)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Journal, "save", save)
        make(pipe, item)


def test_lines_become_films_in_their_order(batch, tmp_path):
    """Blank lines count as lines; a line feed alone ends one, and a mark of byte order is no part of the first."""
    told = {"prompt": "An Öwl, on\u2028a branch!", "story": {"9": "it flies"}, "num_frames": 30}
    items = batch(
        b"\xef\xbb\xbf" + json.dumps(SMALL | {"seconds": 1}).encode() + b"\r",
        "  ",
        json.dumps(told, ensure_ascii=False),
        SMALL | {"output": "Fox.MP4", "seed": 3},
        {"prompt": "一只狐狸"},
        {"prompt": "a swan " * 20},
        "",
    )
    assert [(item.line, item.output.name, item.status) for item in items] == [
        (1, "0001-a-red-fox.mp4", "new"),
        (3, "0003-an-owl-on-a-branch.mp4", "new"),
        (4, "Fox.MP4", "new"),
        (5, "0005.mp4", "new"),
        (6, "0006-a-swan-a-swan-a-swan-a-swan-a-swan-a.mp4", "new"),
    ]
    assert items[0].output.parent == tmp_path / "films" and not (tmp_path / "films").exists()
    assert items[0].request.num_frames == 24 and items[0].request.seconds is None
    assert items[1].request.story == {9: "it flies"} and items[1].request.prompt == "An Öwl, on a branch!"
    assert items[0].summary.startswith("24 frames of 32x32 at 24 fps")


def test_pictures_lie_beside_the_file(batch, wrong, tmp_path, monkeypatch):
    """Wherever the command is run."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_image(tmp_path / "a.png", np.zeros((32, 64, 3), np.uint8))
    (item,) = batch(SMALL | {"num_frames": 30, "image": "a.png", "keyframes": {"12": tmp_path.as_posix() + "/a.png"}})
    assert item.request.image == item.request.keyframes[12] == tmp_path / "a.png"
    assert [note.split(":")[0] for note in item.notes] == ["image", "keyframes[12]"]
    assert wrong(SMALL | {"end_image": "b.png"}) == [
        f"1: end_image = {tmp_path / 'b.png'}: No such file or directory; give a PNG or JPEG"
    ]
    assert "cannot be read as a picture" in wrong(SMALL | {"image": "b\0.png"})[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a red fox", "is not JSON: expecting value, at column 1; "),
        ('{"prompt": "a fox"', "is not JSON: expecting ',' delimiter, at column 19; "),
        ('{"prompt": "a fox"} {}', "is not JSON: extra data, at column 21; "),
        ('{"prompt": "a fox", "seed": ' + "9" * 5000 + "}", "is too long or too deep to be read; "),
        ("[" * 100_000, "is too long or too deep to be read; "),
        ('["a fox"]', "['a fox']: must be a JSON object; "),
        ("null", "None: must be a JSON object; "),
        (b'{"prompt": "\xff"}', "must be text in UTF-8, byte 13 is not; "),
        ('{"prompt": "a fox"}'.encode("utf-16"), "must be text in UTF-8, byte 1 is not; "),
        ("{}", "prompt: must be given"),
        ({"prompt": " "}, "prompt is empty: "),
        ({"prompt": 5}, "prompt = 5: input should be a valid string"),
        ({"promt": "a fox"}, "'promt' is no field of a request; nearest that works: 'prompt'"),
        ({"prompt": "a fox", "\x1b[2J": 9}, "'\\x1b[2J' is no field of a request; "),
        ('{"prompt": "a fox", "seed": 1, "seed": 2}', "seed = 2: is given twice; leave one out"),
        ({"prompt": "a fox", "num_frames": 0}, "num_frames = 0: must be at least 1; nearest that works: 1"),
        ({"prompt": "a fox", "seconds": float("nan")}, "seconds = nan: must be at least 0.04"),
        ({"prompt": "a fox", "ar_step": 1, "num_frames": 400}, "ar_step = 1: "),
        ({"prompt": "a fox", "story": {"90": "a swan"}}, "story[90] = 'a swan': too near the end of 25 frames"),
        ({"prompt": "a fox", "story": {"9" * 400: "a swan"}}, "story[9999"),
        ({"prompt": "a fox", "story": {"9": " "}}, "story = {'9': ' '}: prompt is empty: "),
        ({"prompt": "a fox", "keyframes": {"25": "a.png"}}, "keyframes[25] = "),
        ({"prompt": "a fox " * 300}, "prompt = "),
        ({"prompt": "a fox", "story": {"9": "a fox " * 300}}, "story[9] = "),
        ({"prompt": "a fox", "guidance_scale": 3, "negative_prompt": "dog " * 600}, "negative_prompt = "),
        ({"prompt": "__import__('os').mkdir('films')", "seed": -1}, "seed = -1: "),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_a_bad_line_is_named(wrong, tmp_path, line, message):
    lines = wrong("", SMALL, line)
    assert len(lines) == 1 and lines[0].startswith(f"3: {message}"), lines
    assert not (tmp_path / "films").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("a.gif", "output = a.gif: must end in .mp4; nearest that works: a.mp4"),
        (".mp4", "output = .mp4: must end in .mp4; nearest that works: mp4.mp4"),
        ("", "output = : must end in .mp4; nearest that works: 0001.mp4"),
        ("/tmp/a.mp4", "output = /tmp/a.mp4: must be a file name, films lie in one folder; nearest that works: a.mp4"),
        ("../a.mp4", "output = ../a.mp4: must be a file name, films lie in one folder; nearest that works: a.mp4"),
        ("b\\a.mp4", "output = b\\a.mp4: must be a file name, films lie in one folder; nearest that works: a.mp4"),
        ("..", "output = ..: must end in .mp4; nearest that works: 0001.mp4"),
        ("a/..", "output = a/..: must be a file name, films lie in one folder; nearest that works: 0001.mp4"),
        ("a\n.mp4", "output = 'a\\n.mp4': must be a file name; nearest that works: 0001.mp4"),
        ("a\0.mp4", "output = 'a\\x00.mp4': must be a file name; nearest that works: 0001.mp4"),
        (7, "output = 7: must be a file name; nearest that works: 0001.mp4"),
        ("ä" * 120 + ".mp4", f"output = {'ä' * 120}.mp4: must have at most 242 bytes; 0001.mp4 works"),
    ],
)
def test_a_bad_output_is_named(wrong, output, message):
    assert wrong(SMALL | {"output": output}) == [f"1: {message}"]


def test_every_bad_line_is_named(wrong):
    """Two films of one name too, even where they differ by what some file systems do not tell apart."""
    lines = wrong(
        SMALL | {"output": "fox.mp4"},
        SMALL | {"fps": 25},
        SMALL | {"output": "Fox.mp4"},
        "{",
        SMALL | {"output": "0007-a-red-fox.mp4"},
        SMALL | {"seed": -1, "output": "fox.mp4"},
        SMALL,
    )
    assert [line.split(":")[0] for line in lines] == ["2", "3", "4", "6", "7"]
    assert lines[1] == "3: output = Fox.mp4: line 1 has it already; choose another"
    assert lines[4] == "7: output = 0007-a-red-fox.mp4: line 5 has it already; choose another"


def test_a_file_without_requests_is_one_line(batch, pipe, tmp_path):
    maker = making.maker_for(pipe.card, model_options(device="cpu", dtype="float32"))
    with pytest.raises(ValueError, match=r"requests = .*none\.jsonl: No such file or directory; give a file with"):
        read_batch(tmp_path / "none.jsonl", tmp_path, pipe.card, maker, Whole().how)
    with pytest.raises(ValueError, match=r"requests = .*: Is a directory; give a file with a JSON object a line"):
        read_batch(tmp_path, tmp_path, pipe.card, maker, Whole().how)
    for empty in ("", "\n  \n"):
        with pytest.raises(ValueError, match=r"requests = .*requests\.jsonl: has none; a line such as .* works"):
            batch(empty)
    (tmp_path / "films").write_text("words")
    with pytest.raises(ValueError, match=r"output = .*films: is a file, must be a folder; nearest that works: "):
        batch(SMALL)


def test_what_is_finished_is_not_made_again(batch, pipe):
    lines = SMALL | {"num_frames": 9, "guidance_scale": 1}, SMALL | {"seconds": 0.5, "seed": 4}
    for item in batch(*lines)[:1]:
        make(pipe, item)
    assert [item.status for item in batch(*lines)] == ["finished", "new"]
    assert [item.status for item in batch(*lines, dtype="bfloat16", device="cuda:0")] == ["finished", "new"]
    # What a line does not say is as the model recommends, so it may as well say it.
    assert batch(lines[0] | {"fps": 24, "shift": pipe.card.shift})[0].status == "finished"


@pytest.mark.parametrize("blocks", [0, 2])
def test_what_was_stopped_goes_on_to_the_same_bytes(batch, pipe, blocks):
    """Without its picture too, which the journal holds."""
    write_image(batch(SMALL)[0].output.parent.parent / "a.png", np.full((32, 32, 3), 90, np.uint8))
    line = SMALL | {"num_frames": 42, "image": "a.png"}
    whole, stopped = batch(line | {"output": "whole.mp4"}, line | {"output": "stopped.mp4"})
    make(pipe, whole)
    stop(pipe, stopped, blocks)
    frames = read_journal(stopped.output).num_frames
    assert (frames > 0) == (blocks > 0) and frames < Video(stopped.output).num_frames < 42
    stopped.request.image.unlink()
    before, item = batch(line | {"output": "whole.mp4"}, line | {"output": "stopped.mp4"})
    assert (before.status, item.status) == ("finished", "stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "begin", None)
        make(pipe, item)
    assert item.output.read_bytes() == whole.output.read_bytes()
    assert Video(item.output).num_frames == 42


def test_a_film_goes_on_with_its_own_threads(batch, pipe):
    (item,) = batch(SMALL | {"num_frames": 42})
    stop(pipe, item)
    torch.set_num_threads(2)
    (again,) = batch(SMALL | {"num_frames": 42})
    assert (again.status, again.threads) == ("stopped", 1)
    open_journal(again, pipe)
    assert torch.get_num_threads() == 1


def test_before_its_first_block_a_film_is_begun_again(batch, pipe):
    """And where its film was removed, whatever its journal tells of."""
    (item,) = batch(SMALL | {"num_frames": 42})
    item.output.parent.mkdir()
    making.begin(pipe, item.request).save(item.output)
    (again,) = batch(SMALL | {"num_frames": 42})
    assert again.status == "new"
    make(pipe, again)
    again.output.unlink()
    (edited,) = batch(SMALL | {"num_frames": 9, "output": again.output.name})
    assert edited.status == "new"
    make(pipe, edited)
    assert Video(edited.output).num_frames == 9


@pytest.mark.parametrize("finished", [True, False])
def test_another_film_is_never_replaced(batch, wrong, pipe, finished):
    """A line was edited, or what lies there is somebody else's."""
    line = SMALL | {"num_frames": 42, "output": "fox.mp4"}
    (item,) = batch(line)
    if finished:
        make(pipe, item)
    else:
        stop(pipe, item)
    before = item.output.read_bytes(), journal_path(item.output).read_bytes()
    remedy = "remove it or choose another output"
    for field, value, said in (
        ("seed", 7, "seed = 0, and not 7"),
        ("prompt", "a swan", "prompt = 'a red fox', and not 'a swan'"),
        ("story", {"20": "it jumps"}, "story = {}, and not {20: 'it jumps'}"),
        ("num_frames", 43, "num_frames = 42, and not 43"),
    ):
        assert wrong(line | {field: value}) == [f"1: output = {item.output}: was made with {said}; {remedy}"]
    assert wrong(line, fingerprint="0" * 16) == [
        f"1: output = {item.output}: was made by the model {pipe.card.path} as it was then; {remedy}"
    ]
    if finished:
        said = "was made with quantization = None, and not 'int8'"
        assert wrong(line, options={"quantization": "int8"}) == [f"1: output = {item.output}: {said}; {remedy}"]
    else:
        said = f"{item.output} was begun with float32; give --dtype float32"
        assert wrong(line, dtype="bfloat16") == [f"1: dtype = bfloat16: {said}"]
    assert (item.output.read_bytes(), journal_path(item.output).read_bytes()) == before
    item.output.write_bytes(before[0][:100])
    assert wrong(line) == [f"1: output = {item.output}: is shorter than its journal says; {remedy}"]
    journal_path(item.output).write_bytes(b"{}")
    assert f"journal = {journal_path(item.output)}: cannot be read" in wrong(line)[0]
    journal_path(item.output).unlink()
    assert wrong(line) == [f"1: output = {item.output}: is there already and has no journal; {remedy}"]
    item.output.unlink()
    item.output.mkdir()
    assert wrong(line) == [f"1: output = {item.output}: is a folder; {remedy}"]


def test_a_film_that_grew_since_is_not_taken_for_the_line_s(batch, wrong, pipe):
    line = SMALL | {"num_frames": 21}
    (item,) = batch(line)
    longer = making.go_on_with(pipe, make(pipe, item), make_request(prompt="a red fox", num_frames=21))
    with longer.open_film(item.output) as writer:
        making.write(pipe, longer, writer)
    assert wrong(line)[0].endswith("was made longer since; remove it or choose another output")


def test_a_name_that_was_taken_meanwhile(batch, pipe):
    (item,) = batch(SMALL | {"num_frames": 9})
    item.output.parent.mkdir()
    item.output.write_bytes(b"somebody's film")
    with pytest.raises(RequestError, match="was put there while others were made; remove it or choose another"):
        make(pipe, item)
    assert item.output.read_bytes() == b"somebody's film"


def test_a_film_that_cannot_be_written_is_named(wrong, batch, monkeypatch):
    batch(SMALL)[0].output.parent.mkdir()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FilmWriter, "_open", full)
    assert "cannot be written: No space left on device" in wrong(SMALL)[0]


def test_who_would_make_a_film_is_who_makes_it(pipe):
    maker = making.maker_of(pipe)
    assert making.maker_for(pipe.card, model_options(device="cpu", dtype="float32")) == replace(maker, placement={})
    assert Placement(torch.device("cpu"), torch.float32, **maker.placement) == replace(pipe.placement, memory=0.0)


def test_a_film_goes_on_with_the_options_that_it_was_begun_with(batch, wrong, pipe):
    """Half of it in other weights would be neither film."""
    line = SMALL | {"num_frames": 42}
    item = batch(line)[0]
    stop(pipe, item)
    said = f"{item.output} was begun without; leave out --quantization"
    assert wrong(line, options={"quantization": "q8_0"}) == [f"1: quantization = 'q8_0': {said}"]
    assert batch(line)[0].status == "stopped"
    journal = read_journal(item.output)
    replace(journal, maker=replace(journal.maker, options={"memory": "2GB"})).save(item.output)
    assert wrong(line) == [f"1: memory = None: {item.output} was begun with '2GB'; give that"]
    assert batch(line, options={"memory": "2GB"})[0].status == "stopped"
    # What the plan chose for so much memory was asked for by nobody.
    chosen = replace(journal.maker, dtype="bfloat16", options={"memory": "2GB", "quantization": "q8_0"})
    replace(journal, maker=chosen).save(item.output)
    assert batch(line, options={"memory": "2GB"})[0].status == "stopped"
    asked = {"memory": "2GB", "quantization": "q4_0"}
    assert "was begun with 'q8_0'; give that" in wrong(line, options=asked)[0]
    replace(journal, maker=replace(chosen, options={})).save(item.output)
    assert wrong(line) == [f"1: dtype = float32: {item.output} was begun with bfloat16; give --dtype bfloat16"]


def test_a_finished_film_of_another_lora_is_another_film(batch, wrong, pipe, tmp_path):
    item = batch(SMALL)[0]
    make(pipe, item)
    (tmp_path / "style.safetensors").write_bytes(b"")
    lora = [f"{tmp_path / 'style.safetensors'}=0.5"]
    assert "was made with lora = None, and not [" in wrong(SMALL, options={"lora": lora})[0]
    assert batch(SMALL, options={"memory": "2GB"})[0].status == "finished"


def test_prompts_are_made_whole_where_the_command_or_the_line_says_so(batch):
    """Films have the names that they would have without."""
    lines = SMALL | {"enhance": True}, SMALL | {"seed": 1}, SMALL | {"seed": 2, "enhance": False}
    some, every = Whole(), Whole(every=True)
    assert [item.request.prompt for item in batch(*lines, whole=some)] == ["A RED FOX", "a red fox", "a red fox"]
    assert some.said == ["line 1, prompt: A RED FOX", "  louder"]
    items = batch(*lines, whole=every)
    assert [item.request.prompt for item in items] == ["A RED FOX", "A RED FOX", "a red fox"]
    assert [item.output.name for item in items] == [f"000{n}-a-red-fox.mp4" for n in (1, 2, 3)]
    assert [item.line for item in items] == [1, 2, 3] and every.begun == 1
    none = Whole()
    batch(*lines[1:], whole=none)
    assert not none.begun


def test_nobody_is_asked_while_a_line_is_wrong(wrong, tmp_path):
    """Whatever can be wrong with it, in a line that is to be made whole or in another."""
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "there.mp4").write_bytes(b"somebody's film")
    good, taken = SMALL | {"enhance": True}, SMALL | {"output": "there.mp4"}
    for line, said in (
        (SMALL | {"enhance": "yes"}, "enhance = 'yes': must be true or false; nearest that works: true"),
        (good | {"image": "no.png"}, "image = "),
        (good | {"num_frames": 25, "story": {"90": "a swan"}}, "story[90] = "),
        (taken, "output = "),
    ):
        whole = Whole()
        (told,) = wrong(good, line, whole=whole)
        assert told.startswith(f"2: {said}") and not whole.begun


def test_an_answer_that_cannot_be_had_or_used_is_named_by_its_line(wrong):
    good = SMALL | {"enhance": True}
    lines = [good | {"prompt": prompt} for prompt in ("one", "two", "three", "four")]
    whole = Whole(answers={"one": ChatError("model = q: says nothing"), "three": "long " * 600})
    said = wrong(*lines, whole=whole)
    assert said[0] == "1: model = q: says nothing" and said[1].startswith("3: prompt = ") and len(said) == 2
    assert whole.asked == ["one", "two", "three", "four"]
    whole = Whole(answers={"two": UnreachableError("endpoint = here: no answer")})
    assert wrong(*lines, whole=whole) == ["2: endpoint = here: no answer"]
    assert whole.asked == ["one", "two"], "nobody answers the others either"


def test_a_film_of_a_prompt_made_whole_goes_on_and_is_no_other(batch, wrong, pipe):
    line = SMALL | {"num_frames": 42, "enhance": True}
    (item,) = batch(line)
    stop(pipe, item)
    whole = Whole()
    (again,) = batch(line, whole=whole)
    assert (again.status, again.request.prompt) == ("stopped", "A RED FOX") and whole.said
    for other in (line | {"enhance": False}, line | {"prompt": "a swan", "output": item.output.name}):
        assert "was made with prompt = 'A RED FOX', and not " in wrong(other)[0]
    make(pipe, again)
    whole = Whole()
    assert batch(line, whole=whole)[0].status == "finished" and not whole.said
