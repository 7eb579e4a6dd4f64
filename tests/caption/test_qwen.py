"""Captions by random Qwen2.5-VL models: whole ones whatever the film, and folders that hold something else."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from everreel.caption.frames import FrameRule, film_patches
from everreel.caption.fusion import BuiltInFusion
from everreel.caption.qwen import QwenCaptioner, load_qwen, model_inputs
from everreel.caption.runs import fuser_of
from everreel.caption.schema import Captioner, Fuser, StructuralCaption
from everreel.caption.wording import INSTRUCTION, answer, question
from tests.caption.qwen import save_captioner, save_writer

SMALL = FrameRule(num_frames=4, pixels=6 * 28 * 28)
CAPTION = StructuralCaption.model_validate(
    {
        "subjects": [{"TYPES": {"type": "Animal", "sub_type": "Fox"}, "action": "runs", "is_main_subject": True}],
        "shot_type": "long_shot", "shot_angle": "eye_level", "shot_position": "side_view",
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_captioner(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def captioner(folder):
    return QwenCaptioner(folder, dtype="float32", rule=SMALL, max_tokens=400)


def film(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 33, 47), (2, 96, 160), (40, 51, 300), (7, 151, 26)])
def test_any_film_has_a_caption(captioner, size):
    """One frame, odd sides, wide and tall; and the same one again."""
    made: Captioner = captioner
    found = made.caption(film(*size), 24.0)
    assert isinstance(found, StructuralCaption)
    assert StructuralCaption.model_validate_json(found.to_json()) == found


def test_it_is_the_same_every_time_and_of_the_film(captioner):
    first = captioner.caption(film(9, 64, 96), 24.0)
    captioner.caption(film(3, 40, 40), 16.0)
    torch.manual_seed(5)
    assert captioner.caption(film(9, 64, 96), 24.0) == first
    assert captioner.caption(film(9, 64, 96, seed=1) // 8, 24.0) != first


def test_bfloat16_and_eager_attention_caption_too(folder):
    other = QwenCaptioner(folder, dtype="bfloat16", attention="eager", rule=SMALL, max_tokens=300)
    assert other.caption(film(2, 30, 30), 24.0).shot_type


def test_what_is_no_film_is_refused(captioner):
    for frames, fps, message in (
        (film(0, 32, 32), 24.0, r"^frames = 0 frames: a caption is of at least one; 1 works$"),
        (film(2, 32, 32), 0.0, r"^fps = 0\.0: must be above 0; 24 works$"),
        (film(2, 32, 32)[..., 0], 24.0, r"^frames = uint8 .*: must be uint8 \(T, H, W, 3\)$"),
        (film(2, 1, 700), 24.0, r"^frames = 1x700: one side may be 6 times the other at most"),
    ):
        with pytest.raises(ValueError, match=message):
            captioner.caption(frames, fps)


def test_a_film_too_large_for_the_model_is_refused(folder):
    wide = QwenCaptioner(folder, dtype="float32", rule=FrameRule(num_frames=64, pixels=200 * 28 * 28), max_tokens=400)
    with pytest.raises(ValueError, match=r"^frames: its question alone has \d+ tokens of 4096; fewer pixels"):
        wide.caption(film(2, 64, 64), 24.0)


def test_closed_it_captions_no_more(folder):
    other = QwenCaptioner(folder, dtype="float32", rule=SMALL, max_tokens=400)
    other.close()
    other.close()
    with pytest.raises(ValueError, match=r"^captioner: is closed; make another QwenCaptioner$"):
        other.caption(film(2, 32, 32), 24.0)


def test_the_folder_says_how_frames_are_shown(folder):
    rule = QwenCaptioner(folder, dtype="float32").rule
    assert rule == FrameRule(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), max_pixels=12845056)
    assert rule.num_frames == 16 and rule.seconds == 1.0


def test_each_square_of_patches_is_a_place_in_the_question(folder):
    """As the model counts them: transformers refuses a film that has more or fewer."""
    qwen = load_qwen(folder)
    patches = film_patches(film(5, 60, 90), 24.0, SMALL)
    tokens = question(qwen.tokenizer, patches.num_tokens(2))
    assert tokens.count(qwen.model.config.video_token_id) == patches.num_tokens(2) == 2 * 6
    text = qwen.tokenizer.decode(tokens)
    assert INSTRUCTION in text and text.endswith("<|im_start|>assistant\n")
    inputs = model_inputs([tokens, tokens[:-3]], [patches, patches], qwen.model.config.video_token_id)
    with torch.no_grad():
        scores = qwen.model(**inputs).logits
        alone = qwen.model(**model_inputs([tokens[:-3]], [patches], qwen.model.config.video_token_id)).logits
    torch.testing.assert_close(scores[1, : len(tokens) - 3], alone[0], rtol=1e-4, atol=1e-4)
    wrong = question(qwen.tokenizer, patches.num_tokens(2) - 1)
    with pytest.raises(ValueError, match="tokens"):
        qwen.model(**model_inputs([wrong], [patches], qwen.model.config.video_token_id))


def test_an_answer_ends_with_its_mark_and_holds_no_other(folder):
    qwen = load_qwen(folder)
    caption = CAPTION.model_copy(update={"lighting": "a sign that says <|im_end|> glows"})
    tokens = answer(qwen.tokenizer, caption)
    end = qwen.tokenizer.get_added_vocab()["<|im_end|>"]
    assert tokens.count(end) == 1 and tokens[-1] == end
    assert StructuralCaption.model_validate_json(qwen.tokenizer.decode(tokens[:-1])) == caption


def test_both_kinds_of_names_are_read(folder, tmp_path):
    """Those of the published files, which transformers writes too, and those that its modules have by now."""
    shutil.copytree(folder, tmp_path / "new")
    file = tmp_path / "new/model.safetensors"
    tensors = load_file(file)
    assert {name.split(".")[0] for name in tensors} == {"visual", "model", "lm_head"}
    new = {
        name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name: value
        for name, value in tensors.items()
    }
    new = {f"model.{name}" if name.startswith("visual.") else name: value for name, value in new.items()}
    save_file(new, file, metadata={"format": "pt"})
    expected = load_qwen(folder).model.state_dict()
    assert set(new) <= set(expected)
    found = load_qwen(tmp_path / "new").model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def broken(folder, tmp_path, how):
    target = tmp_path / "broken"
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    if how == "another kind":
        (target / "config.json").write_text(json.dumps({**config, "model_type": "qwen2"}))
    elif how == "no configuration":
        (target / "config.json").unlink()
    elif how == "a damaged configuration":
        (target / "config.json").write_text("{")
    elif how == "no weights":
        (target / "model.safetensors").unlink()
    elif how == "half a file":
        data = (target / "model.safetensors").read_bytes()
        (target / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif how == "a tensor too few":
        tensors = load_file(target / "model.safetensors")
        del tensors["visual.blocks.1.mlp.up_proj.weight"]
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    elif how == "no marks":
        text = (target / "tokenizer.json").read_text()
        (target / "tokenizer.json").write_text(text.replace("<|video_pad|>", "<|other_pad|>"))
        text = (target / "tokenizer_config.json").read_text()
        (target / "tokenizer_config.json").write_text(text.replace("<|video_pad|>", "<|other_pad|>"))
    return target


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("another kind", r"is of the kind 'qwen2'; must be 'qwen2_5_vl', as SkyCaptioner-V1 is$"),
        ("no configuration", r"has no config\.json; the folder of a Qwen2\.5-VL works$"),
        ("a damaged configuration", r"its config\.json is no JSON object$"),
        ("no weights", r"cannot be loaded \(.*\)$"),
        ("half a file", r"cannot be loaded \(.*\)$"),
        ("a tensor too few", r"its files lack model\.visual\.blocks\.1\.mlp\.up_proj\.weight; download it again$"),
        ("no marks", r"its tokenizer has no <\|video_pad\|>; that of a Qwen2\.5-VL works$"),
    ],
)
def test_a_folder_of_something_else_is_one_line(folder, tmp_path, how, message):
    with pytest.raises(ValueError, match=rf"^model = '.*broken': {message}") as caught:
        QwenCaptioner(broken(folder, tmp_path, how), dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nowhere_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("somebody/nothing", "a/b/c/d"):
        with pytest.raises(ValueError, match=rf"^model = '{name}': there is no such folder, and it cannot") as caught:
            QwenCaptioner(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dtype": "int8"}, "^dtype = 'int8': must be one of bfloat16, float16, float32"),
        ({"attention": "fast"}, "^attention = 'fast': must be one of sdpa, eager, flash_attention_2"),
        ({"device": "tpu"}, "^device = tpu: is not on this machine"),
        ({"max_tokens": 20, "dtype": "float32"}, r"^max_tokens = 20: .* the nearest that works is \d+$"),
    ],
)
def test_a_value_that_cannot_be_is_refused(folder, values, message):
    with pytest.raises(ValueError, match=message):
        QwenCaptioner(folder, **values)


def test_a_writer_that_babbles_leaves_fusion_to_the_rules(tmp_path):
    """A random model's words are no caption; what is asked, answered and checked is `ChatFusion`'s."""
    said = []
    made: Fuser = fuser_of(str(save_writer(tmp_path)), on_problem=said.append)
    text = made.fuse(CAPTION, "t2v")
    assert text == BuiltInFusion().fuse(CAPTION, "t2v") or not said
    assert text.endswith(".") and made.chat._loaded is not None
    made.close()
    assert made.chat._loaded is None
