"""Imports point down: a module knows of the layers below its own, and of no layer above."""

import ast
from graphlib import TopologicalSorter
from typing import Any

LAYERS = {
    0: {"shapes", "boxes", "media", "memory", "lines", "world"},
    1: {"model"},
    2: {"diffusion", "checkpoint", "parallel"},
    3: {"film", "data", "answers", "chat", "web"},
    4: {"train", "evaluate", "caption", "prompt", "curate"},
    5: {
        "serve",
        "cli",
        "agents",
        "bars",
        "benches",
        "captions",
        "curating",
        "enhance",
        "keys",
        "loras",
        "options",
        "prepare",
        "rating",
        "released",
        "reports",
        "serving",
        "weights",
        "__main__",
    },
}
LAYER_OF = {part: layer for layer, parts in LAYERS.items() for part in parts}
NEVER = {
    "diffusion": {"checkpoint", "parallel", "film"},
    "model": {"parallel"},
}


def part_of(module_path: str) -> str:
    return module_path.split("/")[0].removesuffix(".py")


def imports(path: str, tree: ast.Module) -> set[str]:
    """The dotted names within everreel that a module imports, at its top or anywhere in it."""
    package = ["everreel", *path.split("/")[:-1]]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("everreel.") for name in found if name.startswith("everreel.")}


def edges(project: Any) -> list[tuple[str, str]]:
    """(module, what it imports) for every import within the package; its front page is no layer."""
    return [
        (path, name)
        for path, tree in project.trees.items()
        if path != "__init__.py"
        for name in imports(path, tree)
        if name.split(".")[0] in LAYER_OF
    ]


def test_every_part_of_the_package_has_a_layer(project: Any) -> None:
    parts = {part_of(path) for path in project.trees} - {"__init__", "assets"}
    assert parts <= set(LAYER_OF)


def test_imports_point_down(project: Any) -> None:
    up = [f"{a} -> {b}" for a, b in edges(project) if LAYER_OF[part_of(a)] < LAYER_OF[b.split(".")[0]]]
    assert not up


def test_parts_do_not_import_each_other_in_a_circle(project: Any) -> None:
    graph: dict[str, set[str]] = {}
    for path, name in edges(project):
        if part_of(path) != name.split(".")[0]:
            graph.setdefault(part_of(path), set()).add(name.split(".")[0])
    TopologicalSorter(graph).prepare()


def test_what_must_never_be_imported_is_not(project: Any) -> None:
    wrong = [f"{a} -> {b}" for a, b in edges(project) if b.split(".")[0] in NEVER.get(part_of(a), ())]
    assert not wrong


def test_in_serve_only_jobs_sees_the_pipeline(project: Any) -> None:
    engine = {"pipeline", "making", "journal", "control"}
    wrong = [
        f"{path} -> {name}"
        for path, name in edges(project)
        if part_of(path) == "serve" and not path.startswith("serve/jobs/")
        if name.split(".")[0] == "film" and engine & set(name.split("."))
    ]
    assert not wrong


def test_a_home_alone_names_its_queue_and_its_store(project: Any) -> None:
    """All others know their interfaces, so that a distributed engine can take their place."""
    named = ("serve.jobs.queue.", "serve.jobs.store.")
    who = {path for path, name in edges(project) if f"{name}.".startswith(named)}
    assert who == {"serve/jobs/home.py"}


def test_the_package_does_not_import_what_only_tests_need(project: Any) -> None:
    wrong = []
    for path, tree in project.trees.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path}: {n}" for n in names if n.split(".")[0] in {"diffusers", "pytest", "hypothesis"}]
    assert not wrong
