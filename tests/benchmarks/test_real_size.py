"""The benchmark at real layer sizes runs, with a model of no size; and what it says by arithmetic."""

from pathlib import Path

import pytest
import torch

from benchmarks import real_size
from benchmarks.flops import transformer_flops
from benchmarks.measure import machine
from benchmarks.page import render_page
from everreel.memory import keep_freed_memory
from everreel.model.config import TransformerConfig

NARROW = real_size.Setting(latent_frames=2, height=128, width=160, real_repeats=1, narrow=True, compiler="eager")


def test_both_sides_and_their_memory(monkeypatch):
    def in_this_process(setting, side, causal):
        return real_size.Memory(side, causal, real_size.forward_memory(setting, side, causal))

    alone = real_size.memory_in_own_process
    monkeypatch.setattr(real_size, "memory_in_own_process", in_this_process)  # a process each takes long to begin
    result = real_size.run(NARROW)
    assert result.forward.ratio > 0
    assert all(0 < result.shares[side] < 1 for side in real_size.SIDES)
    if real_size.CLEAR_PEAK.exists():
        assert [(memory.side, memory.causal) for memory in result.memory] == [
            (side, causal) for causal in (False, True) for side in real_size.SIDES
        ]
        assert alone(NARROW, "everreel", True).bytes > 0
    assert result.compiled is not None and result.compiled.error < 0.01 and result.compiled.gain > 0
    page = render_page(None, None, machine(), "make benchmark", result)
    assert "| faster by | compiled | eager | the first pass, compiling included | result |" in page
    assert "| a forward pass at real layer sizes | at least 1.5× faster |" in page
    assert "| modulation, 540P, 97 frames | 12.5 GB | 9.4 GB | 3.1 MB |" in page
    assert "No GPU could be had" in page


def test_a_machine_without_a_compiler_says_so(monkeypatch, capsys):
    def none(model, backend):
        def fail(*args, **more):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

        monkeypatch.setattr(model, "forward", fail)

    monkeypatch.setattr(real_size, "compile_blocks", none)
    assert real_size.compiled(NARROW, "float32") is None
    assert "No working C++ compiler" in capsys.readouterr().err


def test_sides_that_differ_are_not_timed(monkeypatch):
    right = real_size._theirs
    monkeypatch.setattr(real_size, "_theirs", lambda *given: lambda: right(*given)() * 1.01)
    with pytest.raises(ValueError, match=r"differ by 0\.0"):
        real_size._see_that_they_agree(NARROW)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what a process held at its height")
def test_the_peak_of_a_pass_is_seen(monkeypatch):
    def make(setting, dtype, causal):
        return lambda: torch.ones(2**24).sum()  # 64 MB

    monkeypatch.setattr(real_size, "_ours", make)
    keep_freed_memory()  # as other tests may have done
    kept = [torch.ones(2**20) for _ in range(64)]  # 4 MB each, which stay with the process once they are freed
    del kept
    assert 60 * 2**20 < real_size.forward_memory(NARROW, "everreel", False) < 80 * 2**20


@pytest.mark.parametrize(
    ("size", "modulation", "mask"), [("540P, 97 frames", 6.27e9, 2.6e9), ("720P, 121 frames", 13.7e9, 12.5e9)]
)
def test_what_the_released_code_holds(size, modulation, mask):
    """The figures found by reading the released code: modulation twice, a mask of all tokens by all tokens."""
    found = real_size.bytes_of_a_pass(size)
    assert found["modulation"][0] / 2 == pytest.approx(modulation, rel=0.01)
    assert found["mask of a block-causal pass"] == (*[pytest.approx(mask, rel=0.01)] * 2, 0)
    assert found["modulation"][2] < 5e6


@torch.no_grad()
def test_what_diffusers_holds():
    """Six vectors a token in bfloat16 come to each block, which makes float32 of them; the mask is tokens by tokens."""
    from diffusers import SkyReelsV2Transformer3DModel

    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 1, "ffn_dim": 64, "freq_dim": 16}
    model = SkyReelsV2Transformer3DModel(text_dim=24, num_frame_per_block=2, **sizes).bfloat16()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given))
    frames, tokens = 4, 4 * 3 * 5
    video, text = torch.ones(1, 16, frames, 6, 10).bfloat16(), torch.ones(1, 512, 24).bfloat16()
    model(video, torch.full((1, frames), 500), text, enable_diffusion_forcing=True)
    _, text, modulation, _, mask = seen[0]
    assert modulation.shape == (1, 6, tokens, 48) and modulation.dtype == torch.bfloat16
    assert mask.shape[-2:] == (tokens, tokens) and mask.dtype == torch.bool and text.shape[1] == 512


def test_operations_are_those_of_the_matrix_products(monkeypatch):
    """As torch counts them in a pass of a small model; the embeddings and the head are left out."""
    from torch.utils.flop_counter import FlopCounterMode

    from everreel.model.dit import DiT

    monkeypatch.setattr("everreel.model.attention.FUSED_IS_FASTEST", False)  # the fused kernel's are not counted
    config = TransformerConfig(dim=48, ffn_dim=96, num_heads=4, num_layers=2, text_dim=24, freq_dim=32)
    model = DiT(config)
    model.init_weights(torch.Generator().manual_seed(0))
    model.bfloat16()  # in which attention is matrix products that are counted
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        context = model.encode_context(torch.ones(1, 60, 24), [60])
        before = counter.get_total_flops()
        model(torch.ones(1, 16, 4, 16, 16), torch.zeros(1, 4), context)
        tokens = 4 * 8 * 8
        beside = 2 * tokens * 64 * 48 * 2 + 2 * 4 * (32 * 48 + 48 * 48 + 48 * 6 * 48)
        counted = counter.get_total_flops() - before - beside
    assert counted == transformer_flops(config, tokens, 61)
