"""The page: a director's desk, made with Gradio and served with the rest.

Gradio 6 (the extra `serve`) draws the fields; the timeline, the screen and the gallery are scripts of our own in
`page/`. The one invariant: the page loads nothing from elsewhere, and what it may do it does through `Jobs`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

try:
    import gradio as gr
    from fastapi import FastAPI
    from starlette.routing import Mount
except ImportError as error:
    raise ValueError(f"the page needs {error.name}: pip install 'everreel[serve]'") from None

from everreel.serve.jobs.job import Owner
from everreel.serve.jobs.service import Jobs
from everreel.serve.ui.desk import A_PAGE, FIELDS, SETTINGS, SOON, Desk, Tokens
from everreel.serve.ui.form import SECONDS
from everreel.serve.ui.gate import Gate, key_in

AT_ONCE = 16  # events that are worked on at the same time; the other threads are for the rest of the server
OPEN_PAGES = 100  # that Gradio remembers, at 0.13 MB each; of one that is forgotten, Undo is lost and nothing else
LARGEST_PICTURE = 32_000_000  # bytes
SCRIPTS = ("common.js", "live.js", "timeline.js", "screen.js", "gallery.js")
DICE = "() => Math.floor(Math.random() * 2 ** 31)"
ASKING = "() => 'A language model is asked; that may take a while.'"
ASPECTS = [("Wide", "16:9"), ("Tall", "9:16"), ("Square", "1:1")]
SIZES = [("The model's own", ""), ("540P", "540P"), ("720P", "720P")]
SCHEDULES = [
    ("As the model likes", ""),
    ("Block by block", "blockwise"),
    ("Rolling", "rolling"),
    ("Windows", "windows"),
]
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "Menlo", "Consolas", "monospace")


def mount(
    app: FastAPI,
    jobs: Jobs,
    owner_of: Callable[[str], Owner | None],
    tokens: Tokens,
    *,
    visitor: Callable[[str], Owner] | None = None,
    parents: str = "'none'",
) -> FastAPI:
    """Put the page at `/` of an application, behind all that is there already.

    Args:
        owner_of: whose key it is; of no key (empty), whoever needs none.
        tokens: what lets a plain video element see a film.
        visitor: where everybody may come in: who somebody is, by the session of an open page.
        parents: sites that may show the page in a frame.
    """
    uploads = _own_folder()

    def who(request: gr.Request) -> Owner | None:
        if visitor is not None:
            return visitor(request.session_hash) if request.session_hash else None
        return owner_of(key_in(request.headers))

    desk = Desk(jobs, who, tokens, uploads)
    largest = min(jobs.limits.upload_bytes, LARGEST_PICTURE)
    gr.mount_gradio_app(
        app,
        _blocks(desk),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=largest,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=_theme(),
        css=_asset("desk.css"),
        head="".join(f"<script>{_asset(name)}</script>" for name in SCRIPTS),
    )
    mounted = app.router.routes[-1]
    assert isinstance(mounted, Mount)
    mounted.app = Gate(mounted.app, owner_of, largest, parents=parents, visitors=visitor is not None)
    return app


def _own_folder() -> Path:
    """Where Gradio puts what browsers send, for as long as it takes to look at it; nobody else's."""
    folder = Path(tempfile.mkdtemp(prefix="everreel-page-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read when the page is mounted
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _blocks(desk: Desk) -> gr.Blocks:
    blocks: gr.Blocks
    with gr.Blocks(title="everreel", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as blocks:
        gr.HTML('<header class="er-head"><b>everreel</b><span>a director\'s desk</span></header>', padding=False)
        with gr.Row(elem_id="er-columns"):
            with gr.Column(scale=6, min_width=320, elem_id="er-desk"):
                prompt, enhance, undo, said, before = _prompt()
                timeline = _part("timeline", ("picture",), {"seconds": SECONDS})
                settings = _settings(desk.jobs)
                plan = gr.HTML(elem_id="er-plan", padding=False)
                make = gr.Button("Make the film", variant="primary", size="lg", elem_id="er-make")
                refused = gr.HTML(elem_id="er-refused", padding=False)
            with gr.Column(scale=5, min_width=320, elem_id="er-right"):
                screen = _part("screen", ("act", "draft"), {})
        gallery = _part("gallery", ("open", "older"), {})
        answers = _part("answers", (), {})
        current = gr.Textbox(visible=False)
        count = gr.Number(A_PAGE, visible=False)
        mark = gr.Textbox(visible=False)
        timer = gr.Timer(SOON, active=False)

        form = [prompt, timeline, *settings.values()]
        view = [screen, gallery, current, mark, timer]
        # Private: agents and programs have the HTTP interface, and need not know how the page is made.
        # Without Gradio's queue: it answers on a stream, closes that when nothing is left to say, and what is asked at
        # that moment stays without an answer.
        own: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        # Of what comes while the last is being answered: the newest state of the fields, or every press with its data.
        latest, each = own | {"trigger_mode": "always_last"}, own | {"trigger_mode": "multiple"}
        blocks.load(desk.open, None, view, **own)
        timer.tick(desk.look, [current, count, mark], view, **own)
        gr.on([blocks.load, *(field.change for field in form)], desk.plan, form, plan, **latest)
        prompt.change(None, None, None, js="() => document.dispatchEvent(new Event('er-prompt'))")
        # What was wrong with an order is no word on the next one.
        gr.on([field.change for field in form], None, None, refused, js="() => ''")
        if desk.jobs.enhancer.asks:  # which may take long, and one is to see that something happens
            enhance.click(None, None, said, js=ASKING)
        enhance.click(desk.enhance, [prompt, settings["model"], timeline], [prompt, said, before], **own).then(
            _undoable, [before], [undo], **own
        )
        undo.click(lambda was: (was, "", gr.Button(visible=False)), [before], [prompt, said, undo], **own)
        make.click(desk.make, [current, count, *form], [*view, refused], **own)
        timeline.picture(desk.picture, None, answers, **own)
        screen.act(desk.act, [count], view, **each)
        screen.draft(desk.draft, None, form, **each)
        gallery.open(desk.show, [count], view, **each)
        gallery.older(desk.older, [current, count], [*view, count], **own)
    blocks.max_threads = AT_ONCE
    blocks.state_session_capacity = OPEN_PAGES
    return blocks


def _prompt() -> tuple[gr.Textbox, gr.Button, gr.Button, gr.Textbox, gr.State]:
    prompt = gr.Textbox(
        label="What does the film show?",
        placeholder="A red fox runs through a snowy forest",
        lines=2,
        max_lines=8,
        elem_id="er-prompt",
        autofocus=True,
    )
    with gr.Row(elem_id="er-prompt-tools"):
        enhance = gr.Button("Enhance the prompt", size="md", elem_id="er-enhance", min_width=180)
        undo = gr.Button("Undo", size="md", visible=False, elem_id="er-undo", min_width=80)
    said = gr.Textbox(show_label=False, container=False, interactive=False, elem_id="er-added", lines=1, max_lines=16)
    return prompt, enhance, undo, said, gr.State("")


def _undoable(before: str) -> gr.Button:
    return gr.Button(visible=bool(before))


def _settings(jobs: Jobs) -> dict[str, Any]:
    """The fields of `SETTINGS`, by name."""
    with gr.Row(elem_id="er-quick"):
        with gr.Column(scale=3, min_width=280):
            aspect = gr.Radio(ASPECTS, value="16:9", label="Shape", elem_id="er-aspect")
        with gr.Column(scale=2, min_width=200), gr.Row(elem_id="er-chance"):
            seed = gr.Number(0, label="Seed", precision=0, elem_id="er-seed", min_width=100)
            dice = gr.Button("Roll", size="md", elem_id="er-dice", min_width=60, scale=0)
    with gr.Accordion("Settings", open=False, elem_id="er-settings"):
        names = list(jobs.models)
        with gr.Row():
            model = gr.Dropdown(names, value=names[0], label="Model", min_width=200)
            size = gr.Dropdown(
                SIZES, value="", label="Size", info="Or WIDTHxHEIGHT", allow_custom_value=True, min_width=200
            )
        with gr.Row():
            schedule = gr.Dropdown(SCHEDULES, value="", label="Schedule of a long film", min_width=200)
            fps = gr.Radio([16, 24], value=24, label="Frames a second", min_width=200)
        with gr.Row():
            # What is too little is said by the plan; Gradio's own bounds would only say that there is an error.
            steps = gr.Number(0, label="Steps", info="0: as the model likes", precision=0, min_width=140)
            guidance = gr.Number(0, label="Guidance", info="0: as the model likes", min_width=140)
        negative = gr.Textbox(label="What it should not look like", lines=1, max_lines=3)
    dice.click(None, None, seed, js=DICE)
    made = {
        "model": model,
        "aspect": aspect,
        "size": size,
        "fps": fps,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "schedule": schedule,
        "negative": negative,
    }
    assert (*made,) == SETTINGS
    assert ("prompt", "timeline", *made) == FIELDS
    return made


def _part(name: str, events: tuple[str, ...], value: dict[str, Any]) -> gr.HTML:
    """A part of the page that a script of ours draws; what it holds is JSON, never markup."""
    given = "{ element, trigger, props, upload, watch }"
    script = f"everreel.{name}({given}); // tells: {', '.join(map(repr, events))}"
    return gr.HTML(
        value,
        html_template="<div></div>",
        js_on_load=script,
        apply_default_css=False,
        padding=False,
        elem_id=f"er-{name}",
    )


def _theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        font=list(FONT),
        font_mono=list(MONO),
    ).set(
        body_background_fill="#f6f4f1",
        body_background_fill_dark="#12100f",
        block_label_text_color="#1c1917",
        block_title_text_weight="600",
        block_title_text_color="#1c1917",
        block_title_text_color_dark="#f5f5f4",
        input_background_fill="#ffffff",
        input_border_color="#d6d3d1",
        input_border_width="1px",
        button_secondary_background_fill="#ffffff",
        button_secondary_border_color="#d6d3d1",
        button_border_width="1px",
        button_secondary_text_color="#1c1917",
        button_primary_background_fill="#b43c0a",
        button_primary_background_fill_hover="#933108",
        button_primary_background_fill_dark="#c2440e",
        button_primary_text_color="#ffffff",
    )


def _asset(name: str) -> str:
    return (files("everreel.serve.ui") / "page" / name).read_text(encoding="utf-8")
