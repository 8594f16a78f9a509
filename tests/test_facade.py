"""zoo.pretrain, zoo.load, zoo.create, zoo.probe as a user meets them."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from zoo.hub.export import save_export
from zoo.modalities.vision.codec import VisionCodec
from zoo.registry.build import encoder_spec

import zoo
from zoo.errors import (
    ConfigError,
    DataError,
    IntegrityError,
    UnknownNameError,
    UsageError,
    WeightsError,
    ZooError,
)
from zoo.pretraining import restore_objective, untrained
from zoo.runs import Run

TINY = {
    "encoder.dim": 24,
    "encoder.depth": 1,
    "objective.decoder_dim": 16,
    "train.steps": 4,
    "train.warmup": 1,
    "train.batch_size": 8,
    "train.log_every": 1,
    "loader.workers": 0,
}
CODE = {
    "encoder.dim": 24,
    "encoder.depth": 1,
    "encoder.vocab_size": 320,
    "train.steps": 3,
    "train.batch_size": 4,
    "loader.workers": 0,
}


def digits(count=40):
    rng = np.random.default_rng(0)
    codec = VisionCodec()
    for i in range(count):
        image = np.zeros((8, 8), np.uint8)
        image[:, : 4 + i % 2 * 4] = rng.integers(60, 250)  # two easy classes
        yield f"{i:03d}", codec.encode({"image": image, "label": i % 2})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facade") / "shards"
    zoo.write_shards(digits(), folder)
    return folder


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return zoo.pretrain("digits-mae", shards, out, TINY, progress=False)


@pytest.fixture(scope="module")
def code_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    texts = [f"def f{i}(x):\n    return x + {i}\n" for i in range(20)]
    items = [(f"{i:03d}", {"txt": text.encode()}) for i, text in enumerate(texts)]
    zoo.write_shards(items, folder / "shards")
    return zoo.pretrain("stdlib-mlm", folder / "shards", folder / "run", CODE, progress=False)


def embed(encoder):
    if encoder.modality == "code":
        return encoder.embed(["def g(): pass", "x = 1"], progress=False)
    return encoder.embed([np.full((8, 8), i * 9, np.uint8) for i in range(5)], progress=False)


@pytest.mark.parametrize("which", ["run", "code_run"])
def test_load_is_bit_identical_in_a_fresh_process(which, request, tmp_path):
    run = request.getfixturevalue(which)
    trained, _ = restore_objective(run)
    here = embed(trained)
    assert np.array_equal(here, embed(zoo.load(run.folder)))
    assert np.array_equal(here, embed(zoo.load(f"{run.folder}/export")))
    shutil.copytree(run.folder / "export", tmp_path / "moved")
    script = (
        "import sys, numpy as np, torch, zoo; torch.set_num_threads(1);"
        f"sys.path.insert(0, {str(__file__.rpartition('/')[0])!r}); from test_facade import embed;"
        f"np.save({str(tmp_path / 'x.npy')!r}, embed(zoo.load({str(tmp_path / 'moved')!r})))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert np.array_equal(here, np.load(tmp_path / "x.npy"))


def test_training_changed_the_weights(run):
    assert not np.array_equal(embed(untrained(run).eval()), embed(run.load()))


def test_loaded_encoders_are_ready(run):
    encoder = zoo.load(run.folder)
    assert not encoder.training
    assert len(encoder.load_report.loaded) == len(encoder.state_dict())
    assert not encoder.load_report.ignored
    assert encoder.embed([]).shape == (0, encoder.dim)
    half = zoo.load(run.folder, dtype="bfloat16")
    assert next(half.parameters()).dtype == torch.bfloat16
    np.testing.assert_allclose(embed(half), embed(encoder), atol=0.1)


def test_run_folder_tells_everything(run, shards):
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["samples"] == 40
    assert facts["torch"] == torch.__version__
    assert run.recipe.encoder["dim"] == 24
    assert run.recipe.data == str(shards)
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    assert set(run.metrics[0]) >= {"loss", "lr", "grad_norm", "samples_per_second", "data_wait"}
    assert list((run.folder / "tensorboard").iterdir())
    assert not list(run.folder.rglob(".tmp-*"))


def test_finished_runs_are_left_alone(run, shards):
    before = (run.folder / "export" / "model.safetensors").stat().st_mtime_ns
    again = zoo.pretrain("digits-mae", shards, run.folder, TINY, progress=False)
    assert (again.folder / "export" / "model.safetensors").stat().st_mtime_ns == before


def test_another_run_in_the_folder_is_refused(run, shards):
    with pytest.raises(UsageError, match=r"holds another run: train.steps is 4 there and 9 now"):
        zoo.pretrain("digits-mae", shards, run.folder, TINY | {"train.steps": 9})
    with pytest.raises(UsageError, match="seed is 0 there and 1 now"):
        zoo.pretrain("digits-mae", shards, run.folder, TINY, seed=1)


def test_a_folder_of_something_else_is_refused(shards, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="exists and holds no run"):
        zoo.pretrain("digits-mae", shards, tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_of_a_run_that_never_began_is_taken(shards, tmp_path):
    for name in ("run.lock", "run.json", ".tmp-config.toml-1a2b3c4d"):
        (tmp_path / name).touch()
    run = zoo.pretrain("digits-mae", shards, tmp_path, TINY, progress=False)
    assert run.finished
    assert not list(tmp_path.glob(".tmp-*"))


def test_nothing_is_made_when_the_request_is_wrong(shards, tmp_path):
    out = tmp_path / "run"
    for model, data, options in [
        ("digits-mea", shards, {}),
        ("digits-mae", tmp_path / "none", {}),
        ("digits-mae", shards, {"train.lrr": 1}),
        ("mae-base", shards, {"objective.name": "masked_lm"}),
    ]:
        with pytest.raises(UsageError):
            zoo.pretrain(model, data, out, options)
        assert not out.exists()


def test_a_bad_sample_is_named(tmp_path):
    items = [*digits(4), ("zzz", {"png": b"no image"})]
    zoo.write_shards(items, tmp_path / "s")
    run = zoo.pretrain("digits-mae", tmp_path / "s", tmp_path / "run", TINY, progress=False)
    [row] = map(json.loads, (run.folder / "quarantine.jsonl").read_text().splitlines())
    assert row["key"] == "zzz"
    assert "not an image" in row["detail"]
    assert run.metrics[-1]["bad_samples"] == 1
    strict = TINY | {"loader.on_bad": "raise"}
    with pytest.raises(DataError, match=r"00000\.tar, sample 'zzz': .*not an image"):
        zoo.pretrain("digits-mae", tmp_path / "s", tmp_path / "strict", strict, progress=False)


def test_a_mixture_is_trained_on_as_long_as_it_lasts(tmp_path):
    for name in "ab":
        zoo.write_shards(digits(), tmp_path / name)
    mixture = tmp_path / "mix.toml"
    rows = [f'[[mixture]]\ndata = "{name}"\nweight = 1\n' for name in "ab"]
    mixture.write_text("window = 8\n" + "".join(rows))
    run = zoo.pretrain("digits-mae", mixture, tmp_path / "run", TINY, progress=False)
    assert run.finished
    mixture.write_text('stop = "first"\n' + mixture.read_text())
    many = TINY | {"train.steps": 1000}
    with pytest.raises(UsageError, match=r"mix\.toml: the mixture ends after \d+ samples"):
        zoo.pretrain("digits-mae", mixture, tmp_path / "long", many, progress=False)
    assert not (tmp_path / "long").exists()


def test_unfinished_runs_say_so(run, tmp_path):
    part = shutil.copytree(run.folder, tmp_path / "part", ignore=shutil.ignore_patterns("export"))
    with pytest.raises(UsageError, match="has not finished"):
        zoo.load(part)
    assert not Run(part).finished


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./none", "no such folder"),
        ("mae-bse", "did you mean"),
        ("digits-mae", "no published weights"),
    ],
)
def test_sources_that_cannot_be_loaded(source, message):
    with pytest.raises(UsageError, match=message):
        zoo.load(source)


def test_published_weights_that_cannot_be_fetched():
    with pytest.raises(ZooError, match=r"base: not in the cache, and HF_HUB_OFFLINE forbids"):
        zoo.load("mae-base")


def test_an_empty_folder_is_no_encoder(tmp_path):
    with pytest.raises(UsageError, match="neither a run nor an exported encoder"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "card.toml"])
def test_damaged_exports_are_refused(run, tmp_path, name):
    folder = shutil.copytree(run.folder / "export", tmp_path / "x")
    zoo.load(folder)  # digests are remembered, of files as they were
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 4
    (folder / name).write_bytes(data)
    with pytest.raises((IntegrityError, ConfigError)):
        zoo.load(folder)
    (folder / name).unlink()
    with pytest.raises((IntegrityError, UsageError)):
        zoo.load(folder)


def test_tokenizer_travels_with_the_weights(code_run, tmp_path):
    folder = shutil.copytree(code_run.folder / "export", tmp_path / "x")
    assert (folder / "tokenizer.json").exists()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"tokenizer\.json: damaged"):
        zoo.load(folder)


SMALL = {"dim": 16, "depth": 1, "heads": 2, "img_size": 32}


@pytest.fixture
def file(tmp_path):
    encoder = zoo.create("mae-base", seed=0, **SMALL)
    path = tmp_path / "w.safetensors"
    save_file(encoder.state_dict(), path)
    return path


def test_weights_files_by_name(file, tmp_path):
    encoder = zoo.load("mae-base", weights=file, **SMALL)
    torch.save({"model": encoder.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    again = zoo.load("mae-base", weights=tmp_path / "w.pth", **SMALL)
    assert all(
        torch.equal(a, b)
        for a, b in zip(encoder.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_decoder_and_classifier_are_accounted_for(file):
    state = zoo.load("mae-base", weights=file, **SMALL).state_dict()
    extra = {"mask_token": torch.zeros(1, 1, 8), "head.weight": torch.zeros(2, 16)}
    save_file({**{k: v.clone() for k, v in state.items()}, **extra}, file)
    report = zoo.load("mae-base", weights=file, **SMALL).load_report
    assert set(report.ignored) == set(extra)
    assert "classifier" in report.ignored["head.weight"]


def test_positions_are_resized_and_reported(file):
    encoder = zoo.load("mae-base", weights=file, **(SMALL | {"img_size": 64}))
    assert encoder.load_report.resized == ("pos_embed",)
    assert encoder.grid == (4, 4)


def change(state, kind):
    name = "blocks.0.mlp.fc1.weight"
    if kind == "missing":
        del state[name]
    elif kind == "unexpected":
        state["blocks.0.gamma"] = torch.zeros(3)
    elif kind == "misshapen":
        state[name] = torch.zeros(3, 3)
    else:
        state[name] = torch.full_like(state[name], float("nan"))


@pytest.mark.parametrize("kind", ["missing", "unexpected", "misshapen", "hold NaN"])
def test_weights_that_do_not_fit(file, kind):
    state = {k: v.clone() for k, v in zoo.create("mae-base", seed=0, **SMALL).state_dict().items()}
    change(state, kind)
    save_file(state, file)
    with pytest.raises(WeightsError, match=kind):
        zoo.load("mae-base", weights=file, **SMALL)


def test_files_that_hold_no_weights(tmp_path):
    for name, content, error in [
        ("x.safetensors", b"no", WeightsError),
        ("x.pth", b"no", WeightsError),
        ("x.npz", b"no", UsageError),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=name):
            zoo.load("mae-base", weights=tmp_path / name, **SMALL)
    with pytest.raises(UsageError, match="no such weights file"):
        zoo.load("mae-base", weights=tmp_path / "none.safetensors")


class Canary:
    def __reduce__(self):
        return (open, (Canary.place, "w"))


def test_pickles_run_no_code(tmp_path):
    Canary.place = str(tmp_path / "canary")
    torch.save({"w": Canary()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="holds more than a state dict"):
        zoo.load("mae-base", weights=tmp_path / "evil.pth", **SMALL)
    assert not (tmp_path / "canary").exists()


def test_create_is_reproducible_and_private():
    before = torch.get_rng_state()
    first, second = (zoo.create("digits-mae", seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.cls_token, second.cls_token)
    assert first.training
    with pytest.raises(ConfigError, match="nearest: depth"):
        zoo.create("digits-mae", dept=3)


def test_export_never_overwrites(run, tmp_path):
    encoder = run.load()
    with pytest.raises(UsageError, match="exists already"):
        save_export(tmp_path, encoder, encoder_spec("digits-mae", {}))


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_probe_tells_two_easy_classes_apart(run, shards, kind):
    score = zoo.probe(run.load(), shards, shards, kind=kind, k=5)
    assert score.accuracy >= 0.8  # chance is a half
    assert score.protocol


def test_probe_needs_labels_and_a_known_kind(run, shards, tmp_path):
    items = [(key, {"png": members["png"]}) for key, members in digits(3)]
    zoo.write_shards(items, tmp_path / "s")
    with pytest.raises(DataError, match="no label"):
        zoo.probe(run.load(), shards, tmp_path / "s")
    with pytest.raises(UnknownNameError, match="unknown probe"):
        zoo.probe(run.load(), shards, shards, kind="magic")
