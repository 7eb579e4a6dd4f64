"""A disk that fills while twenty films are made: `python -m benchmarks.full_disk FOLDER`, on a disk of 800 MB or so.

    mount -t tmpfs -o size=800m tmpfs FOLDER

The one invariant: the disk is really full, to the last byte, until it is not; films that waited are, byte for byte,
those of a disk that never was. It fills when every worker is at a film, and stays full until every film has met that.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.crowd import Ledger, Order, place
from benchmarks.measure import machine, say
from benchmarks.served import LONGEST, PAGE, Server, digest, put_section, settled
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.serve.jobs.store import RESERVE

FILM_BYTES = 16_000_000  # what a film in the making has on the disk: its journal, most of all
FULL, LONGEST_FULL = 25.0, 300.0  # seconds that it stays full at least, and at most
WAITS = "the disk is full"  # a film that does so


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
    running: int = 2
    """Films that were in progress when the disk filled."""
    full: float = 0
    """Seconds that it was full."""
    said: set[str] = field(default_factory=set)
    """What those answers said."""
    looks: Counter[int] = field(default_factory=Counter)
    """Answers to who looked at films meanwhile, by status."""


@dataclass(frozen=True)
class Setting:
    """What is made."""

    films: int = 20
    workers: int = 20
    frames: int = 241
    steps: int = 2
    threads: int = 1
    """Of each worker."""
    longest: float = LONGEST_FULL
    """Seconds that the disk stays full at most."""

    def order(self, number: int) -> Order:
        """A film that takes long enough for all to be begun before the first is done."""
        prompt = f"a red fox, {number}"
        sizes = {"num_frames": self.frames, "num_inference_steps": self.steps}
        return Order({"prompt": prompt, "seed": number, **sizes})


def is_sentence(said: str) -> bool:
    """Whether it is one, of the disk, and names no path."""
    return "disk" in said and not any(mark in said for mark in ("\n", ". ", "/"))


def going(films: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those in progress, of which something is done."""
    return [film for film in films.values() if film["status"] == "in_progress" and film["row"]]


def all_begun(server: Server, workers: int) -> int:
    """Wait until every worker is at a film; how many films that are.

    Raises:
        ValueError: one was over before, or nothing happens for too long.
    """
    deadline = time.monotonic() + LONGEST
    while True:
        films = server.films()
        if len(going(films)) == workers:
            return workers
        if over := sum(film["status"] in ("completed", "failed") for film in films.values()):
            raise ValueError(f"films: {over} over before {workers} were in progress; take more --frames")
        if time.monotonic() > deadline:
            raise ValueError(f"films: only {len(going(films))} in progress")
        time.sleep(0.2)


@contextmanager
def filling(junk: Path, result: Result) -> Iterator[None]:
    """Take every byte that there is, at once again where one becomes free: as films that fail drop what they wrote."""
    over, full = threading.Event(), threading.Event()

    def take() -> None:
        while not over.wait(0.002):
            with suppress(OSError):
                while True:
                    result.filled += file.write(b"x" * 65536) or 0
            full.set()

    thread = threading.Thread(target=take)
    with junk.open("wb", buffering=0) as file:
        thread.start()
        try:
            full.wait()
            yield
        finally:
            over.set()
            thread.join()
            junk.unlink()


def fill(server: Server, setting: Setting, junk: Path, result: Result) -> None:
    """Have the disk full until all films in progress have met that, and order and look meanwhile."""
    began, number = time.monotonic(), setting.films
    with filling(junk, result):
        while result.full < setting.longest:
            result.full, number = time.monotonic() - began, number + 1
            ask(server, number, result)
            films = server.films()
            waiting = sum(film["waiting"] == WAITS for film in films.values())
            if waiting > result.waited:
                result.waited = waiting
                say(f"full for {result.full:.0f} s: {waiting} of {result.running} films wait")
            if result.full > FULL and result.waited == result.running:
                break
            time.sleep(0.5)


