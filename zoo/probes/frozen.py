"""What a probe sees of a frozen encoder.

Notation: B samples, T prefix and N other tokens, D width.
"""

from typing import Literal, NamedTuple

from torch import Tensor

from zoo.errors import UsageError
from zoo.modalities.contracts import Batch, Encoder, TokenEncoder

__all__ = ["TokenMap", "pooled", "token_map"]


class TokenMap(NamedTuple):
    """Tokens behind the encoder's final norm."""

    x: Tensor  # (B, T + N, D)
    prefix: int  # T
    grid: tuple[int, ...]  # of the N


def token_map(encoder: Encoder, batch: Batch) -> TokenMap:
    """All tokens of a batch.

    Weights that were trained with a transposed position grid (Bird-MAE) have a map of that shape,
    as in upstream's prototypical probe.

    Raises:
        UsageError: samples differ in their number of tokens.
    """
    if isinstance(encoder, TokenEncoder):
        tokens = encoder.encode(encoder.tokenize(batch))
        x, prefix, lengths = tokens.x, tokens.prefix, tokens.lengths
        grid: tuple[int, ...] | None = getattr(encoder, "grid", None)
    else:
        features = encoder(batch)
        x, prefix, lengths, grid = features.tokens, 0, features.lengths, features.grid
    if lengths is not None:
        raise UsageError(
            "this probe looks at tokens, and samples have different numbers of them: kind='linear' "
            "and kind='knn' look at pooled features"
        )
    if getattr(getattr(encoder, "config", None), "positions", None) == "transposed":
        grid = None if grid is None else grid[::-1]
    return TokenMap(x, prefix, grid or (x.shape[1] - prefix,))


def pooled(encoder: Encoder, batch: Batch, pool: Literal["encoder", "norm"]) -> Tensor:
    """(B, D): as the encoder pools, or the mean over its tokens behind the final norm."""
    if pool == "encoder":
        features: Tensor = encoder(batch).pooled
        return features
    tokens = token_map(encoder, batch)
    return tokens.x[:, tokens.prefix :].mean(dim=1)
