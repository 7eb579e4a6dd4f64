"""The models that can be asked for by name, what each is made for and what it needs.

Sources: the sizes and settings that the released repositories publish; a GPU's memory as `film.budget` counts it, with
all on it and with as little as an exact model takes. The one invariant: `find_model` returns only what can be loaded
now; anything else is an error that says why and what would do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from everreel.checkpoint import places
from everreel.checkpoint.configs import Kind
from everreel.checkpoint.source import find_source
from everreel.shapes import LATENT_CHANNELS, TEMPORAL

LongSchedule = Literal["blockwise", "rolling", "windows"]
"""How a film is made that is longer than a window."""
Join = Literal["reencode", "carry", "hybrid"]
"""What a window has of the one before it."""
SolverName = Literal["unipc", "unipc_exact", "euler"]

_WHAT: Mapping[Kind, str] = {
    "df": "films of any length from words, pictures and other films, by diffusion forcing",
    "t2v": "text to video, all frames at once",
    "i2v": "picture to video, all frames at once",
}


@dataclass(frozen=True)
class ModelCard:
    """A model and the settings it is best at."""

    name: str
    path: str  # a folder, or the name of the repository that publishes it in the diffusers layout
    kind: Kind
    size: str
    height: int
    width: int
    num_frames: int
    guidance_scale: float
    shift: float
    num_inference_steps: int
    needs: str
    licence: str
    released: bool  # published by others, so not inside the package
    dim: int  # width, feed-forward width and depth of the transformer: what a step costs
    ffn_dim: int
    num_layers: int
    guidance_level: float = 1.0  # the noise level from which on guidance works
    guidance_until: float = 0.0  # and down to which
    skip_guidance_layers: tuple[int, ...] = (9,)  # as people leave them out of Wan2.1; nobody measured it here
    told_fps: bool = False  # is told how many frames a second its film has; others make what they make at 24
    schedule: LongSchedule = "windows"
    join: Join = "reencode"
    causal: bool = False  # trained with block-causal attention as well, so that finished blocks can be cached
    block_size: int = 5  # latent frames of a block
    context: int = 20  # latent frames a block looks back at, beyond one window
    anchor_color: float = 0.0  # how firmly brightness and colours of a long film are held at those it began with
    addnoise_condition: float = 0.0  # thousandths of noise on what a long film looks back at
    sink: int = 0  # of the first latent frames, that stay in sight beyond one window
    negative_prompt: str = ""
    solver: SolverName = "unipc"  # as the released loop of these models runs it
    streams: bool = False  # made for films block by block from the first frame on
    lora: str = ""  # a file that belongs to it: what makes this model of the one in `path`

    @property
    def what(self) -> str:
        """What it was trained for, in words."""
        return _WHAT[self.kind] + (f", streamed in {self.num_inference_steps} steps" if self.streams else "")

    @property
    def forcing(self) -> bool:
        """Whether each latent frame may have a noise level of its own; else all frames are made at once."""
        return self.kind == "df"

    @property
    def image(self) -> bool:
        """I2V: a film of one picture, which is shown beside the noise."""
        return self.kind == "i2v"

    @property
    def official(self) -> str:
        """The repository that publishes it in the layout of the released code, on both hubs; '' if none does."""
        return f"Skywork/SkyReels-V2-{self.name}" if self.released else ""

    @property
    def diffusers(self) -> str:
        """The repository on Hugging Face that publishes it in the layout of diffusers; '' if none does."""
        return f"{self.official}-Diffusers" if self.released else ""

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The recommended height and width of each aspect."""
        # A square of about as many pixels, on the grid of 16.
        side = round((self.height * self.width) ** 0.5 / 16) * 16
        return {"16:9": (self.height, self.width), "9:16": (self.width, self.height), "1:1": (side, side)}

    def require_path(self) -> Path:
        """The folder of its files.

        Raises:
            ValueError: they are not on this machine.
        """
        if not self.usable:
            raise ValueError(f"model = {self.name!r}: its files are not on this machine")
        return Path(self.path)

    @property
    def usable(self) -> bool:
        """Whether its files are on this machine."""
        return _is_model(Path(self.path)) and (not self.lora or Path(self.lora).is_file())


