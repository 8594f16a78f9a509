"""One contrastive objective for whatever has a text beside it: sound, volumes, tables, code."""

import numpy as np
import pytest
import torch
from zoo.hub.golden import fingerprint
from zoo.modalities.audio.codec import AudioCodec
from zoo.modalities.code.codec import CodeCodec
from zoo.modalities.tabular.codec import TabularCodec
from zoo.modalities.tabular.read import read_table
from zoo.modalities.vision.codec import VisionCodec
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.volume import Sequence, Volume
from zoo.registry.build import resolve_recipe
from zoo.registry.schema import to_toml

import zoo
from zoo.errors import ConfigError
from zoo.probes.zero_shot import recall_at, zero_shot_classifier, zero_shot_predict

NAMES = ("low", "middle", "high", "highest")
TRAIN = {
    "batch_size": 32, "steps": 30, "warmup": 2, "lr": 8e-3, "weight_decay": 0.01,
    "log_every": 1, "save_every": 1000, "loggers": [],
}  # fmt: skip
TEXT = {"name": "code", "vocab_size": 300, "dim": 24, "depth": 1, "heads": 2, "hidden": 32}


def sound(level, rng):
    seconds = np.arange(4000) / 8000
    tone = np.sin(2 * np.pi * 300 * 2**level * seconds + rng.uniform(0, 6))
    return {"audio": (tone + 0.3 * rng.standard_normal(4000)).astype(np.float32), "rate": 8000}


def volume(level, rng):
    stripes = 200 * np.cos(np.pi * 2.0**-level * np.arange(16))[:, None, None]
    voxels = (stripes + 40 * rng.standard_normal((16, 16, 16))).astype(np.float32)
    return {"volume": Volume(sequences={"ct": Sequence(voxels)}, affine=np.eye(4), modality="ct")}


def row(level, rng):
    weight, colour = level * 10 + rng.normal(), ["red", "blue"][int(rng.integers(2))]
    table = read_table({"weight": np.array([weight, 0.0, 30.0]), "colour": [colour, "red", "blue"]})
    return {"table": table.take(np.array([0]))}


def image(level, rng):
    return {"image": (60 * level + rng.integers(0, 60, (8, 8))).astype(np.uint8)}


VIT = {
    "name": "vit",
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 1,
    "dim": 24,
    "depth": 1,
    "heads": 2,
}
CASES = {
    "audio": (
        AudioCodec, sound,
        {"name": "spectrogram_vit", "dim": 24, "depth": 1, "heads": 2},
        {"features": {
            "sample_rate": 8000, "seconds": 0.5, "num_mel_bins": 32, "target_length": 48,
            "mean": -4.0, "std": 3.0,
        }},
    ),
    "volume": (
        VolumeCodec, volume,
        {"name": "conv3d", "widths": [8, 16], "groups": 4},
        {"size": [16, 16, 16], "min_size": [16, 16, 16], "spacing": [1.0, 1.0, 1.0],
         "window": [-400.0, 400.0], "crop_foreground": False},
    ),
    "tabular": (
        TabularCodec, row,
        {"name": "unitabe", "vocab_size": 300, "embed_dim": 24, "dim": 24, "depth": 1, "heads": 2,
         "hidden": 32, "tokens": "cells", "numbers": "named", "order": "rolled", "pool": "mean"},
        {},
    ),
    "vision": (VisionCodec, image, VIT, {"mean": [0.5], "std": [0.3]}),
}  # fmt: skip


def config(folder, modality, **changes):
    """A recipe as a file: no card has such towers."""
    _, _, tower, preprocess = CASES[modality]
    table = {
        "model": "towers", "modality": modality, "data": str(folder / "shards"), "seed": 0,
        "encoder": {"name": "two_towers", "embed_dim": 16, "tower": tower, "text": TEXT},
        "preprocess": {"tower": preprocess, "text": {"max_length": 16}},
        "objective": {"name": "image_text"}, "train": TRAIN, "loader": {"workers": 0},
    }  # fmt: skip
    path = folder / "recipe.toml"
    path.write_text(to_toml(table | changes))
    return str(path)


