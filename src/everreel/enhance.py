"""`everreel enhance`, and what `--enhance` does before a film is made.

The one invariant: whoever asks sees what is sent, and nothing of a language model is in memory when the film's model is
loaded.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field, model_validator

from everreel.film.loading import EMBEDDED, model_options
from everreel.film.request import VideoRequest, checked, make_request

if TYPE_CHECKING:
    from everreel.checkpoint.catalog import ModelCard
    from everreel.film.batch import Enhancing, Whole
    from everreel.prompt.enhancer import Enhanced, Enhancer

Backend = Literal["built-in", "endpoint", "local"]
FEW_WORDS = 8000  # pieces of a tokenizer; the film world's have some 1500, those of umT5 are 256 000
PROMPTS = "prompts.jsonl"  # in the folder of a batch's films
_BACKEND = "built-in, endpoint or local; by default what the other options say."
_LLM = "A language model: its name at the endpoint, or a folder, GGUF file or repository of one that is run here."
_ENDPOINT = "Address of an OpenAI-compatible server, as http://127.0.0.1:8000/v1; its key is in EVERREEL_API_KEY."
_TIMEOUT = "Seconds that an endpoint has for one answer; by default 120."
_ENHANCER = "Who makes prompts whole for clients: built-in, endpoint or local; by default what the other options say."
_ASKED = ("llm", "endpoint", "timeout")


class EnhanceOptions(BaseModel):
    """Who makes prompts whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Backend | None = Field(None, description=_BACKEND)
    llm: str | None = Field(None, description=_LLM)
    endpoint: str | None = Field(None, description=_ENDPOINT)
    timeout: float | None = Field(None, description=_TIMEOUT)

    @model_validator(mode="after")
    def _together(self) -> EnhanceOptions:
        if self.chosen != "endpoint" and self.endpoint is not None:
            raise ValueError(f"endpoint = {self.endpoint}: goes with backend endpoint, not with {self.chosen}")
        if self.chosen != "endpoint" and self.timeout is not None:
            raise ValueError(f"timeout = {self.timeout:g}: goes with backend endpoint, not with {self.chosen}")
        if self.chosen == "endpoint" and self.endpoint is None:
            raise ValueError("endpoint: must be given for backend endpoint; http://127.0.0.1:8000/v1 is vLLM's")
        if self.chosen != "built-in" and not self.llm:
            raise ValueError(f"llm: must be given for backend {self.chosen}; Qwen2.5-7B-Instruct is one that works")
        if self.chosen == "built-in" and self.llm:
            raise ValueError(f"llm = {self.llm}: goes with backend endpoint or local, not with built-in")
        return self

    @property
    def chosen(self) -> Backend:
        """The backend, also where only what it needs is given."""
        if self.backend is not None:
            return self.backend
        return "endpoint" if self.endpoint is not None else "local" if self.llm else "built-in"


def enhance_options(**values: Any) -> EnhanceOptions:  # noqa: ANN401 -- whatever a command line or a JSON body holds
    """Checked options.

    Raises:
        ValueError: with one line for the first thing that is wrong.
    """
    return checked(EnhanceOptions, values)


def enhance(
    prompts: Annotated[list[str], typer.Argument(help="What films are to show; any number of them.")],
    *,
    backend: Annotated[str | None, typer.Option(help=_BACKEND)] = None,
    llm: Annotated[str | None, typer.Option(help=_LLM)] = None,
    endpoint: Annotated[str | None, typer.Option(help=_ENDPOINT)] = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help=_TIMEOUT)] = None,
    model: Annotated[str, typer.Option(help="The model of films that the prompts are for.")] = EMBEDDED,
    image: Annotated[bool, typer.Option("--image", help="The films begin with a picture.")] = False,
) -> None:
    """Make prompts whole: shot, action, place, light and camera are added where they are not said."""
    options = enhance_options(backend=backend, llm=llm, endpoint=endpoint, timeout=timeout)
    card = model_options(model=model).card(here=False, otherwise="df")
    with enhancer_of(options, world=knows_only_the_world(card)) as enhancer:
        for prompt in prompts:
            enhanced = enhancer.enhance(prompt, has_image=image)
            typer.echo(enhanced.text)
            typer.echo(enhanced.describe(), err=True)


