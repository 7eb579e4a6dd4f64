"""The catalog: names, folders, and errors that say what would do."""

import json
import struct

import pytest
import torch
from huggingface_hub import constants

from everreel.checkpoint import catalog, configs, keymap, places
from everreel.film.loading import source_of
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT

TEXT = places.OFFICIAL["text_encoder"]
I2V = {"in_dim": 36, "image_dim": 1280}


WIDE = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 1}
PIPELINES = {
    "df": "SkyReelsV2DiffusionForcingPipeline",
    "t2v": "SkyReelsV2Pipeline",
    "i2v": "SkyReelsV2ImageToVideoPipeline",
}


def hollow(file, config, names=dict):
    """A transformer's file with all that can be seen of it without reading weights, of which there are none on disk."""
    with torch.device("meta"):
        tensors = names(DiT(config).state_dict())
    header, stop = {}, 0
    for name, tensor in tensors.items():
        start, stop = stop, stop + tensor.numel()
        header[name] = {"dtype": "F8_E4M3", "shape": list(tensor.shape), "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + stop)


def make_folder(folder, kind="df", **sizes):
    config = TransformerConfig(**{"num_layers": 1} | sizes)
    (folder / "transformer").mkdir(parents=True)
    fields = configs.transformer_config_to_diffusers(config)
    (folder / "transformer" / "config.json").write_text(json.dumps(fields))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    hollow(weights, config, keymap.transformer_to_diffusers)
    index = configs.MODEL_INDEX | {"_class_name": PIPELINES.get(kind, kind)}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def make_official(folder, **fields):
    """Its files without what is in them: enough to be told what it is."""
    (folder / "google" / "umt5-xxl").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(WIDE | fields))
    hollow(folder / "model.safetensors", configs.transformer_config_from_official(WIDE | fields))
    for name in ("Wan2.1_VAE.pth", TEXT):
        torch.save({"of another kind": torch.zeros(1)}, folder / name)
    (folder / "google" / "umt5-xxl" / "tokenizer.json").write_bytes(b"{}")
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of Hugging Face's programs; gives the folder that a repository has in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def at(repository, commit="0" * 40):
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / "main").write_text(commit)
        return root / "snapshots" / commit

    return at


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
    with pytest.raises(ValueError, match=r"'DF-1\.3B-540P'.*23 GB.*Skywork/SkyReels-V2-DF-1\.3B-540P-Diffusers"):
        catalog.find_model("DF-1.3B-540P")


def test_a_folder_of_an_i2v_model_is_known_by_its_transformer(tmp_path):
    """Not by its name, as the released code does it."""
    expected = {"a": "I2V-1.3B-540P", "b": "I2V-14B-540P", "c-720": "I2V-14B-720P"}
    for (name, like), heads in zip(expected.items(), (12, 40, 40), strict=True):
        card = catalog.find_model(make_folder(tmp_path / name, "i2v", dim=128 * heads, num_heads=heads, **I2V))
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
    with pytest.raises(ValueError, match=r"config\.json is missing, and no file"):
        catalog.find_model(tmp_path)


def test_every_released_variant_is_there():
    """As the released page lists them: what was published, what was announced, and the settings of each kind."""
    kinds = {"DF": ("df", 6, 8), "T2V": ("t2v", 6, 8), "I2V": ("i2v", 5, 5)}
    sizes = {"540P": (544, 960, 97), "720P": (720, 1280, 121)}
    released = {card.name: card for card in catalog.CATALOG if card.released}
    every = {"DF-1.3B-540P", "I2V-1.3B-540P"} | {f"{kind}-14B-{size}" for kind in kinds for size in sizes}
    assert set(released) == every and not every & set(catalog.ANNOUNCED)
    for name, card in released.items():
        kind, params, size = name.split("-")
        assert (card.kind, card.guidance_scale, card.shift) == kinds[kind] and card.num_inference_steps == 30
        assert (card.height, card.width, card.num_frames) == sizes[size]
        assert (card.dim, card.num_layers) == ((1536, 30) if params == "1.3B" else (5120, 40))
        assert card.path == card.diffusers == f"Skywork/SkyReels-V2-{name}-Diffusers" == card.official + "-Diffusers"
        assert card.licence == "Skywork Community License"
        assert card.solver == ("unipc" if kind == "DF" else "unipc_exact") and card.forcing == (kind == "DF")
    for nearest in catalog.ANNOUNCED.values():
        assert nearest in released


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ("DF-5B-540P", "DF-14B-540P"),
        ("T2V-5B", "T2V-14B-540P"),
        ("Skywork/SkyReels-V2-I2V-5B-720P", "I2V-14B-720P"),
        ("Skywork/SkyReels-V2-T2V-1.3B-540P", "T2V-14B-540P"),
        ("Camera Director", "I2V-14B-540P"),
        ("camera-director-14b-720p", "I2V-14B-720P"),
    ],
)
@pytest.mark.parametrize("here", [True, False])
def test_what_was_announced_only_is_said_to_be(wanted, nearest, here):
    said = f"model = '{wanted}': was announced and never released; nearest that was: '{nearest}'"
    with pytest.raises(ValueError, match=said):
        catalog.find_model(wanted, here=here)


