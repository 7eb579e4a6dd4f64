"""Clips that move, of scenes that are known, for tests of pairs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from everreel.checkpoint.load import load_vae
from everreel.data.clips import ClipLabel, ClipStore, shard_writer
from everreel.data.latents import EncodeSettings, encode_store
from everreel.train.motion.match import Matching
from everreel.world.scene import Scene

FOX = Scene(
    "fox", "red", "walks", "left", "meadow", "day", "clear", "full_shot", "eye_level", "side_view", "static", seed=1
)
BALL = replace(FOX, subject="ball", action="stays", seed=2)
ANYTHING = Matching(
    alignment=1, least_alignment=0, same=(), sharpness=1, brightness=1, saturation=1, contrast=1, least_difference=0
)


def frames_of(number, frames=17):
    """A bright square goes right over noise that stays, another for each number."""
    rng = np.random.default_rng(number)
    film = np.repeat(rng.integers(0, 120, (1, 32, 32, 3)), frames, axis=0)
    for frame in range(frames):
        film[frame, 8 + number : 20 + number, frame : frame + 12] = 230 - 20 * number
    return film.astype(np.uint8)


def write_clips(folder, scenes, vae_folder, frames=17):
    """A clip store and its latent store, and their folders."""
    (folder / "clips").mkdir()
    labels = [ClipLabel(scene, 24, 0.0) for scene in scenes]
    with shard_writer(folder / "clips", 0, (len(scenes), frames, 32, 32), labels) as clips:
        for number in range(len(scenes)):
            clips[number] = frames_of(number, frames)
    settings = EncodeSettings(stills=1, sentences=2, batch=frames, dtype=torch.float32)
    encode_store(folder / "latents", ClipStore(folder / "clips"), load_vae(vae_folder), settings)
    return SimpleNamespace(clips=str(folder / "clips"), latents=str(folder / "latents"))
