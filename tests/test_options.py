"""What people type as text becomes a request's fields, or is refused by name."""

import pytest

PLAN = ("plan", "a fox", "--num-frames", 97, "--ar-step", 7)


@pytest.mark.parametrize(
    ("text", "blocks"), [("4", "blocks of 4"), ("1,4,4", "blocks of 1,4,4"), (" 1, 6 ", "blocks of 1,6")]
)
def test_blocks_have_one_size_or_several(run, text, blocks):
    code, out, _ = run(*PLAN, "--causal-block-size", text)
    assert code == 0 and f"({'ar_step 7'}, {blocks})" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("four", "causal_block_size = four: must be one number of latent frames or several, as in 1,4,4"),
        ("1,,4", "causal_block_size = 1,,4: must be one number"),
        ("2.5", "causal_block_size = 2.5: must be one number"),
        ("1,0", "causal_block_size = [1, 0]: must be at least 1; nearest that works: 1,1"),
        ("1,40", "causal_block_size = 1,40: must be at most the window of 25 latent frames; nearest that works: 1,25"),
    ],
)
def test_sizes_of_blocks_that_cannot_be_are_refused_by_name(run, text, message):
    code, out, err = run(*PLAN, "--causal-block-size", text)
    assert (code, out) == (2, "") and err.startswith(f"everreel: {message}") and err.count("\n") == 1


def test_a_film_that_its_pictures_fill_is_refused_by_the_fields_that_were_typed(run, tmp_path):
    order = ("--num-frames", 5, "--image", tmp_path / "a.png", "--end-image", tmp_path / "z.png")
    code, _, err = run("plan", "a fox", *order)
    assert code == 2
    assert err == (
        "everreel: num_frames = 5: image and end_image fill it, and nothing is left to make; nearest that works: 6\n"
    )
