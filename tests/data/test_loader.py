import errno
import gc
import json
import multiprocessing
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from data.samples import Make, make_shards, numbers, same, take, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from zoo.data.loader import sample_seeds
from zoo.data.quarantine import Quarantine
from zoo.errors import DataError, UsageError, WorkerError

COUNT, BATCH = 37, 5


@pytest.fixture
def make(tmp_path):
    return make_shards(tmp_path / "s", numbers(COUNT))


def test_each_epoch_has_every_sample_once(make):
    found = values(take(make(), 37))  # 5 epochs
    epochs = [found[i : i + COUNT] for i in range(0, len(found), COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@settings(
    deadline=None, max_examples=25, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    world=st.integers(1, 5),
    extra=st.integers(0, 9),
    accumulate=st.integers(1, 3),
    block=st.integers(1, 9),
    pool=st.integers(1, 40),
    start=st.integers(0, 30),
)
def test_every_position_is_read_once(
    tmp_path_factory, sizes, world, extra, accumulate, block, pool, start
):
    """Over any ranks and micro-batches the parts of a step are exactly the step's positions."""
    folder = tmp_path_factory.mktemp("s")
    for number, size in enumerate(sizes):
        part = numbers(100 * number + size)[100 * number :]
        make_shards(folder / f"{number}", part)
    shards = sorted(str(path) for path in folder.glob("*/*.tar"))
    batch = world * accumulate + extra
    ranks = [
        Make(shards, batch)(rank=r, world=world, accumulate=accumulate, block=block, pool=pool)
        for r in range(world)
    ]
    order = ranks[0].order
    names = [100 * number + i for number, size in enumerate(sizes) for i in range(size)]
    position = start * batch
    steps = [take(rank, 3, position) for rank in ranks]
    assert all(len(step) == accumulate for rank in steps for step in rank)
    for k in range(3):
        got = [v for rank in steps for v in values([rank[k]])]
        ids = order.ids(np.arange(position + k * batch, position + (k + 1) * batch))
        assert got == [names[i] for i in ids]  # contiguous parts: even the order is the same


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("lanes", [1, 24])
def test_world_size_changes_nothing_in_a_global_batch(make, world, lanes):
    make.batch = 24
    alone = [Counter(values([step])) for step in take(make(lanes=lanes), 4)]
    ranks = [take(make(rank=r, world=world, lanes=lanes), 4) for r in range(world)]
    for k, step in enumerate(alone):
        assert sum((Counter(values([rank[k]])) for rank in ranks), Counter()) == step
        assert {len(values([rank[k]])) for rank in ranks} == {24 // world}


def test_workers_change_nothing(make):
    alone = take(make(), 12)
    for workers in (1, 2, 3, 4):
        assert same(alone, take(make(workers, prefetch=1 + workers % 2), 12))
        assert same(alone, take(make(workers, worker_kind="thread"), 12))


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_starting_workers_takes_no_number_from_the_run(make, kind):
    """Else a resumed run would go on with another stream for its dropout."""
    before = torch.get_rng_state()
    take(make(2, worker_kind=kind), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("start", ["forkserver", "spawn"])
def test_workers_may_be_started_in_any_way(make, start):
    assert same(take(make(), 4), take(make(1, start=start), 4))


def test_any_position_continues_the_sequence(make):
    whole = take(make(), 20)
    for done in (1, 7, 13):
        assert same(whole[done:], take(make(2), 20 - done, done * BATCH))


def test_resuming_with_another_world_leaves_no_gap(make):
    make.batch = 6
    whole = take(make(), 12)
    loader = make(world=2, rank=1)
    position = make().restore(loader.state(5 * 6))
    ranks = [take(make(rank=r, world=3), 7, position) for r in range(3)]
    for k in range(7):
        parts = [batch for rank in ranks for batch in rank[k]]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        assert same([[joined]], [whole[5 + k]])  # chance included


def test_a_state_of_something_else_is_refused(make, tmp_path):
    state = make().state(10)
    assert json.loads(json.dumps(state)) == state
    assert make(workers=1, prefetch=4).restore(state) == 10
    other = make_shards(tmp_path / "t", numbers(COUNT + 1))
    for loader, field in [
        (make(seed=1), "seed"),
        (make(pool=17), "pool"),
        (make(block=5), "block"),
        (make(lanes=2), "lanes"),
    ]:
        with pytest.raises(UsageError, match=f"the loader's {field} was"):
            loader.restore(state)
    with pytest.raises(UsageError, match="started on other data"):
        other().restore(state)


@pytest.mark.parametrize(("workers", "kind"), [(0, "process"), (2, "process"), (2, "thread")])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_a_sweep_has_every_sample_once(make, workers, kind, world):
    """37 samples in batches of 5; the last global batch has 2."""
    ranks = [list(make(workers, worker_kind=kind, rank=r, world=world).sweep())
             for r in range(world)]  # fmt: skip
    assert {len(rank) for rank in ranks} == {8}
    found = []
    for step in zip(*ranks, strict=True):
        assert len({len(batch["value"]) for batch, _ in step}) == 1  # equal work for all
        for batch, count in step:
            found += batch["value"][:count].tolist()
    assert found == list(range(COUNT))


def test_a_sweep_substitutes_nothing(tmp_path):
    bad = make_shards(tmp_path / "s", numbers(10, {6: b"broken"}))
    with pytest.raises(DataError, match="sample '00006': no good"):
        list(bad().sweep())


def test_budget_of_tokens(make):
    make.batch = 12
    plain, packed = take(make(), 6), take(make(tokens=15), 6)
    assert values(plain) == values(packed)
    for step in packed:
        sizes = [(batch["value"] % 7 + 1).tolist() for batch in step]
        assert all(sum(size) <= 15 for size in sizes)
        assert all(sum(a) + b[0] > 15 for a, b in pairwise(sizes))
    assert same(packed, take(make(2, tokens=15), 6))


def test_seeds_change_order_and_chance(make):
    assert same(take(make(seed=1), 5), take(make(seed=1), 5))
    assert not same(take(make(seed=1), 5), take(make(seed=2), 5))


def test_chance_differs_between_samples_and_epochs(make):
    steps = take(make(), 15)  # two epochs
    chance = torch.cat([batch["chance"][:, 0] for step in steps for batch in step])
    assert len(chance.unique()) == len(chance)


def test_seeds_are_functions_of_run_epoch_and_sample():
    seeds = sample_seeds(7, np.array([0, 0, 1]), np.array([3, 4, 3]))
    assert len(set(seeds.tolist())) == 3
    assert seeds.min() >= 0
    assert sample_seeds(7, np.array([1]), np.array([3]))[0] == seeds[2]


def test_impossible_divisions_are_refused(make):
    with pytest.raises(UsageError, match="cannot be shared by 6 processes"):
        make(world=6)
    with pytest.raises(UsageError, match="cannot be shared"):
        make(world=2, lanes=3)


def test_a_bad_sample_does_not_shift_the_others(make, tmp_path):
    whole = take(make(), 15)
    bad = make_shards(tmp_path / "t", numbers(COUNT, {6: b"broken"}))
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", most=0.001)
    found = take(bad(quarantine=quarantine), 15)
    changed = [(a, b) for a, b in zip(values(whole), values(found), strict=True) if a != b]
    assert [a for a, _ in changed] == [6, 6]  # once an epoch
    assert all(b != 6 for _, b in changed)
    [row] = map(json.loads, (tmp_path / "quarantine.jsonl").read_text().splitlines())
    assert (row["key"], row["number"], row["code"], row["detail"]) == (
        "00006",
        6,
        "DECODE",
        "no good",
    )
    assert row["shard"].endswith("00000.tar")
    assert row["substituted_by"] == changed[0][1]
    assert values(whole)[row["position"]] == 6
    assert quarantine.counts == {"DECODE": 1}


def test_substitutes_are_the_same_for_all_workers_and_after_a_stop(tmp_path):
    bad = make_shards(tmp_path / "t", numbers(COUNT, {i: b"broken" for i in range(3, COUNT, 12)}))
    alone = take(bad(), 20)
    for workers in (1, 2, 3):
        assert same(alone, take(bad(workers), 20))
    first = bad()
    take(first, 9)
    second = bad(2)
    assert same(alone[9:], take(second, 11, second.restore(first.state(9 * BATCH))))
    assert first.quarantine.ids
    assert second.quarantine.ids == {*range(3, COUNT, 12)}


def test_what_was_found_behind_a_checkpoint_is_found_again(tmp_path):
    bad = make_shards(tmp_path / "t", numbers(COUNT, {i: b"broken" for i in range(3, COUNT, 12)}))
    path = tmp_path / "quarantine.jsonl"
    first = bad(quarantine=Quarantine(path, most=0.001))
    early = first.state(0)
    take(first, 9)
    rows = path.read_text()
    with path.open("a") as file:
        file.write('{"shard": "cut off by a ki')
    again = bad(quarantine=Quarantine(path, most=0.001))
    position = again.restore(early)
    again.quarantine.trim(position)
    take(again, 9, position)
    assert path.read_text() == rows


def test_too_many_bad_samples_stop_the_run(tmp_path):
    bad = make_shards(tmp_path / "t", numbers(400, {i: b"broken" for i in range(0, 400, 20)}))
    with pytest.raises(DataError, match=r"17 of \d+ samples read are bad \(DECODE 17\)") as caught:
        take(bad(), 80)
    assert "\n" not in str(caught.value)
    take(bad(quarantine=Quarantine(None, most=0.9)), 80)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_strict_way_is_an_error(tmp_path, workers):
    bad = make_shards(tmp_path / "s", numbers(10, {6: b"broken"}), 10)
    with pytest.raises(DataError, match=r"00000\.tar, sample '00006': no good") as caught:
        take(bad(workers, on_bad="raise"), 4)
    assert "\n" not in str(caught.value)


def test_nothing_but_bad_samples_is_an_error(tmp_path):
    bad = make_shards(tmp_path / "s", numbers(4, dict.fromkeys(range(4), b"broken")))
    with pytest.raises(DataError, match="no good; so are 3 substitutes"):
        take(bad(), 1)


def test_a_killed_worker_is_named_within_seconds(tmp_path):
    make = make_shards(tmp_path / "s", numbers(COUNT, {6: b"deadly"}))
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"worker died \(pid \d+\).*00000\.tar, sample '00006'"):
        take(make(2), 8)
    assert time.monotonic() - began < 30


def test_a_worker_that_dies_while_it_hands_a_batch_over_is_named(tmp_path, monkeypatch):
    """torch then lets the broken connection's error through, since it takes it for alive."""
    make = make_shards(tmp_path / "s", numbers(COUNT, {6: b"deadly"}))
    real = _MultiProcessingDataLoaderIter._next_data

    def torn(self):
        try:
            return real(self)
        except RuntimeError:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer") from None

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_next_data", torn)
    with pytest.raises(WorkerError, match=r"worker died \(pid \d+\).*00000\.tar, sample '00006'"):
        take(make(2), 8)


def test_a_hung_worker_is_named_and_ended(tmp_path):
    make = make_shards(tmp_path / "s", numbers(COUNT, {6: b"endless"}))
    with pytest.raises(WorkerError, match=r"gave nothing.*00000\.tar, sample '00006'"):
        take(make(1, timeout=0.5), 8)
    assert not multiprocessing.active_children()


def test_abandoned_iterators_leave_nothing_behind(make):
    def open_files():
        return len(list(Path("/proc/self/fd").iterdir()))

    take(make(2), 1)
    gc.collect()
    before = open_files()
    for workers, kind in [(0, "process"), (2, "process"), (2, "thread")] * 3:
        iterator = make(workers, worker_kind=kind).iterate(0)
        next(iterator)
        del iterator
    gc.collect()
    assert open_files() <= before
    assert not multiprocessing.active_children()
