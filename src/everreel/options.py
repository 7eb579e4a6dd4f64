"""Options of the command line, made of what they stand for: a request's fields, or a released script's flags.

The one invariant: an option is written down once, where its value is checked; what people type as text (parts of a
story, FRAME=PATH) is taken apart here.
"""

from __future__ import annotations

import functools
import inspect
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from everreel.film.loading import EMBEDDED, ModelOptions, model_options
from everreel.film.request import MOST_FRAMES, SEVERAL, VideoRequest, make_request
from everreel.memory import take_large_pages

PART = "TIME: WORDS, as in '5s: it jumps': what the film shows from then on; any number of them."


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose options are the fields of a request; it is called with the request and its own options."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    options = [_option(name, field) for name, field in VideoRequest.model_fields.items()]
    options.append(_parameter("part", list[str] | None, None, typer.Option("--prompt", help=PART)))

    @functools.wraps(command)
    def run(**values: Any) -> None:  # noqa: ANN401 -- each has the type of its field
        asked = {option.name: values.pop(option.name) for option in options}
        asked["keyframes"] = _keyframes(asked.pop("keyframe") or [])
        for name in SEVERAL:
            asked[name] = _numbers(name, asked[name])
        asked |= prompts_of(asked["prompt"], asked.pop("part") or [], asked.pop("story"), asked["fps"])
        command(make_request(**asked), **values)

    return _signed(run, [*options, *own])


def takes_model(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has the options of a model behind its own; it is called with `model`, what of them was given."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "model"]
    options = [_option(name, field).replace(default=None) for name, field in ModelOptions.model_fields.items()]

    @functools.wraps(command)
    def run(*positional: Any, **values: Any) -> None:  # noqa: ANN401 -- each has the type of its field
        asked = {option.name: values.pop(option.name) for option in options}
        given = {name: value for name, value in asked.items() if value not in (None, [])}
        model = model_options(**given)
        if model.model != EMBEDDED:
            take_large_pages()
        command(*positional, model=model, **values)

    return _signed(run, [*own, *options])


def takes_flags(
    command: Callable[[Mapping[str, Any]], None], flags: Mapping[str, tuple[type, Any]]
) -> Callable[..., None]:
    """A command that is called with the values of its flags; they are spelt as they are named, underscores and all."""

    def run(**values: Any) -> None:  # noqa: ANN401 -- each has the type of its flag
        command(values)

    parameters = []
    for name, (kind, default) in flags.items():
        optional: Any = kind | None if default is None else kind
        says = typer.Option(f"--{name}", is_flag=True) if kind is bool else typer.Option(f"--{name}")
        parameters.append(_parameter(name, optional, default, says))
    return _signed(run, parameters)


def _signed(run: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    if name == "prompt":
        return _parameter(name, str | None, None, typer.Argument(help=field.description))
    if name == "story":
        return _parameter(name, Path | None, None, typer.Option(help="A file with one such part a line."))
    if name == "keyframes":
        text = "FRAME=PATH: a picture for a frame, the first is 0; any number of them."
        return _parameter("keyframe", list[str] | None, None, typer.Option(help=text))
    kind: Any = field.annotation
    if name in SEVERAL:
        kind = str | None
    elif any(get_origin(part) is Literal for part in (kind, *get_args(kind))):
        kind = str | None  # the request itself says what it may be
    elif get_origin(kind) is tuple:
        kind = list[str] | None
    return _parameter(name, kind, field.default, typer.Option(help=field.description))


def _parameter(name: str, kind: Any, default: Any, says: Any) -> inspect.Parameter:  # noqa: ANN401 -- typer's own
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, says])


def prompts_of(prompt: str | None, parts: list[str], story: Path | None, fps: int) -> dict[str, Any]:
    """The prompt and the story of a request, from what a person may type: words, parts with times, a file of those."""
    if story is not None:
        try:
            lines = story.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"story = {story}: must be text in UTF-8, one part a line") from None
        parts = [*parts, *(line for line in lines if line.strip())]
    fps = max(fps, 1)  # whether it is one that can be is the request's to say
    told: dict[int, str] = {} if prompt is None else {0: prompt}
    for part in parts:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|f)\s*:(.*)", part)
        if found is None:
            raise ValueError(f"prompt = {part!r}: a part is TIME: WORDS, in seconds or frames, as in '5s: it jumps'")
        at = float(found[1]) * (fps if found[2] == "s" else 1)
        if at > MOST_FRAMES:  # infinity among them: no whole number
            rule = f"no film has a frame beyond {MOST_FRAMES}; nearest that works: {MOST_FRAMES}f"
            raise ValueError(f"prompt = {reprlib.repr(part)}: {rule}")
        frame = round(at)
        if told and frame <= max(told):
            nearest = f"{(max(told) + 1) / fps:.2f}s"
            raise ValueError(f"prompt = {part!r}: must begin after the part before it; nearest that works: {nearest}")
        told[frame] = found[3]
    if not told:
        raise ValueError("prompt: say what the film shows, e.g. 'a red fox runs through a snowy forest'")
    first = min(told)
    if first != 0:
        raise ValueError(f"prompt = {told[first]!r}: the first part must begin at 0s; nearest that works: 0s")
    return {"prompt": told.pop(0), "story": told}


def _numbers(name: str, asked: str | None) -> int | list[int] | None:
    """Several numbers with commas; of sizes of blocks one stands for all."""
    if asked is None:
        return None
    if re.fullmatch(r"\s*-?\d{1,9}\s*(,\s*-?\d{1,9}\s*)*", asked) is None:
        raise ValueError(f"{name} = {asked}: must be one number of {SEVERAL[name]} or several, as in 1,4,4")
    numbers = [int(number) for number in asked.split(",")]
    return numbers[0] if len(numbers) == 1 and name == "causal_block_size" else numbers


def _keyframes(asked: list[str]) -> dict[int, Path]:
    """Pictures by frame, from FRAME=PATH."""
    found: dict[int, Path] = {}
    for text in asked:
        frame, _, path = text.partition("=")
        if not frame.strip().isdecimal() or not path:
            raise ValueError(f"keyframe = {text}: must be FRAME=PATH, for example 48=fox.png")
        if int(frame) in found:
            raise ValueError(f"keyframe = {text}: frame {int(frame)} has {found[int(frame)]} already; leave one out")
        found[int(frame)] = Path(path)
    return found