def enhanced_request(
    request: VideoRequest, options: EnhanceOptions, card: ModelCard, *, goes_on: bool = False
) -> tuple[VideoRequest, list[str]]:
    """A request whose prompts are made whole, and lines that say what is sent; call it before the model is loaded.

    Args:
        card: the model that makes the film.
        goes_on: the film goes on from another, which shows how things look as a picture does.

    Raises:
        ValueError: a language model gives no answer that can be used.
    """
    with enhancer_of(options, world=knows_only_the_world(card)) as enhancer:
        return whole_request(request, enhancer, goes_on=goes_on)


def whole_request(
    request: VideoRequest, enhancer: Enhancer, *, goes_on: bool = False
) -> tuple[VideoRequest, list[str]]:
    """As `enhanced_request`, by an enhancer that is there. Raises: ValueError."""
    whole, made = whole_prompts(request, enhancer, goes_on=goes_on)
    lines = []
    for frame, enhanced in made.items():
        where = f"prompt from frame {frame}" if frame else "prompt"
        lines += [f"{where}: {enhanced.text}", f"  {enhanced.describe()}"]
    return whole, lines


def whole_prompts(
    request: VideoRequest, enhancer: Enhancer, *, goes_on: bool = False
) -> tuple[VideoRequest, dict[int, Enhanced]]:
    """As `whole_request`, with what was made of each prompt, by the number of its first frame. Raises: ValueError."""
    pictured = goes_on or bool(request.image or request.end_image or request.keyframes)
    made = {
        # What happens later happens to what is seen by then.
        frame: enhancer.enhance(prompt, has_image=pictured or frame > 0)
        for frame, prompt in {0: request.prompt, **request.story}.items()
    }
    told = {frame: enhanced.text for frame, enhanced in made.items()}
    given = request.model_dump(exclude_unset=True)
    return make_request(**given | {"prompt": told.pop(0)} | ({"story": told} if told else {})), made


def whole_texts(
    texts: Iterable[str], options: EnhanceOptions, card: ModelCard, path: Path, on_text: Callable[[int, int], None]
) -> dict[str, Enhanced]:
    """What becomes of prompts for a model, each asked for once; whoever asks again gets the same from the file.

    Args:
        path: the file of the answers; its folder is made.
        on_text: called with how many are done and how many there are, before the first and after each.

    Raises:
        ValueError: a language model gives no answer that can be used; those before it are kept.
        OSError: the file cannot be written.
    """
    from everreel.prompt.builtin import BUILT_IN
    from everreel.prompt.remembered import Remembered

    path.parent.mkdir(parents=True, exist_ok=True)
    world, asked, made = knows_only_the_world(card), list(dict.fromkeys(texts)), {}
    with enhancer_of(options, world=world) as enhancer:
        remembered = Remembered(enhancer, path, options.llm or BUILT_IN, world)
        on_text(0, len(asked))
        for text in asked:
            made[text] = remembered.enhance(text, has_image=False)
            on_text(len(made), len(asked))
    return made


@contextmanager
def enhancing(options: EnhanceOptions | None, card: ModelCard, folder: Path) -> Iterator[Enhancing]:
    """How the lines of a batch are made whole: by one enhancer, whose answers stay in the folder of the films.

    Whatever it has loaded is freed when the block ends.

    Args:
        options: None for a batch whose lines are made whole only where they say so, by the built-in rules.
        card: the model that makes the films.
        folder: made when the first line is made whole.
    """
    from everreel.film.batch import Enhancing

    who = options or enhance_options()
    with ExitStack() as stack:

        def begin() -> Whole:
            from everreel.prompt.builtin import BUILT_IN
            from everreel.prompt.remembered import Remembered

            folder.mkdir(parents=True, exist_ok=True)
            world = knows_only_the_world(card)
            asked = stack.enter_context(enhancer_of(who, world=world))
            remembered = Remembered(asked, folder / PROMPTS, who.llm or BUILT_IN, world)
            return lambda request: whole_request(request, remembered)

        yield Enhancing(begin, typer.echo, every=options is not None)


