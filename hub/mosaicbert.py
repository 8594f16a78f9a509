"""MosaicBERT checkpoints of mosaicml/examples (arXiv 2312.17482) <-> zoo's names.

Files of Composer say `model.` in front; fine-tuned ones bring a classifier and its pooler.
"""

from collections.abc import Iterable

from zoo.hub.names import Pairs, check_tied, rules_of
from zoo.hub.rules import Rules, State

__all__ = ["MOSAICBERT", "MOSAICBERT_RULES", "check_mosaicbert", "detect_mosaicbert"]

_LAYER, _HEAD = "bert.encoder.layer.{}.", "cls.predictions."
MOSAICBERT: Pairs = (
    ("bert.embeddings.word_embeddings.*", "embedding.*"),
    ("bert.embeddings.token_type_embeddings.*", "type_embedding.*"),
    ("bert.embeddings.LayerNorm.*", "embedding_norm.*"),
    (_LAYER + "attention.self.Wqkv.*", "blocks.{}.attn.qkv.*"),
    (_LAYER + "attention.output.dense.*", "blocks.{}.attn.proj.*"),
    (_LAYER + "attention.output.LayerNorm.*", "blocks.{}.norm1.*"),
    (_LAYER + "mlp.gated_layers.*", "blocks.{}.mlp.fc1.*"),
    (_LAYER + "mlp.wo.*", "blocks.{}.mlp.fc2.*"),
    (_LAYER + "mlp.layernorm.*", "blocks.{}.norm2.*"),
    (_HEAD + "transform.dense.*", "objective:head.dense.*"),
    (_HEAD + "transform.LayerNorm.*", "objective:head.norm.*"),
    (_HEAD + "decoder.bias", "objective:head.bias"),
)
_WRAPPED = r"(?:model\.)?"
_CLASSIFIER = "extra:a classifier, no part of the encoder"
MOSAICBERT_RULES: Rules = (
    *rules_of(MOSAICBERT, _WRAPPED),
    (_WRAPPED + r"cls\.predictions\.decoder\.weight", "extra:tied to the embedding"),
    (_WRAPPED + r"bert\.embeddings\.position_ids", "extra:ALiBi has no table of positions"),
    (_WRAPPED + r"(?:bert\.pooler\.dense|classifier)\.\w+", _CLASSIFIER),
)


def detect_mosaicbert(keys: Iterable[str]) -> str | None:
    """The layout's name if these are keys of MosaicBERT."""
    found = any(key.endswith("bert.encoder.layer.0.mlp.gated_layers.weight") for key in keys)
    return "mosaicbert" if found else None


def check_mosaicbert(state: State) -> None:
    """Raises WeightsError where the head has a table of its own."""
    for wrapper in ("", "model."):
        tied = (f"{wrapper}cls.predictions.decoder.weight",)
        check_tied(state, tied, f"{wrapper}bert.embeddings.word_embeddings.weight")
