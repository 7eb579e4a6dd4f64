"""The motion reward model: normalised latents of a film → one number, the greater the better it moves.

Source: section 4b of the paper, whose reward model sees no prompt either; that it reads latents, so that no film has to
be decoded, is ours. What is wrong with motion shows between latent frames, so besides the latents the network is given
how each differs from the one before it, and how well each place matches the places around it there. Blocks follow,
each a convolution over space and one over time. The one invariant: the score is a function of latents and frame rate
alone, of any number of latent frames from 2 and any height and width, and each film of a batch has the score that it
has alone.

Shape suffixes: B batch, C channels, T latent frames, H W latent height and width, D width of the network, N places of
all latent frames, K features.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KIND = "motion reward"
FRAME_RATES = 2  # as in the transformer's embedding: 16 frames a second, and any other


@dataclass(frozen=True)
class MotionRewardConfig:
    """The sizes of a reward model.

    Matches are looked for up to `reach` latents away, with `match_heads` sets of `match_dim` features. `pools` are the
    weighted means over all places that are scored beside the plain one.
    """

    channels: int = 16
    width: int = 96
    layers: int = 5
    patch: int = 2
    reach: int = 2
    match_heads: int = 2
    match_dim: int = 16
    pools: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("channels", "width", "layers", "patch", "match_heads", "match_dim", "pools"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value}: must be a whole number from 1; the nearest that works is 1")
        if not isinstance(self.reach, int) or not 0 <= self.reach <= 8:
            raise ValueError(f"reach={self.reach}: must be a whole number of 0..8; 2 works")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: must lie in 0..1, below 1; 0 works")


class MotionReward(nn.Module):
    """See the module."""

    def __init__(self, config: MotionRewardConfig) -> None:
        super().__init__()
        self.config = config
        width, match = config.width, config.match_heads * config.match_dim
        shifts = config.match_heads * (2 * config.reach + 1) ** 2
        self.match = nn.Linear(config.channels, match, bias=False)
        self.stem = nn.Conv2d(2 * config.channels + shifts, width, config.patch, config.patch)
        self.rate = nn.Embedding(FRAME_RATES, width)
        self.picture = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(_Block(width, 1 + layer % 2, config.dropout) for layer in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.pool = nn.Linear(width, config.pools)
        self.dropout = nn.Dropout(config.dropout)
        # A bias would add the same to both films of a pair, and could not be learnt.
        self.head = nn.Linear(width * (1 + config.pools), 1, bias=False)
        nn.init.normal_(self.rate.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, latents_BCTHW: Tensor, fps_B: Tensor, begins: bool = True) -> Tensor:
        """Scores (B), float32. `begins` is false of windows from inside a film, whose first latent stands for four
        frames as the others do.

        Raises:
            ValueError: the latents have other channels than the config, or less than 2 frames.
        """
        _check(latents_BCTHW, self.config.channels)
        x_BTHWC = latents_BCTHW.permute(0, 2, 3, 4, 1).to(self.stem.weight.dtype)
        before_BTHWC = torch.cat([x_BTHWC[:, :1], x_BTHWC[:, :-1]], dim=1)
        seen = torch.cat([x_BTHWC, x_BTHWC - before_BTHWC, self._matches(x_BTHWC)], dim=-1)
        x_BTHWD = self._patches(seen) + self.rate(fps_B)[:, None, None, None]
        if begins:
            first = torch.arange(x_BTHWD.shape[1], device=x_BTHWD.device) == 0
            x_BTHWD = x_BTHWD + first[:, None, None, None] * self.picture
        for block in self.blocks:
            x_BTHWD = block(x_BTHWD)
        x_BND = self.norm(x_BTHWD.flatten(1, 3).float())
        # In bfloat16 a score would have three digits, and films that are alike the same one.
        with torch.autocast(x_BND.device.type, enabled=False):
            weight_BNK = self.pool(x_BND).softmax(dim=1)
            pooled_BKD = torch.cat([x_BND.mean(dim=1, keepdim=True), weight_BNK.mT @ x_BND], dim=1)
            score_B: Tensor = self.head(self.dropout(pooled_BKD.flatten(1)))[:, 0]
        return score_B

    def _matches(self, x_BTHWC: Tensor) -> Tensor:
        """How alike each place is to those around it in the latent frame before (B, T, H, W, K): cosines, by head."""
        reach, heads = self.config.reach, self.config.match_heads
        height, width = x_BTHWC.shape[2:4]
        features = self.match(x_BTHWC).unflatten(-1, (heads, -1))
        features = F.normalize(features.float(), dim=-1).to(features.dtype)
        before = torch.cat([features[:, :1], features[:, :-1]], dim=1)
        around = F.pad(before, (0, 0, 0, 0, reach, reach, reach, reach))
        side = range(2 * reach + 1)
        alike = [(features * around[:, :, y : y + height, x : x + width]).sum(-1) for y in side for x in side]
        return torch.cat(alike, dim=-1)

    def _patches(self, seen_BTHWK: Tensor) -> Tensor:
        """Squares of `patch` latents become one place (B, T, H, W, D); what is missing of the last is 0."""
        batch, _, height, width, _ = seen_BTHWK.shape
        patch = self.config.patch
        seen = F.pad(seen_BTHWK, (0, 0, 0, -width % patch, 0, -height % patch))
        patches: Tensor = self.stem(seen.flatten(0, 1).permute(0, 3, 1, 2))
        return _in_frames(patches, batch)


class _Block(nn.Module):
    """Space, time, and then each place for itself. Time is not symmetric: before and after have weights of their own,
    and are `step` latent frames away.
    """

    def __init__(self, width: int, step: int, dropout: float) -> None:
        super().__init__()
        self.step = step
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.space = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(3 * width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        for last in (self.space, self.time, self.down):
            nn.init.normal_(last.weight, std=0.5 * last.weight[0].numel() ** -0.5)
            assert last.bias is not None
            nn.init.zeros_(last.bias)

    def forward(self, x_BTHWD: Tensor) -> Tensor:
        space, time, each = (norm for norm in self.norms)
        x_BTHWD = x_BTHWD + self._in_space(F.gelu(space(x_BTHWD)))
        x_BTHWD = x_BTHWD + self._in_time(F.gelu(time(x_BTHWD)))
        grown: Tensor = self.down(self.dropout(F.gelu(self.up(each(x_BTHWD)))))
        return x_BTHWD + grown

    def _in_space(self, x_BTHWD: Tensor) -> Tensor:
        batch = len(x_BTHWD)
        moved: Tensor = self.space(x_BTHWD.flatten(0, 1).permute(0, 3, 1, 2))
        return _in_frames(moved, batch)

    def _in_time(self, x_BTHWD: Tensor) -> Tensor:
        step, frames = self.step, x_BTHWD.shape[1]
        padded = F.pad(x_BTHWD, (0, 0, 0, 0, 0, 0, step, step))
        moved: Tensor = self.time(torch.cat([padded[:, :frames], x_BTHWD, padded[:, 2 * step :]], dim=-1))
        return moved


def save_reward(folder: str | Path, model: MotionReward) -> None:
    """Write `config.json` and `model.safetensors` (float32)."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in model.state_dict().items()}
    half_done = folder / f"{WEIGHTS}.part"
    save_file(tensors, half_done, metadata={"format": "pt"})
    half_done.replace(folder / WEIGHTS)
    half_done = folder / f"{CONFIG}.part"
    half_done.write_text(json.dumps({"kind": KIND, **asdict(model.config)}, indent=1) + "\n", encoding="utf-8")
    half_done.replace(folder / CONFIG)


