"""The commands for weights: `everreel models`, `download`, `convert` and `calibrate`.

The one invariant: as everywhere on the command line, what is wrong is one line, and nothing half-written stays behind.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from everreel.bars import bytes_bar, pieces_bar
from everreel.film.loading import ModelOptions

_FILES = ("safetensors", "gguf")

PROMPT = "a red fox runs right through a snowy forest at dusk, wide shot"


def models() -> None:
    """List the models that can be used and what each needs."""
    from everreel.checkpoint.catalog import describe_models

    for line in describe_models():
        typer.echo(line)


def download(
    name: Annotated[str, typer.Argument(help="A name from `everreel models`, or a repository, OWNER/NAME.")],
    to: Annotated[Path | None, typer.Option(help="A new folder; by default one where models are looked for.")] = None,
    hub: Annotated[str, typer.Option(help="huggingface or modelscope.")] = "huggingface",
    layout: Annotated[str | None, typer.Option(help="diffusers or official; by default what the hub has.")] = None,
) -> None:
    """Fetch a published model. Stopped, the same command goes on; every file is checked by what the hub says of it."""
    from everreel.checkpoint.download import download

    with bytes_bar() as show:
        folder = download(
            name,
            to=to,
            hub=cast("Any", hub),
            layout=cast("Any", layout),
            on_progress=lambda progress: show(progress.num_bytes, progress.total, progress.file),
        )
    typer.echo(f"{name} is in {folder}")


def convert(
    source: Annotated[str, typer.Argument(help="A model's name, or its folder or file in any layout.")],
    target: Annotated[Path, typer.Argument(help="A new folder; for gguf and safetensors a new file.")],
    to: Annotated[str, typer.Option(help="official, diffusers, gguf or safetensors.")],
    quantization: Annotated[str | None, typer.Option(help="Of a GGUF file: q8_0, q5_1, q5_0, q4_1 or q4_0.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float32 or float16; by default as it is.")] = None,
    kind: Annotated[str | None, typer.Option(help="df, t2v or i2v, where the source does not say it.")] = None,
    parts: Annotated[Path | None, typer.Option(help="Of a single file: the folder of its other parts.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there, once the new is whole.")] = False,
) -> None:
    """Write a model in another layout; nothing is lost where nothing is quantised."""
    from everreel.checkpoint.convert import convert
    from everreel.checkpoint.source import find_source
    from everreel.film.loading import model_options

    given = {"model": source, "dtype": dtype, "kind": kind, "parts": parts}
    options = model_options(**{name: value for name, value in given.items() if value is not None})
    if to in _FILES and target.suffix.lower() != f".{to}":  # a folder's models are looked for among these
        raise ValueError(f"target = {str(target)!r}: must end in .{to}; try {target.name}.{to}")
    with pieces_bar("tensor") as on_progress:
        convert(
            find_source(source if Path(source).expanduser().exists() else options.card(otherwise="df").path, parts),
            target,
            to=cast("Any", to),
            quantization=quantization,
            dtype=options.torch_dtype if dtype else None,
            kind=options.kind,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    typer.echo(f"wrote {target}")


def calibrate(*, model: ModelOptions) -> None:
    """Measure how fast a model runs here, so that `everreel plan` says how long a film takes.

    With --quantization, what that costs too: how far each block's output is off, on a short film's own activations.
    """
    from everreel.film.estimate import calibrate
    from everreel.film.pipeline import VideoPipeline

    if model.quantization is not None:
        _compare(model)
    found = calibrate(VideoPipeline.load(model))
    speed, pixels = found.operations / 1e9, found.pixels / 1e6
    typer.echo(f"{speed:.4g} GFLOP/s in the transformer, {pixels:.3g} million pixels decoded a second")


def _compare(model: ModelOptions) -> None:
    """The exact model makes a short film; each of its blocks, quantised, is given what the exact one was given."""
    import torch
    from PIL import Image

    from everreel.checkpoint.quantize import check_quantization, quantisation_error, recorded
    from everreel.film.pipeline import VideoPipeline
    from everreel.film.request import make_request
    from everreel.model.dit import DiT

    assert model.quantization is not None
    check_quantization(model.quantization, torch.device(model.resolve().device or "cpu"))
    exact = VideoPipeline.load(model.model_copy(update={"quantization": None}))
    if exact.placement is not None and exact.placement.quantization is not None:
        rule = "the exact model, which it is measured against, does not fit"
        raise ValueError(f"quantization = {model.quantization}: {rule}; measure it with more memory, or on the CPU")
    transformer, card = exact.transformer, exact.card
    assert isinstance(transformer, DiT)
    size = {"height": min(card.height, 192), "width": min(card.width, 320)}
    with tempfile.TemporaryDirectory() as folder, recorded(transformer) as calls:
        picture = Path(folder) / "grey.png"
        Image.new("RGB", (size["width"], size["height"]), "grey").save(picture)
        begins = {"image": picture} if card.image else {}
        for _ in exact.stream(make_request(prompt=PROMPT, num_frames=33, num_inference_steps=4, **size, **begins)):
            pass
    errors = quantisation_error(transformer, model.quantization, calls)
    for number, error in enumerate(errors):
        typer.echo(f"block {number:>2}: {100 * error:.2f} %")
    mean = sum(errors) / len(errors)
    typer.echo(f"{model.quantization}: {100 * mean:.2f} % on the mean, {100 * max(errors):.2f} % in the worst block")
