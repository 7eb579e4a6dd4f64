"""The catalog: names, folders, and errors that say what would do."""

import json

import pytest

from everreel.checkpoint import catalog, configs
from everreel.model.config import TransformerConfig

I2V = {"in_dim": 36, "image_dim": 1280}


def make_folder(folder, **sizes):
    fields = configs.transformer_config_to_diffusers(TransformerConfig(**sizes))
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(fields))
    (folder / "model_index.json").write_text(json.dumps(configs.MODEL_INDEX))
    return folder


def test_names_are_unique_and_sizes_fit():
    assert len({card.name for card in catalog.CATALOG}) == len(catalog.CATALOG)
    for card in catalog.CATALOG:
        assert card.height % 16 == card.width % 16 == (card.num_frames - 1) % 4 == 0


def test_the_packaged_model_is_found_when_it_is_there(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "tiny", dim=48, num_heads=4)
    card = catalog.replace(catalog.CATALOG[0], path=str(folder))
    monkeypatch.setattr(catalog, "CATALOG", (card, *catalog.CATALOG[1:]))
    assert catalog.find_model("tiny") == card
    (folder / "model_index.json").unlink()
    with pytest.raises(ValueError, match="model = 'tiny': its files are missing"):
        catalog.find_model("tiny")


def test_a_released_model_says_what_it_needs():
    with pytest.raises(ValueError, match=r"'DF-1\.3B-540P'.*15 GB.*Skywork/SkyReels-V2-DF-1\.3B-540P-Diffusers"):
        catalog.find_model("DF-1.3B-540P")


def test_a_folder_of_an_i2v_model_is_known_by_its_transformer(tmp_path):
    """Not by its name, as the released code does it."""
    expected = {"a": "I2V-1.3B-540P", "b": "I2V-14B-540P", "c-720": "I2V-14B-720P"}
    for (name, like), heads in zip(expected.items(), (12, 40, 40), strict=True):
        card = catalog.find_model(make_folder(tmp_path / name, dim=128 * heads, num_heads=heads, **I2V))
        released = next(card for card in catalog.CATALOG if card.name == like)
        assert catalog.replace(card, name=like, path=released.path, released=True, ffn_dim=0, num_layers=0) == (
            catalog.replace(released, ffn_dim=0, num_layers=0)
        )
        assert card.image and card.solver == "unipc_exact" and (card.guidance_scale, card.shift) == (5, 5)
    small = catalog.find_model(make_folder(tmp_path / "I2V", dim=48, num_heads=4))
    assert not small.image and small.solver == "unipc"
    small = catalog.find_model(make_folder(tmp_path / "T2V", dim=48, num_heads=4, **I2V))
    assert small.image and not small.causal and small.solver == "unipc_exact"


@pytest.mark.parametrize(("sizes", "needed"), [({"in_dim": 36}, "16 without"), ({"image_dim": 1280}, "36 with")])
def test_channels_of_no_model_are_refused(tmp_path, sizes, needed):
    with pytest.raises(ValueError, match=f"in_channels = .*: must be {needed} image_dim"):
        catalog.find_model(make_folder(tmp_path / "odd", **sizes))


@pytest.mark.parametrize(
    "name,sizes,expected",
    [
        ("mine", {}, (544, 960, 97)),
        ("mine", {"dim": 5120, "num_heads": 40}, (544, 960, 97)),
        ("df-720p", {"dim": 5120, "num_heads": 40}, (720, 1280, 121)),
        ("other", {"dim": 48, "num_heads": 4}, (96, 160, 97)),
    ],
)
def test_a_folder_is_itself(tmp_path, name, sizes, expected):
    folder = make_folder(tmp_path / name, **sizes)
    card = catalog.find_model(folder)
    assert (card.name, card.path, card.usable) == (name, str(folder), True)
    assert (card.height, card.width, card.num_frames) == expected


@pytest.mark.parametrize("wanted,nearest", [("tyni", "tiny"), ("DF-1.3B", "DF-1.3B-540P"), ("", "tiny")])
def test_an_unknown_name_gets_the_nearest(wanted, nearest):
    with pytest.raises(ValueError, match=f"model = '{wanted}'.*nearest '{nearest}'"):
        catalog.find_model(wanted)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold model_index\.json"):
        catalog.find_model(tmp_path)
