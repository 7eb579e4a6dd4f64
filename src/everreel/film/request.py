"""What one may ask for: checked once, here, before anything expensive.

The command line and the Python interface both build a `VideoRequest`; later doors (HTTP, agents) will too. The one
invariant: a request that exists can be made; what a model recommends fills in what was left open (`resolve`).
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from everreel.checkpoint.catalog import Join, LongSchedule, ModelCard
from everreel.shapes import (
    SIZE_STEP,
    TEMPORAL,
    frames_of,
    latent_frames,
    latent_index,
    nearest_num_frames,
    nearest_size,
    video_frames,
)

FPS = (16, 24)
MOST_FRAMES, MOST_SECONDS = 10_000_000, 400_000  # the plan of a film is held in memory
SHORTEST_RING = 9  # frames: an opening, and what leads back to it
LARGEST_SIDE = 4096  # pixels: far beyond what any model was trained for, and short of absurd
Aspect = Literal["16:9", "9:16", "1:1"]
M = TypeVar("M", bound=BaseModel)
RESOLUTIONS: dict[str, dict[str, tuple[int, int]]] = {
    "540P": {"16:9": (544, 960), "9:16": (960, 544), "1:1": (720, 720)},
    "720P": {"16:9": (720, 1280), "9:16": (1280, 720), "1:1": (960, 960)},
}


class RequestError(ValueError):
    """One line that names the field, the value, the rule and the nearest value that works."""


def _prompt(value: str) -> str:
    if not value.strip():
        raise ValueError("prompt is empty: say what the film shows, e.g. 'a red fox runs through a snowy forest'")
    return " ".join(value.split())


def _story(value: dict[int, str]) -> dict[int, str]:
    before = 0
    for frame, prompt in value.items():
        if frame <= before:
            rule = (
                f"must come after frame {before}, which is {'that of the part before it' if before else 'the prompt'}"
            )
            raise ValueError(f"story[{frame}] = {prompt!r}: {rule}; nearest that works: {before + 1}")
        if frame > MOST_FRAMES:
            rule = f"no film has a frame beyond {MOST_FRAMES}; nearest that works: {MOST_FRAMES}"
            raise ValueError(f"story[{reprlib.repr(frame)}] = {prompt!r}: {rule}")
        before = frame
    return {frame: _prompt(prompt) for frame, prompt in value.items()}


def _size(value: int | None) -> int | None:
    if value is not None and (value < SIZE_STEP or value % SIZE_STEP):
        nearest = min(nearest_size(value), LARGEST_SIDE)
        raise ValueError(f"must be a positive multiple of {SIZE_STEP}; nearest that works: {nearest}")
    if value is not None and value > LARGEST_SIDE:
        raise ValueError(f"must be at most {LARGEST_SIDE}; nearest that works: {LARGEST_SIDE}")
    return value


def _fps(value: int) -> int:
    if value not in FPS:
        nearest = min(FPS, key=lambda fps: abs(fps - value))
        raise ValueError(f"the system is trained for 16 and 24 frames a second; nearest that works: {nearest}")
    return value


def _at_least(low: float, high: float | None = None) -> AfterValidator:
    """A bound whose message names the nearest value that works."""

    def check(value: Any) -> Any:  # noqa: ANN401 -- int and float fields share it, None means 'left open'
        if value is not None and not value >= low:
            raise ValueError(f"must be at least {low}; nearest that works: {low}")
        if value is not None and high is not None and value > high:
            raise ValueError(f"must be at most {high}; nearest that works: {high}")
        return value

    return AfterValidator(check)


def _blocks(value: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
    if value == ():
        raise ValueError("must name at least one size; nearest that works: 1")
    sizes = value if isinstance(value, tuple) else (1 if value is None else value,)
    if min(sizes) < 1:
        raise ValueError(f"must be at least 1; nearest that works: {','.join(str(max(size, 1)) for size in sizes)}")
    return value


def _layers(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not value or min(value) < 0:
        raise ValueError(f"must be 0 or more each; nearest that works: {','.join(str(max(n, 0)) for n in value) or 0}")
    return tuple(sorted(set(value)))


SEVERAL = {"causal_block_size": "latent frames", "skip_guidance_layers": "a layer"}
"""Fields that take several numbers, with commas between them where they are typed, and what they are numbers of."""


class VideoRequest(BaseModel):
    """A film as asked for. `None` means: as the model recommends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[str, AfterValidator(_prompt)] = Field(description="What the film shows.")
    story: Annotated[dict[int, str], AfterValidator(_story)] = Field(
        {}, description="Prompts that take over later, by the number of their first frame."
    )
    negative_prompt: str | None = Field(None, description="What it should not look like.")
    num_frames: Annotated[int | None, _at_least(1, MOST_FRAMES)] = Field(None, description="Length in frames.")
    seconds: Annotated[float | None, _at_least(0.04, MOST_SECONDS)] = Field(
        None, description="Length in seconds instead."
    )
    fps: Annotated[int, AfterValidator(_fps)] = Field(24, description="Frames a second, 16 or 24.")
    height: Annotated[int | None, AfterValidator(_size)] = Field(
        None, description="Height in pixels, a multiple of 16."
    )
    width: Annotated[int | None, AfterValidator(_size)] = Field(None, description="Width in pixels, a multiple of 16.")
    resolution: Literal["540P", "720P"] | None = Field(None, description="540P or 720P instead of a size.")
    aspect: Aspect | None = Field(None, description="16:9, 9:16 or 1:1.")
    num_inference_steps: Annotated[int | None, _at_least(1, 1000)] = Field(None, description="Denoising steps.")
    guidance_scale: Annotated[float | None, _at_least(1, 50)] = Field(
        None, description="How closely to follow the words; 1 is off."
    )
    guidance_level: Annotated[float | None, _at_least(0, 1)] = Field(
        None, description="The noise level from which on guidance works, 1 is all steps: try 0.9, which is faster."
    )
    guidance_until: Annotated[float | None, _at_least(0, 1)] = Field(
        None, description="The noise level down to which guidance works, 0 is all steps: try 0.5, for softer edges."
    )
    skip_layer_guidance_scale: Annotated[float, _at_least(0, 20)] = Field(
        0, description="How far to go away from what the model says without some layers, for shapes that hold: try 2."
    )
    skip_guidance_layers: Annotated[tuple[int, ...] | None, AfterValidator(_layers)] = Field(
        None, description="Those layers, the first is 0: 3,5."
    )
    shift: Annotated[float | None, _at_least(0.01, 100)] = Field(None, description="Shift of the noise levels.")
    seed: Annotated[int, _at_least(0, 2**62)] = Field(0, description="The same seed gives the same film.")
    ar_step: Annotated[int, _at_least(0)] = Field(0, description="Asynchronous: passes between two blocks; 0 is off.")
    causal_block_size: Annotated[int | tuple[int, ...] | None, AfterValidator(_blocks)] = Field(
        None, description="Latent frames of a block; or of one block after the other, the last again and again: 1,4,4."
    )
    schedule: LongSchedule | None = Field(None, description="Beyond a window: blockwise, rolling or windows.")
    base_num_frames: Annotated[int | None, _at_least(5)] = Field(None, description="Frames of a window, 4k + 1.")
    overlap_history: Annotated[int | None, _at_least(1)] = Field(
        None, description="Frames that a window has of the one before it, 4k + 1."
    )
    join: Join | None = Field(
        None, description="What a window has of the one before it: its pixels encoded again, its latents, or both."
    )
    cache: bool | None = Field(
        None, description="Keep finished blocks as keys and values instead of computing them again."
    )
    step_cache: Annotated[float, _at_least(0, 1)] = Field(
        0, description="Leave out passes whose velocity must have changed by less than this share: try 0.1; 0 is off."
    )
    sink: Annotated[int | None, _at_least(0)] = Field(
        None, description="Latent frames at the film's start that stay in the cache."
    )
    loop: bool = Field(False, description="The film's end meets its beginning.")
    blend_overlap: bool = Field(
        False, description="Fade from one window into the next, where pixels are encoded again."
    )
    anchor_color: Annotated[float | None, _at_least(0, 1)] = Field(
        None,
        description="Hold a long film's brightness and colours at those that each part of its story began with: "
        "0 is off, 1 is firmly.",
    )
    image: Path | None = Field(None, description="The picture that the film begins with.")
    end_image: Path | None = Field(None, description="The picture that the film ends with.")
    keyframes: dict[int, Path] = Field({}, description="Pictures by the number of their frame, the first is 0.")
    addnoise_condition: Annotated[float | None, _at_least(0, 100)] = Field(
        None, description="Noise on what is looked back at, in thousandths: 20 against drift."
    )

    @model_validator(mode="after")
    def _together(self) -> VideoRequest:
        if self.num_frames is not None and self.seconds is not None:
            raise ValueError(f"seconds = {self.seconds}: give num_frames or seconds, not both")
        if (self.height is None) != (self.width is None):
            field, value = ("height", self.height) if self.width is None else ("width", self.width)
            raise ValueError(f"{field} = {value}: height and width go together")
        for name in ("base_num_frames", "overlap_history"):
            value = getattr(self, name)
            if value is not None and (value - 1) % TEMPORAL:
                nearest = nearest_num_frames(value)
                raise ValueError(f"{name} = {value}: must be 4k + 1; nearest that works: {nearest}")
        for name in ("overlap_history", "join"):
            value = getattr(self, name)
            if value is not None and self.schedule not in (None, "windows"):
                raise ValueError(f"{name} = {value}: goes with schedule windows, not with {self.schedule}")
        if self.schedule == "blockwise" and self.ar_step:
            raise ValueError(f"ar_step = {self.ar_step}: goes with schedule rolling or windows, not with blockwise")
        if self.cache and (self.schedule == "windows" or self.join or self.overlap_history):
            raise ValueError("cache = True: goes with blocks, not with windows joined to each other; leave it out")
        if self.sink and self.cache is False:
            raise ValueError(f"sink = {self.sink}: is kept in the cache; leave out cache = False")
        if self.loop and self.end_image:
            raise ValueError("loop = True: the film ends where it begins; leave out end_image")
        if self.height is not None and (self.resolution or self.aspect):
            raise ValueError(f"height = {self.height}: give a size or resolution and aspect, not both")
        return self

    @property
    def length(self) -> int | None:
        """Frames asked for, in whichever way."""
        return self.num_frames if self.seconds is None else max(1, round(self.seconds * self.fps))

    @property
    def last_prompt(self) -> str:
        """What the film shows at its end."""
        return [self.prompt, *self.story.values()][-1]

    @property
    def hidden(self) -> range:
        """Frames at the film's front that are made and not shown, so that it ends with the last frame of a latent.

        There a picture is seen as it is, and from there a loop goes on.

        Of a loop they are the frames with which it begins again at its end. Where the first picture is given, it is
        shown, and the hidden frames come after it.
        """
        assert self.num_frames is not None, "frames have places once the length is settled"
        if self.loop:
            return range(video_frames(latent_frames(self.num_frames + TEMPORAL + 1)) - self.num_frames)
        count = -(self.num_frames - 1) % TEMPORAL if self.end_image else 0
        first = 1 if self.image or 0 in self.keyframes else 0
        return range(first, first + count)

    def made(self, frame: int) -> int:
        """The number of a frame of the film among those that are made."""
        return frame if frame < self.hidden.start else frame + len(self.hidden)

    def shown(self, made: int) -> int:
        """The number in the film of a frame that is made, or of the one that is shown next."""
        return made - len(range(self.hidden.start, min(max(made, self.hidden.start), self.hidden.stop)))

    def pictures(self) -> dict[int, tuple[str, Path]]:
        """Given pictures, each with the field that names it, by the latent frame that they fill, first to last.

        Raises:
            RequestError: a picture lies outside the film, or two share a latent frame.
        """
        assert self.num_frames is not None, "pictures have places once the length is settled"
        last = self.num_frames - 1
        middle = ((frame, f"keyframes[{frame}]", path) for frame, path in sorted(self.keyframes.items()))
        asked = (0, "image", self.image), *middle, (last, "end_image", self.end_image)
        placed: dict[int, tuple[str, Path]] = {}
        for frame, field, path in asked:
            if path is None:
                continue
            if not 0 <= frame <= last:
                nearest = min(max(frame, 0), last)
                raise RequestError(f"{field} = {path}: the film has frames 0..{last}; nearest that works: {nearest}")
            index = latent_index(self.made(frame))
            if index in placed:
                held = sorted({self.shown(made) for made in frames_of(index)})
                where = f"frame {held[0]}" if len(held) == 1 else f"frames {held[0]}..{held[-1]}, which are made as one"
                raise RequestError(
                    f"{field} = {path}: {placed[index][0]} has {where} already; leave one out, "
                    f"or give a frame from {held[-1] + 1} on"
                )
            placed[index] = field, path
        return dict(sorted(placed.items()))

    def resolve(self, card: ModelCard) -> VideoRequest:
        """The same request with every open field filled in as the model recommends.

        Raises:
            RequestError: guidance would end above the level that it begins at.
        """
        height, width = self.size(card)
        level = card.guidance_level if self.guidance_level is None else self.guidance_level
        until = self.guidance_until
        if until is None:  # who asks for guidance at low levels alone means those below the model's end, too
            until = card.guidance_until if level > card.guidance_until else 0.0
        elif until > level:
            raise RequestError(
                f"guidance_until = {until:g}: must be at most guidance_level; nearest that works: {level:g}"
            )
        chosen: dict[str, Any] = {
            "num_frames": self.length or card.num_frames,
            "height": height,
            "width": width,
            "num_inference_steps": self.num_inference_steps or card.num_inference_steps,
            "guidance_scale": self.guidance_scale or card.guidance_scale,
            "skip_guidance_layers": self._skipped(card),
            "guidance_level": level,
            "guidance_until": until,
            "shift": self.shift or card.shift,
            "anchor_color": card.anchor_color if self.anchor_color is None else self.anchor_color,
            "negative_prompt": card.negative_prompt if self.negative_prompt is None else self.negative_prompt,
        }
        cleared = {"seconds": None, "resolution": None, "aspect": None}
        return self.model_copy(update={**cleared, **chosen})

    def _skipped(self, card: ModelCard) -> tuple[int, ...] | None:
        """The layers to guide away from, if that is asked for."""
        asked = self.skip_guidance_layers
        told = ",".join(map(str, asked or ()))
        if not self.skip_layer_guidance_scale:
            if asked is not None:
                rule = "goes with skip_layer_guidance_scale above 0; nearest that works: 2"
                raise RequestError(f"skip_guidance_layers = {told}: {rule}")
            return None
        layers, last = asked or card.skip_guidance_layers, card.num_layers - 1
        if asked and asked[-1] > last:
            fits = ",".join(map(str, sorted({min(layer, last) for layer in asked})))
            raise RequestError(
                f"skip_guidance_layers = {told}: {card.name} has layers 0..{last}; nearest that works: {fits}"
            )
        return tuple(sorted({min(layer, last) for layer in layers}))

    def size(self, card: ModelCard) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.height is not None and self.width is not None:
            return self.height, self.width
        aspect = self.aspect or "16:9"
        if self.resolution is not None:
            return RESOLUTIONS[self.resolution][aspect]
        return card.sizes[aspect] if self.aspect else (card.height, card.width)


