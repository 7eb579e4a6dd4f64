"""Captions of thousands of files, by a command that is killed again and again: `python -m benchmarks.many_captions`.

A folder of short films, of which every so many is broken, is captioned by `everreel caption` in a process of its own,
with `kill -9` at random, until it is done; then lists and tables go in and out. A film is there many times, as a link,
so that what is said of each can be held against what an undisturbed run says of the same film. The one invariant: a
file counts as captioned only where the table has it once, with the words of the undisturbed run, and as skipped only
where the list has it once, with a reason of its kind.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.captions import Clip, encode
from benchmarks.measure import page_head, say
from benchmarks.served import most_resident
from everreel.data.draws import generator_for
from everreel.data.sources import read_rows
from everreel.evaluate.markdown import paragraph, table, verdict
from everreel.world.render import render
from everreel.world.scene import sample_scene

PAGE = Path(__file__).parents[1] / "docs" / "many-captions.md"
MOST_GROWTH = 0.05  # of a process's memory, from a tenth of its films to its end
LOOK, STUCK = 0.05, 600.0  # seconds between two looks at a process, and for which it may write nothing
LENGTHS = (1, 9, 17, 25, 33, 49, 73, 97)
SIZES = ((96, 160), (160, 96), (120, 160))
CODECS = ((".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx-vp9"), (".mov", "libx264"))
CAPTIONS = ("structural_caption", "t2v_fusion_caption", "i2v_fusion_caption")
FILMS, LISTING = "films", ".skipped.txt"
A_FOLDER = "a folder with a film's name"
BROKEN = {
    "a film that is cut off in its middle": ("is cut off, its end is missing",),
    "an empty file": ("is empty: 0 bytes",),
    "a text": ("cannot be read as a film", "is a picture or a text"),
    "noise": ("cannot be read as a film", "has no pictures in it", "has no frame that can be decoded"),
    "a sound": ("has no pictures in it",),
    "a link to nothing": ("does not exist",),
    A_FOLDER: ("is a folder",),
}
"""What a file may be instead of a film, and what may be said of it."""


@dataclass(frozen=True)
class Setting:
    """What is captioned, and how it is disturbed."""

    files: int = 2000
    scenes: int = 24
    """Films that really differ; the others are links to these."""
    every: int = 20
    """One file in so many is broken."""
    part: int = 200
    """Files of a folder; what the first folder holds is captioned undisturbed too, and from tables."""
    kills: int = 8
    table_kills: int = 2
    """Of each run from a table."""
    seed: int = 0

    def __post_init__(self) -> None:
        first = min(self.files, self.part)
        if first - first // self.every < self.scenes:
            raise ValueError(f"scenes = {self.scenes}: the first {first} files must hold each; fewer scenes work")


@dataclass(frozen=True)
class File:
    """A file of the folder: a link to the film of a scene, or what is broken in this way."""

    number: int
    name: str
    scene: int = -1
    kind: str = ""

    @property
    def note(self) -> str:
        """What a table has beside it."""
        return f'take {self.number}, "by hand"'


@dataclass(frozen=True)
class Moment:
    """When a process is killed: so many seconds after it has so many lines."""

    lines: int
    seconds: float


@dataclass
class Seen:
    """What a process did: whether it was killed, what it said at its end, and how it went on."""

    killed: bool = False
    said: str = ""
    seconds: float = 0.0
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds, lines, and the most memory so far."""

    @property
    def lines(self) -> int:
        """How many it wrote."""
        return self.samples[-1][1] - self.samples[0][1]

    def after(self, lines: int) -> tuple[float, int, int]:
        """The first sample at which it had written so many lines, or all that it wrote."""
        enough = self.samples[0][1] + min(lines, self.lines)
        return next(sample for sample in self.samples if sample[1] >= enough)

    @property
    def seconds_a_film(self) -> float:
        """From the first film on, without what comes before."""
        (begin, first, _), (end, last, _) = self.after(1), self.after(self.lines)
        return (end - begin) / max(1, last - first)


