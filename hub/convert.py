"""Foreign checkpoint layouts -> zoo's names. Encoders never know foreign names.

Every key of a foreign file ends in one of three places: the encoder, an objective's heads, or
`extra` with the reason why zoo has no use for it.
"""

import re
from collections.abc import Callable
from functools import partial

import torch
from zoo.hub.bmmae import BMMAE_LAYOUTS, detect_bmmae
from zoo.hub.codet5p import CODET5P_RULES, check_codet5p, detect_codet5p
from zoo.hub.modernbert import MODERNBERT_RULES, check_modernbert, detect_modernbert
from zoo.hub.mosaicbert import MOSAICBERT_RULES, check_mosaicbert, detect_mosaicbert
from zoo.hub.rules import Converted, Rules, State, divide
from zoo.hub.voco import VOCO_LAYOUTS, detect_voco
from zoo.hub.wav2vec2 import WAV2VEC2_LAYOUTS, detect_wav2vec2

from zoo.errors import UnknownNameError, WeightsError

__all__ = ["BACK", "LAYOUTS", "convert", "detect", "to_transformers_vit_mae"]


def convert(state: State, layout: str | None = None) -> Converted:
    """Renames a foreign state dict.

    Args:
        state: the foreign tensors.
        layout: one of LAYOUTS; recognised by its keys when not given.

    Raises:
        UnknownNameError: no such layout.
        WeightsError: a tensor that its layout does not have.
    """
    name = layout or detect(state)
    if name not in LAYOUTS:
        raise UnknownNameError("checkpoint layout", name, LAYOUTS)
    return LAYOUTS[name](state)


def detect(state: State) -> str:
    """The layout of a state dict's keys; "zoo" where they look like none of the foreign ones."""
    for own in _DETECTORS:
        if name := own(state):
            return name
    if any(key in state for key in ("encoder.cls_token", "encoder_ema.cls_token")):
        return "bird-mae-lightning"
    if any(key.startswith(("vit.", "decoder.decoder_")) for key in state):
        return "transformers-vit-mae"
    if "patch_embed.proj.weight" in state:
        return "mae"
    return "zoo"


_DETECTORS: tuple[Callable[[State], str | None], ...] = (
    detect_wav2vec2,
    detect_voco,
    detect_bmmae,
    detect_mosaicbert,
    detect_modernbert,
    detect_codet5p,
)


def _from_zoo(state: State) -> Converted:
    return Converted(encoder=dict(state))


def _from_library(state: State) -> Converted:
    """A model of timm or open_clip, or zoo's own names for it; encoders know what else is there."""
    start = "model."
    return Converted(encoder={start + k.removeprefix(start): v for k, v in state.items()})


_HEADS = {
    "head.": "a classifier, no part of the encoder",
    "ppnet.": "a prototypical classifier, no part of the encoder",
}


def _from_mae(state: State) -> Converted:
    """Zoo's own names, pretrained or fine-tuned.

    facebookresearch/mae and AudioMAE, timm's `.mae` and `.audiomae` tags, Bird-MAE on the Hub.
    """
    out = Converted()
    for key, value in state.items():
        if key == "mask_token" or key.startswith("decoder_"):
            out.objective[key] = value
        elif (head := key.partition(".")[0] + ".") in _HEADS:
            out.extra[key] = _HEADS[head]
        else:
            out.encoder[key] = value
    return out


_LIGHTNING = [
    (r"encoder\.(.+)", r"\1"),
    (r"decoder\.mask_token", "mask_token"),
    (r"decoder\.(decoder_(?:pos_embed|(?:embed|norm|pred)\.\w+))", r"\1"),
    (r"decoder\.blocks\.(.+)", r"decoder_blocks.\1"),
]
_REFINED = re.compile(r"(projectors|predictors)\.")


def _from_bird_mae_lightning(state: State) -> Converted:
    """The `state_dict` of Bird-MAE's checkpoints; of a refined model its averaged encoder."""
    averaged = any(key.startswith("encoder_ema.") for key in state)
    named: State = {}
    extra: dict[str, str] = {}
    for key, value in state.items():
        name = _rename(key.replace("encoder_ema.", "encoder.", 1), _LIGHTNING)
        if _REFINED.match(key):
            extra[key] = "a head of the refinement, no part of the encoder"
        elif averaged and key.startswith("encoder."):
            extra[key] = "the file also holds this encoder averaged"
        elif name is None:
            raise WeightsError(f"{key!r} is no tensor of Bird-MAE's checkpoint layout")
        else:
            named[name] = value
    out = _from_mae(named)
    out.extra.update(extra)
    return out


