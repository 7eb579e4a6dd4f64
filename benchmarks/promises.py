"""What long films promise besides what they show: an end that is the picture given for it, a loop that closes, memory
and time that do not grow, and a film that was killed and went on.

The one invariant: each figure stands beside its goal, and a goal that was missed says so.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import length
from benchmarks.measure import PROMPT, say
from everreel.evaluate.markdown import table, verdict
from everreel.evaluate.prompts import held_out_prompts
from everreel.film.decoding import to_uint8
from everreel.film.given import encode_frames
from everreel.film.journal import journal_path
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.shapes import TEMPORAL
from everreel.world.render import render

END_GOAL = 30.0  # dB
LOOP_GOAL = 1.5  # the step from the last frame to the first, over those from latent to latent
TIME_GOAL = 1.10  # a frame at the film's first minute, in those at its fifth second
MEMORY_GOAL = 1.05  # the peak of 10,000 frames, in that of 1,457
LONG_FRAMES, ENDLESS_FRAMES = 1457, 10_000
ENDS: Sequence[tuple[str, dict[str, Any]]] = (  # films that end on a picture
    ("one window", {"num_frames": 23}),
    ("one window", {"num_frames": 97}),
    ("asynchronous", {"num_frames": 97, "ar_step": 5}),
    ("blockwise", {"num_frames": 242, "schedule": "blockwise"}),
    ("rolling", {"num_frames": 242, "schedule": "rolling", "cache": False}),
    ("rolling, cache", {"num_frames": 242, "schedule": "rolling", "cache": True}),
    ("windows, reencode", {"num_frames": 242, "join": "reencode"}),
    ("windows, carry", {"num_frames": 242, "join": "carry"}),
    ("windows, hybrid", {"num_frames": 242, "join": "hybrid"}),
    ("blockwise", {"num_frames": LONG_FRAMES, "schedule": "blockwise"}),
    ("rolling, cache", {"num_frames": LONG_FRAMES, "schedule": "rolling", "cache": True}),
)
Line = tuple[str, str, str, str]
HEAD: Line = ("what", "goal", "measured", "")


def run(model: str, steps: int, kills: int) -> list[Line]:
    """What was promised, the goal, what was measured, and whether it is met."""
    pipe = VideoPipeline.from_pretrained(model, device="cpu")
    lines = [*costs(model), *ends(pipe, steps), *loops(pipe, steps)]
    if kills:
        same = kill_and_resume(kills, model, 4, 241)
        lines.append(
            (f"`kill -9` at {kills} random moments, `everreel resume`: the same bytes", f"{kills} of {kills}",
             f"{same} of {kills}", verdict(same == kills))
        )  # fmt: skip
    return lines


def costs(model: str) -> list[Line]:
    """Memory of an endless film, and time of a frame."""
    setting = length.Setting(model, steps=2)
    long, endless = (length.film_in_own_process(setting, frames) for frames in (LONG_FRAMES, ENDLESS_FRAMES))
    memory = endless.peak_bytes / long.peak_bytes
    early, late = endless.seconds_per_frame(4, 12), endless.seconds_per_frame(56, 64)
    slower = late / early
    return [
        (f"peak memory of {ENDLESS_FRAMES:,} frames against {LONG_FRAMES:,}", f"at most {MEMORY_GOAL - 1:.0%} more",
         f"{memory - 1:+.0%} ({endless.peak_bytes / 2**20:.0f} MB)", verdict(memory <= MEMORY_GOAL)),
        ("time of a frame at one minute against five seconds", f"at most {TIME_GOAL - 1:.0%} more",
         f"{slower - 1:+.0%} ({1000 * late:.1f} ms against {1000 * early:.1f} ms)", verdict(slower <= TIME_GOAL)),
    ]  # fmt: skip


def ends(pipe: VideoPipeline, steps: int, up_to: int = LONG_FRAMES) -> list[Line]:
    """How near a film comes to the picture that it ends on."""
    prompt = held_out_prompts(1)[0]
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "end.png"
        drawn = render(prompt.scene, 1, height=pipe.card.height, width=pipe.card.width, fps=24)[0]
        Image.fromarray(drawn).save(picture)
        still_CTHW = encode_frames(np.stack([drawn] * 5), pipe.vae).to(next(pipe.vae.parameters()).dtype)
        with torch.no_grad():
            still = to_uint8(pipe.vae.decode(still_CTHW[None])[0])
        for name, options in ENDS:
            if options["num_frames"] > up_to:
                continue
            say(f"a film of {options['num_frames']} frames that ends on a picture: {name}")
            request = make_request(prompt=prompt.text, end_image=picture, num_inference_steps=steps, **options)
            (last,) = deque(pipe.stream(request), maxlen=1)
            error = np.mean((last.frames[-1].astype(float) - still[-1]) ** 2)
            found = 10 * np.log10(255**2 / max(float(error), 1e-9))
            lines.append(
                (f"end image, {name}, {options['num_frames']} frames: the last one against the still alone",
                 f"at least {END_GOAL:.0f} dB", f"{found:.1f} dB", verdict(found >= END_GOAL))
            )  # fmt: skip
    return lines


def loops(pipe: VideoPipeline, steps: int) -> list[Line]:
    """How near a film comes to its own beginning."""
    prompt = held_out_prompts(1)[0]
    lines: list[Line] = []
    for frames in (97, 241):
        say(f"a loop of {frames} frames")
        request = make_request(prompt=prompt.text, loop=True, num_frames=frames, num_inference_steps=steps)
        film = np.concatenate([block.frames for block in pipe.stream(request)]).astype(np.int16)
        moved = [float(np.abs(b - a).mean()) for a, b in zip(film, np.roll(film, -1, axis=0), strict=True)]
        # As in the seam index: against the steps from one latent to the next.
        between = [step for at, step in enumerate(moved[:-1], 1) if request.made(at) % TEMPORAL == 1]
        ratio = moved[-1] / max(float(np.median(between)), 1e-9)
        lines.append(
            (f"loop of {frames} frames: the step from its end to its beginning, in steps from latent to latent",
             f"at most {LOOP_GOAL:g}", f"{ratio:.2f}", verdict(ratio <= LOOP_GOAL))
        )  # fmt: skip
    return lines


def kill_and_resume(times: int, model: str, steps: int, num_frames: int) -> int:
    """How often a film that was killed with signal 9 at a random moment, and resumed, has the bytes of one that was
    not. Killed before it has a journal, or too late, it does not count, and another moment is drawn.
    """
    draw, killed, same = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        whole, film = Path(folder) / "whole.mp4", Path(folder) / "film.mp4"
        program = [sys.executable, "-c", "from everreel.cli import main; main()"]
        order = [*program, "generate", PROMPT, "--model", model, "--num-inference-steps", str(steps)]
        order += ["--num-frames", str(num_frames), "-o"]
        quiet: Mapping[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = time.monotonic()
        subprocess.run([*order, str(whole)], check=True, **quiet)
        longest = time.monotonic() - started
        while killed < times:
            for path in (film, journal_path(film)):
                path.unlink(missing_ok=True)
            process = subprocess.Popen([*order, str(film)], **quiet)
            time.sleep(draw.uniform(0.3, 1.0) * longest)
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL or not journal_path(film).exists():
                continue
            subprocess.run([*program, "resume", str(film)], check=True, **quiet)
            killed, same = killed + 1, same + (film.read_bytes() == whole.read_bytes())
            say(f"killed {killed} times: {same} films with the same bytes")
    return same


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how near films come to the picture that they end on, alone, in minutes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promises", description=main.__doc__)
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    parser.add_argument("--steps", type=int, default=6, help="denoising steps")
    parser.add_argument("--up-to", type=int, default=LONG_FRAMES, help="frames of the longest film")
    options = parser.parse_args(arguments)
    lines = ends(VideoPipeline.from_pretrained(options.model, device="cpu"), options.steps, options.up_to)
    sys.stdout.write("\n".join(table(HEAD, lines)) + "\n")


if __name__ == "__main__":
    main()
