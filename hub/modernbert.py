"""ModernBERT checkpoints of transformers (arXiv 2412.13663) <-> zoo's names.

A `ModernBertModel` without a head leaves out `model.` in front.
"""

from collections.abc import Iterable

from zoo.hub.names import Pairs, check_tied, rules_of
from zoo.hub.rules import Rules, State

__all__ = ["HEAD", "MODERNBERT", "MODERNBERT_RULES", "check_modernbert", "detect_modernbert"]

MODERNBERT: Pairs = (
    ("embeddings.tok_embeddings.*", "embedding.*"),
    ("embeddings.norm.*", "embedding_norm.*"),
    ("layers.{}.attn_norm.*", "blocks.{}.norm1.*"),
    ("layers.{}.attn.Wqkv.*", "blocks.{}.attn.qkv.*"),
    ("layers.{}.attn.Wo.*", "blocks.{}.attn.proj.*"),
    ("layers.{}.mlp_norm.*", "blocks.{}.norm2.*"),
    ("layers.{}.mlp.Wi.*", "blocks.{}.mlp.fc1.*"),
    ("layers.{}.mlp.Wo.*", "blocks.{}.mlp.fc2.*"),
    ("final_norm.*", "norm.*"),
)
HEAD: Pairs = (
    ("head.dense.*", "objective:head.dense.*"),
    ("head.norm.*", "objective:head.norm.*"),
    ("decoder.bias", "objective:head.bias"),
)
MODERNBERT_RULES: Rules = (
    *rules_of(MODERNBERT, r"(?:model\.)?"),
    *rules_of(HEAD),
    (r"decoder\.weight", "extra:tied to the embedding"),
    (r"classifier\.\w+", "extra:a classifier, no part of the encoder"),
)


def detect_modernbert(keys: Iterable[str]) -> str | None:
    """The layout's name if these are keys of ModernBERT."""
    found = any(key.endswith("embeddings.tok_embeddings.weight") for key in keys)
    return "modernbert" if found else None


def check_modernbert(state: State) -> None:
    """Raises WeightsError where the head has a table of its own."""
    check_tied(state, ("decoder.weight",), "model.embeddings.tok_embeddings.weight")
