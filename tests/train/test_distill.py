"""Distillation: guidance folded in, trajectories as the teacher makes them, few steps, and the matching of scores."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from everreel.checkpoint.lora_files import LORA_FILE, preset_for, read_lora
from everreel.data.draws import generator_for
from everreel.data.text import FrozenText
from everreel.model.dit import DiT
from everreel.train.diffusion_forcing import DiffusionForcing
from everreel.train.distill import GuidanceRecipe, RegressionRecipe, Student, guided_velocity
from everreel.train.dmd import DistributionMatching, DMDRecipe
from everreel.train.generate import Wanted, Way, context_of, dit_of, latents_of
from everreel.train.lora import AdapterShape
from everreel.train.trainer import Trainer
from everreel.train.trajectories import Strides, TrajectoryRecipe, TrajectoryStore

STRIDES = Strides(steps=3, substeps=2, block=2, context=3)


@pytest.fixture(scope="module")
def teacher(recipe, tmp_path_factory):
    """A transformer whose head is not zero, so that prompts and levels matter."""
    path = tmp_path_factory.mktemp("teacher") / "transformer.safetensors"
    model = DiT(recipe.config)
    model.init_weights(generator_for(1))
    torch.nn.init.normal_(model.head.head.weight, std=0.2, generator=generator_for(2))
    save_file(model.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def trajectories(recipe, teacher, tmp_path_factory):
    return TrajectoryRecipe(
        teacher=teacher, config=recipe.config, text=recipe.text, prompts=recipe.films, count=4, frames=5,
        strides=STRIDES, guidance_scale=2.0, shard_films=2, dtype=torch.float32,
    ), tmp_path_factory.mktemp("trajectories")  # fmt: skip


@pytest.fixture(scope="module")
def store(trajectories):
    recipe, folder = trajectories
    return recipe.run(folder, quiet=True)


def losses(path):
    import json

    return [json.loads(line)["loss/" + path[1]] for line in (path[0] / "metrics.jsonl").read_text().splitlines()]


def test_guidance_is_what_the_loop_mixes(recipe, teacher):
    model, text = DiT(recipe.config).eval(), FrozenText.load(recipe.text)
    model.load_state_dict(load_file(teacher))
    seen = []
    way = Way(2, guidance_scale=3.0)
    wanted = Wanted("a red fox runs", (3, 4, 4))
    for _ in latents_of(model, text, wanted, way, seen.append):
        pass
    glimpse = seen[1]
    timestep_BT = torch.floor(1000 * glimpse.sigma_T)[None]
    with torch.no_grad():
        _, guided = guided_velocity(
            model, text, text.ids(["a red fox runs"]), glimpse.before_CTHW[None], timestep_BT, torch.tensor([1]), 3.0
        )
    torch.testing.assert_close(guided[0], glimpse.velocity_CTHW, rtol=1e-4, atol=1e-4)


def test_guidance_is_learnt(recipe, teacher, tmp_path):
    data = replace(recipe, init=teacher, causal=1.0, sample_prompts=("a red fox runs",))
    stage = GuidanceRecipe(replace(recipe.settings, steps=60, log_every=10), data, guidance_scale=4.0)
    objective = stage.objective()
    before = [value.clone() for value in objective.teacher.state_dict().values()]
    Trainer(objective, stage.settings, tmp_path, quiet=True).run()
    values = losses((tmp_path, "transformer"))
    assert values[-1] < 0.5 * values[0]
    for was, value in zip(before, objective.teacher.state_dict().values(), strict=True):
        assert torch.equal(was, value), "the teacher has moved"
    assert list((tmp_path / "samples").glob("*.png"))


def test_a_student_needs_a_teacher(recipe):
    with pytest.raises(ValueError, match="init=None"):
        GuidanceRecipe(recipe.settings, recipe).objective()


def test_trajectories_lead_from_noise_to_the_film(store, trajectories, recipe, teacher):
    made, _ = trajectories
    assert len(store) == 4 and store.blocks == (2, 2, 1)
    model, text = DiT(recipe.config).eval(), FrozenText.load(recipe.text)
    model.load_state_dict(load_file(teacher))
    record = store.records[3]
    height, width = next(size for size, members in store.sizes.items() if 3 in members)
    wanted = Wanted(record["prompt"], (5, height, width), record["fps_index"], record["seed"])
    blocks = list(latents_of(model, text, wanted, made.strides.teach(2.0)))
    film_CTHW = torch.cat([block.latents_CTHW for block in blocks], dim=1)
    torch.testing.assert_close(store.state(3, -1, 0, 5), film_CTHW, rtol=1e-3, atol=1e-3)
    noise_CTHW = store.state(3, 0, 0, 5)
    assert abs(float(noise_CTHW.std()) - 1) < 0.1
    distances = [float((store.state(3, k, 0, 5) - film_CTHW).square().mean()) for k in range(4)]
    assert all(far > near for far, near in pairwise(distances)) and distances[-1] < 1e-5


def test_trajectories_go_on_where_they_stopped(store, trajectories):
    recipe, folder = trajectories
    first = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "shard-00001.jsonl").unlink()
    assert len(TrajectoryStore(folder)) == 2
    assert len(recipe.run(folder, quiet=True)) == 4
    assert {path: path.read_bytes() for path in folder.iterdir()} == first


def test_several_processes_make_the_same_trajectories(store, trajectories, tmp_path):
    recipe, folder = trajectories
    replace(recipe, processes=2, threads=1).run(tmp_path, quiet=True)
    for path in folder.iterdir():
        if path.suffix == ".npy":
            ours, theirs = np.load(path).astype(np.float32), np.load(tmp_path / path.name).astype(np.float32)
            np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)  # threads add in another order
        else:
            assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_what_is_not_begun_in_time_is_left(trajectories, tmp_path):
    recipe, _ = trajectories
    with pytest.raises(ValueError, match="no complete shard here; run their recipe longer"):
        replace(recipe, max_seconds=1e-9).run(tmp_path, quiet=True)


def test_a_folder_holds_trajectories_of_one_kind(trajectories, store):
    recipe, folder = trajectories
    with pytest.raises(ValueError, match=r"holds trajectories of .*; use another"):
        replace(recipe, guidance_scale=1.0).run(folder, quiet=True)


def test_a_teacher_may_have_guidance_at_some_levels_alone(trajectories, store, tmp_path):
    recipe, _ = trajectories
    softer = replace(recipe, count=2, guidance_until=0.7).run(tmp_path, quiet=True)
    alike = [torch.equal(softer.state(0, state, 0, 2), store.state(0, state, 0, 2)) for state in range(4)]
    assert alike == [True, True, True, False], "at a shift of 3 the last state before the end is at level 0.6"


def test_missing_trajectories_are_named(tmp_path):
    with pytest.raises(ValueError, match="run their recipe first"):
        TrajectoryStore(tmp_path)


@pytest.fixture
def regression(recipe, teacher, store):
    return RegressionRecipe(
        settings=replace(recipe.settings, steps=80, log_every=10),
        config=recipe.config,
        student=Student(teacher),
        text=recipe.text,
        vae=recipe.vae,
        trajectories=str(store.path),
        tokens=80,
        sample_prompts=("a fox",),
        sample_frames=5,
    )


def test_strides_lead_from_level_to_level(regression, store):
    objective = regression.objective()
    for step in range(8):
        batch = objective.batch(step, generator_for(0, step))
        new = batch.blocks[-1]
        assert (batch.timestep_BT[:, :-new] == 0).all() and (batch.timestep_BT[:, -new:] > 0).all()
        sigmas = objective._sigmas
        width_B = (sigmas[batch.level_B] - sigmas[batch.level_B + 1])[:, None, None, None, None]
        arrived = batch.x_BCTHW[:, :, -new:] - width_B * batch.target_BCTHW
        first = sum(batch.blocks[:-1])
        for row, level in enumerate(batch.level_B.tolist()):
            found = [store.state(index, level + 1, first, first + new) for index in range(len(store))]
            assert any(
                torch.allclose(arrived[row], state, atol=1e-3) for state in found if state.shape == arrived[row].shape
            )


def test_few_steps_are_learnt(regression, tmp_path):
    regression.run(tmp_path, quiet=True)
    values = losses((tmp_path, "transformer"))
    assert values[-1] < 0.6 * values[0]
    assert list((tmp_path / "samples").glob("*.png"))


@pytest.fixture
def dmd(recipe, teacher):
    return DMDRecipe(
        settings=replace(recipe.settings, steps=6, log_every=1), config=recipe.config, teacher=teacher,
        student=Student(teacher), text=recipe.text, vae=recipe.vae, films=recipe.films, frames=4, films_per_step=2,
        strides=STRIDES, every=2,
    )  # fmt: skip


@pytest.mark.parametrize("from_data", [0.0, 1.0])
def test_scores_are_matched_at_two_time_scales(dmd, from_data):
    objective = DistributionMatching(replace(dmd, from_data=from_data))
    for step in range(4):
        batch = objective.batch(step, generator_for(0, step))
        found = objective.losses(batch, generator_for(1, step))
        assert set(found) == ({"transformer", "fake"} if step % 2 == 0 else {"fake"})
        assert (batch.x0_BCTHW is None) == (from_data == 0)
        assert all(torch.isfinite(loss) for loss in found.values())


def test_the_student_starts_where_its_own_film_stands(dmd):
    """What it is shown with gradients is what it met with its cache: the velocities agree."""
    objective = DistributionMatching(replace(dmd, from_data=0.0))
    generator = generator_for(3)
    batch = next(b for b in (objective.batch(0, generator) for _ in range(50)) if b.place == 1 and b.level == 1)
    x_BCTHW = objective._own(batch)
    seen = []
    wanted = Wanted(batch.prompts[0], batch.size, int(batch.fps_B[0]), batch.seeds[0])
    for _ in latents_of(objective.student, objective.text, wanted, STRIDES.serve(), seen.append):
        pass
    glimpse = seen[STRIDES.steps + 1]
    timestep_BT = torch.zeros(2, 4)
    timestep_BT[:, 2:] = objective._timesteps[1]
    with torch.no_grad():
        context = context_of(objective.student, objective.text, batch.ids_BL)
        velocity = objective.student(x_BCTHW, timestep_BT, context, fps_B=batch.fps_B, blocks=(2, 2))
    torch.testing.assert_close(velocity[0, :, 2:], glimpse.velocity_CTHW[:, 2:], rtol=1e-4, atol=1e-4)


def test_equal_scores_leave_the_student_alone(dmd):
    """Where the fake score is the teacher's and nothing is guided, the gradient is nothing."""
    objective = DistributionMatching(replace(dmd, from_data=1.0, guidance_scale=1.0))
    batch = objective.batch(0, generator_for(0))
    assert float(objective.losses(batch, generator_for(1))["transformer"].detach()) < 1e-8
    torch.nn.init.normal_(objective.fake.head.head.weight, std=0.5, generator=generator_for(4))
    assert float(objective.losses(batch, generator_for(1))["transformer"].detach()) > 1e-6


