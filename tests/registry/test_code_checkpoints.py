"""Published checkpoints of text encoders load with their tokenizers, and go back as they came."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from zoo.hub.codet5p import CODET5P
from zoo.hub.convert import convert, detect
from zoo.hub.modernbert import HEAD, MODERNBERT
from zoo.hub.mosaicbert import MOSAICBERT
from zoo.hub.names import rename_back
from zoo.registry.build import build_objective

import zoo
from zoo.errors import DataError, UsageError, WeightsError
from zoo.starting import start_from

TEXT = "def add(a, b): return a [MASK] b"
MODERN = tuple((f"model.{theirs}", ours) for theirs, ours in MODERNBERT) + HEAD
SMALL = {"dim": 24, "depth": 2, "heads": 2, "hidden": 32}
# model: sizes, names, the head's table, and the ids of its special tokens
PUBLISHED = {
    "mosaic-bert-base": (
        SMALL,
        MOSAICBERT,
        {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"},
        {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103},
    ),
    "modernbert-base": (
        SMALL,
        MODERN,
        {"decoder.weight": "model.embeddings.tok_embeddings.weight"},
        {"[UNK]": 50280, "[CLS]": 50281, "[SEP]": 50282, "[PAD]": 50283, "[MASK]": 50284},
    ),
    "codet5p-110m-embedding": (
        SMALL | {"head_dim": 12, "embed_dim": 16},
        CODET5P,
        {"encoder.embed_tokens.weight": "shared.weight"},
        {"<pad>": 0, "<s>": 1, "</s>": 2, "[UNK]": 3, "<mask>": 4},
    ),
    "codet5p-220m": (
        SMALL | {"head_dim": 12, "decoder_depth": 1},
        CODET5P,
        {"lm_head.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
        {"<pad>": 0, "<s>": 1, "</s>": 2, "[UNK]": 3, "<mask>": 4},
    ),
}


def tokenizer(special, *, words="def add ( a , b ) : return [ mask ]"):
    """A word list with the special tokens where the published one has them."""
    vocab, free = dict(special), iter(set(range(1000, 1100)))
    vocab |= {word: next(free) for word in words.split()}
    inner = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(list(special))
    inner.enable_truncation(4)  # as some published files have it
    return inner.to_str()


def write(folder, name):
    """A checkpoint in the authors' layout with its tokenizer; the encoder that it is of."""
    sizes, pairs, tied, special = PUBLISHED[name]
    encoder = zoo.create(name, seed=0, **sizes)
    recipe = zoo.card(name).recipe
    heads = {}
    if recipe is not None and recipe.objective["name"] == "masked_lm":
        heads = build_objective(recipe.objective, encoder).state_dict()
    file = rename_back(encoder.state_dict(), heads, pairs)
    file |= {theirs: file[table].clone() for theirs, table in tied.items()}
    save_file(file, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(tokenizer(special))
    return encoder.eval(), file, sizes


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_and_tokenizer_load(name, tmp_path):
    encoder, file, sizes = write(tmp_path, name)
    loaded = zoo.load(name, weights=tmp_path / "model.safetensors", **sizes)
    report = loaded.load_report
    assert set(report.loaded) == set(encoder.state_dict())
    assert all("tied" in why or "head" in why for why in report.ignored.values())
    assert len(report.loaded) + len(report.ignored) == len(file)
    ids = loaded.preprocess(TEXT)["ids"]
    config = loaded.preprocess.config
    assert (ids[0], ids[-1]) == (config.start_id, config.end_id)
    assert config.mask_id not in ids  # what somebody writes is text
    assert len(ids) > 10
    vectors = loaded.embed([TEXT, "a", "return b"], batch_size=2, progress=False)
    assert vectors.shape == (3, loaded.embed_dim)
    encoder.preprocess.load_assets(loaded.preprocess.assets())
    np.testing.assert_allclose(encoder.embed([TEXT, "a", "return b"]), vectors, atol=1e-6)


@pytest.mark.parametrize("name", ["mosaic-bert-base", "modernbert-base"])
def test_training_starts_from_them(name, tmp_path):
    encoder, _, sizes = write(tmp_path, name)
    fresh = zoo.create(name, seed=1, **sizes)
    objective = build_objective(zoo.card(name).recipe.objective, fresh)
    start_from(str(tmp_path / "model.safetensors"), fresh, objective)
    for key, value in encoder.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    assert fresh.preprocess.ready


def test_wrappers_and_fine_tuned_files(tmp_path):
    encoder, file, _ = write(tmp_path, "mosaic-bert-base")
    wrapped = {f"model.{key}": value for key, value in file.items()}
    torch.save({"state": {"model": wrapped}}, tmp_path / "composer.pt")
    sizes = PUBLISHED["mosaic-bert-base"][0]
    loaded = zoo.load("mosaic-bert-base", weights=tmp_path / "composer.pt", **sizes)
    assert torch.equal(loaded.embedding.weight, encoder.embedding.weight)
    found = convert(file | {"classifier.weight": torch.zeros(2, 24), "bert.pooler.dense.bias": 0})
    assert {"classifier.weight", "bert.pooler.dense.bias"} <= found.extra.keys()
    _, bare, _ = write(tmp_path, "modernbert-base")
    bare = {key.removeprefix("model."): v for key, v in bare.items() if key.startswith("model.")}
    assert detect(bare) == "modernbert"
    assert not convert(bare).extra


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_head_with_its_own_table_is_refused(name, tmp_path):
    _, file, _ = write(tmp_path, name)
    theirs = next(iter(PUBLISHED[name][2]))
    with pytest.raises(WeightsError, match=f"'{theirs}' differs from"):
        convert(file | {theirs: file[theirs] + 1})
    with pytest.raises(WeightsError, match="'magic' is no tensor of the layout"):
        convert(file | {"magic": torch.zeros(1)})


def test_a_foreign_tokenizer_is_refused(tmp_path):
    write(tmp_path, "mosaic-bert-base")
    sizes = PUBLISHED["mosaic-bert-base"][0]

    def load():
        return zoo.load("mosaic-bert-base", weights=tmp_path / "model.safetensors", **sizes)

    path = tmp_path / "tokenizer.json"
    modern = PUBLISHED["modernbert-base"][3]
    path.write_text(tokenizer(modern))
    with pytest.raises(DataError, match="50285 ids, but the encoder's table has only 30528"):
        load()
    path.write_text(tokenizer(PUBLISHED["codet5p-220m"][3]))
    with pytest.raises(DataError, match="id 101 should be the start token, but is None"):
        load()
    path.write_text(json.dumps({"model": {}}))
    with pytest.raises(DataError, match="not a tokenizer file"):
        load()


def test_ids_of_a_published_tokenizer_cannot_be_trained(tmp_path):
    encoder = zoo.create("modernbert-base", **SMALL)
    with pytest.raises(
        UsageError, match=r"put its tokenizer\.json beside .* preprocess.start_id=1"
    ):
        encoder.preprocess.fit([{"text": TEXT}])
