"""Whether the best and the worst of a policy's films differ in motion alone: decoded and held against thresholds.

The one invariant: no film is decoded before its pair has passed by its scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everreel.caption.critic import load_critic, shipped_critic
from everreel.checkpoint.load import load_vae
from everreel.checkpoint.source import Source
from everreel.data.clips import to_bytes
from everreel.data.latents import LatentStore
from everreel.diffusion.conditioning import FPS_INDEX
from everreel.train.motion.match import Matching, appearance_of, difference_of
from everreel.train.motion.ranking import Keep
from everreel.train.motion.samples import Asked
from everreel.world.scene import Scene


def keep_of(matching: Matching, prompts: Sequence[str], vae: str | Source | None, device: str) -> Keep:
    """The filter of these thresholds; what a prompt asks for is known of those stores that are of the film world.

    Raises:
        ValueError: there is no VAE to look at films with.
    """
    if vae is None:
        raise ValueError("vae=None: match looks at films, which takes it; name a folder with vae/, or leave match out")
    decoder, scenes = load_vae(vae, torch.device(device)), _scenes(prompts)
    critic = load_critic(shipped_critic()) if scenes else None
    rates = {index: fps for fps, index in FPS_INDEX.items()}

    @torch.no_grad()
    def keep(best_CTHW: Tensor, worst_CTHW: Tensor, asked: Asked) -> str | None:
        films = [to_bytes(decoder.decode(film_CTHW[None].to(device))[0]) for film_CTHW in (best_CTHW, worst_CTHW)]
        scene, fps = scenes.get(asked.prompt), rates[asked.fps_index]
        one, other = (appearance_of(film, fps, scene, critic) for film in films)
        found = matching.mismatch(one, other, difference_of(*films))
        return None if found is None else found[0]

    return keep


def _scenes(prompts: Sequence[str]) -> dict[str, Scene]:
    """What each sentence is of, in stores of the film world."""
    found: dict[str, Scene] = {}
    for path in prompts:
        store = LatentStore(path)
        for label, sentences in zip(store.labels, store.sentences, strict=True):
            if label is not None:
                found |= dict.fromkeys(sentences, label.scene)
    return found
