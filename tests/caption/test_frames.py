"""Films as Qwen2.5-VL looks at them: which frames, at which size, in which patches; against transformers' own."""

import math

import numpy as np
import pytest
import torch

from everreel.caption import frames as code
from everreel.caption.frames import FrameRule, film_patches, fitted, frames_at, scaled, spread, video_patches

RULE = FrameRule()
SMALL = FrameRule(pixels=16 * 28 * 28)


def film(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_frames_are_spread_as_released():
    """`round(i * (n - 1) / 16)`, halves to the even one."""
    assert spread(97, 16) == [0, 6, 12, 18, 24, 30, 36, 42, 48, 54, 60, 66, 72, 78, 84, 90]
    assert spread(49, 16) == list(range(0, 48, 3))
    assert spread(41, 16) == [0, 2, 5, 8, 10, 12, 15, 18, 20, 22, 25, 28, 30, 32, 35, 38]
    assert spread(5, 16) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4]
    assert spread(1, 16) == [0] * 16
    with pytest.raises(ValueError, match=r"^frames = 0 frames: a caption is of at least one; 1 works$"):
        spread(0, 16)


def test_of_a_long_film_only_what_is_seen_is_read():
    class Lazy:
        asked = ()

        def __len__(self):
            return 100_000

        def __getitem__(self, number):
            self.asked = (*self.asked, number)
            return np.full((4, 6, 3), number % 251, np.uint8)

    lazy = Lazy()
    assert frames_at(lazy, spread(len(lazy), 16)).shape == (16, 4, 6, 3)
    assert lazy.asked == tuple(spread(100_000, 16))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((420, 360), (420, 364)),  # what the released script makes of every film
        ((1080, 1920), (280, 504)),
        ((360, 640), (280, 504)),
        ((1920, 1080), (504, 280)),
        ((480, 640), (336, 448)),
        ((96, 160), (280, 476)),
        ((33, 77), (252, 588)),
        ((100, 2000), (84, 1680)),
        ((2000, 30), (1876, 28)),
        ((1, 1), (364, 364)),
    ],
)
def test_a_film_is_scaled_and_not_squashed__released_defect_46(size, expected):
    height, width = fitted(*size, RULE)
    assert (height, width) == expected
    assert height % 28 == width % 28 == 0 and height * width <= 420 * 364
    assert abs(math.log(height * size[1] / (width * size[0]))) <= math.log(1.03)


def test_any_shape_is_fitted_as_well_as_its_patches_allow():
    generator = np.random.default_rng(0)
    for height, width in generator.integers(1, 3000, (200, 2)).tolist():
        if max(height, width) > 40 * min(height, width):
            continue
        rows, columns = fitted(height, width, RULE)
        ratio = rows * width / (columns * height)
        assert 1 / 1.13 < ratio < 1.13, (height, width)
        assert rows * columns <= RULE.pixels and rows * columns >= 0.4 * RULE.pixels


def test_a_film_too_narrow_is_refused():
    with pytest.raises(ValueError, match=r"^frames = 1x500: one side may be 195 times the other at most; crop them$"):
        fitted(1, 500, RULE)


def test_the_size_lies_within_what_the_model_takes():
    assert fitted(100, 100, FrameRule(max_pixels=100 * 28 * 28)) == (280, 280)
    assert fitted(100, 100, FrameRule(pixels=28 * 28, min_pixels=1)) == (28, 28)
    rows, columns = fitted(100, 700, FrameRule(pixels=9 * 28 * 28, min_pixels=9 * 28 * 28))
    assert rows * columns == 9 * 28 * 28


def theirs(images, rule):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": rule.min_pixels, "longest_edge": rule.max_pixels}
    processor = Qwen2VLImageProcessorPil(size=size, image_mean=list(rule.mean), image_std=list(rule.std))
    return processor(list(images), return_tensors="pt")


