"""The laws that can be read off the code: one loop, no patching, no hidden randomness, no missing words."""

import ast
import re
import tomllib
from typing import Any

# Draws of torch that take a generator, as functions and as methods that fill a tensor.
DRAWS = {"bernoulli", "multinomial", "normal", "poisson", "rand", "randint", "randn", "randperm"}
FILLS = {
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "normal_",
    "random_",
    "uniform_",
}
# These take none (or not in every torch that we support), so nothing in the package may call them.
BLIND_DRAWS = {"rand_like", "randint_like", "randn_like"}


def dotted(node: ast.AST) -> str:
    """`torch.nn.Linear` of the expression that says so; what is no plain name is left out."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def calls(project: Any) -> list[tuple[str, ast.Call]]:
    return [
        (f"{path}:{node.lineno}", node)
        for path, tree in project.trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def test_the_solver_is_stepped_in_one_place(project: Any) -> None:
    places = [
        place
        for place, call in calls(project)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "step"
        and dotted(call.func.value).split(".")[-1].endswith("solver")
    ]
    assert len(places) == 1, places
    assert places[0].startswith("diffusion/rollout.py")


def test_nothing_assigns_to_forward(project: Any) -> None:
    wrong = []
    for path, tree in project.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign | ast.AugAssign):
                targets = [node.target]
            else:
                continue
            wrong += [f"{path}:{t.lineno}" for t in targets if isinstance(t, ast.Attribute) and t.attr == "forward"]
    for place, call in calls(project):
        if dotted(call.func) == "setattr" and len(call.args) > 1 and ast.unparse(call.args[1]) == "'forward'":
            wrong.append(place)
    assert not wrong


def test_every_draw_takes_a_generator(project: Any) -> None:
    """But for the first weights of a module, which are drawn as torch draws those of its own layers."""
    wrong = []
    for path, tree in project.trees.items():
        inits = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        first_weights = {node for init in inits for node in ast.walk(init)}
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or call in first_weights:
                continue
            owner, _, name = dotted(call.func).rpartition(".")
            attribute = call.func.attr if isinstance(call.func, ast.Attribute) else name
            is_draw = (owner == "torch" and name in DRAWS) or attribute in FILLS
            has_generator = any(keyword.arg == "generator" for keyword in call.keywords)
            if (is_draw and not has_generator) or (owner == "torch" and name in BLIND_DRAWS):
                wrong.append(f"{path}:{call.lineno}: {ast.unparse(call.func)}")
    assert not wrong


def test_nothing_draws_from_a_generator_that_all_share(project: Any) -> None:
    """`random.Random(seed)` is one's own; everything else of `random` and `numpy.random` is everybody's."""
    wrong = []
    for path, tree in project.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in {"random", "numpy.random"}:
                wrong.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
            if isinstance(node, ast.Attribute):
                name = dotted(node)
                is_shared = name.startswith("random.") and name.split(".")[1] != "Random"
                if is_shared or name in {"np.random", "numpy.random", "torch.seed"}:
                    wrong.append(f"{path}:{node.lineno}: {name}")
            if isinstance(node, ast.Call) and dotted(node.func) == "random.Random" and not node.args:
                wrong.append(f"{path}:{node.lineno}: a generator without a seed")
    assert not wrong


def test_nothing_is_compiled_when_it_is_imported__released_defect_40(project: Any) -> None:
    wrong = []
    for path, tree in project.trees.items():
        inside = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for s in f.body for n in ast.walk(s)}
        wrong += [
            f"{path}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and dotted(node) == "torch.compile" and node not in inside
        ]
    assert not wrong


def test_nothing_of_the_released_requirements_has_to_be_there__released_defect_41(project: Any) -> None:
    """Two of them have to be compiled, and those that films are read with were not even named."""
    unwanted = {"dashscope", "decord", "flash_attn", "moviepy", "torchvision", "xfuser"}
    told = tomllib.loads((project.root / "pyproject.toml").read_text())["project"]
    asked = [*told["dependencies"], *(line for lines in told["optional-dependencies"].values() for line in lines)]
    for name in ("requirements.txt", "constraints.txt"):
        asked += (project.root / name).read_text().splitlines()
    assert not {re.split(r"[^\w-]", line)[0].lower().replace("-", "_") for line in asked} & unwanted
    imported = set()
    for path, tree in project.trees.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {(path, name.split(".")[0]) for name in names}
    # Where it is installed and asked for; torch's own takes its place everywhere else.
    assert {(path, name) for path, name in imported if name in unwanted} == {("model/backends.py", "flash_attn")}


def test_every_defect_of_the_released_code_has_a_test(project: Any) -> None:
    """By the numbers that tests have in their names: schedules and seams to 19, memory, step caches and several GPUs to
    30, files and flags to 41, the captioner and the enhancer to 47.
    """
    names = [
        name
        for file in (project.root / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    tested = {int(number) for name in names for number in re.findall(r"__released_defect_(\d+)", name)}
    assert tested == set(range(1, 48))


def test_what_is_public_says_what_it_is(project: Any) -> None:
    silent = []
    for path, tree in project.trees.items():
        if not tree.body:  # a folder's empty __init__.py
            continue
        if ast.get_docstring(tree) is None:
            silent.append(path)
        silent += [
            f"{path}::{node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and ast.get_docstring(node) is None
        ]
    assert not silent


def test_a_recipe_is_a_list_of_values(project: Any) -> None:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    wrong = [
        f"{path}:{node.lineno}"
        for path in project.python_files()
        if path.parts[0] == "recipes"
        for node in ast.parse((project.root / path).read_text()).body
        if not isinstance(node, allowed)
    ]
    assert not wrong
