"""Many clients while films are made on the same cores, and a server that works for long: `python -m benchmarks.load`.

The one invariant: a time is what a client waits, from its request to the last byte of the answer, and no answer is left
out, whatever it is.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.crowd import Crowd, Ledger, Order, Tally
from benchmarks.measure import machine, say
from benchmarks.served import ANSWER, PAGE, Server, put_section, resident
from everreel.evaluate.markdown import paragraph, table, verdict

P99_GOAL = 0.3  # seconds
GROWTH_GOAL = 0.05  # of the memory at the beginning of what is counted, over all of it
SAMPLE = 2.0  # seconds between two looks at the memory
WARM = 0.25  # of the soak, which is not counted: libraries are loaded, tables filled
KEPT = 20  # films of the soak that are kept at a time
MB = 1 << 20


@dataclass
class Times:
    """Seconds of every answer, by what was asked."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[int] = field(default_factory=Counter)
    films: list[str] = field(default_factory=list)
    frames: int = 0
    """Made meanwhile."""
    took: float = 0

    @property
    def all(self) -> list[float]:
        """Of everything."""
        return [second for group in self.seconds.values() for second in group]


@dataclass
class Soak:
    """Bytes of memory over time, by process."""

    seconds: float
    times: list[float] = field(default_factory=list)
    memory: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    films: int = 0
    failed: int = 0
    crowd: Tally = field(default_factory=Tally)

    @property
    def flat(self) -> bool:
        """Whether the memory of every process stays what it is."""
        ends = [self.growth(who) for who in self.memory]
        return all(abs(last - first) < GROWTH_GOAL * first for first, last, _ in ends)

    def growth(self, who: str) -> tuple[float, float, float]:
        """The first and the last of a line through what is counted, in bytes, and its slope in bytes an hour."""
        begin = next((number for number, at in enumerate(self.times) if at >= WARM * self.seconds), 0)
        times, memory = self.times[begin:], self.memory[who][begin:]
        if len(times) < 3:
            return math.nan, math.nan, math.nan
        slope, start = statistics.linear_regression(times, memory)
        return start + slope * times[0], start + slope * times[-1], slope * 3600


def order(number: int) -> dict[str, Any]:
    """The fields of a small film."""
    return {"prompt": f"a red fox, {number}", "num_frames": 17, "num_inference_steps": 2, "seed": number}


