"""T5's encoder and decoder (arXiv 1910.10683), as CodeT5+ (arXiv 2305.07922) is built of them.

Pre-norm with root-mean-square norms, no biases, attention without scale and with a learned bias by
relative distance that all layers of a stack share. Packed end to end: a padded batch is packed
first.

Notation: B texts, T tokens of a packed batch, D width, H heads, E width of a head, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, normalize, relu
from zoo.modalities.code.preprocess import CodePreprocess, CodePreprocessConfig
from zoo.modalities.code.relative import RelativeBias, attend
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.packing import Packed
from zoo.modalities.vocabulary import VocabularyEncoder, WriterEncoder

__all__ = ["T5", "T5Config", "T5Encoder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Config:
    """Everything that shapes the encoder, and the decoder where there is one."""

    vocab_size: int = 32_100
    dim: int = 768
    depth: int = 12
    decoder_depth: int = 12
    heads: int = 12
    head_dim: int = 64
    hidden: int = 3072
    buckets: int = 32  # of relative distances
    max_distance: int = 128  # from where on all are alike
    embed_dim: int | None = None  # of the projection, whose output gets length 1
    norm_eps: float = 1e-6
    dropout: float = 0.1
    decoder_start_id: int = 0


class T5Attention(nn.Module):
    """Multi-head attention to oneself or to another sequence."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads, self.drop = config.heads, config.dropout
        self.q = nn.Linear(config.dim, inner, bias=False)
        self.k = nn.Linear(config.dim, inner, bias=False)
        self.v = nn.Linear(config.dim, inner, bias=False)
        self.o = nn.Linear(inner, config.dim, bias=False)

    def forward(
        self, x: Tensor, packed: Packed, bias: Tensor | None, memory: tuple[Tensor, Packed] | None
    ) -> Tensor:
        """(1, T, D) -> (1, T, D); keys and values come from `memory` where there is one."""
        source, division = memory or (x, packed)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1))
            for part in (self.q(x), self.k(source), self.v(source))
        )
        drop = self.drop if self.training else 0.0
        return self.o(attend(q, k, v, (packed, division), bias=bias, dropout=drop).flatten(-2))


class T5Mlp(nn.Module):
    """wo(relu(wi(x)))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.dim, config.hidden, bias=False)
        self.wo = nn.Linear(config.hidden, config.dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, D) -> (1, T, D)."""
        return self.wo(self.dropout(relu(self.wi(x))))


class T5Block(nn.Module):
    """Attention, in a decoder attention to the encoder, and an MLP, each added to its input."""

    def __init__(self, config: T5Config, *, cross: bool) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attn = T5Attention(config)
        if cross:
            self.norm_cross = nn.RMSNorm(config.dim, eps=config.norm_eps)
            self.cross = T5Attention(config)
        self.norm2 = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = T5Mlp(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, packed: Packed, bias: Tensor, memory: tuple[Tensor, Packed] | None
    ) -> Tensor:
        """(1, T, D) -> (1, T, D)."""
        x = x + self.dropout(self.attn(self.norm1(x), packed, bias, None))
        if memory is not None:
            x = x + self.dropout(self.cross(self.norm_cross(x), packed, None, memory))
        return x + self.dropout(self.mlp(self.norm2(x)))


class T5Stack(nn.Module):
    """Blocks and a norm; a decoder's see no later token, and the encoder's states."""

    def __init__(self, config: T5Config, depth: int, *, decoder: bool) -> None:
        super().__init__()
        self.relative = RelativeBias(
            config.heads, config.buckets, config.max_distance, causal=decoder
        )
        self.blocks = nn.ModuleList(T5Block(config, cross=decoder) for _ in range(depth))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, packed: Packed, memory: tuple[Tensor, Packed] | None = None
    ) -> Tensor:
        """(1, T, D) -> (1, T, D)."""
        x, bias = self.dropout(x), self.relative(packed.longest)
        for block in self.blocks:
            x = block(x, packed, bias, memory)
        return self.dropout(self.norm(x))


