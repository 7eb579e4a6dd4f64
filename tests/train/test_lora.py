"""LoRA training: the adapter alone is trained and kept, and what is written means the same to everybody."""

import json
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from everreel.checkpoint.load import load_transformer, load_vae
from everreel.checkpoint.lora import merge
from everreel.checkpoint.lora_files import LORA_FILE, read_lora
from everreel.data.clips import ClipLabel, ClipStore, shard_writer
from everreel.data.draws import generator_for
from everreel.data.latents import EncodeSettings, encode_store
from everreel.train import lora as code
from everreel.train.lora import LoraRecipe
from everreel.train.trainer import CHECKPOINT, Trainer, TrainerSettings
from everreel.world.scene import sample_scene


@pytest.fixture(scope="module")
def recipe(tiny_folder, tmp_path_factory):
    where = tmp_path_factory.mktemp("data")
    generator, pixels = generator_for(0), np.random.default_rng(0)
    vae = load_vae(tiny_folder)
    for name, frames in (("films", 9), ("images", 1)):
        labels = [ClipLabel(sample_scene(generator), fps, 0.0) for fps in (16, 24, 24)]
        (where / name).mkdir()
        with shard_writer(where / name, 0, (3, frames, 32, 32), labels) as clips:
            clips[:] = pixels.integers(0, 256, clips.shape)
        settings = EncodeSettings(stills=2, sentences=2, batch=9, dtype=torch.float32)
        encode_store(where / "latents" / name, ClipStore(where / name), vae, settings)
    return LoraRecipe(
        settings=TrainerSettings(
            steps=12, learning_rate=1e-2, warmup=2, ema_decay=0.5, checkpoint_every=5, sample_every=100
        ),
        model=str(tiny_folder), films=str(where / "latents/films"), images=str(where / "latents/images"),
        windows=((1, 0.5), (3, 0.5)), tokens=60, rank=3, alpha=5.0, dtype="float32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    recipe.run(folder, quiet=True)
    return folder


def velocity(transformer):
    generator = torch.Generator().manual_seed(4)
    text = torch.randn(1, 9, transformer.config.text_dim, generator=generator)
    noise = torch.randn(1, 16, 3, 4, 6, generator=generator)
    timestep = torch.tensor([[0.0, 250.0, 999.0]])
    with torch.no_grad():
        return transformer(noise, timestep, transformer.encode_context(text, [9]), fps_B=torch.tensor([1]))


def their_velocity(transformer):
    generator = torch.Generator().manual_seed(4)
    text = torch.randn(1, 9, transformer.config.text_dim, generator=generator)
    noise = torch.randn(1, 16, 3, 4, 6, generator=generator)
    padded = torch.nn.functional.pad(text, (0, 0, 0, 503))
    options = {"fps": [1], "enable_diffusion_forcing": True, "return_dict": False}
    with torch.no_grad():
        return transformer(noise, torch.tensor([[0.0, 250.0, 999.0]]), padded, **options)[0]


def error(got, want):
    return float((got - want).abs().max() / want.abs().max())


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in inner for tensor in tensors_in(part)]


def test_the_adapter_alone_is_trained_and_kept(recipe, tmp_path):
    objective = recipe.objective()
    frozen = {name: p.detach().clone() for name, p in objective.transformer.named_parameters() if not p.requires_grad}
    adapter = sum(p.numel() for p in objective.lora.parameters())
    # Rank 3 of both attentions' four layers (48 to 48) and of the feed-forward net, in two blocks.
    assert adapter == 2 * (8 * 3 * (48 + 48) + 2 * 3 * (48 + 96))
    assert len(frozen) == len(load_transformer(recipe.model).state_dict())
    trainer = Trainer(objective, recipe.settings, tmp_path, quiet=True)
    trainer.run()
    for name, parameter in objective.transformer.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name])
    (optimizer,) = trainer.optimizers.values()
    held = sum(tensor.numel() for tensor in tensors_in(optimizer.state()) if tensor.ndim)
    assert held == 2 * adapter  # Adam's two moments
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    kept = sum(tensor.numel() for tensor in tensors_in(state) if tensor.ndim)
    assert kept == 4 * adapter  # the weights, their averages, the moments
    names = {name.rpartition(".")[0] for name in load_file(tmp_path / "lora.safetensors")}
    assert {name.removesuffix(".lora_A").removesuffix(".lora_B") for name in names} == set(objective.lora.names)


def test_the_frozen_weights_are_of_the_type_asked_for(recipe):
    objective = replace(recipe, dtype="bfloat16").objective()
    types = {parameter.requires_grad: parameter.dtype for parameter in objective.transformer.parameters()}
    assert types == {False: torch.bfloat16, True: torch.float32}
    loss = objective.losses(objective.batch(0, generator_for(0)), generator_for(1))["lora"]
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.lora.parameters())


