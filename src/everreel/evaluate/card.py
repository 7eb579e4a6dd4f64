"""The model card: what a model is, what it learnt from, what it shows and what it does not, in Markdown.

The one invariant: every figure is counted from the model's files or comes from a report. One that is not there is
missed in so many words, and a goal that is not reached is called missed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from everreel.checkpoint import configs
from everreel.checkpoint.catalog import CATALOG, ModelCard
from everreel.evaluate.facts import FILE, read_facts
from everreel.evaluate.follow import SHEET_FILMS, SHEET_FRAMES, Evaluation, FieldScore, Report
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.media import check_file, write_image
from everreel.world.scene import (
    ACTIONS,
    CAMERA_MOTIONS,
    COLORS,
    EXPRESSIONS,
    PLACES,
    SHOT_ANGLES,
    SHOT_POSITIONS,
    SHOT_TYPES,
    SUBJECTS,
    TIMES,
    WEATHERS,
)

CRITIC_GOAL = 0.97
VAE_GOAL = 30.0
PARTS = ("transformer", "vae", "text_encoder")
RECIPES = {
    "world": "renders the clips that everything else learns from and is checked with",
    "text": "the tokenizer and the umT5: the fields of a scene from a sentence",
    "vae": "the causal VAE: single frames first, then clips",
    "latents": "encodes the clips and the sentences ahead",
    "diffusion_forcing": "the transformer: pictures first, then windows of films",
    "distill": "the student tiny-fast, a LoRA: its teacher's films on their way, then four strides for thirty steps",
    "critic": "the classifier that reads the fields off a film: it measures, and it is the tiny captioner",
    "tiny": "the parts as one folder, with what their runs reported",
    "tiny_fast": "the student as it ships",
}
LABELS = {
    "color": "colour",
    "camera_motion": "camera motion",
    "shot_type": "shot type",
    "shot_angle": "shot angle",
    "shot_position": "shot position",
}


def check_card(path: Path | None) -> None:
    """Refuse a path that a card cannot be written to, before anything is made.

    Raises:
        ValueError: with the rule and what would work.
    """
    if path is not None:
        check_file("model_card", path, "model-card.md")


def publish(evaluation: Evaluation, report: Report, critic: Path, path: Path | None = None) -> list[Path]:
    """Draw the contact sheet into the folder of the films, or beside a card, which is then written too."""
    sheet = (evaluation.output if path is None else path.parent) / "films.png"
    write_image(sheet, evaluation.sheet())
    written = [evaluation.output / "report.json", sheet]
    if path is not None:
        path.write_text(model_card(evaluation.card, report, critic, sheet.name), encoding="utf-8")
        written.append(path)
    return written


def model_card(card: ModelCard, report: Report, critic: Path, sheet: str | None = None) -> str:
    """The card of a model folder in the diffusers layout.

    Args:
        critic: the folder of the critic that made the report; its own `report.json` is looked for there.
        sheet: where the contact sheet lies, seen from the card.
    """
    folder = card.require_path()
    if not (folder / "transformer").is_dir():
        raise ValueError(f"model = {str(folder)!r}: a card takes a folder with transformer/, vae/ and text_encoder/")
    facts = read_facts(folder)
    sections = (
        _what_it_is(card, folder),
        _training(card, facts),
        _following(report, sheet),
        _parts(facts, critic_accuracy(critic)),
        _limits(card, facts),
        _licence(card),
        _repeat(card, report, facts),
    )
    return "\n".join(line for section in sections for line in (*section, "")).rstrip() + "\n"


def critic_accuracy(folder: Path) -> dict[str, float]:
    """A critic's accuracy on held-out renders, from the report beside its weights or of the run around them."""
    for path in (folder / "report.json", folder.parent / "report.json"):
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.get("accuracy") if isinstance(content, dict) else None
            if isinstance(found, dict):
                return found
    return {}


