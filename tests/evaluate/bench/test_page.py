"""The rating page in a real browser: keys, mouse, reloads, undo, and a connection that drops."""

import errno
import os
import shutil
import threading
from contextlib import contextmanager

import pytest

from everreel.evaluate.bench import ratings
from everreel.evaluate.bench.ratings import Ratings
from tests.evaluate.bench.studies import PROMPTS, pictures, study_of

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from everreel.evaluate.bench.server import Desk, bind, make_app

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)

# The browser of a test has no business with anything but the test's page.
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required")
PATIENCE = 60_000  # milliseconds, on a busy machine
HOSTILE = "<img src=x onerror=alert(1)> & \"quotes\" 'n'"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=2 * PATIENCE)
        yield browser
        browser.close()


@contextmanager
def served(folder, key=None):
    """The address of a study's page."""
    import uvicorn

    with bind("127.0.0.1", 0, key) as bound:
        server = uvicorn.Server(
            uvicorn.Config(make_app(Desk(folder), key), log_level="warning", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def visit(browser):
    """Opens pages; at the end none of them may have complained, or have asked for anything from elsewhere."""
    contexts, said, asked = [], [], []

    def visit(url, context=None, **options):
        if context is None:
            context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
            context.set_default_timeout(PATIENCE)
            contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:,"))]
    # What a page that is closed, or has no connection, could not load is no fault of it.
    assert not [line for line in said if "Failed to load resource" not in line]


def expect(page, selector, text):
    playwright.expect(page.locator(selector)).to_contain_text(text, timeout=PATIENCE)
    playwright.expect(page.locator(selector)).to_be_visible(timeout=PATIENCE)


def join(page, name="Anna", then="#task"):
    page.fill("#name", name)
    keys(page, "Enter Enter")  # as people do
    page.wait_for_selector(then)


def until(page, truth):
    """Waits for an expression to be true; the page's own rules let no tool wait for it there."""
    for _ in range(PATIENCE // 100):
        if page.evaluate(truth):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never true: {truth}")


def keys(page, text):
    for key in text.split():
        page.keyboard.press(key)


def answers(folder, study, name="anna"):
    """In the order of the rater's tasks."""
    rater = Ratings(folder, study).raters[name]
    return [list(rater.answers[task].answer.values()) for task in rater.tasks if task in rater.answers]


def checked(page):
    return page.locator("#rows input:checked").evaluate_all("inputs => inputs.map((input) => input.value)")


def test_a_rater_rates_three_films_by_keys_and_mouse_reloads_resumes_and_undoes(tmp_path, visit):
    folder, study = study_of(tmp_path, models=("secret-model",), prompts=(*PROMPTS[:2], HOSTILE), kinds=("scores",))
    with served(folder) as url:
        page = visit(url)
        join(page, HOSTILE)
        expect(page, "#progress", "0 of 3 · 3 left")
        keys(page, "4 5 3 2 Enter")
        expect(page, "#progress", "1 of 3 · 2 left")
        for row, value in enumerate((1, 2, 3, 4)):
            page.locator("#rows fieldset").nth(row).locator(f"input[value='{value}']").click()
        page.click("#next")
        expect(page, "#progress", "2 of 3 · 1 left")
        expect(page, "#saved", "all saved")
        keys(page, "5 5")
        page.reload()
        expect(page, "#progress", "2 of 3 · 1 left")
        assert checked(page) == ["5", "5"], "what was not sent yet is kept too"
        page.keyboard.press("u")
        expect(page, "#progress", "1 of 3 · 2 left")
        assert checked(page) == ["1", "2", "3", "4"], "what was taken back is shown to be changed"
        keys(page, "ArrowRight ArrowDown ArrowLeft Enter")
        expect(page, "#progress", "2 of 3 · 1 left")
        keys(page, "5 5 5 5 Enter")
        expect(page, "#done-text", "All 3 answers are saved")
        assert page.locator("#who").inner_text().startswith(HOSTILE)
        page.click("#undo")
        expect(page, "#progress", "2 of 3 · 1 left")
        page.keyboard.press("Enter")
        expect(page, "#done-text", "All 3 answers are saved")
        assert "secret-model" not in page.content()
    assert answers(folder, study, HOSTILE.casefold()) == [[4, 5, 3, 2], [2, 1, 3, 4], [5, 5, 5, 5]]


def test_words_are_shown_as_words_and_films_play(tmp_path, visit):
    folder, _ = study_of(tmp_path, prompts=(HOSTILE,), kinds=("pairs",))
    with served(folder) as url:
        page = visit(url)
        join(page)
        expect(page, "#prompt", HOSTILE)
        until(page, "[...document.querySelectorAll('video')].every((film) => film.currentTime > 0)")
        assert page.locator("video").count() == 2
        page.keyboard.press(" ")
        until(page, "[...document.querySelectorAll('video')].every((film) => film.paused)")
        expect(page, "#play", "Play")


def test_the_picture_that_films_begin_with_stands_beside_the_words(tmp_path, visit):
    folder, _ = study_of(tmp_path, kinds=("pairs",), pictures=pictures(tmp_path), medium="i2v")
    with served(folder) as url:
        page = visit(url)
        join(page)
        until(page, "document.querySelector('#picture').naturalWidth === 64")
        expect(page, "#start", "begins with")


def test_without_pictures_there_is_no_place_for_one(tmp_path, visit):
    folder, _ = study_of(tmp_path, kinds=("scores",))
    with served(folder) as url:
        page = visit(url)
        join(page)
        playwright.expect(page.locator("#start")).to_be_hidden()


def test_pairs_by_keys_are_what_was_on_that_side(tmp_path, visit):
    folder, study = study_of(tmp_path, kinds=("pairs",), axes=("motion_quality", "overall"))
    with served(folder) as url:
        page = visit(url)
        join(page)
        keys(page, "ArrowLeft t Enter")
        expect(page, "#progress", "1 of 3")
        keys(page, "ArrowRight ArrowUp ArrowLeft ArrowRight Enter")
        expect(page, "#progress", "2 of 3")
        keys(page, "3 2 Enter")
        expect(page, "#done-text", "All 3 answers are saved")
    assert answers(folder, study) == [["left", "tie"], ["left", "right"], ["right", "tie"]]


def test_answers_survive_a_connection_that_drops_and_a_page_that_is_closed_meanwhile(tmp_path, visit):
    folder, study = study_of(tmp_path, models=("a",), kinds=("scores",))
    with served(folder) as url:
        page = visit(url)
        join(page)
        expect(page, "#progress", "0 of 3")
        page.context.set_offline(True)
        keys(page, "4 4 4 4 Enter")
        expect(page, "#saved", "1 to be saved")
        expect(page, "#alert", "The connection is gone. 1 not saved yet")
        keys(page, "2 2 2 2 Enter")
        expect(page, "#saved", "2 to be saved")
        assert answers(folder, study) == []
        context = page.context
        page.close()  # Chromium goes online again with it: what the page still had on its way may arrive
        context.set_offline(False)
        page = visit(url, context)
        expect(page, "#progress", "2 of 3 · 1 left")
        expect(page, "#saved", "all saved")
    assert answers(folder, study) == [[4] * 4, [2] * 4]


def test_a_full_disk_is_said_and_the_page_keeps_the_answer(tmp_path, visit, monkeypatch):
    folder, study = study_of(tmp_path, models=("a",), kinds=("scores",))
    real, is_full = ratings.os.fsync, threading.Event()

    def fsync(file):
        if is_full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(ratings.os, "fsync", fsync)
    with served(folder) as url:
        page = visit(url)
        join(page)
        expect(page, "#progress", "0 of 3")
        is_full.set()
        keys(page, "4 4 4 4 Enter")
        expect(page, "#alert", "could not be saved: No space left on device")
        expect(page, "#saved", "1 to be saved")
        is_full.clear()
        expect(page, "#saved", "all saved")
        playwright.expect(page.locator("#alert")).to_be_hidden(timeout=PATIENCE)
    assert answers(folder, study) == [[4] * 4]


def test_a_name_that_is_taken_asks_for_the_code_which_goes_on_elsewhere(tmp_path, visit):
    folder, study = study_of(tmp_path, models=("a",), kinds=("scores",))
    with served(folder) as url:
        first = visit(url)
        join(first)
        keys(first, "3 3 3 3 Enter")
        expect(first, "#saved", "all saved")
        other = visit(url)
        join(other, then="#code")
        expect(other, "#join-error", "has begun already")
        other.fill("#code", Ratings(folder, study).raters["anna"].header.code)
        other.keyboard.press("Enter")
        expect(other, "#progress", "1 of 3 · 2 left")


def test_a_film_that_is_gone_can_be_skipped(tmp_path, visit):
    folder, study = study_of(tmp_path, models=("a",), kinds=("scores",))
    for film in study.films:
        (folder / film.path).unlink()
    with served(folder) as url:
        page = visit(url)
        join(page)
        expect(page, ".broken", "This film does not play.")
        page.get_by_text("Skip it").click()
        expect(page, "#progress", "1 of 3 · 2 left")
        expect(page, "#saved", "all saved")
    assert [found.unplayable for found in Ratings(folder, study).raters["anna"].answers.values()] == [True]


@pytest.mark.parametrize("kind", ["scores", "pairs"])
def test_on_a_phone_everything_is_in_reach(tmp_path, visit, kind):
    folder, study = study_of(tmp_path, kinds=(kind,))
    with served(folder, "a-long-enough-key") as url:
        page = visit(
            f"{url}#key=a-long-enough-key", is_mobile=True, has_touch=True, screen={"width": 390, "height": 844}
        )
        page.set_viewport_size({"width": 390, "height": 844})
        join(page)
        expect(page, "#progress", "0 of")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for row in range(len(study.axes_of(kind))):
            page.locator("#rows fieldset").nth(row).locator("input").nth(1).tap()
        box = page.locator("#next").bounding_box()
        assert box["y"] + box["height"] <= 844 and box["height"] >= 40, "the button stays in view"
        page.locator("#next").tap()
        expect(page, "#progress", "1 of")
        expect(page, "#saved", "all saved")
    assert set(answers(folder, study)[0]) == {2 if kind == "scores" else "tie"}
