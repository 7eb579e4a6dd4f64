"""What the page shows of a film: where it stands, how to make it again, and what an order would cost.

The one invariant: nothing here is HTML but `plan_html` and `error_html`, which escape all that they are given; the
page's own script puts the rest into the document as text.
"""

from __future__ import annotations

import base64
import html
import json
import math
import shlex
from pathlib import Path
from typing import Any

from everreel.film.loading import ModelOptions
from everreel.serve.jobs.job import HELD, Job, NotFoundError
from everreel.serve.jobs.order import EXTENDED, PICTURES, Order
from everreel.serve.jobs.service import Jobs, Outlook

LONGEST_PREVIEW = 200_000  # bytes
_OF_EXTEND = ("num_frames", "seconds", "seed", "fps", "num_inference_steps", "overlap_history")
_NOT_EXTENDED = ("height", "width", "resolution", "aspect", "loop")
NEEDS_JOURNAL = (
    "The JSON makes exactly this film. The command does where film.mp4 has its journal beside it, as in the server's "
    "own folder; of a film that was downloaded it makes another one, which goes on from its last moments."
)
STATUS = {
    "queued": "Waiting for its turn",
    "in_progress": "Being made",
    "paused": "Paused",
    "completed": "Done",
    "failed": "Failed",
    "cancelled": "Stopped",
}


def screen_of(job: Job, jobs: Jobs, token: str) -> dict[str, Any]:
    """A film on the screen, as the page's script reads it."""
    request = job.order.request
    total = 0 if job.order.endless else request.length or jobs.card(job.order.model).num_frames
    address = f"/v1/videos/{job.id}"
    has_film = bool(job.num_frames)
    live = not job.over
    return {
        "id": job.id,
        "status": job.state,
        "label": _label(job),
        "prompt": request.prompt,
        "added": added_to(job.order),
        "percent": job.progress,
        "shape": f"{request.width or 16} / {request.height or 9}",
        "made": round(job.num_frames / request.fps, 2),
        "asked": round(total / request.fps, 2),
        "frames": job.num_frames,
        "endless": job.order.endless,
        "whole": job.whole,
        "video": f"{address}/{'content' if job.whole else 'stream'}?token={token}",
        "has_film": has_film,
        "live": live,
        "poster": f"{address}/content?variant=thumbnail&token={token}" if job.whole else "",
        "preview": "" if job.over else _preview(job, jobs),
        "error": job.failure.message if job.failure else "" if job.waiting == HELD else job.waiting,
        "can": can(job),
        "can_extend": job.whole and not request.loop,
        "command": command_of(job.order, jobs.models.get(job.order.model), job.num_frames - _before(job, jobs)),
        "note": NEEDS_JOURNAL if job.order.extends else "",
        "address": address_of(job.order),
        "body": json.dumps(body_of(job.order), indent=2, ensure_ascii=False),
    }


def _before(job: Job, jobs: Jobs) -> int:
    """How many of an endless film's frames are those of the one made here that it goes on with, if that is there."""
    try:
        return jobs.get(job.order.extends).num_frames if job.order.endless and job.order.extends else 0
    except NotFoundError:
        return 0


def added_to(order: Order) -> str:
    """What the enhancer added to the prompts of a film, and which words it did not know: a line for each prompt."""
    return "\n".join(
        f"From {frame / order.request.fps:g} s: {note}" if frame else f"{note[:1].upper()}{note[1:]}"
        for frame, note in order.enhanced_notes.items()
    )


def can(job: Job) -> list[str]:
    """What one may do with a film now."""
    if job.status == "completed":
        return ["edit", "delete"]
    if job.over:
        return ["resume", "edit", "delete"]
    if job.status == "paused" or job.wanted == "pause":
        return ["resume", "cancel"]
    return ["pause", "cancel"]


def card_of(job: Job, jobs: Jobs, token: str) -> dict[str, Any]:
    """A film in the gallery."""
    has_picture = jobs.store.size(job.id, "thumbnail.webp") > 0
    address = f"/v1/videos/{job.id}/content?variant=thumbnail&token={token}"
    return {
        "id": job.id,
        "prompt": job.order.request.prompt,
        "status": job.status,
        "label": f"{job.progress} %" if job.state == "in_progress" and not job.order.endless else STATUS[job.state],
        "percent": job.progress,
        "seconds": round(job.num_frames / job.order.request.fps, 1),
        "picture": address if has_picture and job.over else "",
    }


