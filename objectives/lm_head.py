"""From an encoder's states to ids: the head of BERT (arXiv 1810.04805), tied to the embedding.

Notation: M positions, D width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear
from zoo.modalities.vocabulary import VocabularyEncoder
from zoo.objectives.tiled_cross_entropy import tiled_cross_entropy

__all__ = ["LMHead", "token_loss"]


class LMHead(nn.Module):
    """Linear, GELU, LayerNorm, then the encoder's embedding with a bias of its own.

    Args:
        encoder: whose embedding is shared; it is not part of the head.
        bias: of the linear layer and the norm: BERT has them, ModernBERT does not.
        eps: of the norm.
    """

    def __init__(self, encoder: VocabularyEncoder, *, bias: bool, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(encoder.dim, encoder.dim, bias=bias)
        self.norm = nn.LayerNorm(encoder.dim, eps=eps, bias=bias)
        self.bias = nn.Parameter(torch.zeros(encoder.vocab_size))
        nn.init.trunc_normal_(self.dense.weight, std=0.02)
        if bias:
            nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """States (M, D) and the embedding (V, D) -> logits (M, V)."""
        return linear(self._hidden(x), embedding, self.bias)

    def loss(self, x: Tensor, embedding: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """`token_loss` of the logits, and the accuracy, without ever holding all of them."""
        return tiled_cross_entropy(self._hidden(x), embedding, self.bias, targets)

    def _hidden(self, x: Tensor) -> Tensor:
        return self.norm(gelu(self.dense(x)))


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (M, V) in float32; 0 where there is no target."""
    # A batch of empty texts has no target: its loss is 0, not 0 / 0.
    return cross_entropy(logits.float(), targets, reduction="sum") / max(1, len(targets))
