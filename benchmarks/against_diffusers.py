"""everreel and diffusers side by side: the same weights, the same steps, the same machine, one run, on the CPU.

Each side does what it does in its own pipeline: diffusers attends to 512 text positions and computes their keys and
values at every step, everreel folds the padding and computes them once a film. Each is timed in the faster of float32
and bfloat16, and diffusers in the faster of one batch of both rows of guidance and, as in its pipeline, two calls.
The one invariant: what is timed was seen to agree, in float32, before it is timed.

Shape suffixes: B batch, C channels, T latent frames, H W height and width, S text positions, D text width.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import (
    PROMPT,
    Comparison,
    Form,
    Options,
    Times,
    best_form,
    compare,
    elapsed,
    relative_error,
    say,
)
from everreel.checkpoint.catalog import ModelCard, find_model
from everreel.checkpoint.load import load_text_encoder, load_tokenizer, load_transformer, load_vae
from everreel.diffusion.conditioning import FPS_INDEX
from everreel.diffusion.denoiser import Branch, Denoiser, Guidance
from everreel.film.pipeline import VideoPipeline
from everreel.film.plan import make_plan
from everreel.film.request import VideoRequest, make_request
from everreel.memory import keep_freed_memory
from everreel.shapes import latent_frames

STEP_GOAL, DECODE_GOAL, FILM_GOAL, ASYNCHRONOUS_GOAL = 2.0, 3.0, 2.5, 2.5
AR_STEP, BLOCK = 5, 5  # of the asynchronous film: rows between two blocks, latent frames of a block
FILM_SECONDS_GOAL = 8.0  # with 30 steps and guidance, a model of 10 M at 96 × 160, on two cores, once loaded
AGREEMENT = 1e-3
TEXT_POSITIONS = 512  # what diffusers' pipeline pads a prompt to
TIMESTEP = 500
TRIES = 3
Loader = Callable[..., Any]  # diffusers has no types
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """What is made, and how often."""

    model: str = "tiny"
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    repeats: int = 9
    film_repeats: int = 3

    def request(self, card: ModelCard) -> VideoRequest:
        """The film, with what was left open as the model recommends."""
        names = ("num_frames", "height", "width", "num_inference_steps")
        values = {name: getattr(self, name) for name in names}
        as_diffusers = {"guidance_level": 1, "guidance_until": 0}
        return make_request(prompt=PROMPT, **as_diffusers, **values).resolve(card)


@dataclass(frozen=True)
class Result:
    """The comparisons, and what they were of."""

    film_of: str
    step: Comparison
    decode: Comparison
    film: Comparison
    recommended: Times
    """The same film with guidance where the model recommends it, which diffusers has not."""
    asynchronous_of: str
    asynchronous: Comparison | None
    """The same film in blocks with block-causal attention; none where it is one block."""


def run(setting: Setting) -> Result:
    """Compare; takes a few minutes with the embedded model.

    Raises:
        ValueError: the model is not on this machine, or the two sides do not compute the same.
    """
    quiet_diffusers()
    card = find_model(setting.model)
    plan = make_plan(setting.request(card), card)
    if plan.mode != "synchronous":
        raise ValueError(f"num_frames = {plan.request.num_frames}: must fit the model's window of {card.num_frames}")
    bench = _Bench(card, plan.request)
    with torch.no_grad():
        ours, theirs = bench.step_forms_ours(), bench.step_forms_theirs()
        step, dtypes = _duel(
            "a step of the transformer, two rows of guidance", STEP_GOAL, ours, theirs, setting.repeats
        )
        ours, theirs = bench.decode_forms_ours(), bench.decode_forms_theirs()
        decode, vae_dtypes = _duel("decoding the film's latents", DECODE_GOAL, ours, theirs, setting.repeats)
        chosen = dtypes[0], vae_dtypes[0], dtypes[1], vae_dtypes[1]
        film = bench.films("the film, end to end, once loaded", FILM_GOAL, plan.request, chosen, setting.film_repeats)
        recommended = bench.recommended(plan.request, chosen[:2], setting.film_repeats)
        blocks, said, found = in_blocks(plan.request, card), "", None
        if blocks is not None:
            said = make_plan(blocks, card).describe()
            found = bench.films(
                "the same asynchronously, in blocks", ASYNCHRONOUS_GOAL, blocks, chosen, setting.film_repeats
            )
    return Result(plan.describe(), step, decode, film, recommended, said, found)


def in_blocks(request: VideoRequest, card: ModelCard) -> VideoRequest | None:
    """The asynchronous film, with the cache of a model that has learnt it; none where it does not divide into blocks,
    for diffusers leaves out what is over.
    """
    frames = latent_frames(request.num_frames or 1)
    if not card.causal or frames % BLOCK or frames == BLOCK:
        return None
    return request.model_copy(update={"ar_step": AR_STEP, "causal_block_size": BLOCK, "cache": True})


def _duel(
    what: str, goal: float, ours: Sequence[Form], theirs: Sequence[Form], repeats: int
) -> tuple[Comparison, tuple[torch.dtype, torch.dtype]]:
    """See that both sides agree, choose the best form of each, time them; and the types that were chosen."""
    error = relative_error(ours[0].run(), theirs[0].run())
    if not error < AGREEMENT:
        raise ValueError(f"{what}: everreel and diffusers differ by {error:.2g} in float32: must be below {AGREEMENT}")
    say(f"{what}: the two sides agree within {error:.1g} in float32")
    best = (best_form("everreel", ours, TRIES), best_form("diffusers", theirs, TRIES))
    return compare(what, goal, *best, repeats), (best[0].dtype, best[1].dtype)


class _Bench:
    """The work, as both sides do it."""

    def __init__(self, card: ModelCard, request: VideoRequest) -> None:
        self.card, self.request = card, request
        self.folder = card.require_path()
        self.plan = make_plan(request, card)
        assert request.guidance_scale is not None and request.guidance_scale > 1
        self.guidance_scale = request.guidance_scale
        shape = self.plan.shape
        generator = torch.Generator().manual_seed(0)
        self.latents_CTHW = torch.randn(16, shape.frames, shape.height, shape.width, generator=generator)
        self.timestep_T = torch.full((shape.frames,), TIMESTEP)
        encoder, tokenizer = load_text_encoder(self.folder), load_tokenizer(self.folder)
        self.texts_BSD: list[Tensor] = []
        with torch.no_grad():
            for prompt in (request.prompt, request.negative_prompt or ""):
                tokens = tokenizer([prompt])
                self.texts_BSD.append(encoder(tokens.ids, tokens.mask)[:, : int(tokens.mask.sum())])

    def step_forms_ours(self) -> list[Form]:
        """The denoiser on one branch of two rows; the context is there before, as it is made once a film."""
        lengths = [text_BSD.shape[1] for text_BSD in self.texts_BSD]
        text_BSD = self._padded(max(lengths))
        forms = []
        for name, dtype in DTYPES.items():
            transformer = load_transformer(self.folder, dtype=dtype)
            context = transformer.encode_context(text_BSD, lengths)
            denoiser = Denoiser(
                transformer, [Branch(context)], Guidance(self.guidance_scale), fps_index=FPS_INDEX[self.request.fps]
            )
            blocks = (self.plan.shape.frames,)
            forms.append(Form(name, dtype, partial(denoiser, self.latents_CTHW, self.timestep_T, blocks)))
        return forms

    def step_forms_theirs(self) -> list[Form]:
        """Its transformer with 512 text positions, both rows at once or one after the other, then guidance."""
        import diffusers

        text_BSD = self._padded(TEXT_POSITIONS)
        forms = []
        for name, dtype in DTYPES.items():
            folder = self.folder / "transformer"
            load: Loader = diffusers.SkyReelsV2Transformer3DModel.from_pretrained
            step = partial(self._step_of_theirs, load(folder, dtype=dtype).eval(), text_BSD.to(dtype))
            for rows, how in ((2, "one batch"), (1, "two calls")):
                forms.append(Form(f"{name}, {how}", dtype, partial(step, rows)))
        return forms

    def decode_forms_ours(self) -> list[Form]:
        """Normalised latents to pixels."""
        vaes = {dtype: load_vae(self.folder, dtype=dtype) for dtype in DTYPES.values()}
        latents_BCTHW = self.latents_CTHW[None]
        return [Form(name, d, partial(vaes[d].decode, latents_BCTHW.to(d))) for name, d in DTYPES.items()]

    def decode_forms_theirs(self) -> list[Form]:
        """The same latents, on the scale its VAE takes."""
        import diffusers

        forms = []
        for name, dtype in DTYPES.items():
            load: Loader = diffusers.AutoencoderKLWan.from_pretrained
            vae = load(self.folder / "vae", dtype=dtype).eval()
            mean, std = (
                torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std)
            )
            z_BCTHW = (self.latents_CTHW[None] * std + mean).to(dtype)
            forms.append(Form(name, dtype, partial(_decode_of_theirs, vae, z_BCTHW)))
        return forms

    def films(
        self,
        what: str,
        goal: float,
        request: VideoRequest,
        dtypes: tuple[torch.dtype, torch.dtype, torch.dtype, torch.dtype],
        repeats: int,
    ) -> Comparison:
        """One film by both sides; `dtypes` are those of our transformer and VAE, and of theirs."""
        forms = self.film_ours(request, *dtypes[:2]), self.film_theirs(request, *dtypes[2:])
        for form in forms:
            say(f"{what}, once to warm up: {form.label}")
            form.run()
        return compare(what, goal, *forms, repeats)

    def recommended(self, request: VideoRequest, dtypes: tuple[torch.dtype, torch.dtype], repeats: int) -> Times:
        """The film with guidance between the levels that the model recommends."""
        level, until = self.card.guidance_level, self.card.guidance_until
        asked = request.model_copy(update={"guidance_level": level, "guidance_until": until})
        form = self.film_ours(asked, *dtypes)
        form.run()
        seconds = tuple(elapsed(form.run) for _ in range(repeats))
        say(f"the film as the model recommends it: {min(seconds):.3g} s")
        return Times(f"{form.label}, guidance from level {level:g} down to {until:g}", seconds)

    def film_ours(self, request: VideoRequest, dtype: torch.dtype, vae_dtype: torch.dtype) -> Form:
        """From the prompt to uint8 frames, through `VideoPipeline.stream`."""
        pipe = VideoPipeline(
            self.card,
            load_transformer(self.folder, dtype=dtype),
            load_vae(self.folder, dtype=vae_dtype),
            load_text_encoder(self.folder, dtype=dtype),
            load_tokenizer(self.folder),
        )

        def film() -> Tensor:
            return torch.from_numpy(np.concatenate([block.frames for block in pipe.stream(request)]))

        return Form(_label(dtype, vae_dtype), dtype, self._checked(film))

    def film_theirs(self, request: VideoRequest, dtype: torch.dtype, vae_dtype: torch.dtype) -> Form:
        """From the prompt to uint8 frames, through its pipeline, without its progress bar."""
        import diffusers

        kinds = {"vae": vae_dtype, "default": dtype}
        load: Loader = diffusers.SkyReelsV2DiffusionForcingPipeline.from_pretrained
        pipe = load(self.folder, dtype=kinds)
        pipe.set_progress_bar_config(disable=True)
        names = ("prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "fps")
        values = {name: getattr(request, name) for name in names}

        def film() -> Tensor:
            frames_THWC = pipe(
                **values,
                guidance_scale=self.guidance_scale,
                base_num_frames=request.num_frames,
                ar_step=request.ar_step,
                causal_block_size=request.causal_block_size,
                generator=torch.Generator().manual_seed(request.seed),
                output_type="np",
            ).frames[0]
            return torch.from_numpy((frames_THWC * 255).round().astype(np.uint8))

        return Form(_label(dtype, vae_dtype), dtype, self._checked(film))

    def _checked(self, film: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`film`, seen to be of the length and size that were asked for."""
        request = self.request

        def checked() -> Tensor:
            frames_THWC: Tensor = film()
            assert frames_THWC.shape == (request.num_frames, request.height, request.width, 3), frames_THWC.shape
            assert frames_THWC.dtype == torch.uint8
            return frames_THWC

        return checked

    def _step_of_theirs(self, transformer: Any, text_BSD: Tensor, rows: int) -> Tensor:  # noqa: ANN401 -- diffusers'
        x_BCTHW = self.latents_CTHW[None].to(text_BSD.dtype).expand(rows, -1, -1, -1, -1)
        velocities = [
            transformer(
                x_BCTHW,
                self.timestep_T[None].expand(rows, -1),
                text_BSD[start : start + rows],
                fps=[FPS_INDEX[self.request.fps]],  # one for all rows; one each it cannot take
                enable_diffusion_forcing=True,
                return_dict=False,
            )[0]
            for start in range(0, 2, rows)
        ]
        conditional, unconditional = torch.cat(velocities)
        guided: Tensor = unconditional + self.guidance_scale * (conditional - unconditional)
        return guided

    def _padded(self, length: int) -> Tensor:
        """Both texts with zeros behind them."""
        return torch.cat([F.pad(text_BSD, (0, 0, 0, length - text_BSD.shape[1])) for text_BSD in self.texts_BSD])