async def load(server: Server, clients: int, requests: int, pause: float, seed: int) -> Times:
    """Each client asks for its share of the films, and looks at what there is in between."""
    times, start = Times(), time.monotonic()
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    base = str(server.client.base_url)
    async with httpx2.AsyncClient(base_url=base, timeout=ANSWER, trust_env=False, limits=limits) as http:
        share = [requests // clients + (number < requests % clients) for number in range(clients)]
        await asyncio.gather(*(client(http, number, count, pause, seed, times) for number, count in enumerate(share)))
    times.took = time.monotonic() - start
    return times


async def client(http: httpx2.AsyncClient, number: int, count: int, pause: float, seed: int, times: Times) -> None:
    """One client, with pauses as people and programs make them."""
    draw = random.Random(seed * 1000 + number)

    async def ask(what: str, method: str, path: str, **more: Any) -> httpx2.Response:  # noqa: ANN401 -- of a request
        await asyncio.sleep(draw.uniform(0, 2 * pause))
        start = time.perf_counter()
        answer = await http.request(method, path, **more)
        times.seconds[what].append(time.perf_counter() - start)
        times.statuses[answer.status_code] += 1
        return answer

    for turn in range(count):
        made = await ask("ask for a film", "POST", "/v1/videos", json=order(1000 * number + turn))
        if made.status_code != 200:
            continue
        film = str(made.json()["id"])
        times.films.append(film)
        await ask("how a film stands", "GET", f"/v1/videos/{film}")
        await ask("how a film stands", "GET", f"/v1/videos/{draw.choice(times.films)}")
        if turn % 3 == 0:
            await ask("the list of films", "GET", "/v1/videos", params={"limit": "20"})
        if turn % 5 == 0:
            await ask("the models", "GET", "/v1/models")
            await ask(
                "a film's first bytes", "GET", f"/v1/videos/{times.films[0]}/content", headers={"Range": "bytes=0-99"}
            )


def made_frames(server: Server) -> int:
    """Frames of all films that are there, completed or in the making, as their progress says."""
    return sum(17 * film["progress"] // 100 for film in server.films().values())


def run_load(clients: int, requests: int, pause: float, seed: int) -> Times:
    """A server of its own, with a film in the making when the first client comes."""
    with Server(workers=1, page=True) as server:
        server.order("first", **order(0))
        deadline = time.monotonic() + ANSWER
        while not made_frames(server) and time.monotonic() < deadline:
            time.sleep(0.1)
        before = made_frames(server)
        times = asyncio.run(load(server, clients, requests, pause, seed))
        times.frames = made_frames(server) - before
    return times


def run_soak(seconds: float, seed: int, clients: int, every: float) -> Soak:
    """A server that always has something to make, a crowd at it, and old films that go."""
    soak, ledger, draw, start = Soak(seconds), Ledger(), random.Random(seed), time.monotonic()
    over = threading.Event()
    with Server(workers=1, page=True) as server:

        def sample() -> None:
            while not over.wait(SAMPLE):
                soak.times.append(time.monotonic() - start)
                soak.memory["server"].append(resident(server.pid))
                soak.memory["workers"].append(sum(map(resident, server.workers())))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            with Crowd(server, ledger, clients, every=every, seed=seed, films_go=True) as crowd:
                while time.monotonic() - start < seconds:
                    turn(server, ledger, draw, soak)
                    time.sleep(0.2)
        finally:
            over.set()
            thread.join()
        soak.crowd = crowd.tally
    return soak


def turn(server: Server, ledger: Ledger, draw: random.Random, soak: Soak) -> None:
    """Delete what is too much, order what is too little, and look at some."""
    films = server.films()
    done = [name for name, film in films.items() if film["status"] in ("completed", "failed")]
    for name in done[: max(len(films) - KEPT, 0)]:
        soak.films += 1
        soak.failed += films[name]["status"] == "failed"
        server.client.delete(f"/v1/videos/{name}")
    if len(films) - len(done) < 5:
        ledger.order(server, ledger.add(Order(order(len(ledger.orders)))))
    for name in draw.sample(list(films), min(3, len(films))):
        server.client.get(f"/v1/videos/{name}")
        server.client.get(f"/v1/videos/{name}/content")
    server.client.get("/metrics")


def load_section(times: Times, clients: int, requests: int, pause: float, command: str) -> list[str]:
    """For the page."""
    rows = [(what, *cells(seconds), "") for what, seconds in sorted(times.seconds.items())]
    p99 = quantile(times.all, 0.99)
    rows.append(("all of them", *cells(times.all), verdict(p99 < P99_GOAL)))
    statuses = ", ".join(f"{count} of {status}" for status, count in sorted(times.statuses.items()))
    about = (
        f"{clients} clients ask for {requests} films and look at what there is, each {pause:g} s after the last "
        f"answer on average, while a worker makes films on the same cores: {times.frames} frames in the "
        f"{times.took:.0f} s. Nobody is told to come later (`--requests-per-minute 0`); the page is served, and nobody "
        f"has it open. Goal: 99 of 100 answers within {1000 * P99_GOAL:g} ms. Answers by status: {statuses}."
    )
    lines = ["## Many clients", "", *paragraph(about), "", f"    {command}", ""]
    head = ("what", "answers", "median", "99 of 100", "slowest", "")
    return [*lines, *table(head, rows), "", *table(("machine", ""), machine().items())]


def soak_section(soak: Soak, command: str) -> list[str]:
    """For the page."""
    rows = []
    for who in sorted(soak.memory):
        first, last, slope = soak.growth(who)
        low, high = min(soak.memory[who]), max(soak.memory[who])
        met = verdict(abs(last - first) < GROWTH_GOAL * first)
        span = f"{low / MB:.0f} to {high / MB:.0f} MB"
        rows.append((who, span, f"{first / MB:.1f} MB", f"{last / MB:.1f} MB", f"{slope / MB:+.1f} MB", met))
    about = (
        f"{soak.seconds:g} seconds of work without a break: {soak.films} films made, looked at and deleted, "
        f"{soak.failed} failed. Meanwhile a crowd lists and polls, follows live streams and events, sends pictures to "
        "begin films with, fetches films whole and in ranges, and has the page open. After the first quarter, a "
        f"straight line through the memory that the processes hold: its ends may differ by {GROWTH_GOAL:.0%}."
    )
    lines = ["## Memory over time", "", *paragraph(about), "", f"    {command}", ""]
    lines += table(("process", "held", "begins at", "ends at", "an hour", ""), rows)
    return [*lines, "", *table(("what", "goal", "measured", ""), soak.crowd.rows())]


def cells(seconds: list[float]) -> tuple[str, ...]:
    """How many, the median, the 99th of a hundred, and the slowest."""
    found = (quantile(seconds, 0.5), quantile(seconds, 0.99), max(seconds, default=math.nan))
    return (str(len(seconds)), *(f"{1000 * second:.0f} ms" for second in found))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many are not above."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and write the page's sections where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=500, help="films that are asked for; 0: none, only the soak")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between an answer and the next request")
    parser.add_argument("--soak", type=float, default=0, help="seconds")
    parser.add_argument("--crowd", type=int, default=6, help="clients at the soak")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two pictures that a client sends")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    options = parser.parse_args(arguments)
    good, program = True, "python -m benchmarks.load"
    if options.requests:
        times = run_load(options.clients, options.requests, options.pause, options.seed)
        flags = f" --clients {options.clients} --requests {options.requests} --pause {options.pause:g}"
        lines = load_section(times, options.clients, options.requests, options.pause, program + flags)
        say("\n".join(lines))
        good = quantile(times.all, 0.99) < P99_GOAL and set(times.statuses) <= {200, 206, 404, 409}
        if options.write:
            put_section("load", lines)
    if options.soak:
        soak = run_soak(options.soak, options.seed, options.crowd, options.every)
        flags = f" --requests 0 --soak {options.soak:g}"
        for name in ("crowd", "every"):
            if (value := getattr(options, name)) != parser.get_default(name):
                flags += f" --{name} {value:g}"
        lines = soak_section(soak, program + flags)
        say("\n".join([*lines, *soak.crowd.wrong]))
        good = good and soak.flat and soak.crowd.good and not soak.failed
        if options.write:
            put_section("soak", lines)
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