def test_a_run_moves_student_and_fake_and_resumes_exactly(dmd, tmp_path):
    settings = replace(dmd.settings, decay="constant")
    whole, again = dmd.objective(), dmd.objective()
    Trainer(whole, settings, tmp_path / "whole", quiet=True).run()
    Trainer(dmd.objective(), replace(settings, steps=3), tmp_path / "cut", quiet=True).run()
    Trainer(again, settings, tmp_path / "cut", quiet=True).run()
    for role, module in whole.modules().items():
        start = load_file(dmd.teacher)
        moved = module.state_dict()
        assert any(not torch.equal(moved[name], start[name]) for name in start), role
        assert all(torch.equal(moved[n], v) for n, v in again.modules()[role].state_dict().items()), role


@pytest.mark.parametrize(
    ("field", "value", "nearest"), [("every", 0, "1"), ("from_data", 1.5, "1"), ("from_data", -1, "0")]
)
def test_bad_values_are_refused(dmd, field, value, nearest):
    with pytest.raises(ValueError, match=rf"{field}={value}.*nearest that works: {nearest}"):
        replace(dmd, **{field: value})


def test_the_data_of_diffusion_forcing_is_a_teachers(recipe, teacher):
    """Teacher and student see the same batches."""
    data = replace(recipe, init=teacher)
    batch = GuidanceRecipe(recipe.settings, data).objective().batch(3, generator_for(3))
    other = DiffusionForcing(replace(data, empty=0.0)).batch(3, generator_for(3))
    assert torch.equal(batch.x0_BCTHW, other.x0_BCTHW) and torch.equal(batch.ids_BL, other.ids_BL)


