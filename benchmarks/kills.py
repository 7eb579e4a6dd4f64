"""`kill -9` of workers and of the server at random, under load: `python -m benchmarks.kills`.

The one invariant: the films of a server that was killed fifty times are, byte for byte, those of one that never was,
and there are as many as were asked for, whoever asked.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.crowd import Crowd, Ledger, Order, Tally
from benchmarks.measure import machine, say
from benchmarks.served import LONGEST, PAGE, Server, digest, put_section, settled
from everreel.evaluate.markdown import paragraph, table, verdict

QUEUED = 6  # films that wait or are made while there are kills


@dataclass
class Result:
    """What became of the films."""

    killed: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    listed: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    other: list[str] = field(default_factory=list)
    """Films that are not what they are undisturbed, by key."""
    midway: int = 0
    """Kills of a worker while it made a film."""
    seconds: float = 0
    undisturbed: float = 0
    pictures: int = 0
    """Films that begin with a picture that was sent."""
    crowd: Tally = field(default_factory=Tally)

    @property
    def good(self) -> bool:
        """Whether all is as it must be."""
        whole = self.listed == self.asked and self.ends == Counter({"completed": self.asked})
        return whole and not self.other and self.crowd.good


@dataclass(frozen=True)
class Setting:
    """What is made, and how it is disturbed."""

    kills: int = 50
    workers: int = 2
    frames: int = 97
    steps: int = 4
    shortest: float = 0.5
    longest: float = 10.0
    """Seconds between two kills."""
    servers: float = 0.5
    """The share of kills that are the server's."""
    crowd: int = 8
    """Clients at work meanwhile."""
    every: float = 10.0
    """Seconds between two orders of each of them that orders."""
    seed: int = 0

    def fields(self, number: int) -> dict[str, Any]:
        """Of a film."""
        return {
            "prompt": f"a red fox runs through forest number {number}",
            "num_frames": self.frames,
            "num_inference_steps": self.steps,
            "seed": number,
        }


def run(setting: Setting) -> Result:
    """The disturbed server first, then another for the same films."""
    result, ledger = Result(), Ledger()
    with tempfile.TemporaryDirectory() as name:
        start = time.monotonic()
        with Server(setting.workers, Path(name), page=True) as server:
            disturb(server, setting, ledger, result)
            films = settled(server)
            result.seconds = time.monotonic() - start
            result.asked, result.listed = len(ledger.orders), len(films)
            result.pictures = sum(order.picture is not None for order in ledger.orders.values())
            result.ends = Counter(film["status"] for film in films.values())
            found = {key: digest(server, film) for key, film in ledger.films.items() if film in films}
    start = time.monotonic()
    with Server(setting.workers) as server:
        truth = ledger.repeat(server)
        settled(server)
        result.other = [key for key, film in truth.items() if found.get(key) != digest(server, film)]
    result.undisturbed = time.monotonic() - start
    return result


def disturb(server: Server, setting: Setting, ledger: Ledger, result: Result) -> None:
    """Kill it while it is at work, and leave it with all that was ordered known to be taken."""
    draw, own = random.Random(setting.seed), list[str]()
    with Crowd(server, ledger, setting.crowd, every=setting.every, seed=setting.seed) as crowd:
        while sum(result.killed.values()) < setting.kills:
            fill(server, setting, ledger, own)
            pause(server, setting, draw)
            kill(crowd, setting, draw, own, result)
    for key in ledger.unknown():
        ledger.order(server, key)
    settled(server)
    crowd.settle()
    result.crowd = crowd.tally


def fill(server: Server, setting: Setting, ledger: Ledger, own: list[str]) -> None:
    """Order films until some wait. What is not known to have been taken is ordered again, by its key."""
    for _ in range(1000):
        with suppress(httpx2.TransportError):
            for key in ledger.unknown(own):
                ledger.order(server, key)
            going = sum(film["status"] in ("queued", "in_progress") for film in server.films().values())
            if going >= QUEUED:
                return
            own.append(ordered(setting, ledger))
    raise ValueError("server: takes no orders any more")


def ordered(setting: Setting, ledger: Ledger) -> str:
    """Another film in the ledger; its key."""
    return ledger.add(Order(setting.fields(len(ledger.orders))))