def num_parameters(folder: Path) -> int:
    """The numbers in the safetensors files of a folder."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def num_bytes(folder: Path) -> int:
    """What a folder takes on the disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _what_it_is(card: ModelCard, folder: Path) -> Iterator[str]:
    network = configs.transformer_config_from_diffusers(configs.read_json(folder / "transformer" / "config.json"))
    vae = configs.vae_config_from_diffusers(configs.read_json(folder / "vae" / "config.json"))
    text = configs.text_config_from_transformers(configs.read_json(folder / "text_encoder" / "config.json"))
    words = {
        "transformer": f"{network.num_layers} layers of width {network.dim}, {network.num_heads} heads; SkyReels-V2's "
        "architecture with a noise level for every latent frame",
        "vae": f"Wan2.1's causal layout, {vae.z_dim} latent channels, 4×8×8; widths from {vae.base_dim} in the encoder "
        f"and {vae.decoder_base_dim or vae.base_dim} in the decoder",
        "text_encoder": f"umT5, {text.num_layers} layers of width {text.d_model}, {text.vocab_size} tokens",
    }
    yield f"# Model card: {card.name}"
    yield ""
    yield from paragraph(
        f"{_capital(card.what)}: {card.width}×{card.height} pixels, {card.num_frames} frames at 24 a second in one "
        "window and any length beyond it. Written by `everreel evaluate --model-card`; every figure comes from the "
        "model's files or from a report."
    )
    yield ""
    counts = {part: num_parameters(folder / part) for part in PARTS}
    rows = [
        (part.replace("_", " "), words[part], _millions(count), f"{num_bytes(folder / part) / 1e6:.1f}")
        for part, count in counts.items()
    ]
    whole = ("the whole folder", "the diffusers layout", _millions(sum(counts.values())))
    rows.append((*whole, f"{num_bytes(folder) / 1e6:.1f}"))
    yield from table(("part", "what", "parameters", "MB"), rows, "llrr")
    yield ""
    yield from paragraph(
        f"It recommends {card.num_inference_steps} steps, a guidance scale of {card.guidance_scale:g}"
        f"{_between(card.guidance_level, card.guidance_until)} and a shift of {card.shift:g}. "
        f"What it needs: {card.needs}."
    )


def _between(level: float | None, until: float | None) -> str:
    if until:
        return f" from noise level {1 if level is None else level:g} down to {until:g}"
    return "" if level is None or level >= 1 else f" from noise level {level:g} on"


def _training(card: ModelCard, facts: Mapping[str, Any]) -> Iterator[str]:
    yield "## What it was trained on"
    yield ""
    if not _is_of_the_world(card, facts):
        yield f"Not recorded: there is no {FILE} in its folder."
        return
    yield from paragraph(
        "Nothing but the film world of `everreel.world`, which draws short cartoon films from a scene description: "
        f"{len(SUBJECTS)} subjects, {len(COLORS)} colours, {len(PLACES)} places, {len(ACTIONS)} actions, {len(TIMES)} "
        f"times of day, {len(WEATHERS)} kinds of weather, {len(SHOT_TYPES)} shot types, {len(SHOT_ANGLES)} angles, "
        f"{len(SHOT_POSITIONS)} positions, {len(CAMERA_MOTIONS)} camera motions and, on people, {len(EXPRESSIONS)} "
        "expressions. No picture, film or text from elsewhere is in it. One combination of subject, colour, place and "
        "action in sixteen is kept for evaluation."
    )
    yield ""
    stores = facts.get("world")
    if stores:
        splits = {"train": "trained on", "held_out": "held out"}
        rows = [
            (name, f"{store['count']:,}", str(store["num_frames"]), splits.get(store["split"], store["split"]))
            for name, store in stores.items()
        ]
        yield from table(("clips", "how many", "frames each", "combinations"), rows, "lrrl")
    else:
        yield f"How many clips there were is not recorded in {FILE}."
    yield ""
    yield "## How"
    yield ""
    runs = []
    for name, words in RECIPES.items():
        stages = facts.get(name, []) if name != "world" else []
        steps = " + ".join(f"{stage['steps']:,}" for stage in stages)
        hours = f"{sum(stage['hours'] for stage in stages):.1f}" if stages else ""
        runs.append((f"`recipes/{name}.py`", words, steps, hours))
    yield from table(("recipe", "what it does", "steps", "hours"), runs, "llrr")
    for note in facts.get("notes", ()):
        yield ""
        yield from paragraph(note)
    missing = [name for name in ("text", "vae", "diffusion_forcing") if name not in facts]
    if missing:
        yield ""
        yield f"Not recorded in {FILE}: the steps and hours of {', '.join(missing)}."


