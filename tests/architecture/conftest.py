"""What the architecture tests look at: the project's files, and the package as syntax trees."""

import ast
import subprocess
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Project:
    """The files of the project that belong to it, not those that tools or runs left beside them."""

    root = ROOT
    package = ROOT / "src" / "everreel"

    @cached_property
    def files(self) -> list[Path]:
        """Relative paths of all files: what git tracks or would, so nothing that .gitignore names."""
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if result.returncode:
            pytest.skip("only a git checkout says which files are the project's")
        return sorted(Path(name) for name in set(result.stdout.split("\0")) if name and (ROOT / name).is_file())

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The syntax tree of every module, by its path within the package."""
        return {
            path.relative_to(self.package).as_posix(): ast.parse(path.read_text())
            for path in sorted(self.package.rglob("*.py"))
        }

    def python_files(self) -> list[Path]:
        return [path for path in self.files if path.suffix == ".py"]


@pytest.fixture(scope="session")
def project() -> Project:
    return Project()
