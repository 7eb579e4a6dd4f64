"""Anybody's films as a store: what it holds, what is skipped, and that a stopped run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everreel.checkpoint.load import load_text_encoder, load_tokenizer, load_vae
from everreel.data.buckets import Buckets
from everreel.data.clips import to_unit_range
from everreel.data.draws import generator_for
from everreel.data.latents import LatentStore
from everreel.data.prepare import Encoders, PrepareSettings, check_vae, describe, prepare
from everreel.data.text import FrozenText, StoredText, TextTable, text_of
from everreel.media import resize_cover
from everreel.model.vae import CausalVAE
from tests.film.films import cut, natural, numbered, numbers, write

SETTINGS = PrepareSettings(Buckets(((32, 48), (48, 32)), (9, 17)), stills=2)


@pytest.fixture(scope="module")
def encoders(tiny_folder: Path) -> Encoders:
    text = FrozenText(load_tokenizer(tiny_folder), load_text_encoder(tiny_folder), 32)
    return Encoders(load_vae(tiny_folder), text, "small")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six that work, one of them a picture, and six that do not."""
    folder = tmp_path_factory.mktemp("films")

    def put(name: str, caption: str = "a red fox runs") -> Path:
        (folder / name).with_suffix(".txt").write_text(caption)
        return folder / name

    write(put("fox.mp4", "a red fox runs\nthrough a forest\n"), natural(20, 32, 48))
    write(put("loud.mp4", "a blue swan"), numbered(30, 64, 96), fps=30, sound="aac")
    write(put("tall.mkv", "a lake"), natural(12, 60, 40))
    write(put("turned.mp4", "a lake"), natural(9, 32, 48), turn={"degrees": 90.0})
    uneven = [round(1000 * n / 24) + (9 if n % 3 else 0) for n in range(18)]
    write(put("uneven.mp4", "a swan"), natural(18, 40, 60), times=uneven, clock=1000)
    Image.fromarray(natural(1, 50, 70)[0]).save(put("still.png", "a forest"))
    put("empty.mp4").write_bytes(b"")
    put("words.mp4").write_text("no film at all")
    whole = write(put("torn.mp4"), natural(20, 32, 48))
    cut(whole, whole.stat().st_size // 2).replace(whole)
    write(put("short.mp4"), natural(4, 32, 48))
    write(put("slow.mp4"), natural(12, 32, 48), fps=10)
    write(folder / "mute.mp4", natural(9, 32, 48))
    put("broken.png").write_bytes(b"\x89PNG\r\n")
    return folder


@pytest.fixture(scope="module")
def store(films: Path, encoders: Encoders, tmp_path_factory: pytest.TempPathFactory) -> LatentStore:
    return prepare(films, tmp_path_factory.mktemp("store"), encoders, SETTINGS).store


def records(store: LatentStore) -> dict[str, dict]:
    lines = [line for file in sorted(store.path.glob("shard-*.jsonl")) for line in file.read_text().splitlines()]
    return {(record := json.loads(line))["file"]: record | {"index": n} for n, line in enumerate(lines)}


def test_each_film_is_in_its_bucket_and_the_rest_is_named(store: LatentStore, films: Path) -> None:
    assert {name: (record["fps"], store._where[record["index"]][0]) for name, record in records(store).items()} == {
        "still.png": (24, 0), "fox.mp4": (24, 2), "loud.mp4": (24, 2), "tall.mkv": (24, 1), "turned.mp4": (24, 1),
        "uneven.mp4": (24, 2),
    }  # fmt: skip
    assert {key: len(members) for key, members in store.groups.items()} == {(1, 4, 6): 1, (3, 6, 4): 2, (5, 4, 6): 3}
    reasons = dict(line.split(": ", 1) for line in (store.path / "skipped.txt").read_text().splitlines())
    assert reasons == {
        "broken.png": "cannot be read as a picture; a PNG or JPEG works",
        "empty.mp4": "is empty: 0 bytes",
        "mute.mp4": "has no caption; write one into mute.txt beside it",
        "short.mp4": "is too short: 0.17 s; the shortest clip, 9 frames at 16 a second, takes 0.56",
        "slow.mp4": "has too few frames: 10 a second, unevenly perhaps; 16 are needed",
        "torn.mp4": "is cut off, its end is missing; a film that is there in full works",
        "words.mp4": "cannot be read as a film (Invalid data found when processing input)",
    }
    assert describe(store)[2] == "32x48, 17 frames at 24 a second, 30 tokens: 3"


def test_latents_are_those_of_the_films_frames(store: LatentStore, films: Path, encoders: Encoders) -> None:
    """Of 30 frames a second those nearest to 24 a second, covering the bucket and cut at the middle."""
    from everreel.film.source import SourceFilm

    film = SourceFilm.open(films / "loud.mp4")
    shown = list(film.frames_at(film.timeline.shown_at))
    wanted = [round(n * 30 / 24 - 1e-6) for n in range(17)]
    assert numbers([shown[n] for n in wanted]) == wanted
    pixels = np.stack([resize_cover(shown[n], 32, 48) for n in wanted])
    with torch.no_grad():
        expected = encoders.vae.encode(to_unit_range(pixels)[None])[0]
    index = records(store)["loud.mp4"]["index"]
    torch.testing.assert_close(torch.from_numpy(store.latents(index).copy()).float(), expected, atol=5e-3, rtol=5e-3)
    frames, stills = store.stills(index)
    assert len(frames) == 2 and all(1 <= frame <= 4 for frame in frames) and stills.shape == (2, 16, 4, 6)
    assert store.stills(records(store)["still.png"]["index"])[0] == ()
    assert store.labels == [None] * 6


def test_a_turned_film_is_upright(films: Path) -> None:
    from everreel.film.source import SourceFilm

    film = SourceFilm.open(films / "turned.mp4")
    assert (film.height, film.width) == (48, 32)
    assert next(film.frames_at(film.timeline.shown_at[:1])).shape == (48, 32, 3)


def test_stored_text_is_what_the_encoder_says(store: LatentStore, encoders: Encoders) -> None:
    prompts = ["a red fox runs", "", "a blue swan", "through a forest"]
    text = text_of([store], None)
    assert isinstance(text, StoredText) and text.dim == encoders.text.dim == 24
    found, mask = text.embed(text.ids(prompts))
    expected, expected_mask = encoders.text.embed(encoders.text.ids(prompts))
    assert mask.sum(1).tolist() == expected_mask.sum(1).tolist()
    torch.testing.assert_close(found, expected[:, : found.shape[1]], atol=2e-3, rtol=2e-3)
    assert not expected[:, found.shape[1] :].any()
    with pytest.raises(ValueError, match=r"prompt = 'a tiger': is neither a caption of .* --prompt"):
        text.ids(["a tiger"])


def test_clips_of_one_and_of_two_captions_are_drawn_alike(store: LatentStore, encoders: Encoders) -> None:
    for text in (encoders.text, text_of([store], None)):
        table = TextTable.build(store.sentences, text)
        index = records(store)["fox.mp4"]["index"]
        drawn = [tuple(row) for row in table.draw([index] * 200, generator_for(0), empty=0.0).tolist()]
        both = [tuple(row) for row in text.ids(store.sentences[index]).tolist()]
        assert set(drawn) == set(both) and 70 < drawn.count(both[0]) < 130
        other = records(store)["tall.mkv"]["index"]
        assert (
            table.draw([other] * 50, generator_for(0), empty=0.0).unique(dim=0).tolist()
            == text.ids(["a lake"]).tolist()
        )


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(films: Path, encoders: Encoders, tmp_path: Path) -> None:
    settings = replace(SETTINGS, every=0.25, shard_bytes=2 * 2 * 16 * 5 * 4 * 6)
    prepare(films, tmp_path / "whole", encoders, settings)
    files = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert sum(name.startswith("shard") for name in files) > 4
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) in (5, 12):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prepare(films, tmp_path / "cut", encoders, settings, progress=stop)
        (tmp_path / "cut" / "latents-00099.part").write_bytes(b"half a shard")
    before = (tmp_path / "cut" / "latents-00000.npy").stat().st_mtime_ns
    prepare(films, tmp_path / "cut", encoders, settings, progress=stop)
    assert (tmp_path / "cut" / "latents-00000.npy").stat().st_mtime_ns == before
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_what_is_added_later_is_taken_and_nothing_twice(films: Path, encoders: Encoders, tmp_path: Path) -> None:
    source = tmp_path / "films"
    source.mkdir()
    for name in ("fox", "tall"):
        (source / f"{name}.txt").write_text("a fox")
    film = write(source / "fox.mp4", natural(20, 32, 48))
    store = prepare(source, tmp_path / "store", encoders, SETTINGS).store
    assert len(store) == 1
    write(source / "tall.mp4", natural(12, 60, 40))
    again = prepare(source, tmp_path / "store", encoders, SETTINGS, prompts=["a lake"])
    assert len(again.store) == 2 and again.skipped == () and list(again.store.prompts) == ["", "a lake"]
    write(film, natural(21, 32, 48))
    changed = prepare(source, tmp_path / "store", encoders, SETTINGS)
    assert len(changed.store) == 2 and "its file changed since" in str(changed.skipped[0])
    assert list(changed.store.prompts) == ["", "a lake"]