class T5Encoder(VocabularyEncoder):
    """Token ids -> states; pooled is the first token's, projected to length 1 if `embed_dim`.

    A batch holds `ids` (T,) with `lengths` (B,), or `ids` (B, N) with `valid` (B, N), True at real
    tokens. Features are packed.
    """

    modality = "code"
    config_class = T5Config
    preprocess_class = CodePreprocessConfig
    preprocess: CodePreprocess

    def __init__(self, config: T5Config, preprocess: CodePreprocessConfig) -> None:
        super().__init__()
        self.config, self.dim, self.vocab_size = config, config.dim, config.vocab_size
        self.preprocess = CodePreprocess(preprocess, vocab_size=config.vocab_size)
        self.mask_id, self.ordinary = preprocess.mask_id, preprocess.ordinary(config.vocab_size)
        table = torch.empty(config.vocab_size, config.dim)
        self.embedding = nn.Embedding(config.vocab_size, config.dim, _weight=table)
        self.encoder = T5Stack(config, config.depth, decoder=False)
        if config.embed_dim is not None:
            self.proj = nn.Linear(config.dim, config.embed_dim)
        self._grow()
        if not self.embedding.weight.is_meta:
            self.init_weights()

    def _grow(self) -> None:
        """What else there is besides the encoder."""

    @property
    def embed_dim(self) -> int:
        """Width of the pooled features."""
        return self.config.embed_dim or self.dim

    def init_weights(self) -> None:
        """T5's own: deviations that keep unscaled attention in range; a table of deviation 1."""
        config = self.config
        inner = config.heads * config.head_dim
        deviations = {
            "embedding": 1.0,
            "q": (config.dim * config.head_dim) ** -0.5,
            "o": inner**-0.5,
            "wo": config.hidden**-0.5,
        }
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                std = deviations.get(name.split(".")[-2], config.dim**-0.5)
                nn.init.normal_(parameter, std=std)

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (1, T, D), packed."""
        ids, lengths = batch["ids"], batch.get("lengths")
        if lengths is None:
            valid = batch.get("valid", torch.ones_like(ids, dtype=torch.bool))
            ids, lengths = ids[valid], valid.sum(dim=1).cpu()
        return Tokens(x=self.embedding(ids).unsqueeze(0), lengths=lengths)

    def encode(self, tokens: Tokens) -> Tokens:
        """The encoder's stack."""
        assert tokens.lengths is not None
        packed = Packed(tokens.lengths, tokens.x.device)
        return Tokens(x=self.encoder(tokens.x, packed), lengths=tokens.lengths)

    def pool(self, tokens: Tokens) -> Tensor:
        """(B, embed_dim), computed in float32 where it gets length 1."""
        assert tokens.lengths is not None
        starts = Packed(tokens.lengths, tokens.x.device).cu_seqlens[:-1]
        first = tokens.x[0].index_select(0, starts)
        return normalize(self.proj(first).float(), dim=-1) if self.config.embed_dim else first


class T5(T5Encoder, WriterEncoder):
    """With a decoder, whose batches hold `decoder_ids` (T,) and `decoder_lengths` (B,)."""

    def _grow(self) -> None:
        self.decoder_start_id = self.config.decoder_start_id
        self.max_length = self.preprocess.config.max_length
        self.sentinels = self.preprocess.config.sentinels
        self.decoder = T5Stack(self.config, self.config.decoder_depth, decoder=True)

    def decode(self, features: Features, batch: Batch) -> Tensor:
        """States (1, T, D): each text's decoder sees its own tokens so far, and its features."""
        assert features.lengths is not None
        device = features.tokens.device
        x = embedding(batch["decoder_ids"], self.embedding.weight).unsqueeze(0)
        memory = features.tokens, Packed(features.lengths, device)
        return self.decoder(x, Packed(batch["decoder_lengths"], device), memory)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V); the table is shared, so states are scaled by D ** -0.5."""
        return linear(hidden * self.dim**-0.5, self.embedding.weight)
