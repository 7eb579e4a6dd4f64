"""The layers of the causal 3-D VAE: convolutions that never look ahead, pixel-wise RMS norm, resampling.

Wan2.1's report, section on the VAE; parameter names are those of `Wan2.1_VAE.pth`. The invariant: a layer
sees the past only through its tail in `Tails`, so a film fed in pieces gives what the whole film gives.

Activations are kept channels last, so that a frame is an ordinary channels-last picture and no permuted copy
is made. In float32 on a CPU, where a 3-D convolution is ten times slower than a 2-D one, a causal 3x3x3
convolution is one 2-D convolution over three consecutive frames laid side by side in channels; in bfloat16
and on a GPU the 3-D convolution is as fast and is used as it is.

Legend: B batch, T frames, H height, W width, C channels, N pixels (B*T*H*W), F pictures (B*T).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TINY = 1e-12  # floor of a pixel's norm, as in the released code
# Of fewer frames than this, and 16 channels of 96x96 pixels, oneDNN's gradient of a 3-D convolution in bfloat16 writes
# past its memory (torch 2.13): the process ends with a broken heap.
_SAFE_FRAMES = 9


class Tails:
    """The last frames each causal layer saw, in the order in which the layers are called.

    `old` is what the previous piece left (None before the first one); `new` fills up while a piece runs.
    """

    def __init__(self, old: tuple[Tensor, ...] | None = None, *, keep: bool = True) -> None:
        self.old = old
        self.new: list[Tensor] = []
        self._keep = keep
        self._next = 0

    @property
    def first(self) -> bool:
        """Whether this piece is the beginning of the film."""
        return self.old is None

    def take(self) -> Tensor | None:
        """The tail left for the layer that asks, None at the beginning."""
        if self.old is None:
            return None
        self._next += 1
        return self.old[self._next - 1]

    def leave(self, x_BTHWC: Tensor, frames: int) -> None:
        """Keep the newest frames, zeros where there are too few; a copy, so that the piece can be freed."""
        if not self._keep:
            return
        tail_BTHWC = x_BTHWC[:, max(x_BTHWC.shape[1] - frames, 0) :]
        missing = frames - tail_BTHWC.shape[1]
        self.new.append(_pad_time(tail_BTHWC, missing) if missing else tail_BTHWC.clone())


class CausalConv3d(nn.Module):
    """A convolution over (T, H, W) whose newest tap lies on the current frame; height and width stay."""

    weight: Tensor
    bias: Tensor

    def __init__(self, in_dim: int, out_dim: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim, *kernel))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self._folded: dict[tuple[object, ...], Tensor] = {}
        nn.init.kaiming_normal_(self.weight[:, :, -1], nonlinearity="relu")
        self.forget_past()

    def forget_past(self) -> None:
        """Zero the taps on past frames: every frame is then treated as a single picture."""
        with torch.no_grad():
            self.weight[:, :, :-1] = 0

    def train(self, mode: bool = True) -> CausalConv3d:
        """Also drop the reordered weights: an optimizer may have written behind the version counter."""
        self._folded.clear()
        super().train(mode)
        return self

    def forward(self, x_BTHWC: Tensor, tails: Tails, *, room: bool = False) -> Tensor:
        """As many frames out as in; with `room`, x has a place for the past in front, filled here."""
        past = self.kernel[0] - 1
        if past == 0:
            return self._pictures(x_BTHWC, "newest")
        tail_BTHWC = tails.take()
        now_BTHWC = x_BTHWC[:, past:] if room else x_BTHWC
        if tail_BTHWC is None and now_BTHWC.shape[1] == 1 and not x_BTHWC.is_cuda:
            tails.leave(now_BTHWC, past)  # before the first frame there are zeros: only the newest tap counts
            return self._pictures(now_BTHWC, "newest")
        if room:
            x_BTHWC[:, :past] = 0 if tail_BTHWC is None else tail_BTHWC
        elif tail_BTHWC is None:
            x_BTHWC = _pad_time(x_BTHWC, past)
        else:
            x_BTHWC = torch.cat((tail_BTHWC, x_BTHWC), 1)
        tails.leave(x_BTHWC, past)
        return self.without_padding(x_BTHWC)

    def without_padding(self, x_BTHWC: Tensor, stride: int = 1) -> Tensor:
        """Three taps in time over the frames as they are: two frames fewer, then every `stride`-th."""
        assert self.kernel[0] == 3
        few_outputs = 3 * self.weight.shape[0] <= self.weight.shape[1]
        if few_outputs and stride == 1 and not x_BTHWC.is_cuda:
            return self._sum_of_taps(x_BTHWC)
        unsafe = torch.is_grad_enabled() and x_BTHWC.shape[1] < _SAFE_FRAMES
        if x_BTHWC.is_cuda or (x_BTHWC.dtype == torch.bfloat16 and not unsafe):
            x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
            pad = (0, self.kernel[1] // 2, self.kernel[2] // 2)
            y_BCTHW = F.conv3d(x_BCTHW, self._weight("whole"), self.bias, (stride, 1, 1), pad)
            return y_BCTHW.permute(0, 2, 3, 4, 1)
        frames = (x_BTHWC[:, :-2:stride], x_BTHWC[:, 1:-1:stride], x_BTHWC[:, 2::stride])
        return self._pictures(torch.cat(frames, -1), "side by side")

    def _pictures(self, x_BTHWC: Tensor, form: str) -> Tensor:
        """A 2-D convolution of every frame."""
        return _frames(self._conv2d(x_BTHWC, form, self.bias), x_BTHWC)

    def _conv2d(self, x_BTHWC: Tensor, form: str, bias: Tensor | None) -> Tensor:
        pad = (self.kernel[1] // 2, self.kernel[2] // 2)
        return F.conv2d(_pictures(x_BTHWC), self._weight(form), bias, padding=pad)

    def _sum_of_taps(self, x_BTHWC: Tensor) -> Tensor:
        """Few output channels: convolve each frame once with all three taps, then add up shifted planes."""
        taps_BTHWC = _frames(self._conv2d(x_BTHWC, "stacked", None), x_BTHWC)
        oldest, middle, newest = taps_BTHWC.permute(0, 4, 1, 2, 3).contiguous().chunk(3, 1)
        y_BCTHW = oldest[:, :, :-2] + middle[:, :, 1:-1] + newest[:, :, 2:] + self.bias[:, None, None, None]
        return y_BCTHW.permute(0, 2, 3, 4, 1)

    def _weight(self, form: str) -> Tensor:
        """The weight in the order a form needs: made anew in training, kept per device and dtype else."""
        if self.training or torch.is_grad_enabled():
            return _reorder(self.weight, form)
        version = 0 if self.weight.is_inference() else self.weight._version
        key = (form, self.weight.dtype, self.weight.device, self.weight.data_ptr(), version)
        if key not in self._folded:
            self._folded = {old: kept for old, kept in self._folded.items() if old[1:] == key[1:]}
            self._folded[key] = _reorder(self.weight.detach(), form)
        return self._folded[key]


class RMSNorm(nn.Module):
    """Each pixel's channels scaled to root mean square 1, times `gamma`."""

    gamma: Tensor

    def __init__(self, dim: int, trailing: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *(1,) * trailing))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Same shape."""
        if torch.is_grad_enabled():
            return _norm(x_BTHWC, self.gamma, silu=False)
        return _scale(x_BTHWC, _inverse_norm(x_BTHWC), self.gamma.flatten())


def activated_conv(norm: RMSNorm, conv: CausalConv3d, x_BTHWC: Tensor, tails: Tails) -> Tensor:
    """Norm, SiLU, convolution; without gradients SiLU writes to where the convolution wants its input."""
    if torch.is_grad_enabled():
        y_BTHWC: Tensor = conv(_norm(x_BTHWC, norm.gamma, silu=True), tails)
        return y_BTHWC
    past = conv.kernel[0] - 1
    scaled_BTHWC = norm(x_BTHWC)
    batch, frames, *pixel = scaled_BTHWC.shape
    y_BTHWC = scaled_BTHWC.new_empty(batch, past + frames, *pixel)
    torch.ops.aten.silu.out(scaled_BTHWC, out=y_BTHWC[:, past:])
    y_BTHWC = conv(y_BTHWC, tails, room=True)
    return y_BTHWC


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {  # the released names, in which 1, 4 and 5 are SiLU and dropout
                "0": RMSNorm(in_dim),
                "2": CausalConv3d(in_dim, out_dim, (3, 3, 3)),
                "3": RMSNorm(out_dim),
                "6": CausalConv3d(out_dim, out_dim, (3, 3, 3)),
            }
        )
        self.shortcut = CausalConv3d(in_dim, out_dim, (1, 1, 1)) if in_dim != out_dim else None

    def forward(self, x_BTHWC: Tensor, tails: Tails) -> Tensor:
        """Same frames and size, `out_dim` channels."""
        norm_in, conv_in, norm_out, conv_out = self.residual.values()
        assert isinstance(norm_in, RMSNorm) and isinstance(conv_in, CausalConv3d)
        assert isinstance(norm_out, RMSNorm) and isinstance(conv_out, CausalConv3d)
        y_BTHWC = activated_conv(norm_in, conv_in, x_BTHWC, tails)
        y_BTHWC = activated_conv(norm_out, conv_out, y_BTHWC, tails)
        skip_BTHWC = x_BTHWC if self.shortcut is None else self.shortcut(x_BTHWC, tails)
        return skip_BTHWC + y_BTHWC if torch.is_grad_enabled() else y_BTHWC.add_(skip_BTHWC)


class AttentionBlock(nn.Module):
    """Single-head attention among the pixels of one frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, trailing=2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)
        nn.init.zeros_(self.proj.weight)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x_BTHWC: Tensor, tails: Tails) -> Tensor:
        """Same shape; frames do not see one another, so `tails` is left alone."""
        y_BTHWC = self.norm(x_BTHWC)
        qkv = F.linear(y_BTHWC.flatten(0, 1).flatten(1, 2), self.to_qkv.weight.flatten(1), self.to_qkv.bias)
        query, key, value = qkv.unsqueeze(1).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        mixed = F.linear(mixed, self.proj.weight.flatten(1), self.proj.bias)
        return x_BTHWC + mixed.view(x_BTHWC.shape)


