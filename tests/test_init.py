"""The public names: there, sorted, and loaded only when they are used."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import everreel

HEAVY = ("av", "diffusers", "numpy", "skia", "tensorboard", "torch", "transformers")
OPTIONAL = ("cv2", "diffusers", "fastapi", "gguf", "llguidance", "peft", "skia", "tensorboard", "torchao", "uvicorn")


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nsys.stdout.write('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split("\n"))


def test_every_public_name_is_there_and_they_are_sorted() -> None:
    assert everreel.__all__ == sorted(everreel.__all__)
    assert len(set(everreel.__all__)) == len(everreel.__all__)
    for name in everreel.__all__:
        assert getattr(everreel, name) is not None
        assert name in dir(everreel)
    for name in ("VideoPipeline", "VideoRequest", "Video"):
        assert name in everreel.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'everreel' has no attribute 'Viedo'"):
        _ = everreel.Viedo


def test_importing_everreel_loads_nothing() -> None:
    loaded = modules_after("import everreel")
    assert loaded.isdisjoint(HEAVY)
    assert not {name for name in loaded if name.startswith("everreel.")}


def test_the_public_names_need_no_optional_package_no_compiler_and_no_cuda() -> None:
    code = "\n".join(
        [
            "import everreel",
            "for name in everreel.__all__: getattr(everreel, name)",
            "import torch",
            "assert not torch.cuda.is_initialized()",
        ]
    )
    assert modules_after(code).isdisjoint(OPTIONAL)


def test_the_command_line_needs_no_optional_package_to_start() -> None:
    assert modules_after("import everreel.cli").isdisjoint(OPTIONAL)


def test_the_version_is_the_one_in_the_changelog() -> None:
    root = Path(__file__).parents[1]
    changelog = (root / "CHANGELOG.md").read_text()
    released = [line for line in changelog.splitlines() if line.startswith("## [")]
    assert any(f"[{everreel.__version__}]" in line for line in released)
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"everreel": "everreel.cli:main"}
