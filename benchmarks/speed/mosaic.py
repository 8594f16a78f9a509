"""MosaicBERT as its authors compute it (mosaicml/examples, arXiv 2312.17482), restated to be timed.

Rows are without padding everywhere but in attention, which pads queries, keys and values to the
longest sequence in every layer, writes the scores out, and takes the padding away again. The last
layer's projection and MLP, and the head, run on labelled positions and each text's first token.
Modules are named so that zoo's weights fit.

Notation: B texts, N tokens of the longest, T tokens of all, D width, H heads, M labels.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear
from zoo.modalities.attention import alibi_slopes
from zoo.modalities.code.encoder import CodeEncoderConfig

__all__ = ["UpstreamMosaic"]


class _Padder:
    """Where the T rows lie among B x N."""

    def __init__(self, valid: Tensor) -> None:
        self.shape = valid.shape
        self.index = valid.flatten().nonzero().flatten()

    def pad(self, x: Tensor) -> Tensor:
        """(T, D) -> (B, N, D)."""
        out = x.new_zeros(self.shape.numel(), x.shape[-1])
        return out.index_copy(0, self.index, x).unflatten(0, self.shape)

    def unpad(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (T, D)."""
        return x.flatten(0, 1).index_select(0, self.index)


class _Attention(nn.Module):
    def __init__(self, config: CodeEncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, padder: _Padder, bias: Tensor) -> Tensor:
        qkv = padder.pad(self.qkv(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, N, E) each
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
        seen = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        return padder.unpad(seen)


class _Mlp(nn.Module):
    def __init__(self, config: CodeEncoderConfig) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.fc1 = nn.Linear(config.dim, 2 * config.hidden, bias=False)
        self.fc2 = nn.Linear(config.hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        active, gate = x[:, : self.hidden], x[:, self.hidden :]
        return self.fc2(gelu(active) * gate)


class _Block(nn.Module):
    def __init__(self, config: CodeEncoderConfig) -> None:
        super().__init__()
        self.attn, self.mlp = _Attention(config), _Mlp(config)
        self.norm1 = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.norm_eps)

    def forward(self, x: Tensor, padder: _Padder, bias: Tensor, rows: Tensor | None) -> Tensor:
        seen = self.attn(x, padder, bias)
        if rows is not None:
            x, seen = x[rows], seen[rows]
        x = self.norm1(x + self.attn.proj(seen))
        return self.norm2(x + self.mlp(x))


class UpstreamMosaic(nn.Module):
    """The masked language model; `ids`, `valid` and `labels` are (B, N)."""

    def __init__(self, config: CodeEncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.type_embedding = nn.Embedding(config.token_types, config.dim)
        self.embedding_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.head = nn.ModuleDict(
            {
                "dense": nn.Linear(config.dim, config.dim),
                "norm": nn.LayerNorm(config.dim, eps=config.norm_eps),
            }
        )
        self.head.register_parameter("bias", nn.Parameter(torch.zeros(config.vocab_size)))

    def forward(self, ids: Tensor, valid: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        padder = _Padder(valid)
        x = self.embedding(ids) + self.type_embedding(torch.zeros_like(ids))
        x = padder.unpad(self.embedding_norm(x))
        bias = self._bias(valid)
        labelled = labels > 0
        first = torch.zeros_like(labelled)
        first[:, 0] = True
        asked = padder.unpad((labelled | first).unsqueeze(-1))[:, 0]
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            x = block(x, padder, bias, asked if last else None)
        x = x[padder.unpad(labelled.unsqueeze(-1))[:, 0][asked]]
        x = self.head["norm"](gelu(self.head["dense"](x)))
        bias_of_ids = self.head.get_parameter("bias")
        return cross_entropy(linear(x, self.embedding.weight, bias_of_ids), labels[labelled])

    def _bias(self, valid: Tensor) -> Tensor:
        """(B, H, N, N): ALiBi, and -10000 at padding."""
        n = torch.arange(valid.shape[1])
        alibi = -alibi_slopes(self.heads).view(-1, 1, 1) * (n[:, None] - n).abs()
        return alibi + (1.0 - valid.float())[:, None, None, :] * -10_000.0
