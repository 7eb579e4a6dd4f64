"""The suite's own measurements: the `vbench` package, in an environment of its own, a dimension at a time.

Source: vbench 0.1.5, `vbench/launch/evaluate.py` and `vbench/cli/static_filter.py`. It pins versions that nothing else
here can live with, so it is only ever started, as `python -m vbench.launch.evaluate` of an environment that a person
made; nothing is installed here. Its own command hides how a run ended (a shell is between, and the code is always 0)
and does not quote paths, which is why the module is started and not that.

The one invariant: a dimension is done when a result file of it can be read, however the process ended; a result stands
for the films that it was made of, and is made again when they have changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from everreel.evaluate.films import write_json
from everreel.evaluate.vbench.films import FLICKERING, PROMPTS, VIDEOS, listed_films
from everreel.evaluate.vbench.prompts import INFO, read_prompts
from everreel.evaluate.vbench.results import ENDING, parse_results
from everreel.evaluate.vbench.scores import SEEDS, VBENCH, check_dimension

SETUP = (
    "python3.10 -m venv vbench",
    "vbench/bin/pip install torch==2.0.1 torchvision==0.15.2 vbench==0.1.5",
    "vbench/bin/pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2.git",
)
"""What makes an environment for the suite; the last is for the four dimensions that look for objects."""
# The filter for films that stand still reads weights that only this dimension fetches.
FETCHES_FLOW = "dynamic_degree"
LONGEST_LINE = 500
STAMPS = "stamps.json"
PROBE = "import vbench; print(vbench.__path__[0])"
PROBE_SECONDS = 120.0
FILTER = "from vbench.cli.vbench import main; main()"

Line = Callable[[str, str], None]
"""A dimension, and a line that the suite says while it measures it."""


class SuiteError(RuntimeError):
    """Why a dimension was not measured."""


@dataclass(frozen=True)
class Environment:
    """An environment that the suite is installed in."""

    python: Path
    package: Path

    @property
    def info(self) -> Path:
        """The suite's own list of prompts."""
        return self.package / INFO


@dataclass(frozen=True)
class Films:
    """The films that are measured: a folder of nothing but films, the list of prompts, and what is to be there."""

    videos: Path
    info: Path
    wanted: Mapping[str, tuple[str, ...]]
    """The names of the files, by dimension."""

    def missing(self, dimension: str) -> list[str]:
        """The names of the films of a dimension that are not there."""
        return [name for name in self.wanted[dimension] if not (self.videos / name).is_file()]

    def stamp(self, dimension: str) -> str:
        """What tells the films of a dimension from others of the same names."""
        found = hashlib.sha256()
        for name in sorted(self.wanted[dimension]):
            with (self.videos / name).open("rb") as file:
                found.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class RunSettings:
    """How the suite is run."""

    retries: int = 1
    """How often a dimension that failed is tried again."""
    time_limit: float | None = None
    """Seconds that a dimension may take."""
    local: bool = False
    """Whether the suite takes weights from its cache folder alone, as where there is no network."""


@dataclass
class Outcome:
    """What became of each dimension; `kept` had been measured before."""

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def find_environment(path: str | Path) -> Environment:
    """The environment at a path: its folder, or an executable in it.

    Raises:
        ValueError: there is none, or the suite is not installed in it; the commands that make one are named.
    """
    path = Path(path).expanduser().absolute()
    candidates = [path / "bin" / "python", path / "Scripts" / "python.exe"]
    if not path.is_dir():
        candidates = [path if path.name.startswith("python") else path.with_name("python")]
    python = next((candidate for candidate in candidates if candidate.is_file()), None)
    make_one = "; ".join(SETUP)
    if python is None:
        raise ValueError(f"vbench = {path}: is no environment with a bin/python; these commands make one: {make_one}")
    try:
        found = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"vbench = {python}: cannot be run ({error}); these commands make one: {make_one}") from None
    package = Path((found.stdout.strip().splitlines() or [""])[-1])
    if found.returncode or not (package / INFO).is_file():
        why = _last(found.stderr) or f"there is no {INFO}"
        raise ValueError(f"vbench = {python}: has no vbench package ({why}); these commands make one: {make_one}")
    return Environment(python, package)


