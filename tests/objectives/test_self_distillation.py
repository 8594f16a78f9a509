"""Self-distillation: a run whose teacher is another run, started from the weights of a third."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from zoo.modalities.vision.codec import VisionCodec
from zoo.registry.build import build_objective

import zoo
from zoo.errors import ConfigError, UsageError

TINY = {
    "encoder.dim": 24, "encoder.depth": 1, "objective.decoder_dim": 16, "train.steps": 4,
    "train.warmup": 0, "train.batch_size": 8, "train.loggers": [], "loader.workers": 0,
    "train.lr": 1e-2, "train.save_every": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    codec, rng = VisionCodec(), np.random.default_rng(0)
    images = (rng.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(16))
    items = [(f"{i:02d}", codec.encode({"image": image})) for i, image in enumerate(images)]
    folder = tmp_path_factory.mktemp("data")
    zoo.write_shards(items, folder)
    return folder


def train(shards, out, **options):
    return zoo.pretrain("digits-mae", shards, out, TINY | options, seed=1, progress=False)


def weights_of(run):
    return load_file(next(run.folder.glob("checkpoints/step-4/model.safetensors")))


def test_the_student_begins_anew_and_the_teacher_stays(shards, tmp_path):
    first = train(shards, tmp_path / "first")
    teacher = train(shards, tmp_path / "teacher", **{"train.init": first.folder})
    options = {
        "train.init": first.folder,
        "objective.name": "self_distillation",
        "objective.teacher": teacher.folder,
        "objective.decoder_heads": 2,
        "objective.decoder_depth": 1,
    }
    run = train(shards, tmp_path / "student", **options)
    found = weights_of(run)
    for name, value in teacher.load().state_dict().items():
        assert torch.equal(found[f"objective.teacher.0.{name}"], value)
    student = run.load().state_dict()
    assert not torch.equal(student["cls_token"], teacher.load().cls_token)
    # With much weight the student ends nearer to the teacher.
    near = train(shards, tmp_path / "near", **options, **{"objective.weight": 100.0})
    images = np.random.default_rng(1).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    wanted, *others = (one.load().embed(list(images)) for one in (teacher, run, near))
    distances = [float(np.square(other - wanted).sum(1).mean()) for other in others]
    assert distances[1] < distances[0]
    # A run that goes on takes its teacher from its own checkpoint.
    again = train(shards, tmp_path / "student", **options)
    assert all(torch.equal(value, student[n]) for n, value in again.load().state_dict().items())


def test_the_loss_is_that_of_mae_and_the_distance():
    encoder = zoo.create("digits-mae", seed=0, dim=24, depth=1, heads=2)
    options = {"name": "mae", "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    plain = build_objective(options, encoder)
    more = {"name": "self_distillation", "teacher": "elsewhere", "weight": 0.5}
    objective = build_objective(options | more, encoder)
    objective.load_state_dict(plain.state_dict(), strict=False)
    [(source, teacher)] = objective.teachers().items()
    assert source == "elsewhere"
    with torch.no_grad():
        teacher.cls_token.add_(1.0)
    batch = {"image": torch.randn(5, 1, 8, 8), "noise": torch.rand(5, 16)}
    losses = objective(encoder, batch)
    a, b = (one({"image": batch["image"]}).pooled for one in (encoder, teacher))
    distance = (a - b).square().sum() / 5
    torch.testing.assert_close(losses.total, plain(encoder, batch).total + 0.5 * distance)
    losses.total.backward()
    assert all(p.grad is None for p in teacher.parameters())
    # Stacked augmentations count each for itself.
    stacked = {name: torch.stack((value, value), 1) for name, value in batch.items()}
    torch.testing.assert_close(objective(encoder, stacked).total, losses.total)


def test_what_cannot_be(shards, tmp_path):
    options = {"objective.name": "self_distillation", "objective.decoder_heads": 2}
    with pytest.raises(ConfigError, match="teacher"):
        train(shards, tmp_path / "none", **options)
    with pytest.raises(UsageError, match="no such weights file"):
        train(shards, tmp_path / "gone", **options, **{"objective.teacher": tmp_path / "x.pt"})