@dataclass(frozen=True)
class Ring:
    """Where the latents of a film lie whose end meets its beginning.

    Its opening is made first. The film ends with a latent that holds frames of the opening, as they are seen from where
    the film arrives, and it begins with the frames that follow on them.
    """

    num_latents: int
    opening: int
    """Latent frames of the opening, from the first on."""
    met: range
    """Frames of the opening that the last latent holds."""

    @classmethod
    def of(cls, request: VideoRequest, block: int) -> Ring:
        """Of a resolved request.

        Raises:
            RequestError: it is too short to come back.
        """
        assert request.num_frames
        if request.num_frames < SHORTEST_RING:
            rule = f"a film that meets its beginning has at least {SHORTEST_RING} frames"
            raise RequestError(f"num_frames = {request.num_frames}: {rule}; nearest that works: {SHORTEST_RING}")
        latents, stop = latent_frames(request.made(request.num_frames)), request.hidden.stop
        # Three latents hold whatever frames come again.
        return cls(latents, min(max(block, 3), latents - 2), range(stop - TEMPORAL, stop))

    @property
    def known(self) -> tuple[int, ...]:
        """The latent frames that are known before the film is made."""
        return (*range(self.opening), self.num_latents - 1)


def make_request(**values: Any) -> VideoRequest:  # noqa: ANN401 -- whatever a command line or a JSON body holds
    """A checked request.

    Raises:
        RequestError: with one line for the first thing that is wrong.
    """
    return checked(VideoRequest, values, RequestError)


def checked(kind: type[M], values: Mapping[str, Any], refusal: type[ValueError] = ValueError) -> M:
    """A model of these values, or a refusal with one line for the first thing that is wrong."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise refusal(one_line(error)) from None


def one_line(error: ValidationError) -> str:
    """The first thing that is wrong, as a user reads it: field, value, rule."""
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"] or message.startswith(str(first["loc"][0])):
        return message
    field, value = first["loc"][0], first["input"]
    if first["type"] == "missing":
        return f"{field}: must be given"
    if first["type"] == "literal_error":
        works = re.findall("'([^']*)'", str(first.get("ctx", {}).get("expected")))
        nearest = max(works, key=lambda name: difflib.SequenceMatcher(None, str(value), name).ratio())
        return f"{field} = {value!r}: must be one of {', '.join(works)}; nearest that works: {nearest}"
    return f"{field} = {value!r}: {message[0].lower()}{message[1:]}"
