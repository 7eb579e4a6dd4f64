"""Fine-tuning of random Qwen2.5-VL captioners on two clips: by LoRA and whole, resumed, and read back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from everreel.caption.frames import FrameRule
from everreel.caption.qwen import QwenCaptioner, load_qwen
from everreel.caption.schema import StructuralCaption
from everreel.data.draws import generator_for
from everreel.media import FilmWriter, write_image
from everreel.train.captioner import CaptionerRecipe, read_captions
from everreel.train.trainer import TrainerSettings
from tests.caption.qwen import save_captioner

SETTINGS = TrainerSettings(
    steps=12, learning_rate=1e-2, warmup=2, decay="constant", ema_decay=0.5, checkpoint_every=100, sample_every=100,
    log_every=1, device="cpu",
)  # fmt: skip


def caption(animal, **more):
    subject = {"TYPES": {"type": "Animal", "sub_type": animal}, "action": "runs", "is_main_subject": True}
    values = {"shot_type": "long_shot", "shot_angle": "eye_level", "shot_position": "side_view", **more}
    return StructuralCaption.model_validate({"subjects": [subject], **values})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two films and a table of them, and a model."""
    folder = tmp_path_factory.mktemp("data")
    save_captioner(folder / "model")
    for name, level in (("dark", 30), ("light", 220)):
        with FilmWriter(folder / f"{name}.mp4", 60, 90, 24) as writer:
            writer.append(np.full((9, 60, 90, 3), level, np.uint8))
    rows = [
        {"path": "dark.mp4", "structural_caption": caption("Fox").to_json()},
        {"path": "light.mp4", "structural_caption": caption("Swan", shot_type="close_up").model_dump()},
    ]
    (folder / "films.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture(scope="module")
def recipe(data):
    return CaptionerRecipe(
        SETTINGS, model=str(data / "model"), films=str(data / "films.jsonl"), dtype="float32", rank=8, alpha=16.0,
        films_per_batch=2, num_frames=2, pixels=4 * 28 * 28, checked=0,
    )  # fmt: skip


def losses(run_dir):
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [value for row in rows for name, value in row.items() if name.startswith("loss/")]


def weights(folder):
    return load_qwen(folder).model.state_dict()


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe.run(folder, quiet=True)
    return folder


def test_a_lora_learns_and_is_left_as_a_whole_captioner(recipe, run, data):
    found = losses(run)
    assert len(found) == 12 and found[-1] < 0.8 * found[0]
    before, after = weights(data / "model"), weights(run / "captioner")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 2 * 7 and all("language_model.layers" in name for name in changed)
    assert all(torch.allclose(before[name], after[name], atol=0.5) for name in changed)
    rule = FrameRule(num_frames=2, pixels=4 * 28 * 28)
    captioner = QwenCaptioner(run / "captioner", dtype="float32", rule=rule, max_tokens=300)
    assert captioner.caption(np.zeros((3, 60, 90, 3), np.uint8), 24.0).shot_type


def test_what_is_left_computes_as_what_was_trained(recipe, run):
    """The weights with the adapter in them, against the adapter beside them."""
    objective = recipe.objective()
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    objective.adapter.load_state_dict(state["averages"]["lora"])
    merged = replace(recipe, model=str(run / "captioner")).objective()
    batch = objective.batch(0, generator_for(1))
    with torch.no_grad():
        beside = float(objective.losses(batch, generator_for(2))["lora"])
        inside = float(merged.losses(batch, generator_for(2))["lora"])
    assert inside == pytest.approx(beside, rel=1e-4)


def test_all_weights_learn_but_those_that_see(recipe, data, tmp_path):
    whole = replace(recipe, rank=None, settings=replace(SETTINGS, steps=6, learning_rate=5e-3))
    whole.run(tmp_path, quiet=True)
    found = losses(tmp_path)
    assert found[-1] < 0.9 * found[0]
    before, after = weights(data / "model"), weights(tmp_path / "captioner")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("model.visual."))
    assert not any(
        torch.equal(before[name], after[name])
        for name in before
        if name.endswith("_proj.weight") and "language" in name
    )
    seeing = replace(whole, vision=True).objective()
    assert all(parameter.requires_grad for parameter in seeing.model.parameters())


def test_resumed_it_ends_with_the_same_bits(recipe, tmp_path):
    short = replace(recipe, dropout=0.2, settings=replace(SETTINGS, steps=3, checkpointing="blocks"))
    short.run(tmp_path / "whole", quiet=True)
    cut_off = replace(short, settings=replace(short.settings, max_seconds=0.0))
    assert cut_off.run(tmp_path / "parts", quiet=True).step == 1
    assert (tmp_path / "parts/captioner").is_dir()
    assert short.run(tmp_path / "parts", quiet=True).reason == "done"
    parts, whole = (weights(tmp_path / name / "captioner") for name in ("parts", "whole"))
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    assert not (tmp_path / "parts/captioner.part").exists()


