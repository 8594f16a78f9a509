"""The objective over two views: what it sees, what it refuses, and runs on several processes."""

import numpy as np
import pytest
import torch
from training.ranks import Ranks
from zoo.modalities.vision.codec import VisionCodec
from zoo.objectives.contrastive import ViewContrastive, ViewContrastiveConfig
from zoo.objectives.contrastive_losses import nt_xent
from zoo.registry.build import build_objective, resolve_recipe

import zoo
import zoo.pretraining
from zoo.errors import ConfigError, UsageError
from zoo.training.metrics import read_metrics

TINY = {"encoder.dim": 24, "encoder.depth": 2, "objective.name": "contrastive"}
RUN = TINY | {
    "objective.hidden_dim": 32, "objective.output_dim": 16, "train.steps": 4,
    "train.batch_size": 25, "train.warmup": 2, "train.log_every": 1, "train.optimizer": "adamw",
    "train.lr": 1e-3, "train.timeout": 20, "train.loggers": [], "loader.workers": 0,
}  # fmt: skip


def pair(**options):
    encoder = zoo.create("digits-mae", seed=0, dim=24, depth=1, heads=2)
    config = ViewContrastiveConfig(hidden_dim=32, output_dim=16, **options)
    return encoder, ViewContrastive(config, encoder)


def images(count):
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8)


def test_two_augmentations_of_one_sample():
    encoder, objective = pair()
    sample = {"image": images(1)[0]}

    def prepared(seed):
        generator = torch.Generator().manual_seed(seed)
        return objective.prepare(sample, encoder.preprocess, generator)["image"]

    views = prepared(1)
    assert views.shape == (2, 1, 8, 8)
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views, prepared(1))
    assert not torch.equal(views, prepared(2))


def test_views_meet_their_own_sample():
    encoder, objective = pair(temperature=0.2)
    batch = {"image": images(10).unflatten(0, (5, 2))}
    losses = objective(encoder, batch)
    assert objective.count(batch) == 5
    first, second = (encoder({"image": batch["image"][:, view]}).pooled for view in range(2))
    a, b = (torch.nn.functional.normalize(objective.projector(x), dim=1) for x in (first, second))
    torch.testing.assert_close(losses.total, nt_xent(a, b, torch.tensor(5.0)))
    torch.testing.assert_close(losses.metrics["similarity"], (a * b).sum(1).mean())


@pytest.mark.parametrize("loss", ["nt_xent", "dcl", "info_nce", "sigmoid"])
def test_every_loss_trains_every_parameter(loss):
    encoder, objective = pair(loss=loss, learn_temperature=True)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objective.parameters()], lr=1e-3)
    views = images(8)
    batch = {"image": torch.stack((views, views.flip(-1)), 1)}
    curve = []
    for _ in range(15):
        losses = objective(encoder, batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        objective.after_step(encoder)
        curve.append(losses.total.item())
    assert all(p.grad is not None for p in objective.parameters())
    assert curve[-1] < 0.9 * curve[0]


def test_the_temperature_stays_within_its_bounds():
    encoder, objective = pair(temperature=0.05, learn_temperature=True)
    for value, bound in ((9.0, 100.0), (-3.0, 1.0), (2.0, np.exp(2.0))):
        with torch.no_grad():
            objective.logit_scale.log_scale.fill_(value)
        objective.after_step(encoder)
        assert objective.logit_scale().item() == pytest.approx(bound)


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        ("digits-mae", ["train.accumulate=2"], "compares all samples of a step"),
        ("digits-mae", ["loader.tokens=512"], "compares all samples of a step"),
        ("digits-mae", ["objective.mask_ratio=0.5"], "unknown key 'mask_ratio'"),
        ("digits-mae", ["objective.temperature=0"], "between 0.01 and 1"),
        ("stdlib-mlm", [], r"needs samples that are all of one shape, .* works with masked_lm"),
    ],
)
def test_what_cannot_work_is_refused_when_the_recipe_is_read(model, words, message):
    with pytest.raises((ConfigError, UsageError), match=message) as caught:
        resolve_recipe(model, "x", ["objective.name=contrastive", *words])
    assert "\n" not in str(caught.value)


def test_another_objective_leaves_the_options_of_the_card_behind():
    recipe = resolve_recipe("digits-mae", "x", [f"{k}={v}" for k, v in TINY.items()])
    assert recipe.objective["loss"] == "nt_xent"
    assert "decoder_dim" not in recipe.objective
    assert isinstance(build_objective(recipe.objective, pair()[0]), ViewContrastive)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contrastive") / "shards"
    codec, rng = VisionCodec(), np.random.default_rng(0)
    items = (
        (f"{i:04d}", codec.encode({"image": rng.integers(0, 256, (8, 8), dtype=np.uint8)}))
        for i in range(96)
    )
    zoo.write_shards(items, folder)
    return folder


def train(shards, out, options):
    run = zoo.pretrain(
        "digits-mae", shards, out, RUN | options, seed=3, device="cpu", progress=False
    )
    return run.finished


def curve(out):
    return np.array([[row["loss"], row["grad_norm"]] for row in read_metrics(out)])


@pytest.mark.parametrize(
    ("loss", "worlds"),
    [
        ("nt_xent", [(2, {}), (4, {})]),
        ("info_nce", [(3, {"train.parallel": "fsdp"})]),
    ],
)
def test_any_number_of_processes_gives_the_same_run(shards, tmp_path, loss, worlds):
    """Within 1e-4 of losses and gradients, though processes have different numbers of samples."""
    options = {"objective.loss": loss, "objective.learn_temperature": loss == "info_nce"}
    assert train(shards, tmp_path / "alone", options)
    for size, more in worlds:
        out = tmp_path / f"{size}"
        results = Ranks(size, train, shards, out, options | more).results()
        assert results == dict.fromkeys(range(size), True)
        np.testing.assert_allclose(curve(out), curve(tmp_path / "alone"), rtol=1e-4)
