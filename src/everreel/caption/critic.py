"""The critic: a small classifier that reads each field of a scene off a film.

It looks at moments a third of a second apart. A moment is a picture, and of the frames a twelfth and a sixth of a
second later how their brightness differs and where things moved (Lucas and Kanade, 1981): a network this small does
not find motion in differences by itself. Where it may look twice, it looks again at what it takes for the subject,
enlarged. The one invariant: the generator never learns from the critic, and a field is scored only where
`visible_fields` says that it can be seen.

B films, K moments, C channels, H height, W width, N tokens, D width, F fields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everreel.caption.zoom import enlarge, square_around
from everreel.world.scene import VOCABULARY, Scene, visible_fields

MOMENTS = 12
MOMENTS_PER_SECOND = 3
MOTION_FIELDS = ("action", "direction", "camera_motion")
LOOK_AREA = 96 * 160
LOOK_STEP = 16
_GRAY = (0.299, 0.587, 0.114)
FLOW_CELL = 4  # motion is found on brightness of a quarter of the size, and counted in its pixels
_FLOW_WINDOW = 5
_FLOW_DAMPING = 2e-3  # of squared gradients: what is flatter than this does not move
_LARGEST_FLOW = 2.0
CHANNELS = 9
_STAGE = 4  # modules: a convolution that halves, a norm, a curve, residual convolutions
ACROSS = [5, 7]  # the channels that hold motion to the right: they change their sign in a mirror


@dataclass(frozen=True)
class CriticConfig:
    """Sizes of the critic; about 1.4 M parameters. A subject far away is a few pixels high.

    `depths` are residual convolutions of each width, `fine` is the width of what looks at half the size beside the
    patches, and `twice` says whether the same eyes look again at the subject alone.
    """

    widths: tuple[int, ...] = (48, 96, 160)
    depths: tuple[int, ...] = (1, 2, 2)
    fine: int = 24
    twice: bool = False
    dim: int = 128
    num_heads: int = 4
    num_layers: int = 2
    num_slots: int = 16


@dataclass(frozen=True)
class Look:
    """What the critic sees of films: moments (B, K, 9, H, W) and their seconds (B, K).

    Channels: red, green, blue; brightness differences to a twelfth and a sixth of a second later; motion right and down
    till a twelfth, and right and down till a sixth of a second later.
    """

    moments: Tensor
    seconds: Tensor

    def mirrored(self) -> Look:
        """With left and right exchanged."""
        moments = self.moments.flip(-1)
        moments[:, :, ACROSS] *= -1
        return Look(moments, self.seconds)


class Critic(nn.Module):
    """Looks → logits of each field."""

    def __init__(self, config: CriticConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CriticConfig()
        dim, heads = config.dim, config.num_heads
        # What Muon trains is in `blocks` and `layers`: see train/optimize.py.
        self.blocks = nn.ModuleDict(
            {
                "eyes": nn.Sequential(*_stages(config)),
                "project": nn.Linear(config.widths[-1], dim),
                "gather": nn.MultiheadAttention(dim, heads, batch_first=True),
                "answer": nn.MultiheadAttention(dim, heads, batch_first=True),
            }
        )
        if config.twice:
            self.where = nn.Linear(config.widths[-2], 1)
            self.again = nn.Linear(dim, dim)
            nn.init.zeros_(self.again.weight)
            nn.init.zeros_(self.again.bias)
        self.place = nn.Linear(16, dim)
        self.time = nn.Linear(16, dim)
        self.slots = nn.Parameter(torch.randn(config.num_slots, dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 3 * dim, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.questions = nn.Parameter(torch.randn(len(VOCABULARY), dim))
        self.dropout = nn.Dropout(0.1)
        self.heads = nn.ModuleDict({name: nn.Linear(dim, len(v)) for name, v in VOCABULARY.items()})

    def forward(self, look: Look) -> dict[str, Tensor]:
        """Logits (B, classes) of each field."""
        return self.look(look)[0]

    def look(self, look: Look) -> tuple[dict[str, Tensor], Tensor | None]:
        """Logits (B, classes) of each field; and, where it looks twice, those that the subject covers a part of a
        picture, (B, K, h, w).
        """
        batch, moments = look.moments.shape[:2]
        pictures = look.moments.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        found, before = self._gather(pictures)
        where = None
        if self.config.twice:
            where = self.where(before.permute(0, 2, 3, 1)).squeeze(-1)
            closer = enlarge(pictures, square_around(where.detach()))
            found = found + self.again(self._gather(closer.contiguous(memory_format=torch.channels_last))[0])
            where = where.unflatten(0, (batch, moments))
        found = found.view(batch, moments, -1, self.config.dim)
        found = found + self.time(_waves(look.seconds / 4, 8)).unsqueeze(2) + self.slots
        found = found.flatten(1, 2)
        for layer in self.layers:
            found = layer(found)
        found = self.norm(found)
        questions = self.questions.to(found.dtype).expand(batch, -1, -1)
        answers = self.blocks["answer"](questions, found, found, need_weights=False)[0] + found.mean(1, keepdim=True)
        answers = self.dropout(answers)
        return {name: self.heads[name](answers[:, i]) for i, name in enumerate(VOCABULARY)}, where

    def _gather(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What the slots find in pictures, (N, slots, D), and what is seen before the last halving, (N, C, h, w)."""
        eyes = cast("nn.Sequential", self.blocks["eyes"])
        before = eyes[:-_STAGE](pictures)
        seen = eyes[-_STAGE:](before)
        height, width = seen.shape[-2:]
        tokens = self.blocks["project"](seen.flatten(2).transpose(1, 2))
        tokens = tokens + self.place(_grid(height, width, tokens))
        slots = self.slots.to(tokens.dtype).expand(len(tokens), -1, -1)
        # The mean beside what the slots look for is what makes the first hundred steps learn anything.
        found = self.blocks["gather"](slots, tokens, tokens, need_weights=False)[0] + tokens.mean(1, keepdim=True)
        return found, before


