"""Offloaded blocks: the same numbers, few blocks on the device, no slot read too early or written too soon."""

from functools import partial

import gguf
import pytest
import torch

from everreel.checkpoint.offload import SLOTS, OffloadedBlocks, offload, parked
from everreel.model.compile import compile_blocks
from everreel.model.config import VAEConfig
from everreel.model.kv_cache import KVCache
from everreel.model.packed import PackedLinear
from everreel.model.vae import CausalVAE
from tests.checkpoint.conftest import random_transformer

LAYERS = 5
a_model = partial(random_transformer, num_layers=LAYERS)


def result(model, seed=0):
    """A clean block to remember, and a noisy one that looks back at it."""
    generator = torch.Generator().manual_seed(seed)
    context = model.encode_context(torch.randn(1, 5, 24, generator=generator), [5])
    x = torch.randn(1, 16, 4, 4, 6, generator=generator)
    cache = KVCache(2)
    with torch.no_grad():
        model(x[:, :, :2], torch.zeros(1, 2), context, cache=cache, write_cache=True)
        return model(x[:, :, 2:], torch.full((1, 2), 500.0), context, cache=cache)


class StrictLane:
    """Copies as late as it may, spoils what it is going to overwrite, and knows who reads what."""

    def __init__(self):
        self.under_way = {}
        self.reading = set()
        self.copies = 0

    def copy(self, slot, pairs):
        assert slot not in self.reading, "overwritten while it is read"
        for target, _ in pairs:
            target.view(-1).view(torch.uint8).fill_(0xFF)  # no number in any kind of float
        self.under_way[slot] = pairs
        self.copies += 1

    def wait(self, slot):
        for target, source in self.under_way.pop(slot, ()):
            target.copy_(source)
        self.reading.add(slot)

    def done(self, slot):
        self.reading.discard(slot)


@pytest.mark.parametrize("resident", range(LAYERS + 1))
def test_offloaded_blocks_give_the_same_numbers(resident):
    model = a_model()
    expected = result(model), result(model, 1)
    lane = StrictLane()
    model.blocks = OffloadedBlocks(model.blocks, "cpu", resident, lane)
    assert torch.equal(result(model), expected[0]) and torch.equal(result(model, 1), expected[1])
    streamed = LAYERS - resident
    # Six passes: each copies every streamed block once, and what is held in two slots not at all.
    passes = 6 * streamed
    assert lane.copies == (streamed if streamed <= SLOTS else passes + 1)


@pytest.mark.parametrize("resident", [0, 1, 2])
def test_blocks_that_stream_are_compiled_in_every_slot(resident):
    """Those of an odd number change slots from pass to pass."""
    torch._dynamo.reset()
    model = a_model()
    expected = result(model)
    made, calls = [], []

    def backend(graph, inputs):
        made.append(graph)
        return lambda *inputs: calls.append(1) or graph.forward(*inputs)

    model.blocks = OffloadedBlocks(model.blocks, "cpu", resident)
    compile_blocks(model, backend)
    context = model.encode_context(torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0)), [5])
    x = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for _ in range(3):
            model(x, torch.full((1, 2), 500.0), context)
    assert len(calls) == 3 * LAYERS and len(made) == 1
    torch.testing.assert_close(result(model), expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("resident", [0, 2])
def test_few_blocks_are_on_the_device(resident):
    model = a_model()
    host = {block.ffn[0].weight.data_ptr() for block in model.blocks}
    blocks = OffloadedBlocks(model.blocks, "cpu", resident)
    seen = [block.ffn[0].weight.data_ptr() for block in blocks]
    assert len(set(seen)) == SLOTS + resident
    assert len(set(seen) & host) == resident
    stays = [where in host for where in seen]
    assert stays == ([False] * 5 if resident == 0 else [False, False, True, False, True])  # spread evenly


def test_names_and_tensors_are_those_that_were_handed_in():
    model = a_model()
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    offload(model, "cpu", 1)
    result(model)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert all(not p.requires_grad for p in model.parameters())


def test_a_loop_that_was_left_half_way_does_no_harm():
    model = a_model()
    expected = result(model)
    blocks = model.blocks = OffloadedBlocks(model.blocks, "cpu", 0, StrictLane())
    for left_at in range(LAYERS):
        for index, _ in enumerate(blocks):
            if index == left_at:
                break
        assert torch.equal(result(model), expected)


def test_quantised_blocks_stream_as_well():
    model = a_model()
    for number, block in enumerate(model.blocks):
        kind = ("Q8_0", "Q4_0")[number % 2]  # files mix them
        linear = block.self_attn.q
        packed = gguf.quants.quantize(linear.weight.numpy(), gguf.GGMLQuantizationType[kind])
        block.self_attn.q = PackedLinear(torch.from_numpy(packed), kind, linear.weight.shape, linear.bias)
    expected = result(model)
    model.blocks = OffloadedBlocks(model.blocks, "cpu", 1, StrictLane())
    assert torch.equal(result(model), expected)


def test_what_did_not_fit_goes_home_whole(monkeypatch):
    """A device that is full half-way: nothing stays there, and the module works where it was."""

    class Half(torch.nn.Linear):
        def _apply(self, fn, recurse=True):
            super()._apply(fn, recurse)
            raise torch.OutOfMemoryError("full")

    module = torch.nn.Sequential(torch.nn.Linear(2, 2), Half(2, 2))
    with pytest.raises(torch.OutOfMemoryError), parked(module, "meta"):
        pass
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
    assert module(torch.ones(1, 2)).isfinite().all()


@pytest.mark.parametrize(("resident", "nearest"), [(-1, 0), (LAYERS + 1, LAYERS)])
def test_more_resident_blocks_than_there_are_is_refused(resident, nearest):
    with pytest.raises(ValueError, match=f"resident = {resident}: .* nearest that works: {nearest}"):
        offload(a_model(), "cpu", resident)


def test_what_was_parked_has_its_own_tensors_again():
    with torch.random.fork_rng():
        vae = CausalVAE(VAEConfig(base_dim=4)).requires_grad_(False).eval()
    state = dict(vae.state_dict())
    with torch.no_grad():
        vae.decode(torch.zeros(1, 16, 2, 2, 2))
    assert any(getattr(module, "_folded", None) for module in vae.modules())
    with pytest.raises(KeyError), parked(vae, "meta"):
        assert all(tensor.device.type == "meta" for tensor in vae.state_dict().values())
        raise KeyError("whatever happens meanwhile")
    after = vae.state_dict()
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())
    assert not any(getattr(module, "_folded", None) for module in vae.modules())