# transformers 4 files (D), transformers 5 in memory (E) and on disk (F): outer names, then inner
# ones.
_OUTER = [
    (r"vit\.embeddings\.cls_token", "cls_token"),
    (r"vit\.embeddings\.position_embeddings", "pos_embed"),
    (r"vit\.embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"vit\.layernorm\.(\w+)", r"norm.\1"),
    (r"vit\.(?:encoder\.layer|layers)\.(\d+)\.(.+)", r"blocks.\1.\2"),
    (r"decoder\.mask_token", "mask_token"),
    (r"decoder\.decoder_pos_embed", "decoder_pos_embed"),
    (r"decoder\.decoder_(embed|norm|pred)\.(\w+)", r"decoder_\1.\2"),
    (r"decoder\.(?:decoder_layers|decoder_encoder\.layer)\.(\d+)\.(.+)", r"decoder_blocks.\1.\2"),
]
_INNER = [
    (r"attention\.attention\.(query|key|value)\.(\w+)", r"attn.\1.\2"),
    (r"attention\.q_proj\.(\w+)", r"attn.query.\1"),
    (r"attention\.k_proj\.(\w+)", r"attn.key.\1"),
    (r"attention\.v_proj\.(\w+)", r"attn.value.\1"),
    (r"attention\.(?:output\.dense|o_proj)\.(\w+)", r"attn.proj.\1"),
    (r"(?:intermediate\.dense|mlp\.fc1)\.(\w+)", r"mlp.fc1.\1"),
    (r"(?:output\.dense|mlp\.fc2)\.(\w+)", r"mlp.fc2.\1"),
    (r"layernorm_before\.(\w+)", r"norm1.\1"),
    (r"layernorm_after\.(\w+)", r"norm2.\1"),
]


def _from_transformers_vit_mae(state: State) -> Converted:
    named: State = {}
    for key, value in state.items():
        name = _rename(key, _OUTER)
        if name is not None and (block := re.fullmatch(r"((?:decoder_)?blocks\.\d+\.)(.+)", name)):
            inner = _rename(block[2], _INNER)
            name = None if inner is None else block[1] + inner
        if name is None:
            raise WeightsError(f"{key!r} is no tensor of the transformers ViT-MAE layout")
        named[name] = value
    for key in [key for key in named if ".attn.query." in key]:
        parts = [named.pop(key.replace("query", part), None) for part in ("query", "key", "value")]
        if any(part is None for part in parts):
            raise WeightsError(f"{key!r} lacks its key or value counterpart")
        fused = torch.cat([part for part in parts if part is not None])
        named[key.replace("query", "qkv")] = fused
    return _from_mae(named)


def _by_rules(
    state: State, rules: Rules, layout: str, check: Callable[[State], None] | None = None
) -> Converted:
    if check is not None:
        check(state)
    return Converted(*divide(state, rules, layout))


def to_transformers_vit_mae(encoder: State, objective: State) -> State:
    """Zoo's names -> the file layout of transformers 4, which transformers 5 reads too."""
    out: State = {}
    for key, value in {**encoder, **objective}.items():
        stack, name = "vit.encoder.layer", key
        if match := re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)", key):
            stack = "decoder.decoder_layers" if match[1] else stack
            prefix, name = f"{stack}.{match[2]}.", match[3]
            if name.startswith("attn.qkv."):
                kind = name.rpartition(".")[2]
                for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    out[f"{prefix}attention.attention.{part}.{kind}"] = rows.clone()
                continue
            out[prefix + _replace(name, _EXPORT_INNER)] = value
        elif key == "mask_token" or key.startswith("decoder_"):
            out[f"decoder.{key}"] = value
        else:
            out[f"vit.{_replace(key, _EXPORT_OUTER)}"] = value
    return out


_EXPORT_INNER = {
    "attn.proj.": "attention.output.dense.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
}
_EXPORT_OUTER = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "norm.": "layernorm.",
}


def _rename(key: str, rules: list[tuple[str, str]]) -> str | None:
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return None


def _replace(name: str, starts: dict[str, str]) -> str:
    for old, new in starts.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise WeightsError(f"{name!r} has no place in the transformers ViT-MAE layout")


LAYOUTS: dict[str, Callable[[State], Converted]] = {
    "zoo": _from_zoo,
    "mae": _from_mae,
    "timm": _from_library,
    "open_clip": _from_library,
    "bird-mae-lightning": _from_bird_mae_lightning,
    "transformers-vit-mae": _from_transformers_vit_mae,
    **{
        name: partial(_by_rules, rules=rules, layout=name)
        for name, rules in (WAV2VEC2_LAYOUTS | VOCO_LAYOUTS | BMMAE_LAYOUTS).items()
    },
    **{
        name: partial(_by_rules, rules=rules, layout=name, check=check)
        for name, rules, check in (
            ("mosaicbert", MOSAICBERT_RULES, check_mosaicbert),
            ("modernbert", MODERNBERT_RULES, check_modernbert),
            ("codet5p", CODET5P_RULES, check_codet5p),
        )
    },
}
# Zoo's names (encoder, objective) -> a layout that somebody may want to have.
BACK: dict[str, Callable[[State, State], State]] = {
    "zoo": lambda encoder, objective: {**encoder, **objective},
    "transformers-vit-mae": to_transformers_vit_mae,
}