class Downsample(nn.Module):
    """Half the height and width; with `temporal` half the frames, the film's first passing on its own."""

    def __init__(self, dim: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(dim, dim, 3, stride=2))
        self.time_conv = CausalConv3d(dim, dim, (3, 1, 1)) if temporal else None
        if self.time_conv is not None:
            pass_newest(self.time_conv)

    def forward(self, x_BTHWC: Tensor, tails: Tails) -> Tensor:
        """1 + 2n frames to 1 + n at the beginning of a film, 2n frames to n later."""
        padded_FCHW = _pictures(F.pad(x_BTHWC, (0, 0, 0, 1, 0, 1)))
        y_BTHWC = _frames(self.resample(padded_FCHW), x_BTHWC)
        if self.time_conv is None:
            return y_BTHWC
        tail_BTHWC = tails.take()
        tails.leave(y_BTHWC, 1)
        if tail_BTHWC is not None:
            y_BTHWC = torch.cat((tail_BTHWC, y_BTHWC), 1)
            return self.time_conv.without_padding(y_BTHWC, stride=2)
        if y_BTHWC.shape[1] == 1:
            return y_BTHWC
        return torch.cat((y_BTHWC[:, :1], self.time_conv.without_padding(y_BTHWC, stride=2)), 1)


class Upsample(nn.Module):
    """Twice the size, half the channels; with `temporal` also two frames for each but the film's first."""

    def __init__(self, dim: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(dim, dim // 2, 3, padding=1))
        self.time_conv = CausalConv3d(dim, 2 * dim, (3, 1, 1)) if temporal else None
        if self.time_conv is not None:
            pass_newest(self.time_conv)

    def forward(self, x_BTHWC: Tensor, tails: Tails) -> Tensor:
        """1 + n frames to 1 + 2n at the beginning of a film, n frames to 2n later."""
        if self.time_conv is not None:
            x_BTHWC = self._double_frames(x_BTHWC, tails)
        return _frames(self.resample(F.interpolate(_pictures(x_BTHWC), scale_factor=2.0)), x_BTHWC)

    def _double_frames(self, x_BTHWC: Tensor, tails: Tails) -> Tensor:
        """The film's first frame stays one frame and is no past to the others: theirs begins with zeros."""
        assert self.time_conv is not None
        tail_BTHWC = tails.take()
        later_BTHWC = x_BTHWC[:, 1:] if tail_BTHWC is None else x_BTHWC
        if later_BTHWC.shape[1] == 0:
            tails.leave(later_BTHWC, 2)
            return x_BTHWC
        past = (_pad_time(later_BTHWC, 2),) if tail_BTHWC is None else (tail_BTHWC, later_BTHWC)
        with_past_BTHWC = torch.cat(past, 1)
        tails.leave(with_past_BTHWC, 2)
        pairs_BTHWC = self.time_conv.without_padding(with_past_BTHWC)
        doubled_BTHWC = torch.stack(pairs_BTHWC.chunk(2, -1), 2).flatten(1, 2)
        return doubled_BTHWC if tail_BTHWC is not None else torch.cat((x_BTHWC[:, :1], doubled_BTHWC), 1)


def pass_newest(conv: CausalConv3d) -> None:
    """Make a temporal convolution hand on its newest frame, once for each group of output channels."""
    out_dim, in_dim = conv.weight.shape[:2]
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, -1, 0, 0] = torch.eye(in_dim).repeat(out_dim // in_dim, 1)
        conv.bias.zero_()


def _pictures(x_BTHWC: Tensor) -> Tensor:
    """The frames as a batch of channels-last pictures, no copy."""
    return x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)


def _frames(y_FCHW: Tensor, like_BTHWC: Tensor) -> Tensor:
    """The inverse of `_pictures`, whatever the new size and channels."""
    y_FHWC = y_FCHW.permute(0, 2, 3, 1)
    return y_FHWC.reshape(*like_BTHWC.shape[:2], *y_FHWC.shape[1:])


def _pad_time(x_BTHWC: Tensor, frames: int) -> Tensor:
    """Zero frames in front."""
    return F.pad(x_BTHWC, (0, 0, 0, 0, 0, 0, frames, 0))


def _reorder(weight: Tensor, form: str) -> Tensor:
    """(out, in, time, height, width) to what `CausalConv3d` multiplies with."""
    out_dim, in_dim, taps, height, width = weight.shape
    if form == "whole":
        return weight.contiguous(memory_format=torch.channels_last_3d)
    if form == "newest":
        flat = weight[:, :, -1]
    elif form == "stacked":
        flat = weight.permute(2, 0, 1, 3, 4).reshape(taps * out_dim, in_dim, height, width)
    else:
        flat = weight.permute(0, 2, 1, 3, 4).reshape(out_dim, taps * in_dim, height, width)
    return flat.contiguous(memory_format=torch.channels_last)


def _inverse_norm(x_BTHWC: Tensor) -> Tensor:
    """One over each pixel's Euclidean norm, as a column (N, 1)."""
    norm_N1: Tensor = torch.linalg.vector_norm(x_BTHWC.reshape(-1, x_BTHWC.shape[-1]), dim=-1, keepdim=True)
    # CUDA's autocast gives norms in float32, the CPU's leaves bfloat16: what follows is to be one arithmetic on both.
    return norm_N1.to(x_BTHWC.dtype).clamp_min_(_TINY).reciprocal_()


def _scale(x_BTHWC: Tensor, inverse_N1: Tensor, gamma_C: Tensor) -> Tensor:
    """x times the inverse norms and sqrt(C) * gamma."""
    return _outer(inverse_N1, gamma_C * gamma_C.shape[0] ** 0.5).view(x_BTHWC.shape).mul_(x_BTHWC)


def _outer(column_N1: Tensor, row_C: Tensor) -> Tensor:
    """Their product, written out: multiplying bfloat16 with a column is far slower than with like shapes."""
    row_1C = row_C.to(column_N1.dtype).unsqueeze(0)
    return column_N1 * row_1C if column_N1.dtype == torch.float32 else column_N1 @ row_1C


def _norm(x_BTHWC: Tensor, gamma: Tensor, *, silu: bool) -> Tensor:
    y_BTHWC: Tensor = _NormAct.apply(x_BTHWC, gamma.flatten(), silu)  # type: ignore[no-untyped-call]
    return y_BTHWC


class _NormAct(torch.autograd.Function):
    """RMS norm and SiLU with a backward by hand: keeps the input and one number a pixel, nothing else."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, gamma_C: Tensor, silu: bool) -> Tensor:
        inverse_N1 = _inverse_norm(x)
        ctx.save_for_backward(x, gamma_C, inverse_N1)
        ctx.silu = silu  # type: ignore[attr-defined]
        y = _scale(x, inverse_N1, gamma_C)
        return F.silu(y, inplace=True) if silu else y

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        # With r = 1 / |x| and u = r * root * gamma * x the gradient is r * root * gamma * du, less its part
        # along x; every line below is one pass over the activations, which is what a small network costs.
        x, gamma_C, inverse_N1 = ctx.saved_tensors  # type: ignore[attr-defined]
        dim, root = x.shape[-1], x.shape[-1] ** 0.5
        x_NC, grad_NC = x.reshape(-1, dim), grads[0].to(x.dtype).reshape(-1, dim)
        factors_NC = _outer(inverse_N1, gamma_C * root)
        if ctx.silu:  # type: ignore[attr-defined]
            grad_NC = torch.ops.aten.silu_backward(grad_NC, factors_NC * x_NC)
        product_NC = grad_NC * x_NC
        grad_gamma = (inverse_N1.t() @ product_NC).squeeze(0).to(gamma_C.dtype) * root
        along_N1 = product_NC @ gamma_C.to(x.dtype).unsqueeze(1)
        share_N1 = along_N1 * (inverse_N1 * inverse_N1 * inverse_N1)
        grad_x = factors_NC.mul_(grad_NC).addcmul_(_outer(share_N1, torch.full_like(gamma_C, -root)), x_NC)
        return grad_x.view(x.shape), grad_gamma, None
