"""The order of samples; its golden vectors are in tests/golden/data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.registry.recipe import LoaderRecipe

from zoo.data.order import Order, key, perm

SAMPLES, SHARD, CLASS, BATCH = 1_000_000, 4_000, 1_000, 256
DEFAULT = LoaderRecipe()


@pytest.mark.parametrize("samples", [1, 2, 5, 1003, 4096])
@pytest.mark.parametrize(("block", "pool", "lanes"), [(1, 1, 1), (3, 7, 1), (64, 100, 3)])
def test_every_epoch_is_a_permutation(samples, block, pool, lanes):
    order = Order(samples=samples, block=block, pool=pool, lanes=lanes, seed=11)
    ids = order.ids(np.arange(3 * samples)).reshape(3, samples)
    assert (np.sort(ids, axis=1) == np.arange(samples)).all()
    one_by_one = [order.ids(np.array([p]))[0] for p in range(0, samples, max(1, samples // 20))]
    assert one_by_one == ids[0, :: max(1, samples // 20)].tolist()


def test_impossible_orders():
    with pytest.raises(ValueError, match="at least 1"):
        Order(samples=0)


@settings(deadline=None, max_examples=50, database=None)
@given(
    n=st.integers(1, 3_000),
    seed=st.integers(0, 2**63),
    ks=st.lists(st.integers(0, 5), min_size=1, max_size=4),
)
def test_permutations_are_bijections_with_inverses(n, seed, ks):
    """Also where several keys are mixed in one call."""
    x = np.tile(np.arange(n, dtype=np.uint64), len(ks))
    with np.errstate(over="ignore"):
        k = np.repeat(np.concatenate([key(seed, part) for part in ks]), n)
        there = perm(x, np.uint64(n), k)
        assert (perm(there, np.uint64(n), k, inverse=True) == x).all()
        for i, part in enumerate(ks):
            alone = perm(x[:n], np.uint64(n), key(seed, part))
            assert (there[i * n : (i + 1) * n] == alone).all()
    assert sorted(there[:n].tolist()) == list(range(n))


def test_any_part_of_two_billion_is_there_at_once():
    order = Order(samples=2_000_000_000, seed=3, block=64, pool=65_536, lanes=48)
    ends = np.array([0, 1_999_999_999, 2_000_000_000, 7 * 10**12])
    assert ((order.ids(ends) >= 0) & (order.ids(ends) < order.samples)).all()
    part = order.ids(np.arange(10**9, 10**9 + 512))
    assert (part[100:200] == order.ids(np.arange(10**9 + 100, 10**9 + 200))).all()


def default_order(seed=0):
    return Order(
        samples=SAMPLES, seed=seed, block=DEFAULT.block, pool=DEFAULT.pool, lanes=DEFAULT.lanes
    )


def batches(ids, count):
    """The first batches, and as many from a full shuffle."""
    full = np.random.default_rng(0).permutation(SAMPLES)
    return [order[: count * BATCH].reshape(count, BATCH) for order in (ids, full)]


def test_classes_of_a_sorted_set_are_mixed():
    """Chi-squared over its degrees of freedom; 1 is what a full shuffle has, at best."""
    classes = SAMPLES // CLASS
    ours, full = (
        np.mean([
            ((np.bincount(batch // CLASS, minlength=classes) - BATCH / classes) ** 2).sum()
            for batch in order
        ]) / (BATCH / classes) / (classes - 1)
        for order in batches(default_order().ids(np.arange(400 * BATCH)), 400)
    )  # fmt: skip
    assert full == pytest.approx(1, abs=0.05)
    assert ours <= 1.5


def test_batches_come_from_many_shards():
    ours, full = (
        np.mean([len(np.unique(batch // SHARD)) for batch in order])
        for order in batches(default_order().ids(np.arange(400 * BATCH)), 400)
    )
    assert ours >= 0.9 * full


def test_ranks_of_samples_say_nothing():
    """Neither of where a sample lies on the disk, nor of when it came in another epoch."""
    order = default_order()
    first = order.ids(np.arange(SAMPLES))
    second = order.ids(np.arange(SAMPLES, 2 * SAMPLES))
    ranks = [np.argsort(first), np.argsort(second), np.arange(SAMPLES)]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        # Few blocks lie together: the bound is that of 1,000,000 / 64 independent ones.
        assert abs(np.corrcoef(ranks[a], ranks[b])[0, 1]) < 3 / np.sqrt(SAMPLES / DEFAULT.block)


def test_epochs_and_seeds_differ():
    first = default_order().ids(np.arange(2 * SAMPLES).reshape(2, SAMPLES)[:, :1000].ravel())
    other = default_order(seed=1).ids(np.arange(1000))
    assert (first[:1000] == first[1000:]).mean() < 0.01
    assert (first[:1000] == other).mean() < 0.01