def takes_enhancement(command: Callable[..., None]) -> Callable[..., None]:
    """A command with --enhance, --llm, --endpoint and --timeout behind its own options; it is called with `enhance`.

    That is None without --enhance. Which backend it is follows from the others.
    """
    switch = typer.Option("--enhance", help="Make the prompt whole first, and show it.")

    @functools.wraps(command)
    def run(*positional: Any, **values: Any) -> None:  # noqa: ANN401 -- each has the type of its option
        wanted, given = values.pop("enhance"), _given(values)
        if given and not wanted:
            name, value = next(iter(given.items()))
            raise ValueError(f"{name} = {value}: goes with --enhance; add that or leave this out")
        command(*positional, enhance=enhance_options(**given) if wanted else None, **values)

    return _signed(run, command, _parameter("enhance", Annotated[bool, switch], False), "With --enhance")


def takes_enhancer(command: Callable[..., None]) -> Callable[..., None]:
    """A server's command with --enhancer, --llm, --endpoint and --timeout; it is called with `enhancer`.

    Whether a prompt is made whole is for each request to say there, and by whom for whoever starts the server.
    """
    switch = typer.Option(help=_ENHANCER)

    @functools.wraps(command)
    def run(*positional: Any, **values: Any) -> None:  # noqa: ANN401 -- each has the type of its option
        backend, given = values.pop("enhancer"), _given(values)
        try:
            options = enhance_options(backend=backend, **given)
        except ValueError as error:  # in the words of these options
            said = re.sub(r"^backend\b|(?<=goes with )backend|(?<=given for )backend", "enhancer", str(error))
            raise ValueError(said) from None
        command(*positional, enhancer=options, **values)

    return _signed(run, command, _parameter("enhancer", Annotated[str | None, switch], None), "Of the enhancer")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """What was given of the options that say whom to ask, taken out of the values."""
    return {name: value for name in _ASKED if (value := values.pop(name)) is not None}


def _signed(
    run: Callable[..., None], command: Callable[..., None], switch: inspect.Parameter, when: str
) -> Callable[..., None]:
    """What runs a command, with the command's own options, the switch and those that say whom to ask."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != switch.name]
    parameters = [*own, switch]
    for name in _ASKED:
        field = EnhanceOptions.model_fields[name]
        text = str(field.description)
        says = typer.Option(help=f"{when}: {text[0].lower()}{text[1:]}")
        parameters.append(_parameter(name, Annotated[field.annotation, says], None))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:  # noqa: ANN401 -- typer's own
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def knows_only_the_world(card: ModelCard) -> bool:
    """Whether a model was taught the film world's words and no others: the embedded one, and those of its kind."""
    if card.released:
        return False
    from everreel.checkpoint.load import load_tokenizer
    from everreel.checkpoint.source import find_source

    return load_tokenizer(find_source(card.require_path())).backend.get_vocab_size() <= FEW_WORDS


@contextmanager
def enhancer_of(options: EnhanceOptions, *, world: bool) -> Iterator[Enhancer]:
    """Who makes prompts whole for a model; what it has loaded is freed when the block ends.

    Raises:
        ValueError: the address is none.
    """
    if options.chosen == "built-in":
        from everreel.prompt.builtin import BuiltIn
        from everreel.prompt.nearest import embeddings

        yield BuiltIn(world, nearest=embeddings() if world else None)
        return
    from everreel.chat import TIMEOUT, Endpoint, LocalChat
    from everreel.film.device import default_device
    from everreel.prompt.asked import Asked

    assert options.llm is not None
    if options.chosen == "endpoint":
        assert options.endpoint is not None
        seconds = TIMEOUT if options.timeout is None else options.timeout
        yield Asked(Endpoint(options.endpoint, options.llm, timeout=seconds), options.llm, world)
        return
    chat = LocalChat(options.llm, default_device())
    try:
        yield Asked(chat, options.llm, world)
    finally:
        chat.close()
