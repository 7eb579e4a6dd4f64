"""`everreel batch`: films in their order, each to be gone on with; what is wrong is said before a model is loaded."""

import json
import weakref

import pytest

from everreel.chat import LocalChat
from everreel.film.journal import read_journal
from everreel.film.pipeline import VideoPipeline
from everreel.media import FilmWriter, Video
from everreel.world.scene import VOCABULARY
from tests.chat_server import Reply, said, serving
from tests.test_cli import Times, no_space

SMALL = {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": 1, "prompt": "a fox"}
LINES = [SMALL | {"num_frames": 5}, SMALL | {"num_frames": 30, "causal_block_size": 3}, SMALL | {"output": "c.mp4"}]
LINES[2] |= {"num_frames": 9, "seed": 2}
NAMES = ["0001-a-fox.mp4", "0002-a-fox.mp4", "c.mp4"]


@pytest.fixture
def batch(run, tiny_folder, tmp_path, monkeypatch):
    """Runs a batch of lines into a folder of this name; counts in `loaded` how often a model was loaded."""
    monkeypatch.chdir(tmp_path)
    load = VideoPipeline.load

    def counted(*arguments, **options):
        batch.loaded += 1
        return load(*arguments, **options)

    monkeypatch.setattr(VideoPipeline, "load", counted)

    def batch(lines, folder="films", *flags):
        (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
        batch.loaded = 0
        return run("batch", "r.jsonl", "-o", folder, "--model", tiny_folder, "--dtype", "float32", *flags)

    return batch


def test_films_are_made_in_their_order_by_one_model(batch, tmp_path):
    code, out, err = batch(LINES)
    assert code == 0 and batch.loaded == 1
    films = [line for line in out.splitlines() if line.startswith("film ")]
    assert films[0].startswith("film 1/3: films/0001-a-fox.mp4: 5 frames of 48x32 at 24 fps")
    assert [line.split(":")[0] for line in films] == ["film 1/3", "film 2/3", "film 3/3"]
    assert [line.split(":")[0] for line in out.splitlines()[1::2]] == [f"wrote films/{name}" for name in NAMES]
    assert "block 1/1 step 2/2" in err
    assert [Video(tmp_path / "films" / name).num_frames for name in NAMES] == [5, 30, 9]
    code, out, err = batch(LINES)
    assert (code, batch.loaded, err) == (0, 0, "")
    assert out.splitlines() == [f"film {i}/3: films/{name} is finished" for i, name in enumerate(NAMES, 1)]


@pytest.mark.parametrize(
    ("error", "reason"), [(KeyboardInterrupt(), "stopped"), (no_space(), "[Errno 28] No space left on device")]
)
def test_a_batch_that_was_stopped_goes_on_with_the_same_command(batch, tmp_path, monkeypatch, error, reason):
    assert batch(LINES, "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(FilmWriter, "append", Times(FilmWriter.append, 4, error))  # the third block of the second film
        code, out, err = batch(LINES)
    kept = "films/0002-a-fox.mp4 holds the first 21 frames; 1 of 3 films are done; go on with the same command"
    assert code == 2 and err.splitlines()[-1] == f"everreel: {reason}: {kept}"
    assert not (tmp_path / "films" / "c.mp4").exists()
    assert read_journal(tmp_path / "films" / NAMES[1]).num_frames == 21
    code, out, err = batch(LINES)
    assert code == 0 and out.splitlines()[0] == "film 1/3: films/0001-a-fox.mp4 is finished"
    assert "block 1/3" not in err and "block 3/3" in err
    for name in NAMES:
        assert (tmp_path / "films" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_film_that_fails_stops_the_batch(batch, tmp_path, monkeypatch):
    """And Ctrl-C while the model is loaded, which no film has to do with."""
    with monkeypatch.context() as patch:
        patch.setattr(FilmWriter, "append", Times(FilmWriter.append, 2, MemoryError()))
        code, _, err = batch(LINES)
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith("everreel: memory: ") and "; 1 of 3 films are done; " in last
    monkeypatch.setattr(VideoPipeline, "load", Times(None, 1, KeyboardInterrupt()))
    code, _, err = batch(LINES)
    assert (code, err) == (2, "everreel: stopped; 1 of 3 films are done; go on with the same command\n")


def test_nothing_is_made_when_a_line_is_bad(batch, tmp_path):
    code, out, err = batch([LINES[0], SMALL | {"num_frames": 0}, LINES[2], SMALL | {"sed": 1}])
    assert (code, out, batch.loaded) == (2, "", 0) and not (tmp_path / "films").exists()
    assert err.splitlines() == [
        "everreel: r.jsonl:2: num_frames = 0: must be at least 1; nearest that works: 1",
        "everreel: r.jsonl:4: 'sed' is no field of a request; nearest that works: 'seed'",
    ]
    for flags, message in (
        (("--dtype", "int8"), "everreel: dtype = 'int8': must be one of "),
        (("--device", "cuba"), "everreel: device = cuba: is not on this machine"),
        (("--model", "tinny"), "everreel: model = 'tinny': must be one of "),
    ):
        code, out, err = batch(LINES, "films", *flags)
        assert (code, out, batch.loaded) == (2, "", 0) and err.startswith(message) and err.count("\n") == 1


def test_a_line_that_was_edited_is_refused(batch, tmp_path):
    batch(LINES[2:])
    before = (tmp_path / "films" / "c.mp4").read_bytes()
    code, _, err = batch([LINES[0], LINES[2] | {"seed": 3}])
    assert code == 2 and batch.loaded == 0 and (tmp_path / "films" / "c.mp4").read_bytes() == before
    rule = "was made with seed = 2, and not 3; remove it or choose another output"
    assert err == f"everreel: r.jsonl:2: output = films/c.mp4: {rule}\n"


@pytest.fixture
def no_embeddings(monkeypatch):
    """Whether the package of words is installed changes nothing here."""
    monkeypatch.setattr("everreel.prompt.nearest.PACKAGE", "no_such_package_of_words")


def test_every_line_is_made_whole_once_and_shown(batch, tmp_path, no_embeddings):
    lines = [*LINES[:2], LINES[2] | {"enhance": False}]
    code, out, err = batch(lines, "films", "--enhance")
    assert code == 0 and batch.loaded == 1, err
    told = [line for line in out.splitlines() if line.startswith("line ")]
    prompts = [read_journal(tmp_path / "films" / name).request.prompt for name in NAMES]
    assert told == [f"line {number}, prompt: {prompt}" for number, prompt in enumerate(prompts[:2], 1)]
    assert out.splitlines()[1].startswith("  built-in: added ")
    assert prompts[0] == prompts[1] and "red fox" in prompts[0] and len(prompts[0].split()) > 6
    assert prompts[2] == "a fox"
    assert len((tmp_path / "films" / "prompts.jsonl").read_text().splitlines()) == 1
    code, out, err = batch(lines, "films", "--enhance")
    assert (code, batch.loaded, err) == (0, 0, "")
    assert out.splitlines() == [f"film {i}/3: films/{name} is finished" for i, name in enumerate(NAMES, 1)]


def answers(*subjects):
    """A model that picks another subject whenever it is asked, and never says the same twice."""
    fields = [dict.fromkeys(VOCABULARY, "") | {"subject": subject} for subject in subjects]
    return serving(*(said(json.dumps(each)) for each in fields), Reply("asked too often", 400))


def test_a_batch_that_was_stopped_keeps_the_words_of_a_model_that_would_say_others(batch, tmp_path, monkeypatch):
    """Of films that it had not come to as well; and then the model is not asked at all."""
    lines = [line | {"prompt": f"a dragon {number}"} for number, line in enumerate(LINES)]
    names = ["0001-a-dragon-0.mp4", "0002-a-dragon-1.mp4", "c.mp4"]
    with answers("turtle", "swan", "fox") as server:
        flags = "--enhance", "--llm", "qwen", "--endpoint"
        assert batch(lines, "whole", *flags, server.address)[0] == 0
    with answers("turtle", "swan", "fox") as server, monkeypatch.context() as patch:
        patch.setattr(FilmWriter, "append", Times(FilmWriter.append, 3, KeyboardInterrupt()))
        code, _, err = batch(lines, "films", *flags, server.address)
        assert code == 2 and "1 of 3 films are done; go on with the same command" in err
        assert len(server.questions) == 3 and not (tmp_path / "films" / "c.mp4").exists()
    with answers() as server:
        code, out, err = batch(lines, "films", *flags, server.address)
        assert code == 0 and not server.questions, err
    assert [line[:6] for line in out.splitlines() if "prompt: " in line] == ["line 2", "line 3"]
    for name, subject in zip(names, ("turtle", "swan", "fox"), strict=True):
        assert subject in read_journal(tmp_path / "films" / name).request.prompt
        assert (tmp_path / "films" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_while_prompts_are_made_whole_a_batch_may_be_stopped_too(batch, tmp_path):
    """What was answered by then is not asked again."""
    lines = [line | {"prompt": f"a dragon {number}"} for number, line in enumerate(LINES)]
    flags = "--enhance", "--llm", "qwen", "--endpoint"
    with answers("turtle") as server:
        code, _, err = batch(lines, "films", *flags, server.address)
        refusal = f"endpoint = {server.address}: 400, asked too often"
    assert code == 2 and batch.loaded == 0
    assert err.splitlines() == [f"everreel: r.jsonl:{number}: {refusal}" for number in (2, 3)]
    with answers("swan", "fox") as server:
        code, _, err = batch(lines, "films", *flags, server.address)
        assert code == 0 and len(server.questions) == 2, err
    assert "turtle" in read_journal(tmp_path / "films" / "0001-a-dragon-0.mp4").request.prompt


def test_a_local_model_is_loaded_once_and_is_gone_before_the_films_model_comes(batch, monkeypatch):
    class Weights:
        pass

    loaded, left = [], []

    def answered(self, *_):
        if self._loaded is None:
            self._loaded = None, Weights()
            loaded.append(weakref.ref(self._loaded[1]))
        return json.dumps(dict.fromkeys(VOCABULARY, "") | {"subject": "turtle"})

    def load(*arguments, **options):
        left.extend(weights() for weights in loaded)
        return load_pipeline(*arguments, **options)

    load_pipeline = VideoPipeline.load
    monkeypatch.setattr(LocalChat, "_said", answered)
    monkeypatch.setattr(VideoPipeline, "load", load)
    lines = [line | {"prompt": f"a dragon {number}"} for number, line in enumerate(LINES)]
    code, _, err = batch(lines, "films", "--enhance", "--llm", "somewhere")
    assert code == 0, err
    assert len(loaded) == 1 and left == [None]


def test_what_cannot_make_any_prompt_whole_is_said_once(batch, tmp_path, no_embeddings):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "prompts.jsonl").write_text('{"prompt": "a fox"}\n')
    code, _, err = batch(LINES, "films", "--enhance")
    rule = "is no file of prompts that were made whole; move it elsewhere"
    assert (code, err) == (2, f"everreel: prompts = 'films/prompts.jsonl': {rule}\n") and batch.loaded == 0
    code, _, err = batch(LINES, "films", "--enhance", "--llm", "qwen", "--endpoint", "nowhere")
    assert code == 2 and err.startswith("everreel: endpoint = 'nowhere': must begin with http://"), err
    code, _, err = batch(LINES, "films", "--llm", "qwen")
    assert (code, err) == (2, "everreel: llm = qwen: goes with --enhance; add that or leave this out\n")
