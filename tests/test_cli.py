"""The command line: every flag arrives; what goes wrong is one line, exit code 2, and the film so far plays."""

import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from everreel import cli
from everreel.diffusion.denoiser import Denoiser
from everreel.film import making
from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.media import FilmWriter, Video, write_image
from tests.film.films import natural, write

SMALL = ("--height", 32, "--width", 48, "--num-inference-steps", 2, "--guidance-scale", 1, "--dtype", "float32")
STORY = {60: "a swan", 100: "an owl: hooting"}
BLOCKS = ("--num-frames", 30, "--causal-block-size", 3)  # 9 frames, 12 and 9


@pytest.fixture
def refused(run, monkeypatch):
    """Runs a command line that must be refused before a model is loaded; gives back its one line."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    def refused(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(VideoPipeline, "load", load)
            return one_line(run(*arguments))

    return refused


def one_line(said):
    code, out, err = said
    assert (code, out) == (2, "")
    assert err.startswith("everreel: ") and err.count("\n") == 1 and err.endswith("\n"), err
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "prompt is empty: "),
        ([" \n\t "], "prompt is empty: "),
        (["a fox", "--num-frames", 0], "num_frames = 0: must be at least 1; nearest that works: 1"),
        (["a fox", "--num-frames", -97], "num_frames = -97: must be at least 1; nearest that works: 1"),
        (["a fox", "--num-frames", 10**15], "num_frames = 1000000000000000: must be at most "),
        (["a fox", "--seconds", 0], "seconds = 0.0: must be at least 0.04; nearest that works: 0.04"),
        (["a fox", "--seconds", -2], "seconds = -2.0: must be at least 0.04"),
        (["a fox", "--seconds", "nan"], "seconds = nan: must be at least 0.04"),
        (["a fox", "--seconds", "inf"], "seconds = inf: must be at most "),
        (["a fox", "--seconds", 4, "--num-frames", 97], "seconds = 4.0: give num_frames or seconds, not both"),
        (["a fox", "--height", 100, "--width", 160], "height = 100: must be a positive multiple of 16; nearest .*: 96"),
        (["a fox", "--height", 96, "--width", 170], "width = 170: must be a positive multiple of 16; nearest .*: 176"),
        (["a fox", "--height", 0, "--width", 160], "height = 0: must be a positive multiple of 16; nearest .*: 16"),
        (["a fox", "--height", 96, "--width", -16], "width = -16: must be a positive multiple of 16; nearest .*: 16"),
        (["a fox", "--height", 160000, "--width", 160], "height = 160000: must be at most 4096; nearest .*: 4096"),
        (
            ["a fox", "--height", 4097, "--width", 160],
            "height = 4097: must be a positive multiple of 16; nearest .*: 4096",
        ),
        (["a fox", "--width", 160], "width = 160: height and width go together"),
        (["a fox", "--resolution", "4K"], "resolution = '4K': .*540P.*720P"),
        (["a fox", "--resolution", "540P", "--aspect", "4:3"], "aspect = '4:3': .*16:9.*9:16.*1:1"),
        (["a fox", "--resolution", "540P", "--height", 96, "--width", 160], "height = 96: give a size or resolution"),
        (["a fox", "--fps", 25], "fps = 25: .*16 and 24.*; nearest that works: 24"),
        (["a fox", "--num-inference-steps", 0], "num_inference_steps = 0: must be at least 1"),
        (["a fox", "--guidance-scale", "nan"], "guidance_scale = nan: must be at least 1"),
        (["a fox", "--shift", "inf"], "shift = inf: must be at most 100"),
        (["a fox", "--seed", -1], "seed = -1: must be at least 0; nearest that works: 0"),
        (["a fox", "--ar-step", -1], "ar_step = -1: must be at least 0"),
        (["a fox", "--causal-block-size", 0], "causal_block_size = 0: must be at least 1"),
        (["a fox", "--causal-block-size", 26], "causal_block_size = 26: must be at most the window of 25 latent"),
        (["a fox", "--ar-step", 1, "--num-frames", 400], "ar_step = 1: .*the smallest that works is 6"),
        (["a fox", "--dtype", "int8"], "dtype = 'int8': must be one of .*bfloat16"),
        (["a fox", "--device", "cuba"], "device = cuba: .*nearest that works: cpu"),
        (["a fox", "--device", "meta"], "device = meta: .*nearest that works: cpu"),
        (["a fox", "--model", "tinny"], "model = 'tinny': must be one of .*; nearest 'tiny'"),
        (["a fox", "--num-frames", "many"], "Invalid value for '--num-frames'"),
        (["a fox", "--lenght", 3], "No such option.*--lenght"),
        ([], "prompt: say what the film shows"),
        (["a fox", "--model", ""], "model = '': must be one of "),
    ],
    ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, list) else "",
)
def test_a_bad_request_is_refused_before_any_load__released_defect_34(
    tiny_folder, tmp_path, refused, arguments, message
):
    model = () if "--model" in arguments else ("--model", tiny_folder)
    film = tmp_path / "film.mp4"
    line = refused("generate", *arguments, "-o", film, *model)
    assert re.search(message, line), line
    assert not film.exists()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(tiny_folder, tmp_path, refused):
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"somebody's film")
    taken.chmod(0o400)
    too_long = tmp_path / f"{'x' * 300}.mp4"
    cases = [
        (tmp_path, "is a folder; try "),
        (tmp_path / "film.gif", r"must end in \.mp4; try .*film\.mp4"),
        (tmp_path / "no" / "where" / "film.mp4", f"the folder .* does not exist; nearest that does: {tmp_path}"),
        (taken / "film.mp4", f"the folder .* does not exist; nearest that does: {tmp_path}"),
        (too_long, "cannot be written"),
    ]
    if os.geteuid():  # to the superuser nothing is shut
        cases += [(shut / "film.mp4", "cannot be written"), (taken, "cannot be written")]
    for output, message in cases:
        line = refused("generate", "a fox", "-o", output, "--model", tiny_folder)
        assert line.startswith(f"everreel: output = {output}: ") and re.search(message, line), line
    assert taken.read_bytes() == b"somebody's film"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["shut", "taken.mp4"]


def test_an_output_that_is_only_opened_in_vain_is_refused_too(tiny_folder, tmp_path, refused, monkeypatch):
    """A file system that is read-only or has no room for one more name says so when a file is opened."""
    before = Path.open

    def full(path, *arguments, **options):
        if path.suffix == ".mp4":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return before(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    film = tmp_path / "film.mp4"
    line = refused("generate", "a fox", "-o", film, "--model", tiny_folder)
    assert f"output = {film}: cannot be written" in line and "ead-only" in line


def test_a_long_prompt_is_refused_with_its_length_and_leaves_no_file(tiny_folder, tmp_path, run):
    film = tmp_path / "fox.mp4"
    for words, options, message in (
        ("a red fox " * 300, (), r"prompt = \d+ tokens: the model reads at most 512; leave out about \d+ words"),
        ("a fox", ("--negative-prompt", "a red fox " * 300, "--guidance-scale", 3), r"negative_prompt = \d+ tokens: "),
    ):
        code, _, err = run("generate", words, "-o", film, "--model", tiny_folder, *SMALL, "--num-frames", 5, *options)
        assert code == 2 and err.count("\n") == 1 and re.search(message, err)
        assert not film.exists()


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """The film that nothing stops."""
    film = tmp_path_factory.mktemp("whole") / "whole.mp4"
    with pytest.MonkeyPatch.context() as patch:
        command = ("generate", "a fox", "--model", tiny_folder, *SMALL, *BLOCKS, "-o", film)
        patch.setattr("sys.argv", ["everreel", *map(str, command)])
        cli.main()
    return Video(film)


class Times:
    """Calls what it stands in for, and raises at one of the calls instead."""

    def __init__(self, function, number, error):
        self.function, self.left, self.error = function, number, error

    def __get__(self, instance, _):
        return lambda *arguments, **options: self(instance, *arguments, **options)

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.function(*arguments, **options)


def no_space():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name", "number", "error"),
    [
        # A block is 2 steps and, from the second on, one call that remembers: these are in the third block.
        (Denoiser, "__call__", 6, KeyboardInterrupt()),
        (Denoiser, "remember", 2, KeyboardInterrupt()),
        (FilmWriter, "append", 3, KeyboardInterrupt()),
        # A block is four writes: the third is in the middle of its picture data.
        (FilmWriter, "_write", 11, KeyboardInterrupt()),
        (FilmWriter, "_write", 11, no_space()),
        (FilmWriter, "_write", 12, no_space()),
    ],
    ids=["in a step", "between blocks", "before writing", "while writing", "disk full", "disk full at the end"],
)
def test_what_is_written_stays_and_plays(tiny_folder, tmp_path, run, whole, owner, name, number, error):
    film = tmp_path / "fox.mp4"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, Times(getattr(owner, name), number, error))
        code, out, err = run("generate", "a fox", "--model", tiny_folder, *SMALL, *BLOCKS, "-o", film)
    reason = "stopped" if isinstance(error, KeyboardInterrupt) else "No space left on device"
    last = err.splitlines()[-1]
    assert code == 2 and "Traceback" not in err and "wrote" not in out
    assert reason in last and f"{film} holds the first 21 frames" in last
    video = Video(film)
    assert video.num_frames == 21
    assert (video.frames[:] == whole.frames[:21]).all()


@pytest.mark.parametrize(("owner", "name"), [(Denoiser, "__call__"), (FilmWriter, "append")])
def test_stopped_before_the_first_block_leaves_what_was_there(tiny_folder, tmp_path, run, monkeypatch, owner, name):
    film = tmp_path / "fox.mp4"
    monkeypatch.setattr(owner, name, Times(getattr(owner, name), 1, KeyboardInterrupt()))
    command = ("generate", "a fox", "--model", tiny_folder, *SMALL, "--num-frames", 5, "-o", film)
    code, _, err = run(*command)
    last = f"everreel: stopped: no frame was written; go on with: everreel resume {film}\n"
    assert code == 2 and err.endswith(last) and not film.exists()
    film.write_bytes(b"an older film")
    monkeypatch.setattr(owner, name, Times(getattr(owner, name), 1, KeyboardInterrupt()))
    code, _, err = run(*command)
    assert code == 2 and film.read_bytes() == b"an older film" and "resume" not in err.splitlines()[-1]


def test_where_a_film_cannot_be_begun_nothing_is_loaded(tmp_path, run):
    film = tmp_path / "fox.mp4"
    (tmp_path / "fox.mp4.part").mkdir()
    code, _, err = run("generate", "a fox", "--model", "tiny", "-o", film)
    assert code == 2 and err.splitlines()[-1].startswith(f"everreel: output = {film}: cannot be written")
    assert not film.exists()


def test_a_disk_that_is_full_at_once_leaves_no_file(tiny_folder, tmp_path, run, monkeypatch):
    film = tmp_path / "fox.mp4"
    monkeypatch.setattr(FilmWriter, "_write", Times(FilmWriter._write, 1, no_space()))
    code, _, err = run("generate", "a fox", "--model", tiny_folder, *SMALL, "--num-frames", 5, "-o", film)
    assert code == 2 and "No space left on device" in err.splitlines()[-1] and "no frame was written" in err
    assert not film.exists()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")],
    ids=["python", "torch"],
)
def test_too_little_memory_is_one_line(tiny_folder, tmp_path, run, monkeypatch, error):
    monkeypatch.setattr(Denoiser, "__call__", Times(Denoiser.__call__, 1, error))
    monkeypatch.setattr("everreel.memory.most_held", lambda on_gpu: 1_400_000_000)
    film = tmp_path / "fox.mp4"
    code, _, err = run("generate", "a fox", "--model", tiny_folder, *SMALL, "--num-frames", 5, "-o", film)
    assert code == 2 and err.splitlines()[-1].startswith("everreel: memory: ") and "Traceback" not in err
    assert not film.exists()
    budget = re.search(r"with --memory (\S+),", err)[1]
    order = ("generate", "a fox", "--model", tiny_folder, *SMALL, "--num-frames", 5, "-o", film)
    assert run(*order, "--memory", budget)[0] == 0 and film.exists()


def test_a_fault_of_our_own_is_not_hidden(tiny_folder, tmp_path, run, monkeypatch):
    monkeypatch.setattr(Denoiser, "__call__", Times(Denoiser.__call__, 1, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run("generate", "a fox", "--model", tiny_folder, *SMALL, "--num-frames", 5, "-o", tmp_path / "fox.mp4")


def test_stopped_while_a_model_is_loaded(tiny_folder, tmp_path, run, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoPipeline, "load", stopped)
    film = tmp_path / "fox.mp4"
    assert one_line(run("generate", "a fox", "--model", tiny_folder, "-o", film)) == "everreel: stopped\n"
    assert not film.exists()


def test_the_command_writes_a_film(tiny_folder, tmp_path, run):
    film = tmp_path / "fox.mp4"
    code, out, err = run("generate", "a red fox", "-o", film, "--model", tiny_folder, *SMALL, "--num-frames", 9)
    assert code == 0 and "9 frames of 48x32 at 24 fps" in out and f"wrote {film}: 9 frames, 0.4 s, " in out
    assert re.search(r"block 1/1 step 2/2: 0:\d\d elapsed, 0:00 left", err)
    assert Video(film).num_frames == 9


def test_models_are_listed(run):
    code, out, err = run("models")
    assert (code, err) == (0, "") and "DF-14B-540P" in out and "needs a GPU" in out


def test_a_recipe_that_is_not_there_is_one_line(run):
    assert "no-such-recipe.py" in one_line(run("train", "no-such-recipe.py"))


def test_every_flag_arrives__released_defect_14(tiny_folder, tmp_path, run, monkeypatch):
    films, loads = [], []
    monkeypatch.setattr(cli, "_load", lambda *arguments: loads.append(arguments))
    monkeypatch.setattr(cli, "_film", lambda *arguments: films.append(arguments))
    monkeypatch.setattr(making, "begin", lambda pipeline, request, **_: request)
    film, picture = tmp_path / "a.mp4", tmp_path / "fox.png"
    write_image(picture, np.zeros((32, 32, 3), np.uint8))
    flags = {
        "seconds": 2.5, "resolution": "720P", "aspect": "9:16", "num_inference_steps": 7, "guidance_scale": 2.5,
        "shift": 3.0, "seed": 11, "negative_prompt": "a dog", "ar_step": 7, "causal_block_size": 4, "fps": 16,
        "image": picture, "end_image": picture, "addnoise_condition": 20.0, "anchor_color": 0.5,
        "step_cache": 0.1, "guidance_level": 0.9, "guidance_until": 0.4, "skip_layer_guidance_scale": 2.0,
        "skip_guidance_layers": "1,0",
    }  # fmt: skip
    arguments = [part for flag, value in flags.items() for part in (f"--{flag.replace('_', '-')}", value)]
    flags["skip_guidance_layers"] = (0, 1)
    load = ("--model", tiny_folder, "--device", "cpu", "--dtype", "float32")
    keyframes = ("--keyframe", f"9={picture}", "--keyframe", f"20={picture}")
    switches = ("--cache", "--blend-overlap")
    code, out, _ = run("generate", "a  fox", "-o", film, *arguments, *switches, *keyframes, *load)
    assert code == 0 and "40 frames of 720x1280 at 16 fps: 4 given pictures, asynchronous" in out
    (_, request, output), *_ = films
    flags |= {"keyframes": {9: picture, 20: picture}, "story": {}}
    flags |= {"cache": True, "blend_overlap": True, "loop": False}
    assert request.model_dump(exclude_none=True) == {"prompt": "a fox", **flags}
    assert output == film and [arguments[0] for arguments in loads] == [
        model_options(model=str(tiny_folder), device="cpu", dtype="float32")
    ]
    run("generate", "a fox", "--num-frames", 10, "--height", 64, "--width", 80, "--model", tiny_folder, "-o", film)
    request = films[-1][1]
    assert (request.num_frames, request.height, request.width) == (10, 64, 80)


def test_a_film_that_was_stopped_is_taken_up(tiny_folder, tmp_path, run, monkeypatch):
    """The same bytes as if it had not been stopped; finished, it says so and can be made longer."""
    whole, film = tmp_path / "whole.mp4", tmp_path / "fox.mp4"
    command = ("generate", "a fox", "--model", tiny_folder, *SMALL, *BLOCKS)
    run(*command, "-o", whole)
    with monkeypatch.context() as patch:
        patch.setattr(FilmWriter, "append", Times(FilmWriter.append, 3, KeyboardInterrupt()))
        code, _, err = run(*command, "-o", film)
    assert code == 2 and f"go on with: everreel resume {film}" in err.splitlines()[-1]
    frames = Video(whole).num_frames
    code, out, err = run("resume", film)
    assert code == 0 and out.startswith(f"wrote {film}: {frames} frames") and "block 1/" not in err
    assert film.read_bytes() == whole.read_bytes()
    code, out, _ = run("resume", film)
    assert code == 0 and f"has all of its {frames} frames; everreel extend makes it longer" in out
    code, out, _ = run("extend", film, "--seconds", 0.5, "--prompt", "a blue swan")
    assert code == 0 and out.startswith(f"wrote {film}: {frames + 12} frames")
    assert Video(film).num_frames == frames + 12


def test_a_film_is_not_taken_up_with_another_model(tiny_folder, tmp_path, run):
    folder, film = tmp_path / "model", tmp_path / "fox.mp4"
    shutil.copytree(tiny_folder, folder)
    run("generate", "a fox", "--model", folder, *SMALL, "--num-frames", 5, "-o", film)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-8:] = bytes(8)  # trained on: the same names and sizes
    weights.write_bytes(data)
    message = one_line(run("extend", film, "--num-frames", 4))
    assert message.startswith(f"everreel: model = {folder}: its files are not those that the film was begun with")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("resume", "no.mp4"), "film = no.mp4: has no journal"),
        (("generate", "a fox", "--keyframe", "fox.png"), "must be FRAME=PATH, for example 48=fox.png"),
        (("generate", "a fox", "--keyframe", "x=fox.png"), "keyframe = x=fox.png: must be FRAME=PATH"),
        (("generate", "a fox", "--keyframe", "4=a.png", "--keyframe", "4=b.png"), "frame 4 has a.png already"),
        (("generate", "a fox", "--image", "none.png"), "image = none.png: No such file or directory"),
        (("generate", "a fox", "--keyframe", "97=a.png"), "keyframes[97] = a.png: the film has frames 0..96"),
    ],
)
def test_bad_pictures_and_journals_are_one_line(tmp_path, run, monkeypatch, command, message):
    monkeypatch.chdir(tmp_path)
    assert message in one_line(run(*command))


def test_what_becomes_of_a_picture_is_said(tiny_folder, tmp_path, run):
    write_image(tmp_path / "wide.png", np.zeros((32, 96, 3), np.uint8))
    film = ("-o", tmp_path / "a.mp4", "--num-frames", 5, "--model", tiny_folder, *SMALL)
    code, _, err = run("generate", "a fox", "--end-image", tmp_path / "wide.png", *film)
    assert code == 0 and "end_image: 96x32 has another shape than" in err.splitlines()[0]
    assert run("plan", "a fox", "--end-image", tmp_path / "wide.png", *film[2:])[2].splitlines() == err.splitlines()[:1]


def test_a_plan_is_said_without_loading_anything(run, monkeypatch, tmp_path):
    """Of a model that is not here too; pictures are looked at, and what cannot be is refused as by generate."""
    monkeypatch.setattr(VideoPipeline, "load", None)
    code, out, err = run("plan", "a fox", "--num-frames", 1457, "--schedule", "blockwise")
    assert (code, err) == (0, "")
    assert (
        out.startswith("1457 frames of 160x96 at 24 fps: blockwise")
        and "frames 97..116: latents 0..9 and 15..29" in out
    )
    assert "... 64 more ..." in out and "frames 1437..1456: latents 0..9 and 350..364 in sight" in out
    assert "73 blocks of 30 steps, 2190 denoising passes" in out
    assert "time: about" in out and "s a pass" in out and "memory: about" in out
    write_image(tmp_path / "a.png", np.zeros((96, 160, 3), np.uint8))
    ends = ("--end-image", tmp_path / "a.png", "--schedule", "blockwise")
    code, out, _ = run("plan", "a fox", "--num-frames", 120, *ends)
    assert "fills latent 30" in out and "full attention and no cache, a picture lies ahead" in out
    code, out, _ = run("plan", "a fox", "--model", "DF-14B-540P", "--seconds", 30)
    assert code == 0 and "720 frames of 960x544 at 24 fps: windows" in out
    assert "must be 4k + 1; nearest that works: 97" in one_line(run("plan", "a fox", "--base-num-frames", 98))
    assert "no.png" in one_line(run("plan", "a fox", "--image", "no.png"))


@pytest.mark.parametrize(
    ("arguments", "story"),
    [
        (("a fox", "--prompt", "5s: a  swan"), {120: "a swan"}),
        (("--prompt", "0s: a fox", "--prompt", "2.5s: a swan", "--prompt", "100f: an owl: hooting"), STORY),
        (("a fox", "--fps", 16, "--prompt", "5s: a swan"), {80: "a swan"}),
        (("--story", "story.txt"), {48: "a swan"}),
    ],
)
def test_a_story_is_told_in_parts(tmp_path, run, monkeypatch, arguments, story):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("0s: a fox\n\n2s: a swan\n")
    told = []
    monkeypatch.setattr(
        "everreel.options.make_request", lambda **values: told.append(make_request(**values)) or told[-1]
    )
    code, out, _ = run("plan", *arguments, "--seconds", 9)
    assert code == 0 and told[0].prompt == "a fox" and told[0].story == story
    assert all(f"from frame {at} on (it takes over at {at + 1}): {words}" in out for at, words in story.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "prompt: say what the film shows"),
        (("--prompt", "5s: a swan"), "the first part must begin at 0s"),
        (("a fox", "--prompt", "a swan"), "prompt = 'a swan': a part is TIME: WORDS"),
        (("a fox", "--prompt", "0s: a swan"), "must begin after the part before it; nearest that works: 0.04s"),
        (("a fox", "--prompt", "3s: b", "--prompt", "2s: c"), "prompt = '2s: c': must begin after the part before it"),
        (
            ("a fox", "--prompt", "9s: b"),
            "story[216] = 'b': too near the end of 97 frames to be seen; nearest that works: 93",
        ),
        (("a fox", "--prompt", "2f: b", "--prompt", "3f: c"), "story[3] = 'c': comes too soon; nearest that works: 5"),
        (("a fox", "--prompt", "1s:  "), "prompt is empty"),
        (("a fox", "--prompt", f"{'9' * 400}s: b"), "no film has a frame beyond 10000000; nearest that works: 1000"),
        (("--story", "none.txt"), "none.txt"),
        (("--story", "bytes.txt"), "story = bytes.txt: must be text in UTF-8"),
    ],
)
def test_a_story_that_cannot_be_told_is_one_line(tmp_path, refused, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("bytes.txt").write_bytes(b"\xff\xfe0s")
    assert message in refused("generate", *arguments)


def test_any_film_is_made_longer(tiny_folder, tmp_path, run):
    """The source comes first, every frame of it and its sound, then the new frames at the model's timing."""
    source, film = tmp_path / "holiday.mp4", tmp_path / "longer.mp4"
    write(source, natural(30, 48, 64), fps=30, sound="aac", seconds=1)
    more = ("--prompt", "a fox", "--num-frames", 8, "--num-inference-steps", 2, "--model", tiny_folder)
    code, out, _ = run("extend", source, "-o", film, *more)
    assert code == 0 and out.splitlines()[0] == "the source was copied bit for bit"
    assert out.splitlines()[-1].startswith(f"wrote {film}: 8 new frames, 0.3 s")
    assert (tmp_path / "longer.mp4.journal").exists()
    longer = Video(film)
    assert longer.num_frames == 38 and (longer.frames[:30] == Video(source).frames[:]).all()
    code, out, _ = run("extend", source, "-o", tmp_path / "new.mp4", *more, "--new-part-only")
    assert code == 0 and Video(tmp_path / "new.mp4").num_frames == 8
    assert run("extend", tmp_path / "new.mp4", "--num-frames", 5)[0] == 0
    assert Video(tmp_path / "new.mp4").num_frames == 13