def test_the_loss_is_that_of_the_answer_alone(recipe):
    """As transformers computes it of the whole conversation, the question's places left out."""
    objective = recipe.objective()
    batch = objective.batch(0, generator_for(5))
    labels = torch.full_like(batch.labels_BL, -100)
    labels[:, 1:] = batch.labels_BL[:, :-1]  # theirs stand at the token itself
    said = [row[row != -100] for row in labels]
    end = objective.tokenizer.get_added_vocab()["<|im_end|>"]
    for name, tokens in zip(batch.names, said, strict=True):
        text = objective.tokenizer.decode(tokens[:-1])
        (film,) = [film for film in objective.films if film.name == name]
        assert StructuralCaption.model_validate_json(text) == film.caption and int(tokens[-1]) == end
    with torch.no_grad():
        expected = float(objective.model(**batch.inputs, labels=labels).loss)
        found = float(objective.losses(batch, generator_for(0))["lora"])
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_batch_is_drawn_by_its_generator(recipe):
    objective = recipe.objective()
    names = [objective.batch(0, generator_for(seed)).names for seed in (1, 1, 2, 3, 4)]
    assert names[0] == names[1] and len(set(names)) > 1


def test_samples_are_captions_beside_what_they_should_be(recipe, data, tmp_path):
    objective = replace(recipe, held_out=recipe.films, checked=1).objective()
    with torch.no_grad():
        objective.sample(tmp_path, 7)
    (line,) = (tmp_path / "captions-000007.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["path"] == "dark.mp4" and row["expected"] == caption("Fox").model_dump(mode="json")
    StructuralCaption.model_validate(row["written"])
    assert objective.metrics["held_out"] > 0 and 0 <= objective.metrics["right/shot_type"] <= 1


def test_what_cannot_be_used_is_left_out_and_named(recipe, data, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(b"no film")
    write_image(folder / "still.png", np.full((31, 45, 3), 90, np.uint8))
    good = caption("Fox").to_json()
    rows = [
        ("broken.mp4", good), ("still.png", good), ("gone.mp4", good), ("still.png", "a fox"), ("still.png", ""),
        (str(data / "dark.mp4"), good.replace("long_shot", "huge_shot")), ("", good),
    ]  # fmt: skip
    table = folder / "films.jsonl"
    lines = [json.dumps({"path": path, "structural_caption": said}) for path, said in rows]
    table.write_text("\n".join([*lines, "{"]))
    films, skipped = read_captions(table)
    assert [film.name for film in films] == ["broken.mp4", "still.png"]
    reasons = [str(each) for each in skipped]
    assert reasons[0] == "gone.mp4: does not exist"
    assert reasons[1].startswith("still.png: caption = 'a fox': is no JSON")
    assert reasons[2] == "still.png: has no structural_caption"
    assert "shot_type = 'huge_shot': must be one of" in reasons[3]
    assert reasons[4] == "films.jsonl line 7: path is empty" and reasons[5].startswith("films.jsonl line 8: is no JSON")
    short = replace(recipe, films=str(table), settings=replace(SETTINGS, steps=2))
    assert short.run(tmp_path / "run", quiet=True).skipped == 0
    named = {each["name"]: each["reason"] for each in json.loads((tmp_path / "run/skipped.json").read_text())}
    assert "cannot be read as a video" in named["broken.mp4"] and "gone.mp4" in named
    (folder / "still.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"films\.jsonl': no film of it can be read; (broken|still)"):
        short.objective().batch(0, generator_for(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"films": "nowhere.csv"}, r"^films='nowhere\.csv': no such file; a table with paths and structural_caption"),
        ({"rank": 0}, r"^rank=0: must be 1 or more"),
        ({"targets": ("q_prj",)}, r"^targets: 'q_prj' ends the name of no linear layer; there are .*q_proj"),
        ({"films_per_batch": 0}, r"^films_per_batch=0: must be 1 or more"),
        ({"checked": -1}, r"^checked=-1: must be 0 or more"),
        ({"dtype": "float16"}, r"^dtype='float16': must be bfloat16 or float32"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(recipe, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        replace(recipe, **change).objective()
    assert "\n" not in str(caught.value)


def test_a_table_of_something_else_is_named(recipe, tmp_path):
    table = tmp_path / "x.csv"
    for text, message in (
        ("path,text\na.mp4,fox\n", r"has the columns path, text; must have structural_caption$"),
        ("name,structural_caption\na.mp4,{}\n", r"must have one of file_name, path, "),
        ("path,structural_caption\na.mp4,{}\n", r"has no film with a caption; a\.mp4: does not exist$"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_captions(table)
