"""The released scripts' own command lines, `generate_video_df.py` and `generate_video.py`, as requests.

Source: the flags of the released repository, those of its first version among them. The one invariant: whatever worked
there works here, flag by flag, and where a flag did harm a note says what is done instead. The scripts' negative
prompts, which no flag tells, are the models' own here, as a note says.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everreel.checkpoint.catalog import CATALOG, ModelCard, find_model
from everreel.checkpoint.configs import Kind
from everreel.film.plan import OVERLAP
from everreel.film.request import FPS, VideoRequest, make_request
from everreel.shapes import TEMPORAL

PROMPT = "A lake lies still between high mountains, swans glide over the water and the sun glitters on it."
MOST_NAME_BYTES = 120  # of a file's name, whatever the script: 255 is the most that file systems take

_BOTH: dict[str, tuple[type, Any]] = {
    "outdir": (str, None),
    "model_id": (str, None),
    "resolution": (str, None),
    "height": (int, None),
    "width": (int, None),
    "num_frames": (int, 97),
    "image": (Path, None),
    "guidance_scale": (float, None),
    "shift": (float, None),
    "inference_steps": (int, None),
    "use_usp": (bool, False),
    "offload": (bool, False),
    "fps": (int, 24),
    "seed": (int, -1),
    "prompt": (str, PROMPT),
    "prompt_enhancer": (bool, False),
    "prompt_enhance": (bool, False),
    "teacache": (bool, False),
    "teacache_thresh": (float, None),
    "use_ret_steps": (bool, False),
}
_FORCING: dict[str, tuple[type, Any]] = {
    "end_image": (Path, None),
    "ar_step": (int, 0),
    "causal_attention": (bool, False),
    "causal_block_size": (int, 1),
    "base_num_frames": (int, 97),
    "overlap_history": (int, None),
    "addnoise_condition": (float, 0.0),
    "video_path": (Path, None),
}
SCRIPTS: Mapping[str, Mapping[str, tuple[type, Any]]] = {
    "generate_video_df": {**_BOTH, **_FORCING},
    "generate_video": _BOTH,
}
"""Flags by script: what each takes, and what it is when it is not given."""
_MODELS = {
    "generate_video_df": ("diffusion_forcing", "Skywork/SkyReels-V2-DF-1.3B-540P"),
    "generate_video": ("video_out", "Skywork/SkyReels-V2-T2V-14B-540P"),
}
# What a script's model was trained for where its files do not say: those of the released 14B models are alike.
_KINDS: Mapping[str, Kind] = {"generate_video_df": "df", "generate_video": "t2v"}
_RECOMMENDED = {"guidance_scale": 6.0, "shift": 8.0}  # what the scripts take for every model
STEP_CACHE = 0.1  # what docs/step-cache.md found to be the best


_LIKE_THE_SOURCE = (
    "its frames, size, times and sound stay, and new frames are cropped to its size; "
    "the released script squashed it, played it at --fps and left out its sound"
)


@dataclass(frozen=True)
class Translated:
    """A released command line in our words."""

    request: VideoRequest
    model: str
    kind: Kind
    output: Path
    notes: tuple[str, ...]
    """What is done otherwise than it was asked, one line each."""
    video: Path | None = None
    """The film that is to be made longer: the output is that film, and the request's frames after its last."""
    memory: str | None = None
    """The budget of the device's memory that the weights must keep to."""
    enhance: bool = False
    """Whether the prompt is made whole first, by the built-in rules."""


def translate(script: str, flags: Mapping[str, Any]) -> Translated:
    """The request that a released command line asks for.

    With `--video_path` every one of `--num_frames` is new. The released script counted the frames of `overlap_history`
    among them, and what was left over four: 120 frames with an overlap of 17 were 100 new ones.

    Raises:
        RequestError: a value cannot be; the message names our field, which is spelt alike but for inference_steps.
        ValueError: there is no such model, or it is none of the script's.
    """
    folder, model = _MODELS[script]
    model = flags["model_id"] or model
    card = find_model(model, here=False, otherwise=_KINDS[script])
    _check_kind(script, model, card)
    notes: list[str] = []
    if flags["use_usp"] and int(os.environ.get("WORLD_SIZE") or 1) < 2:
        notes.append("--use_usp: one process is alone; start several with torchrun --nproc-per-node N -m everreel ...")
    memory = _device_memory() if flags["offload"] else None
    if flags["offload"] and memory is None:
        notes.append("--offload: left out; there is no device but the CPU, whose memory has all weights")
    num_frames, fps = flags["num_frames"], min(FPS, key=lambda fps: abs(fps - flags["fps"]))
    if fps != flags["fps"]:
        notes.append(
            f"--fps {flags['fps']}: the model knows {FPS[0]} and {FPS[1]}; the film is made and played at {fps}"
        )
    seed = flags["seed"] if flags["seed"] >= 0 else secrets.randbelow(2**32)
    values: dict[str, Any] = {
        name: flags[name]
        for name in ("prompt", "num_frames", "resolution", "height", "width", "image", "guidance_scale", "shift")
    }
    values |= {"num_inference_steps": flags["inference_steps"], "fps": fps, "seed": seed}
    values |= _faster(flags, card, notes)
    notes += _not_given(flags, card)
    video: Path | None = flags.get("video_path")
    if script == "generate_video_df":
        values |= {"end_image": flags["end_image"], "addnoise_condition": flags["addnoise_condition"]}
        values |= _long(num_frames, flags, notes)
        values |= _attention(values, flags, card, notes)
    sized = flags["height"] is not None or flags["width"] is not None
    if video is None and flags["image"] and not sized and _is_upright(flags["image"]):
        values["aspect"] = "9:16"
    if video is not None:
        notes.append(f"--video_path {video}: {_LIKE_THE_SOURCE}")
        for name in ("image", "end_image"):
            if values.pop(name) is not None:
                notes.append(f"--{name}: left out, as there; the film goes on from the last frames of {video}")
    request = make_request(**values)
    output = Path("result") / (flags["outdir"] or folder) / _file_name(request.prompt, seed)
    enhance = next((name for name in ("prompt_enhancer", "prompt_enhance") if flags[name]), None)
    if enhance:
        rule = "the prompt is made whole by rules, as everreel generate --enhance does; with --llm that asks a model"
        notes.append(f"--{enhance}: {rule}, as the released script did")
    return Translated(request, model, card.kind, output, tuple(notes), video, memory, enhance is not None)


