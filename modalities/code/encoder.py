"""Transformer encoder for source code and text, packed end to end.

Pre-norm blocks without biases, GeGLU, rotary (arXiv 2104.09864) or ALiBi (arXiv 2108.12409)
positions, as ModernBERT (arXiv 2412.13663) and MosaicBERT (arXiv 2312.17482) made them common. No
token of padding is ever computed; a padded batch is accepted too and gives the same numbers.

Notation: B texts, N tokens of the longest, T tokens of a packed batch, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from zoo.modalities.attention import alibi_slopes, attention, rotary, rotate
from zoo.modalities.blocks import Attend, Block
from zoo.modalities.code.preprocess import CodePreprocess, CodePreprocessConfig
from zoo.modalities.code.tokenizer import SPECIAL_TOKENS, Tokenizer
from zoo.modalities.contracts import Batch, Features, Tokens, VocabularyEncoder
from zoo.modalities.packing import Packed

__all__ = ["CodeEncoder", "CodeEncoderConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeEncoderConfig:
    """Everything that shapes the encoder."""

    vocab_size: int = 50_368
    dim: int = 768
    depth: int = 22
    heads: int = 12
    hidden: int = 1152  # width of each GeGLU branch
    position: Literal["rotary", "alibi"] = "rotary"
    rotary_base: float = 10_000.0
    # mean: over the last layer. first_last: half of it from the embedding layer, because the last
    # layer of a masked language model has turned from what a token is to what it could be.
    pool: Literal["mean", "first_last"] = "mean"
    norm_eps: float = 1e-5
    init_std: float = 0.02


class CodeEncoder(VocabularyEncoder):
    """Token ids -> pre-norm transformer -> norm; pooled is a mean over a text's own tokens.

    A batch holds `ids` (T,) with `lengths` (B,), or `ids` (B, N) with `valid` (B, N), True at real
    tokens.
    """

    modality = "code"
    config_class = CodeEncoderConfig
    preprocess_class = CodePreprocessConfig
    mask_id = Tokenizer.mask_id
    num_special = len(SPECIAL_TOKENS)
    preprocess: CodePreprocess

    def __init__(self, config: CodeEncoderConfig, preprocess: CodePreprocessConfig) -> None:
        super().__init__()
        self.config, self.dim, self.vocab_size = config, config.dim, config.vocab_size
        self.preprocess = CodePreprocess(preprocess, vocab_size=config.vocab_size)
        table = torch.empty(config.vocab_size, config.dim)  # given, so that it is not drawn twice
        self.embedding = nn.Embedding(config.vocab_size, config.dim, _weight=table)
        self.embedding_norm = nn.LayerNorm(config.dim, eps=config.norm_eps, bias=False)
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                config.heads,
                config.hidden,
                norm_eps=config.norm_eps,
                gated=True,
                bias=False,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps, bias=False)
        if not self.embedding.weight.is_meta:  # drawing on meta imports torch's compiler
            self.init_weights()
        self.init_buffers()

    def init_weights(self) -> None:
        """Truncated normal; outputs of residual branches by 1 / sqrt(2 depth), as ModernBERT."""
        std = self.config.init_std
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                inner = std / (2 * self.config.depth) ** 0.5
                scale = inner if name.endswith(("proj.weight", "fc2.weight")) else std
                nn.init.trunc_normal_(parameter, std=scale, a=-2 * scale, b=2 * scale)

    def init_buffers(self) -> None:
        """ALiBi slopes (H,), in no file."""
        slopes = alibi_slopes(self.config.heads) if self.config.position == "alibi" else None
        if slopes is not None:
            slopes = slopes.to(self.embedding.weight.device)
        self.register_buffer("slopes", slopes, persistent=False)

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (1, T, D) packed, or (B, N, D)."""
        ids, lengths = batch["ids"], batch.get("lengths")
        x = self.embedding_norm(self.embedding(ids if lengths is None else ids.unsqueeze(0)))
        return Tokens(x=x, lengths=lengths, valid=batch.get("valid"))

    def encode(self, tokens: Tokens) -> Tokens:
        """Blocks and norm; sequences do not see each other."""
        x, attend = tokens.x, self._attend(tokens)
        for block in self.blocks:
            x = block(x, attend)
        return Tokens(x=self.norm(x), lengths=tokens.lengths, valid=tokens.valid)

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

    def _attend(self, tokens: Tokens) -> Attend:
        x, slopes = tokens.x, self.slopes
        packed = None if tokens.lengths is None else Packed(tokens.lengths, x.device)
        if self.config.position == "alibi":
            assert isinstance(slopes, Tensor)
            return lambda q, k, v: attention(
                q, k, v, packed=packed, valid=tokens.valid, slopes=slopes
            )
        if packed is None:
            positions = torch.arange(x.shape[1], device=x.device)
        else:
            positions = packed.positions
        turn = rotary(positions, self.dim // self.config.heads, self.config.rotary_base)
        return lambda q, k, v: attention(
            rotate(q, turn), rotate(k, turn), v, packed=packed, valid=tokens.valid
        )
