"""SkyCaptioner-V1 taught one's own films: a LoRA beside it, on a table of films and their structured captions.

`everreel caption FILES... -o films.jsonl` writes such a table, to be put right by hand. After `everreel train
recipes/captioner_qwen.py --run-dir runs/captioner_qwen` the folder `runs/captioner_qwen/captioner` is a captioner. With
`rank=None` all weights are trained, in float32, as SkyCaptioner-V1 was made of Qwen2.5-VL-7B (1e-5, two epochs of 512
films a step); that takes several GPUs, with torchrun and `sharding="blocks"`.
"""

from everreel.train.captioner import CaptionerRecipe
from everreel.train.trainer import TrainerSettings

recipe = CaptionerRecipe(
    settings=TrainerSettings(
        steps=1_000,
        learning_rate=1e-4,
        weight_decay=0.0,
        warmup=50,
        decay="cosine",
        ema_decay=0.99,
        accumulation=8,
        precision="bf16",
        checkpointing="blocks",
        checkpoint_every=100,
        sample_every=200,
        log_every=10,
        prefetch=2,
    ),
    model="Skywork/SkyCaptioner-V1",
    films="films.jsonl",
    held_out="films-held-out.jsonl",
    rank=32,
    alpha=32.0,
)
