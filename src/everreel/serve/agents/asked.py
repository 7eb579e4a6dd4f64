"""What agents may give to the tools: every argument, described so that a model that has only this knows what to send.

The one invariant: these are shapes and words alone. What a value may be is checked where an order is made, once, so an
agent reads the same line as anybody else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE = "video_0123456789abcdef0123456789abcdef"
FilmName = Annotated[
    str, Field(description=f"A film's id, as generate_film and list_films give it: '{EXAMPLE}'.", examples=[EXAMPLE])
]
Prompt = Annotated[
    str,
    Field(
        description="What happens, in plain words: who, doing what, where, in which light, how the camera moves. "
        "Example: 'a red fox runs through a snowy forest, side view, the camera follows'."
    ),
]
Seconds = Annotated[
    float | None,
    Field(description="Length in seconds; give this or num_frames, not both. Default: the model's own. Example: 4."),
]
NumFrames = Annotated[
    int | None,
    Field(
        description="Length in frames, 24 a second; give this or seconds, not both. Default: the model's own. "
        "Example: 97."
    ),
]
Endless = Annotated[
    bool | None,
    Field(
        description="True: the film has no end and is made on and on, until you call cancel_film or your quota is "
        "used up; what is ready can be watched meanwhile, and gone on with when it is stopped. Only for what is to "
        "run without an end, such as a live background; otherwise give seconds. Leave out seconds, num_frames, "
        "loop and end_image with it. Default: false."
    ),
]
Seed = Annotated[
    int, Field(description="The same seed and words give the same film. Default: 0. Another seed is another take.")
]
Wait = Annotated[
    bool,
    Field(
        description="False (default): return at once with the film's id. True: report progress and return when the "
        "film is done or 50 seconds are over, whichever is first; then wait_for_film goes on waiting."
    ),
]


class Arguments(BaseModel):
    """Of a tool: names that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FrameOf(Arguments):
    """A frame of a film that was made here."""

    film: FilmName
    frame: Annotated[int, Field(description="Its number; the first is 0, and -1 (default) is the last.")] = -1


Picture = FrameOf | str
PICTURE = (
    "{which} Either {{'film': id, 'frame': number}} for a frame of a film made here, or a PNG, JPEG or WebP as base64 "
    "(a data: address works too), or the id of an upload, 'file_...'. Default: none."
)
NO_PATH = "Never a path or a web address."


class Part(Arguments):
    """A prompt that takes over later."""

    at: Annotated[float, Field(description="Seconds from the film's beginning, above 0. Example: 3.5.")]
    prompt: Prompt


class NextPart(Arguments):
    """What comes next, and for how long."""

    prompt: Prompt
    seconds: Annotated[float, Field(description="How long this part lasts, in seconds. Example: 4.")]


class Keyframe(Arguments):
    """A picture that the film shows at a frame."""

    frame: Annotated[int, Field(description="Number of the frame, 24 a second, the first is 0. Example: 48.")]
    picture: Annotated[Picture, Field(description=PICTURE.format(which="The picture."))]


class Planned(Arguments):
    """A film that could be made."""

    prompt: Prompt
    seconds: Seconds = None
    num_frames: NumFrames = None
    endless: Endless = None
    size: Annotated[
        str | None,
        Field(
            description="WIDTHxHEIGHT in pixels, multiples of 16, instead of aspect. Default: the model's own. "
            "Example: '160x96'."
        ),
    ] = None
    aspect: Annotated[
        Literal["16:9", "9:16", "1:1"] | None,
        Field(description="Shape of the picture at the model's own size, instead of size. Default: '16:9'."),
    ] = None
    seed: Seed = 0
    model: Annotated[str | None, Field(description="Which model makes the film.")] = None
    negative_prompt: Annotated[
        str | None, Field(description="What it should not look like. Example: 'blurry'. Default: the model's own.")
    ] = None
    image: Annotated[
        Picture | None, Field(description=PICTURE.format(which="The picture that the film begins with."))
    ] = None
    end_image: Annotated[
        Picture | None, Field(description=PICTURE.format(which="The picture that the film ends with."))
    ] = None
    keyframes: Annotated[
        list[Keyframe],
        Field(description="Pictures at frames in between. Default: none."),
    ] = []
    story: Annotated[
        list[Part],
        Field(
            description="What happens later, in order; prompt is what happens first. "
            "Example: [{'at': 3, 'prompt': 'the fox jumps over a log'}]. Default: nothing else happens."
        ),
    ] = []
    loop: Annotated[bool, Field(description="The film's end meets its beginning. Default: false.")] = False
    enhance: Annotated[
        bool,
        Field(
            description="Make short prompts whole first: shot, place, light and camera are added where they are not "
            "said. Default: false."
        ),
    ] = False


