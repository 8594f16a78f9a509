"""A plain ViT as a folder for `timm.create_model("local-dir:FOLDER")`, or "hf-hub:ORG/NAME".

State dict and numerics are the same; only the config differs.
"""

import json
from pathlib import Path

from zoo.hub.saving import save_weights
from zoo.modalities.contracts import Encoder
from zoo.modalities.vision.vit import ViT

from zoo.errors import UsageError
from zoo.files import atomic_folder

__all__ = ["save_timm"]

_ARCHITECTURE = "vit_base_patch16_224"  # any plain ViT of timm: the arguments replace all it fixes
_EPS = 1e-6  # of every norm in it
# Where timm takes its features from, and whether it norms after the mean instead of before it.
_POOLS = {"cls": ("token", False), "mean": ("avg", False), "mean_norm": ("avg", True)}


def save_timm(folder: Path, encoder: Encoder) -> None:
    """Writes config.json as timm reads it, and the weights.

    Args:
        folder: must not exist.
        encoder: a plain ViT; `model(x)` of what timm loads are its pooled features.

    Raises:
        UsageError: the folder exists, or timm has no such encoder.
        StorageError: it cannot be written.
    """
    if not isinstance(encoder, ViT) or encoder.config.norm_eps != _EPS:
        raise UsageError(f"{type(encoder).__name__}: timm has only plain ViTs with norm_eps {_EPS}")
    if folder.exists():
        raise UsageError(f"{folder}: exists already; choose another folder or remove it")
    shape, constants = encoder.config, encoder.preprocess.config
    pool, fc_norm = _POOLS[shape.pool]
    config = {
        "architecture": _ARCHITECTURE,
        "num_classes": 0,
        "num_features": shape.dim,
        "global_pool": pool,
        "model_args": {
            "img_size": shape.img_size,
            "patch_size": shape.patch_size,
            "in_chans": shape.in_chans,
            "embed_dim": shape.dim,
            "depth": shape.depth,
            "num_heads": shape.heads,
            "mlp_ratio": shape.mlp_ratio,
            "global_pool": pool,
            "fc_norm": fc_norm,
        },
        "pretrained_cfg": {
            "input_size": [shape.in_chans, shape.img_size, shape.img_size],
            "fixed_input_size": True,
            "mean": constants.mean,
            "std": constants.std,
            "interpolation": constants.interpolation,
            "crop_pct": constants.crop_pct,
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    with atomic_folder(folder) as draft:
        save_weights(draft, encoder.state_dict())
        (draft / "config.json").write_text(json.dumps(config, indent=1) + "\n")