def command_of(order: Order, model: ModelOptions | None = None, made: int = 0) -> str:
    """The command line that makes this film; pictures and other files are named by what they are for.

    `model` is how the server runs the order's model, and `made` how many frames an endless film has come to. Of a film
    that goes on with one made here it needs that one's journal, which says all else; see `NEEDS_JOURNAL`.
    """
    request = _given(order)
    prompt: str = request.pop("prompt")
    last: list[str] = []
    parts = [part for frame, text in order.request.story.items() for part in ("--prompt", f"{frame}f: {text}")]
    if order.endless:
        request["num_frames"] = max(made, 1)
    if order.extends or order.follows:
        words = ["everreel", "extend", "film.mp4", "--output", "longer.mp4", f"--prompt={prompt}", *parts]
        request = {name: value for name, value in request.items() if name in _OF_EXTEND}
        if order.follows:
            words += ["--model", order.model]
    else:
        words = ["everreel", "generate"]
        (last if prompt.startswith("-") else words).append(prompt)
        words += parts
        if order.image:
            words += ["--image", "start.png"]
        for frame in order.keyframes:
            words += ["--keyframe", f"{frame}=frame-{frame}.png"]
        if order.end_image:
            words += ["--end-image", "end.png"]
        words += ["--model", order.model]
    if model is not None and not order.extends:
        words += _run_with(model)
    for name, value in request.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return shlex.join([*words, *(["--", *last] if last else [])])


def body_of(order: Order) -> dict[str, Any]:
    """The order as a client sends it: to `/v1/videos`, or, of a film that goes on with another, to its extensions."""
    request = _given(order)
    if order.request.story:
        request["story"] = {str(frame): text for frame, text in order.request.story.items()}
    if order.extends or order.follows:
        video = {"id": order.extends} if order.extends else {"file_id": order.follows}
        kept = {name: value for name, value in request.items() if name not in _NOT_EXTENDED}
        return {"video": video, **kept, **({"endless": True} if order.endless else {})}
    pictures: dict[str, Any] = {}
    if order.image:
        pictures["input_reference"] = {"file_id": order.image}
    if order.end_image:
        pictures["end_image"] = {"file_id": order.end_image}
    if order.keyframes:
        pictures["keyframes"] = {str(frame): {"file_id": upload} for frame, upload in order.keyframes.items()}
    return {"model": order.model, **request, **pictures, **({"endless": True} if order.endless else {})}


def address_of(order: Order) -> str:
    """Where `body_of` goes."""
    return "/v1/videos/extensions" if order.extends or order.follows else "/v1/videos"


def plan_html(outlook: Outlook) -> str:
    """What an order would cost, in one line of figures, and all lines behind it."""
    size, takes, memory = f"{outlook.width}×{outlook.height}", told_time(outlook.takes), told_bytes(outlook.memory)
    if outlook.endless:
        figures = {"film": "∞", "size": size, f"for the first {outlook.seconds:.1f} s": takes, "memory": memory}
    else:
        figures = {
            "film": f"{outlook.seconds:.1f} s",
            "frames": f"{outlook.num_frames}",
            "size": size,
            f"blocks of {outlook.steps} step{'s' * (outlook.steps != 1)}": f"{outlook.blocks}",
            "takes about": takes,
            "memory": memory,
        }
    cells = "".join(f"<div><dd>{html.escape(v)}</dd><dt>{html.escape(k)}</dt></div>" for k, v in figures.items())
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in (outlook.summary, *outlook.lines))
    return f"<dl>{cells}</dl><details><summary>How it would be made</summary><ul>{lines}</ul></details>"


def error_html(line: str) -> str:
    """What is wrong, as one line."""
    return f'<p class="er-wrong" role="alert">{html.escape(line)}</p>'


def told_time(seconds: float) -> str:
    """A length of time for people."""
    if math.isnan(seconds) or math.isinf(seconds):
        return "unknown"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def told_bytes(count: float) -> str:
    """So much memory, for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _label(job: Job) -> str:
    if job.over or job.state == "paused":
        return STATUS[job.state]
    if job.wanted == "cancel":
        return "Stopping"
    if job.wanted == "pause":
        return "Pausing after this step"
    if job.status == "in_progress" and not job.num_frames:
        return "First block is on its way"
    return STATUS[job.status]


def _preview(job: Job, jobs: Jobs) -> str:
    if job.num_frames:
        return ""
    jobs.store.wish(job.id)
    if not 0 < jobs.store.size(job.id, "preview.jpg") < LONGEST_PREVIEW:
        return ""
    with jobs.store.open(job.id, "preview.jpg") as file:
        return "data:image/jpeg;base64," + base64.b64encode(file.read()).decode()


def _run_with(model: ModelOptions) -> list[str]:
    """The options of a command that runs a model as the server does; of files their last names, as no path is shown."""
    given = model.model_dump(mode="json", exclude_defaults=True, exclude={"model", "lora", "compile", "parts"})
    words = [part for lora in model.lora for part in ("--lora", Path(lora).name)]
    words += ["--parts", model.parts.name] if model.parts else []
    words += [part for name, value in given.items() for part in (f"--{name}", str(value))]
    return [*words, "--compile"] if model.compile else words


def _given(order: Order) -> dict[str, Any]:
    """What of the request was asked for, but story and pictures; of a film that goes on with one, what counts then."""
    given = order.request.model_dump(mode="json", exclude_unset=True, exclude={"story", *PICTURES})
    return {n: value for n, value in given.items() if value is not None and (not order.extends or n in EXTENDED)}