_TINY = ModelCard(
    name="tiny",
    path=str(files("everreel") / "assets" / "tiny"),
    kind="df",
    size="12 M",
    height=96,
    width=160,
    num_frames=97,
    guidance_scale=5.0,
    guidance_level=0.85,  # for time; docs/guidance.md measures what it costs
    skip_guidance_layers=(3, 5),  # where they are asked for
    shift=3.0,
    num_inference_steps=30,
    needs="a CPU and 1 GB of memory",
    licence="Apache-2.0",
    released=False,
    dim=256,
    ffn_dim=1024,
    num_layers=10,
    told_fps=True,
    # By what docs/long-video.md measured.
    schedule="rolling",
    join="carry",
    causal=True,
    sink=10,
    anchor_color=1.0,
)
# How a student of few steps is served: block by block, as it was trained, with what was measured so.
STREAMED: Mapping[str, Any] = {"sink": 5, "addnoise_condition": 20.0}
# Of films that were begun before long ones rolled; they go on as they were begun.
BLOCKWISE: Mapping[str, Any] = {"schedule": "blockwise", **STREAMED}
# The same weights and a LoRA that makes a student of few steps of them.
_TINY_FAST = replace(
    _TINY,
    name="tiny-fast",
    lora=str(files("everreel") / "assets" / "tiny-fast" / "pytorch_lora_weights.safetensors"),
    guidance_scale=1.0,
    num_inference_steps=4,
    solver="euler",
    streams=True,
    **STREAMED,
)
_DF_1B = ModelCard(
    name="DF-1.3B-540P",
    path="Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
    kind="df",
    size="1.3 B",
    height=544,
    width=960,
    num_frames=97,
    guidance_scale=6.0,
    shift=8.0,
    num_inference_steps=30,
    needs="a GPU with 23 GB (8 GB, slower), 32 GB of memory, 28 GB of disk",
    licence="Skywork Community License",
    released=True,
    dim=1536,
    ffn_dim=8960,
    num_layers=30,
    told_fps=True,  # it alone, of those that were released
    negative_prompt="blurry, overexposed, washed out, distorted, bad hands, extra limbs, subtitles, watermark, still",
)
_DF_14B = replace(
    _DF_1B,
    name="DF-14B-540P",
    told_fps=False,
    path="Skywork/SkyReels-V2-DF-14B-540P-Diffusers",
    size="14 B",
    dim=5120,
    ffn_dim=13824,
    num_layers=40,
    needs="a GPU with 58 GB (12 GB, slower), 64 GB of memory, 70 GB of disk",
)
_DF_14B_720P = replace(
    _DF_14B,
    name="DF-14B-720P",
    path="Skywork/SkyReels-V2-DF-14B-720P-Diffusers",
    height=720,
    width=1280,
    num_frames=121,
    needs="a GPU with 78 GB (24 GB, slower), 64 GB of memory, 70 GB of disk",
)
# Of models that make all frames at once. Their loop writes into no sample that the scheduler keeps.
_T2V: dict[str, Any] = {"kind": "t2v", "solver": "unipc_exact"}
_T2V_14B = replace(
    _DF_14B,
    **_T2V,
    name="T2V-14B-540P",
    path="Skywork/SkyReels-V2-T2V-14B-540P-Diffusers",
    needs="a GPU with 58 GB (12 GB, slower), 64 GB of memory, 70 GB of disk",
)
_T2V_14B_720P = replace(_DF_14B_720P, **_T2V, name="T2V-14B-720P", path="Skywork/SkyReels-V2-T2V-14B-720P-Diffusers")
# Their shift is 5 in the published table of settings and in their loop, and 3 in two notes beside.
_I2V: dict[str, Any] = {"kind": "i2v", "solver": "unipc_exact", "guidance_scale": 5.0, "shift": 5.0}
_I2V_1B = replace(
    _DF_1B,
    **_I2V,
    told_fps=False,
    name="I2V-1.3B-540P",
    path="Skywork/SkyReels-V2-I2V-1.3B-540P-Diffusers",
    needs="a GPU with 24 GB (8 GB, slower), 32 GB of memory, 31 GB of disk",
)
_I2V_14B = replace(
    _DF_14B,
    **_I2V,
    name="I2V-14B-540P",
    path="Skywork/SkyReels-V2-I2V-14B-540P-Diffusers",
    needs="a GPU with 59 GB (12 GB, slower), 64 GB of memory, 80 GB of disk",
)
_I2V_14B_720P = replace(
    _DF_14B_720P,
    **_I2V,
    name="I2V-14B-720P",
    path="Skywork/SkyReels-V2-I2V-14B-720P-Diffusers",
    needs="a GPU with 79 GB (24 GB, slower), 64 GB of memory, 80 GB of disk",
)

