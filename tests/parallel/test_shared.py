"""One pass shared by processes against the same pass in one, for any number of heads, with caches and without."""

import math
import os
import signal
import time
from functools import partial

import pytest
import torch

from everreel.model.config import TransformerConfig
from everreel.model.dit import DiT
from everreel.parallel.shared import SharedDiT
from everreel.parallel.talk import LostError
from tests.parallel.processes import together

KINDS = [(4, 2), (3, 2), (2, 2), (3, 1)]  # heads and rows: heads come out even on all processes, on some, on none
FRAMES, HEIGHT, WIDTH = 6, 6, 10  # 15 tokens a frame: no number of processes divides it


def random_dit(device, heads, **more):
    config = TransformerConfig(dim=48, ffn_dim=64, freq_dim=32, text_dim=24, num_heads=heads, num_layers=2, **more)
    model = DiT(config).eval()
    generator = torch.Generator().manual_seed(heads)
    model.init_weights(generator)
    torch.nn.init.normal_(model.head.head.weight, std=0.1, generator=generator)
    return model.to(device)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def passes(model, rows):
    """Velocities of every kind of pass, by name, and the bytes that the cache takes here."""
    lengths = [7, 5][:rows]
    text, late = (model.encode_context(random(rows, 9, 24, seed=seed), lengths) for seed in (2, 3))
    x = random(1, 16, FRAMES, HEIGHT, WIDTH).expand(rows, -1, -1, -1, -1)
    time = (random(1, FRAMES).abs() * 300).expand(rows, -1)
    out = {
        "full": model(x, time, text),
        "causal": model(x, time, text, blocks=(1, 3, 2)),
        "texts": model(x, time, [(2, text), (4, late)]),
    }
    cache = model.new_cache(max_frames=3, sink_frames=1)
    for block in range(3):
        part = slice(2 * block, 2 * block + 2)
        model(x[:, :, part], time[:, part], text, blocks=(2,), cache=cache, write_cache=True)
    size = cache.num_bytes  # the rest is made when it is used
    after = partial(model, x[:, :, :3], time[:, :3], text, blocks=(1, 2))
    out["cache"] = after(cache=cache)
    state = cache.save()
    cache.forget()
    out["sink"] = after(cache=cache)
    again = model.new_cache(max_frames=3, sink_frames=1)
    again.load(state)
    assert torch.equal(after(cache=again), out["cache"])
    out |= {f"keys {layer}": keys for layer, keys in enumerate(state.keys)}
    out |= {f"values {layer}": values for layer, values in enumerate(state.values)}
    return out, size


def shared_passes(crew):
    return {kind: passes(SharedDiT(crew, partial(random_dit, heads=kind[0])), kind[1]) for kind in KINDS}


@pytest.mark.parametrize(("size", "guidance"), [(2, None), (2, False), (3, None), (4, None), (4, False)])
def test_processes_agree_with_one__released_defect_30__released_defect_19(size, guidance):
    got, codes = together(size, shared_passes, guidance=guidance)
    assert codes == [0] * size
    for (heads, rows), (outs, cached) in got.items():
        want, whole = passes(random_dit("cpu", heads), rows)
        halves = 2 if rows == 2 and guidance is None and size % 2 == 0 else 1
        assert whole / cached == halves * math.gcd(heads, size // halves)
        for name, value in want.items():
            assert outs[name].shape == value.shape
            assert (outs[name] - value).abs().max() < 1e-5 * value.abs().max(), (heads, rows, name)


def image_pass(model):
    with torch.no_grad():
        context = model.encode_context(random(2, 9, 24), [7, 5], random(2, 8, 40))
        x, time = random(2, 36, 3, HEIGHT, WIDTH), random(2, 3).abs() * 300
        return model(x, time, context, fps_B=torch.tensor([1, 0]))


LOAD_I2V = partial(random_dit, heads=4, in_dim=36, image_dim=40, inject_sample_info=True)


def odd_ones(crew):
    """Refused passes, of which no process takes harm; then one of an image-to-video model."""
    said = []
    with torch.no_grad():
        model = SharedDiT(crew, partial(random_dit, heads=4))
        text = model.encode_context(random(1, 9, 24), [7])
        for height, blocks in ((2, None), (4, (1, 1))):
            try:
                model(random(1, 16, 3, height, 2), torch.zeros(1, 3), text, blocks=blocks)
            except ValueError as error:
                said.append(str(error))
    return said, image_pass(SharedDiT(crew, LOAD_I2V))


def test_what_is_refused_harms_no_process():
    ((few, blocks), got), codes = together(4, odd_ones)
    assert few.startswith("processes = 4: share the tokens of a frame, of which this size has 1;") and "\n" not in few
    assert blocks == "blocks = (1, 1): must add up to the 3 latent frames"
    want = image_pass(LOAD_I2V("cpu"))
    assert (got - want).abs().max() < 1e-5 * want.abs().max()
    assert codes == [0] * 4


class Failing(DiT):
    """Fails in the last process, in the middle of a pass."""

    def forward(self, *arguments, **more):
        if os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError("no room\nfor so much")
        return super().forward(*arguments, **more)


def failing_dit(device, killed):
    model = random_dit(device, 4)
    model.__class__, model.killed = Failing, killed
    return model


def failure(crew, killed):
    said = []
    model = SharedDiT(crew, partial(failing_dit, killed=killed))
    text = model.encode_context(random(1, 9, 24), [7])
    for _ in range(2):
        try:
            model(random(1, 16, 3, HEIGHT, WIDTH), torch.zeros(1, 3), text)
        except LostError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize(
    ("killed", "words", "code"),
    [
        (False, "process 2 of 3 has failed: MemoryError: no room", 1),
        (True, "another process has ended or does not answer", -signal.SIGKILL),
    ],
)
def test_when_one_process_fails_all_end_and_the_first_says_why(killed, words, code, capfd):
    began = time.monotonic()
    said, codes = together(3, failure, killed)
    assert said == [words, "the other processes have ended; start again"]
    assert codes == [0, 1, code]
    assert time.monotonic() - began < 20
    assert capfd.readouterr() == ("", "")


def leave(crew):
    os._exit(3)


def test_when_the_first_process_is_gone_the_others_end():
    assert together(3, leave) == (None, [3, 1, 1])


def bad_load(device):
    raise ValueError("model = 'nowhere': is not there")


def test_a_model_that_cannot_be_loaded_is_said_once():
    with pytest.raises(ValueError, match=r"^model = 'nowhere': is not there$"):
        together(2, SharedDiT, bad_load)
