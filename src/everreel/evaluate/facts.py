"""What a model's training left to tell, as it stands beside its weights in `training.json`.

The figures of a model card that only a training run knows (steps, hours, the VAE's decibels, the fields that the text
encoder reads) travel with the weights; the recipe that packs a model writes them:

    {"world": {"films": {"count": 1600, "num_frames": 97, "split": "train"}, ...},
     "vae": [{"stage": "narrow", "steps": 4400, "hours": 0.4, "report": {"psnr_clips": 25.2, ...}}, ...],
     "text": [...], "diffusion_forcing": [...], "distill": [...], "critic": [...]}

A part is a list of its stages in the order they were trained. The one invariant: everything is copied from a run; what
no run told is not there, and the card says so.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

FILE = "training.json"
PARTS = ("text", "vae", "diffusion_forcing", "distill", "critic")

Facts = dict[str, Any]


def read_facts(folder: Path) -> Facts:
    """The facts in a model's folder; none where there is no file of them."""
    path = folder / FILE
    return _read(path) if path.is_file() else {}


def gather(runs: Path) -> Facts:
    """The facts that the training runs in a folder tell, each run in a folder of its recipe's name."""
    facts: Facts = {}
    layouts = {path.parent.name: _read(path) for path in sorted((runs / "world").glob("*/layout.json"))}
    if layouts:
        kept = ("count", "num_frames", "split")
        facts["world"] = {name: {key: layout[key] for key in kept} for name, layout in layouts.items()}
    for part in PARTS:
        # Stages leave no note of their order but the time of their last step.
        logs = sorted((runs / part).rglob("metrics.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path))
        if logs:
            facts[part] = [_stage(log, runs / part) for log in logs]
    return facts


def _stage(log: Path, run: Path) -> Facts:
    steps, seconds = 0, 0.0
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # cut short by a crash
            continue
        if record.get("event") == "train":
            seconds += (record["step"] - steps) / (record.get("steps_per_second") or math.inf)
            steps = record["step"]
    name = "" if log.parent == run else log.parent.relative_to(run).as_posix()
    stage: Facts = {"stage": name, "steps": steps, "hours": round(seconds / 3600, 2)}
    path = log.with_name("report.json")
    report = _read(path) if path.is_file() else {}
    # The critic's figures are in tables, and stay with the critic.
    figures = {name: round(value, 4) for name, value in report.items() if isinstance(value, int | float)}
    return {**stage, "report": figures} if figures else stage


def _read(path: Path) -> Facts:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a JSON object")
    return content
