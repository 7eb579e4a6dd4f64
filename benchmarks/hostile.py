"""Two hundred hostile files against what reads uploads, and against a whole server: `python -m benchmarks.hostile`.

The one invariant: every file ends as taken or as refused in one line; all else counts as a crash and is shown by name.
"""

from __future__ import annotations

import argparse
import resource
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from benchmarks.hostile_files import HIDDEN, Hostile, hostile_files, wholes
from benchmarks.measure import machine, say
from benchmarks.served import PAGE, Server, put_section, resident
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.film.request import RequestError
from everreel.media import read_image
from everreel.serve.jobs.job import Limits, Upload
from everreel.serve.jobs.uploads import AT_ONCE, MEMORY, inspect

MB = 1 << 20
PARENT_GOAL = 200 * MB  # that the server may grow by, at most


@dataclass
class Result:
    """What became of the files; `wrong` has a line for each that did not end as it must."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0
    slow: str = ""
    calls: int = 0
    """Connections that some file has led to."""
    grown: int = 0
    """Bytes of the process that took the files, more than before."""
    reader: int = 0
    """Bytes of the largest process that read one."""

    def end(self, hostile: Hostile, said: str, seconds: float) -> None:
        """Count one that is over."""
        self.ends[said] += 1
        if hostile.verdict not in ("either", said):
            self.wrong.append(f"{hostile.kind}, {hostile.name}: {said}, must be {hostile.verdict}")
        if seconds > self.slowest:
            self.slowest, self.slow = seconds, f"{hostile.kind}, {hostile.name}"


@contextmanager
def trap() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine that nobody has a reason to call, and who called."""
    calls: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    caller, place = listening.accept()
                except TimeoutError:
                    continue
                calls.append(str(place))
                caller.close()

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/", calls
        finally:
            over.set()
            thread.join()


def against_reader(count: int, seed: int, kinds: Sequence[str] = ()) -> Result:
    """Give the files to `uploads.inspect`, as many at once as it takes and more."""
    result = Result()
    with trap() as (address, calls), tempfile.TemporaryDirectory() as name:
        files = [file for file in hostile_files(count, seed, address) if not kinds or file.kind in kinds]
        folder, before = Path(name), resident()
        with ThreadPoolExecutor(2 * AT_ONCE) as pool:
            list(pool.map(lambda each: look(each[1], folder / str(each[0]), result), enumerate(files)))
        result.calls = len(calls)
        result.grown = max(resident() - before, 0)
    result.reader = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return result


def look(hostile: Hostile, folder: Path, result: Result) -> None:
    """Have one file read."""
    folder.mkdir()
    path, start = folder / "sent", time.perf_counter()
    path.write_bytes(hostile.data)
    try:
        found: Upload | None = inspect(path, Limits())
        said = "accepted"
    except RequestError as error:
        found, said = None, "refused"
        if "\n" in str(error) or str(folder) in str(error) or not str(error).startswith("upload"):
            result.wrong.append(f"{hostile.kind}, {hostile.name}: said {error!r}")
    except Exception as error:  # what must not be
        found, said = None, "crashed"
        result.wrong.append(f"{hostile.kind}, {hostile.name}: {error!r}")
    result.end(hostile, said, time.perf_counter() - start)
    if list(folder.iterdir()) != [path]:
        result.wrong.append(f"{hostile.kind}, {hostile.name}: left {[each.name for each in folder.iterdir()]}")
    if found is None and path.read_bytes() != hostile.data:
        result.wrong.append(f"{hostile.kind}, {hostile.name}: was refused and changed")
    if found is not None and found.kind == "image":
        if any(word in path.read_bytes() for word in HIDDEN):
            result.wrong.append(f"{hostile.kind}, {hostile.name}: what was hidden in it is there still")
        if found.width * found.height < MB and read_image(path).shape != (found.height, found.width, 3):
            result.wrong.append(f"{hostile.kind}, {hostile.name}: is not of the size that was said")


