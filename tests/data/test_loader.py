from dataclasses import dataclass

import numpy as np
import pytest
import torch
from zoo.registry.recipe import LoaderRecipe

from zoo.data.loader import Loader, sample_seeds
from zoo.data.order import Order
from zoo.data.shards import ShardSet, write_shards
from zoo.errors import DataError

COUNT, BATCH = 37, 5


def decode(members):
    if members["txt"] == b"broken":
        raise DataError("no good")
    return {"value": int(members["txt"])}


def prepare(sample, generator):
    return {
        "value": torch.tensor(sample["value"]),
        "chance": torch.rand(2, generator=generator),
    }


def collate(samples):
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


@dataclass
class Make:
    folder: object

    def __call__(self, workers=0, seed=0, **recipe):
        return Loader(
            shards=ShardSet(self.folder),
            decode=decode,
            prepare=prepare,
            collate=collate,
            batch_size=BATCH,
            recipe=LoaderRecipe(workers=workers, block=4, pool=16, **recipe),
            seed=seed,
        )


@pytest.fixture
def make(tmp_path):
    items = [(f"{i:03d}", {"txt": str(i).encode()}) for i in range(COUNT)]
    write_shards(items, tmp_path / "s", samples_per_shard=9)
    return Make(tmp_path / "s")


def take(loader, batches, position=0):
    iterator = loader.iterate(position)
    return [next(iterator) for _ in range(batches)]


def same(left, right):
    return all(
        torch.equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in a
    )


def test_each_epoch_has_every_sample_once(make):
    values = torch.cat([batch["value"] for batch in take(make(), 37)])  # 5 epochs
    for epoch in values.view(5, COUNT):
        assert sorted(epoch.tolist()) == list(range(COUNT))
    assert not torch.equal(values[:COUNT], values[COUNT : 2 * COUNT])


def test_workers_change_nothing(make):
    alone = take(make(), 12)
    for workers in (1, 2):
        assert same(alone, take(make(workers), 12))


def test_any_position_continues_the_sequence(make):
    whole = take(make(), 20)
    for done in (1, 7, 13):
        assert same(whole[done:], take(make(), 20 - done, done * BATCH))


def test_seeds_change_order_and_chance(make):
    assert same(take(make(seed=1), 5), take(make(seed=1), 5))
    assert not same(take(make(seed=1), 5), take(make(seed=2), 5))


def test_chance_differs_between_samples_and_epochs(make):
    batches = take(make(), 15)  # two epochs
    chance = torch.cat([batch["chance"][:, 0] for batch in batches])
    assert len(chance.unique()) == len(chance)


def test_seeds_are_functions_of_run_epoch_and_sample():
    seeds = sample_seeds(7, np.array([0, 0, 1]), np.array([3, 4, 3]))
    assert len(set(seeds.tolist())) == 3
    assert seeds.min() >= 0
    assert sample_seeds(7, np.array([1]), np.array([3]))[0] == seeds[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_one_line(tmp_path, workers):
    items = [(f"{i:03d}", {"txt": b"broken" if i == 6 else b"1"}) for i in range(10)]
    write_shards(items, tmp_path / "s")
    with pytest.raises(DataError, match=r"00000\.tar, sample '006': no good") as caught:
        take(Make(tmp_path / "s")(workers), 4)
    assert "\n" not in str(caught.value)


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
