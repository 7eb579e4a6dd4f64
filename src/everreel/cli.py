"""The command line: `everreel generate`, `batch`, `plan`, `resume`, `extend`, `train`, `evaluate`, and what others hold
(`weights`, `captions`, `enhance`, `rating`, ...).

The one invariant: whatever goes wrong is one line on the error stream and exit code 2, never a traceback, and what a
film has on disk by then stays there and plays.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from everreel import agents, keys, loras, rating, reports, weights
from everreel.bars import film_bar, films_bar
from everreel.benches import vbench
from everreel.captions import caption
from everreel.curating import data, data_check
from everreel.enhance import EnhanceOptions, enhance, enhance_options, enhanced_request, enhancing, takes_enhancement
from everreel.film.loading import ModelOptions, model_options
from everreel.film.request import VideoRequest, make_request
from everreel.memory import is_out_of_memory, keep_freed_memory, share_freed_memory, smaller_budget
from everreel.options import prompts_of, takes_flags, takes_model, takes_request
from everreel.prepare import prepare
from everreel.released import SCRIPTS, folder_for, translate
from everreel.serving import serve

if TYPE_CHECKING:
    from everreel.film.journal import Journal
    from everreel.film.pipeline import VideoPipeline
    from everreel.film.plan import Plan
    from everreel.parallel.crew import Crew

app = typer.Typer(
    name="everreel",
    help="Films of any length from words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# What typer raises for a bad option; it does not export the name, and older ones take it from click.
UsageProblem = cast("type[Exception]", typer.BadParameter.__mro__[2])


class CommandError(Exception):
    """One line for the user."""


class FilmStopped(CommandError):
    """Why a film was stopped and what there is of it, and the command that goes on with it, if one does."""

    def __init__(self, said: str, command: str) -> None:
        super().__init__(said + f"; go on with: {command}" * bool(command))
        self.said = said


_crew: Crew | None = None
"""The processes that share the transformer, if torchrun started more than this one."""
FAILURES = (CommandError, ValueError, OSError, MemoryError, RuntimeError, KeyboardInterrupt)


def main() -> None:
    """Run the command line; every error is one line and exit code 2."""
    lasts = sys.argv[1:2] in (["serve"], ["mcp"])  # and makes films in other processes
    (share_freed_memory if lasts else keep_freed_memory)()
    with warnings.catch_warnings():
        warnings.showwarning = functools.partial(_warned, warnings.showwarning)
        _run()


def _run() -> None:
    global _crew
    try:
        # Started by torchrun with others, which share one film's work; those that train do all the same instead.
        if int(os.environ.get("WORLD_SIZE") or 1) > 1 and sys.argv[1:2] != ["train"]:
            from everreel.parallel import launch
            from everreel.parallel.crew import Crew, serve

            parallel = launch.setup()
            if parallel is not None and not parallel.leads:
                sys.exit(serve(parallel))
            _crew = Crew(parallel) if parallel else None
        if app(standalone_mode=False):  # typer makes an exit code of Ctrl-C; commands return none
            sys.exit(_complain("stopped"))
    except UsageProblem as error:
        sys.exit(_complain(getattr(error, "format_message", error.__str__)()))
    except FAILURES as error:
        sys.exit(_complain(_why(error)))
    finally:
        if _crew is not None:
            _crew.close()


@app.command()
@takes_request
@takes_model
@takes_enhancement
def generate(
    request: VideoRequest,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The MP4 to write.")] = Path("film.mp4"),
    model: ModelOptions,
    enhance: EnhanceOptions | None,
) -> None:
    """Make a film from a prompt, and from pictures if there are any."""
    _generate(_enhanced(request, enhance, model), output, model)


def _enhanced(
    request: VideoRequest, options: EnhanceOptions | None, model: ModelOptions, *, goes_on: bool = False
) -> VideoRequest:
    """The request as it is sent, which its user sees."""
    if options is None:
        return request
    request, lines = enhanced_request(request, options, model.card(here=False), goes_on=goes_on)
    for line in lines:
        typer.echo(line)
    return request


def _generate(request: VideoRequest, output: Path, model: ModelOptions) -> None:
    from everreel.film import making
    from everreel.film.plan import make_plan

    plan, model = make_plan(request, model.card()), model.resolve()
    making.check_output(output)
    _look_at_pictures(plan)
    making.check_words(plan.request, model)
    pipeline = _load(model, plan)
    typer.echo(plan.describe())
    _film(pipeline, making.unopened(pipeline, request) if plan.ring else making.begin(pipeline, request), output)


def _released(script: str, flags: Mapping[str, Any]) -> None:
    translated = translate(script, flags)
    for note in translated.notes:
        typer.echo(note, err=True)
    model = model_options(model=translated.model, kind=translated.kind, memory=translated.memory)
    options = enhance_options() if translated.enhance else None
    request = _enhanced(translated.request, options, model, goes_on=translated.video is not None)
    with folder_for(translated.output):
        if translated.video is None:
            _generate(request, translated.output, model)
        else:
            _follow(translated.video, request, translated.output, model)


for _script, _flags in SCRIPTS.items():
    app.command(_script, help=f"The released {_script}.py, flag for flag.")(
        takes_flags(functools.partial(_released, _script), _flags)
    )


@app.command()
@takes_model
@takes_enhancement
def batch(
    requests: Annotated[
        Path,
        typer.Argument(help="JSON Lines: a request a line; with `output`, its film's name; `enhance`, true or false."),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the films.")],
    model: ModelOptions,
    enhance: EnhanceOptions | None,
) -> None:
    """Make a film of each line of a file; after a stop the same command goes on where it was."""
    from everreel.film.batch import BatchError, open_journal, read_batch
    from everreel.film.budget import suits
    from everreel.film.making import maker_for
    from everreel.film.plan import make_plan

    card, model = model.card(), model.resolve()
    try:
        with enhancing(enhance, card, output) as how:
            items = read_batch(requests, output, card, maker_for(card, model), how)
    except BatchError as error:
        for line in error.lines[:-1]:
            _complain(line)
        raise CommandError(error.lines[-1]) from None
    output.mkdir(parents=True, exist_ok=True)
    done, pipeline = sum(item.status == "finished" for item in items), None
    try:
        for number, item in enumerate(items, 1):
            film = f"film {number}/{len(items)}: {item.output}"
            if item.status == "finished":
                typer.echo(f"{film} is finished")
                continue
            cut = make_plan(item.request, card)
            if pipeline is None or not suits(pipeline.placement, model, card, cut):
                pipeline = _load(model, cut)
            for note in item.notes:
                typer.echo(note, err=True)
            typer.echo(f"{film}: {item.summary}")
            with film_bar("the loop's opening, ") as on_progress:
                journal = open_journal(item, pipeline, on_progress)
            _film(pipeline, journal, item.output)
            done += 1
    except FAILURES as error:
        said = error.said if isinstance(error, FilmStopped) else _why(error)
        kept = f"{done} of {len(items)} films are done"
        raise CommandError(f"{said}; {kept}; go on with the same command") from None


@app.command()
@takes_request
@takes_model
@takes_enhancement
def plan(request: VideoRequest, *, model: ModelOptions, enhance: EnhanceOptions | None) -> None:
    """Say how a film would be made, how long it would take and what memory, without loading anything."""
    from everreel.film.budget import placed
    from everreel.film.estimate import estimate
    from everreel.film.parts import parts_of
    from everreel.film.plan import make_plan

    request = _enhanced(request, enhance, model)
    card, model = model.card(here=False), model.resolve(here=False)
    cut = make_plan(request, card)
    _look_at_pictures(cut)
    parts = parts_of(card, model.parts)
    placement = placed(model, card, cut, parts)
    typer.echo(cut.describe())
    cost = estimate(cut, card, model.device, placement, parts, model)
    for line in (*cut.explain()[len(cut.notes) :], *placement.describe(), *cost.describe()):
        typer.echo(f"  {line}")
    if card.usable and (missing := model.source(card).missing):
        typer.echo(f"  missing: {'; '.join(missing)}")


@app.command()
def resume(
    film: Annotated[Path, typer.Argument(help="A film that was stopped, with its journal beside it.")],
) -> None:
    """Go on with a film that was stopped, at whatever moment: it becomes the film that it would have been."""
    from everreel.film import making
    from everreel.film.journal import read_journal

    making.check_output(film)
    journal = read_journal(film)
    if journal.finished:
        new = "new " * bool(journal.source)
        typer.echo(f"{film} has all of its {journal.num_frames} {new}frames; everreel extend makes it longer")
        return
    journal.check_source()
    pipeline = making.pipeline_of(journal, _crew)
    _film(pipeline, read_journal(film, pipeline.device), film)


@app.command()
@takes_model
@takes_enhancement
def extend(
    video: Annotated[Path, typer.Argument(help="A film: one made here, or any other.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The MP4 to write; a film made here may grow in place.")
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="New frames; any number.")] = None,
    seconds: Annotated[float | None, typer.Option(help="New seconds instead.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What happens now; again as TIME: WORDS. Films made elsewhere need one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another film for another seed.")] = None,
    fps: Annotated[int | None, typer.Option(help="Of the new part of another film: 16 or 24.")] = None,
    num_inference_steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    overlap_history: Annotated[int | None, typer.Option(help="Frames looked back at in another film, 4k + 1.")] = None,
    new_part_only: Annotated[bool, typer.Option(help="Of another film: write only what is new.")] = False,
    model: ModelOptions,
    enhance: EnhanceOptions | None,
) -> None:
    """Make a film longer: one made here from its own latents, any other from its last moments."""
    from everreel.film import making
    from everreel.film.journal import journal_path, read_journal
    from everreel.film.splice import check_apart

    asked: dict[str, Any] = {"num_frames": num_frames, "seconds": seconds, "num_inference_steps": num_inference_steps}
    first, *parts = prompt or [""]
    if not journal_path(video).exists():
        if not video.exists():  # before all that is asked of a film made elsewhere
            raise ValueError(f"video = {video}: does not exist; give a film's path")
        asked |= prompts_of(first, parts, None, fps or 24)
        asked |= {"fps": fps or 24, "overlap_history": overlap_history, "seed": seed or 0}
        request = _enhanced(make_request(**asked), enhance, model, goes_on=True)
        _follow(video, request, output, model, new_part_only)
        return
    elsewhere = {"fps": fps, "overlap_history": overlap_history, "new_part_only": new_part_only or None}
    for name, value in (elsewhere | model.model_dump(exclude_unset=True)).items():
        if value is not None:
            raise ValueError(f"{name} = {value}: is for films made elsewhere, and {video} was made here; leave it out")
    journal = read_journal(video)
    old, maker = journal.request, making.options_of(journal.maker)
    asked |= prompts_of(first or old.prompt, parts, None, old.fps)
    request = make_request(fps=old.fps, seed=old.seed if seed is None else seed, **asked)
    making.check_grows(journal, maker.card())
    if prompt:  # what the film was made with was made whole then
        request = _enhanced(request, enhance, maker, goes_on=True)
    elif enhance is not None:
        raise ValueError("enhance: goes with a prompt, and none is given; leave it out or say what happens now")
    making.check_longer(journal, request, bool(prompt))
    copy = None if output is None or (output.exists() and output.samefile(video)) else output
    if copy is not None:
        check_apart(video, copy)
    making.check_output(output or video)
    pipeline = making.pipeline_of(journal, _crew)
    longer = making.go_on_with(pipeline, read_journal(video, pipeline.device), request, bool(prompt))
    if copy is not None:
        making.copy_film(video, copy)
    _film(pipeline, longer, output or video)


def _follow(
    video: Path, request: VideoRequest, output: Path | None, model: ModelOptions, new_part_only: bool = False
) -> None:
    """Go on with a film that was made elsewhere."""
    from everreel.film import making
    from everreel.film.plan import make_plan
    from everreel.film.source import SourceFilm
    from everreel.film.splice import check_apart
    from everreel.shapes import latent_frames

    source, card = SourceFilm.open(video), model.card()
    fitted = making.fitted(request, (source.height, source.width), card)
    plan = make_plan(fitted, card, latent_frames(making.history_frames(fitted, card)))
    if output is None:
        raise ValueError(f"output: must be given for a film made elsewhere; {video.stem}-longer.mp4 works")
    check_apart(video, output)
    making.check_output(output)
    making.check_words(plan.request, model)
    pipeline = _load(model, plan)
    journal = making.follow(pipeline, fitted, source, splice=not new_part_only)
    if not output.exists():
        journal.save(output)  # to encode a source may take long, and may be stopped too
    _film(pipeline, journal, output)


app.command()(weights.models)
app.command()(weights.download)
app.command()(weights.convert)
app.command()(data)
app.command("data-check")(data_check)
app.command()(prepare)
app.command("convert-lora")(loras.convert_lora)
app.command()(caption)
app.command()(enhance)
app.command()(serve)
app.add_typer(rating.app, name="rate")
app.add_typer(keys.app, name="keys")
app.command()(takes_model(weights.calibrate))
app.command()(takes_model(agents.mcp))


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A file of recipes/.")],
    run_dir: Annotated[Path | None, typer.Option(help="Where checkpoints and curves go.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop, resumable, after this time.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto, instead of the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads, instead of the recipe's.")] = None,
    accumulation: Annotated[int | None, typer.Option(help="Micro-batches of a step, which processes share.")] = None,
) -> None:
    """Run a training recipe, or resume it."""
    from everreel.train.run import start

    options = {"max_seconds": max_seconds, "device": device, "threads": threads, "accumulation": accumulation}
    if code := start(recipe, run_dir, **options):
        sys.exit(code)


judging = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
app.add_typer(judging, name="evaluate")
judging.add_typer(vbench)
reports.register(judging)


@judging.callback()
@takes_model
def evaluate(
    context: typer.Context,
    *,
    model: ModelOptions,
    critic: Annotated[
        Path | None, typer.Option(help="The critic's folder; by default the one that is shipped.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the films.")] = Path("runs/evaluate"),
    num_films: Annotated[int, typer.Option(help="Films, each of a prompt that was never trained on.")] = 64,
    num_inference_steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the words; 1 is off.")] = None,
    guidance_level: Annotated[float | None, typer.Option(help="The noise level from which on guidance works.")] = None,
    guidance_until: Annotated[float | None, typer.Option(help="The noise level down to which it works.")] = None,
    shift: Annotated[float | None, typer.Option(help="Shift of the noise levels.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same prompts and films.")] = 0,
    model_card: Annotated[Path | None, typer.Option(help="A card to write, with films.png beside it.")] = None,
) -> None:
    """Measure whether films show what was asked; a run that was stopped goes on where it was."""
    if context.invoked_subcommand:
        for name in context.params:
            if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
                command = context.invoked_subcommand
                raise ValueError(f"{name}: is of evaluate alone; {command}'s own options come behind {command}")
        return
    from everreel.caption.critic import shipped_critic
    from everreel.evaluate.card import check_card, publish
    from everreel.evaluate.follow import Evaluation, FilmSettings, measure, reader_of

    critic = critic or shipped_critic()
    read = reader_of(critic)
    check_card(model_card)
    settings = FilmSettings(
        num_films=num_films, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
        guidance_level=guidance_level, guidance_until=guidance_until, shift=shift, seed=seed,
    )  # fmt: skip
    evaluation = Evaluation(model.card(), settings, output, model.asked)
    try:
        with films_bar() as on_film:
            report = measure(lambda: _load(model), read, evaluation, on_film)
    except KeyboardInterrupt:
        there = f"{num_films - len(evaluation.missing())} of {num_films} films are in {output}"
        raise CommandError(f"stopped: {there}; go on with the same command") from None
    typer.echo(report.describe())
    for path in publish(evaluation, report, critic, model_card):
        typer.echo(f"wrote {path}")


def _why(error: BaseException) -> str:
    """One of `FAILURES` as one line; a fault of our own is raised."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "stopped"
    if not isinstance(error, MemoryError | RuntimeError) or type(error).__name__ == "LostError":
        return " ".join(str(error).split())
    if not is_out_of_memory(error):
        raise error
    budget = smaller_budget(error)
    less = f"a film with --memory {budget}, " if budget else ""
    return f"memory: this machine has too little for that; {less}fewer pixels or a smaller model would need less"


