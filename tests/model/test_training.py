"""What a backward pass in bfloat16 is computed with gives what the plain operators give, forward and backward."""

import pytest
import torch
from torch.nn import functional as F

from everreel.model import training
from everreel.model.attention import RMSNorm, norm_and_rotate, rope_table, rotate
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT

ROUNDING = 1e-2  # bfloat16 rounds by up to 0.4 %


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def agree(one, other, tolerance=ROUNDING):
    assert one.shape == other.shape
    return (one.float() - other.float()).norm() < tolerance * other.float().norm()


def both_ways(work, plain, *inputs):
    """Outputs and gradients of `work` in bfloat16, and of `plain` in float32."""
    found = []
    for form, dtype in ((work, torch.bfloat16), (plain, torch.float32)):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = form(*leaves)
        found.append((out, *torch.autograd.grad((out.float() * drawn(*out.shape, seed=9)).sum(), leaves)))
    return zip(*found, strict=True)


@pytest.mark.parametrize("turned", [True, False])
def test_the_norm_and_the_rotation(turned):
    table = rope_table(3, 2, 2, 3, 16, torch.device("cpu")) if turned else None
    norms = [RMSNorm(48, 1e-6) for _ in range(2)]
    for norm in norms:
        norm.weight.data = 0.5 + drawn(48).abs()

    def plain(x):
        out = norms[1](x).unflatten(2, (3, -1))
        return out if table is None else rotate(out, table)

    for got, want in both_ways(lambda x: norm_and_rotate(x, norms[0], 3, table), plain, drawn(2, 12, 48)):
        assert got.dtype == torch.bfloat16 and agree(got, want)
    for norm, form in zip(norms, (lambda x: norm_and_rotate(x, norms[0], 3, table), plain), strict=True):
        x = drawn(2, 12, 48).to(torch.bfloat16 if norm is norms[0] else torch.float32)
        (form(x).float() * drawn(2, 12, 3, 16, seed=9)).sum().backward()
    assert agree(norms[0].weight.grad, norms[1].weight.grad)


def test_gelu():
    for got, want in both_ways(training.tanh_gelu, lambda x: F.gelu(x, approximate="tanh"), 3 * drawn(40, 50)):
        assert agree(got, want)


@pytest.mark.parametrize(("length", "keys"), [(60, 37), (700, 650)])
@pytest.mark.parametrize("shift", [0.0, 80.0, -80.0])
def test_attention_with_scores_of_any_size(length, keys, shift):
    """A constant added to all scores changes nothing, though the powers of it are no numbers, or nothing."""
    q, k, v = drawn(1, length, 2, 16), drawn(1, keys, 2, 16, seed=1), drawn(1, keys, 2, 16, seed=2)
    q[..., 0], k[..., 0] = 4.0, shift  # 4 · 80 / 4
    q, k, v = (x.bfloat16().float() for x in (q, k, v))

    def plain(q, k, v):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    # A score of 80 is rounded by up to a quarter, so only where they are small the gradients are those of float32.
    out, *gradients = both_ways(training.attend, plain, q, k, v)
    assert agree(*out, tolerance=ROUNDING if shift == 0 else 0.3)
    assert all(got.isfinite().all() and (shift or agree(got, want)) for got, want in gradients)


def test_a_transformer_learns_the_same(monkeypatch):
    """All of a small model under autocast, with these functions and without."""
    config = TransformerConfig(dim=48, ffn_dim=96, freq_dim=32, text_dim=24, num_heads=4, num_layers=2)
    model = DiT(config)
    model.init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    used, found = [], []
    gelu = training.tanh_gelu
    monkeypatch.setattr(training, "tanh_gelu", lambda x: used.append(x) or gelu(x))
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(training, "is_for", lambda x: False)
        with torch.autocast("cpu", torch.bfloat16):
            context = model.encode_context(drawn(2, 9, 24), [9, 4])
            out = model(drawn(2, 16, 3, 4, 6), torch.full((2, 3), 500.0), context, blocks=(1, 2))
            loss = (out.float() * drawn(*out.shape, seed=2)).mean()
        found.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
    assert len(used) == config.num_layers
    for (name, _), one, other in zip(model.named_parameters(), *found, strict=True):
        assert agree(one, other, 0.05), name
