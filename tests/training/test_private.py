"""DP-SGD on a real pair: per-sample gradients, bounds that hold, and noise of the right size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zoo.registry.build import build_encoder, build_objective, encoder_spec

from zoo.errors import UsageError
from zoo.training.private import clipped_mean, noised, sample_gradients
from zoo.training.wrap import Step


def total(losses):
    return losses.total


def test_samples_gradients_average_to_the_batchs():
    encoder = build_encoder(encoder_spec("digits-mae", {"drop_path": 0.0}))
    objective = build_objective({"name": "mae"}, encoder)
    pair, generator = Step(encoder, objective), torch.Generator().manual_seed(0)
    size, channels = encoder.config.img_size, encoder.config.in_chans
    samples = [
        objective.views({"image": torch.rand(channels, size, size)}, generator) for _ in range(3)
    ]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    gradients = sample_gradients(pair, total, batch)
    pair(batch).total.backward()
    trained = {n: p.grad for n, p in pair.named_parameters() if p.requires_grad}
    mean = clipped_mean(gradients, 1e9)
    assert mean.keys() == trained.keys()
    for name, gradient in trained.items():
        torch.testing.assert_close(mean[name], gradient, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=20, database=None)
@given(st.integers(0, 1000), st.booleans(), st.floats(0.1, 10))
def test_no_sample_moves_the_sum_by_more_than_the_limit(seed, per_layer, limit):
    generator = torch.Generator().manual_seed(seed)
    gradients = {
        name: torch.randn(4, *shape, generator=generator).mul_(100 * torch.rand(1))
        for name, shape in {"weight": (3, 5), "bias": (5,), "scalar": ()}.items()
    }
    gradients["weight"][1] = 0
    whole = clipped_mean(gradients, limit, per_layer=per_layer)
    for sample in range(4):
        others = {name: g.clone() for name, g in gradients.items()}
        for g in others.values():
            g[sample] = 0
        without = clipped_mean(others, limit, per_layer=per_layer)
        moved = math.sqrt(sum(float((whole[n] - without[n]).square().sum()) for n in whole))
        assert moved * 4 <= limit * (1 + 1e-4)


def test_noise_is_that_of_the_mean():
    zeros = {"a": torch.zeros(100, 100), "b": torch.zeros(50)}
    generator = torch.Generator().manual_seed(0)
    noise = noised(zeros, multiplier=2.0, limit=3.0, samples=8, generator=generator)
    assert abs(float(noise["a"].std()) / (2.0 * 3.0 / 8) - 1) < 0.05
    assert abs(float(noise["a"].mean())) < 0.05
    again = noised(zeros, multiplier=2.0, limit=3.0, samples=8, generator=generator)
    assert not torch.equal(noise["b"], again["b"])


def test_batch_norm_is_refused():
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(3)})
    with pytest.raises(UsageError, match="norm: batch norm mixes samples"):
        sample_gradients(model, total, {"x": torch.zeros(2, 3)})