def test_a_film_made_here_grows_elsewhere_too(tiny_folder, tmp_path, run):
    film, longer = tmp_path / "fox.mp4", tmp_path / "longer.mp4"
    run("generate", "a fox", "--model", tiny_folder, *SMALL, "--num-frames", 9, "-o", film)
    before = film.read_bytes()
    for flag in (("--fps", 16), ("--model", "tiny"), ("--overlap-history", 9), ("--new-part-only",)):
        assert "is for films made elsewhere" in one_line(run("extend", film, *flag))
    code, _, _ = run("extend", film, "-o", longer, "--num-frames", 6, "--seed", 5)
    assert code == 0 and film.read_bytes() == before
    assert (Video(longer).frames[:9] == Video(film).frames[:]).all() and Video(longer).num_frames == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.mp4", "-o", "a.mp4", "--prompt", "x"), "video = none.mp4: "),
        (("words.mp4", "-o", "a.mp4", "--prompt", "x"), "video = words.mp4: "),
        (("film.mp4", "--prompt", "x"), "output: must be given for a film made elsewhere; film-longer.mp4 works"),
        (("film.mp4", "-o", "a.mp4"), "prompt is empty"),
        (("film.mp4", "-o", "film.mp4", "--prompt", "x"), "output = film.mp4: is the source itself"),
        (("film.mp4", "-o", "a.mp4", "--prompt", "x", "--overlap-history", 8), "must be 4k + 1; nearest that works: 9"),
        (("film.mp4", "-o", "a.mp4", "--prompt", "x", "--fps", 30), "nearest that works: 24"),
        (("film.mp4", "-o", "a.mp4", "--prompt", "x", "--model", "tinny"), "nearest 'tiny'"),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_line(tmp_path, refused, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("words.mp4").write_text("no film")
    write(Path("film.mp4"), natural(3))
    assert message in refused("extend", *arguments)


def test_options_before_a_command_of_evaluate_are_refused(refused):
    """They would do nothing."""
    said = refused("evaluate", "--num-films", 3, "compare", "a", "b")
    assert "num_films: is of evaluate alone; compare's own options come behind compare" in said
