"""The causal VAE: released numbers, diffusers as a second oracle, pieces that give what the whole gives."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from everreel.checkpoint.keymap import vae_to_diffusers
from everreel.model.causal_conv import CausalConv3d, RMSNorm, Tails, activated_conv
from everreel.model.config import VAEConfig
from everreel.model.vae import CausalVAE

GOLDEN = Path(__file__).parent.parent / "golden"
MEAN = tuple((i - 8) / 10 for i in range(16))
STD = tuple(0.5 + i / 10 for i in range(16))
SMALL = VAEConfig(base_dim=4, decoder_base_dim=6, num_res_blocks=1, latents_mean=MEAN, latents_std=STD)


def randomised(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vae = CausalVAE(config)
    with torch.no_grad():
        for parameter in vae.parameters():
            spread = 1.0 if parameter.dim() == 1 else (parameter[0].numel() or 1) ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        for module in vae.modules():
            if isinstance(module, RMSNorm):
                module.gamma.copy_(1 + 0.2 * torch.randn(module.gamma.shape, generator=generator))
    return vae.eval()


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.fixture(scope="module")
def small():
    return randomised(SMALL)


@pytest.fixture(scope="module")
def released():
    tensors = load_file(GOLDEN / "official-vae.safetensors")
    vae = CausalVAE(VAEConfig(base_dim=8)).eval()
    weights = {name[2:]: value for name, value in tensors.items() if name.startswith("w.")}
    vae.load_state_dict(weights, strict=True)
    return vae, tensors


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_equals_the_released_implementation(released, context):
    vae, golden = released
    with context():
        assert relative(vae.encode(golden["video"]), golden["latents"]) < 1e-4
        assert relative(vae.decode(golden["latents"]), golden["decoded"].clamp(-1, 1)) < 1e-4
        assert relative(vae.encode_moments(golden["video"])[0], golden["latents"]) < 1e-4
        assert relative(vae.decode_raw(golden["latents"]), golden["decoded"]) < 1e-4


def test_bfloat16_stays_close(released):
    vae, golden = released
    half = CausalVAE(vae.config).eval()
    half.load_state_dict(vae.state_dict())
    half = half.bfloat16()
    with torch.no_grad():
        latents = half.encode(golden["video"])
        assert latents.dtype == torch.float32
        assert relative(latents, golden["latents"]) < 0.03
        assert relative(half.decode(golden["latents"]), golden["decoded"].clamp(-1, 1)) < 0.03


def test_has_the_released_names_and_shapes():
    wanted = json.loads((GOLDEN / "checkpoint-keys" / "official-vae.json").read_text())
    with torch.device("meta"):
        vae = CausalVAE(VAEConfig())
    assert {name: list(value.shape) for name, value in vae.state_dict().items()} == wanted


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_diffusers(seed):
    vae = randomised(SMALL, seed)
    other = diffusers.AutoencoderKLWan(
        base_dim=4, decoder_base_dim=6, z_dim=16, num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()
    other.load_state_dict(vae_to_diffusers(vae.state_dict(), SMALL), strict=True)
    video = noise(2, 3, 9, 16, 32, seed=seed).clamp(-1, 1)
    mean, logvar = vae.encode_moments(video)
    posterior = other.encode(video).latent_dist
    assert relative(mean, posterior.mean) < 1e-4
    assert relative(logvar, posterior.logvar) < 1e-4
    shape = (1, 16, 1, 1, 1)
    latents = vae.encode(video)
    assert relative(latents, (mean - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)) < 1e-4
    assert relative(vae.decode(latents), other.decode(posterior.mean).sample) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 32), (32, 16), (24, 24)], ids=["landscape", "portrait", "square"])
@pytest.mark.parametrize("seed", range(3))
def test_any_cut_gives_the_whole(small, size, seed):
    generator = torch.Generator().manual_seed(seed)
    video = noise(1, 3, 17, *size).clamp(-1, 1)
    latents = small.encode(video)
    assert latents.shape == (1, 16, 5, size[0] // 8, size[1] // 8)

    parts, state = [], None
    for piece in random_cut(video, generator):
        part, state = small.encode_stream(piece, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 2), latents, atol=1e-5, rtol=1e-5)
    assert state.waiting_BCTHW is None

    whole = small.decode(latents)
    assert whole.shape == video.shape
    parts, state = [], None
    for piece in random_cut(latents, generator):
        part, state = small.decode_stream(piece, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 2), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(small.decode_raw(small.denormalise(latents)).clamp(-1, 1), whole)


def random_cut(tensor, generator):
    start = 0
    while start < tensor.shape[2]:
        count = int(torch.randint(1, 7, (1,), generator=generator))
        yield tensor[:, :, start : start + count]
        start += count


@torch.no_grad()
def test_frames_wait_in_the_state(small):
    video = noise(1, 3, 8, 16, 16)
    first, state = small.encode_stream(video[:, :, :4])
    assert first.shape[2] == 1 and state.waiting_BCTHW.shape[2] == 3
    none, state = small.encode_stream(video[:, :, 4:4], state)
    assert none.shape[2] == 0
    second, state = small.encode_stream(video[:, :, 4:], state)
    assert second.shape[2] == 1 and state.waiting_BCTHW.shape[2] == 3


@torch.no_grad()
def test_the_future_does_not_reach_back(small):
    video = noise(1, 3, 13, 16, 16)
    changed = video.clone()
    changed[:, :, 9:] += 1
    assert torch.equal(small.encode(video)[:, :, :3], small.encode(changed)[:, :, :3])
    latents = noise(1, 16, 4, 2, 2)
    changed = latents.clone()
    changed[:, :, 2:] += 1
    assert torch.equal(small.decode(latents)[:, :, :5], small.decode(changed)[:, :, :5])


@torch.no_grad()
def test_the_state_does_not_grow(small):
    def held(state):
        storages = {tail.untyped_storage().data_ptr(): tail.untyped_storage().nbytes() for tail in state.tails}
        return sum(storages.values())

    _, decoder = small.decode_stream(noise(1, 16, 1, 2, 2))
    _, encoder = small.encode_stream(noise(1, 3, 1, 16, 16))
    first = held(decoder), held(encoder)
    for _ in range(4):
        _, decoder = small.decode_stream(noise(1, 16, 3, 2, 2), decoder)
        _, encoder = small.encode_stream(noise(1, 3, 12, 16, 16), encoder)
        assert (held(decoder), held(encoder)) == first


def test_gradients_reach_every_parameter():
    vae = randomised(SMALL).train()
    mean, logvar = vae.encode_moments(noise(2, 3, 9, 16, 16))
    (vae.decode_raw(mean).square().mean() + logvar.square().mean()).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("silu", [True, False])
def test_gradient_of_the_norm(silu):
    norm = RMSNorm(8)
    with torch.no_grad():
        norm.gamma.copy_(noise(8, 1, 1, 1))
    x = noise(2, 3, 4, 5, 8, seed=2).requires_grad_()
    weight = noise(2, 3, 4, 5, 8, seed=3)

    def plain():
        y = F.normalize(x, dim=-1) * 8**0.5 * norm.gamma.flatten()
        return F.silu(y) if silu else y

    def ours():
        conv = CausalConv3d(8, 8, (1, 1, 1))
        with torch.no_grad():
            conv.weight.copy_(torch.eye(8)[..., None, None, None])
        return activated_conv(norm, conv, x, Tails(keep=False)) if silu else norm(x)

    torch.testing.assert_close(ours(), plain())
    wanted = torch.autograd.grad((plain() * weight).sum(), (x, norm.gamma))
    found = torch.autograd.grad((ours() * weight).sum(), (x, norm.gamma))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_fresh_network_treats_frames_as_pictures():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # else the weights follow the tests before this one
        vae = CausalVAE(SMALL).eval()
    video = noise(1, 3, 9, 16, 16)
    single = torch.cat([vae.encode(video[:, :, i : i + 1]) for i in (0, 4, 8)], 2)
    torch.testing.assert_close(vae.encode(video), single, atol=1e-5, rtol=1e-5)
    pictures = torch.cat([vae.decode(single[:, :, i : i + 1]) for i in range(3)], 2)
    frames = pictures[:, :, [0, 1, 1, 1, 1, 2, 2, 2, 2]]
    torch.testing.assert_close(vae.decode(single), frames, atol=1e-5, rtol=1e-5)

    inflated = randomised(SMALL)
    single = inflated.encode(video[:, :, :1])
    inflated.inflate()
    torch.testing.assert_close(inflated.encode(video[:, :, :1]), single)  # the newest taps stay
    torch.testing.assert_close(inflated.encode(video)[:, :, 2:], inflated.encode(video[:, :, 8:]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_changed_weights_are_seen(small):
    vae = CausalVAE(SMALL).eval()
    video = noise(1, 3, 5, 16, 16)
    vae.encode(video)
    vae.load_state_dict(small.state_dict())
    assert torch.equal(vae.encode(video), small.encode(video))
    for parameter in vae.parameters():
        parameter.data.zero_()  # unseen by the version counter
    vae.train()
    vae.eval()
    assert vae.encode_moments(video)[0].abs().max() == 0


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 4, 16, 16), "frames = 4.*nearest is 5"),
        ((1, 3, 0, 16, 16), "frames = 0.*nearest is 1"),
        ((1, 3, 1, 20, 16), "height = 20.*multiple of 8.*nearest is 16"),
        ((1, 3, 1, 16, 30), "width = 30.*nearest is 32"),
        ((1, 4, 1, 16, 16), "video = .*3"),
    ],
)
def test_bad_video(small, shape, words):
    with pytest.raises(ValueError, match=words):
        small.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 8, 1, 2, 2), (16, 1, 2, 2), (1, 16, 0, 2, 2)])
def test_bad_latents(small, shape):
    with pytest.raises(ValueError, match="latents = "):
        small.decode(torch.zeros(shape))


def test_bad_config():
    with pytest.raises(ValueError, match="temporal_downsample"):
        CausalVAE(VAEConfig(dim_mult=(1, 2)))
    with pytest.raises(ValueError, match="latents_mean has 16 numbers"):
        CausalVAE(VAEConfig(z_dim=4))