@pytest.mark.parametrize(
    "wanted", ["df-14b-720p", "skywork/skyreels-v2-df-14b-720p", "SkyReels-V2-DF-14B-720P-Diffusers"]
)
def test_a_name_is_known_in_any_case_and_layout(wanted):
    assert catalog.find_model(wanted, here=False).name == "DF-14B-720P"
    with pytest.raises(ValueError, match=r"everreel download DF-14B-720P fetches Skywork/SkyReels-V2-DF-14B-720P"):
        catalog.find_model(wanted)


@pytest.mark.parametrize(
    "repository", ["Skywork/SkyReels-V2-T2V-14B-540P", "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers"]
)
def test_a_model_in_the_cache_is_found_by_its_name_and_knows_what_it_is(cache, repository):
    """Although nothing in an official folder tells T2V from diffusion forcing."""
    folder = cache(repository)
    if repository.endswith("-Diffusers"):
        make_folder(folder, "t2v", **WIDE)
        for part in ("vae", "text_encoder", "tokenizer"):
            (folder / part).mkdir(exist_ok=True)
            (folder / part / "model.safetensors").write_bytes(b"")
            (folder / part / "config.json").write_text("{}")
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    else:
        make_official(folder)
    for name in ("T2V-14B-540P", repository, repository.lower()):
        card = catalog.find_model(name)
        assert (card.name, card.path, card.usable, card.kind) == ("T2V-14B-540P", str(folder), True, "t2v")
    again = catalog.find_model(folder)
    assert (again.name, again.kind, again.solver) == ("T2V-14B-540P", "t2v", "unipc_exact")
    with pytest.raises(ValueError, match=r"kind = df: .* was trained as t2v"):
        catalog.find_model(folder, kind="df")
    assert [line for line in catalog.describe_models() if "T2V-14B-540P" in line] == [
        "T2V-14B-540P  ready     14 B   text to video, all frames at once",
    ]


@pytest.mark.parametrize("missing", [TEXT, "google/umt5-xxl/tokenizer.json", "model.safetensors"])
def test_a_copy_in_the_cache_that_is_not_whole_is_none(cache, missing):
    folder = make_official(cache("Skywork/SkyReels-V2-DF-14B-540P"))
    assert catalog.find_model("DF-14B-540P").path == str(folder)
    (folder / missing).unlink()
    with pytest.raises(ValueError, match="its weights are not on this machine"):
        catalog.find_model("DF-14B-540P")


def test_a_copy_without_the_image_encoder_is_none_of_a_model_that_needs_one(cache):
    folder = make_official(cache("Skywork/SkyReels-V2-I2V-14B-540P"), model_type="i2v", in_dim=36)
    with pytest.raises(ValueError, match="its weights are not on this machine"):
        catalog.find_model("I2V-14B-540P")
    torch.save({"of another kind": torch.zeros(1)}, folder / places.OFFICIAL["image_encoder"])
    assert catalog.find_model("I2V-14B-540P").path == str(folder)


