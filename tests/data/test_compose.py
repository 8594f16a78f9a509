"""Mixtures and views, from what a person writes to batches."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from data.samples import collate, decode, make_shards, numbers, prepare, same, take, values
from zoo.registry.recipe import LoaderRecipe

from zoo.data.compose import open_data
from zoo.data.loader import Loader
from zoo.data.selecting.selection import TopK
from zoo.data.selecting.view import write_view
from zoo.data.shards import ShardSet
from zoo.errors import ConfigError, UsageError

MIXTURE = """
window = 10
[[mixture]]
data = "a"
weight = 0.7
[[mixture]]
data = "b/{00000..00001}.tar"
weight = 0.3
"""


@pytest.fixture
def mixed(tmp_path):
    """a holds 0 to 39, b holds 1000 to 1014."""
    make_shards(tmp_path / "a", numbers(40))
    make_shards(tmp_path / "b", numbers(1015)[1000:])
    (tmp_path / "mix.toml").write_text(MIXTURE)
    return tmp_path / "mix.toml"


def loader(data, *, workers=0, batch=5, **options):
    recipe = LoaderRecipe(workers=workers, block=4, pool=16, **options)
    samples, order = open_data(str(data), recipe, seed=3, batch_size=batch)
    return Loader(
        shards=samples, decode=decode, prepare=prepare, collate=collate,
        batch_size=batch, recipe=recipe, seed=3, given_order=order,
    )  # fmt: skip


def test_every_window_has_its_shares(mixed):
    found = np.array(values(take(loader(mixed), 40))).reshape(-1, 10)
    assert ((found >= 1000).sum(1) == 3).all()
    seen = Counter(found[found < 1000].tolist())
    assert set(seen.values()) <= {3, 4}  # 140 of 40 samples: each as often as the others
    assert set(seen) == set(range(40))


def test_mixtures_resume_with_any_workers(mixed):
    whole = take(loader(mixed), 12)
    assert same(whole, take(loader(mixed, workers=2), 12))
    later = loader(mixed, workers=1)
    position = later.restore(loader(mixed).state(7 * 5))
    assert same(whole[7:], take(later, 5, position))


def test_a_policy_changes_weights_between_windows_and_resumes(mixed):
    def run(loader, window, until):
        steps = []
        while window < until:
            order = loader.order.changed(window, [(9 - window) / 10, (window + 1) / 10])
            loader = replace(loader, given_order=order)
            steps += take(loader, 2, window * 10)
            window += 1
        return loader, steps

    _, whole = run(loader(mixed), 0, 8)
    counts = (np.array(values(whole)).reshape(-1, 10) >= 1000).sum(1)
    assert counts.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    first, begun = run(loader(mixed), 0, 5)
    state = first.state(5 * 10)
    second = loader(mixed, workers=2)
    second.restore(state)
    _, rest = run(second, 5, 8)
    assert same(whole, begun + rest)


def test_a_mixture_that_ends_says_so(mixed):
    mixed.write_text(MIXTURE.replace("window = 10", 'window = 10\nstop = "first"'))
    with pytest.raises(UsageError, match="the mixture ends after 50 samples"):
        take(loader(mixed), 40)


def test_a_view_is_a_data_set(tmp_path):
    make = make_shards(tmp_path / "s", numbers(40))
    shards = ShardSet(tmp_path / "s")
    scores = np.where(np.arange(40) % 3 == 0, 1.0, 0.0)
    view = TopK().select(scores, budget=14)
    view = replace(view, parents=(shards.fingerprint,))
    write_view(view, tmp_path / "good.view.toml")
    chosen = loader(tmp_path / "s", view=str(tmp_path / "good.view.toml"))
    assert len(chosen.shards) == 14
    assert sorted(values(take(chosen, 14))) == sorted([*range(0, 40, 3)] * 5)
    assert chosen.state(0)["data"] != make().state(0)["data"]
    assert str(chosen.shards.where(1)).endswith("00000.tar, sample '00003'")
    make_shards(tmp_path / "t", numbers(41))
    with pytest.raises(UsageError, match="made from other data"):
        loader(tmp_path / "t", view=str(tmp_path / "good.view.toml"))


def test_wrong_mixtures_are_one_line(mixed):
    mixed.write_text(MIXTURE.replace("weight = 0.7", "wait = 0.7"))
    with pytest.raises(ConfigError, match=r"mix\.toml: .*wait"):
        loader(mixed)
    mixed.write_text(MIXTURE.replace('"a"', '"c"'))
    with pytest.raises(UsageError, match="no such shard"):
        loader(mixed)


def test_damage_of_any_part_is_known(mixed):
    (mixed.parent / "a" / "00000.tar").write_text("no tar " * 200)
    (mixed.parent / "a" / "manifest.json").unlink()
    samples, _ = open_data(str(mixed), LoaderRecipe(allow_missing=True))
    assert any("NOT_TAR" in {e.code for e in events} for events in samples.events.values())
    assert len(samples) == 31 + 15