@pytest.mark.parametrize("stage", ["guidance", "strides", "scores"])
def test_samples_are_made_where_the_adapter_is_before_there_was_a_batch(stage, recipe, teacher, regression, dmd):
    """A finished run that is started again begins with its samples, and the trainer has moved the adapter alone."""
    student = Student(teacher, adapter=AdapterShape(rank=4, alpha=4.0))
    objective = {
        "guidance": lambda: GuidanceRecipe(recipe.settings, replace(recipe, init=teacher), adapter=student.adapter),
        "strides": lambda: replace(regression, student=student),
        "scores": lambda: replace(dmd, student=student),
    }[stage]().objective()
    objective.modules()["lora"].to("meta")
    seen = []
    objective._samples = SimpleNamespace(write=lambda folder, step, model: seen.append(model))
    objective.sample(None, 3)
    (model,) = seen
    assert model is objective.student and {p.device.type for p in model.parameters()} == {"meta"}


def test_a_student_that_is_an_adapter_becomes_a_lora(recipe, teacher, trajectories, regression, tmp_path):
    """Guidance, strides and scores, each from where the last one ended; what comes out says how it is used."""
    shape = AdapterShape(rank=4, alpha=4.0)
    settings = replace(recipe.settings, steps=30, log_every=5)
    guidance = GuidanceRecipe(settings, replace(recipe, init=teacher), guidance_scale=4.0, adapter=shape)
    guidance.run(tmp_path / "guidance", quiet=True)
    assert losses((tmp_path / "guidance", "lora"))[-1] < losses((tmp_path / "guidance", "lora"))[0]
    lora = str(tmp_path / "guidance/lora.safetensors")
    made = replace(trajectories[0], lora=lora, guidance_scale=1.0).run(tmp_path / "films", quiet=True)
    assert len(made) == 4
    again = replace(
        regression, settings=settings, trajectories=str(made.path), student=Student(teacher, lora, shape)
    )  # fmt: skip
    begins = again.objective().student
    merged = dit_of(recipe.config, teacher, lora)
    x_BCTHW, timestep_BT = torch.randn(1, 16, 2, 4, 4, generator=generator_for(0)), torch.full((1, 2), 500.0)
    text = FrozenText.load(recipe.text)
    with torch.no_grad():
        one, other = (
            model.eval()(x_BCTHW, timestep_BT, context_of(model, text, text.ids(["a fox"])), fps_B=torch.tensor([1]))
            for model in (begins, merged)
        )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    again.run(tmp_path / "strides", quiet=True)
    found = preset_for(tmp_path / "strides" / LORA_FILE)
    assert (found.num_inference_steps, found.guidance_scale, found.solver, found.streams) == (3, 1.0, "euler", True)
    student = Student(teacher, str(tmp_path / "strides/lora.safetensors"), shape)
    dmd = DMDRecipe(
        settings=replace(settings, steps=2), config=recipe.config, teacher=teacher, student=student, text=recipe.text,
        vae=recipe.vae, films=recipe.films, frames=4, films_per_step=2, strides=STRIDES, every=1,
    )  # fmt: skip
    dmd.run(tmp_path / "dmd", quiet=True)
    before, after = (read_lora(tmp_path / name / LORA_FILE, recipe.config) for name in ("strides", "dmd"))
    assert before.pairs.keys() == after.pairs.keys()
    assert any(not torch.equal(before.pairs[name].up, after.pairs[name].up) for name in before.pairs)