def _look_at_pictures(plan: Plan) -> None:
    """Refuse those that cannot be used, and say what becomes of the others."""
    from everreel.film.given import read_pictures

    for note in [*plan.notes, *(note for picture in read_pictures(plan.request).values() for note in picture.notes)]:
        typer.echo(note, err=True)


def _load(model: ModelOptions, plan: Plan | None = None) -> VideoPipeline:
    from everreel.film.pipeline import VideoPipeline

    pipeline = VideoPipeline.load(model, plan, _crew)
    for note in pipeline.notes:
        typer.echo(note, err=True)
    return pipeline


def _film(pipeline: VideoPipeline, journal: Journal, output: Path) -> None:
    """Write the film while it is made; what is written stays, whatever happens."""
    from everreel.film import making
    from everreel.film.splice import Splice

    writer = None
    older = output.exists() and not journal.num_frames
    try:
        with journal.open_film(output) as writer:
            if isinstance(writer, Splice) and writer.said:
                typer.echo(writer.said)
            if journal.is_unopened:
                with film_bar("the loop's opening, ") as on_progress:
                    journal = making.opened(pipeline, journal, output, on_progress)
            with film_bar() as on_progress:
                making.write(pipeline, journal, writer, on_progress)
    except (KeyboardInterrupt, OSError) as error:
        if writer is None and isinstance(error, OSError):
            raise
        num_frames = writer.num_frames if writer else journal.num_frames
        reason = "stopped" if isinstance(error, KeyboardInterrupt) else " ".join(str(error).split())
        first = "the source and the first new" if journal.source else "the first"
        kept = f"{output} holds {first} {num_frames} frames" if num_frames else "no frame was written"
        again = num_frames or not older
        raise FilmStopped(f"{reason}: {kept}", f"everreel resume {output}" if again else "") from None
    seconds = writer.num_frames / journal.request.fps
    new = "new " * bool(journal.source)
    typer.echo(f"wrote {output}: {writer.num_frames} {new}frames, {seconds:.1f} s, {writer.num_bytes / 1000:.0f} kB")


def _warned(others: Callable[..., None], message: Warning, category: type[Warning], file: str, *more: Any) -> None:  # noqa: ANN401
    """A warning of ours is one line for people too; those of libraries are shown as they were."""
    if Path(__file__).parent in Path(file).parents:
        typer.echo(f"everreel: {message}", err=True)
    else:
        others(message, category, file, *more)


def _complain(message: str) -> int:
    typer.echo(f"everreel: {message}", err=True)
    return 2
