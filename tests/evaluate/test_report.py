"""The page of a set of films: what it shows is what the folders hold, and nothing of theirs is ever run."""

from __future__ import annotations

import base64
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from everreel.evaluate import charts
from everreel.evaluate.film_set import gather, read_report, told_by_journal
from everreel.evaluate.page import shown
from everreel.evaluate.report import ranked, report
from tests.evaluate.film_sets import a_film, folder, looks

RIGHT, HALF, WRONG = {"color": True, "place": True}, {"color": True, "place": False}, {"color": False, "place": False}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&{{7*7}}'


class Page(HTMLParser):
    """The tags of a page with their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(*folders: Path, at: Path, **more) -> Page:
    return Page(report([gather(path) for path in folders], at / "report.html", **more))


def test_a_page_shows_films_figures_and_plots(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [RIGHT, HALF, WRONG, RIGHT, RIGHT, HALF, WRONG, RIGHT], guidance_scale=5.0)
    looks(run, {"flicker": [1.0, 2, 3, 4, 5, 6, 7, 8]})
    page = page_of(run, at=tmp_path)
    sources = {attrs["src"] for attrs in page.all("video")}
    assert sources == {f"./run/film-{number:03d}.mp4" for number in range(8)}
    assert all((tmp_path / unquote(source)).is_file() for source in sources)
    assert all(attrs["poster"].startswith("data:image/jpeg;base64,") for attrs in page.all("video"))
    assert len(page.all("video")) == 8 + 3 + 3 and len(page.all("svg")) == 2
    assert "75% (41% to 93%), 8" in page.words and re.search(r"4\.500 \([23]\.\d+ to [56]\.\d+\), 8", page.words)
    assert "prompt 3" in page.words and "guidance_scale" in page.words and "color: one read as two (2×)" in page.words
    limited = page_of(run, at=tmp_path, players=2)
    assert len(limited.all("video")) == 2 + 3 + 3 and "2 of 8 films" in limited.words
    with pytest.raises(ValueError, match="players = -1"):
        page_of(run, at=tmp_path, players=-1)


def test_links_are_seen_from_where_the_page_lies_and_films_can_be_put_into_it(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [RIGHT])
    (tmp_path / "pages").mkdir()
    (video,) = page_of(run, at=tmp_path / "pages").all("video")
    assert video["src"] == "./../run/film-000.mp4"
    (video,) = page_of(run, at=tmp_path, embed=True).all("video")
    kind, _, content = video["src"].partition(";base64,")
    assert kind == "data:video/mp4" and base64.b64decode(content) == (run / "film-000.mp4").read_bytes()


def test_nothing_of_a_file_is_ever_run_or_asked_for(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [HALF] * 2, prompts=[HOSTILE, "javascript:alert(3)"], **{HOSTILE: HOSTILE})
    names = ["javascript:alert(4).mp4", "<b onclick=alert(5)>#?%41&.mp4", os.fsdecode(b"latin-\xe9.mp4")]
    for name in names:
        (run / name).write_bytes(a_film().read_bytes())
    (run / 'broken"><script>.mp4').write_bytes(b"no film")
    record = json.loads((run / "report.json").read_text())
    record["films"][0]["answers"][HOSTILE] = {"asked": HOSTILE, "read": HOSTILE + "!", "probability": 0.1}
    (run / "report.json").write_text(json.dumps(record))
    text = report([gather(run, HOSTILE)], tmp_path / "report.html")
    page = Page(text)
    assert HOSTILE in page.words, "it is shown, as words"
    asking = {"script", "img", "iframe", "link", "object", "embed", "form", "base", "a"}
    assert not asking & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("src", "poster", "href"):
            assert (attrs.get(name) or "./").startswith(("./", "data:image/jpeg;base64,")), attrs
    assert "{{7*7}}" in text and "49" not in re.findall(r"&amp;\S{0,6}", text)
    policy = page.all("meta")[2]
    assert policy["http-equiv"] == "Content-Security-Policy" and "default-src 'none'" in str(policy["content"])
    linked = {os.fsdecode(unquote(attrs["src"] or "", errors="surrogateescape")) for attrs in page.all("video")}
    assert {f"./run/{name}" for name in names} <= linked
    text.encode("utf-8", "replace")


def test_a_report_names_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(a_film().read_bytes())
    run = folder(tmp_path / "run", [RIGHT] * 3)
    record = json.loads((run / "report.json").read_text())
    for number, name in enumerate(("../secret.mp4", str(tmp_path / "secret.mp4"), "film-009.mp4")):
        record["films"][number]["file"] = name
    (run / "report.json").write_text(json.dumps(record))
    found = gather(run)
    assert [film.name for film in found.films if film.path] == [f"film-{number:03d}.mp4" for number in range(3)]
    assert [film.name for film in found.films if film.path is None] == ["film-009.mp4"]
    assert len(found.skipped) == 2 and "is no name of a film in this folder" in str(found.skipped[0])
    assert "secret" not in "".join(str(attrs["src"]) for attrs in page_of(run, at=tmp_path).all("video"))


def test_a_results_file_of_another_suite_is_named(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [RIGHT])
    for foreign in ('{"subject_consistency": [0.9, []]}', "[]", "torn {", '{"settings": 1, "films": []}'):
        (run / "report.json").write_text(foreign)
        found = gather(run)
        assert len(found.films) == 1 and not found.films[0].answers
        assert "report.json: is no report of everreel evaluate" in str(found.skipped[0])
        with pytest.raises(ValueError, match="is no report of everreel evaluate"):
            read_report(run / "report.json")
        with pytest.raises(ValueError, match="is no report of everreel evaluate"):
            gather(run / "report.json")
    (run / "quality.jsonl").write_text("words\n")
    assert "quality.jsonl: " in str(gather(run).skipped[1])
    for wrong in (tmp_path / "nowhere", run / "film-000.mp4"):
        with pytest.raises(ValueError, match="is no folder of films"):
            gather(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no film in it; give a folder of MP4s"):
        gather(tmp_path / "empty")
    with pytest.raises(ValueError, match="at least one folder"):
        report([], tmp_path / "report.html")


def test_a_corrupt_film_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [RIGHT] * 2)
    (run / "film-001.mp4").write_bytes(b"torn")
    page = page_of(run, at=tmp_path)
    assert len(page.all("video")) == 1 and "film-001.mp4: " in page.words and "1 skipped" in page.words


def test_figures_are_only_those_of_the_film_as_it_is_now(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [RIGHT])
    looks(run, {"flicker": [1.5]})
    assert gather(run).films[0].figures == {"flicker": 1.5}
    with (run / "film-000.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")
    assert gather(run).films[0].figures == {}


def test_prompt_and_seed_come_from_a_journal_too(run, tiny_folder, tmp_path: Path) -> None:
    few = ("--num-frames", 5, "--num-inference-steps", 1, "--guidance-scale", 1, "--dtype", "float32", "--seed", 7)
    code, _, err = run("generate", "a red fox", "-o", tmp_path / "fox.mp4", "--model", tiny_folder, *few)
    assert code == 0, err
    (film,) = gather(tmp_path).films
    assert (film.prompt, film.seed, film.num_frames) == ("a red fox", 7, 5)
    assert told_by_journal(a_film()) == (None, None)


def test_the_best_are_the_best(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", [WRONG, RIGHT, HALF])
    films = gather(run).films
    assert [film.share_right for film in ranked(films)[0]] == [1.0, 0.5, 0.0]
    (run / "report.json").unlink()
    assert ranked(gather(run).films)[1] == ""
    looks(run, {"flicker": [3.0, 1.0, 2.0], "sharpness": [0.1, 0.9, 0.8], "smoothness": [None, 0.1, 0.2]})
    order, by = ranked(gather(run).films)
    assert [film.name for film in order] == ["film-001.mp4", "film-002.mp4", "film-000.mp4"] and "mean rank" in by


def test_plots_are_drawn_to_scale_and_escaped() -> None:
    lines = [
        charts.Line("<a & b>", [charts.Mark(0.25, 0.0, 0.5), None]),
        charts.Line("none", [None, charts.Mark(1.0)], 0.8),
    ]
    svg = charts.whiskers(lines, 'of "all"', low=0, high=1, percent=True)
    tree = ElementTree.fromstring(svg)
    places = [float(dot.get("cx")) for dot in tree.iter("circle")]
    span = charts.WIDTH - charts.LABEL - charts.RIGHT
    assert places == [pytest.approx(charts.LABEL + 0.25 * span, abs=0.1), pytest.approx(charts.LABEL + span, abs=0.1)]
    words = [text.text for text in tree.iter("text")]
    assert "<a & b>" in words and "100 %" in words and tree.get("aria-label") == 'of "all"'
    dots = ElementTree.fromstring(charts.strip([("x", [1.0, 2.0, 3.0], charts.Mark(2.0, 1.5, 2.5))], "t", False))
    assert len(list(dots.iter("circle"))) == 4
    same = ElementTree.fromstring(charts.strip([("x", [0.0, 0.0], charts.Mark(0.0))], "t", False))
    assert len(list(same.iter("circle"))) == 3
    assert charts.strip([("x", [], charts.Mark(0.0))], "t", False) == ""


def test_values_without_end_are_cut() -> None:
    assert shown("a\n b") == "a b" and len(shown("x" * 10_000)) < 500
