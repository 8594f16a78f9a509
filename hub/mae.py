"""Masked autoencoders of ViTs in the names of others -> zoo's, which are facebookresearch/mae's.

Layouts: `mae` (facebookresearch/mae and AudioMAE, timm's `.mae` and `.audiomae` tags, Bird-MAE on
the Hub; pretrained or fine-tuned), `transformers-vit-mae` (files of transformers 4; transformers 5
in memory and on disk, in any mixture) and `bird-mae-lightning` (the `state_dict` of Bird-MAE's
checkpoints).
"""

from collections.abc import Collection

from zoo.hub.names import Pairs, rules_of
from zoo.hub.rules import Rules

__all__ = [
    "BIRD_MAE_AVERAGED_RULES",
    "BIRD_MAE_RULES",
    "MAE_RULES",
    "TRANSFORMERS",
    "TRANSFORMERS_RULES",
    "detect_mae",
]


def _heads(owner: str) -> Rules:
    return (
        (owner + r"head\..+", "extra:a classifier, no part of the encoder"),
        (owner + r"ppnet\..+", "extra:a prototypical classifier, no part of the encoder"),
    )


MAE_RULES: Rules = (
    *_heads(""),
    (r"(mask_token|decoder_.+)", r"objective:\1"),
    (r"(.+)", r"\1"),
)


def _blocks(theirs: str, ours: str) -> Pairs:
    """Blocks of transformers 4."""
    attention = theirs + "attention."
    return (
        (attention + "attention.query.*", ours + "attn.qkv.*[0/3]"),
        (attention + "attention.key.*", ours + "attn.qkv.*[1/3]"),
        (attention + "attention.value.*", ours + "attn.qkv.*[2/3]"),
        (attention + "output.dense.*", ours + "attn.proj.*"),
        (theirs + "intermediate.dense.*", ours + "mlp.fc1.*"),
        (theirs + "output.dense.*", ours + "mlp.fc2.*"),
        (theirs + "layernorm_before.*", ours + "norm1.*"),
        (theirs + "layernorm_after.*", ours + "norm2.*"),
    )


def _renamed_blocks(theirs: str, ours: str) -> Pairs:
    """What transformers 5 calls otherwise inside of a block."""
    return (
        (theirs + "attention.q_proj.*", ours + "attn.qkv.*[0/3]"),
        (theirs + "attention.k_proj.*", ours + "attn.qkv.*[1/3]"),
        (theirs + "attention.v_proj.*", ours + "attn.qkv.*[2/3]"),
        (theirs + "attention.o_proj.*", ours + "attn.proj.*"),
        (theirs + "mlp.fc1.*", ours + "mlp.fc1.*"),
        (theirs + "mlp.fc2.*", ours + "mlp.fc2.*"),
    )


_ENCODER, _DECODER = "blocks.{}.", "objective:decoder_blocks.{}."
TRANSFORMERS: Pairs = (
    ("vit.embeddings.cls_token", "cls_token"),
    ("vit.embeddings.position_embeddings", "pos_embed"),
    ("vit.embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
    ("vit.layernorm.*", "norm.*"),
    *_blocks("vit.encoder.layer.{}.", _ENCODER),
    ("decoder.mask_token", "objective:mask_token"),
    ("decoder.decoder_pos_embed", "objective:decoder_pos_embed"),
    *((f"decoder.decoder_{x}.*", f"objective:decoder_{x}.*") for x in ("embed", "norm", "pred")),
    *_blocks("decoder.decoder_layers.{}.", _DECODER),
)
TRANSFORMERS_RULES: Rules = (
    *rules_of(TRANSFORMERS),
    *rules_of(_renamed_blocks("vit.encoder.layer.{}.", _ENCODER)),
    *rules_of(_blocks("vit.layers.{}.", _ENCODER)),
    *rules_of(_renamed_blocks("vit.layers.{}.", _ENCODER)),
    *rules_of(_renamed_blocks("decoder.decoder_layers.{}.", _DECODER)),
    *rules_of(_blocks("decoder.decoder_encoder.layer.{}.", _DECODER)),
    *rules_of(_renamed_blocks("decoder.decoder_encoder.layer.{}.", _DECODER)),
)


def _lightning(owner: str) -> Rules:
    """Bird-MAE's checkpoints, whose encoder stands below `owner`."""
    return (
        *_heads(owner),
        (owner + "(.+)", r"\1"),
        (r"decoder\.(mask_token|decoder_(?:pos_embed|(?:embed|norm|pred)\.\w+))", r"objective:\1"),
        (r"decoder\.blocks\.(.+)", r"objective:decoder_blocks.\1"),
        (r"(?:projectors|predictors)\..+", "extra:a head of the refinement"),
    )


BIRD_MAE_RULES = _lightning(r"encoder\.")
BIRD_MAE_AVERAGED_RULES: Rules = (  # of a refined model
    *_lightning(r"encoder_ema\."),
    (r"encoder\..+", "extra:the file also holds this encoder averaged"),
)


def detect_mae(keys: Collection[str]) -> str | None:
    """The layout's name if these are keys of one of them."""
    if "encoder.cls_token" in keys or "encoder_ema.cls_token" in keys:
        return "bird-mae-lightning"
    if any(key.startswith(("vit.", "decoder.decoder_")) for key in keys):
        return "transformers-vit-mae"
    return "mae" if "patch_embed.proj.weight" in keys else None