@pytest.mark.parametrize("size", [(56, 112), (140, 84), (84, 84)])
def test_a_still_film_has_the_patches_of_its_picture(size):
    """transformers reads a picture as two equal frames."""
    rule = FrameRule(pixels=size[0] * size[1], mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    picture = film(1, *size)
    found = video_patches(np.concatenate([picture, picture]), rule)
    expected = theirs(picture, rule)
    assert found.video_grid_thw.tolist() == expected["image_grid_thw"].tolist()
    torch.testing.assert_close(found.pixel_values_videos, expected["pixel_values"].float(), rtol=0, atol=2e-6)


def test_pictures_are_scaled_as_transformers_scales_them():
    picture = film(1, 90, 120)
    rule = FrameRule(pixels=112 * 84)
    assert fitted(90, 120, rule) == (84, 112)
    expected = theirs(picture, FrameRule(min_pixels=28 * 28, max_pixels=112 * 84))
    found = video_patches(np.concatenate([picture, picture]), rule)
    assert found.video_grid_thw.tolist() == expected["image_grid_thw"].tolist() == [[1, 6, 8]]
    torch.testing.assert_close(found.pixel_values_videos, expected["pixel_values"].float(), rtol=0, atol=2e-6)


def test_each_number_stands_where_the_rule_puts_it():
    """Written out: patch (time, row, column) in squares of two by two; in it colour, frame, row, column."""
    frames = film(4, 56, 84)
    rule = FrameRule(pixels=56 * 84, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    found = video_patches(frames, rule)
    assert found.video_grid_thw.tolist() == [[2, 4, 6]]
    assert found.num_tokens(rule.merge) == 12
    values = found.pixel_values_videos.view(2, 2, 3, 2, 2, 3, 2, 14, 14)
    generator = np.random.default_rng(1)
    for _ in range(200):
        t, y, x, c = (int(generator.integers(0, n)) for n in (4, 56, 84, 3))
        place = (t // 2, y // 28, x // 28, y // 14 % 2, x // 14 % 2, c, t % 2, y % 14, x % 14)
        expected = (frames[t, y, x, c] / 255 - rule.mean[c]) / rule.std[c]
        assert abs(float(values[place]) - expected) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_last_frame_fills_a_patch_of_time(count):
    frames = film(count, 56, 56)
    rule = FrameRule(pixels=56 * 56)
    filled = np.concatenate([frames, frames[-1:]]) if count % 2 else frames
    found = video_patches(frames, rule)
    assert torch.equal(found.pixel_values_videos, video_patches(filled, rule).pixel_values_videos)
    assert found.video_grid_thw.tolist() == [[(count + 1) // 2, 4, 4]]


def test_seconds_are_the_released_ones_or_the_films_own():
    frames = film(33, 28, 28)
    assert film_patches(frames, 24.0, SMALL).second_per_grid_ts.tolist() == [1.0]
    own = film_patches(frames, 24.0, FrameRule(pixels=SMALL.pixels, seconds=None)).second_per_grid_ts
    assert own.tolist() == pytest.approx([2 * 2 / 24])  # every second frame of 33, two in a patch
    one = film_patches(frames[:1], 24.0, FrameRule(pixels=SMALL.pixels, seconds=None)).second_per_grid_ts
    assert float(one) > 0
    with pytest.raises(ValueError, match=r"^fps = 0: must be above 0; 24 works$"):
        film_patches(frames, 0, SMALL)


def test_what_is_no_film_is_refused():
    for wrong in (film(2, 8, 8).astype(np.float32), film(2, 8, 8)[..., :1], film(2, 8, 8)[0], film(2, 0, 8)):
        with pytest.raises(ValueError, match=r"^frames = .*: must be uint8 \(T, H, W, 3\)$"):
            film_patches(wrong, 24.0, SMALL)
    with pytest.raises(ValueError, match=r"^frames = 0 frames"):
        film_patches(film(0, 8, 8), 24.0, SMALL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 0}, "num_frames = 0: must be 1 or more"),
        ({"pixels": 100}, "pixels = 100: must be 3136 or more"),
        ({"seconds": 0.0}, r"seconds = 0\.0: must be above 0"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        FrameRule(**values)


def test_a_models_folder_says_how_it_looks(tmp_path):
    class Vision:
        patch_size, spatial_merge_size, temporal_patch_size = 14, 2, 2

    assert FrameRule.of_model(tmp_path, Vision) == FrameRule()
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"min_pixels": 784, "max_pixels": 99999, "image_mean": [0.5, 0.5, 0.5]}')
    found = FrameRule.of_model(tmp_path, Vision, num_frames=8)
    assert (found.min_pixels, found.max_pixels, found.mean, found.num_frames) == (784, 99999, (0.5, 0.5, 0.5), 8)
    file.write_text('{"size": {"shortest_edge": 3136, "longest_edge": 12845056}}')
    assert FrameRule.of_model(tmp_path, Vision).max_pixels == 12845056
    file.write_text("{")
    with pytest.raises(ValueError, match=r"its preprocessor_config\.json is no JSON"):
        FrameRule.of_model(tmp_path, Vision)


def test_nothing_is_scaled_that_fits():
    frames = film(2, 280, 504)
    assert scaled(frames, code.FrameRule()) is frames
