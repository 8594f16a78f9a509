"""BM-MAE checkpoints of Lucas-rbnt/BM-MAE (arXiv 2505.00568) -> zoo's names.

Their blocks are MONAI's, which from MONAI 1.4 on hold a norm for cross attention that is never
used. Positions are fixed sin-cos tables, a copy for each sequence and one for the decoder.
"""

from collections.abc import Iterable

from zoo.hub.rules import Rules

__all__ = ["BMMAE_LAYOUTS", "detect_bmmae"]

_FIXED = "extra:fixed sin-cos positions, which zoo computes"
_UNUSED = "extra:the norm of a cross attention that these blocks do not have"


def _blocks(place: str, ours: str) -> Rules:
    """Blocks of MONAI at `place`, in zoo's names below `ours`."""
    return (
        (place + r"(\d+)\.norm_cross_attn\.\w+", _UNUSED),
        (place + r"(\d+)\.((?:norm[12]|attn\.qkv)\.\w+)", ours + r"\1.\2"),
        (place + r"(\d+)\.attn\.out_proj\.(\w+)", ours + r"\1.attn.proj.\2"),
        (place + r"(\d+)\.mlp\.linear([12])\.(\w+)", ours + r"\1.mlp.fc\2.\3"),
    )


BMMAE_LAYOUTS: dict[str, Rules] = {
    "bm-mae": (
        (r"(cls_token|norm\.\w+)", r"\1"),
        (
            r"tokenizers\.(\w+)\.patch_embedding\.patch_embeddings\.(\w+)",
            r"patch_embed.\1.\2",
        ),
        (r"tokenizers\.\w+\.patch_embedding\.position_embeddings", _FIXED),
        *_blocks(r"blocks\.", "blocks."),
        (r"decoder\.mask_tokens", "objective:mask_token"),
        (r"decoder\.position_embeddings", _FIXED),
        (r"decoder\.(decoder_(?:embed|norm|pred)\.\w+)", r"objective:\1"),
        (r"decoder\.modality_embeddings\.(\w+)", r"objective:modality_embeddings.\1"),
        *_blocks(r"decoder\.decoder_blocks\.", "objective:decoder_blocks."),
    ),
}


def detect_bmmae(keys: Iterable[str]) -> str | None:
    """The layout's name if these are keys of BM-MAE."""
    return "bm-mae" if any(key.startswith("tokenizers.") for key in keys) else None
