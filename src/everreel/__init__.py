"""everreel: films of any length from a prompt, with diffusion forcing.

    from everreel import VideoPipeline, VideoRequest

    pipe = VideoPipeline.from_pretrained("tiny")
    pipe(VideoRequest(prompt="a red fox runs right through a snowy forest at dusk")).save("film.mp4")

The public names are imported when they are first used: `import everreel` itself loads nothing, no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everreel.film.control import CancelledError, Control
    from everreel.film.making import resume
    from everreel.film.pipeline import VideoPipeline
    from everreel.film.request import VideoRequest
    from everreel.film.state import Block
    from everreel.media import FilmWriter, Video
    from everreel.model.dit import DiT
    from everreel.model.text_encoder import TextEncoder
    from everreel.model.vae import CausalVAE
    from everreel.shapes import LatentShape

__version__ = "0.1.0"

__all__ = [
    "Block",
    "CancelledError",
    "CausalVAE",
    "Control",
    "DiT",
    "FilmWriter",
    "LatentShape",
    "TextEncoder",
    "Video",
    "VideoPipeline",
    "VideoRequest",
    "__version__",
    "resume",
]

_HOME = {
    "Block": "everreel.film.state",
    "CancelledError": "everreel.film.control",
    "CausalVAE": "everreel.model.vae",
    "Control": "everreel.film.control",
    "DiT": "everreel.model.dit",
    "FilmWriter": "everreel.media",
    "LatentShape": "everreel.shapes",
    "TextEncoder": "everreel.model.text_encoder",
    "Video": "everreel.media",
    "VideoPipeline": "everreel.film.pipeline",
    "VideoRequest": "everreel.film.request",
    "resume": "everreel.film.making",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'everreel' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
