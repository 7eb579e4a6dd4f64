"""How a model is run: checked before it is loaded, and settled once."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from gguf.quants import quantize as quantize_blocks
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from everreel.checkpoint import catalog, gguf
from everreel.checkpoint.catalog import find_model
from everreel.checkpoint.contents import Shards
from everreel.checkpoint.convert import convert
from everreel.checkpoint.load import load_transformer
from everreel.checkpoint.lora import Preset
from everreel.checkpoint.quantize import quantize
from everreel.checkpoint.tensors import open_tensors
from everreel.film import making, pipeline
from everreel.film.journal import read_journal
from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline
from everreel.film.placement import Placement
from everreel.film.plan import make_plan
from everreel.film.request import make_request
from everreel.media import FilmWriter
from everreel.model.packed import PackedLinear

REQUEST = make_request(prompt="a red fox", num_frames=13, height=32, width=48, num_inference_steps=2)
CPU = {"device": "cpu", "dtype": "float32"}


def frames(pipe, request=REQUEST):
    return np.concatenate([block.frames for block in pipe.stream(request)]).astype(int)


def lora(path, folder, strength=1.0):
    """A LoRA of every query, key, value and output."""
    width = VideoPipeline.from_pretrained(str(folder), **CPU).transformer.config.dim
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name in "qkvo":
        key = f"diffusion_model.blocks.0.self_attn.{name}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(2, width, generator=generator) * strength
        tensors[f"{key}.lora_B.weight"] = torch.randn(width, 2, generator=generator)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dtype": "bfloat61"}, "dtype = 'bfloat61': must be one of .*; nearest that works: bfloat16$"),
        ({"devise": "cpu"}, "devise = 'cpu': extra inputs"),
        ({"model": 5}, "model = 5: input should be a valid string"),
        ({"memory": "much"}, "memory = 'much': must be an amount of memory; 24GB works"),
        ({"lora": ["none.safetensors"]}, "lora = 'none.safetensors': there is no none.safetensors"),
        ({"quantization": "int9"}, "quantization = 'int9': must be one of .*; nearest that works: int8$"),
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
    by_words = VideoPipeline.from_pretrained(tiny_folder, device="cpu", dtype="float32")
    by_type = VideoPipeline.from_pretrained(tiny_folder, device="cpu", dtype=torch.float32)
    for pipe in (by_words, by_type):
        assert {p.dtype for p in pipe.transformer.parameters()} == {torch.float32} and str(pipe.device) == "cpu"


@pytest.mark.parametrize("to", ["official", "diffusers", "gguf", "safetensors"])
def test_a_model_makes_the_same_film_from_every_layout(tiny_folder, tmp_path, to):
    """Its latents and its frames, to the bit. A single file takes the rest from where the user says that it is."""
    target = tmp_path / {"gguf": "model.gguf", "safetensors": "model.safetensors"}.get(to, "model")
    convert(tiny_folder, target, to=to)
    parts = {"parts": tiny_folder} if target.is_file() else {}
    whole, found = (
        VideoPipeline.from_pretrained(str(path), **beside, **CPU)
        for path, beside in ((tiny_folder, {}), (target, parts))
    )
    assert torch.equal(latents(found), latents(whole))
    assert np.array_equal(frames(found), frames(whole))


@pytest.mark.parametrize("part", ["vae", "text_encoder", "image_encoder", "tokenizer"])
def test_a_part_that_is_not_whole_is_said_before_any_weight_is_read(i2v_folder, tmp_path, monkeypatch, part):
    """The transformer of a released model takes minutes to read."""
    folder = tmp_path / "model"
    shutil.copytree(i2v_folder, folder)
    if part == "tokenizer":
        (folder / part / "tokenizer.json").write_text("{}")
    else:
        (file,) = (folder / part).glob("*.safetensors")
        state = load_file(file)
        state.pop(next(name for name in sorted(state) if name.endswith(".bias") or "layer_norm" in name))
        save_file(state, file)
    read = []
    monkeypatch.setattr(Shards, "read", lambda shards, name, *_: read.append(name))
    with pytest.raises(ValueError, match=f"model/{part}/.*: .*download it again") as caught:
        VideoPipeline.from_pretrained(str(folder), **CPU)
    assert read == [] and "\n" not in str(caught.value)


def test_what_a_file_holds_quantised_stays_so(tiny_folder, tmp_path):
    convert(tiny_folder, tmp_path / "q8.gguf", to="gguf", quantization="q8_0")
    pipe = VideoPipeline.from_pretrained(str(tmp_path / "q8.gguf"), parts=tiny_folder, **CPU)
    assert any(isinstance(module, PackedLinear) for module in pipe.transformer.modules())
    whole = VideoPipeline.from_pretrained(str(tiny_folder), **CPU)
    assert np.abs(frames(pipe) - frames(whole)).mean() < 3
    with pytest.raises(ValueError, match="its VAE"):
        VideoPipeline.from_pretrained(str(tmp_path / "q8.gguf"), **CPU)


@pytest.mark.parametrize(("quantization", "first"), [(None, "meta"), ("q8_0", "cpu")])
def test_a_device_never_holds_weights_that_are_to_be_smaller(monkeypatch, quantization, first):
    homes = []

    def load(source, device, *more, **options):
        homes.append(str(device))
        return load_transformer(source, device, *more, **options)

    monkeypatch.setattr(pipeline, "load_transformer", load)
    options = model_options()
    place = Placement(torch.device("meta"), torch.bfloat16, quantization)
    transformer = pipeline._transformer(options, options.source(options.card()), place, place.device)
    assert homes == [first]
    assert {str(tensor.device) for tensor in transformer.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("how", ["q8_0", "int8", "int8_dynamic"])
def test_weights_that_are_quantised_are_never_all_there_in_another_type(monkeypatch, how):
    seen = []

    def quantised(transformer, how, device, dtype):
        seen.append({weight.dtype for weight in transformer.parameters()})
        return quantize(transformer, how, device, dtype)

    monkeypatch.setattr(pipeline, "quantize", quantised)
    options = model_options()
    source = options.source(options.card())
    place = Placement(torch.device("cpu"), torch.float32, how)
    found = pipeline._transformer(options, source, place, place.device).state_dict()
    assert seen == [{open_tensors(source.transformer.paths[0]).read("proj_out.weight").dtype}] == [{torch.bfloat16}]
    expected = quantize(load_transformer(source), how).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        ours, theirs = (each.dequantize() if hasattr(each, "dequantize") else each for each in (found[name], tensor))
        assert torch.equal(ours, theirs), name


def test_weights_that_are_unpacked_to_be_read_are_so_in_the_type_that_is_computed_in(tmp_path, monkeypatch):
    """In the file's own they would be in float32, four bytes for each one of the file's."""
    seen = []
    monkeypatch.setattr(pipeline, "quantize", lambda model, *_: seen.append(model.head.head.weight.dtype) or model)
    convert(find_model("tiny").path, tmp_path / "q8.gguf", to="gguf", quantization="q8_0")
    options = model_options(model=str(tmp_path / "q8.gguf"))
    place = Placement(torch.device("cpu"), torch.bfloat16, "int8")
    transformer = pipeline._transformer(options, options.source(options.card()), place, place.device)
    assert {weight.dtype for weight in transformer.parameters()} == {torch.bfloat16} == {*seen}


def test_a_lora_changes_the_film_by_its_strength(tiny_folder, tmp_path):
    path = lora(tmp_path / "style.safetensors", tiny_folder)
    plain = frames(VideoPipeline.from_pretrained(str(tiny_folder), **CPU))
    none, half, full = (
        frames(VideoPipeline.from_pretrained(str(tiny_folder), lora=[f"{path}={strength}"], **CPU))
        for strength in (0, 0.5, 1)
    )
    assert np.array_equal(none, plain)
    assert 0 < np.abs(half - plain).mean() < np.abs(full - plain).mean()


def test_a_few_step_lora_brings_its_settings_and_says_so(tiny_folder, tmp_path):
    path = lora(tmp_path / "wan21_lightx2v_rank2.safetensors", tiny_folder)
    options = model_options(model=str(tiny_folder), lora=[str(path)])
    card = options.card()
    assert (card.num_inference_steps, card.guidance_scale, card.shift) == (4, 1.0, 5.0)
    assert any("4 steps, guidance 1, shift 5" in note for note in VideoPipeline.load(options).notes)


def test_a_student_streams_from_its_first_frame(tiny_folder, tmp_path):
    """What its file says is how its films are made: the solver, and block by block where one window would do."""
    path, told = lora(tmp_path / "student.safetensors", tiny_folder), tmp_path / "told.safetensors"
    save_file(load_file(path), told, Preset("x", 3, 1.0, 2.5, "euler", True).metadata())
    options = model_options(model=str(tiny_folder), lora=[str(told)])
    plan = make_plan(make_request(prompt="a red fox", num_frames=41), options.card())
    assert plan.mode.startswith("blockwise (blocks of 5") and plan.num_blocks == 3 and plan.remembers
    assert plan.request.num_inference_steps == 3 and plan.request.shift == 2.5
    fast = find_model("tiny-fast")  # which is the same made of tiny
    made = model_options(model="tiny", lora=[str(fast.lora)]).card()
    assert (made.sink, made.addnoise_condition, made.streams) == (fast.sink, fast.addnoise_condition, True)
    pipe, plain = (
        VideoPipeline.load(options),
        VideoPipeline.load(model_options(model=str(tiny_folder), lora=[str(path)])),
    )
    request = make_request(prompt="a red fox", num_frames=13, height=32, width=48, causal_block_size=2)
    asked = request.model_copy(update={"num_inference_steps": 3, "guidance_scale": 1.0, "shift": 2.5})
    assert pipe.card.solver == "euler" and plain.card.solver == "unipc"
    assert not np.array_equal(frames(pipe, request), frames(plain, asked)), "the solver makes no difference"
    assert next(iter(pipe.stream(request))).frames.shape[0] < 13
    plain.card = replace(plain.card, solver="euler")
    assert np.array_equal(frames(pipe, request), frames(plain, asked))


def test_a_model_may_be_another_and_a_lora(tiny_folder, tmp_path, monkeypatch):
    path = tmp_path / "fast.safetensors"
    pairs = load_file(lora(tmp_path / "plain.safetensors", tiny_folder))
    save_file(pairs, path, Preset("fast", 2, 1.0, 3.0, "euler", True).metadata())
    card = replace(find_model(str(tiny_folder)), name="small-fast", lora=str(path), num_inference_steps=2)
    monkeypatch.setattr(catalog, "CATALOG", (*catalog.CATALOG, card))
    options = model_options(model="small-fast", **CPU)
    assert options.files() == [path] and options.merges
    ours = VideoPipeline.load(options)
    theirs = VideoPipeline.from_pretrained(str(tiny_folder), lora=[str(path)], **CPU)
    for name, value in ours.transformer.state_dict().items():
        assert torch.equal(value, theirs.transformer.state_dict()[name]), name
    assert (ours.card.solver, ours.card.streams, ours.notes) == ("euler", True, ())
    both = model_options(model="small-fast", lora=[f"{path}=0.5"])
    assert [strength for _, strength in both.loras(ours.transformer.config)] == [1.0, 0.5]
    path.unlink()
    with pytest.raises(ValueError, match="its files are missing"):
        VideoPipeline.from_pretrained("small-fast")


def test_a_film_goes_on_as_it_was_begun(tiny_folder, tmp_path, monkeypatch):
    """With its LoRA, its quantisation and its kernel; and not when the LoRA is another by then."""
    path = lora(tmp_path / "style.safetensors", tiny_folder)
    options = model_options(
        model=str(tiny_folder), lora=[f"{path}=0.7"], quantization="int8", attention="sdpa", **CPU
    ).resolve()  # fmt: skip
    pipe = VideoPipeline.load(options)
    request = make_request(**REQUEST.model_dump() | {"num_frames": 21, "causal_block_size": 2})
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    for output, most in ((whole, None), (film, 9)):
        journal = making.begin(pipe, request)
        with journal.open_film(output) as writer:
            append = FilmWriter.append

            def stop(writer, new, append=append, most=most):
                if most is not None and writer.num_frames >= most:
                    raise KeyboardInterrupt
                append(writer, new)

            monkeypatch.setattr(FilmWriter, "append", stop)
            try:
                making.write(pipe, journal, writer)
            except KeyboardInterrupt:
                pass
            finally:
                monkeypatch.setattr(FilmWriter, "append", append)
    assert read_journal(film).maker.options == {
        "lora": [f"{path}=0.7"], "quantization": "int8", "attention": "sdpa",
    }  # fmt: skip
    shutil.copy(path, tmp_path / "kept")
    lora(path, tiny_folder, strength=2.0)
    with pytest.raises(ValueError, match="its files are not those that the film was begun with"):
        making.resume(film)
    shutil.copy(tmp_path / "kept", path)
    making.resume(film)
    assert film.read_bytes() == whole.read_bytes()


def test_what_a_placement_quantises_is_written_down(tiny_folder):
    place = Placement(torch.device("cpu"), torch.float32, "int8")
    pipe = VideoPipeline.from_pretrained(tiny_folder, placement=place)
    assert making.options_of(making.maker_of(pipe)).quantization == "int8"


def test_a_budget_places_the_model_and_one_too_small_is_refused(tiny_folder):
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), memory="1.5GB", **CPU)
    assert pipe.placement is not None and pipe.placement.quantization is None
    with pytest.raises(ValueError, match=r"memory = 1 MB: .* needs at least .* GB"):
        VideoPipeline.from_pretrained(str(tiny_folder), memory="1MB", **CPU)


def test_a_film_goes_on_in_the_pieces_that_it_was_begun_in(tiny_folder, tmp_path):
    """Although its model was placed for another film."""
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), **CPU)
    pipe.placement = replace(pipe.placement, decode_latents=1, tile=16, together=False)
    request = make_request(prompt="a fox", num_frames=13, height=160, width=160, num_inference_steps=1)
    journal = making.begin(pipe, request)
    assert making.pipeline_of(journal).placement == replace(pipe.placement, memory=0.0)


def test_a_plan_is_made_for_a_device_that_is_elsewhere(tiny_folder, run, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, said, _ = run("plan", "a fox", "--model", "DF-14B-540P", "--device", "cuda", "--memory", "24GB")
    assert code == 0 and "blocks of the transformer stream from host memory" in said
    assert "time: only where cuda is" in said
    code, _, error = run("generate", "a fox", "--model", tiny_folder, "--device", "cuda", "-o", "fox.mp4")
    assert code == 2 and "device = cuda: is not on this machine" in error


def test_compiled_blocks_and_other_kernels_are_the_pipelines_own(tiny_folder, monkeypatch):
    compiled = []
    monkeypatch.setattr("everreel.film.pipeline.compile_blocks", lambda model: compiled.append(model) or model)
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), compile=True, attention="cudnn", **CPU)
    assert compiled == [pipe.transformer] and pipe.transformer.attention.choice == "cudnn"


def test_a_tile_of_the_placement_is_what_is_decoded(tiny_pipe):
    large = make_request(prompt="a red fox", num_frames=5, height=160, width=160, num_inference_steps=1)
    tiny_pipe.placement = replace(tiny_pipe.placement, tile=16)
    try:
        tiled = frames(tiny_pipe, large)
    finally:
        tiny_pipe.placement = replace(tiny_pipe.placement, tile=None)
    whole = frames(tiny_pipe, large)
    assert tiled.shape == whole.shape and 0 < np.abs(tiled - whole).mean() < 3


def test_what_is_left_out_of_a_file_is_said(tiny_folder, tmp_path):
    file = tmp_path / "film.safetensors"
    convert(tiny_folder, file, to="safetensors", kind="df")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file) | {"model_type.mine": torch.zeros(1)}, file, metadata)
    pipe = VideoPipeline.from_pretrained(str(file), parts=tiny_folder, **CPU)
    assert pipe.notes == (f"{file}: left out, as none of the transformer's: model_type.mine",)


def test_a_gpu_that_is_too_small_for_all_of_a_model_is_said(tiny_folder, monkeypatch):
    """Of a placement that was made before nothing is said: the film was begun so."""
    monkeypatch.setattr(pipeline, "fitted", lambda placement, options: [f"fitted to {placement.device}"])
    pipe = VideoPipeline.from_pretrained(str(tiny_folder), **CPU)
    assert pipe.notes == ("fitted to cpu",)
    assert VideoPipeline.load(pipe.options, pipe.placement).notes == ()


def q6_k(rows, _):
    """Rows in blocks of 256: 6 bits a weight and 8 for the scale of each 16."""
    blocks = rows.reshape(-1, 16, 16)
    most = np.abs(blocks).max(axis=2)
    whole = (most.max(axis=1, keepdims=True) / 31 / 127).astype(np.float16)
    scales = np.rint(most / 31 / whole).astype(np.int8)
    steps = np.maximum(whole * scales.astype(np.float32), 1e-12)[..., None]
    q = np.clip(np.rint(blocks / steps) + 32, 0, 63).astype(np.uint8).reshape(-1, 256)
    low, high = (q & 15).reshape(-1, 2, 2, 64), (q >> 4).reshape(-1, 2, 4, 32)
    parts = (
        low[:, :, 0] | low[:, :, 1] << 4,
        high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6,
        scales.view(np.uint8),
        whole.view(np.uint8),
    )
    return np.concatenate([part.reshape(len(q), -1) for part in parts], axis=1).reshape(len(rows), -1)


def is_matrix(name, weight):
    return name.startswith("blocks.") and weight.ndim == 2


def as_fp16(folder, file, monkeypatch):
    convert(folder, file, to="safetensors", dtype=torch.float16)
    return lambda weight: weight.half()


def as_scaled_fp8(folder, file, monkeypatch):
    def scaled(weight):
        scale = weight.float().abs().max() / 448
        return (weight.float() / scale).to(torch.float8_e4m3fn), scale

    convert(folder, file, to="safetensors")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    state = load_file(file)
    for name in [name for name, weight in state.items() if is_matrix(name, weight)]:
        state[name], state[name.removesuffix("weight") + "scale_weight"] = scaled(state[name])
    save_file(state, file, metadata)
    return lambda weight: scaled(weight)[0].float() * scaled(weight)[1]


def as_q6_k(folder, file, monkeypatch):
    """The package writes no K type, so it is given one."""
    monkeypatch.setattr(gguf, "QUANTIZATIONS", ("q6_k",))
    monkeypatch.setattr("gguf.quants.quantize", q6_k)
    convert(folder, file, to="gguf", quantization="q6_k")
    kind = GGMLQuantizationType.Q6_K
    return lambda weight: torch.from_numpy(dequantize(q6_k(weight.float().numpy(), kind), kind))


def as_blocks(kind, folder, file, monkeypatch):
    convert(folder, file, to="gguf", quantization=kind.name.lower())
    return lambda weight: torch.from_numpy(dequantize(quantize_blocks(weight.float().numpy(), kind), kind))


as_q8_0, as_q4_0 = (partial(as_blocks, GGMLQuantizationType[name]) for name in ("Q8_0", "Q4_0"))


@pytest.mark.parametrize(
    ("write", "name", "most"),
    [
        (as_fp16, "x.safetensors", 1e-5),
        (as_scaled_fp8, "x.safetensors", 0.04),
        (as_q8_0, "x.gguf", 0.012),
        (as_q6_k, "x.gguf", 0.035),
        (as_q4_0, "x.gguf", 0.14),
    ],
)
def test_a_smaller_file_makes_the_latents_of_the_weights_that_it_stands_for(tmp_path, monkeypatch, write, name, most):
    """To the bit; and those of the model that it was written from to the quantisation's error."""
    folder = Path(find_model("tiny").path)
    rounded = write(folder, tmp_path / name, monkeypatch)
    pipe, exact = (
        VideoPipeline.from_pretrained(str(path), parts=parts, **CPU)
        for path, parts in ((tmp_path / name, folder), (folder, None))
    )
    whole = latents(exact)
    for key, weight in exact.transformer.named_parameters():
        if write is as_fp16 or is_matrix(key, weight):
            weight.data = rounded(weight.data).float()
    found = latents(pipe)
    assert torch.equal(found, latents(exact))
    assert (found - whole).norm() < most * whole.norm()


def latents(pipe):
    """Without guidance, which would multiply what two models differ by."""
    request = make_request(**REQUEST.model_dump() | {"guidance_scale": 1.0})
    return list(pipe.stream(request))[-1].state.rollout.solver.latents