CATALOG = (
    _TINY, _TINY_FAST, _DF_1B, _DF_14B, _DF_14B_720P, _T2V_14B, _T2V_14B_720P, _I2V_1B, _I2V_14B, _I2V_14B_720P,
)  # fmt: skip
ANNOUNCED: Mapping[str, str] = {
    "DF-5B-540P": "DF-14B-540P",
    "DF-5B-720P": "DF-14B-720P",
    "T2V-1.3B-540P": "T2V-14B-540P",
    "T2V-5B-540P": "T2V-14B-540P",
    "T2V-5B-720P": "T2V-14B-720P",
    "I2V-5B-540P": "I2V-14B-540P",
    "I2V-5B-720P": "I2V-14B-720P",
    # The I2V model with words for the camera.
    "Camera-Director-5B-540P": "I2V-14B-540P",
    "Camera-Director-5B-720P": "I2V-14B-720P",
    "Camera-Director-14B-720P": "I2V-14B-720P",
}
"""Models that were announced and never released, each with the nearest that was."""
_OWNERS = re.compile(r"(?:skywork(?:ai)?/)?(?:skyreels-v2-)?")  # as the released pages have spelt them


def find_model(
    name_or_path: str | Path, *, here: bool = True, kind: Kind | None = None, otherwise: Kind | None = None
) -> ModelCard:
    """The card of a model: a name of the catalog or of a published repository, or a folder or file that `load` reads.

    With `here`, only of one that can be loaded now, and without, of any that is known. `kind` is for files that do not
    say what they were trained for; `otherwise` is taken where neither says it, by whoever knows it or need not.

    Raises:
        ValueError: there is no such model here; the message says what would do.
    """
    wanted = str(name_or_path)
    path = Path(wanted).expanduser()
    card = published(wanted)
    if card is not None:
        _settle(wanted, kind, card.kind)
        if "/" in wanted and _is_model(path):
            return replace(card, path=str(path))
        return _placed(card, wanted, here)
    if wanted and _is_model(path):
        return _card_of(path, kind, otherwise)
    if wanted and path.exists():
        find_source(path)  # which says what is wrong with it
        raise ValueError(f"model = {wanted!r}: holds no model that can be run")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", wanted):
        if copy := places.copy_of(wanted):
            return _card_of(copy, kind, otherwise)
        rule = "there is no such folder, and no whole copy of a repository of that name in the Hugging Face cache"
        raise ValueError(f"model = {wanted!r}: {rule}; everreel download {wanted} fetches it, if it is on a hub")
    raise _unknown(wanted)


def published(name: str) -> ModelCard | None:
    """The card of a name of the catalog or of the repository that publishes it, in capitals or not.

    Raises:
        ValueError: it was announced and never released; the message names the nearest that was.
    """
    bare = _bare(name)
    for announced, nearest in ANNOUNCED.items():
        if bare == announced.lower() or (announced.lower().startswith(f"{bare}-") and bare not in _WHAT):
            raise ValueError(f"model = {name!r}: was announced and never released; nearest that was: {nearest!r}")
    return next((card for card in CATALOG if bare == card.name.lower()), None)


def describe_models() -> list[str]:
    """Lines for people: every model there is, what it can do, what it needs and whether it is here."""
    lines = []
    for card in CATALOG:
        here = _placed(card, card.name, False)
        lines += [
            f"{card.name:<14}{'ready' if here.usable else 'not here':<10}{card.size:<7}{card.what}",
            f"{'':<14}{card.width}x{card.height}, {card.num_frames} frames, {card.num_inference_steps} steps, "
            f"guidance {card.guidance_scale:g}, shift {card.shift:g}",
            f"{'':<14}needs {card.needs}; {card.licence}",
        ]
        if card.released and not here.usable:
            lines.append(f"{'':<14}everreel download {card.name} fetches it from {card.diffusers}")
    return [*lines, f"announced and never released: {', '.join(ANNOUNCED)}"]


def _unknown(wanted: str) -> ValueError:
    names = [card.name for card in CATALOG]
    nearest = max(names, key=lambda name: difflib.SequenceMatcher(None, _bare(wanted), name.lower()).ratio())
    return ValueError(f"model = {wanted!r}: must be one of {', '.join(names)} or a folder; nearest {nearest!r}")


def _bare(name: str) -> str:
    """A model's name in small letters, without the owner and the layout."""
    small = name.lower().replace(" ", "-").removesuffix("-diffusers")
    return _OWNERS.sub("", small, count=1)


