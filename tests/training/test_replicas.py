"""A bit that flips in the memory of one process is found before it is saved."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.ranks import Ranks
from training.world_runs import train, written

from zoo.training.replicas import digests


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return written(tmp_path_factory.mktemp("replicas") / "shards")


def flip(tensor, number, bit):
    bits = tensor.detach().view(torch.int32).view(-1)
    bits[number] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)


@settings(deadline=None, max_examples=60, database=None)
@given(number=st.integers(0, 34), bit=st.integers(0, 31))
def test_any_flipped_bit_changes_the_digest(number, bit):
    tensor = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    same, other = tensor.clone(), torch.ones(3, dtype=torch.bfloat16)
    flip(tensor, number, bit)
    changed = digests([tensor, other]) != digests([same, other])
    assert changed.tolist() == [True, False]


def train_flipped(shards, out, options):
    """Rank 1's copy loses a bit after the third step."""
    from zoo.training.loop import Trainer

    real = Trainer._update

    def update(self, values):
        real(self, values)
        if self.step == 2 and self.world.rank == 1:
            flip(self.encoder.patch_embed.proj.weight, 5, 7)

    Trainer._update = update
    return train(shards, out, options)


@pytest.mark.parametrize("size", [2, 3])
def test_the_process_is_named_and_nothing_of_it_is_saved(shards, tmp_path, size):
    options = {"train.compare_every": 4, "train.save_every": 2}
    results = Ranks(size, train_flipped, shards, tmp_path / "run", options).results()
    named = "rank 1 differ" if size == 3 else "rank 0, 1 differ"  # of two nobody knows which
    for said in results.values():
        assert named in said
        assert "patch_embed.proj.weight; " in said
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-2"]
    assert set(Ranks(size, train, shards, tmp_path / "run", options).results().values()) == {True}


def test_without_comparing_nobody_notices(shards, tmp_path):
    assert Ranks(2, train_flipped, shards, tmp_path / "run", {}).results() == {0: True, 1: True}


def test_parts_are_not_compared(shards, tmp_path):
    options = {"train.compare_every": 4, "train.parallel": "fsdp"}
    for said in Ranks(2, train, shards, tmp_path / "run", options).results().values():
        assert "train.parallel=ddp" in said
