"""LoRA files that are torn, foreign, of another model or of another kind: one line that names file and tensor."""

import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from everreel.checkpoint.lora import Preset, preset_of
from everreel.checkpoint.lora_files import preset_for, read_lora
from everreel.model.config import TransformerConfig

CONFIG = TransformerConfig(dim=24, ffn_dim=40, num_heads=2, num_layers=3, text_dim=20, freq_dim=16)
I2V = TransformerConfig(
    dim=24, ffn_dim=40, num_heads=2, num_layers=3, text_dim=20, freq_dim=16, in_dim=36, image_dim=20
)
SMALL, LARGE = TransformerConfig(), TransformerConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)
Q = "diffusion_model.blocks.0.self_attn.q"


def pair(module=Q, width=24, out=None, rank=2, suffixes=("lora_down.weight", "lora_up.weight")):
    return {
        f"{module}.{suffixes[0]}": torch.ones(rank, width),
        f"{module}.{suffixes[1]}": torch.ones(out or width, rank),
    }


def image_branch(width=24):
    module = "diffusion_model.blocks.1.cross_attn"
    return {
        **pair(f"{module}.k_img", width),
        **pair(f"{module}.v_img", width),
        f"{module}.k_img.alpha": torch.tensor(1.0),
        f"{module}.v_img.diff_b": torch.ones(width),
        f"{module}.norm_k_img.diff": torch.ones(width),
        **pair("diffusion_model.img_emb.proj.1", 20),
    }


def save(tensors, path, metadata=None):
    save_file(tensors, path, metadata=metadata)
    return path


def refused(path, config=CONFIG):
    with pytest.raises(ValueError) as caught:
        read_lora(path, config)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"lora = '{path}")
    return message


NO_LORA = {
    f"{Q}.dora_scale": "DoRA",
    "base_model.model.blocks.0.attn1.to_q.lora_magnitude_vector": "DoRA",
    "lora_unet_blocks_0_self_attn_q.hada_w1_a": "LoHa or LoKr",
    "lycoris_blocks_0_self_attn_q.lokr_w1": "LoHa or LoKr",
    "lora_unet_patch_embedding.lora_mid.weight": "Tucker",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": "text encoder",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": "text encoder",
    "text_encoder.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": "text encoder",
}


@pytest.mark.parametrize("name", NO_LORA)
def test_what_is_no_lora_of_the_transformer_is_refused_by_name(name, tmp_path):
    message = refused(save({**pair(), name: torch.ones(2, 2)}, tmp_path / "a.safetensors"))
    assert repr(name) in message
    assert NO_LORA[name] in message


UNKNOWN = (
    "diffusion_model.double_blocks.0.img_attn.q.lora_down.weight",
    "diffusion_model.blocks.0.self_attn.x.lora_down.weight",
    "transformer_2.blocks.0.attn1.to_q.lora_A.weight",
    "lora_unet_blocks_0_self_attn_q_proj.lora_down.weight",
    "lora_unet_blocks.0.self_attn.q.lora_down.weight",
    f"{Q}.weight",
    f"{Q}.set_weight",
    "diffusion_model.blocks.0.norm1.diff",
    "diffusion_model.blocks.0.self_attn.diff_m",
)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_key_that_means_nothing_is_an_error(name, tmp_path):
    other = name.replace("blocks", "clocks")
    message = refused(save({**pair(), name: torch.ones(2, 24), other: torch.ones(2)}, tmp_path / "a.safetensors"))
    assert f"tensor {min(name, other)!r}" in message
    assert "(2 of 4 are)" in message or name == other


def wrong_shapes():
    yield pair(width=1536), LARGE, "(2, 1536)", "5120 wide", "1.3B models"
    yield pair(width=5120), SMALL, "(2, 5120)", "1536 wide", "14B models"
    yield pair(width=3072), LARGE, "(2, 3072)", "5120 wide", "5B models"
    yield pair("lora_unet_blocks_0_ffn_2", 8960, 1536), LARGE, "(2, 8960)", "13824", "1.3B models"
    yield {f"{Q}.diff_b": torch.ones(1536)}, LARGE, "(1536,)", "(5120,)", "1.3B models"
    yield {"diffusion_model.blocks.7.diff_m": torch.ones(1, 6, 1536)}, LARGE, "(1, 6, 1536)", "1.3B models"
    yield pair(width=25), CONFIG, "(2, 25)", "24 wide", "another model"
    yield {**pair(), f"{Q}.lora_up.weight": torch.ones(30, 2)}, CONFIG, "lora_up", "(30, 2)", "another model"
    yield {**pair(), f"{Q}.alpha": torch.ones(2)}, CONFIG, "alpha", "(2,)"
    yield pair(rank=0), CONFIG, "(0, 24)"
    yield pair("diffusion_model.blocks.0.norm3", 24), CONFIG, "(2, 24)", "(24,)"
    yield {"diffusion_model.patch_embedding.diff": torch.ones(24, 20, 1, 2, 2)}, CONFIG, "(24, 20, 1, 2, 2)"
    # A deeper model's blocks as well: what is said is the width.
    yield (
        {**pair("diffusion_model.blocks.0.ffn.2", 5120), **pair("diffusion_model.blocks.39.ffn.2", 5120)},
        SMALL,
        "14B",
    )


