"""The recipe's page holds what the runs tell, and says what they do not."""

import json

import pytest

from benchmarks.recipe import interval, main, read_stages, render_page
from everreel.evaluate.follow import Answer, FilmAnswers, Report


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "small"
    for name, losses in (("text", (5.0, 1.0)), ("diffusion_forcing/films", (2.0, 0.5))):
        where = folder / name
        where.mkdir(parents=True)
        lines = [
            {"step": 10 * n, "event": "train", "loss/a": loss, "loss_to_0.25": loss / 2, "steps_per_second": 2.0}
            for n, loss in enumerate(losses, 1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 20, "event": "sample", "said": 0.5}])
        (where / "metrics.jsonl").write_text(text)
    (folder / "text" / "report.json").write_text('{"said": 0.75, "said/subject": 0.5}')
    return folder


def films(right, count):
    answers = [{"color": Answer("red", "red" if n < right else "blue", 0.5)} for n in range(count)]
    return Report({}, tuple(FilmAnswers(f"{n}.mp4", "", n, {}, answer) for n, answer in enumerate(answers)))


def test_a_stage_is_a_row(runs):
    page = render_page([runs])
    row = next(line for line in page.splitlines() if line.startswith("| diffusion_forcing/films"))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:5] == ["20", "10", "2 → 0.5", "to 0.25: 0.25"]
    assert "said 0.75" in page and "subject" not in page
    assert "Missing here: no run of vae, distill; no films that a critic has read." in page


def test_films_stand_with_their_intervals(runs):
    (runs / "evaluate").mkdir()
    films(24, 32).save(runs / "evaluate" / "report.json")
    (runs / "stage-1").mkdir()
    (runs / "stage-1" / "report.json").write_text('{"stage": 1, "films": 32}')  # of motion, which counts its films
    share, low, high = interval(films(24, 32), "color")
    assert share == 0.75 and 0.5 < low < 0.75 < high < 0.95
    assert interval(films(32, 32), "color") == (1.0, 1.0, 1.0) and interval(films(1, 1), "place") is None
    page = render_page([runs])
    assert f"| evaluate | 32 | 75 ({100 * low:.0f} to {100 * high:.0f}) |" in page and "no films" not in page
    assert [stage.name for stage in read_stages(runs)] == ["text", "diffusion_forcing/films"]


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none")])
    assert "no such folder" in capsys.readouterr().err


def test_sections_of_other_runs_stay(runs):
    before = "# The recipe\n\nold\n\n## embedded\n\nTwo lines\nof it.\n\n## small\n\nthe same runs, before\n"
    page = render_page([runs], before)
    assert "## embedded\n\nTwo lines\nof it.\n\n## small\n\n| stage" in page and "the same runs" not in page
    assert "python -m benchmarks.recipe runs/embedded runs/small\n" in page and "\nold\n" not in page
    assert render_page([runs], page) == page


def test_gains_stand_on_the_page(runs):
    gain = {"stage": "camera", "what": "motion", "films": 64, "before": 20, "after": 31.25, "gain": 11.25}
    record = {
        "gains": [gain | {"low": 1, "high": 20}],
        "histograms": {"balanced": {"Human": [0.8, 0.4], "": [0.2, 0.6]}},
    }
    (runs / "gains.json").write_text(json.dumps(record))
    page = render_page([runs])
    assert "| camera | motion | 64 | 20.0 | 31.2 | +11.2 (+1.0 to +20.0) |" in page
    assert "| Human | 80.0 % | 40.0 % |" in page and "| nothing | 20.0 % | 60.0 % |" in page
    assert "Missing here: no run of balanced, camera, best, motion;" in page


def change(before, after):
    return {"films": 64, "before": before, "after": after, "change": [after - before, after - before - 0.01, 0.05]}


def test_motion_its_reward_and_the_first_frame_stand_on_the_page(runs):
    found = {"right": 30, "pairs": 40, "share": 0.75, "interval": [0.6, 0.86]}
    nothing = {"right": 0, "pairs": 0, "share": None, "interval": [0, 1]}
    kinds = {"all": found, "reversed": nothing}
    reward = {
        "pairs": {"train": 200, "held_out": 40}, "accuracy": kinds,
        "baseline": {"sharpness": {"better": "less", "accuracy": kinds}},
    }  # fmt: skip
    (runs / "reward").mkdir()
    (runs / "reward" / "report.json").write_text(json.dumps(reward))
    motion = {
        "films": 64, "wins": 30, "ties": 20, "losses": 14, "win_rate": [0.625, 0.53, 0.72], "score": change(0.5, 0.6),
        "axes": {"amplitude": change(0.5, 0.5)}, "other_fields": change(0.7, 0.67), "text_alignment": change(0.6, 0.6),
        "fields": {}, "looks": {}, "frozen": {},
    }  # fmt: skip
    (runs / "motion.json").write_text(json.dumps(motion))
    (runs / "first-frame").mkdir()
    row = dict.fromkeys(
        ("films", "kept", "kept_interval", "ceiling", "decoded", "motion", "ratio", "ratio_interval"), "x"
    )
    (runs / "first-frame" / "first-frame.json").write_text(json.dumps({"rows": [row], "prompts": ["a", "b"]}))
    page = render_page([runs])
    assert "| all | 40 | 75 (60 to 86) | 75 (60 to 86) |" in page and "less sharpness" in page
    assert "| reversed | 0 |  |  |" in page
    assert "win rate 62.5% (53.0% to 72.0%)" in page
    assert "a win rate of 65%: **missed**; all but motion within 1 point: **missed**" in page
    assert "2 films of a held-out clip's first frame" in page and "| x | x | x |" in page
