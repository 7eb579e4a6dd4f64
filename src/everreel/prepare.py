"""The command that makes training data of anybody's films: `everreel prepare`.

The one invariant: stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everreel.bars import pieces_bar
from everreel.film.loading import EMBEDDED, model_options, source_of

if TYPE_CHECKING:
    from everreel.checkpoint.catalog import ModelCard
    from everreel.data.buckets import Buckets
    from everreel.data.prepare import Encoders


def prepare(
    source: Annotated[
        str, typer.Argument(help="A folder, or a table (CSV, JSON Lines, Parquet) of files and captions.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the store.")],
    model: Annotated[str, typer.Option(help="The model that will be trained: a name or a folder.")] = EMBEDDED,
    fps: Annotated[int | None, typer.Option(help="16 or 24; by default that of the two which suits each film.")] = None,
    sizes: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH, ..., as in 96x160,160x96; else the model's.")] = None,
    frames: Annotated[str | None, typer.Option(help="Lengths, as in 97,49; by default the model's and less.")] = None,
    every: Annotated[
        float | None, typer.Option(help="Seconds from one clip of a film to the next; else one a film.")
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A sentence for samples in training; any number.")] = None,
) -> None:
    """Make training data of films and pictures with captions: latents and embedded text, in buckets of one size."""
    from everreel.data.prepare import PrepareSettings, describe
    from everreel.data.prepare import prepare as fill

    settings = PrepareSettings(_buckets(model, sizes, frames, fps), every=every)
    encoders = _encoders(model)
    with pieces_bar("file") as on_file:
        prepared = fill(source, output, encoders, settings, prompts=prompt or (), progress=on_file)
    for line in describe(prepared.store):
        typer.echo(line)
    for missed in prepared.skipped:
        typer.echo(f"skipped {missed}", err=True)
    if prepared.num_cut_captions:
        cut = f"captions longer than {encoders.text.length} tokens, of which the rest is left out"
        typer.echo(f"{prepared.num_cut_captions} {cut}", err=True)
    typer.echo(f"{len(prepared.store)} clips in {output}, {len(prepared.skipped)} skipped")


def _buckets(model: str, sizes: str | None, frames: str | None, fps: int | None) -> Buckets:
    from everreel.data.buckets import Buckets, lengths_up_to, sizes_around

    card = None if sizes and frames else _card(model)
    shapes = _sizes(sizes) if sizes else sizes_around(card.height, card.width) if card else ()
    lengths = _lengths(frames) if frames else lengths_up_to(card.num_frames) if card else ()
    return Buckets(shapes, lengths, fps)


def _card(model: str) -> ModelCard:
    """The settings of a model, which is not loaded: size and length, which are the same whatever it was trained for."""
    return model_options(model=model).card(otherwise="df")


def _encoders(model: str) -> Encoders:
    """The VAE and the text encoder of a model, on the best device, in the type that suits it."""
    import torch

    from everreel.checkpoint.load import load_text_encoder, load_tokenizer, load_vae
    from everreel.data.prepare import Encoders
    from everreel.data.text import FrozenText
    from everreel.film.device import default_device, default_dtype

    found, device = source_of(model), torch.device(default_device())
    dtype = default_dtype(device)
    tokenizer, encoder = load_tokenizer(found), load_text_encoder(found, device, dtype)
    encoder.requires_grad_(False)
    text = FrozenText(tokenizer, encoder, min(tokenizer.max_length, found.config.text_len))
    vae = load_vae(found, device, dtype)
    vae.requires_grad_(False)
    return Encoders(vae, text, found.name or Path(model).name)


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Of "96x160,160x96"."""
    found = []
    for part in text.split(","):
        height, cross, width = part.strip().lower().partition("x")
        if not (cross and height.isdecimal() and width.isdecimal()):
            raise ValueError(f"sizes = {part!r}: must be HEIGHTxWIDTH, with commas between several; 96x160 works")
        found.append((int(height), int(width)))
    return tuple(found)


def _lengths(text: str) -> tuple[int, ...]:
    """Of "97,49"."""
    found = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise ValueError(f"frames = {part!r}: must be a number of frames, with commas between several; 97 works")
        found.append(int(part))
    return tuple(found)
