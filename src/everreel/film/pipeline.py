"""From a request to finished blocks of frames: the engine's front door.

Source: the whole of the released `pipelines/`, as one class. The one invariant: `stream` is the primitive. It holds one
window of latents and one block of frames, whatever the film's length; a whole film is what is left when its blocks have
been written to a file.
"""

from __future__ import annotations

import atexit
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from everreel.checkpoint.catalog import ModelCard
from everreel.checkpoint.load import check_parts, load_image_encoder, load_text_encoder, load_transformer, load_vae
from everreel.checkpoint.lora import merge
from everreel.checkpoint.offload import offload
from everreel.checkpoint.quantize import quantize
from everreel.checkpoint.source import Source
from everreel.diffusion.conditioning import FPS_INDEX, Conditioning
from everreel.diffusion.denoiser import Branch, Denoiser, Guidance
from everreel.diffusion.noise import draw_noise
from everreel.diffusion.rollout import Glimpse, LatentBlock, RolloutState, rollout
from everreel.diffusion.solver import solver_for
from everreel.diffusion.step_cache import StepCache
from everreel.film.anchor import ColorAnchor
from everreel.film.budget import fits_as_batch, fitted, placed
from everreel.film.control import Control
from everreel.film.decoding import FrameDecoder, at_work, latents_at_once, preview_of
from everreel.film.given import encode_frames, encode_pictures, read_pictures
from everreel.film.image_to_video import image_beginning
from everreel.film.journal import journal_path
from everreel.film.loading import ModelOptions, model_options
from everreel.film.placement import Placement
from everreel.film.plan import Plan, make_plan, opening_of
from everreel.film.prompts import check_tokens
from everreel.film.request import VideoRequest
from everreel.film.state import NOTHING, Beginning, Block, FilmState
from everreel.media import Pixels, Video
from everreel.model.backends import Attention
from everreel.model.compile import compile_blocks
from everreel.model.dit import Context, DiT
from everreel.model.image_encoder import ImageEncoder
from everreel.model.text_encoder import TextEncoder, Tokenizer
from everreel.model.vae import CausalVAE
from everreel.parallel.crew import Crew
from everreel.parallel.shared import SharedDiT


@dataclass(frozen=True)
class Progress:
    """How far a film is, in rows of its schedule and in seconds."""

    row: int
    num_rows: int
    plan: Plan
    elapsed: float
    block: int
    """The piece of the film that is finished next, counted from 1, and the step of its frames that is done."""
    step: int
    first_row: int = 0
    """Rows that were done before this run."""
    preview: Callable[[], Pixels] = lambda: NOTHING
    """Decodes what is finished next, (T, H, W, 3) uint8, as clear as it can be guessed now. It takes as long as
    decoding it; call it before the next row begins."""

    @property
    def remaining(self) -> float:
        """Seconds left if the rest goes as what is done has gone."""
        return self.elapsed / (self.row - self.first_row) * (self.num_rows - self.row)


class _Watch:
    """What happens between two rows: whoever wants to know is told, and whoever wants to stop is heard."""

    def __init__(
        self,
        plan: Plan,
        state: FilmState | None,
        preview: Callable[[Glimpse], Pixels],
        on_progress: Callable[[Progress], None] | None,
        control: Control | None,
    ) -> None:
        self._plan, self._preview, self._on_progress, self._control = plan, preview, on_progress, control
        self._first, self._started = state.rollout.row if state else 0, time.monotonic()
        self._finished = sum(bool(plan.schedule[row].finished) for row in range(self._first))

    def __call__(self, glimpse: Glimpse) -> None:
        if self._on_progress is not None:
            elapsed = time.monotonic() - self._started
            rows, row = len(self._plan.schedule), self._plan.schedule[glimpse.row]
            step = 1 + max((row.levels[frame] for frame in glimpse.moved), default=0)
            front = tuple(frame for frame in glimpse.moved if row.levels[frame] == step - 1)
            preview = partial(self._preview, replace(glimpse, moved=front))
            self._on_progress(
                Progress(glimpse.row + 1, rows, self._plan, elapsed, self._finished + 1, step, self._first, preview)
            )
            self._finished += bool(row.finished)
        if self._control is not None:
            self._started += self._control.check()