def test_training_lowers_the_loss(recipe, run):
    objective = recipe.objective()
    batch = objective.batch(3, generator_for(0))

    def loss():
        with torch.no_grad():
            return float(objective.losses(batch, generator_for(1))["lora"])

    before = loss()
    state = torch.load(run / CHECKPOINT, weights_only=True)["modules"]["lora"]
    objective.lora.load_state_dict(state)
    after = loss()
    assert after < 0.95 * before
    with objective.lora.off():
        assert loss() == before
    assert loss() == after


def test_it_begins_with_no_effect_and_from_its_seed(recipe):
    plain = velocity(load_transformer(recipe.model))
    first, again, other = (
        replace(recipe, settings=replace(recipe.settings, seed=seed)).objective() for seed in (0, 0, 1)
    )
    assert torch.equal(velocity(first.transformer), plain)
    name = "blocks.1.ffn.2.lora_A.weight"
    assert torch.equal(first.lora.state_dict()[name], again.lora.state_dict()[name])
    assert not torch.equal(first.lora.state_dict()[name], other.lora.state_dict()[name])


def test_both_files_of_a_run_are_the_adapter(recipe, run):
    """Merged into the model by the loader, they do what the trained layers do."""
    objective = recipe.objective()
    objective.lora.load_state_dict(torch.load(run / CHECKPOINT, weights_only=True)["averages"]["lora"])
    trained, plain = velocity(objective.transformer), velocity(load_transformer(recipe.model))
    assert error(trained, plain) > 0.05
    for file in (run, run / LORA_FILE, run / "lora.safetensors"):
        transformer = load_transformer(recipe.model)
        lora = read_lora(file, transformer.config)
        assert lora.notes == () and {pair.alpha for pair in lora.pairs.values()} == {5.0}
        merged = merge(transformer, [(lora, 1.0)])
        assert error(velocity(transformer), trained) < 1e-5
        merged.unmerge()
        merge(transformer, [(lora, 0.0)])
        assert torch.equal(velocity(transformer), plain)


@pytest.mark.parametrize("how", ["of its transformer", "of its pipeline"])
def test_diffusers_loads_it_unchanged_and_computes_the_same(how, recipe, run):
    theirs = diffusers.SkyReelsV2Transformer3DModel.from_pretrained(recipe.model, subfolder="transformer").eval()
    ours = load_transformer(recipe.model)
    plain = their_velocity(theirs)
    if how == "of its transformer":
        theirs.load_lora_adapter(run, use_safetensors=True)
    else:
        diffusers.SkyReelsV2DiffusionForcingPipeline(None, None, theirs, None, None).load_lora_weights(run)
    (settings,) = theirs.peft_config.values()
    assert (settings.r, settings.lora_alpha) == (3, 5)
    merge(ours, [(read_lora(run, ours.config), 1.0)])
    got, expected = velocity(ours), their_velocity(theirs)
    assert error(got, expected) < 1e-4
    assert error(expected, plain) > 0.05
    with safe_open(run / LORA_FILE, "pt") as file:
        fields = json.loads(file.metadata()["lora_adapter_metadata"])
    assert fields["transformer.r"] == 3 and fields["transformer.lora_alpha"] == 5
    assert len(fields["transformer.target_modules"]) == 20


def test_resumed_it_ends_with_the_same_bits(recipe, tmp_path):
    recipe = replace(recipe, dropout=0.3, settings=replace(recipe.settings, steps=5))
    recipe.run(tmp_path / "whole", quiet=True)
    cut_off = replace(recipe, settings=replace(recipe.settings, max_seconds=0.0))
    assert cut_off.run(tmp_path / "parts", quiet=True).step == 1
    assert (tmp_path / "parts" / LORA_FILE).is_file()
    assert cut_off.run(tmp_path / "parts", quiet=True).step == 2
    assert recipe.run(tmp_path / "parts", quiet=True).reason == "done"
    for file in (LORA_FILE, "lora.safetensors"):
        parts, whole = (load_file(tmp_path / name / file) for name in ("parts", "whole"))
        assert parts.keys() == whole.keys()
        assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    replace(recipe, dropout=0.0).run(tmp_path / "without", quiet=True)
    without = load_file(tmp_path / "without" / "lora.safetensors")
    assert any(not torch.equal(without[name], tensor) for name, tensor in whole.items())


