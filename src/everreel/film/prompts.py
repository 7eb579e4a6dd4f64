"""Whether a model reads all of a request's words.

The one invariant: a prompt is never cut silently; one that is too long is refused, and it is said by how much.
"""

from __future__ import annotations

from everreel.film.request import RequestError, VideoRequest
from everreel.model.text_encoder import Tokenizer, Tokens


def check_prompts(request: VideoRequest, tokenizer: Tokenizer) -> None:
    """Check all prompts of a resolved request, before its model is loaded.

    Raises:
        RequestError: one has more tokens than the model reads.
    """
    texts = {"prompt": request.prompt} | {f"story[{frame}]": prompt for frame, prompt in request.story.items()}
    if request.guidance_scale != 1.0:
        texts["negative_prompt"] = request.negative_prompt or ""
    for field, text in texts.items():
        check_tokens(field, tokenizer([text]), tokenizer.max_length)


def check_tokens(field: str, tokens: Tokens, limit: int) -> int:
    """How many tokens the one prompt of `tokens` has.

    Raises:
        RequestError: it has more than the model reads.
    """
    length = int(tokens.mask.sum())
    excess = max(tokens.num_dropped[0], length - limit)
    if excess > 0:
        raise RequestError(
            f"{field} = {length + tokens.num_dropped[0]} tokens: the model reads at most {limit}; "
            f"leave out about {excess} words"
        )
    return length
