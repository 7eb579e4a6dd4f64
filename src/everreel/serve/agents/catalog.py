"""The tools by name: what each takes and gives, and the words by which a model chooses among them.

The one invariant: what a client may know beforehand is true. A tool that is said to read changes nothing, and the only
one that cannot be undone says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from pydantic import BaseModel

from everreel.serve.agents import asked, told
from everreel.serve.agents.tools import Tools

Work = Callable[[Tools, Any, Context[Any]], Awaitable[CallToolResult]]


@dataclass(frozen=True)
class Entry:
    """A tool: what it takes and gives, and what clients may know of it beforehand."""

    work: Work
    takes: type[BaseModel]
    gives: type[BaseModel]
    title: str
    description: str
    reads: bool = False
    deletes: bool = False
    again: bool = False
    """The same call a second time changes nothing."""
    files: tuple[str, ...] = ()
    """The arguments that may be paths, where the user has allowed any."""


# The ones that are needed most come first.
TOOLS: dict[str, Entry] = {
    "generate_film": Entry(
        Tools.generate,
        asked.Generate,
        told.Film,
        "Make a film",
        "Make a film from words, and from pictures if there are any. Use it for every new film; to go on with one "
        "that is there, use extend_film or continue_story. Answers at once with the film's id unless wait is true. An "
        "endless one is made until cancel_film stops it. "
        "Example: {'prompt': 'a red fox runs through a snowy forest', 'seconds': 4}.",
        files=("image", "end_image", "keyframes"),
    ),
    "wait_for_film": Entry(
        Tools.wait,
        asked.WaitFor,
        told.Film,
        "Wait for a film",
        "Wait until a film is completed, failed, cancelled or paused, or the time is over; progress is reported "
        "meanwhile. If it is not done by then, call it again.",
        reads=True,
    ),
    "look_at_film": Entry(
        Tools.look,
        asked.LookAt,
        told.FilmLook,
        "Look at a film",
        "Frames of a film as one picture, so that you can judge it, also while it is made. Use it before you say "
        "what a film shows or decide to make it again.",
        reads=True,
    ),
    "film_status": Entry(
        Tools.status,
        asked.Named,
        told.Film,
        "Ask how far a film is",
        "How far a film is, at once, and where it is to be had. To wait for it, use wait_for_film.",
        reads=True,
    ),
    "plan_film": Entry(
        Tools.plan,
        asked.Planned,
        told.FilmPlan,
        "Plan a film",
        "What a film would be and cost (frames, size, blocks, seconds of work, memory), without making it. Takes "
        "what generate_film takes. Use it before long or large films, and to check values.",
        reads=True,
        files=("image", "end_image", "keyframes"),
    ),
    "extend_film": Entry(
        Tools.extend,
        asked.Extend,
        told.Film,
        "Make a film longer",
        "A new, longer film that begins with a completed one and goes on from its last moments without a cut. For "
        "several things that happen one after the other, use continue_story.",
        files=("film",),
    ),
    "continue_story": Entry(
        Tools.go_on,
        asked.Continue,
        told.Film,
        "Go on with a story",
        "A new, longer film that begins with a completed one and goes on with the next parts of its story, each "
        "with its words and its length.",
    ),
    "add_keyframes": Entry(
        Tools.keyframes,
        asked.AddKeyframes,
        told.Film,
        "Make a film again with pictures",
        "The same order again with pictures at frames, or with another first or last picture: a new film, the old "
        "one stays. Frames of other films can be the pictures.",
        files=("image", "end_image", "keyframes"),
    ),
    "enhance_prompt": Entry(
        Tools.enhance,
        asked.Enhance,
        told.EnhancedPrompt,
        "Make a prompt whole",
        "A short idea as a full prompt in the words that the model knows: shot, place, light and camera are added "
        "where they are not said. generate_film does the same with enhance; use this to see it first.",
        reads=True,
    ),
    "caption_film": Entry(
        Tools.caption,
        asked.Named,
        told.FilmCaption,
        "Say what a film shows",
        "What a small captioner, which knows this package's cartoon world, sees in a film: subject, action, shot, "
        "camera, place, light. To see for yourself, use look_at_film.",
        reads=True,
        files=("film",),
    ),
    "list_films": Entry(
        Tools.films,
        asked.ListFilms,
        told.Films,
        "List films",
        "Your films, the latest first, with how far they are.",
        reads=True,
    ),
    "pause_film": Entry(
        Tools.pause,
        asked.Named,
        told.Film,
        "Pause a film",
        "Let a film that is queued or in progress wait; nothing is lost. resume_film goes on.",
        again=True,
    ),
    "resume_film": Entry(
        Tools.resume,
        asked.Named,
        told.Film,
        "Go on with a film",
        "Go on with a film that is paused, cancelled or failed, from where it was.",
        again=True,
    ),
    "cancel_film": Entry(
        Tools.cancel,
        asked.Named,
        told.Film,
        "Stop a film",
        "Stop a film; what was made of it stays and plays. delete_film removes it as well.",
        again=True,
    ),
    "delete_film": Entry(
        Tools.delete,
        asked.Named,
        told.DeletedFilm,
        "Delete a film",
        "Delete a film for good, stopping it if need be. It cannot be had back.",
        deletes=True,
        again=True,
    ),
}
