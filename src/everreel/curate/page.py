"""The pages of curation, in the style of those of the evaluation, and the one on which people look at clips.

The one invariant: a page asks for nothing but the films it links to; what comes from a file is text in it; and the only
script that runs is the one of `check.js`, which the page's policy names by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from markupsafe import Markup

import everreel.evaluate.page as evaluation
from everreel.curate.gates import ANSWERS, GROUPS, PAGE, SAMPLE, TOP, Gate, Sample, draw, folder_of, gate_of
from everreel.curate.record import Clip
from everreel.curate.strips import Find, Strips
from everreel.evaluate.films import write_text

_PAGES = Path(__file__).parent / "pages"
STRIP_FRAMES, STRIP_WIDTH, STRIP_ROWS = 6, 320, 2


def render(template: str, **values: object) -> str:
    """A page of curation; values are text, and markup only where the plots or this module made it."""
    return evaluation.render_from([_PAGES, evaluation.PAGES], template, **values)


def make_check(
    folder: Path,
    clips: Sequence[Clip],
    gate: str | Gate,
    generator: torch.Generator,
    find: Find,
    *,
    by: Callable[[Clip], str] = folder_of,
    progress: Callable[[int, int], None] | None = None,
    known: Mapping[str, frozenset[str]] | None = None,
) -> Sample:
    """Draw the clips to look at for a gate, and leave `check.html` and `check.json` in the run's folder.

    Args:
        find: where the film lies that a clip names.
        by: of which source a clip is; each source passes or not.
        progress: called with how many strips are made of how many.
        known: answers by clip that the page begins with.

    Raises:
        ValueError: there is no such gate, or no clip was kept.
    """
    sample = draw(clips, gate_of(gate) if isinstance(gate, str) else gate, generator, by)
    text = check_page(folder, sample, {clip.name: clip for clip in clips}, find, progress, known)
    write_text(folder / SAMPLE, json.dumps(sample.to_json(), ensure_ascii=False) + "\n")
    evaluation.write_page(folder / PAGE, text)
    return sample


def check_page(
    folder: Path,
    sample: Sample,
    clips: Mapping[str, Clip],
    find: Find,
    progress: Callable[[int, int], None] | None = None,
    known: Mapping[str, frozenset[str]] | None = None,
) -> str:
    """The page on which the clips of a sample are looked at, as it will lie in `folder`."""
    strips, shown = Strips(folder, find), []
    for number, (name, source) in enumerate(sample.clips, 1):
        clip = clips[name]
        facts = "" if source == TOP else f"{source}; "
        facts += f"{clip.seconds:.1f} s from {clip.start:.1f} s on, {clip.width}x{clip.height}"
        facts += f", cut to {clip.crop.width}x{clip.crop.height}" if clip.crop else ""
        row = {"name": name, "facts": facts, "film": evaluation.address(find(clip.source), folder)}
        strip = strips.strip(clip, STRIP_FRAMES, STRIP_WIDTH, STRIP_ROWS)
        shown.append({**row, "strip": strip, "start": round(clip.start, 2), "stop": round(clip.stop, 2)})
        if progress is not None:
            progress(number, len(sample.clips))
    script = (_PAGES / "check.js").read_text(encoding="utf-8")
    answers = {name: sorted((known or {})[name]) for name, _ in sample.clips if name in (known or {})}
    limits = ", ".join(f"{name} below {100 * limit:g} %" for name, limit in sample.gate.limits.items())
    told = {"sample": sample.digest, "gate": sample.gate.name, "file": ANSWERS}
    return render(
        "check.html",
        title=f"Spot check: {sample.gate.name}",
        count=len(shown),
        size=sum(sample.sizes.values()),
        limits=limits,
        groups=list(GROUPS.items()),
        folder=str(folder),
        data={**told, "clips": shown, "answers": answers},
        script=Markup(script),  # a file of the package
        script_hash=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
    )
