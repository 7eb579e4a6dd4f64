"""What all tests share: one thread, the command line, and a small random model in a folder.

One thread: the networks of the tests are small, and threads that share busy cores only wait for each other.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)
# Models that this machine has downloaded are none of the tests' business.
os.environ |= dict.fromkeys(
    ("EVERREEL_MODELS", "HF_HUB_CACHE"), str(Path(tempfile.gettempdir()) / "everreel-no-models")
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever a test before this one left: sums split among threads are not the same to the last bit."""
    torch.set_num_threads(1)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; gives back exit code, output and error stream."""
    from everreel import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["everreel", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the embedded model's kind, much smaller and with random weights; read it, never write."""
    return save_random(tmp_path_factory.mktemp("model"), {"inject_sample_info": True})


@pytest.fixture(scope="session")
def i2v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_folder`, of a model that makes films of a picture."""
    from everreel.model.config import ImageEncoderConfig
    from everreel.model.image_encoder import ImageEncoder

    with torch.random.fork_rng():
        torch.manual_seed(1)
        image_encoder = ImageEncoder(
            ImageEncoderConfig(image_size=28, patch_size=7, dim=40, ffn_dim=80, num_heads=4, num_layers=3)
        )
    return save_random(tmp_path_factory.mktemp("i2v"), {"in_dim": 36, "image_dim": 40}, image_encoder)


@pytest.fixture(scope="session")
def t2v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_folder`, of a model that makes all frames of words at once."""
    folder = save_random(tmp_path_factory.mktemp("t2v"), {})
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2Pipeline"))
    return folder


def save_random(folder: Path, more: dict[str, Any], image_encoder: Any = None) -> Path:
    from everreel.checkpoint.load import save_diffusers
    from everreel.model.causal_conv import CausalConv3d
    from everreel.model.config import TextEncoderConfig, TransformerConfig, VAEConfig
    from everreel.model.dit import DiT
    from everreel.model.text_encoder import TextEncoder
    from everreel.model.vae import CausalVAE
    from everreel.train.text import train_tokenizer

    tokenizer = train_tokenizer(iter(["a red fox runs through a snowy forest", "a blue swan on a lake"] * 20), 200)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = DiT(
            TransformerConfig(dim=48, ffn_dim=96, freq_dim=32, text_dim=24, num_heads=4, num_layers=2, **more)
        )
        transformer.init_weights(torch.Generator().manual_seed(0))
        # Fresh ones are zero or nearly so; words have to count beside 500 positions of padding.
        loud = [transformer.fps_projection[2]] if "inject_sample_info" in more else []
        for layer in (transformer.head.head, *loud, *transformer.text_embedding[::2]):
            torch.nn.init.xavier_normal_(layer.weight, gain=4)
        vocab_size = tokenizer.backend.get_vocab_size()
        text = TextEncoder(
            TextEncoderConfig(vocab_size=vocab_size, d_model=24, d_kv=8, d_ff=32, num_heads=3, num_layers=2)
        )
        mean = tuple((channel - 8) / 10 for channel in range(16))
        std = tuple(0.5 + channel / 10 for channel in range(16))
        vae = CausalVAE(VAEConfig(base_dim=4, decoder_base_dim=4, latents_mean=mean, latents_std=std))
        for module in vae.modules():
            # A fresh one sees no past; this one does.
            if isinstance(module, torch.nn.Conv2d | CausalConv3d):
                torch.nn.init.xavier_normal_(module.weight)
    save_diffusers(
        folder, transformer=transformer, vae=vae, text_encoder=text, tokenizer=tokenizer, image_encoder=image_encoder
    )
    return folder
