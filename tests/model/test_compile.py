"""Compiled blocks: the same results, and one program for all of them."""

import pytest
import torch

from everreel.model.compile import compile_blocks
from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT


@pytest.fixture
def graphs():
    """The programs that torch makes; they run as they are, for a compiler takes minutes to see what a test is after."""
    torch._dynamo.reset()
    made: list[torch.fx.GraphModule] = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    backend.made = made
    yield backend
    torch._dynamo.reset()


@torch.no_grad()
def test_all_blocks_share_one_program_and_later_sizes_another(graphs):
    model = DiT(TransformerConfig(dim=48, ffn_dim=96, freq_dim=32, text_dim=24, num_heads=4, num_layers=3)).eval()
    generator = torch.Generator().manual_seed(0)
    model.init_weights(generator)
    torch.nn.init.normal_(model.head.head.weight, std=0.1, generator=generator)
    context = model.encode_context(torch.randn(1, 9, 24, generator=generator), [9])
    sizes = [torch.randn(1, 16, frames, 4, width, generator=generator) for frames, width in ((3, 8), (5, 6), (4, 10))]
    want = [model(x, torch.full((1, x.shape[2]), 500), context) for x in sizes]
    names = set(model.state_dict())
    compile_blocks(model, graphs)
    assert set(model.state_dict()) == names
    made = []
    for x, truth in zip(sizes, want, strict=True):
        got = model(x, torch.full((1, x.shape[2]), 500), context)
        assert (got - truth).norm() < 1e-5 * truth.norm()
        made.append(len(graphs.made))
    assert made[0] == 1 and made[1] == made[2] <= 3
    assert not [node for graph in graphs.made for node in graph.graph.nodes if "complex" in str(node.target)]
