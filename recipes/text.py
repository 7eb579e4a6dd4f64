"""The tokenizer and the umT5 of the embedded model: the fields of a scene from a sentence.

`everreel train recipes/text.py --run-dir runs/text`
"""

from everreel.train.text import TextRecipe
from everreel.train.trainer import TrainerSettings

recipe = TextRecipe(
    settings=TrainerSettings(
        steps=1_200,
        learning_rate=2e-3,
        weight_decay=0.02,
        warmup=100,
        decay="cosine",
        ema_decay=0.995,
        precision="bf16",
        checkpoint_every=200,
        sample_every=200,
        log_every=20,
    ),
    vocab_size=1_500,
    tokenizer_sentences=60_000,
)
