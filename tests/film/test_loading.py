"""How a model is run: checked before it is loaded, and settled once."""

import pytest

from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dtype": "bfloat61"}, "dtype = 'bfloat61': must be one of .*; nearest that works: bfloat16$"),
        ({"devise": "cpu"}, "devise = 'cpu': extra inputs"),
        ({"model": 5}, "model = 5: input should be a valid string"),
    ],
)
def test_bad_options_are_one_line(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        model_options(**values)
    assert "\n" not in str(caught.value)


def test_what_is_left_open_is_settled():
    options = model_options(device="cpu").resolve()
    assert options.device == "cpu" and str(options.torch_dtype) == f"torch.{options.dtype}"
    assert options.resolve() == options
    with pytest.raises(ValueError, match="device = cuba: is not on this machine; nearest that works: cpu"):
        model_options(device="cuba").resolve()


def test_a_pipeline_is_loaded_as_its_options_say(tiny_folder):
    import torch

    by_words = VideoPipeline.from_pretrained(tiny_folder, device="cpu", dtype="float32")
    by_type = VideoPipeline.from_pretrained(tiny_folder, device="cpu", dtype=torch.float32)
    for pipe in (by_words, by_type):
        assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float32} and str(pipe.device) == "cpu"
