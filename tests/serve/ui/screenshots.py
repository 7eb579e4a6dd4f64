"""The pictures of the desk in the documentation, made anew: `python -m tests.serve.ui.screenshots docs`."""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from everreel.film.loading import model_options
from everreel.serve.jobs.order import make_order
from everreel.serve.jobs.supervisor import Supervisor
from tests.serve.ui.desks import LOCAL, make_app, make_jobs, served
from tests.serve.ui.test_page import CHROMIUM, DESKTOP, FLAGS, PHONE

LARGEST = 200_000  # bytes
MINUTES = 4 * 60_000  # milliseconds that a film may take
BEFORE = (
    "a red fox stands in a snowy forest at night, full shot",
    "a white bird flies right over mountains by day, tracking shot to the right",
    "a robot dances in a city at night, medium shot",
    "a sailing boat on the sea at dawn, long shot",
)
PROMPT = "a red fox runs right through a snowy forest by day, full shot, tracking shot to the right"
THEN = "night falls and the fox stands still"


def main(folder: Path) -> None:
    """Make the films with the embedded model, and the pictures while the last one is being made."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        jobs = make_jobs(home)
        for seed, prompt in enumerate(BEFORE):
            jobs.submit(make_order(prompt=prompt, seconds=2, seed=seed, model="tiny-fast"), LOCAL)
        supervisor = Supervisor(home, jobs.queue, {name: model_options(model=name) for name in jobs.models})
        supervisor.start()
        try:
            with served(make_app(jobs, home)) as url, sync_playwright() as started:
                shoot_all(started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS)), url, jobs, folder)
        finally:
            supervisor.stop()


def shoot_all(browser, url, jobs, folder):
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(MINUTES)
    page.goto(url)
    page.wait_for_selector(".er-card img")
    page.wait_for_function(f"document.querySelectorAll('.er-thumb img').length === {len(BEFORE)}")
    first = jobs.queue.page(LOCAL.name)[-1]
    picture = folder / "start.png"
    with jobs.open(first.id, "thumbnail.webp") as file, Image.open(file) as image:
        image.save(picture)
    page.fill("#er-prompt textarea", PROMPT)
    page.fill("#er-seconds", "8")
    page.locator("#er-seconds").blur()
    with page.expect_file_chooser() as chosen:
        page.click(".er-slot.er-at-end")
    chosen.value.set_files(picture)
    page.wait_for_selector(".er-picture img")
    picture.unlink()
    page.click("#er-add-part")
    page.fill(".er-editor textarea", THEN)
    expect(page.locator("#er-plan")).to_contain_text("192")
    page.click("#er-make")
    expect(page.locator(".er-title")).to_contain_text(PROMPT, timeout=MINUTES)
    playing = "(video => video.src.startsWith('blob:') && video.currentTime > 1.2)(document.querySelector('#er-video'))"
    page.wait_for_function(playing, timeout=MINUTES)
    page.evaluate("document.querySelector('#er-video').controls = false")
    page.mouse.move(5, 5)
    shoot(page, folder / "desk.png")
    page.set_viewport_size(PHONE)
    page.evaluate("scrollTo(0, 0)")
    page.locator("#er-prompt textarea").press("End")  # it fits its words again
    page.wait_for_timeout(500)
    shoot(page, folder / "desk-phone.png")


def shoot(page, path):
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < LARGEST, path.stat().st_size


if __name__ == "__main__":
    main(Path(sys.argv[1]))