def find_films(folder: str | Path, environment: Environment) -> Films:
    """The films in a folder that was filled here, or in one of films with the suite's names.

    Raises:
        ValueError: there are none, or another file lies among them: the suite would take its ending for that of all.
    """
    folder = Path(folder)
    videos = folder / VIDEOS if (folder / VIDEOS).is_dir() else folder
    info = folder / PROMPTS if (folder / PROMPTS).is_file() else environment.info
    if not videos.is_dir():
        raise ValueError(f"films = {folder}: is no folder; give one that `vbench films` has filled")
    names = sorted(path.name for path in videos.iterdir())
    if stray := next((name for name in names if not name.endswith(".mp4")), None):
        raise ValueError(f"films = {videos}: holds {stray}, and must hold nothing but .mp4 files; move it away")
    if not names:
        raise ValueError(f"films = {videos}: is empty; `vbench films` fills one")
    wanted: dict[str, list[str]] = {name: [] for name in VBENCH.names}
    if listed := listed_films(folder):
        for film in listed:
            for name in film.dimensions:
                wanted[name].append(film.file)
    else:
        for prompt in read_prompts(info):
            for name in prompt.dimensions:
                wanted[name] += [f"{prompt.stem}-{index}.mp4" for index in range(SEEDS)]
    return Films(videos, info, {name: tuple(dict.fromkeys(files)) for name, files in wanted.items()})


def run_suite(
    environment: Environment,
    films: Films,
    output: str | Path,
    dimensions: Sequence[str] = (),
    settings: RunSettings | None = None,
    on_line: Line | None = None,
) -> Outcome:
    """Measure dimensions one after the other; `output` has a result file of each that is done, and a log of each.

    One that fails is tried again, and then the next goes on. What an earlier run measured on the same films is kept.

    Args:
        dimensions: by default all of which films were asked for.

    Raises:
        ValueError: a dimension is unknown or has no films, or the folder cannot be used.
    """
    output, settings, outcome = Path(output), settings or RunSettings(), Outcome()
    names = [name for name in VBENCH.names if films.wanted[name]] if not dimensions else list(dimensions)
    for name in names:
        check_dimension(name, [VBENCH])
        if not films.wanted[name]:
            raise ValueError(f"dimensions = {name}: {films.videos} was not asked for films of it; make them first")
    if output.exists() and not output.is_dir():
        raise ValueError(f"output = {output}: is a file; give a folder, such as {output}-results")
    (output / "logs").mkdir(parents=True, exist_ok=True)
    for name in sorted(names, key=lambda name: (name == FLICKERING, name != FETCHES_FLOW)):
        missing = films.missing(name)
        if missing:
            total = len(films.wanted[name])
            outcome.failed[name] = f"{len(missing)} of its {total} films are missing, such as {missing[0]}"
            continue
        stamp = films.stamp(name)
        if _is_done(output, name, stamp):
            outcome.kept.append(name)
            continue
        failed = _try(_Measurement(environment, films, output, name, settings, on_line or (lambda *_: None)))
        if failed:
            outcome.failed[name] = failed
        else:
            write_json(output / STAMPS, {**_stamps(output), name: stamp})
            outcome.done.append(name)
    return outcome


