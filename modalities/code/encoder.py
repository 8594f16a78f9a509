"""Transformer encoder for source code and text, packed end to end.

One encoder, two published forms. ModernBERT (arXiv 2412.13663): pre-norm without biases, rotary
positions (arXiv 2104.09864), layers that see everything and layers that see a window by turns.
MosaicBERT (arXiv 2312.17482): post-norm with biases, ALiBi (arXiv 2108.12409). Both gate their
MLPs. No token of padding is ever computed; a padded batch is accepted too and gives the same
numbers.

Notation: B texts, N tokens of the longest, T tokens of a packed batch, M tokens somebody asks
about, D width, H heads, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from zoo.modalities.attention import alibi_slopes, attention, attention_at, rotary, rotate
from zoo.modalities.blocks import Attend, Attention
from zoo.modalities.code.geglu import GatedMlp
from zoo.modalities.code.preprocess import CodePreprocess, CodePreprocessConfig
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.packing import Packed
from zoo.modalities.vocabulary import CausalEncoder

__all__ = ["CodeEncoder", "CodeEncoderConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeEncoderConfig:
    """Everything that shapes the encoder."""

    vocab_size: int = 50_368
    dim: int = 768
    depth: int = 22
    heads: int = 12
    hidden: int = 1152  # width of each branch of the MLP
    position: Literal["rotary", "alibi"] = "rotary"
    rotary_base: float = 10_000.0  # of layers that see everything
    local_rotary_base: float = 10_000.0
    window: int | None = None  # tokens that a local layer sees on each side
    global_every: int = 3  # with a window: layers 0, 3, 6, ... see everything
    norm_first: bool = True  # else after each residual sum, and none at the end
    bias: bool = False  # of norms and layers; the first layer of an MLP never has one
    token_types: int = 0  # kinds of segments that the embedding tells apart (BERT has 2)
    # mean: over the last layer. first_last: half of it from the embedding layer, because the last
    # layer of a masked language model has turned from what a token is to what it could be.
    pool: Literal["mean", "first_last"] = "mean"
    norm_eps: float = 1e-5
    init_std: float = 0.02
    dropout: float = 0.0  # of what attention adds
    hidden_dropout: float = 0.0  # of embeddings, and inside the MLPs

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")


class TextBlock(nn.Module):
    """Attention and a gated MLP around residual sums, normed before (pre) or after them (post)."""

    def __init__(self, config: CodeEncoderConfig, *, normed: bool) -> None:
        """`normed`: the input comes from a norm, so a pre-norm block needs no first one."""
        super().__init__()
        dim, bias = config.dim, config.bias
        self.norm_first = config.norm_first
        norm = nn.LayerNorm(dim, eps=config.norm_eps, bias=bias)
        self.norm1 = nn.Identity() if normed and config.norm_first else norm
        self.attn = Attention(dim, config.heads, bias=bias)
        self.dropout = nn.Dropout(config.dropout)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps, bias=bias)
        self.mlp = GatedMlp(dim, config.hidden, bias=bias, dropout=config.hidden_dropout)

    def forward(self, x: Tensor, attend: Attend, index: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or (1, M, D) of the tokens at `index` (M,) into all B x N."""
        first = self.norm1 if self.norm_first else nn.Identity()
        if index is None:
            mixed = self.attn.mix(first(x), attend)
        else:
            every, x = x, _at(x, index)
            mixed = self.attn.mix_at(first(x), first(every), attend)
        added = self.dropout(self.attn.proj(mixed))
        if self.norm_first:
            x = x + added
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + added)
        return self.norm2(x + self.mlp(x))