def pause(server: Server, setting: Setting, draw: random.Random) -> None:
    """Until the next kill. Half of them come while a film is being made, which takes a new worker a while to begin."""
    if draw.random() < 0.5:
        deadline = time.monotonic() + LONGEST
        while not in_the_making(server) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(draw.uniform(0, setting.shortest))
    else:
        time.sleep(draw.uniform(setting.shortest, setting.longest))


def in_the_making(server: Server) -> bool:
    """Whether a worker is at a film."""
    return any(film["status"] == "in_progress" and film["progress"] for film in server.films().values())


def kill(crowd: Crowd, setting: Setting, draw: random.Random, own: list[str], result: Result) -> None:
    """End one process, and start the server again if it was that one."""
    server = crowd.server
    workers = server.workers()
    if not workers or draw.random() < setting.servers:
        own.append(ordered(setting, crowd.ledger))
        kill_while_asked(crowd, draw, own[-1])
        result.killed["server"] += 1
        server.start()
    else:
        result.midway += in_the_making(server)
        with suppress(ProcessLookupError):
            os.kill(draw.choice(workers), signal.SIGKILL)
            result.killed["worker"] += 1
    say(f"killed {dict(result.killed)}")


def kill_while_asked(crowd: Crowd, draw: random.Random, key: str) -> None:
    """End the server while it takes an order, so that its client cannot know whether it has."""

    def ask() -> None:
        with suppress(httpx2.TransportError):
            answer = crowd.ledger.ask(crowd.server.client, key)
            if answer.status_code != 200:
                crowd.note(f"orders: {answer.status_code} {answer.text[:200]}")

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(draw.uniform(0, 0.05))
    crowd.server.kill()
    thread.join()


def section(result: Result, setting: Setting, command: str) -> list[str]:
    """For the page."""
    kills = ", ".join(f"{count} of a {what}" for what, count in sorted(result.killed.items()))
    ends = ", ".join(f"{count} {end}" for end, count in sorted(result.ends.items()))
    rows = [
        ("kills", str(setting.kills), f"{kills}; {result.midway} with a film in the making", ""),
        ("films asked for", "", f"{result.asked}, {result.pictures} of them from a picture that is sent", ""),
        ("films there are", str(result.asked), str(result.listed), verdict(result.listed == result.asked)),
        ("how they ended", "all completed", ends, verdict(result.ends == Counter({"completed": result.asked}))),
        ("films with other bytes than undisturbed", "0", str(len(result.other)), verdict(not result.other)),
        *result.crowd.rows(),
        ("time, restarts and what was made again included", "", f"{result.seconds:.0f} s", ""),
        ("time for the same films undisturbed", "", f"{result.undisturbed:.0f} s", ""),
    ]
    about = (
        f"Films of {setting.frames} frames in {setting.steps} steps, {setting.workers} workers, a kill -9 of the "
        f"server or of a worker, {setting.shortest:g} to {setting.longest:g} seconds after the last or when a film is "
        f"in the making. Meanwhile {setting.crowd} clients list, poll, follow live streams and events, send pictures "
        "to begin films with, fetch films whole and in ranges, and have the page open. A client whose request was cut "
        "off asks again with the same key of idempotency. Then the same films are made by a server that nobody kills, "
        "and compared byte for byte."
    )
    lines = ["## Killed at random", "", *paragraph(about), "", f"    {command}", ""]
    return [*lines, *table(("what", "goal", "measured", ""), rows), "", *table(("machine", ""), machine().items())]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and write the page's section where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    whole = Setting()
    for name in ("kills", "workers", "frames", "steps", "crowd", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(whole, name))
    for name in ("shortest", "longest", "servers", "every"):
        parser.add_argument(f"--{name}", type=float, default=getattr(whole, name))
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    given = vars(parser.parse_args(arguments))
    write, setting = given.pop("write"), Setting(**given)
    result = run(setting)
    changed = [f" --{name} {value}" for name, value in given.items() if value != getattr(whole, name)]
    lines = section(result, setting, f"python -m benchmarks.kills{''.join(changed)}")
    say("\n".join(lines))
    for key in result.other:
        say(f"film {key}: is not what it is undisturbed")
    for line in result.crowd.wrong:
        say(line)
    if write:
        put_section("kills", lines)
    if not result.good:
        sys.exit(1)


if __name__ == "__main__":
    main()
