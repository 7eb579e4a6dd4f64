"""The released scripts' command lines: everything arrives, and what did harm is said and left out."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from everreel import cli
from everreel.checkpoint.catalog import find_model
from everreel.film.plan import make_plan
from everreel.film.request import RequestError
from everreel.media import Video
from everreel.released import SCRIPTS, translate
from tests.film.films import natural, packets, write

FORCING, PLAIN = "generate_video_df", "generate_video"


def flags(script, **given):
    return {name: given.get(name, default) for name, (_, default) in SCRIPTS[script].items()}


def words(model):
    return f"the negative prompt, which no flag tells, is that of {model}, not the released script's"


def test_a_long_asynchronous_film_as_its_page_shows_it(monkeypatch):
    """Every value arrives; harmful flags are named, in one line each."""
    asked = flags(
        FORCING, model_id="Skywork/SkyReels-V2-DF-14B-540P", resolution="540P", ar_step=5, causal_block_size=5,
        base_num_frames=97, num_frames=257, overlap_history=17, prompt="a swan", addnoise_condition=20, offload=True,
        teacache=True, use_ret_steps=True, teacache_thresh=0.3, causal_attention=True, inference_steps=50, seed=7,
        guidance_scale=5.0, shift=3.0,
    )  # fmt: skip
    translated = translate(FORCING, asked)
    assert translated.model == "Skywork/SkyReels-V2-DF-14B-540P"
    assert translated.request.model_dump(exclude_defaults=True) == {
        "prompt": "a swan", "num_frames": 257, "resolution": "540P", "ar_step": 5, "causal_block_size": 5,
        "base_num_frames": 97, "overlap_history": 17, "addnoise_condition": 20, "num_inference_steps": 50, "seed": 7,
        "guidance_scale": 5.0, "shift": 3.0, "schedule": "windows", "join": "reencode",
    }  # fmt: skip
    said = [note.split(":")[0] for note in translated.notes if note != words("DF-14B-540P")]
    assert said == ["--offload", "--teacache", "--causal_attention"]
    assert "everreel generate --step-cache 0.1 knows a level a frame" in translated.notes[1]
    assert "DF-14B-540P was not trained for it" in translated.notes[3]
    assert translated.memory is None
    monkeypatch.setattr("everreel.released._device_memory", lambda: "8000000000B")
    with_device = translate(FORCING, asked)
    assert with_device.memory == "8000000000B" and not any("--offload" in note for note in with_device.notes)
    assert re.fullmatch(r"result/diffusion_forcing/a swan_7_[\d_-]+\.mp4", translated.output.as_posix())


def test_what_is_not_given_is_as_the_scripts_have_it():
    translated = translate(FORCING, flags(FORCING))
    request = translated.request
    assert (request.num_frames, request.fps, request.ar_step) == (97, 24, 0)
    assert translated.notes == (words("DF-1.3B-540P"),)
    assert translated.model == "Skywork/SkyReels-V2-DF-1.3B-540P"
    assert translate(FORCING, flags(FORCING)).request.seed != request.seed
    assert translate(PLAIN, flags(PLAIN)).model == "Skywork/SkyReels-V2-T2V-14B-540P"
    assert translate(PLAIN, flags(PLAIN)).output.parent == Path("result/video_out")


def test_what_crashed_there_works_here(tiny_folder):
    """Defects 2 to 4 and 13: any length, an end image in asynchronous mode, an overlap that was not given, 30 fps."""
    asked = flags(FORCING, num_frames=193, ar_step=5, causal_block_size=5, fps=30, end_image=Path("z.png"))
    translated = translate(FORCING, asked)
    said = [note.split(":")[0] for note in translated.notes if not note.startswith("the negative prompt")]
    assert said == ["--fps 30", "--overlap_history"]
    plan = make_plan(translated.request, find_model(tiny_folder))
    assert plan.schedule.given == {48} and plan.request.fps == 24
    assert sum(len(row.finished) for row in plan.schedule) == 49


def test_a_film_is_made_longer__released_defect_13__released_defect_32__released_defect_33__released_defect_36():
    """Defects 13, 32, 33 and 36: every frame asked for is new, and what is done otherwise is said."""
    asked = flags(
        FORCING, video_path=Path("a.mov"), num_frames=120, overlap_history=17, resolution="540P", image=Path("b.png"),
        prompt="a swan", seed=7, addnoise_condition=20,
    )  # fmt: skip
    translated = translate(FORCING, asked)
    assert translated.video == Path("a.mov")
    assert translated.request.model_dump(exclude_defaults=True) == {
        "prompt": "a swan", "num_frames": 120, "resolution": "540P", "base_num_frames": 97, "overlap_history": 17,
        "addnoise_condition": 20, "seed": 7, "schedule": "windows", "join": "reencode",
    }  # fmt: skip
    _, frames, film, image = translated.notes
    assert frames.startswith("--num_frames 120: all of them are new; the released script counted the 17 frames")
    assert film.startswith("--video_path a.mov: ") and "squashed it, played it at --fps and left out its sound" in film
    assert image.startswith("--image: left out")
    short = translate(FORCING, flags(FORCING, video_path=Path("a.mov"), num_frames=80))
    assert (short.request.overlap_history, short.request.schedule) == (17, None)
    assert short.notes[1].split(":")[0] == "--overlap_history"
    assert translate(FORCING, flags(FORCING)).video is None is translate(PLAIN, flags(PLAIN)).video


@pytest.mark.parametrize("flag", ["prompt_enhancer", "prompt_enhance"])
@pytest.mark.parametrize("script", [FORCING, PLAIN])
def test_a_prompt_is_made_whole_where_that_is_asked(script, flag):
    translated = translate(script, flags(script, **{flag: True}))
    *_, note = translated.notes
    assert (
        translated.enhance
        and len(translated.notes) == 2
        and note.startswith(f"--{flag}: ")
        and "everreel generate --enhance" in note
    )
    assert not translate(script, flags(script)).enhance


def test_the_command_makes_a_prompt_whole_and_shows_it(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(cli, "_generate", lambda request, *_: made.append(request))
    order = ["--model_id", tiny_folder, "--prompt", "a red fox", "--seed", 3, "--prompt_enhancer", "--num_frames", 9]
    monkeypatch.setattr("sys.argv", ["everreel", FORCING, *map(str, order)])
    cli.main()
    (request,) = made
    assert len(request.prompt) > len("a red fox") and (request.seed, request.num_frames) == (3, 9)
    assert f"prompt: {request.prompt}" in capsys.readouterr().out


def test_causal_attention_is_had_by_weights_that_know_it():
    """The embedded ones do: with a cache, which makes the same film of it. Others are said not to."""
    asked = {"model_id": "tiny", "causal_attention": True, "num_frames": 97}
    translated = translate(FORCING, flags(FORCING, **asked, ar_step=5, causal_block_size=5))
    assert translated.notes == (words("tiny"),) and translated.request.cache is True
    assert make_plan(translated.request, find_model("tiny")).remembers
    for more in ({}, {"ar_step": 5, "num_frames": 257}, {"ar_step": 5, "video_path": Path("a.mov")}):
        translated = translate(FORCING, flags(FORCING, **asked | more))
        (note,) = (note for note in translated.notes if "--causal_attention" in note)
        assert "tiny was trained for it, but here it goes with --ar_step in one window; full attention is used" in note
        assert translated.request.cache is None
        make_plan(translated.request, find_model("tiny"), history=5 * ("video_path" in more))


@pytest.mark.parametrize("model", ["T2V-14B-540P", "I2V-14B-540P"])
def test_teacache_of_models_of_one_level_is_the_step_cache(model):
    """Where all frames have one level it spoils no diffusion forcing: passes are left out here too."""
    picture = {"image": Path("a.png")} if model.startswith("I2V") else {}
    asked = flags(PLAIN, model_id=model, teacache=True, teacache_thresh=0.3, guidance_scale=5.0, shift=5.0, **picture)
    translated = translate(PLAIN, asked)
    note = translated.notes[0]
    assert translated.request.step_cache == 0.1 and note.startswith(
        "--teacache: passes are left out as --step-cache 0.1"
    )
    assert "diffusion forcing" not in note
    assert make_plan(translated.request, find_model(model, here=False)).request.step_cache == 0.1


def test_what_an_i2v_model_takes_other_than_the_script_is_said():
    asked = {"model_id": "Skywork/SkyReels-V2-I2V-14B-540P", "image": Path("a.png")}
    guidance, shift, last = translate(PLAIN, flags(PLAIN, **asked)).notes
    assert guidance.startswith("--guidance_scale: not given, 5, ") and guidance.endswith("script takes 6")
    assert shift.startswith("--shift: not given, 5, ") and shift.endswith("script takes 8")
    assert last == words("I2V-14B-540P")
    assert translate(PLAIN, flags(PLAIN, **asked, guidance_scale=6.0, shift=8.0)).notes == (last,)
    assert translate(PLAIN, flags(PLAIN)).notes == (words("T2V-14B-540P"),), "all else is what is published"


def test_names_of_films_fit_any_system__released_defect_35():
    """Defect 35: a hundred characters of a prompt were more bytes than a name may have, or what Windows refuses."""
    name = translate(FORCING, flags(FORCING, prompt="狐" * 100 + ': "why?"', seed=1)).output.name
    assert len(name.encode()) < 200 and not re.search(r'[:"?<>|*\\/]', name)


@pytest.mark.parametrize(
    ("size", "turn", "aspect"), [((32, 48), 1, "9:16"), ((48, 32), 1, None), ((48, 32), 6, "9:16")]
)
def test_the_film_of_a_picture_that_stands_upright_does_too(tmp_path, size, turn, aspect):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", size).save(tmp_path / "fox.png", exif=exif)
    asked = {"model_id": "Skywork/SkyReels-V2-I2V-14B-720P", "image": tmp_path / "fox.png"}
    translated = translate(PLAIN, flags(PLAIN, **asked))
    assert translate(FORCING, flags(FORCING, image=asked["image"])).request.aspect == aspect
    assert translated.request.aspect == aspect and translated.request.image == asked["image"]
    card = find_model(translated.model, here=False)
    plan = make_plan(translated.request, card)
    assert (plan.shape.pixel_width > plan.shape.pixel_height) == (aspect is None) and card.name == "I2V-14B-720P"
    sized = translate(PLAIN, flags(PLAIN, **asked, height=32, width=64)).request
    assert (sized.height, sized.width, sized.aspect) == (32, 64, None)
    assert translate(PLAIN, flags(PLAIN, image=tmp_path / "gone.png")).request.aspect is None


def test_a_bad_value_is_refused_by_name():
    with pytest.raises(RequestError, match=r"height = 100: .* nearest that works: 96"):
        translate(PLAIN, flags(PLAIN, height=100, width=160))


def test_the_commands_make_films(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = [
        "--model_id", tiny_folder, "--height", 32, "--width", 48, "--inference_steps", 2, "--prompt", "a fox",
        "--seed", 3,
    ]  # fmt: skip
    long = ["--num_frames", 30, "--base_num_frames", 17, "--overlap_history", 9, "--addnoise_condition", 20]
    for script, more in ((FORCING, [*long, "--use_usp"]), (PLAIN, ["--num_frames", 5])):
        monkeypatch.setattr("sys.argv", ["everreel", script, *map(str, [*common, *more])])
        cli.main()
    said = capsys.readouterr()
    assert "--use_usp: one process is alone; start several with torchrun" in said.err
    assert "windows (of 5 latent frames, 3 of them history, joined by reencode)" in said.out
    films = sorted(tmp_path.rglob("*.mp4"))
    assert [Video(film).num_frames for film in films] == [30, 5]


def test_the_command_makes_a_film_longer(tiny_folder, tmp_path, monkeypatch, capsys):
    """A tall film with sound: its frames first, as they are, then as many as were asked for."""
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "holiday.mp4", natural(30, 64, 48), fps=30, sound="aac")
    common = [
        "--model_id", tiny_folder, "--inference_steps", 2, "--prompt", "a fox", "--num_frames", 14,
        "--base_num_frames", 17, "--overlap_history", 9, "--height", 32, "--width", 32,
    ]  # fmt: skip
    for path, code in ((source, 0), (tmp_path / "gone.mp4", 2)):
        monkeypatch.setattr("sys.argv", ["everreel", FORCING, *map(str, common), "--video_path", str(path)])
        try:
            cli.main()
        except SystemExit as stop:
            assert stop.code == code == 2
    said = capsys.readouterr()
    assert "the source was copied bit for bit" in said.out
    assert said.err.splitlines()[-1].startswith(f"everreel: video = {tmp_path / 'gone.mp4'}: does not exist")
    (film,) = (tmp_path / "result" / "diffusion_forcing").glob("*.mp4")
    longer = Video(film)
    assert longer.num_frames == 30 + 14 and (longer.frames[:30] == Video(source).frames[:]).all()
    assert packets(film, "audio") == packets(source, "audio") != []


@pytest.fixture
def says_nothing(tmp_path):
    """A model's file as the released folders are: nothing in it says what it was trained for."""
    from everreel.checkpoint.convert import convert

    def write(folder):
        convert(folder, tmp_path / "m.safetensors", to="safetensors")
        state = load_file(tmp_path / "m.safetensors")
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fps_")}
        with safe_open(tmp_path / "m.safetensors", "pt") as file:
            metadata = {name: text for name, text in file.metadata().items() if name == "everreel.config"}
        config = json.loads(metadata["everreel.config"]) | {"inject_sample_info": False}
        save_file(state, tmp_path / "m.safetensors", {"everreel.config": json.dumps(config)})
        return tmp_path / "m.safetensors"

    return write