@contextmanager
def folder_for(output: Path) -> Iterator[None]:
    """The folder of a film while it is made; where nothing was put in, what was made for it goes again."""
    new = [folder for folder in output.parents if not folder.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _check_kind(script: str, model: str, card: ModelCard) -> None:
    """Refuse a model of one level of noise where each frame has its own; the other script takes all."""
    if script != "generate_video_df" or card.forcing:
        return
    twin = f"DF-{card.name.partition('-')[2]}"
    nearest = next((known.name for known in CATALOG if known.name == twin), _MODELS[script][1])
    rule = f"makes all frames at once, and {script} is for models of diffusion forcing"
    raise ValueError(f"model_id = {model!r}: {rule}; take generate_video, or {nearest!r}")


def _faster(flags: Mapping[str, Any], card: ModelCard, notes: list[str]) -> dict[str, Any]:
    """TeaCache as it can be had: its rule is for one level, so where every frame has its own nothing stands for it."""
    if not flags["teacache"]:
        return {}
    if card.forcing:
        rule = "one level for all frames spoils diffusion forcing; every step is computed"
        notes.append(f"--teacache: left out; {rule}; everreel generate --step-cache {STEP_CACHE} knows a level a frame")
        return {}
    rule = f"passes are left out as --step-cache {STEP_CACHE} does, whose measure is not that of --teacache_thresh"
    notes.append(f"--teacache: {rule}; with these weights it was not tried")
    return {"step_cache": STEP_CACHE}


def _not_given(flags: Mapping[str, Any], card: ModelCard) -> list[str]:
    """What is taken that is not given: the script has the settings of the other models for an I2V model."""
    words = f"the negative prompt, which no flag tells, is that of {card.name}, not the released script's"
    if not card.image:
        return [words]
    notes = [
        f"--{name}: not given, {getattr(card, name):g}, which its makers publish for {card.name}, "
        f"where the released script takes {theirs:g}"
        for name, theirs in _RECOMMENDED.items()
        if flags[name] is None
    ]
    return [*notes, words]


def _attention(
    values: Mapping[str, Any], flags: Mapping[str, Any], card: ModelCard, notes: list[str]
) -> dict[str, Any]:
    """Block-causal attention: here it is what makes a cache exact, so it comes with one."""
    if not flags["causal_attention"]:
        return {}
    if not card.causal:
        rule = f"{card.name} was not trained for it, and it spoils the film; full attention is used"
    elif values["ar_step"] and "overlap_history" not in values:
        return {"cache": True}
    else:
        rule = f"{card.name} was trained for it, but here it goes with --ar_step in one window; full attention is used"
    notes.append(f"--causal_attention: left out; {rule}")
    return {}


def _long(num_frames: int, flags: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Windows as the script makes them: pixels encoded again, blocks one after the other within each."""

    def taken(name: str) -> int | None:
        value: int | None = flags[name]
        rest = 0 if value is None else (value - 1) % TEMPORAL
        if value is None or not rest:
            return value
        notes.append(f"--{name} {value}: windows are of 4k + 1 frames, {value - rest} are taken")
        return value - rest

    overlap = taken("overlap_history")
    values: dict[str, Any] = {"base_num_frames": taken("base_num_frames"), "ar_step": flags["ar_step"]}
    if flags["ar_step"]:
        values["causal_block_size"] = flags["causal_block_size"]
    is_longer = flags["video_path"] is not None
    if overlap is None and (is_longer or num_frames > flags["base_num_frames"]):
        overlap = OVERLAP
        notes.append(f"--overlap_history: not given, {overlap} frames")
    if is_longer:
        rule = f"all of them are new; the released script counted the {overlap} frames looked back at among them"
        notes.append(f"--num_frames {num_frames}: {rule}")
        values["overlap_history"] = overlap
    if num_frames + (overlap or 0) * is_longer > flags["base_num_frames"]:
        values |= {"schedule": "windows", "join": "reencode", "overlap_history": overlap}
    return values


def _device_memory() -> str | None:
    """What is free of a CUDA device's memory; None without one."""
    import torch

    return f"{torch.cuda.mem_get_info()[0]}B" if torch.cuda.is_available() else None


def _is_upright(image: Path) -> bool:
    """Whether a picture is higher than wide; the script turns the film's size by it. Not, if it cannot be read."""
    from PIL import ExifTags, Image

    try:
        with Image.open(image) as file:
            columns, rows = file.size
            turned = file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except (OSError, Image.DecompressionBombError, SyntaxError):
        return False
    return columns > rows if turned else rows > columns


def _file_name(prompt: str, seed: int) -> str:
    """As the scripts name their films, but short enough and without what some systems refuse."""
    words = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "", prompt).strip(" .")
    kept = words.encode()[:MOST_NAME_BYTES].decode(errors="ignore")
    return f"{kept}_{seed}_{time.strftime('%Y-%m-%d_%H-%M-%S')}.mp4"
