"""LOOK: a leave-one-out kNN over the samples of all processes, against a plain one."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from training.ranks import Ranks
from zoo.objectives.look import leave_one_out_knn
from zoo.registry.build import build_objective

import zoo
from zoo.errors import DataError
from zoo.training.world import joined

SIZES = (5, 3)


def inputs():
    torch.manual_seed(0)
    z = normalize(torch.randn(sum(SIZES), 4, dtype=torch.float64), dim=1).requires_grad_()
    return z, torch.arange(sum(SIZES)) % 2


def plain(z, labels, k, temperature):
    shares = []
    for i in range(len(z)):
        others = sorted((j for j in range(len(z)) if j != i), key=lambda j: -(z[i] @ z[j]).item())
        weights = torch.stack([(z[i] @ z[j] / temperature).exp() for j in others[:k]])
        agree = torch.tensor([bool(labels[j] == labels[i]) for j in others[:k]])
        shares.append((weights * agree).sum() / weights.sum())
    return torch.stack(shares)


def part():
    with joined("cpu", timeout=30) as world:
        z, labels = inputs()
        begin = sum(SIZES[: world.rank])
        own = slice(begin, begin + SIZES[world.rank])
        mine = z.detach()[own].requires_grad_()
        shares = leave_one_out_knn(mine, labels[own], k=3, temperature=0.3)
        shares.square().sum().backward()
        return shares.detach().numpy(), mine.grad.numpy()


def test_two_processes_have_the_neighbours_of_one():
    z, labels = inputs()
    want = plain(z, labels, 3, 0.3)
    want.square().sum().backward()
    torch.testing.assert_close(leave_one_out_knn(z, labels, k=3, temperature=0.3), want)
    results = Ranks(2, part).results()
    shares, gradients = (
        torch.cat([torch.from_numpy(results[rank][i]) for rank in range(2)]) for i in range(2)
    )
    torch.testing.assert_close(shares, want.detach())
    torch.testing.assert_close(gradients, z.grad)


def test_real_steps():
    encoder = zoo.create("digits-mae", seed=0, dim=24, depth=1, heads=2)
    torch.manual_seed(0)
    options = {"name": "look", "neighbours": 11, "hidden_dim": 16, "output_dim": 8}
    objective = build_objective(options, encoder)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=generator)
    samples = [{"image": image, "label": i % 2} for i, image in enumerate(images)]
    prepared = [objective.prepare(one, encoder.preprocess, generator) for one in samples]
    batch = encoder.preprocess.collate(prepared)
    assert objective.count(batch) == 12
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objective.parameters()], lr=5e-3)
    curve = []
    for _ in range(20):
        optimizer.zero_grad()
        losses = objective(encoder, batch)
        losses.total.backward()
        optimizer.step()
        curve.append(losses.total.item())
    assert curve[-1] < 0.9 * curve[0]
    assert math.isfinite(curve[-1])
    with pytest.raises(DataError, match="without a label"):
        objective.prepare({"image": images[0]}, encoder.preprocess, generator)
