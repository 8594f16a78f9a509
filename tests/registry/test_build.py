from dataclasses import is_dataclass

import pytest
import torch
from zoo.modalities.tabular.fixed import FixedEncoder
from zoo.modalities.tabular.read import read_table
from zoo.modalities.towers import TwoTowerEncoder
from zoo.objectives.contract import Objective
from zoo.registry.build import (
    ARCHITECTURES,
    OBJECTIVES,
    _architecture,
    _objective,
    build_encoder,
    build_objective,
    check_pairing,
    encoder_spec,
    resolve_recipe,
)
from zoo.registry.recipe import Recipe, TrainRecipe
from zoo.registry.schema import read, to_table

import zoo
from zoo.errors import ConfigError, UnknownNameError, UsageError

SMALL = {"dim": 24, "depth": 1, "heads": 2}
TINY = {
    "vit": SMALL,
    "two_towers": {},  # its card has small ones
    "spectrogram_vit": SMALL,
    "code": SMALL | {"hidden": 32},
    "t5": SMALL | {"decoder_depth": 1, "head_dim": 8, "hidden": 32},
    "t5_encoder": SMALL | {"head_dim": 8, "hidden": 32, "embed_dim": 16},
    "unitabe": SMALL | {"embed_dim": 16, "hidden": 32, "vocab_size": 256},
    "ft_transformer": SMALL | {"numbers": 2, "levels": [3]},
    "saint": SMALL | {"numbers": 2, "levels": [3]},
    "wav2vec2": SMALL
    | {"mlp_dim": 32, "conv_dim": [16] * 7, "pos_conv_kernel": 8, "pos_conv_groups": 4},
    "swin3d": {"feature_size": 2, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 4},
    "vit3d": SMALL | {"patch_size": 8},
    "crop_vit3d": SMALL | {"patch_size": 8},
    "conv3d": {"widths": [8, 16]},
}
SIZES = {  # of volumes
    "swin3d": (128, 64, 64),
    "vit3d": (16, 16, 16),
    "crop_vit3d": (32, 16, 16),
    "conv3d": (32, 16, 16),
}


TRAINABLE = [name for name in zoo.list_models() if zoo.card(name).recipe]


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_model_trains_with_its_objective(name):
    """Build, views, forward, backward; every trainable parameter gets a gradient."""
    card = zoo.card(name)
    if card.recipe is None:
        pytest.skip("its card only describes published weights")
    architecture = card.encoder["name"]
    changes = OWN_IDS if card.modality == "code" else {}
    if architecture in SIZES:
        changes = {"size": SIZES[architecture]}
    encoder = zoo.create(name, seed=0, preprocess=changes, **TINY[architecture])
    options = dict(card.recipe.objective)
    for key in options:
        if key.endswith("heads"):
            options[key] = 2
        elif key.endswith("dim"):
            options[key] = 24  # positions on 3 axes need a multiple of 6
    objective = build_objective(options, encoder)
    samples = views_of(encoder, objective)
    batch = encoder.preprocess.collate(samples)
    losses = objective(encoder, batch)
    losses.total.backward()
    objective.after_step(encoder)
    for module in (encoder, objective):
        for parameter_name, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, parameter_name
                assert parameter.grad.isfinite().all()
    assert objective.count(batch) > 0
    with torch.no_grad():
        features = encoder.eval()(batch)
    rows = len(batch["lengths"]) if encoder.modality == "tabular" else len(samples)
    assert features.pooled.shape == (rows, encoder.embed_dim)


# Of a tokenizer that the test trains.
OWN_IDS = {"start_id": 1, "end_id": 2, "mask_id": 3, "ordinary_ids": None}


def views_of(encoder, objective):
    generator = torch.Generator().manual_seed(0)
    made = captions if isinstance(encoder, TwoTowerEncoder) else FULL.get(encoder.modality)
    if made is not None:  # where the task needs more than tensors
        samples = made()
        if isinstance(encoder, FixedEncoder):  # of one table
            samples = [samples[0]] * 2
        encoder.preprocess.fit(samples)
        return [objective.prepare(one, encoder.preprocess, generator) for one in samples]
    return [objective.views(sample, generator) for sample in raw(encoder)]