def against_server(count: int, seed: int) -> Result:
    """Send the files to a server that makes films meanwhile; what it takes is to begin or to precede a film."""
    result = Result()
    with trap() as (address, calls), Server(workers=1) as server:
        files = hostile_files(count, seed, address)
        for kind in ("PNG", "MP4"):  # what any picture and any film takes is no fault of these
            send(Hostile("whole", kind, wholes()[kind], "accepted"), server, Result())
        before = resident(server.pid)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda each: send(each, server, result), files))
        result.calls, result.grown = len(calls), max(server.peak() - before, 0)
        if not server.healthy():
            result.wrong.append("the server does not answer any more")
    return result


def send(hostile: Hostile, server: Server, result: Result) -> None:
    """Ask for a film with one file."""
    start = time.perf_counter()
    given = {"prompt": "a red fox", "num_frames": "17", "num_inference_steps": "1"}
    try:
        answer = server.client.post("/v1/videos", data=given, files={"input_reference": ("a.png", hostile.data)})
    except httpx2.HTTPError as error:
        result.end(hostile, "crashed", time.perf_counter() - start)
        result.wrong.append(f"{hostile.kind}, {hostile.name}: {error!r}")
        return
    said = "accepted" if answer.status_code == 200 else "refused" if 400 <= answer.status_code < 500 else "crashed"
    if said == "crashed":
        result.wrong.append(f"{hostile.kind}, {hostile.name}: {answer.status_code} {answer.text[:200]}")
    if said == "accepted":
        server.client.delete(f"/v1/videos/{answer.json()['id']}")
    if said == "refused" and hostile.verdict == "accepted":
        said = "accepted"  # as a file; the film that would follow from it is another question
    result.end(hostile, said, time.perf_counter() - start)


def section(found: dict[str, Result], command: str) -> list[str]:
    """For the page."""
    rows = []
    for where, result in found.items():
        ends = ", ".join(f"{count} {said}" for said, count in sorted(result.ends.items()))
        rows += [
            (f"{where}: files", "none crashes", ends, verdict(not result.ends["crashed"])),
            (f"{where}: ended otherwise than it must", "0", str(len(result.wrong)), verdict(not result.wrong)),
            (f"{where}: connections that a file led to", "0", str(result.calls), verdict(not result.calls)),
            (
                f"{where}: memory of the process that took them, more than before",
                f"under {PARENT_GOAL // MB} MB",
                f"{result.grown / MB:.0f} MB",
                verdict(result.grown < PARENT_GOAL),
            ),
        ]
        if result.reader:
            goal = verdict(result.reader < MEMORY)
            rows.append(
                (f"{where}: the largest reader", f"under {MEMORY // MB} MB", f"{result.reader / MB:.0f} MB", goal)
            )
        rows.append((f"{where}: the slowest", "", f"{result.slowest:.1f} s, {result.slow}", ""))
    lines = [
        "## Hostile files",
        "",
        *paragraph(
            "Pictures and films that are damaged at random, bombs, headers that lie, files that are something else to "
            "another reader, and what makes a reader open a file or an address: each is taken or refused in one line."
        ),
        "",
        f"    {command}",
        "",
        *table(("what", "goal", "measured", ""), rows),
    ]
    return [*lines, "", *table(("machine", ""), machine().items())]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and write the page's section where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", action="store_true", help="also against `everreel serve`")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    options = parser.parse_args(arguments)
    found = {"reader": against_reader(options.count, options.seed)}
    if options.server:
        found["server"] = against_server(options.count, options.seed)
    for where, result in found.items():
        for line in result.wrong:
            say(f"{where}: {line}")
    flags = f" --count {options.count} --seed {options.seed}{' --server' if options.server else ''}"
    lines = section(found, f"python -m benchmarks.hostile{flags}")
    say("\n".join(lines))
    if options.write:
        put_section("hostile", lines)
    if any(result.wrong or result.calls for result in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
