"""The commands for keys of a server: `everreel keys add`, `list` and `remove`.

The one invariant: a key is shown once, when it is made, and can be shown by no command afterwards.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from everreel.serve.jobs.job import Owner

app = typer.Typer(help="Keys of a server: who may ask for films, and for how many.", no_args_is_help=True)
Home = Annotated[Path | None, typer.Option(help="The folder of the server's films, if it is not the usual one.")]
Name = Annotated[str, typer.Argument(help="Whose key it is: letters, digits, - and _.")]


@app.command()
def add(
    name: Name,
    *,
    films: Annotated[int | None, typer.Option(help="How many they may have at once.")] = None,
    seconds: Annotated[float | None, typer.Option(help="How much film they may have at once.")] = None,
    size: Annotated[str | None, typer.Option(help="How much room films and uploads may take, as in 10GB.")] = None,
    highest_priority: Annotated[int, typer.Option(help="How urgent their films may be; others' are 0.")] = 0,
    home: Home = None,
) -> None:
    """Make a key, and show it this once. It works at once, in a server that is running too."""
    from everreel.serve.jobs.home import default_home
    from everreel.serve.jobs.job import PRIORITIES, Owner, Quota
    from everreel.serve.jobs.keys import Keys, check_name

    check_name(name)
    if films is not None and films < 1:
        raise ValueError(f"films = {films}: must be at least 1; leave it out for as many as they like")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"seconds = {seconds:g}: must be more than 0; leave it out for as much as they like")
    if not 0 <= highest_priority <= PRIORITIES[-1]:
        nearest = min(max(highest_priority, 0), PRIORITIES[-1])
        rule = f"must be 0 to {PRIORITIES[-1]}; nearest that works: {nearest}"
        raise ValueError(f"highest_priority = {highest_priority}: {rule}")
    owner = Owner(name, Quota(films, seconds, _bytes(size)), highest_priority)
    key = Keys(home or default_home()).add(owner)
    typer.echo(key)
    typer.echo(f"the key of {_described(owner)}; it is not shown again", err=True)


@app.command("list")
def list_keys(*, home: Home = None) -> None:
    """Say who has a key, and how much they may have."""
    from everreel.serve.jobs.home import default_home
    from everreel.serve.jobs.keys import Keys

    keys = Keys(home or default_home()).list()
    for key in keys:
        typer.echo(_described(key.owner))
    if not keys:
        typer.echo("nobody has a key; everreel keys add NAME makes one", err=True)


@app.command()
def remove(name: Name, *, home: Home = None) -> None:
    """Let the holder of a key in no more, at once; their films stay."""
    from everreel.serve.jobs.home import default_home
    from everreel.serve.jobs.keys import Keys

    Keys(home or default_home()).remove(name)
    typer.echo(f"{name} has no key any more")


def _bytes(size: str | None) -> int | None:
    from everreel.film.loading import bytes_of

    if size is None:
        return None
    num_bytes = bytes_of(size)
    if num_bytes is None or not 1 <= num_bytes < math.inf:
        raise ValueError(f"size = {size!r}: must be an amount of bytes; 10GB works")
    return int(num_bytes)


def _described(owner: Owner) -> str:
    """`anna: 10 films, 600 s, 10 GB, priority up to 2`."""
    most = owner.quota
    said = [f"{most.films} films"] if most.films is not None else []
    said += [f"{most.seconds:g} s of film"] if most.seconds is not None else []
    said += [f"{most.bytes / 1e9:.3g} GB"] if most.bytes is not None else []
    said = said or ["without a limit"]
    said += [f"priority up to {owner.highest_priority}"] if owner.highest_priority else []
    return f"{owner.name}: {', '.join(said)}"
