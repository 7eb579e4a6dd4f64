"""What a Hugging Face Space installs for `app.py` is what the package asks for."""

import tomllib
from typing import Any


def test_requirements_are_those_of_the_package_and_of_serving(project: Any) -> None:
    told = tomllib.loads((project.root / "pyproject.toml").read_text())["project"]
    asked = [*told["dependencies"], *told["optional-dependencies"]["serve"]]
    lines = (project.root / "requirements.txt").read_text().splitlines()
    assert sorted(line for line in lines if not line.startswith("#")) == sorted(asked)
