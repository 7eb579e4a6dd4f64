"""What lies over drawn clips is found and cut off; what belongs to them stays."""

import math

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from everreel.answers import ChatError
from everreel.curate.bars import picture_in_bars
from everreel.curate.crop import Cropper, CropRules, check_crop, cropped, write_clip
from everreel.curate.obstructions import ServedLogos, SteadyLogos, overlaid_words
from everreel.curate.record import Crop
from everreel.curate.rectangle import CropLimits, Rectangle
from everreel.film.source import SourceFilm
from everreel.media import FilmWriter
from tests.curate import pictures

CLIP = pictures.scenery()
FEW = CLIP[:4]
"""Enough for words, which are slow to find."""


def no_words(frame):
    return []


@pytest.fixture
def crop(ocr):
    return lambda frames: Cropper(ocr)(frames, *frames.shape[1:3])


def test_a_clean_clip_that_moves_is_left_as_it_is(crop):
    found = crop(FEW)
    assert (found.outcome, found.crop, found.reasons, found.obstructions) == ("whole", None, (), ())
    assert found.measures["text_share"] == 0 and found.measures["crop_share"] == 1


def test_a_crop_takes_subtitles_away_and_keeps_most_of_the_frame(crop, ocr):
    frames = pictures.subtitled(FEW)
    assert any(ocr(frame) for frame in frames)
    found = crop(frames)
    assert found.outcome == "crop" and {over.kind for over in found.obstructions} == {"words"}
    assert found.crop.width * found.crop.height > 0.8 * pictures.WIDTH * pictures.HEIGHT
    assert not any(value % 2 for value in found.crop)
    kept = np.stack([cropped(frame, found.crop) for frame in frames])
    assert np.array_equal(kept, np.stack([cropped(frame, found.crop) for frame in FEW])), "no letter is left"
    assert found.measures["text_share"] > 0.03 and found.measures["text_left"] == 0


def test_large_words_in_the_middle_drop_a_clip(crop):
    frames = pictures.drawn_on(FEW, lambda draw, _: pictures.words(draw, "THE END OF IT ALL", 160, 90, 34))
    found = crop(frames)
    assert found.outcome == "drop" and found.crop is None
    assert "text" in found.reasons[0] and found.measures["text_left"] > 0.1


def test_words_on_things_go_along_with_the_picture_and_stay(crop, ocr):
    frames = pictures.drawn_on(FEW, lambda draw, n: pictures.words(draw, "BAKERY", 250 - 9 * n, 150, 14))
    assert sum(bool(ocr(frame)) for frame in frames) == 4, "they are found"
    assert crop(frames).outcome == "whole"


def test_drawn_scenery_is_not_read_as_words(ocr):
    pytest.importorskip("skia", reason="the extra `train` is not installed")
    from everreel.data.draws import generator_for
    from everreel.world.render import render
    from everreel.world.scene import sample_scene

    # The detector alone takes each of these for words as a whole.
    for number in (11, 49, 51):
        scene = sample_scene(generator_for(0, "t", number), "train")
        assert ocr(np.asarray(render(scene, 1, height=192, width=320, fps=24))[0]) == []


@pytest.mark.parametrize(("frames", "found"), [(CLIP, 1), (pictures.still(), 0)], ids=["moving", "still"])
def test_a_logo_is_what_stays_while_the_picture_moves(frames, found):
    assert SteadyLogos()(frames) == []
    logos = SteadyLogos()(pictures.with_logo(frames))
    assert len(logos) == found, "in a picture that stands still nothing can be told"
    for box in logos:
        assert box.left <= 290 and box.left + box.width >= 312 and box.top + box.height >= 22
        assert box.area < 0.02 * pictures.WIDTH * pictures.HEIGHT
    assert SteadyLogos()(pictures.with_logo(frames)[:5]) == [], "of so few frames nothing either"


def test_a_logo_is_cut_off():
    found = Cropper(no_words)(pictures.with_logo(CLIP), pictures.HEIGHT, pictures.WIDTH)
    assert found.outcome == "crop" and found.crop.left + found.crop.width <= 290 and found.measures["num_logos"] == 1


def test_floorboards_under_a_camera_that_goes_along_them_are_no_logo():
    frames = CLIP.copy()
    for row in range(150, 180, 5):
        frames[:, row : row + 2] = 255
    assert SteadyLogos()(frames) == []


@pytest.mark.parametrize("color", [(0, 0, 0), (250, 250, 250)])
def test_bars_of_one_color_are_cut_off(color):
    frames = pictures.letterboxed(CLIP, 10, color)
    assert picture_in_bars(frames) == Rectangle(10, 0, 160, 320)
    assert picture_in_bars(frames.swapaxes(1, 2)) == Rectangle(0, 10, 320, 160)
    assert Cropper(no_words)(frames, 180, 320).crop == Crop(0, 10, 320, 160)


def test_subtitles_in_a_bar_do_not_hide_it(crop):
    found = crop(pictures.subtitled(pictures.letterboxed(FEW, 16)))
    assert found.measures["bar_share"] == pytest.approx(32 / 180)