class Generate(Planned):
    """A film to make."""

    wait: Wait = False


class Extend(Arguments):
    """A longer film."""

    film: Annotated[
        str,
        Field(
            description=f"The film to go on with: the id of a completed one, '{EXAMPLE}', or of an uploaded one, "
            "'file_...'."
        ),
    ]
    prompt: Annotated[
        str | None,
        Field(
            description="What happens now. Default: what the film showed last; an uploaded film needs words. "
            "Example: 'the fox stops and looks up'."
        ),
    ] = None
    seconds: Annotated[
        float | None,
        Field(description="New seconds; this or num_frames. Default: as many as the model makes at once. Example: 4."),
    ] = None
    num_frames: Annotated[
        int | None, Field(description="New frames, 24 a second; this or seconds. Default: as for seconds. Example: 96.")
    ] = None
    endless: Endless = None
    seed: Seed = 0
    wait: Wait = False


class Continue(Arguments):
    """A story that goes on."""

    film: FilmName
    parts: Annotated[
        list[NextPart],
        Field(
            min_length=1,
            description="What happens next, one part after the other. Example: [{'prompt': 'the fox jumps over a log', "
            "'seconds': 3}, {'prompt': 'the fox sleeps in the snow', 'seconds': 4}].",
        ),
    ]
    seed: Seed = 0
    wait: Wait = False


class AddKeyframes(Arguments):
    """A film again, with pictures."""

    film: FilmName
    keyframes: Annotated[
        list[Keyframe],
        Field(
            description="Pictures at frames; one at a frame that has one already replaces it. "
            f"Example: [{{'frame': 48, 'picture': {{'film': '{EXAMPLE}', 'frame': 0}}}}]. Default: none."
        ),
    ] = []
    image: Annotated[Picture | None, Field(description=PICTURE.format(which="A new first picture."))] = None
    end_image: Annotated[Picture | None, Field(description=PICTURE.format(which="A new last picture."))] = None
    seed: Annotated[int | None, Field(description="Another take. Default: the film's own seed.")] = None
    wait: Wait = False


class Enhance(Arguments):
    """Words to make whole."""

    prompt: Annotated[str, Field(description="A short idea. Example: 'a fox in the snow'.")]
    model: Annotated[str | None, Field(description="The model that the words are for.")] = None
    has_image: Annotated[
        bool, Field(description="The film begins with a picture, so looks need not be told. Default: false.")
    ] = False


class Named(Arguments):
    """One film."""

    film: FilmName


class WaitFor(Arguments):
    """A film, and how long."""

    film: FilmName
    seconds: Annotated[
        float,
        Field(
            ge=0,
            le=600,
            description="How long to wait at most, in seconds, 0 to 600. Default: 50, since many clients "
            "give up after 60.",
        ),
    ] = 50


class ListFilms(Arguments):
    """A page of films."""

    limit: Annotated[int, Field(ge=1, le=100, description="How many, 1 to 100. Default: 20.")] = 20
    cursor: Annotated[
        str | None, Field(description="next_cursor of the page before. Default: from the latest film on.")
    ] = None


class LookAt(Arguments):
    """Frames of a film."""

    film: FilmName
    frames: Annotated[
        int, Field(ge=1, le=16, description="How many frames, from the first to the last, 1 to 16. Default: 8.")
    ] = 8
    numbers: Annotated[
        list[int],
        Field(
            max_length=16,
            description="These frames instead; the first is 0, -1 is the last. Example: [0, 48, -1]. Default: none.",
        ),
    ] = []
