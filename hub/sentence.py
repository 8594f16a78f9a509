"""An encoder as a folder that sentence-transformers and transformers load, without code of zoo's.

That is possible where transformers has the same architecture: ModernBERT's form of the text
encoder, with a mean over tokens. The others are loaded by `zoo.load`.
"""

import json
from pathlib import Path

from zoo.hub.modernbert import MODERNBERT
from zoo.hub.names import rename_back
from zoo.modalities.code.encoder import CodeEncoder, CodeEncoderConfig
from zoo.modalities.code.preprocess import TOKENIZER_FILE
from zoo.modalities.contracts import Encoder

from zoo.errors import UsageError
from zoo.files import atomic_folder, save_tensors

__all__ = ["save_sentence_transformer"]


def save_sentence_transformer(encoder: Encoder, folder: Path) -> None:
    """Writes the folder; its vectors are those of `encoder.embed`.

    Args:
        encoder: of ModernBERT's form, with its tokenizer.
        folder: must not exist.

    Raises:
        UsageError: transformers has no such architecture, or the folder exists.
        StorageError: it cannot be written.
    """
    if folder.exists():
        raise UsageError(f"{folder}: exists already; choose another folder or remove it")
    if not isinstance(encoder, CodeEncoder) or not _fits(encoder.config):
        raise UsageError(
            "transformers has no encoder like this one: only pre-norm text encoders with rotary "
            "positions, no biases and pool=mean can go there; zoo.export keeps any"
        )
    files = {
        "config.json": _config(encoder),
        "modules.json": _MODULES,
        "sentence_bert_config.json": {"max_seq_length": encoder.preprocess.config.max_length},
        "1_Pooling/config.json": {
            "word_embedding_dimension": encoder.dim,
            "pooling_mode_mean_tokens": True,
        },
        "tokenizer_config.json": _tokenizer_config(encoder),
    }
    with atomic_folder(folder) as draft:
        (draft / "1_Pooling").mkdir()
        save_tensors(draft / "model.safetensors", rename_back(encoder.state_dict(), {}, MODERNBERT))
        for name, content in files.items():
            (draft / name).write_text(json.dumps(content, indent=1) + "\n")
        (draft / TOKENIZER_FILE).write_text(_framed(encoder))


_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def _fits(config: CodeEncoderConfig) -> bool:
    """Whether it is a ModernBERT of some size."""
    other = config.bias or config.token_types or config.pool != "mean"
    return config.norm_first and config.position == "rotary" and not other


def _config(encoder: CodeEncoder) -> dict[str, object]:
    """The sizes under transformers' names."""
    config, ids = encoder.config, encoder.preprocess.config
    return {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": ids.max_length,
        # Without a window every layer is a global one.
        "global_attn_every_n_layers": 1 if config.window is None else config.global_every,
        "local_attention": 2 * (config.window or 64),
        "global_rope_theta": config.rotary_base,
        "local_rope_theta": config.local_rotary_base,
        "norm_eps": config.norm_eps,
        "attention_dropout": 0.0,
        "bos_token_id": ids.start_id,
        "cls_token_id": ids.start_id,
        "eos_token_id": ids.end_id,
        "sep_token_id": ids.end_id,
        "pad_token_id": ids.end_id,  # masked wherever it stands for padding
        "torch_dtype": "float32",
    }


def _tokenizer_config(encoder: CodeEncoder) -> dict[str, object]:
    """What the library that reads tokenizer.json must know besides."""
    ids, tokenizer = encoder.preprocess.config, encoder.preprocess.tokenizer
    start, end, mask = (tokenizer.token(n) for n in (ids.start_id, ids.end_id, ids.mask_id))
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": ids.max_length,
        "cls_token": start,
        "sep_token": end,
        "pad_token": end,
        "mask_token": mask,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _framed(encoder: CodeEncoder) -> str:
    """tokenizer.json that puts the start and the end around a text by itself."""
    ids, tokenizer = encoder.preprocess.config, encoder.preprocess.tokenizer
    start, end = str(tokenizer.token(ids.start_id)), str(tokenizer.token(ids.end_id))
    content: dict[str, object] = json.loads(tokenizer.to_bytes())
    frame = [
        {"SpecialToken": {"id": start, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": end, "type_id": 0}},
    ]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": frame,
        "pair": [*frame, {"Sequence": {"id": "B", "type_id": 1}}, frame[2]],
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for token, number in ((start, ids.start_id), (end, ids.end_id))
        },
    }
    return json.dumps(content)
