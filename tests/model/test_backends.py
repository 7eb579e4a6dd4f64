"""A kernel of attention is used where it is there and right, and dropped with one warning where it is not.

The kernels are stand-ins: modules of the right names, which compute on the CPU. FlexAttention is torch's, not compiled.
"""

import copy
import pickle
import sys
import types
import warnings
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from everreel.model import backends
from everreel.model.attention import attend, attend_blocks
from everreel.model.backends import Attention, sdpa
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT

CPU = torch.device("cpu")
HOPPER, AMPERE, BLACKWELL = (9, 0), (8, 0), (10, 0)
MODULES = {
    "flash_attn_interface": "flash_attn_func",
    "flash_attn": "flash_attn_func",
    "sageattention": "sageattn",
}


class Fake:
    """Counts its calls, and does to the right result what it is told."""

    def __init__(self, spoil=lambda out: out, refuse=lambda q, k: False):
        self.calls, self.spoil, self.refuse = 0, spoil, refuse

    def __call__(self, q, k, v, tensor_layout="NHD", is_causal=False):
        assert tensor_layout == "NHD" and not is_causal
        self.calls += 1
        if self.refuse(q, k):
            raise RuntimeError("no kernel image\nis available")
        return self.spoil(sdpa(q, k, v))


@pytest.fixture
def device(monkeypatch):
    """Says what the CPU passes for; a graphics card of no kernels otherwise."""
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError

    def device(capability, **fakes):
        monkeypatch.setattr(backends, "_capability", lambda _: capability)
        for module, fake in fakes.items():
            monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
            setattr(sys.modules[module], MODULES[module], fake)

    return device


@pytest.fixture
def programs(monkeypatch):
    """What torch would compile; it runs as it is, for a compiler takes up to a minute to see what a test is after."""
    torch._dynamo.reset()
    made: list[torch.fx.GraphModule] = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield made
    torch._dynamo.reset()


def no_compiler(*tensors):
    raise RuntimeError("No working C++ compiler found\n  target: flex_attention")


@torch.no_grad()
def choose(choice="auto", dtype=torch.bfloat16, head_dim=128):
    return Attention(choice).kernel(CPU, dtype, head_dim)


def tensors(queries, keys, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, tokens, 2, 16, generator=generator).to(dtype) for tokens in (queries, keys, keys)]


@pytest.mark.parametrize(
    ("choice", "module", "spoil"),
    [
        ("auto", "flash_attn_interface", lambda out: out),
        ("auto", "flash_attn_interface", lambda out: (out, "logarithms of sums")),
        ("flash", "flash_attn_interface", lambda out: out * 1.01),
        ("flash", "flash_attn", lambda out: out),
        ("sage", "sageattention", lambda out: out * 1.05),
    ],
)
def test_a_kernel_that_is_right_is_used(device, choice, module, spoil):
    fake = Fake(spoil)
    device(HOPPER, **{module: fake})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel = choose(choice)
    probes, (q, k, v) = fake.calls, tensors(8, 8)
    assert attend(q, k, v, kernel=kernel).shape == q.shape
    assert fake.calls == probes + 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda out: out * 1.1, r"flash3 is 10.\d\d% off torch's own, at most 2% is allowed"),
        (lambda out: out * torch.nan, r"flash3 is nan% off"),
        (lambda out: out.transpose(1, 2), r"flash3 gives \(2, 2, 333, 128\), not"),
    ],
)
def test_a_kernel_that_is_wrong_is_dropped_with_a_warning(device, spoil, said):
    device(HOPPER, flash_attn_interface=Fake(spoil))
    with pytest.warns(RuntimeWarning, match=said):
        assert choose("flash") is None


def test_a_kernel_that_raises_is_dropped_with_one_warning(device):
    device(HOPPER, flash_attn_interface=Fake(refuse=lambda q, k: True))
    attention = Attention("flash")
    with pytest.warns(RuntimeWarning) as caught, torch.no_grad():
        assert attention.kernel(CPU, torch.bfloat16, 128) is attention.kernel(CPU, torch.bfloat16, 128) is None
    assert [str(warning.message) for warning in caught] == [
        "attention = 'flash': flash3 raises RuntimeError: no kernel image, flash2 is not installed; torch's own is used"
    ]


def test_the_second_choice_takes_the_place_of_the_first(device):
    second = Fake()
    device(HOPPER, flash_attn_interface=Fake(lambda out: out * 2), flash_attn=second)
    assert choose("flash").name == "flash2" and second.calls


def test_what_is_absent_is_silent_unless_it_was_asked_for(device):
    device(AMPERE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("auto") is None and choose("sdpa") is None
    with pytest.warns(RuntimeWarning, match="'sage': sage is not installed; torch's own is used"):
        assert choose("sage") is None


def test_cudnn_is_asked_for_as_torch_has_it(device):
    """The CPU has no such kernel, and torch says so."""
    device(BLACKWELL)
    with pytest.warns(RuntimeWarning, match="'cudnn': cudnn raises RuntimeError"):
        assert choose("cudnn") is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float32, 1e-4)])
