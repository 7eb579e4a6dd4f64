"""How soon a film can be watched while it is made: `python -m benchmarks.live`.

A client asks for a film from a server whose worker is idle, and opens its live stream at once. The one invariant: times
are the client's, over HTTP; a block counts from when the worker has begun with the film.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import machine, say
from benchmarks.served import PAGE, Server, put_section
from everreel.evaluate.markdown import paragraph, table, verdict

STEPS_AT_ONCE = 4096  # bytes


@dataclass(frozen=True)
class Watched:
    """Seconds since the worker began, for one film."""

    first_bytes: float
    """Until the stream's first bytes."""
    block: float
    """Until the film's first block was on disk, as its events say."""
    whole: float
    equal: bool
    """Whether what was streamed is what is fetched later, but for the length that the header says."""


def watch(server: Server, number: int, num_frames: int) -> Watched:
    """Ask for a film, and watch it."""
    film = server.order(f"live-{number}", prompt=f"a red fox, {number}", num_frames=num_frames, seed=number)
    while server.films()[film]["state"] == "queued":
        time.sleep(0.01)
    began, first, data = time.perf_counter(), 0.0, b""
    with server.client.stream("GET", f"/v1/videos/{film}/stream") as answer:
        for piece in answer.iter_bytes(STEPS_AT_ONCE):
            if not data:
                first = time.perf_counter() - began
                frames = server.films()[film]["num_frames"]
                block = time.perf_counter() - began
            data += piece
    whole = time.perf_counter() - began
    kept = server.client.get(f"/v1/videos/{film}/content").content
    at = kept.find(b"mehd")
    same = len(kept) == len(data) and kept[:at] == data[:at] and kept[at + 16 :] == data[at + 16 :]
    assert frames < num_frames, "it is watched while it is made"
    return Watched(first, block, whole, same)


def section(found: Sequence[Watched], num_frames: int, blocks: int, command: str) -> list[str]:
    """For the page."""
    first, slowest = statistics.median(starts := [one.first_bytes for one in found]), max(starts)
    whole = statistics.median(one.whole for one in found)
    share = whole / blocks
    return [
        "## A film while it is made",
        "",
        *paragraph(
            f"{len(found)} films of {num_frames} frames in {blocks} blocks, one after the other, by a worker that has"
            " its model; medians. A block takes the film's time over its number of blocks."
        ),
        "",
        *table(
            ("what", "goal", "measured", ""),
            [
                ("first bytes of the live stream", f"within one block, {share:.2f} s", f"{first:.2f} s",
                 verdict(first <= share)),
                ("the slowest of them", "the same", f"{slowest:.2f} s", verdict(slowest <= share)),
                ("the whole film", "", f"{whole:.2f} s, {num_frames / 24:.1f} s to watch", ""),
                ("what was streamed is what is fetched later", "all", f"{sum(one.equal for one in found)} of"
                 f" {len(found)}", verdict(all(one.equal for one in found))),
            ],
        ),
        "",
        f"    {command}",
        "",
        *table(("machine", ""), machine().items()),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and write the page's section where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live", description=__doc__)
    parser.add_argument("--films", type=int, default=5)
    parser.add_argument("--num-frames", type=int, default=241)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    options = parser.parse_args(arguments)
    with Server() as server:
        plan = server.client.post(
            "/v1/videos/plan", json={"prompt": "a red fox", "num_frames": options.num_frames}
        ).json()
        watch(server, -1 % 1000, options.num_frames)  # the worker has its model then
        found = []
        for number in range(options.films):
            found.append(watch(server, number, options.num_frames))
            say(str(found[-1]))
    command = f"python -m benchmarks.live --films {options.films} --num-frames {options.num_frames}"
    lines = section(found, options.num_frames, plan["blocks"], command)
    say("\n".join(lines))
    if options.write:
        put_section("live", lines)


if __name__ == "__main__":
    main()
