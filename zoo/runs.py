"""The folder that holds one pretraining, as readers see it; loading one needs no engine."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zoo.errors import UsageError
from zoo.hub.decoder import Decoder
from zoo.hub.export import load_export
from zoo.modalities.contracts import Encoder
from zoo.modalities.volumes import SequenceEncoder
from zoo.objectives.contract import Objective
from zoo.registry.build import Spec
from zoo.registry.recipe import Recipe
from zoo.registry.schema import read, read_toml
from zoo.training.metrics import read_metrics

__all__ = ["ASSETS", "CHECKPOINTS", "CONFIG", "EXPORT", "Run", "spec_of"]

CONFIG, EXPORT = "config.toml", "export"
ASSETS, CHECKPOINTS = "preprocess", "checkpoints"


@dataclass(frozen=True)
class Run:
    """A folder that holds one pretraining."""

    folder: Path

    @cached_property
    def recipe(self) -> Recipe:
        """What the run does, complete."""
        path = self.folder / CONFIG
        return read(Recipe, read_toml(path), where=str(path))

    @property
    def metrics(self) -> list[dict[str, float]]:
        """Logged rows, by step."""
        return read_metrics(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the encoder was exported."""
        return (self.folder / EXPORT).exists()

    def load(self) -> Encoder:
        """The pretrained encoder.

        Raises:
            UsageError: the run has not finished.
        """
        if not self.finished:
            raise UsageError(
                f"{self.folder}: the run has not finished; the same zoo pretrain command "
                "continues it"
            )
        encoder = load_export(self.folder / EXPORT)
        if isinstance(encoder, SequenceEncoder):
            encoder.decoder = Decoder(self._trained)
        return encoder

    def _trained(self, encoder: Encoder) -> Objective:
        """The objective as training left it."""
        from zoo.restoring import blank, restore  # knows the engine

        pair = blank(self)
        restore(self, *pair)
        return pair[1]


def spec_of(recipe: Recipe) -> Spec:
    """How to build the encoder that a recipe trains."""
    return Spec(
        name=recipe.model,
        modality=recipe.modality,
        encoder=recipe.encoder,
        preprocess=recipe.preprocess,
    )
