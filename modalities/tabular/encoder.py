"""UniTabE: rows of any table -> features (arXiv 2307.09249; state as in OldBirdAZ/UniTabE).

TabUnit makes tokens of (column name, type, value); a post-norm transformer without position codes
reads them, so that the order of columns does not matter. Paper and released code differ; here the
code is followed (column vector c = c0 + gate * type; `[CLS]`, column vectors, then value pieces).

DEVIATION, as options that the small card uses: `tokens="cells"` makes one token a cell, `numbers`
other than "digits" embed the standardised number instead of spelling it, and `order="rolled"` tells
"pixel 1 2" from "pixel 2 1", which a mean over pieces with added positions nearly cannot.

Notation: B rows, M cells, C columns, V distinct strings, P pieces of one, T tokens of a packed
batch, E width of embeddings, D width of the encoder.
"""

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn
from zoo.modalities.attention import attention
from zoo.modalities.blocks import Attend, Attention
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.packing import Packed
from zoo.modalities.tables import PieceEncoder
from zoo.modalities.tabular.numbers import Linear, Periodic, PiecewiseLinear
from zoo.modalities.tabular.preprocess import TabularPreprocess, TabularPreprocessConfig
from zoo.modalities.tabular.rows import RowEncoder
from zoo.modalities.tabular.words import Words

__all__ = ["PostNormBlock", "TabUnit", "UniTabE", "UniTabEConfig", "WordEmbedding"]

