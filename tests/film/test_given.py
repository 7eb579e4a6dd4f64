"""Given pictures: any file a person may hand in, at any frame, and where it is found in the film."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everreel.film.decoding import to_uint8
from everreel.film.given import encode_pictures, read_pictures
from everreel.film.plan import make_plan
from everreel.film.request import RequestError, make_request
from everreel.shapes import latent_index

SIZE = {"height": 32, "width": 48}
FAST = {"prompt": "a red fox", "num_inference_steps": 2, **SIZE}


def painted(seed: int = 0, height: int = 32, width: int = 48) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "fox.png"
    painted().save(path)
    return path


def read_one(path, **size):
    request = make_request(prompt="x", image=path, num_frames=9, **(size or SIZE))
    return read_pictures(request)[0]


def test_a_picture_of_the_film_s_size_is_taken_as_it_is(picture):
    read = read_one(picture)
    assert np.array_equal(read.pixels_HWC, np.asarray(painted()))
    assert read.notes == ()


def test_any_picture_a_person_may_have(tmp_path):
    """CMYK, 16 bits, upright by EXIF, transparent, animated: as one sees them, and said where something is lost."""
    photo = painted(1, 64, 96)
    photo.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    printed = read_one(tmp_path / "print.jpg", height=64, width=96).pixels_HWC
    assert np.abs(printed.astype(int) - np.asarray(photo)).mean() < 12
    deep = Image.fromarray((np.asarray(painted().convert("L")).astype(np.uint16)) * 257)
    deep.save(tmp_path / "deep.png")
    assert np.array_equal(read_one(tmp_path / "deep.png").pixels_HWC[..., 0], np.asarray(painted().convert("L")))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    painted().rotate(90, expand=True).save(tmp_path / "phone.png", exif=exif)
    turned = read_one(tmp_path / "phone.png")
    assert np.array_equal(turned.pixels_HWC, np.asarray(painted())) and not turned.notes
    clear = painted().convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    see_through = read_one(tmp_path / "clear.png")
    assert (see_through.pixels_HWC == 255).all() and "became white" in see_through.notes[0]
    painted().save(tmp_path / "moves.gif", save_all=True, append_images=[painted(2), painted(3)])
    animated = read_one(tmp_path / "moves.gif")
    assert "the first of its 3 frames" in animated.notes[0]
    assert np.abs(animated.pixels_HWC.astype(int) - np.asarray(painted())).mean() < 20


def test_nothing_untrue_is_said_of_a_picture(tmp_path):
    """Alpha that hides nothing, a phone's JPEG with a preview in it, a TIFF of pages; GIF and PNG may move."""
    whole = painted().convert("RGBA")
    whole.save(tmp_path / "whole.png")
    painted().save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[painted(2)])
    painted().save(tmp_path / "pages.tiff", save_all=True, append_images=[painted(2)])
    for name in ("whole.png", "phone.jpg", "pages.tiff"):
        assert read_one(tmp_path / name).notes == ()
    whole.putpixel((3, 3), (0, 0, 0, 254))
    whole.save(tmp_path / "hole.png")
    assert read_one(tmp_path / "hole.png").notes == ("image: what is transparent became white",)
    painted().save(tmp_path / "moves.png", save_all=True, append_images=[painted(2)])
    assert read_one(tmp_path / "moves.png").notes == ("image: is animated, the first of its 2 frames was taken",)


def test_a_large_picture_is_read_without_another_s_warning(picture, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 48 - 1)
    read_one(picture)
    assert not recwarn.list


def test_another_shape_is_cut_not_squashed_and_said(tmp_path):
    stripes = np.zeros((96, 288, 3), np.uint8)
    stripes[:, 96:192] = 255
    Image.fromarray(stripes).save(tmp_path / "wide.png")
    read = read_one(tmp_path / "wide.png", height=32, width=32)
    assert read.pixels_HWC.shape == (32, 32, 3) and read.pixels_HWC[:, 2:-2].min() > 250
    assert "288x96 has another shape than 32x32; 67% of it were cut off" in read.notes[0]


