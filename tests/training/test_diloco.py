"""Rare talk between processes: what a message holds, what a round does, going on after a stop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training.ranks import Ranks

from zoo.training.compress import TopK
from zoo.training.diloco import Outer, OuterStep, clipped_to_median
from zoo.training.world import ALONE, joined

SHAPES = st.lists(st.integers(1, 12), max_size=3).map(tuple)


@settings(deadline=None, max_examples=60, database=None)
@given(SHAPES, st.integers(1, 8), st.integers(1, 20), st.integers(0, 99))
def test_a_message_holds_the_largest_of_every_chunk(shape, chunk, kept, seed):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    exact = TopK(chunk=chunk, kept=kept, bins=None)
    got = exact.decode(exact.encode(tensor), tensor)
    assert got.shape == tensor.shape
    sent = got != 0
    assert torch.equal(got[sent], tensor[sent])
    side = exact._cut(tensor).shape[1]
    assert sent.sum() == tensor.numel() // side * min(kept, side)
    for row, keeps in zip(exact._cut(tensor.abs()), exact._cut(sent.float()).bool(), strict=True):
        assert keeps.all() or row[keeps].min() >= row[~keeps].max()
    rough = TopK(chunk=chunk, kept=kept)
    rounded = rough.decode(rough.encode(tensor), tensor)
    assert len(rounded[sent].unique()) <= 4
    torch.testing.assert_close(rounded.sum(), got.sum(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tensor", [torch.zeros(128, 64), torch.full((128, 64), 0.5)])
def test_values_without_spread_survive(tensor):
    topk = TopK()
    got = topk.decode(topk.encode(tensor), tensor)
    assert torch.equal(got[got != 0], tensor[got != 0])


def test_the_default_is_a_146th_of_float32():
    tensor = torch.randn(1024, 1024)
    assert tensor.nbytes / len(TopK().encode(tensor)) > 146


def test_one_wild_worker_is_bounded_by_the_median():
    sent = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1e6, 1e6]])
    bounded = clipped_to_median(sent)
    assert bounded[0] == 1.0
    assert bounded.norm() < 3


def worker(outer, rounds, saved=None):
    """Least squares, another half of the rows on each worker; 5 steps a round."""
    with joined("cpu", timeout=60) as world:
        generator = torch.Generator().manual_seed(0)
        x, truth = torch.randn(64, 8, generator=generator), torch.randn(8, 4, generator=generator)
        mine = slice(world.rank, None, world.size)
        weight = nn.Parameter(torch.zeros(8, 4))
        step = OuterStep([("weight", weight)], outer, world)
        if saved is not None:
            step.restore({name: torch.tensor(value) for name, value in saved[world.rank].items()})
            weight.data.copy_(step.shared["weight"])
        for _ in range(rounds):
            for _ in range(5):
                loss = (x[mine] @ weight - x[mine] @ truth).square().mean()
                (gradient,) = torch.autograd.grad(loss, weight)
                weight.data -= 0.3 * gradient
            step.step()
        left = float((weight.detach() - truth).norm() / truth.norm())
        return weight.tolist(), left, {n: t.tolist() for n, t in step.tensors().items()}


SPARSE = Outer(lr=0.7, momentum=0.0, compression=TopK(chunk=4, kept=4))


@pytest.mark.parametrize("outer", [Outer(), SPARSE], ids=["diloco", "sparseloco"])
def test_two_processes_share_weights_and_go_on_from_a_saved_round(outer):
    whole = Ranks(2, worker, outer, 6).results()
    half = Ranks(2, worker, outer, 3).results()
    rest = Ranks(2, worker, outer, 3, {rank: half[rank][2] for rank in half}).results()
    assert isinstance(whole[0], tuple), whole
    assert whole[0][0] == whole[1][0]
    assert whole[0][1] < 0.2
    if outer.compression:
        assert whole[0][2]["owed/weight"] != whole[1][2]["owed/weight"]
    assert rest == whole


def test_one_worker_that_takes_its_own_word_stays_where_it_is():
    weight = nn.Parameter(torch.zeros(3))
    step = OuterStep([("weight", weight)], Outer(lr=1.0, momentum=0.0), ALONE)
    weight.data += torch.tensor([1.0, -2.0, 3.0])
    step.step()
    assert weight.tolist() == [1.0, -2.0, 3.0]
