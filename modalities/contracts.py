"""What every modality gives and every objective may rely on.

Notation: B samples, N tokens of a sample, T tokens of a packed batch, D width, K grid axes,
P values a token was made from.

A batch is a dict of tensors. Where sequences are packed, their tokens lie end to end and `lengths`
(B,) says how long each is; `lengths` and any `..._lengths` stay on the host, because the shape of
the work depends on them. `cut` (B,), where there is one, is 1 for samples that lost their end.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from zoo.modalities.progress import batch_starts

from zoo.errors import DataError

__all__ = [
    "Batch",
    "Buffer",
    "Codec",
    "Encoder",
    "Features",
    "GridEncoder",
    "LoadReport",
    "Preprocess",
    "Raw",
    "Sample",
    "TokenEncoder",
    "Tokens",
    "UniformEncoder",
    "decode_label",
    "to_device",
    "warn_of_cuts",
]

_log = logging.getLogger("zoo")

Batch = dict[str, Tensor]
Buffer = bytes | memoryview  # a member's bytes, perhaps where they lie in a shard
Sample = dict[str, object]  # what a codec decodes: "__key__" and the modality's own fields
Raw = str | Path | bytes | np.ndarray | Tensor | Sample  # what a user may hand to `preprocess`


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What an encoder makes of a batch.

    `tokens` is (B, N, D), or (1, T, D) with `lengths` where sequences are packed; tokens that stand
    for no part of the input (a class token) are left out, to fit `grid`. `pooled` is (B, D).
    """

    tokens: Tensor
    pooled: Tensor
    grid: tuple[int, ...] | None = None
    lengths: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens on their way through an encoder.

    `x` is (B, N, D) or packed (1, T, D); `coords` (N, K) or (B, N, K) says where on the grid each
    sits; `targets` (B, N, P) holds the values each was made from; `valid` (B, N) is True at real
    tokens of a padded batch; `lengths` (B,) marks a packed one. The first `prefix` tokens stand for
    no part of the input.
    """

    x: Tensor
    coords: Tensor | None = None
    targets: Tensor | None = None
    valid: Tensor | None = None
    lengths: Tensor | None = None
    prefix: int = 0

    def select(self, keep: Tensor) -> "Tokens":
        """Only the tokens at `keep` (B, n), in that order; everything they carry follows them.

        Only for padded or dense tokens without a prefix: a packed batch has no common N to index.
        """
        if self.lengths is not None or self.prefix:
            raise ValueError("select() needs unpacked tokens without prefix tokens")
        index = keep.unsqueeze(-1)
        coords = self.coords
        if coords is not None:
            coords = coords.expand(len(keep), -1, -1).take_along_dim(index, 1)
        return replace(
            self,
            x=self.x.take_along_dim(index, 1),
            coords=coords,
            targets=None if self.targets is None else self.targets.take_along_dim(index, 1),
            valid=None if self.valid is None else self.valid.take_along_dim(keep, 1),
        )


class Preprocess(ABC):
    """Raw input -> tensors of one sample, built from the card's constants.

    It travels with the weights, so that a checkpoint and its transform never part.
    """

    asset_names: ClassVar[tuple[str, ...]] = ()  # files that foreign weights bring along

    @abstractmethod
    def __call__(self, raw: Raw) -> Batch:
        """Tensors of one sample, deterministic: what inference uses."""

    def augment(self, sample: Sample, generator: torch.Generator) -> Batch:
        """Tensors of one sample for training; all chance comes from `generator`."""
        return self(sample)

    def length(self, sample: Batch) -> int:
        """Tokens of a prepared sample, for batches by a budget; 1 where all are alike."""
        return 1

    @abstractmethod
    def collate(self, samples: Sequence[Batch]) -> Batch:
        """One batch of several samples."""

    @property
    def bound(self) -> Mapping[str, object]:
        """Constants without which the weights mean something else: nobody may change them."""
        return {}

    @property
    def ready(self) -> bool:
        """False while something must still be learned from data (a tokenizer)."""
        return True

    def fit(self, samples: Iterable[Sample]) -> None:  # noqa: B027 - most have nothing to learn
        """Learns what is missing from decoded training samples; does nothing by default."""

    def assets(self) -> dict[str, bytes]:
        """Files that must be stored beside the weights, by name."""
        return {}

    def load_assets(self, assets: Mapping[str, bytes]) -> None:  # noqa: B027
        """Takes back what `assets` gave; names it does not know are ignored."""


class Codec(ABC):
    """Bytes in a shard <-> a sample. Bounded, and safe on hostile bytes: never unpickles.

    Attributes:
        parts: extensions of files that make one sample together where they share a folder, such as
            the slices of a volume; empty stands for files without one.
    """

    parts: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def encode(self, raw: Sample) -> dict[str, bytes]:
        """The members of one sample, by extension."""

    @abstractmethod
    def decode(self, members: Mapping[str, Buffer]) -> Sample:
        """The sample; raises `DataError` with one line on bytes that are not what they claim."""

    def store(self, members: Mapping[str, Buffer]) -> dict[str, bytes]:
        """What a shard should hold of the files of one sample; by default these as they are."""
        return {extension: bytes(data) for extension, data in members.items()}

    def measure(self, sample: Sample) -> dict[str, float]:
        """Numbers of a decoded sample that a data set's manifest summarises; none by default."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Where weights came from: every tensor of the file and of the encoder is in one list."""

    source: str
    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    ignored: dict[str, str] = field(default_factory=dict)  # name -> why

    def __str__(self) -> str:
        counts = f"{len(self.loaded)} tensors from {self.source}"
        for what in ("resized", "new", "ignored"):
            if names := getattr(self, what):
                counts += f", {len(names)} {what}"
        return counts


