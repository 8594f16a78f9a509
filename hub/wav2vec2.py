"""wav2vec 2.0 checkpoints of transformers, torchaudio and fairseq -> zoo's names."""

import re
from collections.abc import Mapping

from zoo.hub.rules import Rules

__all__ = ["WAV2VEC2_LAYOUTS", "detect_wav2vec2"]

_LETTERS = "extra:the letters of speech recognition, no part of the encoder"


def _positions(place: str) -> Rules:
    """The position kernel; files from before torch 2 have the older names of its two factors."""
    zoo = "pos_conv_embed.conv"
    return (
        (rf"{place}\.(?:weight_g|parametrizations\.weight\.original0)", f"{zoo}.{_FACTOR}0"),
        (rf"{place}\.(?:weight_v|parametrizations\.weight\.original1)", f"{zoo}.{_FACTOR}1"),
        (rf"{place}\.bias", f"{zoo}.bias"),
    )


_FACTOR = "parametrizations.weight.original"

_TRANSFORMERS: Rules = (
    (r"(?:wav2vec2\.)?(feature_(?:extractor|projection)\..+)", r"\1"),
    *_positions(r"(?:wav2vec2\.)?encoder\.pos_conv_embed\.conv"),
    (r"(?:wav2vec2\.)?encoder\.layers\.(.+)", r"blocks.\1"),
    (r"(?:wav2vec2\.)?encoder\.layer_norm\.(.+)", r"norm.\1"),
    (r"(?:wav2vec2\.)?(masked_spec_embed)", r"objective:\1"),
    (r"(quantizer\..+|project_(?:q|hid)\..+)", r"objective:\1"),
    (r"lm_head\..+", _LETTERS),
)
_TORCHAUDIO: Rules = (
    (r"(feature_extractor\..+)", r"\1"),
    (r"encoder\.(feature_projection\..+)", r"\1"),
    *_positions(r"encoder\.transformer\.pos_conv_embed\.conv"),
    (r"encoder\.transformer\.layers\.(.+)", r"blocks.\1"),
    (r"encoder\.transformer\.layer_norm\.(.+)", r"norm.\1"),
    (r"aux\..+", _LETTERS),
)
_OWNER = r"(?:w2v_encoder\.)?(?:w2v_model\.)?"  # fine-tuned files wrap the pretrained model
_LAYER = _OWNER + r"encoder\.layers\.(\d+)\."
_CONV = _OWNER + r"feature_extractor\.conv_layers\.(\d+)\."
_FAIRSEQ: Rules = (
    (_CONV + r"0\.(\w+)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (_CONV + r"2\.(?:1\.)?(\w+)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (_OWNER + r"layer_norm\.(\w+)", r"feature_projection.layer_norm.\1"),
    (_OWNER + r"post_extract_proj\.(\w+)", r"feature_projection.projection.\1"),
    *_positions(_OWNER + r"encoder\.pos_conv\.0"),
    (_LAYER + r"self_attn\.(\w+)\.(\w+)", r"blocks.\1.attention.\2.\3"),
    (_LAYER + r"self_attn_layer_norm\.(\w+)", r"blocks.\1.layer_norm.\2"),
    (_LAYER + r"fc1\.(\w+)", r"blocks.\1.feed_forward.intermediate_dense.\2"),
    (_LAYER + r"fc2\.(\w+)", r"blocks.\1.feed_forward.output_dense.\2"),
    (_LAYER + r"final_layer_norm\.(\w+)", r"blocks.\1.final_layer_norm.\2"),
    (_OWNER + r"encoder\.layer_norm\.(\w+)", r"norm.\1"),
    (_OWNER + r"mask_emb", "objective:masked_spec_embed"),
    (_OWNER + r"quantizer\.vars", "objective:quantizer.codevectors"),
    (_OWNER + r"(quantizer\.weight_proj\.\w+|project_q\.\w+)", r"objective:\1"),
    (_OWNER + r"final_proj\.(\w+)", r"objective:project_hid.\1"),
    (r"(?:w2v_encoder\.)?proj\..+", _LETTERS),
)
WAV2VEC2_LAYOUTS: dict[str, Rules] = {
    "wav2vec2-transformers": _TRANSFORMERS,
    "wav2vec2-torchaudio": _TORCHAUDIO,
    "wav2vec2-fairseq": _FAIRSEQ,
}


def detect_wav2vec2(keys: Mapping[str, object]) -> str | None:
    """The layout of a wav2vec 2.0 file by one key that only it has; None for any other file."""
    signs = {
        "wav2vec2-transformers": r"(wav2vec2\.)?encoder\.pos_conv_embed\.conv\.bias",
        "wav2vec2-torchaudio": r"encoder\.transformer\.pos_conv_embed\.conv\.bias",
        "wav2vec2-fairseq": _OWNER + r"encoder\.pos_conv\.0\.bias",
    }
    return next(
        (name for name, sign in signs.items() if any(re.fullmatch(sign, key) for key in keys)), None
    )
