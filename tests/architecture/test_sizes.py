"""Small enough to read: files under 500 lines, functions under 60 lines and 8 arguments. And small enough to ship."""

import ast
from collections.abc import Iterator
from typing import Any

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 8
MAX_ASSETS = 40_000_000  # bytes that ship as weights, all models together

# "path" for a file, "path::function" for a function: the reason why it may be longer.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
MANY_ARGUMENTS: dict[str, str] = {
    "src/everreel/cli.py::extend": "a flag of the command line is an argument",
    "src/everreel/cli.py::evaluate": "a flag of the command line is an argument",
    "src/everreel/curating.py::data": "a flag of the command line is an argument",
    "src/everreel/benches.py::vbench_films": "a flag of the command line is an argument",
    "src/everreel/rating.py::make": "a flag of the command line is an argument",
    "src/everreel/serving.py::serve": "a flag of the command line is an argument",
    "src/everreel/model/dit.py::forward": "what a pass sees is given to it: the model keeps nothing",
    "src/everreel/parallel/part.py::forward": "all that a pass of the model is given",
}


def functions(project: Any) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in project.python_files():
        for node in ast.walk(ast.parse((project.root / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.as_posix()}::{node.name}", node


def num_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    a = function.args
    names = [argument.arg for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_no_file_is_too_long(project: Any) -> None:
    long = {
        path.as_posix(): lines
        for path in project.python_files()
        if (lines := len((project.root / path).read_text().splitlines())) > MAX_FILE_LINES
    }
    assert long.keys() == LONG_FILES.keys(), long


def test_no_function_is_too_long(project: Any) -> None:
    long = {
        name: lines
        for name, node in functions(project)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long.keys() == LONG_FUNCTIONS.keys(), long


def test_no_function_has_too_many_arguments(project: Any) -> None:
    many = {name: count for name, node in functions(project) if (count := num_arguments(node)) > MAX_ARGUMENTS}
    assert many.keys() == MANY_ARGUMENTS.keys(), many


def test_what_ships_as_weights_fits(project: Any) -> None:
    assets = project.root / "src" / "everreel" / "assets"
    sizes = {path.relative_to(assets): path.stat().st_size for path in assets.rglob("*") if path.is_file()}
    assert len(sizes) > 10 and sum(sizes.values()) <= MAX_ASSETS
