"""The catalog: names, folders, and errors that say what would do."""

import json

import pytest

from everreel.checkpoint import catalog, configs
from everreel.model.config import TransformerConfig


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
