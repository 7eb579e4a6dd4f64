"""`everreel rate`: a study in three commands, and what is refused."""

import json

import pytest
import typer
from filelock import FileLock
from typer.testing import CliRunner

from everreel import rating
from everreel.evaluate.bench.study import load_study
from tests.evaluate.bench.studies import films, prefers, rate

app = typer.Typer(pretty_exceptions_enable=False)
app.add_typer(rating.app, name="rate")


def run(*arguments):
    return CliRunner().invoke(app, ["rate", *map(str, arguments)])


def fails(*arguments):
    result = run(*arguments)
    assert isinstance(result.exception, ValueError), result
    return str(result.exception)


@pytest.fixture
def made(tmp_path):
    folders = films(tmp_path)
    (folders["new"] / "film-2.mp4").unlink()
    result = run("make", tmp_path / "study", *(f"{name}={path}" for name, path in folders.items()), "--ask", "both")
    assert result.exit_code == 0, result
    assert result.stdout == f"2 prompts, 2 models: old, new; in {tmp_path / 'study'}\n"
    assert result.stderr == "film-2: is left out, as there is no film of new\n"
    return tmp_path / "study"


def test_a_study_is_made_rated_and_exported(made, tmp_path):
    study = load_study(made)

    def say(task, shown):
        return {"old": 2, "new": 4}[shown[0].model] if task.kind == "scores" else prefers("new", "old")(task, shown)

    rate(made, study, "Anna", say)
    ben = rate(made, study, "Ben", lambda task, shown: 5, limit=1)
    result = run("status", made)
    assert result.stdout.splitlines()[0] == "2 prompts, 2 models, 2 raters"
    assert f"Ben: 1 of 6, code {ben.header.code}" in result.stdout
    out = tmp_path / "tables"
    result = run("export", made, "-o", out, "--beside", "paper", "--without", "ben")
    assert result.exit_code == 0, result
    assert result.stdout.rstrip("\n") == (out / "results.md").read_text().rstrip("\n")
    assert "SkyReels-V2 | 3.14" in result.stdout and "| Ben |" not in result.stdout
    record = json.loads((out / "results.json").read_text())
    assert record["scores"]["new"]["average"]["value"] == 4 and record["differences"]["old − new"]["value"] == -2
    lines = [json.loads(line) for line in (out / "preferences.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 5 and all("of-new" in line["better"] for line in lines)
    assert (out / "results.csv").read_text().startswith("kind,model,axis,value,low,high,answers\nscore,old,average,2")
    assert sorted(path.name for path in made.iterdir()) == ["ratings", "study.json"], "an export writes elsewhere"


def test_options_that_are_wrong_are_refused(made, tmp_path):
    old, new = tmp_path / "of-old", tmp_path / "of-new"
    assert "kind = 'stars': must be one of scores, pairs" in fails("make", tmp_path / "x", old, new, "--ask", "stars")
    assert "axis = 'sound': must be" in fails("make", tmp_path / "x", old, new, "--axes", "overall, sound")
    assert "two models cannot both be 'a'; give names" in fails("make", tmp_path / "x", f"a={old}", f"a={new}")
    assert "no such folder" in fails("make", tmp_path / "x", tmp_path / "nowhere")
    assert "nobody has answered anything yet" in fails("export", made, "-o", tmp_path / "out")
    rate(made, load_study(made), "Anna", lambda task, shown: 3, limit=1)
    assert "beside = 'vbench': must be paper" in fails("export", made, "-o", tmp_path / "out", "--beside", "vbench")
    assert "without = 'Cleo': is no rater of this study; Anna rated" in fails(
        "export", made, "-o", tmp_path / "out", "--without", "Cleo"
    )
    assert "has no study.json" in fails("status", tmp_path)
    assert not (tmp_path / "out").exists() and not (tmp_path / "x").exists()


def test_one_study_is_served_once_and_to_this_machine_alone_without_a_key(made):
    pytest.importorskip("fastapi")
    assert "others can reach it, so a key is needed" in fails("serve", made, "--host", "0.0.0.0")
    with FileLock(made / ".serving.lock"):
        assert "is being served already" in fails("serve", made, "--port", "0")


def test_serve_says_where_the_page_is_and_lets_go_of_the_study(made, monkeypatch):
    pytest.importorskip("fastapi")

    bound = []

    def stopped(self, sockets):
        bound.append(sockets[0].getsockname())
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Server.run", stopped)
    (made.parent / "of-old" / "film-0.mp4").unlink()
    for key, end in ((None, ""), ("some-long-word", "#key=some-long-word")):
        result = run("serve", made, "--port", 0, *(("--key", key) if key else ()))
        assert result.exit_code == 0 and result.stdout == f"http://127.0.0.1:{bound[-1][1]}/{end}\n", result
        assert result.stderr == "../of-old/film-0.mp4: is missing\n"