class VideoPipeline:
    """A model and everything around it.

    Args:
        card: what the model is and recommends.
        transformer, vae, text_encoder, tokenizer: its parts, on one device.
        image_encoder: for a card that says `image`.
        placement: where its parts are and how they compute; by default where they are, as it comes.
        options: what it was loaded with.
    """

    def __init__(
        self,
        card: ModelCard,
        transformer: DiT | SharedDiT,
        vae: CausalVAE,
        text_encoder: TextEncoder,
        tokenizer: Tokenizer,
        image_encoder: ImageEncoder | None = None,
        placement: Placement | None = None,
        options: ModelOptions | None = None,
    ) -> None:
        self.card = card
        self.placement = placement
        self.options = options
        self.notes: tuple[str, ...] = ()
        """What its user should know of how it was loaded."""
        self.transformer = transformer.eval()
        self.vae = vae.eval()
        self.text_encoder = text_encoder.eval()
        self.tokenizer = tokenizer
        self.image_encoder = None if image_encoder is None else image_encoder.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "tiny",
        *,
        dtype: torch.dtype | str | None = None,
        placement: Placement | None = None,
        crew: Crew | None = None,
        **options: Any,  # noqa: ANN401 -- the fields of ModelOptions
    ) -> Self:
        """Load a model by name or from a path; options are those of `ModelOptions`, the rest is as for `load`.

        Raises:
            ValueError: the model is unknown, cannot be used, an option is wrong, or a file is not as it must be.
        """
        if placement is not None:
            options, dtype = {**options, "device": str(placement.device)}, placement.dtype
        named = None if dtype is None else str(dtype).removeprefix("torch.")
        return cls.load(model_options(model=str(name_or_path), dtype=named, **options), placement, crew)

    @classmethod
    def load(cls, options: ModelOptions, place: Placement | Plan | None = None, crew: Crew | None = None) -> Self:
        """Load a model as its options say; raises as `from_pretrained`.

        Args:
            place: where its parts go, or the plan of the film that they are placed for; by default one of the length
                and size that suit the model.
            crew: processes that share the transformer, each on its own device; the rest is in this one alone.
        """
        options, card = options.resolve(crew), options.card()
        placement = place if isinstance(place, Placement) else placed(options, card, place)
        source, device, dtype = options.source(card), placement.device, placement.dtype
        chosen = {"quantization": placement.quantization, "dtype": str(dtype).removeprefix("torch.")}
        options = options.model_copy(update=chosen)  # films go on as they began
        notes = [] if placement is place else fitted(placement, options)
        notes += [*source.strays, *options.notes(source.config)]  # what is wrong is said before anything large is read
        tokenizer = check_parts(source, image=card.image)
        load = partial(_transformer, options, source, placement)
        home = torch.device("cpu") if placement.parked else device
        pipe = cls(
            card,
            load(device) if crew is None else SharedDiT(crew, load),
            load_vae(source, home, dtype),
            load_text_encoder(source, torch.device("cpu") if placement.text_on_host else home, dtype),
            tokenizer,
            load_image_encoder(source, home, dtype) if card.image else None,
            placement,
            options,
        )
        pipe.notes = tuple(notes)
        return pipe

    def __call__(
        self,
        request: VideoRequest,
        *,
        output: str | Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        control: Control | None = None,
    ) -> Video:
        """Make the whole film. Its frames lie in a file (a temporary one without `output`) and are read lazily.

        Beside `output` lies the film's journal: `everreel.resume` goes on with what was stopped.

        Raises:
            RequestError: as from `stream`.
            CancelledError: `control` said so; the finished blocks stay on disk.
        """
        from everreel.film import making

        where = Path(output) if output is not None else _temporary()
        loop = request.loop  # its opening takes minutes, and can be lost like all else
        journal = making.unopened(self, request) if loop else making.begin(self, request, control, on_progress)
        with journal.open_film(where) as writer:
            making.write(self, journal, writer, on_progress, control=control)
        return Video(where)

    @torch.no_grad()
    def stream(
        self,
        request: VideoRequest,
        *,
        beginning: Beginning | None = None,
        state: FilmState | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        control: Control | None = None,
    ) -> Iterator[Block]:
        """Yield the film's blocks as they finish.

        Args:
            beginning: what is known of the film; by default what `begin` says of the request.
            state: of the last block that is there already; the film goes on behind it.
            control: to pause and to cancel it.

        Raises:
            RequestError: the prompt is longer than the model reads, the request cannot be cut as asked, or a picture
                cannot be used.
            CancelledError: `control` said so.
        """
        beginning = beginning or self.begin(request, control, on_progress)
        plan = make_plan(request, self.card, beginning.history, len(beginning.spare))
        branches = self._branches(plan, state, beginning.image_tokens)
        preview = partial(preview_of, vae=self.vae, **self._decoding)
        watch = _Watch(plan, state, preview, on_progress, control)
        return self._stream(plan, branches, beginning, state, watch)

    @torch.no_grad()
    def begin(
        self,
        request: VideoRequest,
        control: Control | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Beginning:
        """What is known before a film is made: its pictures, encoded, and the opening of one that meets its beginning.

        `on_progress` is told of the opening's rows, which are counted by themselves.

        Raises:
            RequestError: a picture cannot be used, or the model has none of what is asked.
            CancelledError: `control` said so.
        """
        plan = make_plan(request, self.card)
        pictures, ring = read_pictures(plan.request), plan.ring
        if self.image_encoder is not None:
            with at_work(self.vae, self.parks), at_work(self.image_encoder, self.parks):
                return image_beginning(pictures[0].pixels_HWC, plan.shape.frames, self.vae, self.image_encoder)
        with at_work(self.vae, self.parks):
            known = encode_pictures(pictures, self.vae)
        if ring is None:
            return Beginning(known)
        opening = Beginning({frame: latent for frame, latent in known.items() if frame < ring.opening})
        blocks = list(self.stream(opening_of(plan), beginning=opening, on_progress=on_progress, control=control))
        assert blocks[-1].state is not None
        latents_CTHW = blocks[-1].state.rollout.solver.latents[0]
        shown = np.concatenate([block.frames for block in blocks])
        # The first of a stream is a latent of another kind, so the frame before them is encoded with them.
        met_THWC = shown[ring.met.start - 1 : ring.met.stop]
        known |= dict(enumerate(latents_CTHW.unbind(1)))
        with at_work(self.vae, self.parks):
            known[ring.num_latents - 1] = encode_frames(met_THWC, self.vae)[:, -1]
        return Beginning(known)

    @torch.no_grad()  # on the generator itself: what `stream` returns runs only when it is asked for its next block
    def _stream(
        self,
        plan: Plan,
        branches: list[Branch],
        beginning: Beginning,
        state: FilmState | None,
        watch: _Watch,
    ) -> Iterator[Block]:
        request, shape = plan.request, plan.shape
        assert request.num_inference_steps and request.shift and request.guidance_scale and request.num_frames
        device = self.device
        known = {frame: latent.to(device) for frame, latent in beginning.known.items()}
        caches = [branch.cache for branch in branches if branch.cache is not None]
        if state is not None:
            for cache, held in zip(caches, state.caches, strict=True):
                cache.load(held)
        level = 1.0 if request.guidance_level is None else request.guidance_level
        skip = request.skip_layer_guidance_scale, request.skip_guidance_layers or ()
        guidance = Guidance(request.guidance_scale, level, request.guidance_until or 0.0, *skip)
        denoiser = Denoiser(
            self.transformer,
            branches,
            guidance,
            fps_index=FPS_INDEX[request.fps],
            causal=plan.remembers,
            step_cache=StepCache(request.step_cache) if request.step_cache else None,
        )
        solver = solver_for(self.card.solver, request.num_inference_steps, request.shift)
        decoder = FrameDecoder(self.vae, plan.join, plan.overlap, request.blend_overlap, **self._decoding)
        anchor = ColorAnchor(request.anchor_color or 0, plan.turns)
        anchor.reference = beginning.anchor if state is None else state.anchor
        if state is not None:
            decoder.state, decoder.tail, decoder.held = state.decoder, state.tail, state.held
        elif beginning.history:
            decoder.look_back(torch.stack([known[frame] for frame in range(beginning.history)], dim=1))
        size = (self.vae.config.z_dim, shape.height, shape.width)
        blocks = rollout(
            plan.schedule,
            denoiser,
            solver,
            Conditioning(
                known,
                (request.addnoise_condition or 0) / 1000,
                request.seed,
                beginning.offset,
                decoder.join,
                anchor if request.anchor_color and (plan.is_long or beginning.anchor is not None) else None,
                beginning.channels,
            ),
            lambda frame: draw_noise(request.seed, "start", frame + beginning.offset, 0, size).to(device),
            state=state.rollout if state else None,
            on_row=watch,
        )

        def stands(now: RolloutState, num_frames: int, spare: Pixels, num_made: int) -> FilmState:
            held = tuple(cache.save() for cache in caches)
            past = decoder.state, decoder.tail
            return FilmState(now, held, *past, num_frames, spare, num_made, decoder.held, anchor.reference)

        yield from self._decode(blocks, plan, beginning, state, decoder, stands)

    def _decode(
        self,
        blocks: Iterator[LatentBlock],
        plan: Plan,
        beginning: Beginning,
        state: FilmState | None,
        decoder: FrameDecoder,
        stands: Callable[[RolloutState, int, Pixels, int], FilmState],
    ) -> Iterator[Block]:
        """Latents to frames, a few at a time, cut to the length asked for."""
        num_frames, hidden = plan.request.num_frames, plan.request.hidden
        assert num_frames
        at_once = latents_at_once(plan.shape.pixel_height, plan.shape.pixel_width)
        at_once = (self.placement and self.placement.decode_latents) or at_once
        start, left = state.num_frames if state else 0, NOTHING
        num_made = state.num_made if state else 0
        if state is None and len(beginning.spare):
            shown, left = np.split(beginning.spare, [num_frames])
            yield Block(0, shown)
            start = len(shown)
        for block in blocks:
            seen = max(beginning.history - block.start, 0)
            made, spare = Block(start, NOTHING), NOTHING
            pieces = torch.split(block.latents_CTHW[:, seen:], at_once, dim=1)
            last = block.start + block.latents_CTHW.shape[1] == plan.schedule.num_frames
            for number, piece in enumerate(pieces, 1):
                if len(made.frames):
                    yield made
                frames = decoder(piece)
                if last and number == len(pieces) and decoder.held is not None:
                    frames = np.concatenate([frames, decoder.flush()])
                unseen = [at - num_made for at in hidden if 0 <= at - num_made < len(frames)]
                num_made += len(frames)
                if unseen:  # else nothing needs to be copied
                    frames = np.delete(frames, unseen, axis=0)
                frames, spare = np.split(frames, [num_frames - start])
                made = Block(start, frames)
                start += len(frames)
            spare = np.concatenate([left, spare]) if len(left) else spare
            row = block.state.row
            if row < len(plan.schedule) and plan.schedule[row].joined:
                decoder.end_window()
            yield Block(made.start, made.frames, stands(block.state, start, spare, num_made))

    def _branches(self, plan: Plan, state: FilmState | None, image_BND: Tensor | None = None) -> list[Branch]:
        """Texts of one branch with two rows, of two with one where memory is short, or of one without guidance."""
        request = plan.request
        tokens = plan.schedule.longest_window * plan.shape.tokens_per_frame
        # A film that is taken up goes on as it began, whatever memory is free now.
        fits = self.placement.together if self.placement else None
        fits = fits_as_batch(tokens, self.transformer, self._parts) if fits is None else fits
        apart = bool(request.skip_layer_guidance_scale)  # the pass without layers looks back with the conditional row
        together = not apart and (len(state.caches) == 1 if state and state.caches else fits)
        story = zip(plan.turns, request.story.items(), strict=True)
        parts = [("prompt", 0, request.prompt), *((f"story[{frame}]", turn, told) for turn, (frame, told) in story)]
        guided = request.guidance_scale != 1.0
        on_host = self.placement is not None and self.placement.text_on_host
        with at_work(self.text_encoder, None if on_host else self.parks):  # once for all of them: it is large
            rows = [self._embedding(field, prompt) for field, _, prompt in parts]
            other = [self._embedding("negative_prompt", request.negative_prompt or "")] if guided else []
        told = [
            (latent, self._contexts(plan, [row, *other], together, image_BND))
            for (_, latent, _), row in zip(parts, rows, strict=True)
        ]
        branches = [
            Branch(
                first,
                self.transformer.new_cache(plan.context + plan.sink, plan.sink) if plan.remembers else None,
                [(at, texts[i]) for at, texts in told[1:]],
            )
            for i, first in enumerate(told[0][1])
        ]
        if together and len(branches) == 2:
            branches[0].alone = branches.pop()
        return branches

    def _contexts(
        self, plan: Plan, rows: list[tuple[Tensor, int]], together: bool, image_BND: Tensor | None = None
    ) -> list[Context]:
        """The contexts of one prompt and the negative one, one a branch; both branches read the same picture.

        Of both rows together the conditional one may come once more, for passes without guidance.
        """
        request = plan.request
        if len(rows) == 2 and together:
            longest = max(length for _, length in rows)
            padded = [nn.functional.pad(text, (0, 0, 0, longest - length)) for text, length in rows]
            image = None if image_BND is None else image_BND.expand(2, -1, -1)
            both = self.transformer.encode_context(torch.cat(padded), [length for _, length in rows], image)
            sometimes = request.guidance_level not in (None, 1) or bool(request.guidance_until)
            rows = rows[:1] if sometimes and not plan.remembers else []
            return [both, *(self.transformer.encode_context(text, [length], image_BND) for text, length in rows)]
        return [self.transformer.encode_context(text, [length], image_BND) for text, length in rows]

    def _embedding(self, field: str, prompt: str) -> tuple[Tensor, int]:
        tokens = self.tokenizer([prompt])
        length = check_tokens(field, tokens, self.transformer.config.text_len)
        where = next(self.text_encoder.parameters()).device
        embedding = self.text_encoder(tokens.ids.to(where), tokens.mask.to(where))
        return embedding[:, :length].to(self.device), length

    @property
    def _decoding(self) -> dict[str, Any]:
        """In which pieces and where frames are decoded."""
        if self.placement is None:
            return {}
        return {"tile": self.placement.tile, "at_once": self.placement.decode_latents, "device": self.parks}

    @property
    def parks(self) -> torch.device | None:
        """Where encoders and VAE have to be brought to work; None: they are there."""
        return self.device if self.placement is not None and self.placement.parked else None

    @property
    def _parts(self) -> list[nn.Module]:
        """All that has weights."""
        parts = (self.transformer, self.vae, self.text_encoder, self.image_encoder)
        return [part for part in parts if part is not None]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.transformer.parameters()).device