def test_flex_makes_two_programs_for_all_films(programs, dtype, tolerance):
    """Of all batches, heads, lengths and slices: torch would make eight, and then refuse."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        kernel = choose("flex", dtype, 16)
        made = len(programs)
        assert kernel.name == "flex" and kernel.oblong and made <= 2
        generator = torch.Generator().manual_seed(1)
        for batch, heads, older in ((2, 4, 0), (1, 4, 50), (3, 2, 7), (1, 3, 0)):
            q, k, v = (torch.randn(batch, 90 + more, heads, 16, generator=generator) for more in (0, older, older))
            want = attend_blocks(q, k, v, (40, 20, 30))
            got = attend_blocks(*(x.to(dtype) for x in (q, k, v)), (40, 20, 30), kernel)
            assert got.dtype == dtype and (got - want).norm() < tolerance * want.norm()
    assert len(programs) == made and not kernel.broken


@pytest.mark.parametrize(
    ("compiled", "said"),
    [
        (no_compiler, "flex raises RuntimeError: No working C.. compiler found; torch's own is used"),
        (
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v) * 1.001,
            "flex is 0.10% off torch's own, at most 0.01%",
        ),
    ],
)
def test_flex_gives_way_where_torch_cannot_compile_it_and_where_it_is_wrong(monkeypatch, compiled, said):
    monkeypatch.setattr(torch, "compile", lambda program, **_: compiled)
    with pytest.warns(RuntimeWarning, match=said) as caught:
        assert choose("flex", torch.float32) is None
    assert [str(warning.message).count("\n") for warning in caught] == [0]


def test_a_kernel_that_breaks_later_gives_way_once_and_for_all(device):
    broken = Fake(refuse=lambda q, k: q.shape[1] == 9)
    device(HOPPER, flash_attn_interface=broken)
    kernel = choose("auto")
    q, k, v = tensors(9, 9)
    with pytest.warns(RuntimeWarning, match="torch's own is used from here on"):
        assert torch.equal(attend(q, k, v, kernel=kernel), sdpa(q, k, v))
    calls = broken.calls
    assert torch.equal(attend(q, k, v, kernel=kernel), sdpa(q, k, v)) and broken.calls == calls


def test_no_memory_is_no_fault_of_the_kernel(device):
    def spoil(out):
        if out.shape[1] == 9:
            raise torch.OutOfMemoryError("no memory")
        return out

    device(HOPPER, flash_attn_interface=Fake(spoil))
    kernel = choose("auto")
    with pytest.raises(torch.OutOfMemoryError):
        kernel(*tensors(9, 9))
    assert not kernel.broken


def test_a_kernel_for_equal_lengths_leaves_blocks_to_torch(device):
    """Of a block-causal pass over blocks of 4 and 8 tokens, it computes the one whose keys are all its own."""
    fake = Fake(refuse=lambda q, k: q.shape[1] != k.shape[1])
    device(HOPPER, flash_attn_interface=fake)
    kernel = choose("auto")
    q, k, v = tensors(12, 12)
    calls = fake.calls
    got = attend_blocks(q, k, v, (4, 8), kernel)
    assert fake.calls == calls + 1
    assert torch.equal(got[:, :4], sdpa(q[:, :4], k[:, :4], v[:, :4])) and torch.equal(got[:, 4:], sdpa(q[:, 4:], k, v))


def test_a_bias_goes_to_torch(device):
    fake = Fake(lambda out: out * 0)
    q, k, v = tensors(8, 8)
    bias = torch.zeros(1, 8)
    bias[0, 5:] = -torch.inf
    want = attend(q, k[:, :5], v[:, :5]).float()
    assert (attend(q, k, v, bias, fake).float() - want).norm() < 0.02 * want.norm() and fake.calls == 0


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim", "order"),
    [
        (HOPPER, torch.bfloat16, 128, ("flash3",)),
        (HOPPER, torch.float32, 128, ()),
        (HOPPER, torch.float16, 512, ()),
        (BLACKWELL, torch.bfloat16, 128, ()),
        (AMPERE, torch.bfloat16, 128, ()),
        (None, torch.bfloat16, 128, ()),
    ],
)
def test_the_table_of_preferences(capability, dtype, head_dim, order):
    assert backends._preferred(capability, dtype, head_dim) == order


def test_no_kernel_that_rounds_to_eight_bits_or_is_slower_is_chosen_unasked():
    assert not [entry for entry in backends.PREFERENCES if {"sage", "flex"} & {*entry.order}]


def test_a_device_that_is_no_card_of_nvidia_takes_torchs_own(monkeypatch):
    assert backends._capability(CPU) is None and backends._capability(torch.device("mps")) is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert backends._capability(torch.device("cuda")) is None
    with pytest.warns(RuntimeWarning, match="has no kernel for cpu in float32"):
        assert choose("flash", torch.float32) is None


def test_gradients_take_torchs_own(device):
    device(HOPPER, flash_attn_interface=Fake())
    assert (
        Attention().kernel(CPU, torch.bfloat16, 128) is None
        and Attention("flex").kernel(CPU, torch.bfloat16, 128) is None
    )


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="attention = 'fast': must be one of auto, sdpa, flash, sage, cudnn, flex"):
        Attention("fast")


@torch.no_grad()
def test_a_transformer_attends_with_the_kernel_it_was_given(device):
    config = TransformerConfig(dim=48, ffn_dim=96, freq_dim=32, text_dim=24, num_heads=4, num_layers=2)
    model = DiT(config).bfloat16()
    model.init_weights(torch.Generator().manual_seed(0))
    fake = Fake()
    device(HOPPER, flash_attn=fake)
    model.attention = Attention("flash")
    x, time = torch.ones(1, 16, 3, 4, 8), torch.zeros(1, 3)
    context = model.encode_context(torch.ones(1, 5, 24), [5])
    model(x, time, context)
    calls = fake.calls
    model(x, time, context, blocks=(1, 2))
    assert fake.calls == calls + config.num_layers * 2


def test_a_copy_finds_its_own_kernels(device):
    """What is found is made of functions that cannot be sent to another process, and may not work there."""
    device(HOPPER, flash_attn_interface=Fake())
    attention = Attention("flash")
    with torch.no_grad():
        assert attention.kernel(CPU, torch.bfloat16, 128) is not None
    for copied in (pickle.loads(pickle.dumps(attention)), copy.deepcopy(attention)):
        assert copied.choice == "flash" and not copied._found