def is_grown(name: str) -> bool:
    """Whether a weight is of what adds nothing to a fresh critic: finer eyes, a second look, residual convolutions."""
    return ".fine." in name or ".then." in name or name.startswith(("where.", "again."))


def look_at(frames: npt.NDArray[np.uint8], fps: int, first: int = 0) -> Look:
    """The look (B = 1) at one film (frames, height, width, 3) from its frame `first` on, at most 12
    moments of it.
    """
    last = len(frames) - 1
    step, ahead = _spacing(fps)
    starts = [first + step * k for k in range(MOMENTS)]
    kept = [start for start in starts if start + ahead[-1] <= last] or [min(first, last)]
    # A film too short for a moment, or a picture, shows no motion: its differences are zero.
    index = np.minimum(np.asarray(kept)[:, None] + np.asarray(ahead), last)
    stacks = torch.from_numpy(np.ascontiguousarray(frames[index.ravel()])).permute(0, 3, 1, 2)
    stacks = _fitted(stacks.float() / 127.5 - 1.0)
    stacks = stacks.view(*index.shape, *stacks.shape[1:])
    gray = torch.einsum("ktchw,c->kthw", stacks, torch.tensor(_GRAY))
    flow = torch.cat([_flow(gray[:, 0], gray[:, later]) for later in (1, 2)], 1)
    moments = torch.cat([stacks[:, 0], 2 * (gray[:, 1:] - gray[:, :1]), flow], 1)
    seconds = torch.tensor([(start - first) / fps for start in kept])
    return Look(moments[None], seconds[None])


def look_length(fps: int) -> int:
    """The frames that a look of all 12 moments spans."""
    step, ahead = _spacing(fps)
    return step * (MOMENTS - 1) + ahead[-1] + 1


