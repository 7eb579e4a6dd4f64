"""Measuring as the last stage of a recipe: films of held-out prompts by the model that the stages before it made.

The one invariant: as everywhere in `follow`, the figures are those of the films in the run folder, so a run that was
stopped goes on with the films that are missing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from everreel.caption.critic import shipped_critic
from everreel.evaluate.follow import Evaluation, FilmSettings, Report, measure, reader_of
from everreel.film.loading import model_options
from everreel.film.pipeline import VideoPipeline


@dataclass(frozen=True)
class EvaluateRecipe:
    """A model's folder and what LoRAs are merged into it (PATH or PATH=STRENGTH), the films that it is asked for, and
    the folder of the critic that reads them: by default the one that is shipped.
    """

    model: str
    lora: tuple[str, ...] = ()
    films: FilmSettings = field(default_factory=FilmSettings)
    critic: str | None = None
    device: str = "auto"

    def run(self, run_dir: Path, quiet: bool = False) -> Report:
        """Make the films that are missing, and leave `report.json`."""
        reader = reader_of(self.critic or shipped_critic())
        device = None if self.device == "auto" else self.device
        kind = model_options(model=self.model).card(otherwise="df").kind  # that of all that recipes train
        options = model_options(model=self.model, lora=self.lora, device=device, kind=kind)
        evaluation = Evaluation(options.card(), self.films, run_dir, options.asked)

        def tell(done: int, total: int) -> None:
            if not quiet:
                sys.stderr.write(f"films: {done}/{total}\n")

        return measure(lambda: VideoPipeline.load(options), reader, evaluation, tell)