def _following(report: Report, sheet: str | None) -> Iterator[str]:
    settings, scores = report.settings, report.fields
    yield "## Does it show what was asked?"
    yield ""
    if sheet:
        count = min(SHEET_FILMS, len(report.films))
        yield f"![The first {count} films, {SHEET_FRAMES} frames each, with their prompts]({sheet})"
        yield ""
    films = f"{len(report.films)} film{'s' * (len(report.films) != 1)}"
    yield from paragraph(
        f"{films} of {settings['num_frames']} frames, {settings['width']}×{settings['height']} at {settings['fps']} a "
        "second, for prompts whose combination of subject, colour, place and action is held out of training: "
        f"{settings['num_inference_steps']} steps, guidance {settings['guidance_scale']:g}"
        f"{_between(settings.get('guidance_level'), settings.get('guidance_until'))}, shift {settings['shift']:g}, "
        f"seeds from {settings['seed']}. A critic reads each field off each film; a field counts where it can be seen."
    )
    yield ""
    head = ("field", "as asked", "accuracy", "95 % interval", "goal", "")
    yield from table(head, [_row(score) for score in scores if score.films], "lrrrrl")
    unseen = [_label(score.name) for score in scores if not score.films]
    if unseen:
        yield ""
        yield f"Seen in none of these films: {', '.join(unseen)}."
    missed = [_label(score.name) for score in scores if score.missed]
    yield ""
    yield f"Missed: {', '.join(missed)}." if missed else "Every goal is met."
    if report.confused:
        worst = [f"{name} ({count}×)" for name, count in list(report.confused.items())[:5]]
        yield ""
        yield from paragraph(f"The commonest mistakes: {'; '.join(worst)}.")


def _parts(facts: Mapping[str, Any], critic: Mapping[str, float]) -> Iterator[str]:
    yield "## How far its parts and the critic can be trusted"
    yield ""
    vae = _last_report(facts.get("vae", []))
    if "psnr_clips" in vae:
        clips = vae["psnr_clips"]
        single = f", single frames {vae['psnr_frames']:.1f} dB" if "psnr_frames" in vae else ""
        goal = f"goal {VAE_GOAL:.0f} dB: {verdict(clips >= VAE_GOAL)}"
        yield f"**VAE.** Held-out clips come back with {clips:.1f} dB ({goal}){single}."
    else:
        yield f"**VAE.** Its decibels on held-out clips are not recorded in {FILE}."
    yield ""
    text = _last_report(facts.get("text", []))
    if "said" in text:
        worst = min((name for name in text if name.startswith("said/")), key=text.__getitem__, default=None)
        least = f"; least well {_label(worst.removeprefix('said/'))}, {text[worst]:.1%}" if worst else ""
        unsaid = f"; of fields that are not said, it knows {text['unsaid']:.1%}" if "unsaid" in text else ""
        words = f"Of the fields that a held-out sentence says, {text['said']:.1%} are read off it{least}{unsaid}."
        yield from paragraph(f"**Text.** {words}")
    else:
        yield f"**Text.** How many fields are read off held-out sentences is not recorded in {FILE}."
    yield ""
    if not critic:
        yield from paragraph(
            "**Critic.** Its accuracy on held-out renders is not recorded beside it, so the figures above cannot be "
            "weighed: a field may be missed by the critic as well as by the model."
        )
        return
    below = [_label(name) for name, value in critic.items() if value < CRITIC_GOAL]
    became = f"**missed** for {', '.join(below)}" if below else "met"
    yield f"**Critic.** On held-out renders, whose fields are known (goal {CRITIC_GOAL:.0%} each: {became}):"
    yield ""
    rows = [(_label(name), f"{value:.1%}", verdict(value >= CRITIC_GOAL)) for name, value in critic.items()]
    yield from table(("field", "read rightly", ""), rows, "lrl")