def _placed(card: ModelCard, wanted: str, here: bool) -> ModelCard:
    """A card of the catalog with the folder of its files, the layout asked for before the other.

    Raises:
        ValueError: `here`, and there are none; the message says how to get them.
    """
    if card.usable:
        return card
    if not card.released:
        if not here:
            return card
        raise ValueError(f"model = {wanted!r}: its files are missing in {card.path}; install again")
    both = [card.diffusers, card.official]
    for repository in both if "/" not in wanted or wanted.lower().endswith("-diffusers") else reversed(both):
        if copy := places.copy_of(repository):
            return replace(card, path=str(copy))
    if not here:
        return card
    raise ValueError(
        f"model = {wanted!r}: its weights are not on this machine; it needs {card.needs}; "
        f"everreel download {card.name} fetches {card.diffusers}, or give the folder that holds its files"
    )


def _is_model(path: Path) -> bool:
    """Whether there may be one; what it is takes longer to see. A file's name says nothing: caches have sums there."""
    if path.is_file():
        return True
    if (path / "model_index.json").is_file():
        return (path / "transformer" / "config.json").is_file()
    return path.is_dir() and any(file.suffix.lower() in (".safetensors", ".sft", ".gguf") for file in path.iterdir())


def _card_of(path: Path, kind: Kind | None, otherwise: Kind | None) -> ModelCard:
    """The published model that lies there, else the most alike under the path's name; for others, tiny's settings.

    Raises:
        ValueError: the transformer's channels are those of no model that can be run, or it is not known what it was
            trained for, or it was not trained for `kind`.
    """
    source = find_source(path)
    config, found = source.config, source.kind
    repository = (places.repository_of(path) if path.is_dir() else None) or source.name
    card = published(repository) if repository else None
    kind = _settle(str(path), kind, found or (card.kind if card else None), otherwise)
    channels = 2 * LATENT_CHANNELS + TEMPORAL if kind == "i2v" else LATENT_CHANNELS
    if config.in_dim != channels:
        rule = f"must be {channels} {'with' if kind == 'i2v' else 'without'} image_dim"
        raise ValueError(f"model = {str(path)!r}: in_channels = {config.in_dim}: {rule}")
    name = card.name if card else (path.stem if path.is_file() else path.resolve().name)
    if card is None or (card.kind, card.dim) != (kind, config.dim):
        card = _most_alike(kind, config.dim, name)
    card = replace(card, dim=config.dim, ffn_dim=config.ffn_dim, num_layers=config.num_layers)
    card = replace(card, told_fps=config.inject_sample_info)
    return replace(card, name=name, path=str(path), released=False)


def _settle(model: str, asked: Kind | None, found: Kind | None, otherwise: Kind | None = None) -> Kind:
    """What a model was trained for: as its files say, else as is asked, else `otherwise`.

    Raises:
        ValueError: files and what is asked contradict each other, or nothing says.
    """
    if asked is not None and found is not None and asked != found:
        rule = f"was trained as {found} ({_WHAT[found]}); leave out --kind"
        raise ValueError(f"kind = {asked}: {model} {rule}")
    kind = found or asked or otherwise
    if kind is None:
        rule = "nothing in it says what it was trained for, and models df and t2v have the same tensors"
        raise ValueError(f"model = {model!r}: {rule}; give --kind df, t2v or i2v, as its publisher says")
    return kind


def _most_alike(kind: Kind, dim: int, name: str) -> ModelCard:
    """The settings of the released models of a kind and width, those of 720P for a name that says so."""
    sized = {card.dim: card for card in (_DF_1B, _DF_14B)}
    if dim not in sized:
        card = replace(_TINY, kind=kind, size="unknown", needs="unknown", licence="unknown")
        if dim != _TINY.dim:  # when guidance works was measured with that model alone
            card = replace(card, guidance_level=1.0, guidance_until=0.0)
        if card.forcing:
            return card
        unguarded = replace(card, sink=0, anchor_color=0.0, addnoise_condition=0.0)
        return replace(unguarded, solver="unipc_exact", causal=False)
    alike = [card for card in CATALOG if card.released and (card.kind, card.dim) == (kind, dim)]
    sharp = [card for card in alike if ("720" in name) == (card.height == 720)]
    if not alike:  # nobody released a T2V model of 1.3 B
        return replace(_T2V_14B, size=sized[dim].size, needs=sized[dim].needs, licence="unknown")
    return (sharp or alike)[0]
