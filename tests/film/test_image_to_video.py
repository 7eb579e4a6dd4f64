"""Films from one picture with the I2V models: what the network is shown, the way it is planned, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everreel import cli
from everreel.checkpoint.catalog import CATALOG, find_model
from everreel.film import making
from everreel.film.image_to_video import first_frame_mask, image_channels, image_tokens
from everreel.film.journal import Journal, journal_path, read_journal
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import RequestError, make_request
from everreel.film.source import SourceFilm
from everreel.media import FilmWriter, Video
from tests.film.films import natural, write

SMALL = {"prompt": "a red fox", "height": 32, "width": 48, "num_inference_steps": 2}
RELEASED = [card for card in CATALOG if card.image]


@pytest.fixture(scope="module")
def pipe(i2v_folder):
    return VideoPipeline.from_pretrained(str(i2v_folder), device="cpu", dtype=torch.float32)


@pytest.fixture
def picture(tmp_path) -> Path:
    return painted(tmp_path / "fox.png")


def painted(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((48, 32), Image.Resampling.BICUBIC).save(path)
    return path


def frames_of(pipe, **options):
    return np.concatenate([block.frames for block in pipe.stream(make_request(**SMALL, **options))])


def test_the_mask_marks_the_first_frame_in_all_four_channels():
    mask = first_frame_mask(torch.zeros(16, 3, 2, 5))
    expected = torch.zeros(4, 3, 2, 5)
    expected[:, 0] = 1
    assert torch.equal(mask, expected)
    # As it is defined: a value a video frame, the first four times, four to a latent frame.
    video = torch.tensor([1.0] * 4 + [0.0] * 8)
    assert torch.equal(mask[:, :, 0, 0], video.view(3, 4).T)


@torch.no_grad()
def test_what_is_shown_beside_the_noise_is_the_picture_and_grey(pipe, picture):
    pixels = np.asarray(Image.open(picture))
    channels = image_channels(pixels, 3, pipe.vae)
    video = torch.zeros(1, 3, 9, 32, 48)
    video[0, :, 0] = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1
    assert channels.shape == (20, 3, 4, 6) and channels.dtype == torch.float32
    torch.testing.assert_close(channels[4:], pipe.vae.encode(video)[0])
    tokens = image_tokens(pixels, pipe.image_encoder)
    assert tokens.shape == (1, 1 + (28 // 7) ** 2, 40)
    half = VideoPipeline.from_pretrained(pipe.card.path, device="cpu", dtype=torch.bfloat16)
    beginning = half.begin(make_request(**SMALL, image=picture, num_frames=9))
    assert beginning.channels.dtype == beginning.image_tokens.dtype == torch.float32
    assert (beginning.channels - channels).abs().max() < 0.2 and not beginning.known


@pytest.mark.parametrize("num_frames", [1, 2, 9, 30])
def test_any_length_in_one_window(pipe, picture, num_frames):
    plan = make_plan(make_request(**SMALL, num_frames=num_frames, image=picture), pipe.card)
    assert (plan.mode, plan.num_blocks, len(plan.schedule), plan.remembers) == ("synchronous", 1, 2, False)
    assert not plan.schedule.given and f"image {picture} is shown beside every latent" in plan.explain()
    assert len(frames_of(pipe, num_frames=num_frames, image=picture)) == num_frames


def test_far_beyond_a_window_there_is_still_one(picture):
    for card in RELEASED:
        plan = make_plan(make_request(prompt="a fox", image=picture, num_frames=1001), card)
        assert plan.schedule.longest_window == 251 and plan.num_blocks == 1


def test_the_picture_and_the_words_are_seen(pipe, picture, tmp_path):
    options = {"num_frames": 9, "image": picture}
    film = frames_of(pipe, **options)
    assert np.array_equal(film, frames_of(pipe, **options))
    others = [options | {"image": painted(tmp_path / "b.png", 1)}, options | {"seed": 1}]
    assert all((frames_of(pipe, **other) != film).any() for other in others)
    told = np.concatenate([b.frames for b in pipe.stream(make_request(**SMALL | {"prompt": "a swan"}, **options))])
    assert (told != film).any()


@pytest.mark.parametrize(("scale", "rows"), [(1, 1), (5, 2)])
def test_without_guidance_the_network_runs_once_a_step(pipe, picture, scale, rows):
    """Defect 15: the released code runs the second branch all the same."""
    seen = []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    frames_of(pipe, num_frames=5, image=picture, guidance_scale=scale)
    hook.remove()
    assert seen == [(rows, 36, 2, 4, 6)] * 2


def test_both_branches_read_the_picture_where_memory_is_short(pipe, picture, monkeypatch):
    together = frames_of(pipe, num_frames=9, image=picture)
    monkeypatch.setattr("everreel.film.pipeline.fits_as_batch", lambda *_: False)
    apart = frames_of(pipe, num_frames=9, image=picture)
    assert np.abs(together.astype(int) - apart).max() <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": None}, "image: must be given to {name}, a PNG or JPEG works; without one, "),
        ({"end_image": "z.png"}, "end_image = z.png: {name} takes one picture, for the first frame; "),
        ({"keyframes": {4: "b.png"}}, "keyframes[4] = b.png: {name} takes one picture, for the first frame; "),
        ({"story": {5: "it jumps"}}, "story[5] = it jumps: {name} reads one prompt; "),
        ({"ar_step": 2}, "ar_step = 2: {name} makes all frames at once, at one noise level; in diffusion forcing "),
        (
            {"schedule": "rolling"},
            "schedule = rolling: {name} makes all frames at once, at one noise level; in diffusion forcing ",
        ),
        (
            {"causal_block_size": 2},
            "causal_block_size = 2: {name} makes all frames at once, at one noise level; in diffusion forcing ",
        ),
        ({"base_num_frames": 97}, "base_num_frames = 97: {name} makes any number of frames in one window; "),
        ({"overlap_history": 17}, "overlap_history = 17: {name} makes any number of frames in one window; "),
        ({"join": "carry"}, "join = carry: {name} makes any number of frames in one window; "),
        ({"addnoise_condition": 20}, "addnoise_condition = 20.0: {name} looks back at nothing; "),
    ],
)
def test_what_an_i2v_model_cannot_do_is_refused_by_name(pipe, given, message):
    """Before anything is read: the pictures do not even exist."""
    request = make_request(**{**SMALL, "num_frames": 9, "image": "a.png", **given})
    for refusing in (lambda: make_plan(request, pipe.card), lambda: pipe.begin(request), lambda: pipe.stream(request)):
        with pytest.raises(RequestError) as caught:
            refusing()
        said = str(caught.value)
        assert said.startswith(message.format(name=pipe.card.name)) and "\n" not in said
        assert said.endswith(
            "models of diffusion forcing can: tiny, tiny-fast, DF-1.3B-540P, DF-14B-540P, DF-14B-720P; nearest 'tiny'"
        )


def test_a_film_cannot_be_gone_on_with(pipe, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(RequestError, match=r"looks at one picture and cannot go on with a film; .* DF-1.3B-540P"):
        make_plan(make_request(prompt="x", image=picture, num_frames=9), pipe.card, 3)
    film = tmp_path / "film.mp4"
    finished = make(pipe, making.begin(pipe, make_request(**SMALL, num_frames=5, image=picture)), film)
    with pytest.raises(RequestError, match="cannot go on"):
        making.go_on_with(pipe, finished, make_request(prompt="x"))
    holiday = write(tmp_path / "holiday.mp4", natural(12))
    with pytest.raises(RequestError, match="cannot go on"):
        making.follow(pipe, make_request(prompt="x"), SourceFilm.open(holiday))
    foreign = ["--output", tmp_path / "long.mp4", "--prompt", "x", "--model", pipe.card.path]
    for command in ([film], [holiday, *foreign]):
        monkeypatch.setattr("sys.argv", ["everreel", "extend", *map(str, command)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and "cannot go on with a film" in said and said.count("\n") == 1


def make(pipe, journal, film):
    with journal.open_film(film) as writer:
        return making.write(pipe, journal, writer)


class Stopped(BaseException):
    """Like a process that dies."""


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_film_that_was_stopped_becomes_the_same_bytes_without_its_picture(pipe, picture, tmp_path, count):
    request = make_request(**SMALL, num_frames=21, image=picture)
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    finished = make(pipe, making.begin(pipe, request), whole)
    assert finished.beginning.channels is None, "a finished film's journal is small"
    left = [count]

    def dying(method):
        def call(*args):
            result = method(*args)
            left[0] -= 1
            if not left[0]:
                raise Stopped
            return result

        return call

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Journal, "save", dying(Journal.save))
        patch.setattr(FilmWriter, "append", dying(FilmWriter.append))
        make(pipe, making.begin(pipe, request), film)
    picture.unlink()
    journal, first = read_journal(film), journal_path(film).read_bytes()
    assert journal.beginning.channels.shape == (20, 6, 4, 6)
    journal.save(film)
    assert journal_path(film).read_bytes() == first
    make(pipe, journal, film)
    assert film.read_bytes() == whole.read_bytes()
    assert journal_path(film).read_bytes() == journal_path(whole).read_bytes()


def test_the_commands_make_films_of_pictures(i2v_folder, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    size = ["--height", 32, "--width", 48, "--image", picture]
    generate = [
        "generate",
        "a fox",
        "--model",
        i2v_folder,
        "--num-inference-steps",
        2,
        "--num-frames",
        5,
        "-o",
        "a.mp4",
    ]
    script = [
        "generate_video", "--model_id", i2v_folder, "--prompt", "a fox", "--inference_steps", 2, "--num_frames", 6,
        "--seed", 3,
    ]  # fmt: skip
    for command in (generate, script):
        monkeypatch.setattr("sys.argv", ["everreel", *map(str, [*command, *size])])
        cli.main()
    assert "synchronous, 1 block of 2 steps, 2 denoising passes" in capsys.readouterr().out
    assert sorted(Video(film).num_frames for film in tmp_path.rglob("*.mp4")) == [5, 6]
    monkeypatch.setattr("sys.argv", ["everreel", "plan", "a fox", "--model", "I2V-14B-720P", "--image", str(picture)])
    cli.main()
    said = capsys.readouterr().out
    assert "121 frames of 1280x720 at 24 fps: synchronous" in said and "guidance 5, shift 5" in said


def test_a_folder_without_its_image_encoder_is_refused(i2v_folder, tmp_path):
    for part in i2v_folder.iterdir():
        if part.name != "image_encoder":
            (tmp_path / part.name).symlink_to(part)
    assert find_model(tmp_path).image
    with pytest.raises(ValueError, match="its image encoder"):
        VideoPipeline.from_pretrained(str(tmp_path), device="cpu")
