"""The catalogue card: one TOML file with everything a person wants to know about a model family.

The source of truth; `index.json` is generated from the cards for listing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoo.registry.recipe import CardRecipe
from zoo.registry.schema import Value, read, read_toml

from zoo.errors import UnknownNameError

__all__ = ["Card", "Licence", "Paper", "Result", "Trained", "Weights", "read_card"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """Where the method was described."""

    title: str
    year: int
    arxiv: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """SPDX names of what the authors state; `NONE`, SPDX's own word, where they state nothing."""

    code: str | None = None  # of the reference implementation, which zoo does not contain
    weights: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One published file of weights."""

    tag: str
    size: str
    repo: str  # on the Hugging Face Hub
    file: str
    layout: str  # how its keys are named: see zoo.hub.convert
    tokenizer: str | None = None  # repository of the tokenizer, where it is not beside the file
    licence: str | None = None
    revision: str | None = None  # 40-hex commit
    sha256: str | None = None

    @property
    def may_be_shared(self) -> bool:
        """Whether anybody but the authors may pass them on."""
        return self.licence not in (None, "NONE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Weights that nobody publishes: the card's recipe makes them on first use."""

    tag: str
    size: str
    data: str  # `module:function`, which writes the shards into a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A number that somebody published, and where."""

    size: str
    dataset: str
    protocol: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model family. A model's name is `family-size`, a set of weights `family-size.tag`."""

    family: str
    modality: Literal["vision", "volume", "audio", "tabular", "code"]
    summary: str
    default_size: str
    encoder: dict[str, Value]  # `name` of the architecture, and arguments that all sizes share
    sizes: dict[str, dict[str, Value]]
    aliases: tuple[str, ...] = ()  # other names of the family
    preprocess: dict[str, Value] = field(default_factory=dict)
    recipe: CardRecipe | None = None
    paper: Paper | None = None
    licence: Licence = field(default_factory=Licence)
    weights: tuple[Weights, ...] = ()
    trained: tuple[Trained, ...] = ()
    results: tuple[Result, ...] = ()
    # Downstream sets whose evaluation data the published weights have seen in pretraining.
    pretraining_overlap: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "name" not in self.encoder:
            raise ValueError("encoder.name is missing: which architecture is it?")
        for what, size in [
            ("default_size", self.default_size),
            *((f"weights {entry.tag!r}", entry.size) for entry in self.weights),
            *((f"trained {entry.tag!r}", entry.size) for entry in self.trained),
            *((f"result on {entry.dataset!r}", entry.size) for entry in self.results),
        ]:
            if size not in self.sizes:
                raise ValueError(f"{what} names size {size!r}, which is not among {[*self.sizes]}")

        if self.trained and self.recipe is None:
            raise ValueError("trained weights need a recipe")

    @property
    def names(self) -> list[str]:
        """Every model of the family."""
        return [f"{self.family}-{size}" for size in self.sizes]

    def size_of(self, name: str) -> str:
        """The size that a model name means; the family's own name means the default size."""
        if name == self.family:
            return self.default_size
        size = name.removeprefix(f"{self.family}-")
        if size not in self.sizes:
            raise UnknownNameError("model", name, self.names)
        return size

    def weights_of(self, size: str) -> list[Weights | Trained]:
        """All sets of weights of one size; the first is what a name without a tag means."""
        entries: list[Weights | Trained] = [*self.weights, *self.trained]
        return [entry for entry in entries if entry.size == size]

    def encoder_args(self, size: str) -> dict[str, Value]:
        """Arguments of the architecture for one size, without its name."""
        shared = {key: value for key, value in self.encoder.items() if key != "name"}
        return shared | self.sizes[size]


def read_card(path: Path) -> Card:
    """A card file, checked.

    Raises:
        ConfigError: names the file, the key, and the nearest valid key.
    """
    return read(Card, read_toml(path), where=str(path))
