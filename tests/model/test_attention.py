"""The forms of attention agree with each other, forward and backward."""

import pytest
import torch

from everreel.model.attention import attend, attend_blocks, rope_table, rotate


@pytest.fixture(autouse=True, params=[False, True], ids=["own forms", "fused"])
def fused(request, monkeypatch):
    """As on CPUs without and with tiles of bfloat16, whichever this one is."""
    monkeypatch.setattr("everreel.model.attention.FUSED_IS_FASTEST", request.param)


def tensors(length: int, keys: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, length, 3, 16), (2, keys, 3, 16), (2, keys, 3, 16)]
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]


def brute(q, k, v, bias=None):
    logits = torch.einsum("blhd,bshd->bhls", q, k) / 4
    if bias is not None:
        logits = logits + bias[:, None, None]
    return torch.einsum("bhls,bshd->blhd", logits.softmax(-1), v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "keys"), [(12, 20), (600, 520)])
@pytest.mark.parametrize("biased", [False, True])
def test_forms_agree_with_a_plain_softmax__released_defect_40(dtype, length, keys, biased):
    q, k, v = (x.to(dtype).requires_grad_() for x in tensors(length, keys))
    bias = torch.zeros(2, keys) if biased else None
    if bias is not None:
        bias[1, 5:] = -torch.inf
        bias[0, 3] = 4.0
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    want = brute(*exact, bias)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    want_grads = torch.autograd.grad((want * weight).sum(), exact)
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    with torch.no_grad():
        assert (attend(q, k, v, bias).float() - want).norm() < tolerance * want.norm()
    got = attend(q, k, v, bias)
    assert (got.float() - want).norm() < tolerance * want.norm()
    for one, other in zip(torch.autograd.grad((got.float() * weight).sum(), (q, k, v)), want_grads, strict=True):
        assert (one.float() - other).norm() < tolerance * other.norm()


@pytest.mark.parametrize("gain", [1.0, 5.0, 40.0])
def test_logits_of_any_size_are_right_without_gradients(gain):
    """Small logits are not shifted by their maximum, large ones must be: e^400 is no bfloat16."""
    q, k, v = (x.bfloat16() for x in tensors(600, 520))
    q = q * gain
    with torch.no_grad():
        got = attend(q, k, v).float()
    want = brute(q.float(), k.float(), v.float())
    assert (got - want).norm() < 4e-2 * want.norm()  # logits of 400 are 2 apart in bfloat16


def test_blocks_equal_a_mask():
    q, k, v = tensors(12, 12)
    block = torch.tensor([0] * 2 + [1] * 6 + [2] * 4)
    bias = torch.where(block[:, None] >= block[None], 0.0, -torch.inf)
    logits = torch.einsum("blhd,bshd->bhls", q, k) / 4 + bias
    want = torch.einsum("bhls,bshd->blhd", logits.softmax(-1), v)
    assert torch.allclose(attend_blocks(q, k, v, (2, 6, 4)), want, atol=1e-5)


def test_rotations_depend_on_differences_of_position_only():
    q, k, _ = tensors(8, 8)
    dots = []
    for start in (0, 5):
        table = rope_table(start, 2, 2, 2, 16, torch.device("cpu"))
        dots.append(torch.einsum("blhd,bshd->bhls", rotate(q, table), rotate(k, table)))
    assert torch.allclose(dots[0], dots[1], atol=1e-4)
    assert rope_table(0, 2, 2, 2, 16, torch.device("cpu")).shape == (8, 8, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_of_rotation_agree_and_leave_what_they_turn(dtype, monkeypatch):
    """The form for compilers and for devices without complex numbers, and the other one; backward, too."""
    table = rope_table(3, 2, 2, 2, 16, torch.device("cpu"))
    x = tensors(8, 8, dtype)[0].requires_grad_()
    before, found = x.detach().clone(), []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        turned = rotate(x, table)
        found.append((turned, *torch.autograd.grad(turned.float().square().sum() + turned.float()[0, 0].sum(), x)))
    assert torch.equal(x, before)
    for one, other in zip(*found, strict=True):
        assert one.dtype == dtype and torch.allclose(one.float(), other.float(), rtol=1e-2, atol=1e-5)