@pytest.mark.parametrize(("script", "kind"), [(FORCING, "df"), (PLAIN, "t2v")])
def test_a_model_that_does_not_say_its_kind_is_the_scripts(t2v_folder, says_nothing, monkeypatch, run, script, kind):
    """As everybody has it who used the released code, which had no flag for it."""
    file = says_nothing(t2v_folder)
    monkeypatch.chdir(file.parent)
    made = []
    monkeypatch.setattr(cli, "_generate", lambda request, output, model: made.append(model))
    code, _, err = run(script, "--model_id", file)
    assert code == 0, err
    assert made[0].kind == made[0].card().kind == kind


def test_a_model_that_makes_pictures_move_is_known_by_its_tensors(i2v_folder):
    assert translate(PLAIN, flags(PLAIN, model_id=str(i2v_folder), image=Path("a.png"))).kind == "i2v"


@pytest.mark.parametrize("model", ["Skywork/SkyReels-V2-T2V-14B-540P", "I2V-14B-540P"])
def test_a_model_of_the_other_script_is_refused_by_its_name(run, monkeypatch, tmp_path, model):
    """And not for a default of the script's that nobody typed."""
    monkeypatch.chdir(tmp_path)
    code, _, err = run(FORCING, "--model_id", model)
    assert code == 2 and f"model_id = '{model}': makes all frames at once" in err
    assert err.endswith("take generate_video, or 'DF-14B-540P'\n") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [["--height", 33], ["--image", "gone.png"], ["--video_path", "gone.mp4"]])
def test_what_is_refused_leaves_no_folder(run, tiny_folder, monkeypatch, tmp_path, wrong):
    monkeypatch.chdir(tmp_path)
    assert run(FORCING, "--model_id", tiny_folder, *wrong)[0] == 2
    assert list(tmp_path.iterdir()) == []
