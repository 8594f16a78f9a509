"""CodeT5+ checkpoints in T5's layout of transformers (arXiv 2305.07922) <-> zoo's names.

The embedding model is an encoder with a projection, the others have a decoder too, bimodal ones
also a head that matches text and code.
"""

from collections.abc import Iterable

from zoo.hub.names import Pairs, check_tied, rules_of
from zoo.hub.rules import Rules, State

__all__ = ["CODET5P", "CODET5P_RULES", "check_codet5p", "detect_codet5p"]


def _stack(name: str, mlp: int) -> Pairs:
    """One stack; its MLP is sub-layer `mlp` of each block."""
    theirs, ours = f"{name}.block.{{}}.layer.", f"{name}.blocks.{{}}."
    bias = "SelfAttention.relative_attention_bias.*"
    return (
        (f"{name}.block.0.layer.0.{bias}", f"{name}.relative.*"),
        (f"{name}.final_layer_norm.*", f"{name}.norm.*"),
        *((f"{theirs}0.SelfAttention.{p}.*", f"{ours}attn.{p}.*") for p in "qkvo"),
        (f"{theirs}0.layer_norm.*", f"{ours}norm1.*"),
        *((f"{theirs}{mlp}.DenseReluDense.{p}.*", f"{ours}mlp.{p}.*") for p in ("wi", "wo")),
        (f"{theirs}{mlp}.layer_norm.*", f"{ours}norm2.*"),
    )


_CROSS: Pairs = (
    *(
        (f"decoder.block.{{}}.layer.1.EncDecAttention.{p}.*", f"decoder.blocks.{{}}.cross.{p}.*")
        for p in "qkvo"
    ),
    ("decoder.block.{}.layer.1.layer_norm.*", "decoder.blocks.{}.norm_cross.*"),
)
CODET5P: Pairs = (
    ("shared.*", "embedding.*"),
    *_stack("encoder", 1),
    *_stack("decoder", 2),
    *_CROSS,
    ("proj.*", "proj.*"),
    ("itm_head.*", "objective:itm_head.*"),
)
_TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
CODET5P_RULES: Rules = (
    *rules_of(CODET5P),
    (r"(?:(?:encoder|decoder)\.embed_tokens|lm_head)\.weight", "extra:tied to the embedding"),
    (r"cls_head\.\w+", "extra:a classifier, no part of the encoder"),
)


def detect_codet5p(keys: Iterable[str]) -> str | None:
    """The layout's name if these are keys of T5."""
    found = any(key == "encoder.block.0.layer.0.SelfAttention.q.weight" for key in keys)
    return "codet5p" if found else None


def check_codet5p(state: State) -> None:
    """Raises WeightsError where a stack or the head has a table of its own."""
    check_tied(state, _TIED, "shared.weight")
