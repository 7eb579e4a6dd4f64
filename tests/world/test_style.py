"""Prints: two inks, and how far a film is from them."""

import numpy as np
import pytest
import torch

from everreel.world.render import render
from everreel.world.scene import sample_scene
from everreel.world.style import INKS, off_inks, printed

SCENE = sample_scene(torch.Generator().manual_seed(3))


@pytest.mark.parametrize("style", INKS)
def test_a_print_is_the_film_in_two_inks(style):
    plain, inked = render(SCENE, 2, height=48, width=80), render(SCENE, 2, height=48, width=80, style=style)
    assert np.array_equal(inked, printed(plain, style))
    assert off_inks(inked, style) < 0.6 < 5 < off_inks(plain, style)
    dark, light = INKS[style]
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert printed(ends, style).tolist() == [[list(dark), list(light)]]
    # Brighter stays brighter.
    luma, inked_luma = (frames @ np.array([0.299, 0.587, 0.114]) for frames in (plain, inked))
    assert np.corrcoef(luma.ravel(), inked_luma.ravel())[0, 1] > 0.999


def test_prints_differ_from_one_another():
    sepia = render(SCENE, 1, height=48, width=80, style="sepia")
    assert off_inks(sepia, "cyanotype") > 10


def test_distance_to_the_inks_is_in_levels():
    dark = np.array([INKS["sepia"][0]], np.uint8)
    assert off_inks(dark, "sepia") == pytest.approx(0, abs=1e-4)
    assert off_inks(dark - np.array([6, 0, 0], np.uint8), "sepia") == pytest.approx(6, abs=1e-4)


def test_an_unknown_print_is_refused():
    with pytest.raises(ValueError, match="style='noir': must be None or one of sepia, cyanotype"):
        render(SCENE, 1, style="noir")