@dataclass
class Check:
    """What became of a list of files; the names of those with which something is wrong."""

    captions: int = 0
    skipped: int = 0
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    """Another caption than undisturbed, or another note than in the table that they came from."""
    unlisted: list[str] = field(default_factory=list)
    """Broken and not listed once for a reason of their kind, or listed and not broken."""

    @property
    def wrong(self) -> list[str]:
        """All that are."""
        return [*self.missing, *self.doubled, *self.other, *self.unlisted]


@dataclass
class Result:
    """What was found."""

    good: int
    kinds: Counter[str]
    kills: int = 0
    lost: int = 0
    """Kills after which a row was gone or another."""
    whole: Check = field(default_factory=Check)
    as_undisturbed: bool = False
    last: Seen = field(default_factory=Seen)
    again: Seen = field(default_factory=Seen)
    tables: list[tuple[str, Check, int, Seen]] = field(default_factory=list)
    """From what into what, how that ended, kills, and the process that came to its end."""

    @property
    def fine(self) -> bool:
        """Whether all is as it must be."""
        checks = [self.whole, *(check for _, check, *_ in self.tables)]
        return self.as_undisturbed and not self.lost and not any(check.wrong for check in checks)


def run(setting: Setting) -> Result:
    """Make the files, caption them disturbed and undisturbed, and give lists and tables in and out."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        files = make_files(home, setting)
        first = [file for file in files if file.name.startswith("part-000/")]
        say(f"{len(files)} files are there; the first {len(first)} undisturbed")
        caption(home, f"{FILMS}/part-000", "undisturbed.jsonl")
        captions = {row["path"]: row for _, row in read_rows(home / "undisturbed.jsonl") if isinstance(row, dict)}
        truth = {file.scene: captions[f"{FILMS}/{file.name}"] for file in first if not file.kind}
        found = Result(sum(not file.kind for file in files), Counter(file.kind for file in files if file.kind))
        disturbed(home, setting, files, truth, found)
        undisturbed = (home / "undisturbed.jsonl").read_bytes()
        found.as_undisturbed = (home / "captions.jsonl").read_bytes().startswith(undisturbed)
        from_tables(home, setting, first, truth, found)
        fused(home, files, truth, found)
    return found


def disturbed(
    home: Path, setting: Setting, files: Sequence[File], truth: Mapping[int, Mapping[str, Any]], found: Result
) -> None:
    """The whole folder, killed as often as is asked for; the last process is left alone for more than half of it."""
    output, draw = home / "captions.jsonl", random.Random(setting.seed)
    lines = sorted(draw.sample(range(1, max(setting.kills, 2 * found.good // 5)), setting.kills - 1))
    held: list[bytes] = []
    for moment in (Moment(0, draw.uniform(0.5, 4)), *(Moment(each, draw.uniform(0, 0.5)) for each in lines)):
        seen = caption(home, FILMS, output.name, moment)
        found.kills += seen.killed
        held.append(whole_lines(output))
        there = held[-1].count(b"\n")
        say(f"kill {found.kills} of {setting.kills}: {there} captions are there")
    found.last = caption(home, FILMS, output.name)
    found.lost = sum(not output.read_bytes().startswith(each) for each in held)
    searched = [file for file in files if file.kind != A_FOLDER]
    found.whole = check(output, searched, truth, lambda file: f"{FILMS}/{file.name}")
    found.again = caption(home, FILMS, output.name)
    if ", 0 of them new," not in found.again.said:
        raise ValueError(f"caption: a run with nothing to do said {found.again.said!r}")


def from_tables(
    home: Path, setting: Setting, files: Sequence[File], truth: Mapping[int, Mapping[str, Any]], found: Result
) -> None:
    """The first folder once more, from lists with columns of their own, killed too."""
    draw = random.Random(setting.seed + 1)
    rows = [{"id": file.number, "path": file.name, "note": file.note} for file in files]
    with (home / FILMS / "list.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), home / FILMS / "list.parquet")
    for source, output in (("list.csv", "from-csv.parquet"), ("list.parquet", "from-parquet.csv")):
        kills = 0
        for _ in range(setting.table_kills):
            moment = Moment(draw.randrange(1, max(2, len(files) // 2)), draw.uniform(0, 0.5))
            kills += caption(home, f"{FILMS}/{source}", output, moment).killed
        seen = caption(home, f"{FILMS}/{source}", output)
        ended = check(home / output, files, truth, lambda file: file.name, noted=True)
        endings = f"a list in {Path(source).suffix} into captions in {Path(output).suffix}"
        found.tables.append((endings, ended, kills, seen))
        say(f"{endings}: {ended.captions} captions, {ended.skipped} skipped")


def fused(home: Path, files: Sequence[File], truth: Mapping[int, Mapping[str, Any]], found: Result) -> None:
    """All rows from table to table: they have structured captions, so that no film is read."""
    good = [file for file in files if not file.kind]
    chain = ("captions.jsonl", "fused.parquet", "fused.csv", "fused.jsonl")
    for source, output in pairwise(chain):
        seen = caption(home, source, output)
        ended = check(home / output, good, truth, lambda file: f"{FILMS}/{file.name}")
        endings = f"captions in {Path(source).suffix} into captions in {Path(output).suffix}"
        found.tables.append((endings, ended, 0, seen))
        say(f"{endings}: {ended.captions} captions")


def make_files(home: Path, setting: Setting) -> list[File]:
    """Films of scenes that differ, in several containers and lengths, and the folder full of links to them."""
    (home / "scenes").mkdir()
    sources = []
    for number in range(setting.scenes):
        ending, codec = CODECS[number % len(CODECS)]
        length, size = LENGTHS[number % len(LENGTHS)], SIZES[number % len(SIZES)]
        scene = sample_scene(generator_for(setting.seed, "many captions", number), "held_out")
        frames = render(scene, length, height=size[0], width=size[1], fps=24)
        sources.append(home / "scenes" / f"{number}{ending}")
        encode(sources[-1], frames, Clip("", scene, size=size, frames=length, codec=codec))
    files = []
    for number in range(setting.files):
        broken, place = divmod(number, setting.every)
        scene_of = (number - broken) % setting.scenes
        source = sources[scene_of]
        name = f"part-{number // setting.part:03d}/{number:06d}{source.suffix}"
        path = home / FILMS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if place == setting.every - 1:
            files.append(File(number, name, kind=list(BROKEN)[broken % len(BROKEN)]))
            break_file(path, files[-1].kind, source, number)
        else:
            files.append(File(number, name, scene_of))
            os.link(source, path)
    return files


def break_file(path: Path, kind: str, film: Path, number: int) -> None:
    """What is no film under a film's name."""
    if kind == A_FOLDER:
        path.mkdir()
    elif kind == "a link to nothing":
        path.symlink_to("gone.mp4")
    elif kind == "a sound":
        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(16000))
    else:
        whole = film.read_bytes()
        noise = random.Random(number).randbytes(5000)
        words = b"This is no film, whatever its name says.\n" * 100
        contents = {"an empty file": b"", "a text": words, "noise": noise}
        path.write_bytes(contents.get(kind, whole[: len(whole) // 2]))


def caption(home: Path, source: str, output: str, moment: Moment | None = None) -> Seen:
    """`everreel caption SOURCE -o OUTPUT` to its end, or until a moment comes.

    Raises:
        ValueError: it failed, or writes nothing any more.
    """
    grows = home / (f"{output}.part.jsonl" if output.endswith(".parquet") else output)
    command = [sys.executable, "-m", "everreel", "caption", source, "-o", output]
    with (home / "said.txt").open("w") as said, (home / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=said, stderr=log, cwd=home)
        try:
            seen = watch(process, grows, moment)
        finally:
            process.kill()
            ended = process.wait()
    seen.said, seen.killed = (home / "said.txt").read_text().strip(), ended == -signal.SIGKILL
    if ended and not (seen.killed and moment is not None):
        raise ValueError(f"caption: {source} ended with {ended}: {(home / 'log.txt').read_text()[-500:]}")
    return seen


def watch(process: subprocess.Popen[bytes], grows: Path, moment: Moment | None) -> Seen:
    """Look at a process and at its file until it ends, or kill it when the moment comes.

    Raises:
        ValueError: nothing happens for too long.
    """
    seen, start = Seen(), time.monotonic()
    lines, memory, wrote, reached = -1, 0, start, math.inf
    while True:
        over, now, before = process.poll() is not None, time.monotonic(), lines
        lines, memory = whole_lines(grows).count(b"\n"), max(memory, most_resident(process.pid))
        seen.samples.append((now - start, lines, memory))
        if over:
            seen.seconds = now - start
            return seen
        wrote = now if lines != before else wrote
        if now - wrote > STUCK:
            raise ValueError(f"caption: {grows.name} has not grown for {STUCK:.0f} s")
        if moment is not None and lines >= moment.lines:
            reached = min(reached, now)
            if now - reached >= moment.seconds:
                process.kill()
        time.sleep(LOOK)


def whole_lines(file: Path) -> bytes:
    """What a file holds up to its last line's end; nothing of one that is not there."""
    data = file.read_bytes() if file.is_file() else b""
    return data[: data.rfind(b"\n") + 1]


def check(
    output: Path,
    files: Iterable[File],
    truth: Mapping[int, Mapping[str, Any]],
    name_of: Callable[[File], str],
    *,
    noted: bool = False,
) -> Check:
    """Hold a table and its list of what was skipped against the files that were asked for."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for _, row in read_rows(output):
        assert isinstance(row, dict), row
        rows.setdefault(row["path"], []).append(row)
    listing, listed = output.with_name(output.name + LISTING), dict[str, list[str]]()
    for line in listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []:
        name, _, reason = line.partition(": ")
        listed.setdefault(name, []).append(reason)
    found = Check(sum(map(len, rows.values())), sum(map(len, listed.values())))
    for file in files:
        name = name_of(file)
        there, reasons = rows.pop(name, []), listed.pop(name, [])
        if file.kind:
            is_listed = len(reasons) == 1 and reasons[0].startswith(BROKEN[file.kind])
            found.unlisted += [] if is_listed and not there else [name]
            continue
        wanted = {column: truth[file.scene][column] for column in CAPTIONS}
        wanted |= {"id": str(file.number), "note": file.note} if noted else {}
        found.missing += [] if there else [name]
        found.doubled += [name] if len(there) > 1 else []
        found.other += [name] if any(str(row[key]) != wanted[key] for row in there for key in wanted) else []
        found.unlisted += [name] if reasons else []
    found.other += rows  # that nobody asked for
    found.unlisted += listed
    return found


def page(found: Result, setting: Setting, command: str) -> str:
    """The whole page."""
    lines = page_head("Captions of thousands of files", command)
    lines += paragraph(
        f"{setting.files} files in folders of {setting.part}, of which one in {setting.every} is broken. The films are "
        f"links to {setting.scenes} films of the film world, of {min(LENGTHS)} to {max(LENGTHS)} frames, in MP4, MOV, "
        "Matroska and WebM. The command is that of any user, in a process of its own, killed with signal 9: once while "
        "it starts, else as soon as so many captions are there as was drawn, and up to half a second. The same command "
        "then goes on."
    )
    lines += ["", f"    everreel caption {FILMS} -o captions.jsonl", "", *_whole_table(found), ""]
    lines += ["## Speed and memory", ""]
    lines += paragraph(
        "Of the last process, which begins where the last kill was. Memory is the most that it has held, libraries and "
        "weights included: after a tenth of its films, or when each that differs has been there, and at its end."
    )
    lines += ["", *_cost_table(found, setting.scenes), "", "## Tables in and out", ""]
    lines += paragraph(
        "The files of the first folder once more, from lists with columns of their own, each run killed too; then all "
        "captions from table to table, of which only the fused captions are made anew. All is compared with the "
        "undisturbed run, what was skipped included."
    )
    lines += ["", *_tables_table(found), "", "## What was broken", ""]
    lines += paragraph(
        "Each is listed once, with its reason, in the file beside the table. A folder with a film's name is searched "
        "where it lies in a folder, and is listed where a list names it."
    )
    kinds = [(kind, str(found.kinds[kind]), " or ".join(f'"{each}"' for each in BROKEN[kind])) for kind in BROKEN]
    return "\n".join([*lines, "", *table(("what it is", "files", "reason"), kinds, "lrl"), ""])


def _whole_table(found: Result) -> list[str]:
    whole, broken = found.whole, sum(found.kinds.values()) - found.kinds[A_FOLDER]
    missed = len(whole.missing) + len(whole.doubled)
    rows = [
        ("kills", "", str(found.kills), ""),
        ("kills after which a caption was gone or another", "0", str(found.lost), verdict(not found.lost)),
        ("captions", str(found.good), str(whole.captions), verdict(whole.captions == found.good)),
        ("films without a caption, or with two", "0", str(missed), verdict(not missed)),
        ("films with other words than undisturbed", "0", str(len(whole.other)), verdict(not whole.other)),
        (
            "the first folder's part of the table against an undisturbed run's",
            "the same bytes",
            "the same bytes" if found.as_undisturbed else "other bytes",
            verdict(found.as_undisturbed),
        ),
        ("files in the list of what was skipped", str(broken), str(whole.skipped), verdict(whole.skipped == broken)),
        (
            "broken files not listed once for their reason, or others listed",
            "0",
            str(len(whole.unlisted)),
            verdict(not whole.unlisted),
        ),
    ]
    return table(("what", "goal", "measured", ""), rows)


def _cost_table(found: Result, scenes: int) -> list[str]:
    last = found.last
    (begin, _, _), (_, early, memory) = last.after(1), last.after(max(scenes, last.lines // 10))
    _, lines, most = last.samples[-1]
    growth = most / memory - 1
    rows = [
        ("films of the last process", "", str(last.lines), ""),
        ("seconds a film", "", f"{last.seconds_a_film:.3f}", ""),
        ("seconds until the first", "", f"{begin:.1f}", ""),
        ("seconds of a run that has only the broken ones to try again", "", f"{found.again.seconds:.1f}", ""),
        (f"memory, after {early} captions", "", f"{memory / 1e6:.0f} MB", ""),
        (
            f"memory, after {lines} captions",
            f"at most {MOST_GROWTH:.0%} more",
            f"{most / 1e6:.0f} MB, {growth:.1%} more",
            verdict(growth <= MOST_GROWTH),
        ),
    ]
    return table(("what", "goal", "measured", ""), rows)


def _tables_table(found: Result) -> list[str]:
    rows = []
    for what, ended, kills, seen in found.tables:
        figures = (str(kills), str(ended.captions), str(ended.skipped), str(len(ended.wrong)), f"{seen.seconds:.1f} s")
        rows.append((what, *figures, verdict(not ended.wrong)))
    return table(("what", "kills", "captions", "skipped", "wrong", "the last process", ""), rows, "lrrrrrl")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_captions", description=__doc__.split("\n")[0])
    whole = Setting()
    for each in fields(Setting):
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=int, default=getattr(whole, each.name))
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    given = vars(parser.parse_args(arguments))
    output = given.pop("output")
    changed = [f" --{name.replace('_', '-')} {value}" for name, value in given.items() if value != getattr(whole, name)]
    try:
        setting = Setting(**given)
        found = run(setting)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"many_captions: {error}")
    for name in (name for ended in (found.whole, *(each for _, each, *_ in found.tables)) for name in ended.wrong):
        say(f"{name}: is not as it must be")
    output.write_text(page(found, setting, f"python -m benchmarks.many_captions{''.join(changed)}"), encoding="utf-8")
    say(f"wrote {output}")
    if not found.fine:
        sys.exit(1)


if __name__ == "__main__":
    main()
