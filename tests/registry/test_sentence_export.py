"""transformers reads what zoo exports, and computes the same vectors."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from zoo.hub.sentence import save_sentence_transformer
from zoo.modalities.code.codec import CodeCodec

import zoo
from zoo.cli.export import command
from zoo.errors import UsageError

OWN = {"start_id": 1, "end_id": 2, "mask_id": 3, "ordinary_ids": None}
TEXTS = ["def f(x):\n    return x + 1\n", "y = [i for i in range(9)]\n", "pass"]


def encoder_of(name, **changes):
    sizes = {"dim": 24, "depth": 4, "heads": 2, "hidden": 32, "vocab_size": 320}
    encoder = zoo.create(name, seed=0, preprocess=OWN, **sizes, **changes)
    encoder.preprocess.fit([{"text": text} for text in TEXTS])
    return encoder.eval()


@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("window", [3, None])
def test_transformers_gives_the_same_vectors(window, tmp_path):
    transformers = pytest.importorskip("transformers")
    encoder = encoder_of("modernbert-base", window=window)
    save_sentence_transformer(encoder, tmp_path / "out")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    for row, text in enumerate(TEXTS):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert torch.equal(ids, encoder.preprocess(text)["ids"])
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    keep = batch["attention_mask"].unsqueeze(-1)
    pooled = (states * keep).sum(dim=1) / keep.sum(dim=1)
    np.testing.assert_allclose(encoder.embed(TEXTS), pooled.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_loads_the_folder(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    encoder = encoder_of("modernbert-base")
    save_sentence_transformer(encoder, tmp_path / "out")
    found = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(encoder.embed(TEXTS), found, rtol=1e-4, atol=1e-5)


TINY = {
    **{f"encoder.{name}": 2 for name in ("depth", "heads")},
    **{"encoder.dim": 16, "encoder.hidden": 24, "encoder.vocab_size": 300},
    **{f"preprocess.{name}": value for name, value in OWN.items()},
    **{"train.batch_size": 2, "train.steps": 1, "train.warmup": 0, "train.loggers": []},
    "loader.workers": 0,
}


def test_runs_are_exported_for_it(tmp_path):
    codec = CodeCodec()
    samples = ((f"{i}", codec.encode({"text": text})) for i, text in enumerate(TEXTS))
    zoo.write_shards(samples, tmp_path / "shards")
    run = tmp_path / "run"
    zoo.pretrain("modernbert-base", tmp_path / "shards", run, TINY, device="cpu", progress=False)
    words = [str(run), str(tmp_path / "out"), "--format", "sentence-transformers"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert f"SentenceTransformer('{tmp_path / 'out'}/')" in done.output
    weights = load_file(tmp_path / "out" / "model.safetensors")
    table = zoo.load(run).embedding.weight
    assert torch.equal(weights["embeddings.tok_embeddings.weight"], table)


def test_what_transformers_does_not_know_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no encoder like this one"):
        save_sentence_transformer(encoder_of("mosaic-bert-base"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        save_sentence_transformer(encoder_of("modernbert-base"), tmp_path / "there")