def ask(server: Server, number: int, result: Result) -> None:
    """Order another film on the full disk, by turns with a picture, and look at those that are there."""
    kinds = (Order({"prompt": "a red fox"}), Order({"prompt": "a red fox"}, number))
    refused = place(server.client, f"more-{number}", (*kinds, Order({"prompt": "a red fox"}, number, True))[number % 3])
    result.refused[refused.status_code] += 1
    result.said.add(str(refused.json()["error"]["message"]) if refused.status_code != 200 else "taken")
    for path in ("/v1/videos", f"/v1/videos/{next(iter(server.films()))}", "/metrics", "/healthz", "/readyz"):
        result.looks[server.client.get(path).status_code] += 1


def run(folder: Path, setting: Setting) -> Result:
    """Films on a disk that fills, and the same ones on one that does not."""
    result, ledger, home = Result(), Ledger(), folder / "everreel-full-disk"
    needed = RESERVE + setting.films * FILM_BYTES  # with less the films fill it, and wait for one another for ever
    if (free := shutil.disk_usage(folder).free) < needed:
        raise ValueError(f"folder={folder}: {free // 10**6} MB free; {setting.films} films need {needed // 10**6} MB")
    home.mkdir()
    try:
        with Server(setting.workers, home, page=True, threads=setting.threads) as server:
            for number in range(setting.films):
                ledger.order(server, ledger.add(setting.order(number)))
            result.running = all_begun(server, min(setting.workers, setting.films))
            fill(server, setting, folder / "everreel-junk", result)
            result.ends = Counter(film["status"] for film in settled(server).values())
            found = {key: digest(server, film) for key, film in ledger.films.items()}
    finally:
        shutil.rmtree(home)
    with Server(workers=2, threads=setting.threads) as server:
        truth = ledger.repeat(server)
        settled(server)
        result.equal = sum(digest(server, film) == found[key] for key, film in truth.items())
    return result


def section(result: Result, command: str, setting: Setting | None = None) -> list[str]:
    """For the page."""
    setting = setting or Setting()
    about = (
        f"{setting.films} films of {setting.frames} frames in {setting.steps} steps, {setting.workers} workers of "
        f"{setting.threads} thread each; when {result.running} films were in progress the disk was full for "
        f"{result.full:.0f} s, {result.filled >> 20} MB of it by something else."
    )
    refused, looks = (
        ", ".join(f"{count} of {status}" for status, count in sorted(counts.items()))
        for counts in (result.refused, result.looks)
    )
    said = " / ".join(f"'{one}'" for one in sorted(result.said))
    ends = ", ".join(f"{count} {end}" for end, count in sorted(result.ends.items()))
    completed, equal = result.ends == Counter(completed=setting.films), result.equal == setting.films
    rows = [
        ("films in progress that waited", str(result.running), str(result.waited),
         verdict(result.waited == result.running)),
        ("answers to new orders meanwhile", "507", refused, verdict(set(result.refused) == {507})),
        ("what they said", "a sentence", said, verdict(all(map(is_sentence, result.said)))),
        ("answers to who looked meanwhile", "200", looks, verdict(set(result.looks) <= {200})),
        ("how films ended", "all completed", ends, verdict(completed)),
        ("films with the bytes of an empty disk's", str(setting.films), str(result.equal), verdict(equal)),
    ]  # fmt: skip
    lines = ["## A full disk", "", *paragraph(about), "", f"    {command}", ""]
    return [*lines, *table(("what", "goal", "measured", ""), rows), "", *table(("machine", ""), machine().items())]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and write the page's section where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_disk", description=__doc__)
    parser.add_argument("folder", type=Path, help="on a small disk; nothing else may need it")
    whole = Setting()
    for name in ("films", "workers", "frames", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(whole, name))
    parser.add_argument("--longest", type=float, default=whole.longest, help="seconds that the disk is full at most")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    given = vars(parser.parse_args(arguments))
    folder, write, setting = given.pop("folder"), given.pop("write"), Setting(**given)
    changed = [f" --{name} {value}" for name, value in given.items() if value != getattr(whole, name)]
    lines = section(run(folder, setting), f"python -m benchmarks.full_disk FOLDER{''.join(changed)}", setting)
    say("\n".join(lines))
    if write:
        put_section("full_disk", lines)
    if "**missed**" in "\n".join(lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