@pytest.mark.parametrize("modality", CASES)
def test_samples_and_their_texts_find_each_other(modality, tmp_path):
    codec, draw, _, _ = CASES[modality]
    codec, rng = codec(), np.random.default_rng(0)

    def members(number):
        text = f"a {NAMES[number % 4]} one"
        return codec.encode(draw(number % 4, rng) | {"text": text, "label": number % 4})

    zoo.write_shards(((f"{i:03d}", members(i)) for i in range(64)), tmp_path / "shards")
    recipe = config(tmp_path, modality)
    run = zoo.pretrain(recipe, None, tmp_path / "run", progress=False)
    losses = [line["loss"] for line in run.metrics]
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    encoder = zoo.load(run.folder / "export")
    assert encoder.modality == modality
    assert fingerprint(encoder) == fingerprint(run.load())  # what publishing proves
    held_out = [codec.decode(members(number)) for number in range(32)]
    classifier = zero_shot_classifier(encoder, NAMES, ["a {} one"])
    found = zero_shot_predict(encoder, held_out, classifier)
    labels = [sample["label"] for sample in held_out]
    assert np.mean(found == labels) >= 0.7  # chance is 0.25


def test_code_and_the_texts_about_it_find_each_other(tmp_path):
    codec, verbs, things = CodeCodec(), ("read", "sort", "copy", "drop"), ("rows", "files", "keys")
    pairs = [(f"{verb} all {thing}", f"def {verb}_{thing}(x):\n    return x.{verb}({thing})\n")
             for verb in verbs for thing in things]  # fmt: skip
    zoo.write_shards(
        (
            (f"{i:03d}", codec.encode({"text": code, "facts": {"query": text}}))
            for i, (text, code) in enumerate(pairs * 3)
        ),
        tmp_path / "shards",
    )
    words = {
        **{f"encoder.{name}": value for name, value in TEXT.items() if name != "name"},
        **{f"train.{name}": value for name, value in TRAIN.items()},
        **{"objective.name": "text_code", "train.optimizer": "adamw", "train.betas": [0.9, 0.98]},
    }
    run = zoo.pretrain("stdlib-mlm", tmp_path / "shards", tmp_path / "run", words, progress=False)
    assert run.metrics[-1]["loss"] < 0.7 * run.metrics[0]["loss"]
    sides = [torch.from_numpy(run.load().embed([pair[i] for pair in pairs])) for i in (0, 1)]
    texts, codes = (torch.nn.functional.normalize(side, dim=1) for side in sides)
    assert recall_at(texts, codes, torch.eye(len(pairs)).bool(), 1) >= 0.6  # chance is 1 in 12


def test_both_sides_are_checked_and_completed(tmp_path):
    encoder = {"name": "two_towers", "tower": VIT, "text": TEXT}
    recipe = resolve_recipe(config(tmp_path, "vision", encoder=encoder), None)
    assert recipe.encoder["tower"]["pool"] == "cls"
    assert recipe.preprocess["text"]["max_length"] == 16
    with pytest.raises(ConfigError, match=r"towers, tower.*unknown key .deep"):
        resolve_recipe(
            config(tmp_path, "vision", encoder=encoder | {"tower": VIT | {"deep": 3}}), None
        )
    with pytest.raises(ConfigError, match=r"tower\.name is missing"):
        resolve_recipe(config(tmp_path, "vision", encoder=encoder | {"tower": {"dim": 3}}), None)
    zoo.write_shards(
        [("0", VisionCodec().encode(image(0, np.random.default_rng(0))))], tmp_path / "shards"
    )
    flat = CASES["vision"][3]
    path = config(
        tmp_path,
        "vision",
        encoder=encoder | {"text": VIT},
        preprocess={"tower": flat, "text": flat},
    )
    with pytest.raises(ConfigError, match=r"text\.name=vit is no encoder of texts"):
        zoo.pretrain(path, None, tmp_path / "run", progress=False)
