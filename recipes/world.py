"""The clips of the film world that everything else is trained on and checked with.

`everreel train recipes/world.py --run-dir runs/world`
"""

from everreel.data.clips import StoreLayout
from everreel.train.run import WorldRecipe

WIDE = ((96, 160, 0.9), (160, 96, 0.05), (128, 128, 0.05))

# 97 frames are 25 latent frames: windows of up to 24 can be cut from inside a film. Disk: 69 GB.
recipe = WorldRecipe(
    stores=(
        ("films-held-out", StoreLayout(count=256, num_frames=97, split="held_out", seed=2, shard_clips=32)),
        ("images", StoreLayout(count=40_000, num_frames=1, seed=1, shard_clips=500)),
        ("films", StoreLayout(count=1_600, num_frames=97, seed=0, shard_clips=32)),
        ("images-2", StoreLayout(count=42_500, num_frames=1, seed=51, shard_clips=500)),
        ("films-2", StoreLayout(count=832, num_frames=97, seed=50, shard_clips=32)),
        ("films-critic", StoreLayout(count=4_000, num_frames=97, seed=3, shard_clips=32)),
        ("films-critic-2", StoreLayout(count=5_000, num_frames=73, seed=4, shard_clips=32)),
        ("films-critic-3", StoreLayout(count=1_600, num_frames=73, seed=8, shard_clips=32)),
        ("films-4", StoreLayout(count=1_472, num_frames=97, sizes=WIDE, slow_share=0.1, seed=70, shard_clips=32)),
        ("images-4", StoreLayout(count=8_000, num_frames=1, sizes=WIDE, seed=72, shard_clips=500)),
        ("films-critic-4", StoreLayout(count=1_504, num_frames=65, seed=172, shard_clips=32)),
        ("images-critic-4", StoreLayout(count=20_000, num_frames=1, seed=171, shard_clips=500)),
    ),
    processes=2,
)