def test_a_dark_bar_may_be_alone_and_a_clear_sky_is_none():
    frames = CLIP.copy()
    frames[:, :20] = (5, 5, 5)
    assert picture_in_bars(frames) == Rectangle(20, 0, 160, 320)
    frames[:, :20] = (120, 170, 220)
    frames[:, 20:] //= 2
    assert picture_in_bars(frames) == Rectangle(0, 0, 180, 320)


def test_black_and_clean_pictures_have_no_bars():
    for frames in (CLIP, CLIP * 0, pictures.still()):
        assert picture_in_bars(frames) == Rectangle(0, 0, 180, 320)


def test_sides_that_are_a_blurred_copy_are_bars_and_leave_too_little():
    frames = pictures.pillarboxed_with_blur(CLIP)
    found = Cropper(no_words)(frames, 180, 320)
    inner = picture_in_bars(frames)
    assert abs(inner.width - 109) <= 4 and inner.height == 180
    assert found.outcome == "drop" and "keeps 3" in found.reasons[0]


def test_a_wide_film_in_a_letterbox_is_measured_by_the_frame_or_by_its_picture():
    frames = pictures.letterboxed(CLIP, 22)
    assert Cropper(no_words)(frames, 180, 320).outcome == "drop"
    rules = CropRules(of_picture=True)
    assert Cropper(no_words, rules=rules)(frames, 180, 320).crop == Crop(0, 22, 320, 136)


def test_a_crop_that_changes_the_aspect_too_much_is_none():
    frames = pictures.letterboxed(CLIP, 10)
    found = Cropper(no_words, rules=CropRules(CropLimits(0.8, 0.1)))(frames, 180, 320)
    assert found.outcome == "drop" and "aspect by 12%" in found.reasons[0]


def test_a_crop_is_told_in_pixels_of_the_film():
    found = Cropper(no_words)(pictures.letterboxed(CLIP, 9), 1081, 1919)
    assert not any(value % 2 for value in found.crop)
    assert found.crop.top >= 9 * 1081 / 180 and found.crop.top + found.crop.height <= 171 * 1081 / 180
    assert found.crop.width >= 1916


def test_a_line_in_one_frame_alone_is_a_subtitle_in_the_middle_of_the_foot_only():
    box, aside = Rectangle(160, 100, 14, 120), Rectangle(160, 10, 14, 90)
    alone = [[]] * 3 + [[box, aside]] + [[]] * 4
    assert [found.box for found in overlaid_words(CLIP, alone)] == [box]
    passing = [[Rectangle(160, 100 + 9 * n, 14, 120)] for n in range(8)]
    assert overlaid_words(CLIP, passing) == []
    assert len(overlaid_words(CLIP[:1], [[box, aside]])) == 2, "one frame shows no difference"


def test_no_frame_and_wrong_rules_are_refused():
    with pytest.raises(ValueError, match="0 frames"):
        Cropper(no_words)(CLIP[:0], 180, 320)
    with pytest.raises(ValueError, match="most_text=2"):
        CropRules(most_text=2)
    with pytest.raises(ValueError, match="must have even sides and lie within 320x180"):
        check_crop(Crop(0, 0, 321, 180), 180, 320)


class Chat:
    def __init__(self, answer):
        self.said, self.asked = answer, []

    def answer(self, messages, *, schema=None, max_tokens=0, temperature=0.0):
        self.asked += messages
        return self.said


def test_a_chat_model_that_sees_may_tell_which_corners_are_covered():
    chat = Chat('{"top_left": false, "top_right": true, "bottom_left": false, "bottom_right": false}')
    found = Cropper(no_words, ServedLogos(chat))(CLIP, 180, 320)
    assert sum(part["type"] == "image_url" for part in chat.asked[0]["content"]) == 4
    assert found.crop in (Crop(0, 28, 320, 152), Crop(0, 0, 272, 180))
    with pytest.raises(ChatError, match="not what was asked"):
        ServedLogos(Chat("{}"))(CLIP)


def test_a_clip_is_written_cut_with_its_own_times(tmp_path):
    with FilmWriter(tmp_path / "film.mp4", 180, 320, 8) as writer:
        writer.append(CLIP)
    film = SourceFilm.open(tmp_path / "film.mp4")
    write_clip(film, 2, 5, tmp_path / "clip.mp4", Crop(10, 4, 200, 150))
    made = SourceFilm.open(tmp_path / "clip.mp4")
    assert (made.height, made.width, len(made.timeline.shown_at), made.fps) == (150, 200, 5, pytest.approx(8))
    frames = np.stack(list(made.frames_at(made.timeline.shown_at))).astype(float)
    error = abs(frames - CLIP[2:7, 4:154, 10:210]).mean()
    assert error < 6 and 20 * math.log10(255 / max(error, 1e-9)) > 30
    for wrong in ((6, 5), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match="frames"):
            write_clip(film, *wrong, tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="crop"):
        write_clip(film, 0, 2, tmp_path / "none.mp4", Crop(0, 0, 322, 100))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "film.mp4"]
