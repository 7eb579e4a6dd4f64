"""What one may ask the server for: a `VideoRequest` whose pictures are uploads, and what a film goes on from.

The one invariant: an order holds no path, no address and nothing that could be run; ids of uploads and films are all
that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from everreel.film.loading import EMBEDDED
from everreel.film.request import RequestError, VideoRequest, checked, make_request

FILM_PATTERN, UPLOAD_PATTERN = r"^video_[0-9a-f]{32}$", r"^file_[0-9a-f]{32}$"
FilmId = Annotated[str, Field(pattern=FILM_PATTERN)]
UploadId = Annotated[str, Field(pattern=UPLOAD_PATTERN)]
PIECE_SECONDS = 20
"""An endless film is made in pieces, each of which goes on with the one before."""
PICTURES = ("image", "end_image", "keyframes")
REQUEST_FIELDS = tuple(name for name in VideoRequest.model_fields if name not in PICTURES)
EXTENDED = ("prompt", "story", "num_frames", "seconds", "seed", "num_inference_steps")
"""What of a request counts for a film that goes on with one made here; all else is as that was made."""


class Order(BaseModel):
    """A film as it was ordered. The request has no pictures in it; they are uploads, named here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: VideoRequest
    model: str = Field(default=EMBEDDED, description="One of the models that are served.")
    image: UploadId | None = Field(default=None, description="An uploaded picture that the film begins with.")
    end_image: UploadId | None = Field(default=None, description="An uploaded picture that the film ends with.")
    keyframes: dict[int, UploadId] = Field(default={}, description="Uploaded pictures by the number of their frame.")
    extends: FilmId | None = Field(default=None, description="A film made here that this one goes on with.")
    follows: UploadId | None = Field(default=None, description="An uploaded film that this one goes on with.")
    remixed_from: FilmId | None = Field(default=None, description="The film whose order this was, with another prompt.")
    enhance: bool = Field(default=False, description="Make the prompt whole first, as everreel enhance does.")
    enhanced: str | None = Field(
        default=None, description="The prompt as it was made whole; written down by the server."
    )
    enhanced_notes: dict[int, str] = Field(
        default={}, description="What was added to each prompt, and which words nobody knew, by its first frame."
    )
    endless: bool = Field(default=False, description="Go on until it is cancelled, or the owner's quota is used up.")

    @field_validator("request")
    @classmethod
    def _without_pictures(cls, request: VideoRequest) -> VideoRequest:
        for name in PICTURES:
            if getattr(request, name):
                raise ValueError(f"{name}: give the id of an upload")
        return request

    @model_validator(mode="after")
    def _together(self) -> Order:
        pictures = self.image or self.end_image or self.keyframes
        if self.extends and self.follows:
            raise ValueError("follows: give a film made here or an upload, not both")
        if (self.extends or self.follows) and pictures:
            raise ValueError("image: a film that goes on with another has that one's end instead; leave it out")
        if self.endless and (self.request.length is not None or self.request.loop or self.end_image):
            raise ValueError("endless = True: has no length and no end; leave out length, loop and end_image")
        return self

    @property
    def open_ended(self) -> bool:
        """Whether nothing in it says how long the film is to be, or that it is not to be endless.

        A film that meets its own beginning or ends with a picture has an end.
        """
        has_end = self.request.length is not None or self.request.loop or self.end_image
        return not has_end and "endless" not in self.model_fields_set

    @property
    def uploads(self) -> set[str]:
        """All that it needs."""
        named = (self.image, self.end_image, self.follows, *self.keyframes.values())
        return {upload for upload in named if upload}

    def whole(self, place: Mapping[str, Path]) -> VideoRequest:
        """The request with its pictures, from where each upload lies.

        Raises:
            RequestError: they do not go together with the rest.
        """
        given: dict[str, Any] = self.request.model_dump(exclude_unset=True)
        if self.image:
            given["image"] = place[self.image]
        if self.end_image:
            given["end_image"] = place[self.end_image]
        if self.keyframes:
            given["keyframes"] = {frame: place[upload] for frame, upload in self.keyframes.items()}
        return make_request(**given)


def piece_frames(request: VideoRequest) -> int:
    """How many frames the next piece of an endless film has: all that is told of, and 20 seconds."""
    return max(request.story, default=0) + PIECE_SECONDS * request.fps


def make_order(**values: Any) -> Order:  # noqa: ANN401 -- whatever a body, a tool or a form holds
    """A checked order from flat values: fields of `Order` beside those of `VideoRequest` without pictures.

    Raises:
        RequestError: with one line for the first thing that is wrong.
    """
    given = {name: values.pop(name) for name in REQUEST_FIELDS if values.get(name) is not None}
    for name in REQUEST_FIELDS:
        values.pop(name, None)
    values = {name: value for name, value in values.items() if value is not None}
    return checked(Order, {"request": make_request(**given), **values}, RequestError)