@pytest.mark.parametrize("tensors, config, parts", [(case[0], case[1], case[2:]) for case in wrong_shapes()])
def test_a_lora_of_another_shape_says_which_model_it_is_for(tensors, config, parts, tmp_path):
    message = refused(save(tensors, tmp_path / "a.safetensors"), config)
    assert all(part in message for part in parts), message


def test_a_lora_of_a_deeper_model(tmp_path):
    message = refused(save({**pair(), **pair(Q.replace("0", "3"))}, tmp_path / "a.safetensors"))
    assert "blocks.3.self_attn.q" in message
    assert "of 3 has not (and 1 more)" in message


def incomplete():
    yield {f"{Q}.lora_down.weight": torch.ones(2, 24)}, "no up half"
    yield {f"{Q}.lora_up.weight": torch.ones(24, 2)}, "no down half"
    yield {f"{Q}.alpha": torch.tensor(1.0)}, "no down half"
    yield {f"{Q}.lora_B.bias": torch.ones(24)}, "no lora_A and lora_B"
    yield {**pair(), f"{Q}.lora_up.weight": torch.ones(24, 3)}, "has the rank 3, its other half 2"
    yield {**pair(), **pair(suffixes=("lora_A.weight", "lora_B.weight"))}, "are for the same"
    yield {**pair(), f"{Q}.alpha": torch.tensor(float("inf"))}, "alpha = inf"
    yield {**pair(), f"{Q}.diff": torch.ones(24, 24, dtype=torch.int8)}, "torch.int8: must be floating point"
    yield {}, "it is empty"


@pytest.mark.parametrize("tensors, part", list(incomplete()))
def test_a_lora_that_lacks_a_part(tensors, part, tmp_path):
    assert part in refused(save(tensors, tmp_path / "a.safetensors"))


def test_an_image_branch_is_left_out_of_a_model_without_one_and_said(tmp_path):
    path = save({**pair(), **image_branch()}, tmp_path / "i2v.safetensors")
    lora = read_lora(path, CONFIG)
    assert set(lora.pairs) == {"blocks.0.self_attn.q"}
    assert not lora.diffs
    (note,) = lora.notes
    assert note.startswith("i2v.safetensors: left out 9 tensors for an image, which this model does not take ('diff")
    whole = read_lora(path, I2V)
    assert len(whole.pairs) == 4
    assert set(whole.diffs) == {f"blocks.1.cross_attn.{name}" for name in ("v_img.bias", "norm_k_img.weight")}
    assert whole.notes == ()
    message = refused(save(image_branch(), tmp_path / "only.safetensors"))
    assert "holds nothing for this model; only.safetensors: left out 9 tensors" in message


@pytest.mark.parametrize("config, found", [(CONFIG, 36), (I2V, 16)])
@pytest.mark.parametrize("as_pair", [True, False])
def test_the_first_layer_of_another_input_is_left_out_and_said(config, found, as_pair, tmp_path):
    name = "diffusion_model.patch_embedding"
    tensors = {f"{name}.diff": torch.ones(24, found, 1, 2, 2)}
    if as_pair:
        halves = torch.ones(2, found, 1, 2, 2), torch.ones(24, 2, 1, 1, 1)
        tensors = {f"{name}.lora_down.weight": halves[0], f"{name}.lora_up.weight": halves[1]}
    lora = read_lora(save({**pair(), **tensors, f"{name}.diff_b": torch.ones(24)}, tmp_path / "a.safetensors"), config)
    assert set(lora.pairs) == {"blocks.0.self_attn.q"}
    assert not lora.diffs
    assert lora.notes[0].startswith(f"a.safetensors: left out {3 if as_pair else 2} tensors for another number")
    assert f"({found})" in lora.notes[0]


def test_the_frame_rate_is_left_out_of_a_model_without_one(tmp_path):
    path = save({**pair(), **pair("transformer.fps_projection.net.0.proj")}, tmp_path / "a.safetensors")
    assert "for the frame rate" in read_lora(path, CONFIG).notes[0]
    assert read_lora(path, TransformerConfig(**CONFIG.__dict__ | {"inject_sample_info": True})).notes == ()


def test_a_pickle_is_read_as_tensors(tmp_path):
    torch.save(pair(), tmp_path / "lora.safetensors")  # told by content
    assert set(read_lora(tmp_path / "lora.safetensors", CONFIG).pairs) == {"blocks.0.self_attn.q"}
    torch.save({"state": pair()}, tmp_path / "nested.pt")
    assert "must hold tensors by name" in refused(tmp_path / "nested.pt")


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_carries_code_runs_nothing(zipped, tmp_path):
    path, made = tmp_path / "a.pt", tmp_path / "made"
    if zipped:
        torch.save({"a": Code(made)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Code(made)}))
    assert "cannot be read" in refused(path)
    assert not made.exists()
    torch.load(path, weights_only=False) if zipped else pickle.loads(path.read_bytes())
    assert made.exists()  # it would have


