"""Mixtures as a person writes them: a TOML file with one `[[mixture]]` a data set."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.data.mixture import Stop
from zoo.registry.schema import read, read_toml

__all__ = ["MixtureFile", "Source", "read_mixture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One data set of a mixture."""

    data: str  # shards, as wherever data are named
    weight: float  # share, up to a factor
    max_epochs: float | None = None  # passes over it

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be at least 0, not {self.weight}")
        if self.max_epochs is not None and not 0 < self.max_epochs < math.inf:
            raise ValueError(f"max_epochs must be above 0 and finite, not {self.max_epochs}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureFile:
    """What the file holds."""

    mixture: tuple[Source, ...]
    window: int | None = None  # positions in which the shares are exact; None: a global batch
    stop: Stop = "never"  # see zoo.data.mixture.Mixture

    def __post_init__(self) -> None:
        if not any(source is not None and source.weight for source in self.mixture):
            raise ValueError("it needs a [[mixture]] with a weight above 0")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1, not {self.window}")


def read_mixture(path: Path) -> MixtureFile:
    """The file, with its relative data paths made relative to the file's folder.

    Raises:
        ConfigError: lists everything that does not fit.
    """
    file = read(MixtureFile, read_toml(path), where=str(path))
    sources = (
        source if "://" in source.data else replace(source, data=str(path.parent / source.data))
        for source in file.mixture
    )
    return replace(file, mixture=tuple(sources))
