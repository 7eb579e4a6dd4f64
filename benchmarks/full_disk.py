"""A disk that fills while twenty films are made: `python -m benchmarks.full_disk FOLDER`, on a disk of 300 MB or so.

    mount -t tmpfs -o size=300m tmpfs FOLDER

The one invariant: the disk is really full, to the last byte, until it is not; films that waited are, byte for byte,
those of a disk that never was.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, say
from benchmarks.served import PAGE, Server, put_section
from everreel.evaluate.markdown import paragraph, table, verdict

FILMS, BEFORE = 20, 3  # films, and how many are done when the disk fills
FULL = 25.0  # seconds that it stays full


@dataclass
class Result:
    """What became of the films."""

    filled: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    """Answers to new orders while the disk was full, by status."""
    waited: int = 0
    """Films in progress that said so."""
    ends: Counter[str] = field(default_factory=Counter)
    equal: int = 0


def order(number: int) -> dict[str, Any]:
    """The fields of a small film."""
    return {"prompt": f"a red fox, {number}", "num_frames": 49, "num_inference_steps": 2, "seed": number}


def made(server: Server) -> list[str]:
    """Digests of all films, in their order, when all are over."""
    while not all(film["status"] in ("completed", "failed") for film in server.films().values()):
        time.sleep(0.3)
    contents = (server.client.get(f"/v1/videos/{film}/content").content for film in server.films())
    return [hashlib.sha256(content).hexdigest() for content in contents]


def fill(server: Server, junk: Path, result: Result) -> None:
    """Take every byte that there is, again and again, for a while."""
    began = time.monotonic()
    with junk.open("wb", buffering=0) as file:
        while time.monotonic() - began < FULL:
            with suppress(OSError):
                while True:
                    result.filled += file.write(b"x" * 65536) or 0
            result.refused[server.client.post("/v1/videos", json=order(FILMS)).status_code] += 1
            time.sleep(0.5)
        result.waited = sum(film["waiting"] == "the disk is full" for film in server.films().values())
    junk.unlink()


def run(folder: Path) -> Result:
    """Films on a disk that fills, and the same ones on one that does not."""
    result, home = Result(), folder / "everreel-full-disk"
    home.mkdir()
    try:
        with Server(workers=2, home=home) as server:
            for number in range(FILMS):
                server.order(str(number), **order(number))
            while sum(film["status"] == "completed" for film in server.films().values()) < BEFORE:
                time.sleep(0.2)
            fill(server, folder / "everreel-junk", result)
            found = made(server)
            result.ends = Counter(film["status"] for film in server.films().values())
    finally:
        shutil.rmtree(home)
    with Server(workers=2) as server:
        for number in range(FILMS):
            server.order(str(number), **order(number))
        result.equal = sum(one == other for one, other in zip(found, made(server), strict=True))
    return result


def section(result: Result, command: str) -> list[str]:
    """For the page."""
    said = f"{FILMS} films of 49 frames, 2 workers; after {BEFORE} of them the disk was full for {FULL:.0f} s"
    refused = ", ".join(f"{count} of {status}" for status, count in sorted(result.refused.items()))
    good = result.ends == Counter(completed=FILMS)
    return [
        "## A full disk",
        "",
        *paragraph(f"{said}, {result.filled >> 20} MB of it by something else."),
        "",
        f"    {command}",
        "",
        *table(
            ("what", "goal", "measured", ""),
            [
                ("films in progress that waited", "2", str(result.waited), verdict(result.waited == 2)),
                ("answers to new orders meanwhile", "507", refused, verdict(set(result.refused) == {507})),
                ("how films ended", "all completed", f"{result.ends['completed']} completed", verdict(good)),
                ("films with the bytes of an empty disk's", str(FILMS), str(result.equal),
                 verdict(result.equal == FILMS)),
            ],
        ),
        "",
        *table(("machine", ""), machine().items()),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and write the page's section where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_disk", description=__doc__)
    parser.add_argument("folder", type=Path, help="on a small disk; nothing else may need it")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    options = parser.parse_args(arguments)
    lines = section(run(options.folder), "python -m benchmarks.full_disk FOLDER")
    say("\n".join(lines))
    if options.write:
        put_section("full_disk", lines)


if __name__ == "__main__":
    main()