class Encoder(nn.Module, ABC):
    """A batch -> features; never knows which objective trains it."""

    modality: str
    needs_words: ClassVar[str] = "an encoder"  # how an objective that needs this kind says so
    config_class: ClassVar[type]  # frozen dataclass: everything that shapes the encoder
    preprocess_class: ClassVar[type]  # frozen dataclass: the constants of its preprocessing
    layout: ClassVar[str | None] = None  # of files of weights, where their names cannot tell it
    parts: ClassVar[tuple[str, ...]] = ()  # arguments that are encoders, of tables of their own
    dim: int
    preprocess: Preprocess
    load_report: LoadReport | None = None

    @abstractmethod
    def forward(self, batch: Batch) -> Features:
        """Features of a batch."""

    @property
    def embed_dim(self) -> int:
        """Width of the pooled features, where a projection makes it another one than `dim`."""
        return self.dim

    def init_buffers(self) -> None:
        """(Re)computes the buffers that no file holds; called again after loading from meta."""

    def adapt(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Resizes in place what may differ in a file made for another input size; names it."""
        return ()

    @torch.inference_mode()
    def embed(
        self, inputs: Sequence[Raw], *, batch_size: int = 64, progress: bool | None = None
    ) -> np.ndarray:
        """Pooled features of raw inputs (paths, arrays, bytes or samples).

        Args:
            inputs: what `preprocess` takes, one an item.
            batch_size: items that go through the encoder together.
            progress: a bar on the terminal; by default for more than one batch on a terminal.

        Returns:
            (len(inputs), embed_dim) float32, in the order of the inputs.

        Raises:
            DataError: an input cannot be read; the message names it.
        """
        if isinstance(inputs, str | bytes | Path):
            inputs = [inputs]
        rows, cut = np.empty((len(inputs), self.embed_dim), dtype=np.float32), 0
        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        try:
            for start in batch_starts(len(inputs), batch_size, progress):
                samples = [self.preprocess(raw) for raw in inputs[start : start + batch_size]]
                batch = self.preprocess.collate(samples)
                cut += int(batch["cut"].sum()) if "cut" in batch else 0
                batch = to_device(batch, device)
                rows[start : start + len(samples)] = self(batch).pooled.float().cpu().numpy()
        finally:
            self.train(was_training)
        warn_of_cuts("embed", cut, len(inputs))
        return rows


class TokenEncoder(Encoder):
    """An encoder that also works on any subset of its tokens."""

    num_prefix_tokens: int = 0

    @abstractmethod
    def tokenize(self, batch: Batch) -> Tokens:
        """Tokens with their positions already in `x`, prefix tokens not yet there."""

    @abstractmethod
    def encode(self, tokens: Tokens) -> Tokens:
        """The trunk on whichever tokens are given; puts the prefix tokens in front."""

    @abstractmethod
    def pool(self, tokens: Tokens) -> Tensor:
        """(B, D) from what `encode` gave."""

    def forward(self, batch: Batch) -> Features:
        """All tokens through the trunk."""
        tokens = self.encode(self.tokenize(batch))
        return Features(
            tokens=tokens.x[:, tokens.prefix :],
            pooled=self.pool(tokens),
            grid=getattr(self, "grid", None),
            lengths=tokens.lengths,
        )


class UniformEncoder(Encoder):
    """An encoder of samples that are all of one shape, so that any of them stack."""

    needs_words = "samples that are all of one shape"


class GridEncoder(TokenEncoder, UniformEncoder):
    """A token encoder whose tokens lie on a fixed grid and carry the values they were made from."""

    needs_words = "tokens on a fixed grid that carry their own values"
    target_dim: int  # P

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Tokens along each axis, slowest first; N is their product."""

    @abstractmethod
    def draw(self, values: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Images for people to look at.

        Args:
            values: (B, N, P), what tokens were made from, in the input's normalised space.
            hidden: (B, N) True at tokens that are shown grey.

        Returns:
            uint8 (B, height, width, 1 or 3).
        """


def decode_label(data: bytes) -> int:
    """A `cls` member: ASCII digits.

    Raises:
        DataError: it is anything else.
    """
    text = data[:20].decode("ascii", errors="replace").strip()
    if not text.isdecimal() or len(data) > 20:
        raise DataError(
            f"label {text!r} is not a whole number (names are numbered by zoo shards build --label)"
        )
    return int(text)


def warn_of_cuts(where: str, cut: float, count: int) -> None:
    """Says that `cut` of `count` samples were longer than the encoder reads, if any was."""
    if cut:
        _log.warning(
            "%s: %d of %d samples are longer than the encoder reads, and were cut "
            "(preprocess.max_length)",
            *(where, cut, count),
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`; `lengths` stays on the host (see the module's first lines)."""
    if device.type == "cpu":
        return batch
    return {
        name: value if name.endswith("lengths") else value.to(device, non_blocking=True)
        for name, value in batch.items()
    }
