"""The models that can be asked for by name, what each is made for and what it needs.

Sources: the sizes, settings and peak memory that the released repositories publish. The one invariant:
`find_model` returns only what can be loaded now; anything else is an error that says why and what would do.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from everreel.checkpoint import configs
from everreel.shapes import LATENT_CHANNELS, TEMPORAL

LongSchedule = Literal["blockwise", "rolling", "windows"]
"""How a film is made that is longer than a window."""
Join = Literal["reencode", "carry", "hybrid"]
"""What a window has of the one before it."""


@dataclass(frozen=True)
class ModelCard:
    """A model and the settings it is best at."""

    name: str
    path: str  # a folder, or the name of the repository that publishes it
    kind: str
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
    schedule: LongSchedule = "windows"
    join: Join = "reencode"
    causal: bool = False  # trained with block-causal attention as well, so that finished blocks can be cached
    block_size: int = 5  # latent frames of a block
    context: int = 20  # latent frames a block looks back at, beyond one window
    anchor_color: float = 0.0  # how firmly brightness and colours of a long film are held at those it began with
    sink: int = 0  # of the first latent frames, that stay in sight beyond one window
    negative_prompt: str = ""
    solver: Literal["unipc", "unipc_exact"] = "unipc"  # as the released loop of these models runs it
    image: bool = False  # I2V: a film of one picture, which is shown beside the noise; all frames at once, one window

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The recommended height and width of each aspect."""
        # A square of about as many pixels, on the grid of 16.
        side = round((self.height * self.width) ** 0.5 / 16) * 16
        return {"16:9": (self.height, self.width), "9:16": (self.width, self.height), "1:1": (side, side)}

    def require_folder(self) -> Path:
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
        return _is_model(Path(self.path))


_TINY = ModelCard(
    name="tiny",
    path=str(files("everreel") / "assets" / "tiny"),
    kind="text to video, diffusion forcing",
    size="12 M",
    height=96,
    width=160,
    num_frames=97,
    guidance_scale=5.0,
    shift=3.0,
    num_inference_steps=30,
    needs="a CPU and 1 GB of memory",
    licence="Apache-2.0",
    released=False,
    dim=256,
    ffn_dim=1024,
    num_layers=10,
    # By what docs/long-video.md measures: of all ways the nearest to all of its goals.
    schedule="blockwise",
    join="carry",
    causal=True,
    sink=5,
    anchor_color=1.0,
)
_DF_1B = ModelCard(
    name="DF-1.3B-540P",
    path="Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
    kind="text to video, diffusion forcing",
    size="1.3 B",
    height=544,
    width=960,
    num_frames=97,
    guidance_scale=6.0,
    shift=8.0,
    num_inference_steps=30,
    needs="a GPU with 15 GB, 32 GB of memory, 28 GB of disk",
    licence="Skywork Community License",
    released=True,
    dim=1536,
    ffn_dim=8960,
    num_layers=30,
    negative_prompt="blurry, overexposed, washed out, distorted, bad hands, extra limbs, subtitles, watermark, still",
)
_DF_14B = replace(
    _DF_1B,
    name="DF-14B-540P",
    path="Skywork/SkyReels-V2-DF-14B-540P-Diffusers",
    size="14 B",
    dim=5120,
    ffn_dim=13824,
    num_layers=40,
    needs="a GPU with 52 GB, 64 GB of memory, 70 GB of disk",
)
_DF_14B_720P = replace(
    _DF_14B,
    name="DF-14B-720P",
    path="Skywork/SkyReels-V2-DF-14B-720P-Diffusers",
    height=720,
    width=1280,
    num_frames=121,
    needs="a GPU with 80 GB, 64 GB of memory, 70 GB of disk",
)
# Of the I2V models. Their shift is 5 in the published table of settings and in their loop, and 3 in two notes beside.
_I2V: dict[str, Any] = {
    "kind": "image to video",
    "guidance_scale": 5.0,
    "shift": 5.0,
    "solver": "unipc_exact",  # their loop writes into no sample that the scheduler keeps
    "image": True,
}
_I2V_1B = replace(
    _DF_1B,
    **_I2V,
    name="I2V-1.3B-540P",
    path="Skywork/SkyReels-V2-I2V-1.3B-540P-Diffusers",
    needs="a GPU with 15 GB, 32 GB of memory, 31 GB of disk",
)
_I2V_14B = replace(
    _DF_14B,
    **_I2V,
    name="I2V-14B-540P",
    path="Skywork/SkyReels-V2-I2V-14B-540P-Diffusers",
    needs="a GPU with 44 GB, 64 GB of memory, 80 GB of disk",
)
_I2V_14B_720P = replace(
    _DF_14B_720P,
    **_I2V,
    name="I2V-14B-720P",
    path="Skywork/SkyReels-V2-I2V-14B-720P-Diffusers",
    needs="a GPU with 80 GB, 64 GB of memory, 80 GB of disk",
)

