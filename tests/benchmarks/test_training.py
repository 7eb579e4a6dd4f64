"""The benchmark of training runs, and both sides of it train the same function."""

import pytest
import torch

from benchmarks import training


def test_both_sides_of_a_small_model(tiny_folder, capsys):
    training.main(["--model", str(tiny_folder), "--steps", "2", "--shape", "3x1", "--shape", "2x2"])
    page = capsys.readouterr().out
    rows = [line for line in page.splitlines() if line.startswith(("| 3 pictures", "| 2 windows of 2"))]
    assert len(rows) == 2 and all("at least 2×" in row for row in rows)


def test_what_differs_is_refused(tiny_folder, monkeypatch):
    monkeypatch.setattr(training.Theirs, "loss", lambda self: torch.tensor(0.5))
    with pytest.raises(ValueError, match="must agree within"):
        training.run(str(tiny_folder), [(1, 1)], 1)