def _transformer(options: ModelOptions, source: Source, placement: Placement, device: torch.device) -> DiT:
    """As options and placement say; every process that shares it calls this for its own device."""
    loras = options.loras(source.config)
    plain = placement.quantization is None
    stays = placement.packed and plain and not loras  # what a file holds quantised can be neither's
    # What the device has no room for is never there: neither blocks that stream nor weights that are quantised first.
    home = device if plain and placement.resident is None else torch.device("cpu")
    # What is quantised is taken from the mapped file block by block; all of it in another type may be too much.
    mapped = placement.quantization is not None and not loras and source.transformer.is_mapped
    transformer = load_transformer(source, home, None if mapped else placement.dtype, keep_packed=stays)
    merge(transformer, loras, keep=False)
    if placement.quantization is not None:
        quantize(transformer, placement.quantization, device, placement.dtype)
    if placement.resident is not None:
        offload(transformer, device, placement.resident)
    else:
        transformer.to(device)
    transformer.attention = Attention(options.attention)
    return compile_blocks(transformer) if options.compile else transformer


def _temporary() -> Path:
    with tempfile.NamedTemporaryFile(prefix="everreel-", suffix=".mp4", delete=False) as file:
        path = Path(file.name)
    for file_of_it in (path, journal_path(path)):  # its frames are read as long as the program runs
        atexit.register(file_of_it.unlink, missing_ok=True)
    return path
