"""The README's tree is the tree, and the files speak of the project alone."""

import re
from pathlib import Path
from typing import Any

import pytest

BRANCH = re.compile(r"^(?P<indent>(?: {2})*)(?P<name>[\w.\-]+/?)(?:\s{2,}\S.*)?$")
# Written in pieces, so that this file does not find itself.
MACHINE_PATH = re.compile(
    r"(?:^|[^\w.])/(?:" + "|".join(["home", "root", "Users", "work", "opt", "farm", "mnt"]) + r")/\w"
)
REGISTRY = re.compile(
    "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs", "-index" + "-url"])
)
PLAIN_TEXT = {
    "",
    ".md",
    ".py",
    ".toml",
    ".txt",
    ".json",
    ".cfg",
    ".yaml",
    ".yml",
    ".html",
    ".js",
    ".css",
    ".svg",
}


def branches(readme: str) -> list[Path]:
    """The paths that the README's tree names, each line two spaces deeper than the folder it is in."""
    block = readme.split("## The tree", 1)[1].split("```", 2)[1].strip("\n")
    paths: list[Path] = []
    folders: list[str] = []
    for line in block.splitlines()[1:]:
        match = BRANCH.match(line)
        assert match, f"a line of the tree that names no file: {line!r}"
        depth = len(match["indent"]) // 2 - 1  # the first line is the project itself
        folders = [*folders[:depth], match["name"].rstrip("/")]
        paths.append(Path(*folders))
    return paths


@pytest.fixture(scope="module")
def named(project: Any) -> list[Path]:
    return branches((project.root / "README.md").read_text())


def test_what_the_readme_names_is_there(project: Any, named: list[Path]) -> None:
    there = {parent for path in project.files for parent in (path, *path.parents)}
    assert not [str(path) for path in named if path not in there]
    assert len(set(named)) == len(named)


def test_what_is_there_the_readme_names(project: Any, named: list[Path]) -> None:
    """Everything at the top, and every file of the package but the `__init__.py` of its folders."""
    expected = {Path(path.parts[0]) for path in project.files}
    package = Path("src/everreel")
    for path in project.files:
        if package in path.parents:
            inside = path.relative_to(package)
            expected.add(package / inside.parts[0])
            if path.suffix == ".py" and not (path.name == "__init__.py" and len(inside.parts) > 1):
                expected.add(path)
    assert not sorted(str(path) for path in expected - set(named))


def test_no_file_names_a_machine_or_a_registry(project: Any) -> None:
    wrong = []
    for path in project.files:
        if path.suffix not in PLAIN_TEXT:
            continue
        try:
            lines = (project.root / path).read_text().splitlines()
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{path}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(lines, 1)
            if MACHINE_PATH.search(line) or REGISTRY.search(line)
        ]
    assert not wrong


def test_dependencies_are_pinned_without_a_place_to_get_them_from(project: Any) -> None:
    lines = (project.root / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0] == "torch==2.13.0"
    assert all(re.fullmatch(r"[a-z0-9_.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    assert len({pin.split("==")[0] for pin in pins}) == len(pins)
