"""The pages of curation: what they say, that they ask for nothing from elsewhere, and the check in a real browser."""

import json
import re
import shutil

import pytest

from everreel.curate.gates import ANSWERS, Sample, read_answers
from everreel.curate.page import make_check
from everreel.curate.plots import bars, histogram
from everreel.curate.record import Clip, Crop
from everreel.curate.report import Bound, Told, write_report
from everreel.data.draws import generator_for
from everreel.media import FilmWriter
from tests.curate import pictures

HOSTILE = "<img src=x onerror=alert(1)> & \"q\" 'n'.mp4"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder with two films, one of them with a name that means harm."""
    folder = tmp_path_factory.mktemp("films")
    for seed, name in enumerate((HOSTILE, "tv/second.mp4")):
        (folder / name).parent.mkdir(exist_ok=True)
        with FilmWriter(folder / name, pictures.HEIGHT, pictures.WIDTH, 8) as writer:
            writer.append(pictures.subtitled(pictures.scenery(seed=seed)))
    return folder


def clip(source, first, **more):
    return Clip(source, first, 3, first / 8, (first + 3) / 8, 8.0, 320, 180, **more)


def found(source=HOSTILE):
    return [
        clip(source, 0, verdict="kept", crop=Crop(0, 0, 320, 152), measures={"text": 0.01}),
        clip(source, 3, verdict="dropped", reasons=("text", "black"), measures={"text": 0.4}),
        clip("tv/second.mp4", 0, verdict="dropped", reasons=("duplicate",), like=f"{source}#0+3"),
        clip("gone.mp4", 0, verdict="dropped", reasons=("black",), measures={"text": float("nan")}),
    ]


def test_the_report_says_what_was_dropped_and_shows_it(films, tmp_path):
    told = Told(found(), [Bound("text", "text", 0.05, "at most", "share of words")], {"bad.mp4": "<b>is cut off"})
    write_report(tmp_path / "report.html", told, films.joinpath)
    text = (tmp_path / "report.html").read_text()
    assert "4 clips of 3 films" in text and "1 kept" in text and "3 dropped" in text
    assert "&lt;img src=x" in text and "<img src=x" not in text and "&lt;b&gt;is cut off" in text
    assert re.search(r"black <span class=\"count\">2 clips", text) and "share of words: at most 0.05" in text
    assert "320x180 cut to 320x152, 84%" in text
    assert "No picture: the film cannot be read any more." in text
    assert not re.search(r"(?:src|href)=\"(?!data:)", text), "all of it is in the page"
    strips = sorted(path.stat().st_mtime_ns for path in (tmp_path / "strips").iterdir())
    write_report(tmp_path / "report.html", told, films.joinpath)
    assert strips == sorted(path.stat().st_mtime_ns for path in (tmp_path / "strips").iterdir())


def test_thousands_of_clips_are_counted_and_few_are_shown(tmp_path):
    clips = [clip(f"{n}.mp4", 0, verdict="dropped", reasons=("black",)) for n in range(3000)]
    write_report(tmp_path / "report.html", Told(clips), tmp_path.joinpath, most=5)
    text = (tmp_path / "report.html").read_text()
    assert "and 2,995 more dropped as black" in text and text.count('class="card"') == 5
    assert len(text) < 50_000


def test_a_report_of_nothing_is_a_page(tmp_path):
    write_report(tmp_path / "report.html", Told([]), tmp_path.joinpath)
    assert "0 clips of 0 films" in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match=r"must end in \.html"):
        write_report(tmp_path / "report.txt", Told([]), tmp_path.joinpath)


def test_plots_escape_words_and_take_any_number():
    assert "&lt;b&gt;" in bars([("<b>", 3, "3"), ("none", 0, "0")], "t") and not bars([], "t")
    assert histogram([1, 1, 1], [5], "t") and histogram([0.0], [], "t")
    assert not histogram([float("nan"), float("inf")], [1], "t")


def test_a_person_checks_clips_by_keys_and_saves_the_answers(films, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    clips = [clip(HOSTILE, n, verdict="kept") for n in range(3)]
    sample = make_check(tmp_path, clips, "pretraining", generator_for(0, "gate"), films.joinpath)
    said, asked = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=120_000)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "check.html").as_uri())
        assert page.locator("#name").inner_text().startswith(HOSTILE)
        page.keyboard.press("1")
        page.keyboard.press("3")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.locator("#next").click()
        page.reload()
        assert page.locator("#progress").inner_text() == "2 of 3 looked at, 1 bad"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert page.locator("#done").is_visible() and not page.locator("#task").is_visible()
        with page.expect_download() as download:
            page.locator("#done .save").click()
        download.value.save_as(tmp_path / ANSWERS)
        browser.close()
    assert said == [] and {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
    names = [name for name, _ in sample.clips]
    assert read_answers(tmp_path / ANSWERS, Sample.load(tmp_path / "check.json")) == {
        names[0]: {"post"},
        names[1]: {"type"},
        names[2]: frozenset(),
    }
    assert json.loads((tmp_path / ANSWERS).read_text())["gate"] == "pretraining"