def test_a_file_that_is_torn_or_foreign(tmp_path):
    whole = save(pair(), tmp_path / "a.safetensors").read_bytes()
    for number, content in enumerate((b"", whole[:9], whole[:-8], b"GGUF" + bytes(60), b"not weights at all")):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        assert "cannot be read" in refused(path)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    assert "cannot be read" in refused(tmp_path / "b.zip")
    assert "no such file" in refused(tmp_path / "missing.safetensors")


def test_a_folder_must_hold_one(tmp_path):
    assert "holds 0 LoRA files" in refused(tmp_path)
    save(pair(), tmp_path / "a.safetensors")
    assert read_lora(tmp_path, CONFIG).path == tmp_path / "a.safetensors"
    save(pair(), tmp_path / "b.safetensors")
    assert "holds 2 LoRA files: give one of them" in refused(tmp_path)


SETTINGS = {
    "{": "cannot be read",
    "[1]": "must be fields",
    json.dumps({"use_dora": True}): "use_dora",
    json.dumps({"lora_alpha": "8"}): "alpha = '8': must be a number",
    json.dumps({"lora_alpha": 1, "alpha_pattern": {"to_x": 2}}): "alpha_pattern 'to_x' is for none of its tensors",
    json.dumps({"lora_alpha": 1, "alpha_pattern": {"to_q": None}}): "alpha = None: must be a number",
    json.dumps({"lora_alpha": 1, "alpha_pattern": [1, 2]}): "alpha = [1, 2]: must be a number",
}


@pytest.mark.parametrize("text", SETTINGS)
@pytest.mark.parametrize("beside", [True, False])
def test_settings_that_cannot_be_meant(text, beside, tmp_path):
    tensors = pair("transformer.blocks.0.attn1.to_q", suffixes=("lora_A.weight", "lora_B.weight"))
    path = save(tensors, tmp_path / "a.safetensors", None if beside else {"lora_adapter_metadata": text})
    if beside:
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_lora(path, CONFIG)
    assert SETTINGS[text] in str(caught.value)
    assert str(tmp_path / "adapter_config.json" if beside else path) in str(caught.value)


PUBLISHED = {
    "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32": Preset("LightX2V", 4, 1.0, 5.0),
    "wan2.1_t2v_14b_lora_rank64_lightx2v_4step": Preset("LightX2V", 4, 1.0, 5.0),
    "lightx2v_I2V_14B_480p_cfg_step_distill_rank128_bf16": Preset("LightX2V", 4, 1.0, 5.0),
    "Wan21_CausVid_14B_T2V_lora_rank32_v2": Preset("CausVid", 8, 1.0, 8.0),
    "Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32": Preset("CausVid", 8, 1.0, 8.0),
    "Wan21_AccVid_T2V_14B_lora_rank32_fp16": Preset("AccVid", 10, 1.0, 5.0),
    "my_cat": None,
    "wan2.2_t2v_A14b_low_noise_lora_rank64_lightx2v_4step_1217": None,
    "Wan_2_2_I2V_A14B_HIGH_lightx2v_4step_lora_v1030_rank_64_bf16": None,
}


@pytest.mark.parametrize("stem", PUBLISHED)
def test_a_few_step_lora_is_known_by_its_published_name_or_title(stem, tmp_path):
    assert preset_of(read_lora(save(pair(), tmp_path / f"{stem}.safetensors"), CONFIG)) == PUBLISHED[stem]
    renamed = save(pair(), tmp_path / "fast.safetensors", {"modelspec.title": stem})
    assert preset_of(read_lora(renamed, CONFIG)) == PUBLISHED[stem]


def test_a_lora_says_what_it_was_made_for(tmp_path):
    made_for = Preset("mine", 3, 1.0, 2.5, "euler", streams=True)
    path = save(pair(), tmp_path / "my_causvid.safetensors", made_for.metadata())
    assert preset_of(read_lora(path, CONFIG)) == made_for == preset_for(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "its settings say everreel.settings: invalid json"),
        ('{"name": "x"}', "its settings say num_inference_steps: "),
        ('{"name": "x", "num_inference_steps": 4, "guidance_scale": 1, "shift": 3, "solver": "magic"}', "say solver: "),
        ('{"name": "x", "num_inference_steps": 0, "guidance_scale": 1, "shift": 3}', "say num_inference_steps: "),
    ],
)
def test_settings_of_a_lora_that_are_none(text, message, tmp_path):
    path = save(pair(), tmp_path / "a.safetensors", {"everreel.settings": text})
    with pytest.raises(ValueError, match=message) as caught:
        preset_for(path)
    assert "a.safetensors" in str(caught.value) and "\n" not in str(caught.value)
