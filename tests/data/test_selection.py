import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.selecting.curriculum import ability, hardest
from zoo.data.selecting.selection import (
    ExactDedup,
    TemperatureTopK,
    TopK,
    gumbel,
    taylor_softmax,
    top,
)
from zoo.data.selecting.skill_it import SkillIt
from zoo.data.selecting.view import read_view, write_view
from zoo.errors import DataError

NAN = np.nan
SCORES = st.lists(st.one_of(st.floats(-5, 5), st.just(NAN)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=80, database=None)
@given(scores=SCORES, budget=st.integers(1, 90), data=st.data())
def test_the_best_until_the_budget_is_met(scores, budget, data):
    scores = np.array(scores)
    sizes = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(scores))))[: len(scores)]
    ids = top(scores, sizes=sizes, budget=budget)
    assert not np.isnan(scores[ids]).any()
    assert (np.diff(scores[ids]) <= 0).all()
    rest = np.setdiff1d(np.flatnonzero(~np.isnan(scores)), ids)
    if rest.size and sizes[ids].sum():
        assert scores[rest].max() <= scores[ids].min()
        assert sizes[ids[:-1]].sum() < budget <= sizes[ids].sum()


def test_ties_go_to_the_first():
    assert top(np.array([1.0, 2.0, 1.0, 2.0]), budget=3).tolist() == [1, 3, 0]


def test_groups_share_the_budget():
    scores = np.arange(100.0)
    groups = np.where(np.arange(100) < 80, "web", "books")
    chosen = TopK().select(scores, groups=groups, budget=10)
    assert chosen.ids.tolist() == [*range(72, 80), 98, 99]
    assert chosen.kept == {"books": 0.1, "web": 0.1}


def test_a_view_tells_how_it_came_about():
    scores = np.array([3.0, NAN, 1.0, 2.0], dtype=np.float32)
    chosen = TopK().select(scores, sizes=np.array([10, 20, 30, 40]), budget=11, seed=3)
    assert chosen.ids.tolist() == [0, 3]
    assert chosen.parameters == {"selector": "TopK", "budget": 11}
    assert chosen.counts == {"samples": 4, "kept": 2, "no_score": 1, "size": 100, "kept_size": 50}
    assert chosen.kept == {"all": 0.5}
    assert chosen.seed == 3


def test_without_scores_there_is_no_selection():
    with pytest.raises(DataError, match="2 of 2 samples have no score"):
        TopK().select(np.array([NAN, NAN]))


@pytest.mark.parametrize(
    "options", [{"budget": 0}, {"sizes": np.ones(3)}, {"groups": np.ones((4, 2))}]
)
def test_impossible_selections(options):
    with pytest.raises(ValueError, match="must be"):
        TopK().select(np.ones(4), **options)


def test_temperature_0_is_the_best_and_a_high_one_is_chance():
    scores = np.linspace(-1, 1, 1000)
    share = {
        temperature: (TemperatureTopK(temperature=temperature).select(scores, budget=300).ids)
        for temperature in (0.0, 0.5, 2.0, 1e6)
    }
    assert share[0.0].tolist() == list(range(700, 1000))
    means = [scores[ids.astype(int)].mean() for ids in share.values()]
    assert sorted(means, reverse=True) == means
    assert abs(means[-1]) < 0.1


def test_chance_is_of_the_seed_and_the_sample():
    select = TemperatureTopK().select
    scores = np.linspace(-1, 1, 200)
    first = select(scores, budget=50, seed=1)
    assert first.ids.tolist() == select(scores, budget=50, seed=1).ids.tolist()
    assert first.ids.tolist() != select(scores, budget=50, seed=2).ids.tolist()
    assert (gumbel(1, 10) == gumbel(1, 200)[:10]).all()
    with pytest.raises(ValueError, match="temperature"):
        TemperatureTopK(temperature=-1.0)


def test_the_noise_is_gumbel():
    noise = np.sort(gumbel(7, 20_000))
    wanted = np.exp(-np.exp(-noise))  # its distribution function
    assert abs(wanted - np.arange(20_000) / 20_000).max() < 0.012  # Kolmogorov, 1 in 200


def test_the_drawing_follows_the_scores():
    """With temperature 1 the first drawn is a draw from the softmax."""
    scores = np.log(np.array([0.6, 0.3, 0.1]))
    select = TemperatureTopK(temperature=1.0, normalize=False).select
    drawn = [int(select(scores, budget=1, seed=seed).ids[0]) for seed in range(1000)]
    assert abs(np.bincount(drawn) / 1000 - [0.6, 0.3, 0.1]).max() < 0.05


def test_one_of_each():
    contents = [b"a", b"b", b"a", b"c", b"b", b"a"]
    keys = np.array([hashlib.sha256(content).digest() for content in contents])
    scores = np.array([1.0, 2.0, 3.0, NAN, 2.0, NAN])
    dedup = ExactDedup(keys)
    assert dedup.select(np.zeros(6)).ids.tolist() == [0, 1, 3]
    chosen = dedup.select(scores)
    assert chosen.ids.tolist() == [1, 2]
    assert chosen.counts["no_score"] == 2
    assert dedup.select(scores, budget=1).ids.tolist() == [2]


def test_a_selection_is_a_data_set(tmp_path):
    path = tmp_path / "best.view.toml"
    chosen = TemperatureTopK().select(np.arange(50.0), groups=np.arange(50) % 3, budget=9)
    write_view(replace(chosen, parents=("digest of the shards",)), path)
    again = read_view(path)
    assert again.ids.tolist() == chosen.ids.tolist()
    assert (again.parameters, again.kept) == (chosen.parameters, chosen.kept)


def test_ability_grows_with_right_answers():
    difficulties = np.linspace(-3, 3, 13)
    got = [ability(difficulties, difficulties < limit) for limit in (-4, -1, 1, 4)]
    assert sorted(got) == got
    assert got[1] == pytest.approx(-got[2], abs=0.5)
    assert ability(np.full(5000, 1e4), np.ones(5000, bool)) < 5001  # no overflow
    assert hardest(0.3) == 0.3
    assert hardest(0.3, 0.8) < 0.3


def test_taylor_softmax_is_a_distribution():
    chances = taylor_softmax(np.array([3.0, 1.0, 0.0]), temperature=0.5)
    assert chances.sum() == pytest.approx(1.0)
    assert (np.diff(chances) < 0).all()


def test_skill_it_follows_the_graph():
    """Source 0 helps evaluation 1, whose loss is high: it gets more than source 2."""
    graph = np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1.0]])
    policy = SkillIt(graph=graph, metrics=("a", "b", "c"))
    policy.observe(0, {"a": 1.0, "b": 4.0, "c": 1.0})
    first, second = policy.weights(0), policy.weights(1)
    assert second.sum() == pytest.approx(1.0)
    assert second[1] > second[0] > second[2]
    assert first[1] < second[1]
    with pytest.raises(ValueError, match="graph"):
        SkillIt(graph=graph, metrics=("a",))