def _decode_of_theirs(vae: Any, z_BCTHW: Tensor) -> Tensor:  # noqa: ANN401 -- diffusers has no types
    video_BCTHW: Tensor = vae.decode(z_BCTHW, return_dict=False)[0]
    return video_BCTHW


def _label(dtype: torch.dtype, vae_dtype: torch.dtype) -> str:
    name, vae_name = (str(kind).removeprefix("torch.") for kind in (dtype, vae_dtype))
    return name if name == vae_name else f"{name}, VAE {vae_name}"


def quiet_diffusers() -> None:
    """No bars and no advice among the figures."""
    import diffusers
    import transformers

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def add_options(parser: Options) -> None:
    """The flags that make a `Setting`."""
    parser.add_argument("--num-frames", type=int, help="length of the film (default: the model's)")
    parser.add_argument("--height", type=int, help="in pixels (default: the model's)")
    parser.add_argument("--width", type=int, help="in pixels (default: the model's)")
    parser.add_argument("--num-inference-steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--repeats", type=int, default=Setting.repeats, help="of the step and of the decoding")
    parser.add_argument("--film-repeats", type=int, default=Setting.film_repeats, help="of the film")


def setting_of(options: argparse.Namespace) -> Setting:
    """What the flags say."""
    names = ("model", "num_frames", "height", "width", "num_inference_steps", "repeats", "film_repeats")
    return Setting(**{name: getattr(options, name) for name in names})


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and write the section of the page to the standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_diffusers", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    add_options(parser)
    keep_freed_memory()  # as the command everreel does; both sides gain
    result = run(setting_of(parser.parse_args(arguments)))
    from benchmarks.page import against_diffusers_section

    sys.stdout.write("\n".join(against_diffusers_section(result)) + "\n")


if __name__ == "__main__":
    main()
