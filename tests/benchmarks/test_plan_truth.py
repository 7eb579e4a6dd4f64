"""A plan beside its film: each in a process of its own, and a page that says what was missed."""

from benchmarks import plan_truth


def test_a_film_is_measured_in_its_own_process(tiny_folder, monkeypatch):
    monkeypatch.setattr(plan_truth, "FILMS", ({"num_frames": 9, "height": 32, "width": 48},))
    (found,) = plan_truth.run(str(tiny_folder), steps=2, threads=1)
    assert found["film"]["num_frames"] == 9
    assert min(found[name] for name in ("memory", "held", "seconds", "took")) > 0


def test_the_page_says_what_was_missed():
    right = {"film": {"num_frames": 97}, "memory": 220e6, "held": 200e6, "seconds": 8.0, "took": 9.0}
    page = plan_truth.page([right, right | {"held": 230e6}, right | {"took": 12.0}], "python -m benchmarks.plan_truth")
    rows = [line for line in page.splitlines() if line.startswith("| num_frames 97")]
    assert [row.count("**missed**") for row in rows] == [0, 1, 1]
    assert "| 1.10 met | 8.0 s | 9.0 s | 0.89 met |" in rows[0]
