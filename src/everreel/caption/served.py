"""Captions by a model that is served: any chat model that is shown pictures, at any OpenAI-compatible endpoint.

The frames are those that the released captioner sees, as JPEG pictures in the question. The one invariant: what comes
back is a caption of the schema, whatever the other side promises: its answer is read as if nothing had been promised,
it is told what was wrong, and in the end asked in words alone.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any

from PIL import Image

from everreel.answers import ChatError, Message, UnreachableError, in_words, with_words
from everreel.caption.frames import FrameRule, frames_at, scaled, spread
from everreel.caption.schema import StructuralCaption, caption_schema, parse_caption
from everreel.caption.wording import INSTRUCTION
from everreel.chat import ChatModel
from everreel.media import FrameSource, Pixels

TEMPERATURE, MAX_TOKENS, TRIES = 0.05, 2048, 3
_QUALITY = 90
_MOST_SAID_AGAIN = 2000  # characters of a wrong answer that it is reminded of


class ServedCaptioner:
    """Asks a chat model that sees for structured captions.

    Args:
        name: what it is called where an answer cannot be used.
        tries: how many answers it may give for one film.
        rule: how frames are shown; of a film of few frames each is shown once.
    """

    def __init__(
        self, chat: ChatModel, name: str = "chat", *, tries: int = TRIES, rule: FrameRule | None = None
    ) -> None:
        if tries < 1:
            raise ValueError(f"tries = {tries}: must be 1 or more; the nearest that works is 1")
        self.chat, self.name, self.tries, self.rule = chat, name, tries, rule or FrameRule()

    def caption(self, frames: FrameSource, fps: float) -> StructuralCaption:
        """See `Captioner`; of frames that lie in a file, only those that are shown are read.

        Raises:
            ValueError: the film has no frames, or no answer was a caption; of it `UnreachableError`: there is nobody to
                ask.
        """
        asked, schema = self._question(frames, fps), caption_schema()
        # First held to the schema. Whoever fails at that, or answers otherwise all the same, is told it in words.
        messages, held, problem = [asked], True, ""
        for _ in range(self.tries):
            try:
                answer = self.chat.answer(
                    messages, schema=schema if held else None, max_tokens=MAX_TOKENS, temperature=TEMPERATURE
                )
                return parse_caption(answer)
            except UnreachableError:
                raise
            except ChatError as error:
                problem = str(error)
                if not held:
                    break
                messages = [with_words([asked], in_words(schema))[0]]
            except ValueError as error:
                problem = str(error)
                again = f"That cannot be used: {problem}. {in_words(schema)}"
                said = {"role": "assistant", "content": answer[:_MOST_SAID_AGAIN]}
                messages = [asked, said, {"role": "user", "content": again}]
            held = False
        raise ValueError(f"captioner = {self.name}: gave no caption; {problem}")

    def _question(self, frames: FrameSource, fps: float) -> Message:
        """The film as pictures, and what is asked of it."""
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps = {fps}: must be above 0; 24 works")
        shown = list(dict.fromkeys(spread(len(frames), self.rule.num_frames)))
        pictures = scaled(frames_at(frames, shown), self.rule)
        what = f"a video of {len(frames) / fps:.1f} seconds, {len(shown)} frames in their order:"
        parts: list[dict[str, Any]] = [{"type": "text", "text": f"These are pictures of {what}"}]
        parts += [{"type": "image_url", "image_url": {"url": data_uri(picture)}} for picture in pictures]
        return {"role": "user", "content": [*parts, {"type": "text", "text": INSTRUCTION}]}


def data_uri(picture_HWC: Pixels) -> str:
    """A picture as the address that holds it, in JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC).save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