def test_windows_of_a_long_film(encoders: Encoders, tmp_path: Path) -> None:
    write(tmp_path / "long.mp4", natural(60, 32, 48))
    (tmp_path / "long.txt").write_text("a fox")
    store = prepare(tmp_path, tmp_path / "store", encoders, replace(SETTINGS, every=0.75)).store
    starts = [json.loads(line)["start"] for line in (store.path / "shard-00000.jsonl").read_text().splitlines()]
    assert starts == [0.0, 0.75, 1.5] and {key[0] for key in store.groups} == {5}


def test_a_file_that_breaks_half_way_is_skipped(encoders: Encoders, tmp_path: Path) -> None:
    for name in ("good", "rotten"):
        write(tmp_path / f"{name}.mkv", natural(20, 32, 48), options={"g": "1"})
        (tmp_path / f"{name}.txt").write_text("a fox")
    content = bytearray((tmp_path / "rotten.mkv").read_bytes())
    content[len(content) // 2 : len(content) * 3 // 4] = bytes(len(content) * 3 // 4 - len(content) // 2)
    (tmp_path / "rotten.mkv").write_bytes(content)
    prepared = prepare(tmp_path, tmp_path / "store", encoders, SETTINGS)
    assert len(prepared.store) == 1 and [missed.name for missed in prepared.skipped] == ["rotten.mkv"]


def test_a_part_of_a_film_is_as_a_film_of_that_part(encoders: Encoders, tmp_path: Path) -> None:
    frames = natural(40, 50, 70)
    whole = write(tmp_path / "whole.mp4", frames, options={"qp": "0"})
    rows = [
        {"path": whole.name, "text": "a fox", "start": 12 / 24, "stop": 22 / 24, "crop": [10, 8, 48, 32]},
        {"path": whole.name, "text": "late", "start": 35 / 24, "stop": 40 / 24},
        {"path": whole.name, "text": "wide", "start": 0, "stop": 1, "crop": [40, 8, 48, 32]},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(tmp_path / "t.jsonl", tmp_path / "store", encoders, SETTINGS)
    reasons = [missed.reason for missed in prepared.skipped]
    assert len(prepared.store) == 1 and "is too short: 0.21 s" in reasons[1] and "must lie within" in reasons[0]
    write(tmp_path / "part.mp4", frames[12:22, 8:40, 10:58], options={"qp": "0"})
    (tmp_path / "part.txt").write_text("a fox")
    alone = prepare(tmp_path / "part.mp4", tmp_path / "alone", encoders, SETTINGS)
    made, expected = (each.store.latents(0).astype(np.float32) for each in (prepared, alone))
    assert np.abs(made - expected).mean() < 0.05  # colours at the border come from beyond it
    assert np.abs(made[:, 1:] - expected[:, :-1]).mean() > 0.2


def test_nothing_to_use_is_one_error(encoders: Encoders, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no film and no picture"):
        prepare(tmp_path, tmp_path / "store", encoders, SETTINGS)
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_text("a fox")
    with pytest.raises(ValueError, match=r"nothing in it can be used: a.mp4: is empty: 0 bytes, and 1 more, listed in"):
        prepare(tmp_path, tmp_path / "store", encoders, SETTINGS)


def test_a_store_of_another_kind_is_refused(store: LatentStore, films: Path, encoders: Encoders) -> None:
    with pytest.raises(ValueError, match="was prepared with stills = 2"):
        prepare(films, store.path, encoders, replace(SETTINGS, stills=3))
    other = CausalVAE(encoders.vae.config).eval()
    with pytest.raises(ValueError, match="prepared with the VAE of small, which is another"):
        check_vae(store.path, other)
    check_vae(store.path, encoders.vae)


def test_a_full_disk_is_not_taken_for_a_bad_film(
    films: Path, encoders: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("everreel.data.prepare.write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(films, tmp_path / "store", encoders, SETTINGS)


@pytest.mark.parametrize(("field", "value"), [("every", 0.0), ("stills", -1)])
def test_bad_settings_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} = "):
        replace(SETTINGS, **{field: value})


def test_masks_say_where_the_subject_is(tmp_path: Path, encoders: Encoders) -> None:
    folder = tmp_path / "films"
    folder.mkdir()

    def put(name: str, caption: str = "a red fox runs") -> Path:
        (folder / name).with_suffix(".txt").write_text(caption)
        return folder / name

    left = np.zeros((64, 96, 3), np.uint8)
    left[:, :48] = 255
    write(put("still.mp4"), natural(9, 64, 96))
    Image.fromarray(left).save(folder / "still-masklabel.png")
    moving = np.zeros((9, 64, 96, 3), np.uint8)
    moving[5:, :32] = 255  # from the second frame of the third latent on, which stands for frames 5 to 8
    write(put("moving.mp4"), natural(9, 64, 96))
    write(folder / "moving-masklabel.mp4", moving)
    write(put("plain.mp4"), natural(9, 64, 96))
    Image.fromarray(natural(1, 64, 96)[0]).save(put("photo.png"))
    Image.fromarray(255 - left).save(folder / "photo-masklabel.png")
    Image.fromarray(natural(1, 64, 96)[0]).save(put("other.png"))
    Image.fromarray(left[:32]).save(folder / "other-masklabel.png")
    settings = PrepareSettings(Buckets(((32, 48),), (9,)), stills=0)
    found = prepare(folder, tmp_path / "store", encoders, settings)
    assert [str(missed) for missed in found.skipped] == [
        "other.png: its mask other-masklabel.png is 96x32: must be 96x64"
    ]
    store, files = found.store, {}
    for labels in sorted((tmp_path / "store").glob("shard-*.jsonl")):
        for line in labels.read_text().splitlines():
            files[json.loads(line)["file"]] = len(files)
    assert set(files) == {"still.mp4", "moving.mp4", "plain.mp4", "photo.png"}
    still = store.subjects([files["still.mp4"]], [(0, 3)])[0]
    assert still.shape == (3, 4, 6)
    assert float(still[..., :2].min()) > 0.95 and float(still[..., 4:].max()) < 0.05
    moving_THW = store.subjects([files["moving.mp4"]], [(0, 3)])[0]
    assert float(moving_THW[:2].max()) < 0.05 and float(moving_THW[2, :1].min()) > 0.95
    assert not store.subjects([files["plain.mp4"]], [(0, 3)]).any()
    photo = store.subjects([files["photo.png"]], [(0, 1)])[0]
    assert float(photo[..., 4:].min()) > 0.95 and float(photo[..., :2].max()) < 0.05
    # A mask that was drawn anew is a change, as another caption is.
    Image.fromarray(natural(1, 64, 96)[0]).save(folder / "photo-masklabel.png")
    again = prepare(folder, tmp_path / "store", encoders, settings)
    assert any(str(missed).startswith("photo.png: its mask changed since") for missed in again.skipped)
