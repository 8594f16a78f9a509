"""UniTabE's own objectives: multi-cell masking and column-subset contrast (arXiv 2307.09249).

Numerics are those of OldBirdAZ/UniTabE: some cells of a row are hidden, and an LSTM spells one of
them when prompted with "recovery <column> :"; two overlapping subsets of the row's columns find
each other in the batch by the dot products of their class tokens over a temperature of 10.

Notation: R rows, C columns, P pieces of a prompt, S pieces of a target, N tokens of a row, V ids,
E width of embeddings, D width of the encoder, L layers of the LSTM.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.nn.utils.rnn import pad_sequence
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample, Tokens
from zoo.modalities.tables import (
    END,
    HIDDEN,
    MISSING,
    PAD,
    SPECIAL_VALUES,
    START,
    PieceEncoder,
    PiecePreprocess,
    take_cells,
)
from zoo.objectives.column_views import column_views, repeat_rows
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import nt_xent

__all__ = ["Decoder", "UniTabEObjective", "UniTabEObjectiveConfig", "hidden_count"]

_VIEWS = 3  # of each row in a batch: with hidden cells, and two subsets of its columns
_STEPS = ((1.0, 1), (1.25, 2), (1.5, 3), (1.75, 4), (2.0, 5), (2.5, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class UniTabEObjectiveConfig:
    """The pretext tasks and the decoder."""

    decoder_depth: int = 1
    contrast: float = 1.0  # weight of the contrastive term
    temperature: float = 10.0
    partitions: int = 4
    overlap: float = 0.5
    prompt: str = "recovery {column} :"
    prompt_pieces: int = 100


class Decoder(nn.Module):
    """An LSTM that begins in [class token, what the prompt finds in the row] and spells a value."""

    def __init__(self, dim: int, embed_dim: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.ask = _mlp(embed_dim, dim)
        self.answer = _mlp(dim, dim)
        self.weigh = nn.Linear(dim, 1)
        self.begin = nn.Linear(2 * dim, 2 * depth * dim)
        self.lstm = nn.LSTM(embed_dim, dim, depth, batch_first=True)
        self.spell = nn.Linear(dim, embed_dim)

    def context(self, x: Tensor, valid: Tensor, prompts: Tensor, real: Tensor) -> Tensor:
        """What the prompts find.

        Args:
            x: (R, N, D) the encoder's output, padded.
            valid: (R, N) True at its tokens.
            prompts: (R, P, E) raw embeddings.
            real: (R, P) True at pieces of the prompt.

        Returns:
            (R, D).
        """
        fit = self.ask(prompts) @ self.answer(x).mT
        found = fit.masked_fill(~valid[:, None], -torch.inf).softmax(-1) @ x
        weights = self.weigh(found).masked_fill(~real[..., None], -torch.inf).softmax(1)
        return (weights * found).sum(1)

    def forward(self, pooled: Tensor, context: Tensor, shown: Tensor, table: Tensor) -> Tensor:
        """Logits of every next piece.

        Args:
            pooled: (R, D) class tokens.
            context: (R, D).
            shown: (R, S, E) raw embeddings of the pieces so far.
            table: (V, E), shared with the encoder.

        Returns:
            (R, S, V).
        """
        out, _ = self.lstm(shown, self.state(pooled, context))
        return linear(self.spell(out), table)

    def state(self, pooled: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Where the LSTM begins: (L, R, D) twice."""
        begin = self.begin(torch.cat([pooled, context], dim=-1))
        h, c = begin.unflatten(-1, (self.depth, 2, -1)).permute(2, 1, 0, 3).contiguous()
        return h, c


def _mlp(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))