def texts():
    found = ["def f(x):\n    return x + 1\n", "y = [i for i in range(9)]\n", "pass\n"]
    return [{"text": text, "facts": {"query": text[:3]}} for text in found]


def tables():
    """A sample is a block of rows."""
    columns = {"size": [1.0, 2.5, None, 4.0], "colour": ["red", "blue", "red", "green"]}
    return [{"table": read_table(columns | {name: [4, 3, 2, 1]})} for name in ("age", "year")]


def captions():
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator())
    return [{"image": image, "text": name} for image, name in zip(images, "ab", strict=True)]


FULL = {"code": texts, "tabular": tables}


def raw(encoder):
    if encoder.modality == "audio":
        return [encoder.preprocess(torch.randn(8000)) for _ in range(2)]
    if encoder.modality == "volume":
        constants = encoder.preprocess.config
        size = (2, len(constants.sequences), *constants.size)
        return [{"volume": volume} for volume in torch.randn(size)]
    size = (2, encoder.config.in_chans, encoder.config.img_size, encoder.config.img_size)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator())
    return [encoder.preprocess(image) for image in images]


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_recipe_resolves_completely(name):
    if zoo.card(name).recipe is None:
        pytest.skip("its card only describes published weights")
    recipe = resolve_recipe(name, "shards/")
    assert read(Recipe, to_table(recipe), where="again") == recipe
    assert recipe.encoder.keys() > {"name"}


def test_meta_device_has_no_values():
    with torch.device("meta"):
        encoder = build_encoder(encoder_spec("mae-huge", {}))
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    assert all(p.is_meta for p in trainable)


def test_wrong_pairs_are_refused_with_what_would_work():
    with pytest.raises(UsageError, match=r"'mae' needs tokens on a fixed grid .* masked_lm"):
        resolve_recipe("stdlib-mlm", "x", ["objective.name=mae"])
    with pytest.raises(UsageError, match=r"'masked_lm' needs token ids .* works with mae"):
        resolve_recipe("digits-mae", "x", ["objective.name=masked_lm"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.lrr=1", r"'train.lrr' \(nearest: lr"),
        ("train.lr=fast", "'train.lr' must be a number"),
        ("encoder.dept=2", r"'dept' \(nearest: depth\)"),
        ("objective.name=mea", "did you mean mae"),
        ("objective.mask_ratio=2", "mask_ratio must lie between 0 and 1"),
        ("train.accumulate=3", "multiple of accumulate 3"),
        ("train.epochs=1", "exactly one of steps and epochs"),
        ("encoder.patch_size=3", "img_size 8 must be a multiple of patch_size 3"),
        ("preprocess.mean=0.1,0.2", "2 values for 1 channels"),
    ],
)
def test_wrong_options(word, message):
    def build():
        recipe = resolve_recipe("digits-mae", "x", [word])
        build_encoder(encoder_spec("digits-mae", {}, recipe.preprocess))

    with pytest.raises((ConfigError, UnknownNameError), match=message):
        build()


def test_learning_rate_scales_with_the_batch():
    recipe = TrainRecipe(batch_size=4096, epochs=800, warmup=40, base_lr=1.5e-4)
    assert recipe.peak_lr == pytest.approx(2.4e-3)
    assert recipe.total_steps(1_281_167) == round(800 * 1_281_167 / 4096)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pair_works_or_is_refused_in_one_line(architecture):
    options = {"name": architecture}
    for name in OBJECTIVES:
        task = _objective({"name": name})
        if issubclass(_architecture(options), task.requires):
            check_pairing(options, {"name": name})
            continue
        with pytest.raises(UsageError) as caught:
            check_pairing(options, {"name": name})
        said = str(caught.value)
        assert f"{name!r} needs {task.requires.needs_words}, which {architecture!r}" in said
        assert "\n" not in said


def test_objectives_state_what_they_need():
    for name in OBJECTIVES:
        task = _objective({"name": name})
        assert issubclass(task, Objective)
        assert task.requires.needs_words
        assert is_dataclass(task.config_class)
