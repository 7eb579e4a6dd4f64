"""The embedded model from its finished runs, as it ships.

`everreel train recipes/tiny.py --run-dir src/everreel/assets/tiny`, after vae, text and diffusion_forcing.
"""

from everreel.model.config import TransformerConfig
from everreel.train.pack import PackRecipe

recipe = PackRecipe(
    config=TransformerConfig(
        dim=256, ffn_dim=1024, freq_dim=256, text_dim=160, text_len=512, num_heads=4, num_layers=10,
        inject_sample_info=True,
    ),
    transformer="runs/diffusion_forcing/films/transformer.safetensors",
    vae="runs/vae/wide",
    text="runs/text",
    shift=3.0,
    notes=(
        "It learnt from the first 864 of the 1,600 films, and from all pictures.",
        "The last 600 of its 1,300 steps on films came after a restart with a shorter decay than the first 700.",
    ),
)  # fmt: skip
