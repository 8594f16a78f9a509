"""`train.init`: runs that begin with weights."""

import os
import shutil

import numpy as np
import pytest
import torch
from golden_checks.audio_wav2vec2 import build
from golden_checks.fixture import discover
from safetensors.torch import load_file, save_file
from zoo.modalities.vision.codec import VisionCodec

import zoo
from zoo.errors import UsageError, WeightsError
from zoo.starting import start_from

TINY = {
    "encoder.dim": 24, "encoder.depth": 1, "objective.decoder_dim": 16, "train.steps": 2,
    "train.warmup": 0, "train.batch_size": 8, "train.loggers": [], "loader.workers": 0,
    "train.save_every": 1,
}  # fmt: skip
STILL = TINY | {"train.lr": 1e-30}  # what it begins with is what it ends with


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    codec, rng = VisionCodec(), np.random.default_rng(0)
    images = (rng.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(16))
    items = [(f"{i:02d}", codec.encode({"image": image})) for i, image in enumerate(images)]
    folder = tmp_path_factory.mktemp("data")
    zoo.write_shards(items, folder)
    return folder


@pytest.fixture(scope="module")
def first(shards, tmp_path_factory):
    options = TINY | {"train.lr": 1e-2, "train.weight_decay": 0}
    return zoo.pretrain(
        "digits-mae", shards, tmp_path_factory.mktemp("runs") / "first", options, progress=False
    )


def train(shards, out, **options):
    return zoo.pretrain("digits-mae", shards, out, STILL | options, progress=False)


def same(run, other):
    theirs = other.load().state_dict()
    return all(torch.allclose(w, theirs[n], atol=1e-6) for n, w in run.load().state_dict().items())


@pytest.mark.parametrize("of", ["run", "export", "file"])
def test_a_run_starts_from_weights(shards, first, tmp_path, of):
    places = {"run": first.folder, "export": first.folder / "export"}
    place = places.get(of, first.folder / "export" / "model.safetensors")
    assert same(train(shards, tmp_path / "second", **{"train.init": place}), first)
    assert not same(train(shards, tmp_path / "third"), first)


def test_heads_come_along_and_a_started_run_needs_its_source_no_more(
    shards, first, tmp_path, caplog
):
    checkpoint = load_file(next(first.folder.glob("checkpoints/step-2/model.safetensors")))
    whole = {name.partition(".")[2]: value for name, value in checkpoint.items()}
    save_file(whole, tmp_path / "mae.safetensors")
    options = {"train.init": tmp_path / "mae.safetensors"}
    with caplog.at_level("INFO", "zoo"):
        run = train(shards, tmp_path / "run", **options)
    assert "of the objective" in caplog.text
    found = load_file(next(run.folder.glob("checkpoints/step-2/model.safetensors")))
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in checkpoint.items())
    (tmp_path / "mae.safetensors").unlink()
    shutil.rmtree(run.folder / "export")
    again = train(shards, tmp_path / "run", **options)
    assert same(again, first)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"encoder.depth": 2}, "missing blocks.1"), ({"objective.decoder_dim": 32}, "another size")],
)
def test_weights_that_do_not_fit(shards, first, tmp_path, change, said):
    checkpoint = load_file(next(first.folder.glob("checkpoints/step-2/model.safetensors")))
    save_file({n.partition(".")[2]: v for n, v in checkpoint.items()}, tmp_path / "x.safetensors")
    options = {"train.init": tmp_path / "x.safetensors"} | change
    with pytest.raises(WeightsError, match=said):
        train(shards, tmp_path / "run", **options)
    with pytest.raises(UsageError, match="no such weights file"):
        train(shards, tmp_path / "none", **{"train.init": tmp_path / "none.pt"})


def test_a_tokenizer_comes_along(tmp_path):
    texts = [f"def f{i}(x):\n    return x + {i}\n" for i in range(20)]
    zoo.write_shards(
        [(f"{i:03d}", {"txt": t.encode()}) for i, t in enumerate(texts)], tmp_path / "a"
    )
    other = [(f"{i:03d}", {"txt": b"print('something else altogether')\n"}) for i in range(20)]
    zoo.write_shards(other, tmp_path / "b")
    options = TINY | {"encoder.heads": 2, "encoder.dim": 16, "train.lr": 1e-30}
    options.pop("objective.decoder_dim")
    first = zoo.pretrain("stdlib-mlm", tmp_path / "a", tmp_path / "1", options, progress=False)
    options |= {"train.init": tmp_path / "1"}
    second = zoo.pretrain("stdlib-mlm", tmp_path / "b", tmp_path / "2", options, progress=False)
    assert second.load().preprocess.assets() == first.load().preprocess.assets()
    assert same(second, first)


@pytest.mark.skipif("ZOO_GOLDEN" in os.environ, reason="another set of fixtures is in use")
def test_wav2vec2_continues_from_the_transformers_layout(tmp_path):
    """The weights of the golden fixture: encoder and heads both come from the authors' names."""
    fixture = next(f for f in discover() if f.kind == "wav2vec2")
    weights = fixture.group("weights")
    encoder, objective = build(fixture.config)
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *objective.parameters()):
            parameter.zero_()
    save_file(weights, tmp_path / "model.safetensors")
    start_from(str(tmp_path / "model.safetensors"), encoder, objective)
    found = sum(p.double().abs().sum() for m in (encoder, objective) for p in m.parameters())
    want = sum(w.double().abs().sum() for w in weights.values())
    torch.testing.assert_close(found, want)