_MAX_PIECES = 5000  # of the upstream position table; cells are cut long before
_NORMAL_EIGHTHS = (-8.0, -1.1503, -0.6745, -0.3186, 0.0, 0.3186, 0.6745, 1.1503, 8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniTabEConfig:
    """Everything that shapes the encoder."""

    vocab_size: int = 30_522
    embed_dim: int = 768
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 1536
    types: int = 3
    tokens: Literal["pieces", "cells"] = "pieces"  # a token a word piece and column, or a cell
    # digits: spelled out, a piece a character. The others embed the standardised number with
    # weights that all columns share; `named` makes each column's slope from its name.
    numbers: Literal["digits", "linear", "periodic", "plr", "ple", "named"] = "digits"
    frequencies: int = 48  # periodic, plr
    sigma: float = 0.1  # periodic, plr: spread of the frequencies
    order: Literal["added", "rolled"] = "added"  # how a piece shows its place: sinusoid, or rolled
    pool: Literal["cls", "mean"] = "cls"
    # Of words before their norm, of what attention and MLP add, and inside the MLP.
    # DEVIATION: none of attention weights, which the kernels for packed rows do not know.
    dropout: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.embed_dim % 2:
            raise ValueError(f"embed_dim {self.embed_dim} must be even")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class WordEmbedding(nn.Module):
    """LN(table[id] * sqrt(E) + sinusoid(position)); positions count from 0 in each cell.

    With `rolled` no sinusoid is added: the vector is shifted cyclically by its position, which
    binds a piece to its place also in a mean over pieces (Sahlgren et al. 2008).
    """

    def __init__(
        self, vocab_size: int, dim: int, *, eps: float, rolled: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.rolled = rolled
        self.dropout = nn.Dropout(dropout)
        self.table = nn.Embedding(vocab_size, dim, _weight=torch.empty(vocab_size, dim))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.dim = dim

    def forward(self, ids: Tensor) -> Tensor:
        """(N, P) -> (N, P, E)."""
        x = self.table(ids) * self.dim**0.5
        length = ids.shape[-1]
        if not self.rolled:
            return self.norm(self.dropout(x + sinusoid(length, self.dim).to(x)))
        places = torch.arange(self.dim, device=x.device)
        shifted = (places - torch.arange(length, device=x.device)[:, None]) % self.dim
        out: Tensor = self.norm(self.dropout(x)).take_along_dim(shifted.unsqueeze(0), -1)
        return out


def sinusoid(length: int, dim: int) -> Tensor:
    """(length, dim): sine at even places, cosine at odd ones, base 10 000."""
    angles = torch.arange(length)[:, None] * torch.exp(
        torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim)
    )
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _gate(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())


class TabUnit(nn.Module):
    """Column name, type and value -> vectors of width E."""

    def __init__(self, config: UniTabEConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.words = WordEmbedding(
            config.vocab_size,
            dim,
            eps=config.norm_eps,
            rolled=config.order == "rolled",
            dropout=config.dropout,
        )
        self.types = nn.Embedding(config.types, dim)
        self.fuse = _gate(dim, config.dim)
        self.link = _gate(dim, config.dim)
        self.number = _number(config)
        self.slope = nn.Linear(dim, dim) if config.numbers == "named" else None

    def columns(self, names: Tensor, types: Tensor) -> Tensor:
        """(C, P) ids and (C,) types -> (C, E)."""
        c = mean_pieces(self.words(names), names)
        t = self.types(types)
        return c + self.fuse(t) * t

    def numbers(self, x: Tensor, columns: Tensor) -> Tensor:
        """(K,) standardised numbers and their columns' vectors (K, E) -> (K, E)."""
        assert self.number is not None
        x = x.unsqueeze(-1).to(columns.dtype)
        out: Tensor = self.number(x).squeeze(-2)
        return out if self.slope is None else out + x * self.slope(columns)


def _number(config: UniTabEConfig) -> nn.Module | None:
    dim = config.embed_dim
    match config.numbers:
        case "digits":
            return None
        case "linear" | "named":
            return Linear(1, dim)
        case "ple":
            return PiecewiseLinear([torch.tensor(_NORMAL_EIGHTHS)], dim)
        case "periodic" | "plr":
            relu = config.numbers == "plr"
            frequencies, sigma = config.frequencies, config.sigma
            return Periodic(1, dim, frequencies=frequencies, sigma=sigma, relu=relu)


def mean_pieces(x: Tensor, ids: Tensor) -> Tensor:
    """(N, P, E) -> (N, E): mean over the pieces that are no padding."""
    real = (ids != Words.pad_id).unsqueeze(-1).to(x)
    return (x * real).sum(1) / real.sum(1).clamp(min=1)


class PostNormBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)), with a ReLU inside the mlp."""

    def __init__(self, dim: int, heads: int, hidden: int, *, eps: float, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = self.norm1(x + self.dropout(self.attn(x, attend)))
        hidden = self.dropout(self.fc1(x).relu())
        return self.norm2(x + self.dropout(self.fc2(hidden)))


class UniTabE(RowEncoder, PieceEncoder):
    """Cells -> TabUnit -> post-norm transformer; rows of different tables packed end to end.

    A batch is what `TabularPreprocess` describes.
    """

    config_class = UniTabEConfig
    preprocess_class = TabularPreprocessConfig
    num_prefix_tokens = 1
    preprocess: TabularPreprocess

    def __init__(self, config: UniTabEConfig, preprocess: TabularPreprocessConfig) -> None:
        super().__init__()
        self.config, self.dim, self.word_dim = config, config.dim, config.embed_dim
        self.token_a_cell = config.tokens == "cells"
        self.spells = config.numbers == "digits" and config.pool == "cls"
        self.preprocess = TabularPreprocess(
            preprocess,
            vocab_size=config.vocab_size,
            numbers="digits" if config.numbers == "digits" else "embedded",
        )
        self.unit = TabUnit(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        self.embed_to_dim = nn.Linear(config.embed_dim, config.dim)
        self.blocks = nn.ModuleList(
            PostNormBlock(
                config.dim,
                config.heads,
                config.hidden,
                eps=config.norm_eps,
                dropout=config.dropout,
            )
            for _ in range(config.depth)
        )
        if not self.cls_token.is_meta:
            self.init_weights()

    def init_weights(self) -> None:
        """Kaiming-normal words; the class token uniform in +-1 / sqrt(E)."""
        nn.init.kaiming_normal_(self.unit.words.table.weight)
        bound = self.config.embed_dim**-0.5
        nn.init.uniform_(self.cls_token, -bound, bound)

    @property
    def piece_table(self) -> Tensor:
        """(vocab_size, E) vectors of word pieces, before any norm."""
        return self.unit.words.table.weight

    def columns(self, names: Tensor, types: Tensor) -> Tensor:
        """Names (C, P) and types (C,) -> (C, E)."""
        return self.unit.columns(names, types)

    def strings(self, values: Tensor) -> Tensor:
        """(V, P) word pieces -> (V, E)."""
        return mean_pieces(self.unit.words(values), values)

    def cells(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors of all tokens but the class token, (T, E), and each row's count (B,)."""
        columns = self.columns(batch["names"], batch["types"])
        linked = self.unit.link(columns) * columns
        ids = self._value_ids(batch["values"])
        words = self.unit.words(ids)
        if self.config.tokens == "cells":
            return self._cell_tokens(batch, columns, linked, mean_pieces(words, ids))
        return self._piece_tokens(batch, columns, linked, words, ids)

    def _value_ids(self, values: Tensor) -> Tensor:
        """Missing and hidden cells are strings of their own: the first two rows."""
        special = values.new_zeros(2, max(1, values.shape[1]))
        special[0, 0], special[1, 0] = Words.missing_id, Words.mask_id
        return torch.cat([special, values.reshape(-1, special.shape[1])])

    def _cell_tokens(
        self, batch: Batch, columns: Tensor, linked: Tensor, words: Tensor
    ) -> tuple[Tensor, Tensor]:
        column, value = batch["cell_column"], batch["cell_value"]
        x = words[value.clamp(min=0)]
        if self.unit.number is not None:
            numbers = self.unit.numbers(batch["cell_number"], columns[column])
            x = torch.where((value < 0).unsqueeze(-1), numbers, x)
        return x + linked[column], batch["lengths"]

    def _piece_tokens(
        self, batch: Batch, columns: Tensor, linked: Tensor, words: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        column, value, lengths = batch["cell_column"], batch["cell_value"], batch["lengths"]
        real = ids != Words.pad_id
        counts = torch.where(value < 0, 1, real.sum(1)[value.clamp(min=0)])
        cell = torch.repeat_interleave(torch.arange(len(value), device=value.device), counts)
        piece = torch.arange(len(cell), device=value.device) - (counts.cumsum(0) - counts)[cell]
        x = words[value.clamp(min=0)[cell], piece]
        if self.unit.number is not None:
            numbers = self.unit.numbers(batch["cell_number"], columns[column])[cell]
            x = torch.where((value < 0)[cell].unsqueeze(-1), numbers, x)
        rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(value.device)
        # Column vectors of a row stand before its values.
        order = torch.cat([2 * rows, 2 * rows[cell] + 1]).argsort(stable=True)
        x = torch.cat([columns[column], x + linked[column[cell]]])[order]
        pieces = torch.zeros_like(lengths).index_add(0, rows.cpu(), counts.cpu())
        return x, lengths + pieces

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (1, T, D) packed, with `lengths` (B,) that may be 0."""
        x, lengths = self.cells(batch)
        return Tokens(x=self.embed_to_dim(x).unsqueeze(0), lengths=lengths)

    def encode(self, tokens: Tokens) -> Tokens:
        """Class token in front of each row, then the blocks."""
        assert tokens.lengths is not None
        lengths = tokens.lengths + 1
        packed = Packed(lengths, tokens.x.device)
        place = torch.ones(packed.total, dtype=torch.int64)
        place[_heads(lengths)] = 0
        place = torch.where(place > 0, place.cumsum(0), 0).to(tokens.x.device)
        cls_token = self.embed_to_dim(self.cls_token).to(tokens.x.dtype)
        x = torch.cat([cls_token, tokens.x], dim=1)[:, place]
        attend = _attend(packed)
        for block in self.blocks:
            x = block(x, attend)
        return Tokens(x=x, lengths=lengths, prefix=1)

    def pool(self, tokens: Tokens) -> Tensor:
        """(B, D): the class token, or the mean over it and all cells."""
        assert tokens.lengths is not None
        if self.config.pool == "cls":
            return tokens.x[0, _heads(tokens.lengths).to(tokens.x.device)]
        return Packed(tokens.lengths, tokens.x.device).pool_mean(tokens.x)

    def forward(self, batch: Batch) -> Features:
        """All tokens through the trunk."""
        encoded = self.encode(self.tokenize(batch))
        assert encoded.lengths is not None
        body = torch.ones(encoded.x.shape[1], dtype=torch.bool)
        body[_heads(encoded.lengths)] = False
        tokens = encoded.x[:, body.to(encoded.x.device)]
        return Features(tokens=tokens, pooled=self.pool(encoded), lengths=encoded.lengths - 1)


def _heads(lengths: Tensor) -> Tensor:
    """(B,) where each row begins."""
    return lengths.cumsum(0) - lengths


def _attend(packed: Packed) -> Attend:
    """On the CPU, neighbours of one length go together: rows of a table are mostly alike."""
    runs = [(n, len([*group])) for n, group in groupby(packed.lengths)]
    if packed.device.type != "cpu" or len(runs) > len(packed.lengths) // 2:
        return lambda q, k, v: attention(q, k, v, packed=packed)
    sizes = [n * count for n, count in runs]

    def together(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = zip(runs, *(x.split(sizes, dim=1) for x in (q, k, v)), strict=True)
        out = []
        for (n, _), *part in parts:
            query, key, value = (x.unflatten(1, (-1, n)).squeeze(0) for x in part)
            out.append(attention(query, key, value).flatten(0, 1).unsqueeze(0))
        return torch.cat(out, dim=1)

    return together