class CodeEncoder(CausalEncoder):
    """Token ids -> transformer; pooled is a mean over a text's own tokens.

    A batch holds `ids` (T,) with `lengths` (B,), or `ids` (B, N) with `valid` (B, N), True at real
    tokens. Where there are token types, `types` like `ids`; 0 when missing.
    """

    modality = "code"
    config_class = CodeEncoderConfig
    preprocess_class = CodePreprocessConfig
    preprocess: CodePreprocess

    def __init__(self, config: CodeEncoderConfig, preprocess: CodePreprocessConfig) -> None:
        super().__init__()
        self.config, self.dim, self.vocab_size = config, config.dim, config.vocab_size
        self.preprocess = CodePreprocess(preprocess, vocab_size=config.vocab_size)
        self.mask_id, self.ordinary = preprocess.mask_id, preprocess.ordinary(config.vocab_size)
        table = torch.empty(config.vocab_size, config.dim)  # given, so that it is not drawn twice
        self.embedding = nn.Embedding(config.vocab_size, config.dim, _weight=table)
        if config.token_types:
            self.type_embedding = nn.Embedding(config.token_types, config.dim)
        norm = partial(nn.LayerNorm, config.dim, eps=config.norm_eps, bias=config.bias)
        self.embedding_norm = norm()
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.blocks = nn.ModuleList(
            TextBlock(config, normed=number == 0) for number in range(config.depth)
        )
        self.norm = norm() if config.norm_first else nn.Identity()
        if not self.embedding.weight.is_meta:  # drawing on meta imports torch's compiler
            self.init_weights()
        self.init_buffers()

    def init_weights(self) -> None:
        """Pre-norm as ModernBERT: truncated normal, residual outputs by 1 / sqrt(2 depth).

        Post-norm as BERT: normal. Biases are zero.
        """
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1 and not self.config.norm_first:
                nn.init.normal_(parameter, std=std)
            elif parameter.ndim > 1:
                inner = std / (2 * self.config.depth) ** 0.5
                scale = inner if name.endswith(("proj.weight", "fc2.weight")) else std
                nn.init.trunc_normal_(parameter, std=scale, a=-2 * scale, b=2 * scale)

    def init_buffers(self) -> None:
        """ALiBi slopes (H,), in no file: they hold for every length."""
        slopes = alibi_slopes(self.config.heads) if self.config.position == "alibi" else None
        if slopes is not None:
            slopes = slopes.to(self.embedding.weight.device)
        self.register_buffer("slopes", slopes, persistent=False)

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (1, T, D) packed, or (B, N, D)."""
        ids, lengths = batch["ids"], batch.get("lengths")
        x = self.embedding(ids)
        if self.config.token_types:
            types = batch.get("types")
            x = x + (self.type_embedding.weight[0] if types is None else self.type_embedding(types))
        x = self.dropout(self.embedding_norm(x if lengths is None else x.unsqueeze(0)))
        return Tokens(x=x, lengths=lengths, valid=batch.get("valid"))

    def encode(self, tokens: Tokens, *, causal: bool = False) -> Tokens:
        """Blocks and norm; sequences do not see each other, with `causal` no token one after it."""
        x = self._trunk(tokens, causal=causal)
        return Tokens(x=x, lengths=tokens.lengths, valid=tokens.valid)

    def states(self, batch: Batch, index: Tensor) -> Tensor:
        """(M, D) at `index`; from the last layer's queries on these alone are computed."""
        return self._trunk(self.tokenize(batch), index=index)[0]

    def forward(self, batch: Batch) -> Features:
        """All tokens through the trunk; pooled as `config.pool` says."""
        first = self.tokenize(batch)
        last = self.encode(first)
        pooled = self.pool(last)
        if self.config.pool == "first_last":
            pooled = (self.pool(first) + pooled) / 2
        return Features(tokens=last.x, pooled=pooled, lengths=last.lengths)

    def pool(self, tokens: Tokens) -> Tensor:
        """(B, D): mean over each text's own tokens."""
        if tokens.lengths is not None:
            return Packed(tokens.lengths, tokens.x.device).pool_mean(tokens.x)
        if tokens.valid is None:
            return tokens.x.mean(dim=1)
        keep = tokens.valid.unsqueeze(-1)
        return (tokens.x * keep).sum(dim=1) / keep.sum(dim=1)

    def _trunk(
        self, tokens: Tokens, *, causal: bool = False, index: Tensor | None = None
    ) -> Tensor:
        x, valid, every = tokens.x, tokens.valid, self.config.global_every
        packed = None if tokens.lengths is None else Packed(tokens.lengths, x.device)
        places = torch.arange(x.shape[1], device=x.device) if packed is None else packed.positions
        look = partial(attention, packed=packed, valid=valid, causal=causal)
        attends = self._attends(look, places, places)
        for number, block in enumerate(self.blocks):
            asked = index if number == self.config.depth - 1 else None
            if asked is not None:
                look = partial(attention_at, index=asked, packed=packed, valid=valid)
                attends = self._attends(look, places[asked % len(places)], places)
            x = block(x, attends[number % every != 0], asked)
        return self.norm(x)

    def _attends(
        self, look: Callable[..., Tensor], asking: Tensor, places: Tensor
    ) -> tuple[Attend, Attend]:
        """What layers that see everything and what local layers attend with.

        Args:
            look: attention without its positions.
            asking: positions of the tokens that queries are of.
            places: positions of all tokens.
        """
        config = self.config
        if config.position == "alibi":
            look = partial(look, slopes=self.slopes)
            return look, partial(look, window=config.window)

        def turned(base: float, window: int | None) -> Attend:
            mine, turn = (rotary(at, config.dim // config.heads, base) for at in (asking, places))
            return lambda q, k, v: look(rotate(q, mine), rotate(k, turn), v, window=window)

        everywhere = turned(config.rotary_base, None)
        if config.window is None:
            return everywhere, everywhere
        return everywhere, turned(config.local_rotary_base, config.window)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, D) -> (1, M, D); its backward adds rows, where `x[index]` would sort them first."""
    return x.flatten(0, 1).index_select(0, index).unsqueeze(0)