def stack_looks(looks: Sequence[Look]) -> Look:
    """Looks of one shape as one."""
    return Look(torch.cat([look.moments for look in looks]), torch.cat([look.seconds for look in looks]))


@torch.no_grad()
def read(critic: Critic, frames: npt.NDArray[np.uint8], fps: int) -> dict[str, dict[str, float]]:
    """The probabilities of each value of each field, for one film: the mean of what is read at its beginning, in its
    middle and at its end, each as it is and in a mirror.
    """
    critic.eval()
    device = critic.slots.device
    last = max(0, len(frames) - look_length(fps))
    totals = {name: torch.zeros(len(values), device=device) for name, values in VOCABULARY.items()}
    for first in sorted({0, last // 2, last}):
        look = look_at(frames, fps, first)
        look = Look(look.moments.to(device), look.seconds.to(device))
        for seen, order in ((look, None), (look.mirrored(), _IN_A_MIRROR)):
            for name, scores in critic(seen).items():
                chances = scores[0].float().softmax(-1)
                totals[name] += chances if order is None else chances[order[name]]
    return {
        name: dict(zip(VOCABULARY[name], (total / total.sum()).tolist(), strict=True)) for name, total in totals.items()
    }


def mirrored_value(name: str, value: str) -> str:
    """What a field says of a film whose left and right are exchanged."""
    if name not in ("direction", "camera_motion"):
        return value
    swap = {"left": "right", "right": "left"}
    return "_".join(swap.get(part, part) for part in value.split("_"))


_IN_A_MIRROR = {
    name: [values.index(mirrored_value(name, value)) for value in values] for name, values in VOCABULARY.items()
}


def score(
    critic: Critic, films: Iterable[npt.NDArray[np.uint8]], scenes: Iterable[Scene], fps: int = 24
) -> dict[str, float]:
    """The share of films in which each visible field is read as the scene says; nan where no film shows
    the field.
    """
    hits: dict[str, list[bool]] = {name: [] for name in VOCABULARY}
    for frames, scene in zip(films, scenes, strict=True):
        answers = read(critic, frames, fps)
        for name, value in visible_fields(scene).items():
            hits[name].append(max(answers[name], key=lambda word: answers[name][word]) == value)
    return {name: sum(found) / len(found) if found else math.nan for name, found in hits.items()}


def shipped_critic() -> Path:
    """The folder of the critic that comes with the package."""
    return Path(str(files("everreel"))) / "assets" / "critic"


def save_critic(folder: str | Path, critic: Critic) -> None:
    """Write `config.json` and `model.safetensors` (float16, 2.7 MB)."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(critic.config), indent=1) + "\n", encoding="utf-8")
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in critic.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_critic(folder: str | Path) -> Critic:
    """Read what `save_critic` wrote."""
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(
                f"critic = {str(folder)!r}: there is no {name}; train one with recipes/critic.py and give its critic/"
            )
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values: dict[str, Any] = {n: tuple(x) if isinstance(x, list) else x for n, x in fields.items()}
        critic = Critic(CriticConfig(**values))
        critic.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:  # json, torch and safetensors raise kinds of their own for a torn or foreign file
        reason = str(error).splitlines()[0]
        raise ValueError(f"critic = {str(folder)!r}: its files are not those of a critic: {reason}") from error
    return critic.eval()


class _Norm(nn.Module):
    """LayerNorm over channels; in channels-last memory the permuted picture is contiguous, so nothing is
    copied.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        normed: Tensor = self.norm(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normed


class _Residual(nn.Module):
    """No norm in here: at this size norms cost more than convolutions. The branch starts small instead, and those of
    greater depth with nothing, so that a critic can grow out of a shallower one.
    """

    def __init__(self, width: int, depth: int, scale: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.scale = nn.Parameter(torch.full((1, width, 1, 1), scale))
        self.then = _Residual(width, depth - 1, 0.0) if depth > 1 else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        seen: Tensor = self.then(torch.addcmul(x_BCHW, F.gelu(self.conv(x_BCHW)), self.scale.to(x_BCHW.dtype)))
        return seen


class _Patches(nn.Conv2d):
    """4 × 4 patches, and what two convolutions of stride 2 see beside them, at first nothing."""

    def __init__(self, before: int, width: int, fine: int) -> None:
        super().__init__(before, width, 4, stride=4)
        last = nn.Conv2d(fine, width, 3, stride=2, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast("Tensor", last.bias))
        self.fine = nn.Sequential(nn.Conv2d(before, fine, 3, stride=2, padding=1), nn.GELU(), last)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        seen: Tensor = super().forward(x_BCHW) + self.fine(x_BCHW)
        return seen


def _stages(config: CriticConfig) -> Iterable[nn.Module]:
    before = CHANNELS
    for index, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        if index:  # the patches come first; what follows halves what it gets
            yield nn.Conv2d(before, width, 3, stride=2, padding=1)
        else:
            yield _Patches(before, width, config.fine) if config.fine else nn.Conv2d(before, width, 4, stride=4)
        yield _Norm(width)
        yield nn.GELU()
        yield _Residual(width, depth)
        before = width


def _spacing(fps: int) -> tuple[int, tuple[int, int, int]]:
    """Frames from moment to moment, and those that are looked at from a moment on."""
    return max(1, round(fps / MOMENTS_PER_SECOND)), (0, max(1, round(fps / 12)), max(1, round(fps / 6)))


def _flow(before_KHW: Tensor, after_KHW: Tensor) -> Tensor:
    """Motion right and down between two frames, (K, 2, H, W), in cells of 4 × 4 pixels."""

    def mean(x_KHW: Tensor) -> Tensor:
        return F.avg_pool2d(x_KHW[:, None], _FLOW_WINDOW, 1, _FLOW_WINDOW // 2, count_include_pad=False)

    before, after = (F.avg_pool2d(x[:, None], FLOW_CELL)[:, 0] for x in (before_KHW, after_KHW))
    down, right = torch.gradient(0.5 * (before + after), dim=(1, 2))
    change = after - before
    rr, dd, rd = mean(right * right) + _FLOW_DAMPING, mean(down * down) + _FLOW_DAMPING, mean(right * down)
    rt, dt = mean(right * change), mean(down * change)
    flow = torch.cat([rd * dt - dd * rt, rd * rt - rr * dt], 1) / (rr * dd - rd * rd)
    return F.interpolate(flow.clamp(-_LARGEST_FLOW, _LARGEST_FLOW), before_KHW.shape[-2:])


def _fitted(pictures: Tensor) -> Tensor:
    """Pictures at the size that the critic learnt on, up to rounding; smaller films are left as they are."""
    height, width = pictures.shape[-2:]
    scale = math.sqrt(LOOK_AREA / (height * width))
    if scale > 0.8 and height % LOOK_STEP == 0 and width % LOOK_STEP == 0:
        return pictures
    size = [max(LOOK_STEP, LOOK_STEP * round(side * min(scale, 1.0) / LOOK_STEP)) for side in (height, width)]
    return F.interpolate(pictures, size=size, mode="area")


def _grid(height: int, width: int, like: Tensor) -> Tensor:
    rows = _waves(torch.linspace(-1, 1, height, device=like.device), 4)
    columns = _waves(torch.linspace(-1, 1, width, device=like.device), 4)
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], -1)
    return grid.flatten(0, 1).to(like.dtype)


def _waves(values: Tensor, count: int) -> Tensor:
    """Sines and cosines of half a turn, a turn, two turns, …"""
    angles = values[..., None] * (math.pi / 2 * 2.0 ** torch.arange(count, device=values.device))
    return torch.cat([angles.sin(), angles.cos()], -1)
