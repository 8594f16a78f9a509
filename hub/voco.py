"""VoCo checkpoints of Luffy03/Large-Scale-Medical (arXiv 2410.09890) -> zoo's names.

The published files of the encoder (`VoCo_*_SSL_head.pt`) hold neither projector nor decoder, in
spite of their name; `VoComni_*.pt` hold a whole SwinUNETR; checkpoints of training hold the
backbone with both projectors. Files of the first version (arXiv 2402.17300) may hold two complete
networks. MONAI before 0.9 called the transformer `swin_vit`.
"""

import re
from collections.abc import Iterable

from zoo.hub.rules import Rules

from zoo.errors import WeightsError

__all__ = ["VOCO_LAYOUTS", "detect_voco"]

_OWNER = r"(?:module\.)?(?:student\.)?(?:backbone\.)?"
_TEACHER = r"(?:module\.)?teacher\.(?:backbone\.)?"
_SWIN = r"swin(?:ViT|_vit)\.(.+)"
_BLOCKS = r"encoder(?:1|2|3|4|10)\..+"
_DECODER = r"(?:decoder[1-5]|out)\..+"
_SIGN = _OWNER + r"swin(?:ViT|_vit)\.patch_embed\.proj\.weight"
_NNUNET = "encoder.stages.0.0.convs.0.conv.weight"

VOCO_LAYOUTS: dict[str, Rules] = {
    "voco": (
        (_OWNER + _SWIN, r"swinViT.\1"),
        (_OWNER + f"({_BLOCKS})", r"\1"),
        (_OWNER + _DECODER, "extra:the decoder of a segmenter, no part of the encoder"),
        (_TEACHER + f"(?:{_SWIN}|{_BLOCKS}|{_DECODER})", "extra:the teacher's copy of the network"),
        (r"(?:module\.)?((?:student|teacher)\..+)", r"objective:\1"),
    ),
}


def detect_voco(keys: Iterable[str]) -> str | None:
    """The layout's name if these are keys of VoCo.

    Raises:
        WeightsError: they are those of its nnU-Net.
    """
    names = list(keys)
    if _NNUNET in names:
        raise WeightsError(
            "these are weights of an nnU-Net (VoComni_nnunet.pt), a kind of network that zoo does "
            "not have: load them with nnU-Net, or take VoCo_*_SSL_head.pt for zoo's encoders"
        )
    return "voco" if any(re.fullmatch(_SIGN, name) for name in names) else None
