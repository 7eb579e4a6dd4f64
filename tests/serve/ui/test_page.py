"""The desk in a real browser: films are made, extended, cancelled and kept; on a desktop and on a phone."""

import json
import re
import shutil
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the extra `serve` is not installed")

from everreel.enhance import EnhanceOptions
from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.supervisor import Supervisor
from everreel.world.scene import VOCABULARY
from tests import chat_server
from tests.serve.ui.desks import LOCAL, PATIENCE, Painter, drawn, held_back, make_app, make_jobs, served

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium", allow_module_level=True)

# The browser of a test has no business with anything but the test's page.
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SLOW = 1000 * PATIENCE
HOSTILE = "<img src=x onerror=alert(1)> & \"quotes\" 'n' `${alert(1)}` {{7*7}}"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=2 * SLOW)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens pages; at the end none of them may have complained, or have asked for anything from elsewhere."""
    contexts, said, asked = [], [], []

    def visit(url, size=None, **options):
        context = browser.new_context(viewport=size or DESKTOP, **options)
        context.set_default_timeout(SLOW)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.wait_for_selector("#er-make")
        page.wait_for_selector(".er-strip .er-opening")
        return page

    def leave():
        while contexts:
            contexts.pop().close()

    visit.leave = leave
    yield visit
    leave()
    assert not [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:http://127.0.0.1:"))]
    assert not said


@contextmanager
def at_desk(visit, app):
    """The address of a desk; pages are closed before their server is, as that would have them complain."""
    with served(app) as url:
        try:
            yield url
        finally:
            visit.leave()


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def jobs(home):
    return make_jobs(home)


@pytest.fixture
def painter(jobs):
    painter = Painter(jobs)
    painter.start()
    yield painter
    painter.stop()


def expect(page, selector, text):
    playwright.expect(page.locator(selector)).to_contain_text(text, timeout=SLOW)


def until(page, truth):
    page.wait_for_function(truth, timeout=SLOW)


def make(page, prompt, seconds=None):
    page.fill("#er-prompt textarea", prompt)
    if seconds:
        page.fill("#er-seconds", str(seconds))
        page.press("#er-seconds", "Enter")
        page.locator("#er-seconds").blur()
        expect(page, "#er-plan", f"{round(24 * seconds)}")
    page.click("#er-make")
    expect(page, ".er-title", prompt)


def newest(jobs):
    return jobs.queue.page(None, limit=1)[0]


def test_a_film_of_the_model_is_made_by_a_worker_and_seen(home, jobs, visit, tmp_path):
    supervisor = Supervisor(home, jobs.queue, jobs.models)
    supervisor.start()
    try:
        with at_desk(visit, make_app(jobs, home)) as url:
            page = visit(url)
            make(page, "a red fox runs through a snowy forest", 1)
            expect(page, "#er-status", "Done")
            until(page, "document.querySelector('#er-video').currentTime > 0")
            shot = tmp_path / "page.png"
            page.locator("#er-video").screenshot(path=shot)
    finally:
        supervisor.stop()
    seen = np.asarray(Image.open(shot).convert("RGB"), dtype=float)
    assert seen.std() > 10, "more than an empty player"
    assert newest(jobs).num_frames == 24 and newest(jobs).status == "completed"


def test_a_film_is_made_block_by_block_extended_and_kept_over_a_restart(home, jobs, painter, visit):
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        expect(page, ".er-empty", "Your film appears here")
        expect(page, "#er-plan", "Say what the film shows")
        make(page, "a red fox runs", 2)
        expect(page, "#er-status", "First block is on its way")
        painter.blocks.release()
        expect(page, "#er-facts", "0.5 s of 2 s")
        until(page, "document.querySelector('#er-video').currentTime > 0")
        assert newest(jobs).status == "in_progress", "the video plays before the film is finished"
        painter.blocks.release()
        until(page, "document.querySelector('#er-video').currentTime > 0.6")
        painter.hurry.set()
        expect(page, "#er-status", "Done")
        until(page, "document.querySelector('#er-video').src.includes('/content')")
        until(page, "document.querySelector('.er-thumb img')?.naturalWidth === 160")
        page.fill("#er-next", "it jumps over a log")
        page.fill("#er-more", "1")
        page.click("#er-extend")
        expect(page, ".er-title", "it jumps over a log")
        expect(page, "#er-status", "Done")
        expect(page, "#er-facts", "3 s")
        assert page.input_value("#er-next") == "", "what was said once is not said again"
        assert (newest(jobs).order.extends, newest(jobs).num_frames) == (jobs.queue.page(None)[1].id, 72)
        page.click(".er-made summary")
        assert page.inner_text("#er-command").startswith("everreel extend film.mp4")
        assert "has its journal beside it" in page.inner_text("#er-note")
        assert '"prompt": "it jumps over a log"' in page.inner_text("#er-body")
    with at_desk(visit, make_app(make_jobs(home), home)) as url:
        page = visit(url)
        playwright.expect(page.locator(".er-card")).to_have_count(2, timeout=SLOW)
        until(page, "[...document.querySelectorAll('.er-thumb img')].every((image) => image.naturalWidth === 160)")
        page.locator(".er-card").nth(1).click()
        expect(page, ".er-title", "a red fox runs")
        expect(page, "#er-status", "Done")


def test_a_film_is_paused_resumed_stopped_and_deleted(home, jobs, painter, visit):
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        make(page, "a ship at sea", 4)
        painter.blocks.release()
        expect(page, "#er-facts", "0.5 s")
        page.click(".er-pause")
        expect(page, "#er-status", "Paused")
        page.click(".er-resume")
        page.wait_for_selector(".er-cancel")
        expect(page, "#er-status", "on its way")
        painter.blocks.release()
        expect(page, "#er-status", "Being made")
        page.click(".er-cancel")
        expect(page, "#er-status", "Stopped")
        assert newest(jobs).status == "cancelled"
        page.click(".er-delete")
        expect(page, ".er-delete", "Really delete?")
        assert len(jobs.queue.page(None)) == 1
        page.click(".er-delete")
        expect(page, ".er-gallery", "No films yet")
        assert not jobs.queue.page(None)


def test_what_happens_to_a_film_elsewhere_is_seen_though_nothing_is_being_made(home, jobs, visit):
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        make(page, "a ship at sea")
        page.click(".er-cancel")
        expect(page, "#er-status", "Stopped")
        jobs.want(newest(jobs).id, "run", LOCAL)
        expect(page, "#er-status", "Waiting")
        playwright.expect(page.locator(".er-cancel")).to_be_visible()


def test_no_press_is_lost_right_after_another(home, jobs, visit):
    with at_desk(visit, held_back(make_app(jobs, home))) as url:
        page = visit(url)
        make(page, "a ship at sea")
        for words in ("a whale", "a gull"):
            page.click(".er-cancel")
            page.fill("#er-prompt textarea", words)
            page.click(".er-edit")
            playwright.expect(page.locator("#er-prompt textarea")).to_have_value("a ship at sea", timeout=SLOW)
            page.click(".er-resume")
            expect(page, "#er-status", "Waiting")
        page.click(".er-pause")
        page.click(".er-resume")
        page.click(".er-cancel")
        page.click(".er-delete")
        page.click(".er-delete")
        expect(page, ".er-gallery", "No films yet")
        assert not jobs.queue.page(None)


@pytest.mark.parametrize(("action", "label"), [("pause", "Paused"), ("cancel", "Stopped")])
def test_a_press_counts_although_the_screen_is_drawn_anew_under_it(home, jobs, painter, visit, action, label):
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        make(page, "a ship at sea", 4)
        painter.blocks.release()
        expect(page, "#er-facts", "0.5 s")
        page.hover(f".er-{action}")
        page.mouse.down()
        painter.blocks.release()
        expect(page, "#er-facts", "1 s")
        page.mouse.up()
        expect(page, "#er-status", label)


def test_a_card_counts_as_pressed_although_the_gallery_is_drawn_anew_under_it(home, jobs, painter, visit):
    for prompt in ("a ship at sea", "a gull", "a whale"):
        jobs.submit(make_order(prompt=prompt, seconds=4, model="tiny"), LOCAL)
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        painter.blocks.release()
        expect(page, ".er-card:last-child small", "12 %")
        page.hover(".er-card:last-child")
        page.mouse.down()
        painter.blocks.release()
        expect(page, ".er-card:last-child small", "25 %")
        page.mouse.up()
        expect(page, ".er-title", "a ship at sea")


def test_on_the_timeline_a_press_counts_that_ends_the_writing_of_the_length(home, jobs, visit):
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        page.click("#er-add-part")
        page.fill("#er-seconds", "8")
        page.click(".er-editor-head button:last-child")  # the first of the presses takes the field's focus away
        expect(page, ".er-ruler .er-last", "8 s")
        assert page.is_hidden(".er-editor")
        page.fill("#er-seconds", "9")
        page.click(".er-part:not(.er-opening)")
        expect(page, ".er-ruler .er-last", "9 s")
        assert page.is_visible(".er-editor")
        page.fill("#er-seconds", "10")
        with page.expect_file_chooser():
            page.click(".er-slot.er-at-start")


def test_of_two_cards_the_one_that_was_pressed_last_is_shown(home, jobs, visit, monkeypatch):
    for prompt in ("a ship at sea", "a gull", "a whale"):
        jobs.submit(make_order(prompt=prompt, seconds=4, model="tiny"), LOCAL)
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        expect(page, ".er-title", "a whale")
        films = jobs.queue.page

        def slow(*args, **more):
            time.sleep(1)
            return films(*args, **more)

        monkeypatch.setattr(jobs.queue, "page", slow)
        page.click(".er-card:nth-child(2)")
        page.click(".er-card:nth-child(3)")
        expect(page, ".er-title", "a ship at sea")


def test_the_timeline_takes_story_parts_and_pictures(home, jobs, tmp_path, visit):
    Image.fromarray(drawn(1, 0, 1)[0]).save(tmp_path / "fox.png")
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        page.fill("#er-prompt textarea", HOSTILE)
        page.click("#er-add-part")
        page.fill(".er-editor textarea", HOSTILE)
        page.locator(".er-time input").fill("3")
        expect(page, ".er-time output", "3 s")
        page.click("#er-add-part")
        page.fill(".er-editor textarea", "it is gone soon")
        page.get_by_role("button", name="Remove").click()
        for opener in (".er-slot.er-at-start", "#er-add-picture"):
            with page.expect_file_chooser() as chosen:
                page.click(opener)
            chosen.value.set_files(tmp_path / "fox.png")
            page.wait_for_selector(f".er-picture.er-at-{'start' if 'start' in opener else 'time'} img")
        marker = page.locator(".er-picture.er-at-time")
        box, track = marker.bounding_box(), page.locator(".er-pictures").bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(track["x"] + track["width"] / 4 + 4, box["y"] + 20, steps=5)
        page.mouse.up()
        marker.focus()
        page.keyboard.press("ArrowRight")
        page.locator("#er-plan summary").click()
        expect(page, "#er-plan", "from frame 72 on")
        page.locator(".er-part:not(.er-opening)").click()
        page.fill(".er-editor textarea", f"{HOSTILE} at last")
        page.click("#er-make")  # at once: what was written counts
        page.wait_for_selector(".er-card")
        order = newest(jobs).order
        assert (order.request.prompt, order.request.story) == (HOSTILE, {72: f"{HOSTILE} at last"})
        assert order.image
        (frame,) = order.keyframes
        assert 20 <= frame <= 40
        assert page.inner_text(".er-title") == HOSTILE
        page.click("#er-loop")
        page.wait_for_function("document.querySelector('#er-loop').ariaPressed === 'true'")
        page.click(".er-cancel")
        page.click(".er-edit")
        playwright.expect(page.locator("#er-loop")).to_have_attribute("aria-pressed", "false", timeout=SLOW)
        playwright.expect(page.locator(".er-picture")).to_have_count(2)
        assert page.input_value("#er-prompt textarea") == HOSTILE


def test_while_a_language_model_is_asked_the_page_says_so_and_does_the_rest(home, visit):
    over = threading.Event()

    def answer(_):
        assert over.wait(PATIENCE)
        return chat_server.said(json.dumps(dict.fromkeys(VOCABULARY, "") | {"subject": "turtle", "color": "red"}))

    with chat_server.serving(answer) as llm:
        jobs = make_jobs(home, enhancer=EnhanceOptions(llm="qwen", endpoint=llm.address))
        with at_desk(visit, make_app(jobs, home)) as url:
            page = visit(url)
            page.fill("#er-prompt textarea", "a dragon")
            expect(page, "#er-plan", "96")
            page.click("#er-enhance")
            added = playwright.expect(page.locator("#er-added textarea"))
            added.to_have_value(re.compile("^A language model is asked"), timeout=SLOW)
            page.fill("#er-seconds", "2")
            page.locator("#er-seconds").blur()
            expect(page, "#er-plan", "48")
            over.set()
            added.to_have_value(re.compile("^Qwen: understood as"), timeout=SLOW)
            assert "red turtle" in page.input_value("#er-prompt textarea")


def test_what_is_wrong_is_said_before_the_button_and_the_prompt_is_made_whole(home, jobs, visit):
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        page.fill("#er-prompt textarea", "a fox")
        expect(page, "#er-plan", "96")
        page.fill("#er-seconds", "20000")
        page.locator("#er-seconds").blur()
        expect(page, "#er-plan .er-wrong", "this server makes at most 600 s; nearest that works: 600")
        page.click("#er-make")
        expect(page, "#er-refused", "this server makes at most 600 s")
        page.fill("#er-seconds", "2")
        page.locator("#er-seconds").blur()
        expect(page, "#er-plan", "48")
        playwright.expect(page.locator("#er-refused p")).to_have_count(0, timeout=SLOW)
        for nothing in ("", "-3"):
            page.fill("#er-seconds", nothing)
            page.locator("#er-seconds").blur()
            playwright.expect(page.locator("#er-seconds")).to_have_value("2", timeout=SLOW)
        assert not jobs.queue.page(None)
        page.click("#er-enhance")
        playwright.expect(page.locator("#er-added textarea")).to_have_value(
            re.compile("^Built-in: added"), timeout=SLOW
        )
        assert len(page.input_value("#er-prompt textarea")) > len("a fox")
        expect(page, ".er-opening", page.input_value("#er-prompt textarea"))
        page.click("#er-undo")
        playwright.expect(page.locator("#er-prompt textarea")).to_have_value("a fox", timeout=SLOW)
        before = page.input_value("#er-seed input")
        page.click("#er-dice")
        playwright.expect(page.locator("#er-seed input")).not_to_have_value(before, timeout=SLOW)
        page.click("#er-loop")
        page.click("#er-endless")
        expect(page, ".er-ruler .er-last", "∞")
        expect(page, "#er-plan", "∞")
        playwright.expect(page.locator("#er-loop")).to_have_attribute("aria-pressed", "false", timeout=SLOW)
        playwright.expect(page.locator(".er-slot")).to_have_text(["+ Start"], timeout=SLOW)
        page.click("#er-make")
        page.wait_for_selector(".er-card")
        assert newest(jobs).order.endless


def test_of_a_film_that_a_client_had_made_whole_one_reads_what_was_added(home, jobs, visit):
    jobs.submit(make_order(prompt="a fox runs", num_frames=5), LOCAL)
    jobs.submit(make_order(prompt="a quagga runs", num_frames=5, enhance=True), LOCAL)
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url)
        expect(page, "#er-made-whole", "not known, kept: quagga")
        page.click(".er-card:nth-child(2)")
        expect(page, ".er-title", "a fox runs")
        playwright.expect(page.locator("#er-made-whole")).to_be_hidden(timeout=SLOW)


def test_with_keys_the_desk_asks_for_one_and_shows_only_its_owners_films(home, jobs, browser, visit):
    class Keys:
        def any(self):
            return True

        def owner(self, key):
            return Owner(key.removeprefix("key-")) if key in ("key-anna", "key-ben") else None

    jobs.submit(make_order(prompt="anna's film", seconds=1, model="tiny"), Owner("anna"))
    with at_desk(visit, make_app(jobs, home, Keys())) as url:
        context = browser.new_context(viewport=PHONE)
        context.set_default_timeout(SLOW)
        page = context.new_page()
        for key, films in (("key-nobody", None), ("key-anna", 1), ("key-ben", 0)):
            page.goto(url)
            page.fill("#key", key)
            page.click("button")
            if films is None:
                expect(page, "[role=alert]", "Nobody here has this key.")
                continue
            page.wait_for_selector(".er-card" if films else ".er-nothing")
            assert page.locator(".er-card").count() == films
            assert key not in page.evaluate("document.cookie")
            assert context.cookies()[0]["httpOnly"]
            context.clear_cookies()
        context.close()


def test_a_phone_shows_all_of_it_without_sideways_scrolling_and_large_enough_to_touch(home, jobs, painter, visit):
    painter.hurry.set()
    with at_desk(visit, make_app(jobs, home)) as url:
        page = visit(url, PHONE, has_touch=True, is_mobile=True)
        make(page, "a-very-long-word-without-a-single-space-" * 4, 2)
        expect(page, "#er-status", "Done")
        page.click("#er-add-part")
        page.fill(".er-editor textarea", "it ends")
        page.click("#er-settings button")
        page.click(".er-made summary")
        page.click("#er-plan summary")
        wide = """[...document.querySelectorAll('body *')].filter((node) => {
            const box = node.getBoundingClientRect();
            return box.width > 0 && box.right > innerWidth + 0.5 && !node.closest('.er-tracks, .er-ruler, pre');
        }).map((node) => `${node.tagName}.${node.className}`)"""
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert page.evaluate(wide) == []
        small = """[...document.querySelectorAll('.er-line button, .er-screen button, .er-card, #er-make, #er-dice')]
            .map((node) => [node.textContent, node.getBoundingClientRect()])
            .filter(([, box]) => box.height && (box.height < 44 || box.width < 44)).map(([text]) => text)"""
        assert page.evaluate(small) == []