def test_samples_and_what_is_held_out(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(code, "HELD_OUT_BATCHES", 2)
    recipe = replace(recipe, held_out=recipe.films, sample_prompts=("a red fox runs",), sample_frames=2)
    objective = recipe.objective()
    with torch.no_grad():
        objective.sample(tmp_path, 7)
        assert (tmp_path / "step-000007.png").stat().st_size > 1000
        assert objective.metrics["held_out"] == objective.metrics["held_out_without"] > 0
        for name in objective.lora.names:
            objective.lora.get_parameter(f"{name}.lora_B.weight").fill_(0.1)
        before = objective.metrics["held_out"]
        objective.sample(tmp_path, 8)
    assert objective.metrics["held_out"] != objective.metrics["held_out_without"] == before


def test_a_weight_counts_in_training_and_not_in_what_is_held_out(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(code, "HELD_OUT_BATCHES", 2)
    losses, held_out = set(), set()
    for weight in (0.0, 9.0):
        objective = replace(recipe, held_out=recipe.films, subject_weight=weight).objective()
        batch = objective.batch(3, generator_for(0, "batch", 3))
        with torch.no_grad():
            losses.add(float(objective.losses(batch, generator_for(1))["lora"]))
            objective.sample(tmp_path, 1)
        held_out.add(objective.metrics["held_out"])
    assert len(losses) == 2 and len(held_out) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, r"rank=0: must be 1 or more; the nearest that works is 1"),
        ({"alpha": 0.0}, r"alpha=0\.0: must be above 0; the rank, 3, works"),
        ({"dropout": 1.0}, r"dropout=1\.0: must lie in 0\.\.1"),
        ({"dtype": "float16"}, r"dtype='float16': must be bfloat16 or float32"),
        ({"targets": ()}, r"targets=\(\): name at least one layer"),
        (
            {"targets": ("q", "to_qq")},
            r"targets: 'to_qq' ends the name of no linear layer of this model; nearest 'to_q'",
        ),
        ({"targets": ("patch_embedding",)}, r"targets: 'patch_embedding' ends the name of no linear layer"),
        ({"held_out": "films", "windows": ((1, 1.0),)}, r"held_out='films': is measured on films; name a window of 2"),
        ({"images": ""}, r"images='': windows of 1 latent frame"),
        ({"model": "tinny"}, r"model = 'tinny': must be one of .*nearest 'tiny'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(recipe, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        replace(recipe, **change).objective()
    assert "\n" not in str(caught.value)


def test_a_model_that_begins_with_a_picture_is_not_trained(recipe, i2v_folder):
    with pytest.raises(ValueError, match=r"is shown a picture beside the noise.*the LoRA fits both"):
        replace(recipe, model=str(i2v_folder)).objective()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 4}, r"lora_A\.weight is \(3, 48\) in it and \(4, 48\) in the network; train in another run folder$"),
        ({"alpha": 2.5}, r"^alpha=2\.5: the checkpoint was trained with 5; use that"),
        ({"targets": ("q", "k")}, r"lora\.blocks\.0\.\S+ is \(.*\) in it and absent in the network"),
        ({"targets": (*code.LAYERS, "head.head")}, r"lora\.head\.head\.\S+ is absent in it and \("),
    ],
)
def test_a_checkpoint_of_another_adapter_is_refused(recipe, run, change, message):
    before = (run / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match=message):
        replace(recipe, **change).run(run, quiet=True)
    assert (run / CHECKPOINT).read_bytes() == before


def test_tensors_of_another_adapter_are_refused(recipe, run):
    state = torch.load(run / CHECKPOINT, weights_only=True)["modules"]["lora"]
    with pytest.raises(ValueError, match=r"^rank=4: the checkpoint was trained with 3; use that"):
        replace(recipe, rank=4).objective().lora.load_state_dict(state)
    with pytest.raises(ValueError, match=r"^targets: the checkpoint has 'blocks\.0\.cross_attn\.o\.alpha'; use that"):
        replace(recipe, targets=("q", "k")).objective().lora.load_state_dict(state)


def test_a_checkpoint_of_another_model_is_refused(recipe, run):
    state = torch.load(run / CHECKPOINT, weights_only=True)["modules"]["lora"]
    name = "blocks.0.self_attn.q.lora_A.weight"
    wide = state | {name: torch.zeros(3, 96)}
    with pytest.raises(ValueError, match=r"^model: the checkpoint is of another one, where .*\(3, 96\), not \(3, 48\)"):
        recipe.objective().lora.load_state_dict(wide)


@pytest.mark.parametrize("targets", [("self_attn.q",), ("attn1.to_q",)])
def test_targets_are_official_names_or_those_of_diffusers(recipe, targets):
    objective = replace(recipe, targets=targets).objective()
    assert objective.lora.names == ("blocks.0.self_attn.q", "blocks.1.self_attn.q")


def test_layers_beyond_the_blocks_can_be_trained(recipe):
    objective = replace(
        recipe, targets=("time_embedding.0", "text_embedding.2", "head.head", "fps_projection.2")
    ).objective()
    objective.losses(objective.batch(0, generator_for(0)), generator_for(1))["lora"].backward()
    assert all(p.grad is not None for p in objective.lora.parameters())
    assert len(objective.lora.names) == 4