def load_reward(folder: str | Path) -> MotionReward:
    """Read what `save_reward` wrote, in evaluation mode.

    Raises:
        ValueError: a file or a tensor is missing, unknown, torn or of the wrong shape, or it is no reward model.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"reward={str(folder)!r}: there is no {name}; give the reward/ of a run of RewardRecipe")
    model = MotionReward(_config(folder))
    tensors = _tensors(folder)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in [*shapes, *tensors]:
        found = tuple(tensors[name].shape) if name in tensors else "absent"
        wanted = shapes.get(name, "absent")
        if found != wanted:
            raise ValueError(
                f"reward={str(folder)!r}: {name} is {found} in {WEIGHTS} and {wanted} by {CONFIG}; "
                "take both from one run"
            )
    model.load_state_dict(tensors)
    return model.eval()


def _config(folder: Path) -> MotionRewardConfig:
    try:
        fields: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"reward={str(folder)!r}: {CONFIG} is not JSON ({error}); copy it again") from None
    kind = fields.pop("kind", None) if isinstance(fields, dict) else None
    if kind != KIND:
        raise ValueError(
            f"reward={str(folder)!r}: is not a reward model, its {CONFIG} has no kind {KIND!r}; "
            "give the reward/ of a run of RewardRecipe"
        )
    try:
        return MotionRewardConfig(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"reward={str(folder)!r}: {CONFIG} does not fit: {str(error).splitlines()[0]}") from None


def _tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except Exception as error:  # the library raises its own kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"reward={str(folder)!r}: {WEIGHTS} cannot be read ({reason}); copy it again") from None
    return tensors


def _in_frames(pictures: Tensor, batch: int) -> Tensor:
    """Pictures (BT, D, H, W) as (B, T, H, W, D)."""
    return pictures.permute(0, 2, 3, 1).reshape(batch, -1, *pictures.shape[2:], pictures.shape[1])


def _check(latents_BCTHW: Tensor, channels: int) -> None:
    if latents_BCTHW.ndim != 5 or latents_BCTHW.shape[1] != channels:
        shape = tuple(latents_BCTHW.shape)
        raise ValueError(f"latents {shape}: this reward model reads (batch, {channels}, frames, height, width)")
    if latents_BCTHW.shape[2] < 2:
        raise ValueError(f"latents: {latents_BCTHW.shape[2]} latent frame does not move; 2 or more do")