class UniTabEObjective(Objective):
    """Batches hold each row three times in turn, and `prompts` (R, P), `targets` (R, S)."""

    requires: ClassVar[type[Encoder]] = PieceEncoder
    config_class = UniTabEObjectiveConfig
    compares_samples = True

    def __init__(self, config: UniTabEObjectiveConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, PieceEncoder)
        if not encoder.spells:
            raise ValueError(
                "unitabe spells values from the class token: set encoder.numbers=digits and "
                "encoder.pool=cls, or take the objective masked_cells"
            )
        self.config = config
        self.decoder = Decoder(encoder.dim, encoder.word_dim, config.decoder_depth)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Hides cells of each row, and asks for one of them."""
        assert isinstance(preprocess, PiecePreprocess)
        block = preprocess.augment(sample, generator)
        rows, columns = len(block["lengths"]), len(block["names"])
        values = block["cell_value"].view(rows, columns)
        hidden, target = choose(values != MISSING, generator)
        wanted = values.gather(1, target[:, None]).squeeze(1)
        names = preprocess.column_names(sample)
        prompts = [self.config.prompt.format(column=names[i]) for i in target.tolist()]
        ids = preprocess.pieces(prompts, self.config.prompt_pieces)
        config = self.config
        both = column_views(rows, columns, config.partitions, config.overlap, generator)
        keep = torch.cat([torch.ones(rows, 1, columns, dtype=torch.bool), both], dim=1)
        block = repeat_rows(block, _VIEWS)
        shown = block["cell_value"].view(rows, _VIEWS, columns).clone()
        shown[:, 0].masked_fill_(hidden, HIDDEN)
        block = take_cells(block | {"cell_value": shown.flatten()}, keep.flatten())
        targets = _spelled(block["values"], wanted)
        return block | {"prompts": _pad([torch.tensor(one) for one in ids]), "targets": targets}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """Cross-entropy over the target's pieces, and the contrastive term; parts of both."""
        assert isinstance(encoder, PieceEncoder)
        encoded = encoder.encode(encoder.tokenize(batch))
        x, valid = _padded(encoded, _VIEWS)
        table = encoder.piece_table
        pooled = encoder.pool(encoded).unflatten(0, (-1, _VIEWS))
        prompts, targets = batch["prompts"], batch["targets"]
        context = self.decoder.context(x, valid, table[prompts], prompts != PAD)
        start = torch.full_like(targets[:, :1], START)
        shown = table[torch.cat([start, targets[:, :-1]], dim=1)]
        logits = self.decoder(pooled[:, 0], context, shown, table)
        parts = {"cells": spelling_loss(logits, targets)}
        scale = torch.tensor(1 / self.config.temperature, device=x.device)
        parts["contrast"] = nt_xent(pooled[:, 1].float(), pooled[:, 2].float(), scale)
        total = parts["cells"] + self.config.contrast * parts["contrast"]
        return Losses(total=total, parts=parts)

    def log_likelihoods(
        self, encoder: PieceEncoder, batch: Batch, prompt: Tensor, options: Tensor
    ) -> Tensor:
        """How likely each option is what the decoder spells.

        Args:
            encoder: trained with this objective.
            batch: rows, once each.
            prompt: (P,) pieces, the same for all rows.
            options: (K, S) pieces of each option and its end, padded.

        Returns:
            (R, K) float32, natural logarithms.
        """
        encoded = encoder.encode(encoder.tokenize(batch))
        x, valid = _padded(encoded, 1)
        table, pooled = encoder.piece_table, encoder.pool(encoded)
        asked = table[prompt].expand(len(x), -1, -1)
        context = self.decoder.context(x, valid, asked, (prompt != PAD).expand(len(x), -1))
        found = []
        for option in options:
            shown = torch.cat([option.new_full((1,), START), option[:-1]])
            logits = self.decoder(pooled, context, table[shown].expand(len(x), -1, -1), table)
            target = option.expand(len(x), -1)
            lost = cross_entropy(logits.mT.float(), target, ignore_index=PAD, reduction="none")
            found.append(-lost.sum(1))
        return torch.stack(found, dim=1)

    def count(self, batch: Batch) -> int:
        """Rows."""
        return len(batch["targets"])


def _padded(encoded: Tokens, every: int) -> tuple[Tensor, Tensor]:
    """Tokens (R, N, D) of every so-manieth row of a packed batch, and (R, N) True at real ones."""
    assert encoded.lengths is not None
    x = pad_sequence([*encoded.x[0].split(encoded.lengths.tolist())[::every]], batch_first=True)
    sizes = encoded.lengths[::every].to(x.device)
    return x, torch.arange(x.shape[1], device=x.device) < sizes[:, None]


def spelling_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the pieces (R, S) that are no padding."""
    return cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PAD)


def choose(present: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which cells of each row are hidden, and which one of them is asked for.

    Args:
        present: (R, C) True at cells that are not missing.
        generator: all chance.

    Returns:
        (R, C) True at hidden cells, and (R,) the column of the target.
    """
    rows, columns = present.shape
    counts = hidden_count(torch.randn(rows, generator=generator).abs(), columns)
    noise = torch.rand(rows, columns, generator=generator) + 2.0 * ~present
    ranks = noise.argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]) & present, noise.argmin(dim=1)


def hidden_count(z: Tensor, columns: int) -> Tensor:
    """How many cells the released code hides for z = |N(0, 1)|: mostly 1, at most half of them."""
    count = torch.ones_like(z, dtype=torch.int64)
    for (below, _), (limit, value) in pairwise(_STEPS):
        count[(z > below) & (z <= limit)] = value
    return count.clamp(max=max(1, columns // 2))


def _spelled(values: Tensor, wanted: Tensor) -> Tensor:
    """Pieces of the strings `wanted` (R,), each with its end; nothing where it is missing."""
    targets = []
    for value in wanted.tolist():
        row = values[value - SPECIAL_VALUES] if value >= SPECIAL_VALUES else values[:0, 0]
        end = [END] if value >= SPECIAL_VALUES else []
        targets.append(torch.cat([row[row != PAD], torch.tensor(end, dtype=torch.int64)]))
    return _pad(targets)


def _pad(ids: Sequence[Tensor]) -> Tensor:
    return pad_sequence([*ids], batch_first=True, padding_value=PAD)
