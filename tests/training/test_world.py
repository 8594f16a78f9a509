"""One run on several processes: the same numbers and samples as on one."""

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor
from training.ranks import Ranks
from training.world_runs import curve, exported, train, train_until, written
from zoo.registry.recipe import TrainRecipe

from zoo.training.optim import build_optimizers
from zoo.training.world import ALONE, joined
from zoo.training.wrap import divide


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return written(tmp_path_factory.mktemp("world") / "shards")


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    assert train(shards, out, {})
    return out


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2, {}),
        (4, {"train.accumulate": 2}),
        (3, {"loader.lanes": 1, "train.batch_size": 24}),
        (2, {"train.parallel": "fsdp"}),
        (
            4,
            {"train.parallel": "fsdp", "train.accumulate": 3, "train.checkpoint_activations": True},
        ),
    ],
)
def test_any_number_of_processes_gives_the_same_run(shards, alone, tmp_path, size, options):
    """Within 1e-4 of losses, gradients and all weights: sums are taken in another order."""
    out = tmp_path / "run"
    assert Ranks(size, train, shards, out, options).results() == dict.fromkeys(range(size), True)
    np.testing.assert_allclose(curve(out), curve(alone), rtol=1e-4)
    assert (exported(out) - exported(alone)).norm() < 1e-4 * exported(alone).norm()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("after", [1, 3])
def test_a_run_goes_on_with_another_number_of_processes(shards, alone, tmp_path, parallel, after):
    out, half = tmp_path / "run", {"train.save_every": 4, "train.parallel": parallel}
    first = Ranks(2, train_until, shards, out, half, 4)
    assert all("Enough" in result for result in first.results().values())
    second = Ranks(after, train, shards, out, half)
    assert set(second.results().values()) == {True}
    np.testing.assert_allclose(curve(out), curve(alone), rtol=1e-4)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_then_one_then_two_processes_end_with_the_same_weights(shards, tmp_path, parallel):
    """E2 of the specification: within 1e-5 after 50 steps; sums are taken in another order."""
    options = {
        "train.steps": 50,
        "train.save_every": 20,
        "train.parallel": parallel,
        "train.batch_size": 12,
    }
    assert all(Ranks(2, train, shards, tmp_path / "whole", options).results().values())
    out = tmp_path / "run"
    for size, end in ((2, 20), (1, 40)):
        results = Ranks(size, train_until, shards, out, options, end).results()
        assert all("Enough" in result for result in results.values()), results
    assert Ranks(2, train, shards, out, options).results() == {0: True, 1: True}
    whole = exported(tmp_path / "whole")
    assert (exported(out) - whole).norm() < 1e-5 * whole.norm()
    np.testing.assert_allclose(curve(out), curve(tmp_path / "whole"), rtol=1e-4)


def test_other_workers_change_no_bit(shards, tmp_path):
    """E1 of the specification, also if they change on the way."""
    options = {"train.save_every": 4, "encoder.drop_path": 0.3}
    for workers in (0, 2):
        more = options | {"loader.workers": workers}
        assert Ranks(2, train, shards, tmp_path / str(workers), more).results() == {
            0: True,
            1: True,
        }
    assert torch.equal(exported(tmp_path / "0"), exported(tmp_path / "2"))


def test_nodes_hold_copies_and_their_processes_parts(shards, alone, tmp_path):
    """HSDP on two nodes of two processes each."""
    out, options = tmp_path / "run", {"train.parallel": "hsdp", "train.accumulate": 2}
    ranks = Ranks(4, train, shards, out, options, nodes=2)
    assert ranks.results() == dict.fromkeys(range(4), True)
    np.testing.assert_allclose(curve(out), curve(alone), rtol=1e-4)
    assert (exported(out) - exported(alone)).norm() < 1e-4 * exported(alone).norm()


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "conda", "galore", "lamb", "lars"])
def test_optimisers_on_divided_matrices(optimizer):
    """Norms, orthogonal steps and bases of whole matrices, though each process has a part."""
    norms, weights = whole_steps(optimizer, ALONE)
    results = Ranks(2, divided_steps, optimizer).results()
    exact = 1e-3 if optimizer == "muon" else 2e-5  # Muon's iteration is in bfloat16
    for result in results.values():
        np.testing.assert_allclose(result[0], norms, rtol=exact)
        np.testing.assert_allclose(result[1], weights, atol=exact / 2)
    assert set(results) == {0, 1}


def divided_steps(optimizer):
    with joined("cpu", timeout=20) as world:
        return whole_steps(optimizer, world)


def whole_steps(optimizer, world):
    """Norms of gradients, and all weights after a few clipped steps."""
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList([torch.nn.Linear(8, 12), torch.nn.Linear(12, 5)])
    start = [p.detach().clone() for p in model.parameters()]
    recipe = TrainRecipe(
        batch_size=8, steps=4, lr=0.01, weight_decay=0.1, optimizer=optimizer, parallel="fsdp"
    )
    if world.size > 1:
        divide(model, recipe, world)
    optimizers = build_optimizers(model.named_parameters(), recipe)
    norms = []
    for step in range(4):
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))
        part = x.chunk(world.size)[world.rank]
        model.blocks[1](model.blocks[0](part).relu()).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        norms.append(float(norm.full_tensor() if isinstance(norm, DTensor) else norm))
        for one in optimizers:
            one.step()
            one.zero_grad()
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    moved = [bool((a != b).any()) for a, b in zip(whole, start, strict=True)]
    assert all(moved)
    return norms, torch.cat([p.detach().flatten() for p in whole]).numpy()
