"""The VAE of the embedded model: pictures first, then short clips, then the statistics of its latents.

Stages of the recipe: single frames, whose gradient leaves the taps on past frames at zero, so that the first
clip finds a network that treats each frame as a picture (`CausalVAE.inflate`); then clips. A clip may have a
splice: a latent is replaced by the second latent of one of its own frames held for five frames, which is how
a picture given in the middle of a film is encoded; its frames must then show the picture, and the frames
after it the film again. A run may start from a narrower network, widened so that it computes the same.
The one invariant: what a step trains on depends on the seed and the step alone.

Legend: B batch, C channels, T frames, H height, W width, R the clips with a splice.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everreel.checkpoint import configs, keymap
from everreel.data.clips import ClipStore, Frames, to_unit_range
from everreel.data.draws import draw_float, draw_int, generator_for
from everreel.media import contact_sheet, write_image
from everreel.model.config import VAEConfig
from everreel.model.vae import CausalVAE
from everreel.shapes import TEMPORAL
from everreel.train.trainer import Outcome, Trainer, TrainerSettings
from everreel.world.render import coverage

Shape = tuple[int, int, int]

STILL_FRAMES = 1 + TEMPORAL
FIRST_LOGVAR = -5.0  # a fresh posterior is narrow; at variance 1 the noise would drown the pictures


@dataclass(frozen=True)
class Draw:
    """One kind of batch: `count` pieces of `frames` frames, crops of `size` or whole where it is None.

    `share` weighs it against the other kinds of its stage; `splices` is the share of clips with a splice.
    """

    count: int
    frames: int = 1
    size: tuple[int, int] | None = None
    share: float = 1.0
    splices: float = 0.0

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.frames - 1) % TEMPORAL:
            nearest = 1 + TEMPORAL * max(round((self.frames - 1) / TEMPORAL), 0)
            rule = f"must be 1 + a multiple of {TEMPORAL}; the nearest that works is {nearest}"
            raise ValueError(f"frames={self.frames}: {rule}")


@dataclass(frozen=True)
class VAERecipe:
    """What is trained, on what, and what an error costs.

    A loss is the mean over its elements: absolute error, `square` times the squared error, `edges` times the
    absolute error of the differences between neighbours in x, y and time, at full and half size, and `kl`
    times the divergence of the posterior from the unit normal. At 1e-4 the last keeps the latents smooth and
    near unit size and costs no sharpness that can be seen. `latent_noise` is for a decoder of what a transformer
    makes, which is never quite what an encoder would (as in Zheng et al., arXiv 2510.11690).

    `subject_weight` is how much more the subject counts than what is around it, but no more than makes it count as much
    as its whole piece; and of two places to crop a piece at, the one that shows more of it is taken. A subject far off
    is a fiftieth of a picture, and the first thing that is lost.
    """

    settings: TrainerSettings
    stages: tuple[tuple[int, tuple[Draw, ...]], ...]  # steps and kinds of batches
    stores: tuple[str, ...] = ("runs/world/images", "runs/world/films")
    held_out: str = "runs/world/films-held-out"
    config: VAEConfig = field(default_factory=lambda: VAEConfig(base_dim=16, decoder_base_dim=16))
    init: str | None = None  # safetensors of a network as wide as this one, or narrower by a whole factor
    decoder_only: bool = False  # the encoder stays as it is, so that what it encoded before can still be decoded
    latent_noise: float = 0.0  # half of the latents get up to so much noise, in deviations of their channel
    square: float = 1.0
    edges: float = 1.0
    kl: float = 1e-4
    subject_weight: float = 0.0
    checked_clips: int = 32
    checked_frames: int = 17
    statistics_clips: int = 256
    statistics_frames: int = 33

    def __post_init__(self) -> None:
        steps = sum(steps for steps, _ in self.stages)
        if steps != self.settings.steps:
            raise ValueError(f"settings.steps={self.settings.steps}: must be {steps}, the sum of the stages")
        if not self.subject_weight >= 0:
            raise ValueError(f"subject_weight={self.subject_weight}: must be 0 or more; the nearest that works is 0")

    def draws(self, step: int) -> tuple[Draw, ...]:
        """The kinds of batches at a step."""
        for steps, draws in self.stages:
            if step < steps:
                return draws
            step -= steps
        return self.stages[-1][1]

    def objective(self) -> VAEObjective:
        """A fresh network and its data."""
        torch.manual_seed(self.settings.seed)
        vae = CausalVAE(self.config)
        with torch.no_grad():
            vae.conv1.bias[self.config.z_dim :] = FIRST_LOGVAR
        if self.init is not None:
            vae.load_state_dict(widened(self.init, vae, generator_for(self.settings.seed, "widen", 0)))
        if self.decoder_only:
            for encoding in (vae.encoder, vae.conv1):
                encoding.requires_grad_(False)
        return VAEObjective(vae, [ClipStore(path) for path in self.stores], ClipStore(self.held_out), self)

    def run(self, run_dir: Path, quiet: bool = False) -> Outcome:
        """Train, then leave `vae/` in the diffusers layout and `report.json` in the run folder."""
        objective = self.objective()
        trainer = Trainer(objective, self.settings, run_dir, quiet)
        outcome = trainer.run()
        with trainer.averaged():
            clips = _windows(objective.stores, self.statistics_clips, self.statistics_frames)
            mean, std = latent_statistics(objective.vae, clips)
            config = replace(self.config, latents_mean=mean, latents_std=std)
            save_vae(run_dir, objective.vae, config)
            report = objective.quality(self.checked_clips)
        (run_dir / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        return outcome


class VAEObjective:
    """Pieces of clips → what they look like after encoding and decoding."""

    def __init__(self, vae: CausalVAE, stores: Sequence[ClipStore], held_out: ClipStore, recipe: VAERecipe) -> None:
        self.vae, self.stores, self.held_out, self.recipe = vae, stores, held_out, recipe
        self.metrics: dict[str, float] = {}
        self._known: dict[Draw, list[tuple[Shape, list[tuple[ClipStore, int]]]]] = {}

    def modules(self) -> dict[str, nn.Module]:
        """The one role."""
        return {"vae": self.vae}

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """`video` (B, T, H, W, 3) of 0..255, for each clip the frame to splice in, 0 for none, and, where the subject
        weighs more, `subject` (B, T, H, W), how much of each pixel it covers, of 0..255.
        """
        draws = self.recipe.draws(step)
        draw = draws[_weighted([draw.share for draw in draws], generator)]
        shapes = self._shapes(draw)
        pieces, covered, shape = [], [], shapes[_weighted([len(members) for _, members in shapes], generator)]
        for _ in range(draw.count):
            if draw.size is not None:  # crops are of one size wherever they come from
                shape = shapes[_weighted([len(members) for _, members in shapes], generator)]
            store, index = shape[1][draw_int(generator, 0, len(shape[1]))]
            clip = store.clip(index)
            piece = _Piece.draw(clip.shape[:3], draw, generator)
            if self.recipe.subject_weight:
                whole = coverage(
                    store.scene(index), draw.frames, height=clip.shape[1], width=clip.shape[2], fps=store.fps(index),
                    start=store.start(index) + piece.first / store.fps(index),
                )  # fmt: skip
                other = replace(_Piece.draw(clip.shape[:3], draw, generator), first=piece.first)
                piece = max(piece, other, key=lambda one: int(one.of(whole).sum()))
                covered.append(piece.of(whole))
            pieces.append(piece.of(clip[piece.first : piece.first + draw.frames]))
        spliced = [draw.frames > 1 and draw_float(generator) < draw.splices for _ in pieces]
        stills = [draw_int(generator, 1, draw.frames) if splice else 0 for splice in spliced]
        batch = {"video": torch.from_numpy(np.stack(pieces)), "still": torch.tensor(stills)}
        return batch | ({"subject": torch.from_numpy(np.stack(covered))} if covered else {})

    def losses(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The loss of `VAERecipe`."""
        video_BCTHW = batch["video"].movedim(-1, 1).float().div_(127.5).sub_(1.0)
        mean_BCTHW, logvar_BCTHW = (part.float() for part in self.vae.encode_moments(video_BCTHW))
        z_BCTHW, target_BCTHW = _sample(mean_BCTHW, logvar_BCTHW, generator), video_BCTHW
        if bool(batch["still"].any()):
            z_BCTHW, target_BCTHW = self._spliced(z_BCTHW, video_BCTHW, batch["still"], generator)
        weight_B1THW = self._weight(batch)
        z_BCTHW = _disturbed(z_BCTHW, self.recipe.latent_noise, generator)
        error_BCTHW = self.vae.decode_raw(z_BCTHW).float() - target_BCTHW
        square = error_BCTHW.detach().square().mean()
        kl = 0.5 * (mean_BCTHW.square() + logvar_BCTHW.exp() - 1 - logvar_BCTHW).mean()
        loss = _mean(error_BCTHW.abs(), weight_B1THW) + self.recipe.square * _mean(error_BCTHW.square(), weight_B1THW)
        half, half_weight = (F.avg_pool3d(each, (1, 2, 2)) for each in (error_BCTHW, weight_B1THW))
        edges = _edges(error_BCTHW, weight_B1THW) + _edges(half, half_weight)
        loss = loss + self.recipe.kl * kl + self.recipe.edges * edges
        self.metrics = {
            "psnr": _decibels(float(square)),
            "kl": float(kl.detach()),
            "latent_size": float(mean_BCTHW.detach().square().mean().sqrt()),
            "posterior_width": float(logvar_BCTHW.detach().mul(0.5).exp().mean()),
        }
        return {"vae": loss}

    def sample(self, folder: Path, step: int) -> None:
        """Held-out frames above what becomes of them, and the figures of `quality`."""
        self.metrics = self.quality(min(8, self.recipe.checked_clips))
        pairs = []
        for video_BCTHW in _windows([self.held_out], 8, self.recipe.checked_frames):
            rebuilt_BCTHW = self._rebuilt(video_BCTHW)
            pairs.append(np.concatenate([_pixels(video_BCTHW), _pixels(rebuilt_BCTHW)], 1))
        write_image(folder / f"{step:07d}.png", contact_sheet(pairs, columns=2, frames_per_film=3))

    @torch.no_grad()
    def quality(self, count: int) -> dict[str, float]:
        """Mean peak signal-to-noise ratio, in dB, of held-out clips, single frames and splices."""
        found: dict[str, list[float]] = {"psnr_clips": [], "psnr_frames": [], "psnr_splices": []}
        for number, video_BCTHW in enumerate(_windows([self.held_out], count, self.recipe.checked_frames)):
            found["psnr_clips"].append(_psnr(self._rebuilt(video_BCTHW), video_BCTHW))
            frame_BCTHW = video_BCTHW[:, :, -1:]
            found["psnr_frames"].append(_psnr(self._rebuilt(frame_BCTHW), frame_BCTHW))
            if video_BCTHW.shape[2] > 1:
                found["psnr_splices"].append(self._splice_psnr(video_BCTHW, number))
        return {name: sum(values) / len(values) for name, values in found.items() if values}

    def _splice_psnr(self, video_BCTHW: Tensor, number: int) -> float:
        device = next(self.vae.parameters()).device
        video_BCTHW, generator = video_BCTHW.to(device), generator_for(0, "quality", number)
        still_B = torch.tensor([1 + number % (video_BCTHW.shape[2] - 1)], device=device)
        z_BCTHW = self.vae.encode_moments(video_BCTHW)[0]
        z_BCTHW, target_BCTHW = self._spliced(z_BCTHW, video_BCTHW, still_B, generator)
        return _psnr(self.vae.decode_raw(z_BCTHW), target_BCTHW)

    def _rebuilt(self, video_BCTHW: Tensor) -> Tensor:
        with torch.no_grad():
            device = next(self.vae.parameters()).device
            return self.vae.decode(self.vae.encode(video_BCTHW.to(device)))

    def _spliced(
        self, z_BCTHW: Tensor, video_BCTHW: Tensor, still_B: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The latents with the splices in them, and the video that they should become."""
        row_R = still_B.nonzero().squeeze(1)
        frame_R = still_B[row_R]
        latent_R = 1 + (frame_R - 1) // TEMPORAL
        picture_RCHW = video_BCTHW[row_R, :, frame_R]
        held = picture_RCHW.unsqueeze(2).expand(-1, -1, STILL_FRAMES, -1, -1)
        mean, logvar = (part.float() for part in self.vae.encode_moments(held))
        z_BCTHW, target_BCTHW = z_BCTHW.clone(), video_BCTHW.clone()
        z_BCTHW[row_R, :, latent_R] = _sample(mean, logvar, generator)[:, :, 1].to(z_BCTHW.dtype)
        for ahead in range(TEMPORAL):
            target_BCTHW[row_R, :, 1 + TEMPORAL * (latent_R - 1) + ahead] = picture_RCHW
        return z_BCTHW, target_BCTHW

    def _weight(self, batch: dict[str, Tensor]) -> Tensor:
        """How much the error of each pixel counts; in a splice, as in the picture that is spliced in."""
        if "subject" not in batch:
            return torch.ones_like(batch["video"][:, None, ..., 0], dtype=torch.float32)
        subject_BTHW = batch["subject"].float() / 255
        for row in batch["still"].nonzero().flatten().tolist():
            still = int(batch["still"][row])
            first = 1 + (still - 1) // TEMPORAL * TEMPORAL
            subject_BTHW[row, first : first + TEMPORAL] = subject_BTHW[row, still]
        covered_B111 = subject_BTHW.mean(dim=(1, 2, 3), keepdim=True)
        more = (1 / covered_B111.clamp_min(1e-6)).clamp_max(self.recipe.subject_weight)
        return (1 + more * subject_BTHW)[:, None]

    def _shapes(self, draw: Draw) -> list[tuple[Shape, list[tuple[ClipStore, int]]]]:
        """The clips that are long and large enough, by (frames, height, width)."""
        if draw in self._known:
            return self._known[draw]
        height, width = draw.size or (1, 1)
        shapes: dict[Shape, list[tuple[ClipStore, int]]] = {}
        for store in self.stores:
            for shape, indices in store.groups.items():
                if shape[0] >= draw.frames and shape[1] >= height and shape[2] >= width:
                    shapes.setdefault(shape, []).extend((store, index) for index in indices)
        if not shapes:
            raise ValueError(f"{draw}: no clip of the stores {self.recipe.stores} is long and large enough")
        self._known[draw] = list(shapes.items())
        return self._known[draw]


def widened(path: str | Path, vae: CausalVAE, generator: torch.Generator) -> dict[str, Tensor]:
    """The weights of a narrower network of the same layout, as a state of `vae` that computes the same.

    Every channel is repeated, and what reads it is split between its copies, by random shares that add up to
    one, so that the copies learn different things (Chen et al., Net2Net, arXiv 1511.05641).

    Raises:
        ValueError: a tensor is missing, or is not narrower by a whole factor.
    """
    from safetensors.torch import load_file

    narrow, state = load_file(str(path)), {}
    for name, like in vae.state_dict().items():
        if name not in narrow or any(new % old for old, new in zip(narrow[name].shape, like.shape, strict=True)):
            raise ValueError(f"init={str(path)!r}: {name} does not widen to {tuple(like.shape)}")
        tensor = narrow[name]
        factors = [new // old for old, new in zip(tensor.shape, like.shape, strict=True)]
        # Queries, keys and values are widened one by one, and so are the two frames that a later one is made into.
        parts = list(tensor.chunk(3 if "to_qkv" in name else 2 if re.search(r"decoder.*time_conv", name) else 1))
        if "to_qkv" in name:
            parts[0] = parts[0] / math.sqrt(factors[0])  # keeps the attention, whose scale follows the width
        tensor = torch.cat([part.repeat(factors[0], *[1] * (part.dim() - 1)) for part in parts])
        if len(factors) > 1 and factors[1] > 1:
            shares = torch.rand(factors[1], *tensor.shape, generator=generator).add_(0.5)
            shares /= shares.sum(0)
            tensor = torch.cat([tensor * share for share in shares], 1)
        state[name] = tensor
    return state


@torch.no_grad()
def latent_statistics(vae: CausalVAE, clips: Iterator[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the posterior mean, over all latents of some clips."""
    device, count = next(vae.parameters()).device, 0
    total, squares = torch.zeros(2, vae.config.z_dim, dtype=torch.float64).unbind()
    for video_BCTHW in clips:
        z_CN = vae.encode_moments(video_BCTHW.to(device))[0].double().cpu().movedim(1, 0).flatten(1)
        count += z_CN.shape[1]
        total += z_CN.sum(1)
        squares += z_CN.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    return tuple(round(x, 6) for x in mean.tolist()), tuple(round(x, 6) for x in std.tolist())


def save_vae(folder: Path, vae: CausalVAE, config: VAEConfig) -> None:
    """Write `vae/` in the diffusers layout, in float32."""
    from safetensors.torch import save_file

    where = folder / "vae"
    where.mkdir(parents=True, exist_ok=True)
    fields = configs.vae_config_to_diffusers(config)
    (where / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    state = keymap.vae_to_diffusers(vae.state_dict(), config)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, where / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def _windows(stores: Sequence[ClipStore], count: int, frames: int) -> Iterator[Tensor]:
    """`count` clips spread over the stores, cut to at most `frames` frames of 1 + 4n; the same every time."""
    for number in range(count):
        store = stores[number % len(stores)]
        clip = store.clip(number * len(store) // count)
        length = 1 + (min(frames, len(clip)) - 1) // TEMPORAL * TEMPORAL
        start = number * (len(clip) - length) // count
        yield to_unit_range([clip[start : start + length]])


@dataclass(frozen=True)
class _Piece:
    """Where a piece of a clip is cut out: its first frame, and the same place in each."""

    first: int
    top: int
    left: int
    height: int
    width: int
    mirrored: bool

    @classmethod
    def draw(cls, shape: Shape, draw: Draw, generator: torch.Generator) -> _Piece:
        """Anywhere in a clip of this many frames, rows and columns, mirrored half of the time."""
        height, width = draw.size or shape[1:]
        first = draw_int(generator, 0, shape[0] - draw.frames + 1)
        top, left = draw_int(generator, 0, shape[1] - height + 1), draw_int(generator, 0, shape[2] - width + 1)
        return cls(first, top, left, height, width, draw_float(generator) < 0.5)

    def of(self, frames: Frames) -> Frames:
        """The place, cut out of frames (T, H, W, ...)."""
        cut = frames[:, self.top : self.top + self.height, self.left : self.left + self.width]
        return np.ascontiguousarray(cut[:, :, ::-1] if self.mirrored else cut)


def _weighted(weights: Sequence[float], generator: torch.Generator) -> int:
    """An index, as often as its weight says."""
    point = draw_float(generator) * sum(weights)
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return len(weights) - 1


def _disturbed(z_BCTHW: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Half of the rows with an even amount of noise, from none to `most` deviations of each channel."""
    if most == 0:
        return z_BCTHW
    amount_B, noisy_B = torch.rand(2, len(z_BCTHW), generator=generator).unbind()
    amount_B = (most * amount_B * (noisy_B < 0.5)).to(z_BCTHW.device)
    noise_BCTHW = torch.randn(z_BCTHW.shape, generator=generator).to(z_BCTHW)
    deviation_C = z_BCTHW.detach().std(dim=(0, 2, 3, 4), keepdim=True)
    return z_BCTHW + amount_B[:, None, None, None, None] * deviation_C * noise_BCTHW


def _sample(mean: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return mean + noise * (0.5 * logvar).exp()


def _mean(value_BCTHW: Tensor, weight_B1THW: Tensor) -> Tensor:
    return (value_BCTHW * weight_B1THW).sum() / (weight_B1THW.sum() * value_BCTHW.shape[1])


def _edges(error_BCTHW: Tensor, weight_B1THW: Tensor) -> Tensor:
    """Mean absolute difference of neighbours in x, y and, in clips, time: what blur and flicker leave."""
    parts = []
    for axis in (2, 3, 4):
        if (size := error_BCTHW.shape[axis]) > 1:
            weight = torch.maximum(weight_B1THW.narrow(axis, 1, size - 1), weight_B1THW.narrow(axis, 0, size - 1))
            parts.append(_mean(error_BCTHW.diff(dim=axis).abs(), weight))
    return torch.stack(parts).sum()


def _psnr(found: Tensor, wanted: Tensor) -> float:
    difference = found.float().clamp(-1, 1) - wanted.to(found.device)
    return _decibels(float(difference.square().mean()))


def _decibels(square: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error; the peak is 2, from -1 to 1."""
    return 10 * math.log10(4 / max(square, 1e-10))


def _pixels(video_BCTHW: Tensor) -> Frames:
    video_THWC = video_BCTHW[0].movedim(0, -1).float().cpu()
    pixels: Frames = video_THWC.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return pixels