@pytest.mark.parametrize(
    ("size", "said"), [((16, 24), ["16x24 is small for 48x32; it was made 3 times as large"]), ((30, 20), [])]
)
def test_a_picture_that_is_made_much_larger_is_said_to_be__released_defect_37(tmp_path, size, said):
    Image.new("RGB", size, "red").save(tmp_path / "small.png")
    read = read_one(tmp_path / "small.png", height=32, width=48)
    assert [note.split(": ", 1)[1] for note in read.notes if "large" in note] == said


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: painted(0, 8, 8).resize((1, 1)).save(path), "1x1 pixels, must be at least 16"),
        (lambda path: path.write_bytes(png_header(20_000, 20_000)), "at most 150 million pixels"),
        (lambda path: path.write_bytes(png_header(13_000, 12_000)), "at most 150 million pixels"),
        (lambda path: path.write_text("a fox"), "cannot be read as a picture; a PNG or JPEG works"),
        (lambda path: path.write_bytes(b""), "cannot be read as a picture"),
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_picture_is_refused_by_name(tmp_path, make, message):
    path = tmp_path / "bad.png"
    make(path)
    request = make_request(prompt="x", num_frames=9, end_image=path, **SIZE)
    with pytest.raises(RequestError, match=message) as caught:
        read_pictures(request)
    assert str(caught.value).startswith(f"end_image = {path}: ") and "\n" not in str(caught.value)


def test_a_torn_picture_is_refused(tmp_path, picture):
    torn = tmp_path / "torn.png"
    torn.write_bytes(picture.read_bytes()[:-200])
    with pytest.raises(RequestError, match=r"image = .*torn.png: cannot be read as a picture"):
        read_one(torn)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keyframes": {9: "b.png"}}, r"keyframes\[9\] = b.png: the film has frames 0..8; nearest that works: 8"),
        ({"keyframes": {-1: "b.png"}}, r"keyframes\[-1\] = b.png: .* nearest that works: 0"),
        ({"keyframes": {2: "b.png", 4: "c.png"}}, r"keyframes\[4\] = c.png: keyframes\[2\] has frames 1..4"),
        ({"keyframes": {0: "b.png"}, "image": "a.png"}, r"keyframes\[0\] = b.png: image has frame 0 already"),
        ({"keyframes": {6: "b.png"}, "end_image": "z.png"}, r"end_image = z.png: keyframes\[6\] has frames 5..8"),
    ],
)
def test_pictures_that_have_no_place_are_refused_before_anything_is_read(pipe, given, message):
    with pytest.raises(RequestError, match=message):
        make_plan(make_request(**FAST, num_frames=9, **given), pipe.card)


def test_an_end_image_alone_is_allowed_and_a_film_of_nothing_else_is_not__released_defect_31(pipe, picture):
    plan = make_plan(make_request(**FAST, num_frames=9, end_image=picture), pipe.card)
    assert plan.schedule.given == {2}
    assert "1 given picture" in plan.describe()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_frames": 1, "image": "a.png"}, "num_frames = 1: image fills it, and nothing is left to make; {} 2"),
        (
            {"num_frames": 5, "image": "a.png", "end_image": "z.png"},
            "num_frames = 5: image and end_image fill it, and nothing is left to make; {} 6",
        ),
        (
            {"num_frames": 9, "image": "a.png", "keyframes": {3: "b.png"}, "end_image": "z.png"},
            "num_frames = 9: image, keyframes[3] and end_image fill it, and nothing is left to make; {} 10",
        ),
        ({"seconds": 0.2, "image": "a.png", "end_image": "z.png"}, "seconds = 0.2: image and end_image fill it, and "),
        (
            {"num_frames": 5, "schedule": "windows", "image": "a.png", "end_image": "z.png"},
            "num_frames = 5: image and end_image fill it, and nothing is left to make; {} 6",
        ),
        (
            {"num_frames": 9, "loop": True, "keyframes": {4: "b.png"}},
            "num_frames = 9: keyframes[4] fills it, and nothing is left to make; {} 13",
        ),
    ],
)
def test_a_film_that_its_pictures_fill_is_refused_and_the_nearest_length_works(pipe, asked, message):
    """A user knows of frames and pictures, and nothing of latents."""
    with pytest.raises(RequestError) as caught:
        make_plan(make_request(**FAST, **asked), pipe.card)
    said = str(caught.value)
    assert said.startswith(message.format("nearest that works:")) and "\n" not in said
    field, nearest = said.split(" =")[0], float(said.rsplit(": ", 1)[1])
    works = {**asked, field: nearest if field == "seconds" else int(nearest)}
    plan = make_plan(make_request(**FAST, **works), pipe.card)
    assert len(plan.schedule.given) < plan.schedule.num_frames
    if field == "num_frames":
        with pytest.raises(RequestError):
            make_plan(make_request(**FAST, **works | {field: int(nearest) - 1}), pipe.card)


