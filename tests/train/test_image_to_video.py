"""Films from their first picture: nothing changes at step 0, what is shown is what is served, and a model that runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from everreel.checkpoint.load import load_image_encoder, load_transformer, load_vae
from everreel.data.clips import ClipStore
from everreel.data.draws import generator_for
from everreel.data.latents import LatentStore
from everreel.film.image_to_video import image_channels, image_tokens
from everreel.film.pipeline import VideoPipeline
from everreel.film.request import make_request
from everreel.model.config import ImageEncoderConfig
from everreel.model.image_encoder import ImageEncoder
from everreel.train.clip import save_image_encoder
from everreel.train.generate import Wanted, Way, latents_of
from everreel.train.image_to_video import ImageToVideoRecipe, widened
from everreel.train.pack import PackRecipe
from everreel.train.pictures import PictureRecipe, PictureStore
from everreel.train.trainer import Trainer

WIDTH = 40


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(1)
    config = ImageEncoderConfig(image_size=28, patch_size=7, dim=WIDTH, ffn_dim=80, num_heads=4, num_layers=3)
    save_image_encoder(folder, ImageEncoder(config))
    return str(folder)


@pytest.fixture(scope="module")
def pictures(recipe, image_encoder, tmp_path_factory):
    clips = recipe.films.replace("latents/films", "films")
    made = PictureRecipe(recipe.films, recipe.vae, image_encoder, clips, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("pictures")
    made.run(folder, quiet=True)
    return made, folder


@pytest.fixture(scope="module")
def stage(recipe, pictures, tiny_folder):
    return ImageToVideoRecipe(
        settings=recipe.settings, films=recipe.films, pictures=str(pictures[1]), model=str(tiny_folder),
        text=recipe.text, vae=recipe.vae, windows=((2, 0.5), (4, 0.5)), tokens=60,
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["tiny_folder", "t2v_folder"])
@torch.no_grad()
def test_at_first_the_widened_model_gives_what_the_other_gives(folder, request):
    model = load_transformer(request.getfixturevalue(folder))
    wide = widened(model, WIDTH, generator_for(0))
    assert wide.config.in_dim == 36 and wide.config.image_dim == WIDTH
    x, shown = torch.randn(2, 16, 3, 4, 6), 5 * torch.randn(2, 20, 3, 4, 6)
    text, tokens, level = torch.randn(2, 7, 24), 5 * torch.randn(2, 17, WIDTH), torch.rand(2, 3) * 1000
    fps = torch.tensor([0, 1])
    wanted = model(x, level, model.encode_context(text, [7, 3]), fps_B=fps)
    both = torch.cat([x, shown], dim=1)
    found = wide(both, level, wide.encode_context(text, [7, 3], tokens), fps_B=fps)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
    # It is no accident: with other values where zeros are, both the channels and the tokens are seen.
    for name in ("patch_embedding.weight", "blocks.1.cross_attn.v_img.weight"):
        torch.nn.init.normal_(wide.get_parameter(name)[:, -20:], std=0.1)
        moved = wide(both, level, wide.encode_context(text, [7, 3], tokens), fps_B=fps)
        assert (moved - found).abs().max() > 1e-3
        found = moved


def test_what_is_new_is_zero_where_it_must_be_and_random_elsewhere(tiny_folder):
    model = load_transformer(tiny_folder)
    wide, again, other = (widened(model, WIDTH, generator_for(seed)) for seed in (0, 0, 1))
    state, seeded = wide.state_dict(), other.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    new = set(state) - set(model.state_dict())
    assert {name.split(".")[3] for name in new if "cross_attn" in name} == {"k_img", "v_img", "norm_k_img"}
    for name in new:
        if "v_img" in name:
            assert not state[name].any()
        elif state[name].ndim > 1:
            assert state[name].std() > 0 and not torch.equal(state[name], seeded[name])
    with pytest.raises(ValueError, match="image_dim = 40, in_dim = 36: must be None and out_dim = 16"):
        widened(wide, WIDTH, generator_for(0))


def test_what_is_shown_in_training_is_what_is_shown_in_films(pictures, image_encoder, recipe):
    made, folder = pictures
    store, vae, encoder = PictureStore(folder), load_vae(recipe.vae), load_image_encoder(image_encoder)
    clip = ClipStore(made.clips).clip(1)
    for frames in (2, 5):
        channels, tokens = store.shown([1], frames)
        torch.testing.assert_close(channels[0], image_channels(clip[0], frames, vae), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(tokens, image_tokens(clip[0], encoder), rtol=2e-3, atol=2e-3)


def test_pictures_that_are_there_are_kept(pictures):
    made, folder = pictures
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert made.is_done(folder) and {"kind.json", "shard-00000.json"} < set(before)
    made.run(folder, quiet=True)
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    (folder / "shard-00000.json").unlink()
    assert not made.is_done(folder)
    replace(made, max_seconds=-1.0).run(folder, quiet=True)
    assert not made.is_done(folder)
    made.run(folder, quiet=True)
    assert {name: held for name, (held, _) in before.items()} == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_without_clips_a_picture_is_what_the_vae_makes_of_the_first_latent(pictures, recipe, tmp_path):
    made, folder = pictures
    replace(made, clips=None).run(tmp_path, quiet=True)
    latents, found = LatentStore(recipe.films), PictureStore(tmp_path)
    found.check(latents, 5)
    for index in range(len(latents)):
        assert np.array_equal(found.encoded(index)[:, :1], latents.latents(index, 0, 1))
        ours, theirs = (store.shown([index], 5)[1] for store in (found, PictureStore(folder)))
        assert (ours - theirs).abs().max() > 0.01
    with pytest.raises(ValueError, match="holds pictures of another pictures; take an empty one"):
        made.run(tmp_path, quiet=True)


def test_pictures_of_other_films_are_refused(pictures, recipe, stage, tmp_path):
    made, _ = pictures
    with pytest.raises(ValueError, match=r"are not those that .* was made of"):
        replace(made, clips=made.clips.replace("films", "images")).run(tmp_path, quiet=True)
    with pytest.raises(ValueError, match="no complete shard here"):
        PictureStore(tmp_path)
    short = tmp_path / "short"
    replace(made, frames=3).run(short, quiet=True)
    with pytest.raises(ValueError, match=r"hold 3 latent frames of clip 0, windows have 4; 3 works"):
        replace(stage, pictures=str(short)).objective()
    replace(stage, pictures=str(short), windows=((3, 1.0),)).objective()
    channels = np.load(short / "channels-00000.npy")
    np.save(short / "channels-00000.npy", channels + np.float16(2 * channels.std()))
    with pytest.raises(ValueError, match="that of clip 0 is not its first"):
        replace(stage, pictures=str(short), windows=((3, 1.0),)).objective()


def test_a_batch_is_films_from_their_beginning_at_one_level(stage, recipe):
    objective, store = stage.objective(), LatentStore(recipe.films)
    firsts = {store.latents(index)[:, 0].tobytes(): index for index in range(len(store))}
    lengths, dropped, empty = set(), 0, objective.text.ids([""])[0]
    for step in range(30):
        batch = objective.batch(step, generator_for(0, "batch", step))
        frames = batch.x0_BCTHW.shape[2]
        lengths.add(frames)
        assert batch.loss_BT.all() and batch.blocks is None and (batch.sigma_BT == batch.sigma_BT[:, :1]).all()
        assert batch.shown.channels_BCTHW.shape == (len(batch.x0_BCTHW), 20, *batch.x0_BCTHW.shape[2:])
        assert batch.shown.tokens_BND.shape == (len(batch.x0_BCTHW), 17, WIDTH)
        assert (batch.shown.channels_BCTHW[:, :4, 0] == 1).all() and not batch.shown.channels_BCTHW[:, :4, 1:].any()
        # The picture is the window's own, whether its words are there or not.
        torch.testing.assert_close(batch.shown.channels_BCTHW[:, 4:, 0], batch.x0_BCTHW[:, :, 0], rtol=0.01, atol=0.01)
        latents = batch.x0_BCTHW[:, :, 0].numpy().astype(np.float16)
        assert all(np.ascontiguousarray(one).tobytes() in firsts for one in latents)
        dropped += int((batch.ids_BL == empty).all(1).sum())
    assert lengths == {2, 4} and dropped


def test_clips_are_drawn_as_a_selection_says(stage, recipe, monkeypatch):
    class Second:
        def chances(self, labels):
            return torch.tensor([0.0, 1.0, 0.0])

    monkeypatch.setattr("everreel.train.selection.read_labels", lambda store: [None] * 3)
    objective, wanted = replace(stage, select=(Second(),)).objective(), LatentStore(recipe.films).latents(1, 0, 1)
    for step in range(5):
        batch = objective.batch(step, generator_for(0, "batch", step))
        assert all(np.array_equal(one.numpy(), wanted.astype(np.float32)) for one in batch.x0_BCTHW[:, :, :1])
        assert torch.equal(
            batch.shown.channels_BCTHW, objective.pictures.shown([1] * len(batch.ids_BL), batch.x0_BCTHW.shape[2])[0]
        )


def test_training_lowers_the_loss_and_films_are_shown(stage, tmp_path):
    stage = replace(stage, sample_films=2, sample_frames=3, settings=replace(stage.settings, learning_rate=1e-2))
    objective = stage.objective()
    batch = objective.batch(0, generator_for(0))
    before = float(objective.losses(batch, generator_for(1))["transformer"].detach())
    Trainer(objective, stage.settings, tmp_path, quiet=True).run()
    after = float(objective.losses(batch, generator_for(1))["transformer"].detach())
    assert after < 0.9 * before
    assert any(value.any() for name, value in objective.transformer.state_dict().items() if "v_img" in name)
    assert objective.transformer.state_dict()["patch_embedding.weight"][:, 16:].any()
    assert list((tmp_path / "samples").glob("*.png"))
    followed = replace(stage, init=str(tmp_path / "transformer.safetensors")).objective().transformer.state_dict()
    assert all(torch.equal(followed[n], v) for n, v in load_file(tmp_path / "transformer.safetensors").items())


def test_wrong_values_are_refused(stage, i2v_folder):
    with pytest.raises(ValueError, match="windows: 1 latent frame: is the picture itself; the nearest that works is 2"):
        replace(stage, windows=((1, 0.5), (3, 0.5)))
    with pytest.raises(ValueError, match=r"shift=0: must be above 0"):
        replace(stage, shift=0)


def test_an_image_model_is_trained_on_as_it_is(stage, i2v_folder, pictures, tmp_path):
    ours = replace(stage, model=str(i2v_folder)).objective().transformer.state_dict()
    theirs = load_transformer(i2v_folder).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    torch.manual_seed(0)
    narrow = ImageEncoder(ImageEncoderConfig(28, 14, 24, 48, 2, 2))
    save_image_encoder(tmp_path, narrow)
    replace(pictures[0], image_encoder=str(tmp_path)).run(tmp_path / "pictures", quiet=True)
    with pytest.raises(ValueError, match=r"reads image tokens of 40 channels, pictures=.* has 24"):
        replace(stage, model=str(i2v_folder), pictures=str(tmp_path / "pictures")).objective()


@pytest.fixture(scope="module")
def packed(stage, recipe, image_encoder, tmp_path_factory):
    """A widened model that sees its picture, as a folder."""
    where = tmp_path_factory.mktemp("packed")
    transformer = stage.objective().transformer
    torch.nn.init.normal_(transformer.patch_embedding.weight, std=0.1, generator=generator_for(3))
    save_file(transformer.state_dict(), where / "transformer.safetensors")
    pack = PackRecipe(
        config=transformer.config, transformer=str(where / "transformer.safetensors"), vae=recipe.vae,
        text=recipe.text, shift=3.0, runs=str(where), dtype=torch.float32, image_encoder=image_encoder,
    )  # fmt: skip
    pack.run(where / "model")
    return pack, where / "model"


def test_the_packed_folder_makes_films_of_pictures(packed, tmp_path, run):
    _, folder = packed
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "SkyReelsV2ImageToVideoPipeline"
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert (config["in_channels"], config["image_dim"], config["added_kv_proj_dim"]) == (36, WIDTH, 48)
    films = []
    for seed in (0, 1):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
        code, _, error = run(
            "generate", "a red fox", "--model", folder, "--image", tmp_path / f"{seed}.png", "--height", 32,
            "--width", 48, "--num-frames", 5, "--num-inference-steps", 2, "-o", tmp_path / f"{seed}.mp4",
        )  # fmt: skip
        assert code == 0, error
        films.append((tmp_path / f"{seed}.mp4").read_bytes())
    assert films[0] != films[1]


@torch.no_grad()
def test_a_sample_is_the_film_that_the_pipeline_makes(packed, pictures, stage, tmp_path):
    _, folder = packed
    pipe = VideoPipeline.from_pretrained(str(folder), device="cpu", dtype=torch.float32)
    frames = ClipStore(pictures[0].clips).clip(0)
    Image.fromarray(frames[0]).save(tmp_path / "first.png")
    ask = make_request(
        prompt="a red fox", image=tmp_path / "first.png", height=32, width=32, num_frames=9, num_inference_steps=3,
        seed=7, guidance_scale=5.0, shift=3.0, negative_prompt="",
    )  # fmt: skip
    wanted = [block.state.rollout.solver.latents[0] for block in pipe.stream(ask)]
    objective = stage.objective()
    beginning = pipe.begin(ask)
    film = Wanted("a red fox", (3, 4, 4), seed=7, beginning=beginning)
    way = Way(3, shift=3.0, solver="unipc_exact", guidance_scale=5.0)
    made = torch.cat([b.latents_CTHW for b in latents_of(pipe.transformer, objective.text, film, way)], dim=1)
    torch.testing.assert_close(made, torch.cat(wanted, dim=1), rtol=1e-3, atol=1e-3)


def test_an_image_encoder_that_does_not_fit_is_not_packed(packed, tmp_path):
    pack, _ = packed
    for given, config in ((None, pack.config), (pack.image_encoder, replace(pack.config, image_dim=None, in_dim=16))):
        with pytest.raises(ValueError, match=r"its tokens have .* channels, the transformer reads image_dim ="):
            replace(pack, image_encoder=given, config=config).run(tmp_path / "model")
    assert not (tmp_path / "model").exists()