CATALOG = (_TINY, _DF_1B, _DF_14B, _DF_14B_720P, _I2V_1B, _I2V_14B, _I2V_14B_720P)


def find_model(name_or_path: str | Path, *, here: bool = True) -> ModelCard:
    """The card of a model: a name of the catalog, or a folder in a layout that `load` reads.

    With `here`, only of one that can be loaded now, and without, of any that is known.

    Raises:
        ValueError: there is no such model here; the message says what would do.
    """
    wanted = str(name_or_path)
    for card in CATALOG:
        if wanted in (card.name, card.path, card.path.removesuffix("-Diffusers")):
            if card.usable or not here:
                return card
            if not card.released:
                raise ValueError(f"model = {wanted!r}: its files are missing in {card.path}; install again")
            raise ValueError(
                f"model = {wanted!r}: its weights are not on this machine; it needs {card.needs}; "
                f"give the folder that holds the files of {card.path}"
            )
    folder = Path(wanted).expanduser()
    if wanted and _is_model(folder):
        return _card_of_folder(folder)
    if wanted and folder.is_dir():
        raise ValueError(f"model = {wanted!r}: a folder must hold model_index.json and transformer/")
    names = [card.name for card in CATALOG]
    nearest = max(names, key=lambda name: difflib.SequenceMatcher(None, wanted, name).ratio())
    raise ValueError(f"model = {wanted!r}: must be one of {', '.join(names)} or a folder; nearest {nearest!r}")


def _is_model(folder: Path) -> bool:
    if (folder / "model_index.json").is_file():
        return (folder / "transformer" / "config.json").is_file()
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _card_of_folder(folder: Path) -> ModelCard:
    """The released model of the same kind and width under the folder's name; for others, the tiny one's settings.

    Raises:
        ValueError: the transformer's channels are those of no model that can be run.
    """
    if (folder / "transformer").is_dir():
        config = configs.transformer_config_from_diffusers(configs.read_json(folder / "transformer" / "config.json"))
    else:
        config = configs.transformer_config_from_official(configs.read_json(folder / "config.json"))
    image = config.image_dim is not None
    channels = 2 * LATENT_CHANNELS + TEMPORAL if image else LATENT_CHANNELS
    if config.in_dim != channels:
        rule = f"must be {channels} {'with' if image else 'without'} image_dim"
        raise ValueError(f"model = {str(folder)!r}: in_channels = {config.in_dim}: {rule}")
    if config.dim == 1536:
        card = _I2V_1B if image else _DF_1B
    elif config.dim == 5120:
        small, large = (_I2V_14B, _I2V_14B_720P) if image else (_DF_14B, _DF_14B_720P)
        card = large if "720" in folder.resolve().name else small
    else:
        card = replace(_TINY, size="unknown", needs="unknown", licence="unknown")
        if image:
            kind, solver = _I2V_1B.kind, _I2V_1B.solver
            card = replace(card, kind=kind, solver=solver, causal=False, image=True, sink=0, anchor_color=0.0)
    card = replace(card, dim=config.dim, ffn_dim=config.ffn_dim, num_layers=config.num_layers)
    return replace(card, name=folder.resolve().name, path=str(folder), released=False)