@dataclass(frozen=True)
class _Measurement:
    environment: Environment
    films: Films
    output: Path
    dimension: str
    settings: RunSettings
    on_line: Line

    @property
    def work(self) -> Path:
        """Where the suite leaves what it makes."""
        return self.output.absolute() / "work" / self.dimension

    def measure(self) -> None:
        """Once, from the beginning.

        Raises:
            SuiteError: no result came of it.
        """
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        result = _result(self.output, self.dimension)
        if result.is_file():  # of other films: no total may be made of it, and it is not lost either
            result.replace(result.with_name(f"{result.name}.old"))
        videos = self.films.videos.absolute()
        if self.dimension == FLICKERING:
            _, fault = self._run(
                "-c", FILTER, "static_filter", "--videos_path", str(videos), "--result_path", str(self.work)
            )
            if fault:  # some of its films may be missing
                raise SuiteError(fault)
            videos = self.work / "filtered_videos"
            if not videos.is_dir() or not any(videos.iterdir()):
                raise SuiteError("none of its films stands still, so there is nothing to measure")
        arguments = ["-m", "vbench.launch.evaluate", "--videos_path", str(videos), "--dimension", self.dimension]
        arguments += ["--output_path", str(self.work / "results"), "--full_json_dir", str(self.films.info.absolute())]
        said, fault = self._run(*arguments, *(["--load_ckpt_from_local", "True"] if self.settings.local else []))
        try:  # first what it left, for the suite may fall over its own feet once everything is measured
            self._take(result, said)
        except SuiteError as error:
            raise SuiteError(fault or str(error)) from None
        shutil.rmtree(self.work, ignore_errors=True)

    def _take(self, result: Path, said: str) -> None:
        """Put the result that the suite left where it belongs.

        Raises:
            SuiteError: it left none, or one that cannot be read or is of another dimension.
        """
        found = sorted((self.work / "results").glob(f"*{ENDING}"))
        if not found:
            raise SuiteError(f"it left no result; its last words: {said or 'none'}")
        try:
            scores = parse_results(found[-1].read_bytes(), found[-1].name)
        except ValueError as error:
            raise SuiteError(str(error)) from None
        if set(scores) != {self.dimension}:
            raise SuiteError(f"it left a result of {', '.join(scores)}")
        found[-1].replace(result)

    def _run(self, *arguments: str) -> tuple[str, str]:
        """The last line it says, and how it failed, was killed or took too long; "" where it did not."""
        bin_folder = str(self.environment.python.parent)
        variables = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}"}
        # So that two of these may run beside each other, and its words come as they are said.
        variables |= {"MASTER_PORT": str(_free_port()), "PYTHONUNBUFFERED": "1"}
        for name in ("PYTHONPATH", "PYTHONHOME", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
            variables.pop(name, None)  # ours are not its own
        log = self.output / "logs" / f"{self.dimension}.log"
        said, late = "", threading.Event()
        with (
            log.open("a", encoding="utf-8") as file,
            subprocess.Popen(
                [str(self.environment.python), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.work,
                env=variables,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            ) as process,
        ):
            timer = threading.Timer(self.settings.time_limit or 0, _end_late, (process, late))
            if self.settings.time_limit is not None:
                timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if line.strip():
                        said = line.strip()[:LONGEST_LINE]
                        self.on_line(self.dimension, said)
                process.wait()
            finally:
                timer.cancel()
                _end(process)
        if late.is_set():
            return said, f"it took longer than {self.settings.time_limit:g} s; see {log}"
        if process.returncode < 0:
            return said, f"it was killed by signal {-process.returncode}; see {log}"
        if process.returncode:
            return said, f"it ended with code {process.returncode}: {said or 'without a word'}; see {log}"
        return said, ""


def _try(measurement: _Measurement) -> str:
    """Why it failed in the end, or nothing."""
    failed = ""
    for attempt in range(measurement.settings.retries + 1):
        try:
            measurement.measure()
        except SuiteError as error:
            failed = str(error)
            measurement.on_line(measurement.dimension, f"attempt {attempt + 1} failed: {failed}")
        else:
            return ""
    return failed


def _result(output: Path, dimension: str) -> Path:
    return output / f"{dimension}{ENDING}"


def _is_done(output: Path, dimension: str, stamp: str) -> bool:
    """Whether there is a result that can be read, of these very films."""
    if _stamps(output).get(dimension) != stamp:
        return False
    try:
        return set(parse_results(_result(output, dimension).read_bytes(), dimension)) == {dimension}
    except (ValueError, OSError):
        return False


def _stamps(output: Path) -> dict[str, str]:
    """Of which films the results are, by dimension."""
    try:
        found = json.loads((output / STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or not to be read: everything is measured again
        return {}
    return found if isinstance(found, dict) else {}


def _end_late(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End it and all that it started, whatever of that still runs."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:LONGEST_LINE] if lines else ""
