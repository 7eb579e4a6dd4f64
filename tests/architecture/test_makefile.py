"""`make test` fails when any of its steps fails, and pytest has the last word."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

STEPS = (
    "ruff check .",
    "ruff format --check .",
    "mypy --strict src",
    "python -m pytest -n 2 --dist worksteal",
)

# Stands in for a tool: writes down how it was called, and fails when it is told to.
TOOL = """#!/bin/sh
called="$(basename "$0") $*"
echo "$called" >> calls
case "$called" in "$FAIL"*) exit 3;; esac
echo "$called: fine"
"""


@pytest.fixture
def checkout(project: Any, tmp_path: Path) -> Path:
    """A folder that looks installed, whose tools only say that they were called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(project.root / name, tmp_path / name)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("ruff", "mypy", "python", "everreel"):
        (tools / name).write_text(TOOL)
        (tools / name).chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def run(checkout: Path, *command: str, fail: str = "nothing") -> subprocess.CompletedProcess[str]:
    # The make that may run these tests must not hand its own flags and prompt down.
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PROMPT", "ARGS", "JOBS", "EVERREEL_PROMPT"}
    env = {key: value for key, value in os.environ.items() if key not in outer} | {"FAIL": fail}
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)


def called(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


@pytest.mark.parametrize("command", [["make", "test"], [".ci/run"]])
def test_all_steps_run_and_pytest_closes(checkout: Path, command: list[str]) -> None:
    result = run(checkout, *command)
    assert result.returncode == 0, result.stderr
    assert [line.strip() for line in called(checkout)] == list(STEPS)
    assert result.stdout.splitlines()[-1].strip().startswith("python -m pytest")


@pytest.mark.parametrize("command", [["make", "test"], [".ci/run"]])
@pytest.mark.parametrize("number", range(len(STEPS)))
def test_a_step_that_fails_fails_it_all(checkout: Path, command: list[str], number: int) -> None:
    assert run(checkout, *command, fail=STEPS[number]).returncode != 0
    assert len(called(checkout)) == number + 1


@pytest.mark.parametrize("prompt", ["a red fox, wide shot", 'it\'s a "swan"', "costs $5 & $(more); `stars` #1 $HOME"])
def test_the_prompt_arrives_as_it_was_typed(checkout: Path, prompt: str) -> None:
    result = run(checkout, "make", "film", f"PROMPT={prompt}", "ARGS=--seconds 2")
    assert result.returncode == 0, result.stderr
    assert called(checkout) == [f"everreel generate {prompt} -o film.mp4 --seconds 2"]


def test_the_whole_recipe_is_one_command(checkout: Path) -> None:
    result = run(checkout, "make", "recipe", "ARGS=--max-seconds 60")
    assert result.returncode == 0, result.stderr
    assert called(checkout) == ["everreel train recipes/smallest.py --max-seconds 60"]


def test_a_film_that_fails_fails_make(checkout: Path) -> None:
    assert run(checkout, "make", "film", "PROMPT=a fox", fail="everreel").returncode != 0


def test_a_new_pin_is_installed(checkout: Path) -> None:
    (checkout / ".venv" / ".installed").unlink()
    result = run(checkout, "make", "--dry-run", "install")
    torch_first = result.stdout.index("grep '^torch==' constraints.txt")
    assert torch_first < result.stdout.index("-e '.[test]'")
    assert result.stdout.count("-c constraints.txt") == 2