def test_a_later_picture_is_the_second_latent_of_a_still(pipe, picture):
    request = make_request(prompt="x", num_frames=9, image=picture, end_image=picture, **SIZE)
    known = encode_pictures(read_pictures(request), pipe.vae)
    video = torch.from_numpy(np.asarray(painted()).copy()).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    with torch.no_grad():
        still = pipe.vae.encode(video.expand(-1, -1, 5, -1, -1))[0]
    assert sorted(known) == [0, 2]
    torch.testing.assert_close(known[0], still[:, 0])
    torch.testing.assert_close(known[2], still[:, 1])
    assert not torch.allclose(known[0], known[2])


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 25},
        {"num_frames": 25, "ar_step": 1, "causal_block_size": 3},
        {"num_frames": 61},
        {"num_frames": 58, "ar_step": 1},
        {"num_frames": 40, "causal_block_size": 3},
    ],
)
def test_pictures_are_in_the_film_where_they_were_given(pipe, picture, tmp_path, options):
    """Start, middle and end, in every schedule, within a window and beyond: the film's latents hold them, untouched.
    The released code overwrote the start image in asynchronous mode and cut the end image off.
    """
    painted(5).save(tmp_path / "b.png")
    last = options["num_frames"] - 1
    request = make_request(
        **FAST, **options, image=picture, keyframes={14: tmp_path / "b.png"}, end_image=picture, addnoise_condition=20
    )
    latents, decode = [], pipe._decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "_decode", lambda blocks, *rest: decode(kept(blocks, latents), *rest))
        frames = np.concatenate([block.frames for block in pipe.stream(request)])
    assert len(frames) == last + 1
    film = torch.cat(latents, dim=1)
    known = encode_pictures(read_pictures(request.resolve(pipe.card)), pipe.vae)
    assert sorted(known) == [0, latent_index(request.made(14)), 1 + (last - 1) // 4]
    assert all(torch.equal(film[:, index], latent) for index, latent in known.items())
    with torch.no_grad():
        still = to_uint8(pipe.vae.decode(known[0][None, :, None])[0])
    assert np.array_equal(frames[0], still[0])


def kept(blocks, latents):
    for block in blocks:
        latents.append(block.latents_CTHW)
        yield block


def test_what_leads_to_a_picture_sees_it(pipe, picture):
    """Beyond a window too: the frames before an end image change with it, and only those in its reach."""
    films = []
    for given in ({"end_image": picture}, {"schedule": "blockwise"}):
        request = make_request(**FAST, num_frames=61, **given)
        films.append(np.concatenate([block.frames for block in pipe.stream(request)]).astype(int))
    reached = np.abs(films[0] - films[1]).max(axis=(1, 2, 3)) > 0
    assert reached[45:].all() and not reached[:45].any()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("num_frames", [24, 25, 26, 27, 61, 62])
def test_a_film_ends_with_its_end_image__released_defect_5__released_defect_6(pipe, tmp_path, first, num_frames):
    """There a picture is seen as it is; the first frames of a latent still come from where the film was."""
    picture = tmp_path / "a.png"
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(picture)
    options = {"prompt": "a fox", "height": 32, "width": 32, "num_inference_steps": 2, "num_frames": num_frames}
    request = make_request(**options, end_image=picture, keyframes={9: picture}, image=picture if first else None)
    hidden = request.hidden
    assert (num_frames + len(hidden)) % 4 == 1 and hidden.start == int(first)
    made = [frame for frame in range(num_frames + len(hidden)) if frame not in hidden]
    assert [request.made(frame) for frame in range(num_frames)] == made
    assert [request.shown(frame) for frame in made] == list(range(num_frames))
    places = list(request.pictures())
    assert places == [0] * first + [latent_index(made[9]), latent_index(made[-1])]
    film = np.concatenate([block.frames for block in pipe.stream(request)])
    assert len(film) == num_frames
    # The same latents with nothing hidden show the same frames.
    longer = num_frames + len(hidden)
    whole = make_request(
        **options | {"num_frames": longer}, end_image=picture, keyframes={made[9]: picture},
        image=picture if first else None,
    )  # fmt: skip
    assert np.array_equal(film, np.concatenate([block.frames for block in pipe.stream(whole)])[made])