def _limits(card: ModelCard, facts: Mapping[str, Any]) -> Iterator[str]:
    of_the_world = (
        "It knows the film world and nothing else: one subject, one action, one place. Words from outside that "
        "vocabulary mean nothing to it, and it has never seen two subjects at once.",
    )
    yield "## Limits"
    yield ""
    for limit in (
        *(of_the_world if _is_of_the_world(card, facts) else ()),
        f"It is made for about {card.width}×{card.height} pixels. Other sizes are accepted; no figure here is of them.",
        "Prompts are English. One that is longer than the text encoder reads is refused, never cut.",
        "The critic learnt from renders. It finds a value even in a film that shows none, so a figure says how often a "
        "field is recognised, not how good a film looks.",
        "What cannot be seen is not scored: an action in a close shot, weather indoors, an expression from afar.",
    ):
        yield from paragraph(limit, "- ")


def _licence(card: ModelCard) -> Iterator[str]:
    yield "## Licence"
    yield ""
    if card.licence == "unknown":
        yield "That of whoever made these weights; the folder does not say which."
    else:
        yield f"{card.licence}."


def _repeat(card: ModelCard, report: Report, facts: Mapping[str, Any]) -> Iterator[str]:
    name = card.name if card.name in {known.name for known in CATALOG} else "FOLDER"
    settings = report.settings
    yield "## How to repeat it"
    yield ""
    yield "The films and this page; a run that was stopped goes on where it was:"
    yield ""
    yield f"    everreel evaluate --model {name} --num-films {len(report.films)} --seed {settings['seed']} \\"
    steps, guidance, shift = (settings[name] for name in ("num_inference_steps", "guidance_scale", "shift"))
    limits = {name: settings.get(name) for name in ("guidance_level", "guidance_until")}
    told = [f"--{name.replace('_', '-')} {value:g}" for name, value in limits.items() if value is not None]
    guided = " ".join((f"--guidance-scale {guidance:g}", *told))
    yield f"      --num-inference-steps {steps} {guided} --shift {shift:g} \\"
    yield "      --model-card docs/model-card.md"
    yield ""
    if name == "tiny":
        yield "`make model-card` is the same with the settings that the model recommends."
        yield ""
    if _is_of_the_world(card, facts):
        yield "The weights, and the critic that is shipped beside them:"
        yield ""
        for recipe in RECIPES:
            packed = recipe.replace("_", "-")
            target = f" --run-dir src/everreel/assets/{packed}" if packed.startswith("tiny") else ""
            yield f"    everreel train recipes/{recipe}.py{target}"
        yield "    mkdir -p src/everreel/assets/critic"
        yield "    cp runs/critic/grown/critic/* runs/critic/grown/report.json src/everreel/assets/critic/"


def _is_of_the_world(card: ModelCard, facts: Mapping[str, Any]) -> bool:
    """Whether these recipes trained it; a folder of other weights says nothing of the kind."""
    return bool(facts) or card.name == "tiny"


def _row(score: FieldScore) -> tuple[str, ...]:
    low, high = score.interval
    goal = ("", "") if score.goal is None else (f"{score.goal:.0%}", verdict(not score.missed))
    count = f"{score.right} of {score.films}"
    return _label(score.name), count, f"{score.accuracy:.0%}", f"{low:.0%} to {high:.0%}", *goal


def _last_report(stages: list[Mapping[str, Any]]) -> Mapping[str, float]:
    """The report of the last stage that left one."""
    return next((stage["report"] for stage in reversed(stages) if "report" in stage), {})


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
