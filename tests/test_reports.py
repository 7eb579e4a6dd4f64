"""The commands that measure and show films: what they write, what they say, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from everreel import reports
from everreel.caption.critic import Critic, CriticConfig, save_critic
from everreel.evaluate.quality_table import read_table
from tests.evaluate.film_sets import folder, looks
from tests.film.films import natural, write

RIGHT, WRONG = {"color": True, "place": True}, {"color": False, "place": True}


@pytest.fixture
def run() -> Callable[..., Result]:
    """The commands in a group, as `everreel evaluate` has them."""
    group = typer.Typer(pretty_exceptions_enable=False)
    reports.register(group)
    return lambda *arguments: CliRunner().invoke(group, [str(argument) for argument in arguments])


def test_quality_writes_a_table_and_names_what_it_skips(run: Callable[..., Result], tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    write(tmp_path / "a.mp4", natural(6, 32, 48))
    write(tmp_path / "odd.webm", natural(1, 36, 50), "libvpx-vp9")
    (tmp_path / "torn.mp4").write_bytes(b"torn")
    result = run("quality", tmp_path, "-o", tmp_path / "quality.csv")
    assert result.exit_code == 0, result
    assert result.stdout.splitlines()[-1] == f"2 films in {tmp_path / 'quality.csv'}, 1 skipped"
    assert "skipped torn.mp4: " in result.stderr and "film 3/3" in result.stderr
    assert read_table(tmp_path / "quality.csv")["odd.webm"].quality.missing["smoothness"] == "one frame"
    result = run("quality", tmp_path / "torn.mp4", "-o", tmp_path / "other.jsonl")
    assert isinstance(result.exception, ValueError) and "none of the 1 films could be measured" in str(result.exception)


def test_a_critic_reads_anew_what_was_asked(run: Callable[..., Result], tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    path = folder(tmp_path / "run", [{}])
    record = json.loads((path / "report.json").read_text())
    record["films"][0]["answers"] = {"color": {"asked": "red", "read": "red", "probability": 1.0}}
    (path / "report.json").write_text(json.dumps(record))
    save_critic(
        tmp_path / "critic",
        Critic(CriticConfig((4, 8), depths=(1, 1), fine=0, dim=16, num_heads=2, num_layers=1, num_slots=4)),
    )
    chances = []
    for name, more in (("old", ()), ("new", ("--critic", tmp_path / "critic"))):
        assert run("quality", path, "-o", tmp_path / f"{name}.jsonl", *more).exit_code == 0
        chances.append(read_table(tmp_path / f"{name}.jsonl")["run/film-000.mp4"].quality.values["as_asked"])
    assert chances[0] == 1.0 and 0 < chances[1] < 0.9


def test_report_writes_a_page_of_any_folders(run: Callable[..., Result], tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [RIGHT] * 2), folder(tmp_path / "b", [WRONG])
    (b / "torn.mp4").write_bytes(b"torn")
    page = tmp_path / "page.html"
    result = run("report", a, b, "-o", page, "--players", 1)
    assert result.exit_code == 0, result
    assert result.stdout == f"wrote {page}: 3 films\n" and "skipped torn.mp4: " in result.stderr
    text = page.read_text()
    assert text.count("<video") == 2 and not (a / "quality.jsonl").exists()
    assert not list(tmp_path.glob("*.part"))


def test_report_measures_where_it_is_told_to(run: Callable[..., Result], tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    a = folder(tmp_path / "a", [RIGHT])
    result = run("report", a, "-o", tmp_path / "page.html", "--quality", "--embed")
    assert result.exit_code == 0, result
    assert list(read_table(a / "quality.jsonl")) == ["film-000.mp4"]
    text = (tmp_path / "page.html").read_text()
    assert "motion is smooth" in text and 'src="data:video/mp4;base64,' in text


def test_compare_writes_what_it_is_asked_for(run: Callable[..., Result], tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [WRONG] * 8), folder(tmp_path / "b", [RIGHT] * 8)
    for path in (a, b):
        looks(path, {"flicker": [1.0] * 8})
    outputs = [tmp_path / f"compare{ending}" for ending in (".html", ".md", ".json")]
    result = run("compare", a, b / "report.json", *(part for path in outputs for part in ("-o", path)))
    assert result.exit_code == 0, result
    lines = result.stdout.splitlines()
    assert lines[0].startswith("On the whole, all fields as asked: b is significantly better than a")
    assert lines[1:] == [f"wrote {path}" for path in outputs]
    assert json.loads(outputs[2].read_text())["statement"] == lines[0]
    assert "<h1>" in outputs[0].read_text() and outputs[1].read_text().startswith("# a and b")


def test_what_is_not_comparable_needs_a_word(run: Callable[..., Result], tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [WRONG] * 8), folder(tmp_path / "b", [RIGHT] * 8, [f"q {n}" for n in range(8)])
    page = tmp_path / "c.html"
    result = run("compare", a, b, "-o", page)
    assert isinstance(result.exception, ValueError) and "prompts: are other ones" in str(result.exception)
    assert not page.exists()
    result = run("compare", a, b, "-o", page, "--anyway")
    assert result.exit_code == 0 and "Not comparable, and compared all the same" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("quality", "{a}", "-o", "{tmp}/t.txt"), "must end in .jsonl or .csv"),
        (("quality", "{tmp}/none", "-o", "{tmp}/t.csv"), "does not exist"),
        (("quality", "{a}", "-o", "{tmp}/t.csv", "--critic", "{tmp}"), "there is no config.json"),
        (("report", "{a}", "-o", "{tmp}/page.txt"), "must end in .html"),
        (("report", "{a}", "-o", "{a}"), "is a folder"),
        (("report", "{a}", "-o", "{tmp}/no/page.html"), "does not exist; nearest that does"),
        (("report", "{tmp}/none"), "is no folder of films"),
        (("compare", "{a}", "{a}", "-o", "{tmp}/page.pdf"), "must end in .html"),
        (("compare", "{a}", "{tmp}/none", "-o", "{tmp}/c.html"), "is no folder of films"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run: Callable[..., Result], tmp_path: Path, arguments, rule: str) -> None:
    a = folder(tmp_path / "a", [RIGHT])
    result = run(*(argument.format(a=a, tmp=tmp_path) for argument in arguments))
    assert isinstance(result.exception, ValueError) and rule in str(result.exception)
    assert "\n" not in str(result.exception)
