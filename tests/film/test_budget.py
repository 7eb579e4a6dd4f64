"""A budget of memory: what fits is chosen, the exact before the small, and what cannot fit is said in one line."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from everreel.checkpoint.catalog import CATALOG, find_model
from everreel.checkpoint.convert import convert
from everreel.film import budget, making
from everreel.film.budget import needs, parse_memory, place
from everreel.film.loading import model_options
from everreel.film.parts import parts_of
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from everreel.memory import device_memory

GB = 1e9


def a_plan(model="DF-14B-540P", **options):
    card = find_model(model, here=False)
    return make_plan(make_request(prompt="a fox", **options), card), card


def placed(memory, model="DF-14B-540P", device="cuda", **options):
    plan, card = a_plan(model, **options)
    return place(plan, card, device, memory)


@pytest.mark.parametrize("model", ["DF-1.3B-540P", "DF-14B-540P", "DF-14B-720P"])
@pytest.mark.parametrize("memory", [200, 80, 48, 40, 32, 24])
def test_what_is_chosen_fits_by_its_own_count(model, memory):
    plan, card = a_plan(model)
    chosen = place(plan, card, "cuda", memory * GB)
    assert chosen.memory == needs(plan, card, chosen).peak <= memory * GB
    assert chosen.quantization is None  # streaming comes first


def test_with_less_memory_fewer_blocks_stay():
    chosen = [placed(memory * GB) for memory in range(120, 12, -2)]
    assert all(way.quantization is None for way in chosen)
    for together in (True, False):
        stay = [40 if way.resident is None else way.resident for way in chosen if way.together == together]
        assert stay == sorted(stay, reverse=True)
    assert chosen[0].resident is None and not chosen[0].parked and chosen[-1].resident is not None


def test_the_14b_model_is_told_to_stay_within_24_gb():
    chosen = placed(24 * GB)
    assert chosen.parked and chosen.text_on_host and chosen.resident is not None and 0 < chosen.resident < 20
    lines = chosen.describe()
    assert lines[0] == "on cuda in bfloat16"
    assert f"blocks of the transformer stream from host memory, {chosen.resident} of them stay" in lines


def test_without_a_budget_all_is_on_the_device_and_exact():
    chosen = placed(None)
    assert (chosen.quantization, chosen.resident, chosen.parked, chosen.tile, chosen.together) == (
        *(None, None, False, None),
        None,
    )


@pytest.fixture
def gpu(monkeypatch):
    """Gives this machine a GPU of so many gigabytes."""
    return lambda size: monkeypatch.setattr(budget, "device_memory", lambda device: size * GB)


@pytest.mark.parametrize(
    ("model", "size"), [("DF-14B-540P", 24), ("DF-14B-720P", 24), ("DF-1.3B-540P", 12), ("DF-1.3B-540P", 8)]
)
def test_without_a_budget_a_model_that_does_not_fit_a_gpu_is_fitted_to_it(gpu, model, size):
    whole = placed(None, model)
    gpu(size)
    chosen = placed(None, model)
    assert whole.memory > size * GB > budget.DEVICE_SHARE * size * GB >= chosen.memory
    assert chosen == placed(budget.DEVICE_SHARE * size * GB, model) and chosen.quantization is None


@pytest.mark.parametrize("model", ["DF-1.3B-540P", "DF-14B-540P", "DF-14B-720P"])
def test_where_a_model_fits_a_gpu_nothing_changes(gpu, model):
    """Of the largest one batch of guidance would not fit, and two calls do: that is found out when it begins."""
    whole = placed(None, model)
    gpu(80)
    assert placed(None, model) == whole and whole.together is None


def test_a_gpu_that_is_too_small_is_refused_before_anything_is_loaded(gpu):
    gpu(8)
    with pytest.raises(ValueError, match=r"memory = 7\.2 GB of cuda: DF-14B-540P needs at least \d\.\d\d GB for 960x"):
        placed(None)


def test_a_gpus_memory_is_asked_for_where_there_is_one(monkeypatch):
    assert device_memory(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_memory(torch.device("cuda")) is None  # a plan for another machine
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * 10**9))
    assert device_memory(torch.device("cuda:1")) == 24 * 10**9


def test_what_was_fitted_is_said_and_what_was_asked_for_is_not(gpu):
    asked, free = model_options(memory="24GB"), model_options()
    assert budget.fitted(placed(None), free) == []
    gpu(24)
    chosen = placed(None)
    (note,) = budget.fitted(chosen, free)
    assert (
        note.startswith("memory: not all of the model fits at once, so it is on cuda in bfloat16; ")
        and "--memory" in note
        and "\n" not in note
    )
    assert "blocks of the transformer stream from host memory" in note
    assert budget.fitted(chosen, asked) == []


def test_a_model_is_placed_again_for_a_film_that_needs_more(gpu):
    options = model_options(model="DF-14B-540P", device="cuda", dtype="bfloat16")
    (plan, card), (large, _) = a_plan(), a_plan(num_frames=97, height=720, width=1280)
    whole = budget.placed(options, card, plan)
    assert budget.suits(whole, options, card, large) and not budget.suits(None, options, card, plan)
    gpu(24)
    chosen = budget.placed(options, card, plan)
    assert budget.suits(chosen, options, card, plan)
    assert not budget.suits(chosen, options, card, large) and not budget.suits(whole, options, card, plan)


@pytest.mark.parametrize("card", [card for card in CATALOG if card.released], ids=lambda card: card.name)
def test_the_catalog_says_what_is_counted(gpu, card):
    whole, least = map(int, re.match(r"a GPU with (\d+) GB \((\d+) GB, slower\), ", card.needs).groups())
    plan = make_plan(make_request(prompt="a fox", image=Path("a.png") if card.image else None), card)
    assert math.ceil(place(plan, card, "cuda").memory / GB) == whole
    gpu(least)
    assert place(plan, card, "cuda").quantization is None


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_budget_for_nothing_says_the_least_that_works(device):
    with pytest.raises(
        ValueError, match=r"memory = 2 GB: DF-14B-540P needs at least .* GB for 960x544; (lower|give more)"
    ) as said:
        placed(2 * GB, device=device)
    least = float(str(said.value).split("at least ")[1].split()[0])
    assert "\n" not in str(said.value)
    assert placed(least * 1.01 * GB, device=device).memory < least * 1.01 * GB
    with pytest.raises(ValueError, match="needs at least"):
        placed(least * 0.98 * GB, device=device)


def test_a_cpu_computes_less_at_once_before_it_computes_less_exactly():
    whole, plenty = placed(None, device="cpu"), 1000 * GB
    assert replace(placed(plenty, device="cpu"), together=None, decode_latents=None) == whole
    smaller = placed(whole.memory + budget.HOST_PROGRAM_BYTES - 1, device="cpu")
    assert smaller.quantization is None and smaller.decode_latents == 1 and smaller.resident is None
    assert placed(40 * GB, device="cpu").quantization == "q8_0"


def test_a_type_that_nobody_asked_for_gives_way_before_weights_are_quantised(monkeypatch, tiny_folder):
    """On a CPU without instructions for bfloat16: that rounds less than 8 bits do."""
    monkeypatch.setattr(budget, "default_dtype", lambda device: torch.float32)
    monkeypatch.setattr("everreel.film.device.default_dtype", lambda device: torch.float32)
    plan, card = a_plan()
    free, asked = model_options(device="cpu").resolve(), model_options(device="cpu", dtype="float32").resolve()
    assert (free.dtype_asked, asked.dtype_asked) == (False, True) and free.resolve() == free
    assert free.torch_dtype == budget.placed(free, card, plan).dtype == torch.float32
    tight = {"memory": "60GB"}
    ways = [budget.placed(each.model_copy(update=tight), card, plan) for each in (free, asked)]
    assert [(way.dtype, way.quantization) for way in ways] == [(torch.bfloat16, None), (torch.float32, "q8_0")]
    assert not budget.suits(replace(ways[0], dtype=torch.float32), free.model_copy(update=tight), card, plan)
    least = [placed_least(plan, card, dtype) for dtype in (None, torch.float32)]
    assert least[0] < least[1]
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), device="cpu")
    assert pipe.options.dtype == "float32"
    small = replace(pipe.placement, dtype=torch.bfloat16)
    monkeypatch.setattr("everreel.film.pipeline.placed", lambda *_: small)
    assert making.maker_of(VideoPipeline.from_pretrained(str(tiny_folder), device="cpu")).dtype == "bfloat16"


def placed_least(plan, card, dtype):
    with pytest.raises(ValueError, match="needs at least") as caught:
        place(plan, card, "cpu", 2 * GB, dtype=dtype)
    return float(str(caught.value).split("at least ")[1].split()[0])


def test_a_quantisation_that_is_asked_for_is_kept_or_refused():
    plan, card = a_plan()
    assert place(plan, card, "cpu", quantization="q4_0").quantization == "q4_0"
    with pytest.raises(ValueError, match="nearest that works on cpu: int8_dynamic"):
        place(plan, card, "cpu", quantization="fp8_dynamic")


def test_what_saves_memory_does():
    plan, card = a_plan()
    whole = place(plan, card, "cuda")
    count = {
        what: needs(plan, card, replace(whole, **what_changes))
        for what, what_changes in {
            "whole": {},
            "parked": {"parked": True},
            "streamed": {"resident": 0},
            "int8": {"quantization": "int8"},
            "apart": {"together": False},
            "tiles": {"tile": 24},
        }.items()
    }
    assert count["parked"].denoising < count["whole"].denoising
    assert count["whole"].weights - count["streamed"].weights > 25 * GB
    assert 12 * GB < count["whole"].weights - count["int8"].weights < 14 * GB
    assert count["apart"].denoising < count["whole"].denoising
    assert count["tiles"].decoding < count["whole"].decoding - 5 * GB


def test_parts_are_those_of_the_files():
    parts = parts_of(find_model("tiny"))
    assert 11e6 < parts.transformer < 13e6 and parts.blocks < parts.transformer
    assert (parts.base_dim, parts.image) == (16, 0.0)
    released = parts_of(find_model("DF-1.3B-540P", here=False))
    assert 1.2e9 < released.transformer < 1.6e9 and released.base_dim == 96 and released.packed is None


@pytest.mark.parametrize("to", ["official", "gguf", "safetensors"])
def test_parts_are_those_of_the_files_in_every_layout(tiny_folder, tmp_path, to):
    """Of a single file the others are where the user says that they are, or else taken for the released ones."""
    target = tmp_path / {"official": "model", "gguf": "model.gguf"}.get(to, "model.safetensors")
    convert(tiny_folder, target, to=to)
    folder, found = parts_of(find_model(tiny_folder)), parts_of(find_model(target, kind="df"), tiny_folder)
    assert found == folder
    assert parts_of(find_model(target, kind="df")).text == (folder.text if to == "official" else 5.68e9)


def test_what_a_file_holds_quantised_is_counted_so_unless_it_cannot_stay(tmp_path):
    tiny = Path(find_model("tiny").path)
    convert(tiny, tmp_path / "q8.gguf", to="gguf", quantization="q8_0")
    card = find_model(tmp_path / "q8.gguf")
    parts = parts_of(card, tiny)
    assert parts.packed == pytest.approx(34 / 32, abs=0.01)
    plan = make_plan(make_request(prompt="a fox"), card)
    given = {"model": str(card.path), "parts": tiny, "device": "cpu", "dtype": "float32"}
    kept = budget.placed(model_options(**given), card, plan)
    lora = tmp_path / "lora.safetensors"
    save_file({"diffusion_model.blocks.0.self_attn.q.diff_b": torch.zeros(card.dim)}, lora)
    merged = budget.placed(model_options(**given, lora=[str(lora)]), card, plan)
    weights = [needs(plan, card, way, parts).weights for way in (kept, merged)]
    assert kept.packed and not merged.packed
    # Less one layer, which is unpacked as it is used.
    assert weights[1] - weights[0] == pytest.approx(
        parts.blocks * (4 - 34 / 32) - card.dim * card.ffn_dim * 4, rel=0.01
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [("24GB", 24e9), ("24 gb", 24e9), ("500MB", 5e8), ("1.5G", 1.5e9), ("8e9", 8e9), ("1GiB", 2**30), ("2MiB", 2**21)],
)
def test_amounts_of_memory(text, found):
    assert parse_memory(text) == pytest.approx(found)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "24XB"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ValueError, match="must be an amount of memory; 24GB works"):
        parse_memory(text)


def test_dtypes_count():
    plan, card = a_plan("tiny")
    half = replace(place(plan, card, "cpu"), dtype=torch.bfloat16)
    full = needs(plan, card, replace(half, dtype=torch.float32))
    assert 1.7 < full.weights / needs(plan, card, half).weights < 2.3
