"""Downloads from both hubs: what is taken, what is checked, what goes on, and what is said when it cannot be."""

import errno
import functools
import io
import itertools
import json
import shutil
from collections import namedtuple
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from huggingface_hub import close_session, constants
from safetensors.torch import save

from everreel.checkpoint import configs, download, hubs, keymap, places
from everreel.checkpoint.catalog import find_model
from everreel.checkpoint.download import Progress
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT
from tests.checkpoint.hub import COMMIT, serving

DIFFUSERS, OFFICIAL = "Skywork/SkyReels-V2-DF-14B-540P-Diffusers", "Skywork/SkyReels-V2-DF-14B-540P"
SHARD = "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
VAE = "Wan2.1_VAE.pth"
LARGE = {"huggingface": SHARD, "modelscope": VAE}
HUBS = pytest.mark.parametrize("hub_name", ["huggingface", "modelscope"])


def noise(seed, size=5000):
    return np.random.default_rng(seed).bytes(size)


SIZES = {"dim": 16, "ffn_dim": 32, "num_heads": 1, "num_layers": 1, "text_dim": 8, "freq_dim": 8}


@functools.cache
def weights(official=False, pictures=False):
    """A very small transformer in one file, or in two."""
    more = {"in_dim": 36, "image_dim": 8} if pictures else {}
    state = DiT(TransformerConfig(**SIZES, **more)).state_dict()
    items = list((state if official else keymap.transformer_to_diffusers(state)).items())
    parts = [items] if official else [items[: len(items) // 2], items[len(items) // 2 :]]
    return [save(dict(part)) for part in parts]


@functools.cache
def pickled(seed):
    """A file of torch that is of no part of a model."""
    file = io.BytesIO()
    torch.save({"w": torch.from_numpy(np.frombuffer(noise(seed), np.uint8).copy())}, file)
    return file.getvalue()


def diffusers_files(pictures=False):
    shards = [SHARD.replace("00002-of", f"0000{number}-of") for number in (1, 2)]
    sizes = TransformerConfig(**SIZES, **({"in_dim": 36, "image_dim": 8} if pictures else {}))
    index = configs.IMAGE_MODEL_INDEX if pictures else configs.MODEL_INDEX
    files = {
        "model_index.json": json.dumps(index).encode(),
        "LICENSE": b"a licence",
        "transformer/config.json": json.dumps(configs.transformer_config_to_diffusers(sizes)).encode(),
        "transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(
            {"weight_map": {f"w{number}": shard.split("/")[1] for number, shard in enumerate(shards)}}
        ).encode(),
        **dict(zip(shards, weights(pictures=pictures), strict=True)),
        "vae/config.json": b"{}",
        "vae/diffusion_pytorch_model.safetensors": noise(2),
        "text_encoder/config.json": b"{}",
        "text_encoder/model.safetensors": noise(3),
        "tokenizer/tokenizer.json": b"{}",
        "scheduler/scheduler_config.json": b"{}",
    }
    image = {"image_encoder/config.json": b"{}", "image_encoder/model.safetensors": noise(4)}
    return files | image if pictures else files


def official_files():
    return {
        "config.json": json.dumps(SIZES).encode(),
        "diffusion_pytorch_model.safetensors": weights(official=True)[0],
        VAE: pickled(6),
        "models_t5_umt5-xxl-enc-bf16.pth": pickled(7),
        "google/umt5-xxl/tokenizer.json": b"{}",
    }


USELESS = {
    "README.md": b"words",
    ".gitattributes": b"x",
    "assets/film.mp4": noise(8),
    "transformer/diffusion_pytorch_model.bin": noise(9),
    "transformer/diffusion_pytorch_model.fp16.safetensors": noise(10),
    "google/umt5-xxl/spiece.model": noise(11),
    "old/config.json": b"{}",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERREEL_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(hubs, "PAUSE", 0)
    monkeypatch.setattr(hubs, "CHUNK_BYTES", 1000)
    with serving() as hub:
        hub.repositories = {DIFFUSERS: diffusers_files() | USELESS, OFFICIAL: official_files() | USELESS}
        yield hub


def fetch(hub, hub_name, **options):
    return download.download("DF-14B-540P", hub=hub_name, endpoint=hub.url, **options)


def expected(hub_name):
    return diffusers_files() if hub_name == "huggingface" else official_files()


def held(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != places.RECORD
    }


@HUBS
def test_what_is_needed_is_fetched_and_is_a_model_then(hub, hub_name):
    told: list[Progress] = []
    folder = fetch(hub, hub_name, on_progress=told.append)
    assert held(folder) == expected(hub_name)
    total = sum(map(len, expected(hub_name).values()))
    assert told[-1].num_bytes == told[-1].total == total and {step.file for step in told} == set(expected(hub_name))
    assert all(a.num_bytes <= b.num_bytes for a, b in itertools.pairwise(told))
    repository = DIFFUSERS if hub_name == "huggingface" else OFFICIAL
    revision = COMMIT if hub_name == "huggingface" else "master"
    told_of = {"name": "SkyReels-V2-DF-14B-540P", "kind": "df", "repository": repository}
    assert places.record_of(folder) == told_of | {"hub": hub_name, "revision": revision}
    assert folder == places.models_folder() / repository and not folder.with_name(folder.name + ".incomplete").exists()
    for name in ("DF-14B-540P", repository, repository.lower()):
        card = find_model(name)
        assert (card.name, card.path, card.usable, card.kind) == ("DF-14B-540P", str(folder), True, "df")
    # A journal keeps the folder's path.
    again = find_model(folder)
    assert (again.kind, again.name, again.num_frames) == ("df", "DF-14B-540P", 97)
    asked = len(hub.asked)
    assert fetch(hub, hub_name) == folder and len(hub.asked) == asked


@pytest.mark.parametrize("pictures", [False, True])
def test_a_model_that_somebody_else_publishes_is_fetched_too(hub, pictures):
    """In the layout that its repository has; what it was trained for is said by its files."""
    name = "somebody/anime"
    hub.repositories[name] = diffusers_files(pictures) | USELESS
    folder = download.download(name, endpoint=hub.url)
    assert folder == places.models_folder() / name and held(folder) == diffusers_files(pictures)
    assert places.record_of(folder) == {"repository": name, "hub": "huggingface", "revision": COMMIT}
    card = find_model(name)
    assert (card.kind, card.path, card.usable) == ("i2v" if pictures else "df", str(folder), True)


def test_one_whose_files_do_not_say_what_it_was_trained_for_is_asked_about(hub):
    hub.repositories["somebody/anime"] = official_files() | USELESS
    folder = download.download("somebody/anime", hub="modelscope", endpoint=hub.url)
    assert held(folder) == official_files()
    with pytest.raises(ValueError, match="give --kind df, t2v or i2v"):
        find_model("somebody/anime")
    assert find_model("somebody/anime", kind="t2v").kind == "t2v"
    with pytest.raises(ValueError, match=r"'somebody/gone': .*everreel download somebody/gone fetches it"):
        find_model("somebody/gone")


def test_a_repository_that_is_no_whole_model_is_refused(hub):
    hub.repositories["somebody/lora"] = {"lora.safetensors": noise(1), "README.md": b"words"}
    with pytest.raises(ValueError, match=r"somebody/lora: holds no config\.json, so it is no model"):
        download.download("somebody/lora", endpoint=hub.url)
    assert not hub.asked


def test_a_picture_model_comes_with_its_image_encoder_and_others_without(hub):
    name = "Skywork/SkyReels-V2-I2V-14B-540P-Diffusers"
    hub.repositories[name] = diffusers_files(pictures=True)
    assert held(download.download("i2v-14b-540p", endpoint=hub.url)) == diffusers_files(pictures=True)
    hub.repositories[DIFFUSERS] = diffusers_files(pictures=True) | diffusers_files()
    assert held(fetch(hub, "huggingface")) == diffusers_files()


@pytest.mark.parametrize(
    ("name", "options", "repository"),
    [
        ("DF-14B-540P", {"layout": "official"}, OFFICIAL),
        (OFFICIAL.lower(), {}, OFFICIAL),
        (DIFFUSERS.upper(), {}, DIFFUSERS),
        (OFFICIAL, {"layout": "diffusers"}, DIFFUSERS),
    ],
)
def test_the_layout_is_the_one_asked_for(hub, name, options, repository):
    folder = download.download(name, endpoint=hub.url, **options)
    assert folder == places.models_folder() / repository and (folder / "config.json").exists() == (
        repository == OFFICIAL
    )


@HUBS
def test_a_download_that_was_stopped_goes_on_where_it_stopped(hub, hub_name, tmp_path):
    target, large = tmp_path / "here", LARGE[hub_name]

    def stop(progress):
        begun = sum(len(expected(hub_name)[name]) for name in names(hub, hub_name, large))
        if progress.file == large and progress.num_bytes - begun >= 3000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(hub, hub_name, to=target, on_progress=stop)
    assert not target.exists(), "nothing that is not whole has the model's name"
    with pytest.raises(ValueError, match="model = "):
        find_model(target)
    hub.asked.clear()
    assert held(fetch(hub, hub_name, to=target)) == expected(hub_name)
    first = hub.asked[0]
    assert first[0] == large and int(first[1].removeprefix("bytes=").strip("-")) in (2000, 3000)
    before = names(hub, hub_name, large)
    assert not {path for path, _ in hub.asked} & set(before), "files that are here are not fetched again"


def names(hub, hub_name, until):
    """The files that come before one."""
    wanted = list(expected(hub_name))
    return wanted[: wanted.index(until)]


@HUBS
@pytest.mark.parametrize("ignores_range", [False, True])
def test_a_connection_that_breaks_is_taken_up(hub, hub_name, ignores_range):
    large = LARGE[hub_name]
    hub.cut, hub.ignores_range = {large: 2500}, ignores_range
    assert held(fetch(hub, hub_name)) == expected(hub_name)
    assert [wanted for path, wanted in hub.asked if path == large] == [None, "bytes=2500-"]


def test_a_token_goes_to_the_hub_and_no_further(hub, monkeypatch):
    """Large files lie on other servers, to which the hub points."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving() as other:
        other.repositories, hub.redirect = hub.repositories, other.url
        assert held(fetch(hub, "huggingface")) == diffusers_files()
        assert set(hub.tokens) == {"Bearer hf_secret"} and set(other.tokens) == {None}


@HUBS
@pytest.mark.parametrize("small", [False, True])
def test_a_file_that_is_not_what_was_published_is_removed_and_named(hub, hub_name, small, tmp_path):
    target, bad = tmp_path / "here", LARGE[hub_name]
    if small:  # with a checksum of another kind
        bad = "vae/config.json" if hub_name == "huggingface" else "config.json"
    hub.tampered = {bad}
    with pytest.raises(ValueError, match=rf"{bad} came with another checksum than was published .* removed") as said:
        fetch(hub, hub_name, to=target)
    assert "\n" not in str(said.value) and not target.exists()
    part = tmp_path / "here.incomplete"
    assert not (part / bad).exists() and not (part / ".staging" / f"{bad}.incomplete").exists()
    hub.tampered = set()
    assert held(fetch(hub, hub_name, to=target)) == expected(hub_name)


def test_a_file_that_was_damaged_while_the_download_stood_still_is_fetched_again(hub, tmp_path):
    hub.tampered = {VAE}
    with pytest.raises(ValueError, match="checksum"):
        fetch(hub, "modelscope", to=tmp_path / "here")
    weights = tmp_path / "here.incomplete" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(noise(1))
    hub.tampered = set()
    assert held(fetch(hub, "modelscope", to=tmp_path / "here")) == official_files()


@HUBS
def test_no_space_is_said_before_the_first_byte(hub, hub_name, monkeypatch, tmp_path):
    total = sum(map(len, expected(hub_name).values()))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, total - 1))
    said = rf"needs 0\.0 MB, and {tmp_path} has 0\.0 MB free; free 0\.0 MB more, or give a folder on another disk"
    with pytest.raises(ValueError, match=said):
        fetch(hub, hub_name, to=tmp_path / "here")
    assert not hub.asked and not list(tmp_path.glob("here*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, total))
    assert held(fetch(hub, hub_name, to=tmp_path / "here")) == expected(hub_name)


@HUBS
def test_a_disk_that_fills_up_on_the_way_is_one_line_and_the_rest_is_kept(hub, hub_name, monkeypatch, tmp_path):
    """Another program may take the room that there was."""
    monkeypatch.setattr(hubs, "CHUNK_BYTES", 1000)
    opened, large = Path.open, LARGE[hub_name]

    def open_on_a_full_disk(path, mode="r", *more, **named):
        file = opened(path, mode, *more, **named)
        if mode == "r+b" and path.name == f"{Path(large).name}.incomplete":
            write = file.write

            def full(piece):
                if file.tell() >= 2000:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(piece)

            return mock.Mock(wraps=file, write=full, __enter__=lambda self: self, __exit__=lambda *_: file.close())
        return file

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_on_a_full_disk)
        with pytest.raises(ValueError, match=r"incomplete: the disk is full; .* with --to$") as caught:
            fetch(hub, hub_name, to=tmp_path / "here")
    begun = tmp_path / "here.incomplete" / ".staging" / f"{large}.incomplete"
    assert str(caught.value).startswith(f"{begun}: ") and begun.stat().st_size == 2000
    hub.asked.clear()
    assert held(fetch(hub, hub_name, to=tmp_path / "here")) == expected(hub_name)
    assert any("bytes=2000-" in str(asked) for asked in hub.asked), hub.asked


def test_space_is_counted_in_what_people_read(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 3_100_000_000))
    with pytest.raises(ValueError, match=r"needs 28\.4 GB, and .* has 3\.1 GB free; free 25\.3 GB more"):
        download.check_space(tmp_path / "a" / "b", 28_400_000_000)


@HUBS
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, {"huggingface": r"\(401\); set HF_TOKEN", "modelscope": r"\(401\); take it from Hugging Face"}),
        (403, {"huggingface": r"\(403\); set HF_TOKEN", "modelscope": r"\(403\); take it from Hugging Face"}),
        (404, {"huggingface": r"is not on Hugging Face \(404\)", "modelscope": r"is not on ModelScope \(404\)"}),
        (500, {"huggingface": "cannot be read now", "modelscope": "cannot be read now"}),
    ],
)
def test_a_hub_that_refuses_is_one_line_that_says_what_to_do(hub, hub_name, status, said, tmp_path):
    hub.status = status
    with pytest.raises(ValueError, match=f"DF-14B-540P.*{said[hub_name]}") as caught:
        fetch(hub, hub_name, to=tmp_path / "here")
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("here*"))


@HUBS
def test_a_hub_that_cannot_be_reached_is_one_line(hub_name, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read now: .*; what has come is kept") as caught:
        download.download("DF-14B-540P", hub=hub_name, endpoint="http://127.0.0.1:9", to=tmp_path / "here")
    assert "\n" not in str(caught.value)


def test_offline_is_said_as_such(hub, monkeypatch):
    # Patched where the library reads it, since its environment is read when it is imported.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set, so nothing is downloaded; unset it"):
        fetch(hub, "huggingface")
    close_session()


@pytest.mark.parametrize("path", ["../evil.safetensors", "/evil.json", "transformer/../../evil.json"])
@HUBS
def test_a_list_that_leads_out_of_the_folder_is_refused(hub, hub_name, path):
    hub.repositories[DIFFUSERS][path] = hub.repositories[OFFICIAL][path] = b"{}"
    with pytest.raises(ValueError, match="lies outside of it; nothing was downloaded"):
        fetch(hub, hub_name)
    assert not hub.asked


@pytest.mark.parametrize("lacking", ["transformer/config.json", "vae/config.json", "tokenizer/tokenizer.json"])
def test_a_repository_that_lacks_a_part_is_refused_before_it_is_fetched(hub, lacking):
    del hub.repositories[DIFFUSERS][lacking]
    with pytest.raises(ValueError, match=f"holds no {lacking}, so it is no model of the diffusers layout"):
        fetch(hub, "huggingface")
    assert not hub.asked


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("DF-5B-540P", {}, "announced and never released; nearest that was: 'DF-14B-540P'"),
        ("tiny", {}, "is inside the package"),
        ("else", {}, "model = 'else': must be one of DF-1.3B-540P, .* or a repository, OWNER/NAME"),
        ("../else", {}, "must be one of"),
        ("somebody/..", {}, "must be one of"),
        ("DF-14B-540P", {"hub": "modelscope", "layout": "diffusers"}, "ModelScope has the official layout alone"),
    ],
)
def test_what_is_not_published_is_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        download.download(name, endpoint="http://127.0.0.1:9", **options)


def test_a_folder_with_other_files_is_left_alone(hub, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; give a folder that is not there yet"):
        fetch(hub, "huggingface", to=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"] and not hub.asked


def test_two_downloads_into_one_folder_do_not_mix(hub, tmp_path):
    said = []

    def second(_):
        if not said:
            with pytest.raises(ValueError, match="another process downloads into it") as caught:
                fetch(hub, "modelscope", to=tmp_path / "here")
            said.append(str(caught.value))

    assert held(fetch(hub, "modelscope", to=tmp_path / "here", on_progress=second)) == official_files()
    assert said