def test_a_shard_that_is_missing_in_the_cache_is_too(cache):
    folder = make_official(cache("Skywork/SkyReels-V2-DF-14B-540P"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-2.safetensors"}}))
    with pytest.raises(ValueError, match="its weights are not on this machine"):
        catalog.find_model("DF-14B-540P")


def test_somebody_elses_repository_is_found_in_the_cache_and_asks_for_its_kind(cache):
    folder = make_official(cache("somebody/fine-tuned"))
    with pytest.raises(ValueError, match="models df and t2v have the same tensors; give --kind df, t2v or i2v"):
        catalog.find_model("somebody/fine-tuned")
    card = catalog.find_model("somebody/fine-tuned", kind="t2v")
    assert (card.path, card.kind, card.num_frames) == (str(folder), "t2v", 97)
    with pytest.raises(ValueError, match="'somebody/gone': there is no such folder, and no whole copy"):
        catalog.find_model("somebody/gone")


def test_what_does_not_depend_on_the_kind_asks_for_none(cache, tmp_path):
    """Where a model's parts are, its size and its length."""
    from everreel.checkpoint.lora_convert import _configs
    from everreel.prepare import _card

    folder = make_official(cache("somebody/fine-tuned"))
    assert source_of("somebody/fine-tuned").path == source_of(str(folder)).path == folder
    for name in ("somebody/fine-tuned", str(folder)):
        assert (_card(name).dim, _card(name).num_frames) == (5120, 97)
        assert {config.dim for config in _configs(name)} == {5120}
    assert catalog.find_model(folder, otherwise="t2v").kind == "t2v"
    assert catalog.find_model(folder, kind="df", otherwise="t2v").kind == "df"
    said = make_folder(tmp_path / "said", "df", **WIDE)
    assert catalog.find_model(said, otherwise="t2v").kind == "df"


def test_what_a_recipe_measures_is_of_the_kind_that_recipes_train(cache, tmp_path, monkeypatch):
    from everreel.evaluate import stage

    make_official(cache("somebody/fine-tuned"))
    monkeypatch.setattr(stage, "reader_of", lambda critic: None)
    monkeypatch.setattr(stage, "measure", lambda load, reader, evaluation, tell: evaluation)
    evaluation = stage.EvaluateRecipe("somebody/fine-tuned").run(tmp_path / "run")
    assert evaluation.card.kind == "df"


@pytest.mark.parametrize("name", ["5f2d", "weights.bin2", "model.safetensors"])
def test_a_file_is_told_by_what_is_in_it(tmp_path, name):
    """A cache keeps files under their checksums, and whoever has one of those has a model."""
    file = make_official(tmp_path / "a") / "model.safetensors"
    (tmp_path / "blobs").mkdir()
    blob = file.rename(tmp_path / "blobs" / name)
    assert catalog.find_model(blob, kind="df").dim == 5120
    blob.write_text("notes")
    with pytest.raises(ValueError, match="is neither safetensors nor GGUF nor a file of torch"):
        catalog.find_model(blob, kind="df")


@pytest.mark.parametrize("name", ["DF-14B-540P", "SkyReels-V2-T2V-14B-540P", "x"])
def test_a_folders_own_name_does_not_say_what_it_was_trained_for(tmp_path, name):
    folder = make_official(tmp_path / name)
    with pytest.raises(ValueError, match="nothing in it says what it was trained for"):
        catalog.find_model(folder)
    for kind, like in (("df", "DF-14B-540P"), ("t2v", "T2V-14B-540P")):
        card = catalog.find_model(folder, kind=kind)
        released = next(card for card in catalog.CATALOG if card.name == like)
        assert card == catalog.replace(released, name=name, path=str(folder), released=False, num_layers=1)
    with pytest.raises(ValueError, match="must be 36 with image_dim"):
        catalog.find_model(folder, kind="i2v")


def test_what_the_files_say_decides(tmp_path):
    for kind in ("df", "t2v"):
        folder = make_folder(tmp_path / f"says-{kind}", kind, **WIDE)
        assert catalog.find_model(folder).kind == catalog.find_model(folder, kind=kind).kind == kind
        other = "t2v" if kind == "df" else "df"
        with pytest.raises(ValueError, match=f"kind = {other}: .*says-{kind} was trained as {kind} .*leave out --kind"):
            catalog.find_model(folder, kind=other)
    told = make_official(tmp_path / "told", inject_sample_info=True)
    assert catalog.find_model(told).kind == "df", "only those were told the frame rate"
    pictures = make_official(tmp_path / "pictures", model_type="i2v", in_dim=36)
    assert catalog.find_model(pictures).kind == "i2v"
    with pytest.raises(ValueError, match="kind = 'i2v', and its transformer has no image branch"):
        catalog.find_model(make_folder(tmp_path / "liar", "i2v", **WIDE))
    with pytest.raises(ValueError, match="nothing in it says"):
        catalog.find_model(make_folder(tmp_path / "other", "WanPipeline", **WIDE))


def test_a_narrow_t2v_model_has_the_settings_of_the_wide_one(tmp_path):
    """Nobody released one, but Wan has the same tensors."""
    card = catalog.find_model(make_folder(tmp_path / "a", "t2v"))
    assert (card.size, card.kind, card.dim, card.guidance_scale, card.shift) == ("1.3 B", "t2v", 1536, 6, 8)
    small = catalog.find_model(make_folder(tmp_path / "b", "t2v", dim=48, num_heads=4))
    assert not small.forcing and not small.causal and small.solver == "unipc_exact" and small.sink == 0


def test_the_list_says_what_each_model_can_do():
    lines = catalog.describe_models()
    assert any(line.startswith("tiny          ") and "films of any length" in line for line in lines)
    assert (
        "              everreel download I2V-14B-720P fetches it from Skywork/SkyReels-V2-I2V-14B-720P-Diffusers"
        in lines
    )
    assert lines[-1].startswith("announced and never released: DF-5B-540P, ")
