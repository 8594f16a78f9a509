import json
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.mixture import FixedWeights, Mixture
from zoo.data.mixture_file import MixtureFile, Source, read_mixture
from zoo.data.order import Order, key
from zoo.data.selecting.skill_it import SkillIt
from zoo.errors import ConfigError, UsageError

WEIGHTS = st.lists(st.floats(0.001, 5.0), min_size=1, max_size=9)


def mixture(sizes=(40, 7, 100), weights=(0.5, 0.2, 0.3), window=16, **options):
    orders = tuple(Order(samples=size, block=3, pool=8) for size in sizes)
    return Mixture(orders=orders, weights=tuple(weights), window=window, **options)


def sources(mix, ids):
    """Which data set each id is of."""
    return np.searchsorted(np.cumsum([order.samples for order in mix.orders]), ids, side="right")


@settings(deadline=None, max_examples=60, database=None)
@given(weights=WEIGHTS, later=WEIGHTS, window=st.integers(1, 300), change=st.integers(0, 9))
def test_counts_are_exact_to_a_logarithm(weights, later, window, change):
    later = (later * len(weights))[: len(weights)]
    mix = mixture([1000 + i for i in range(len(weights))], weights, window)
    most = math.ceil(math.log2(len(weights)))
    for now, start in ((weights, 0), (later, change)):
        mix = mix.changed(start, now)
        mix = mix.restored(json.loads(json.dumps(mix.state())))
        begun, shares = np.array(mix.counts(start)), np.array(now) / sum(now)
        for windows in (1, 2, 17, 10**6):
            got = np.array(mix.counts(start + windows)) - begun
            assert got.sum() == windows * window
            assert (abs(got - windows * window * shares) <= most + 1e-3).all()
        assert all((np.subtract(mix.counts(k + 1), mix.counts(k)) >= 0).all() for k in range(20))


def test_a_window_holds_its_counts_and_each_data_set_its_own_order():
    mix = mixture(seed=5)
    ids = mix.ids(np.arange(20 * 16))
    got = sources(mix, ids)
    for k, part in enumerate(got.reshape(20, 16)):
        want = np.subtract(mix.counts(k + 1), mix.counts(k))
        assert np.bincount(part, minlength=3).tolist() == want.tolist()
    for d, (offset, size) in enumerate([(0, 40), (40, 7), (47, 100)]):
        mine = ids[got == d] - offset
        order = Order(samples=size, block=3, pool=8, seed=int(key(5, d)[0]))
        assert Counter(mine.tolist()) == Counter(order.ids(np.arange(len(mine))).tolist())
        assert sorted(mix.epochs(np.arange(320))[got == d]) == [j // size for j in range(len(mine))]
    shuffled = (np.diff(got.reshape(20, 16), axis=1) < 0).any(axis=1)
    assert shuffled.all(), "the data sets stand one after the other"


@settings(deadline=None, max_examples=25, database=None)
@given(positions=st.lists(st.integers(0, 2**40), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_any_position_is_found_alone(positions, seed):
    mix = mixture((5000, 11, 300_000), seed=seed).changed(30, (0.1, 0.1, 0.8))
    together = mix.ids(np.array(positions)), mix.epochs(np.array(positions))
    alone = [(mix.ids(np.array([p]))[0], mix.epochs(np.array([p]))[0]) for p in positions]
    assert list(zip(*together, strict=True)) == alone


def test_it_never_changes():
    """Runs are resumed by later versions: these numbers are for ever."""
    mix = mixture((1000, 300, 77), (0.55, 0.3, 0.15), 12, seed=3).changed(2, (0.1, 0.1, 0.8))
    assert mix.counts(3) == (13, 9, 14)
    pinned = [1105, 542, 570, 464, 1351, 1332, 1360]
    assert mix.ids(np.array([0, 1, 2, 23, 24, 25, 10**12])).tolist() == pinned


def test_a_change_leaves_the_past_and_the_state_brings_it_back():
    mix = mixture()
    later = mix.changed(4, np.array([0.1, 0.1, 0.8])).changed(9, (1.0, 0.0, 0.0))
    before, after = np.arange(64), np.arange(144, 300)
    assert (mix.ids(before) == later.ids(before)).all()
    assert (later.ids(after) < 40).all()
    again = mixture().restored(json.loads(json.dumps(later.state())))
    assert again == later
    assert (again.ids(np.arange(300)) == later.ids(np.arange(300))).all()
    assert later.changed(50, (1.0, 0.0, 0.0)) is later
    with pytest.raises(ValueError, match="window 8"):
        later.changed(8, (1.0, 1.0, 0.0))
    with pytest.raises(ConfigError, match="other data sets"):
        mixture(window=8).restored(later.state())


def taken(mix, positions):
    return np.bincount(sources(mix, mix.ids(np.arange(positions))), minlength=len(mix.orders))


def test_stop_first_gives_no_sample_twice():
    mix = mixture(weights=(0.4, 0.1, 0.5), stop="first")
    got = taken(mix, mix.length)
    assert (got <= [40, 7, 100]).all()
    assert (np.subtract(mix.counts(mix.length // 16), got) == 0).all()
    assert 7 - got[1] <= 2, "it stopped long before"
    assert len(set(mix.ids(np.arange(mix.length)).tolist())) == mix.length
    with pytest.raises(UsageError, match=r"ends after \d+ samples"):
        mix.ids(np.array([mix.length]))


def test_stop_longest_sees_everything():
    mix = mixture(stop="longest")
    assert len(set(mix.ids(np.arange(mix.length)).tolist())) == 147
    assert len(set(mix.ids(np.arange(mix.length - 16)).tolist())) < 147


def test_max_epochs_hands_the_share_to_the_others():
    mix = mixture(weights=(0.5, 0.1, 0.4), max_epochs=(None, 3, None))
    assert mix.length is None
    got = taken(mix, 4000)
    assert 19 <= got[1] <= 21
    late = np.bincount(sources(mix, mix.ids(np.arange(3200, 4000))))
    assert late[1] == 0
    assert abs(late[0] - 800 * 5 / 9) <= 2
    ends = mixture(max_epochs=(2, 3, 1.5), window=4)
    assert (taken(ends, ends.length) <= [80, 21, 150]).all()
    assert ends.length >= 251 - 3 * 4


def test_longest_stops_before_a_generous_limit():
    mix = mixture((10, 20), (0.5, 0.5), 4, stop="longest", max_epochs=(50, None))
    assert mix.length == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (1.0, 2.0)}, "3 weights"),
        ({"weights": (0.0, 0.0, 0.0)}, "above 0"),
        ({"weights": (1.0, -1.0, 0.0)}, "at least 0"),
        ({"weights": (1.0, math.nan, 0.0)}, "at least 0"),
        ({"window": 0}, "window"),
        ({"max_epochs": (1,)}, "max_epochs"),
        ({"max_epochs": (1, 0, 1)}, "max_epochs"),
        ({"max_epochs": (1, math.inf, 1)}, "finite"),
        ({"window": 128, "stop": "first"}, "make the window smaller"),
    ],
)
def test_impossible_mixtures(options, message):
    with pytest.raises(ValueError, match=message):
        mixture(**options)


def test_a_policy_moves_the_mixture():
    policy = SkillIt(graph=np.eye(2), metrics=("a", "b"), windows=2, eta=1.0)
    mix = mixture((100, 100), FixedWeights((1, 1)).weights(0))
    for window in range(6):
        policy.observe(window, {"a": 1.0, "b": 2.0, "else": 0.0})
        mix = mix.changed(window, policy.weights(window))
    shares = [np.subtract(mix.counts(k + 1), mix.counts(k))[1] / 16 for k in range(6)]
    assert shares[0] == shares[1] == 0.5
    assert 0.5 < shares[2] < shares[4]
    twin = SkillIt(graph=np.eye(2), metrics=("a", "b"), windows=2, eta=1.0)
    twin.restore(json.loads(json.dumps(policy.state())))
    assert all((twin.weights(k) == policy.weights(k)).all() for k in range(8))
    with pytest.raises(UsageError, match="needs b"):
        policy.observe(6, {"a": 1.0})


def test_the_latest_change_holds_from_its_window_on():
    mix = mixture().changed(3, (1.0, 1.0, 2.0)).changed(7, (3.0, 1.0, 1.0))
    assert [segment.start for segment in mix.log] == [0, 3, 7]
    assert all(sum(segment.counts) == segment.start * 16 for segment in mix.log)
    assert all(one.weights != two.weights for one, two in pairwise(mix.log))


def write(path, text):
    path.write_text(text)
    return path


def test_a_mixture_file(tmp_path):
    text = """
    window = 256
    [[mixture]]
    data = "a/*.tar"
    weight = 7
    max_epochs = 4
    [[mixture]]
    data = "s3://bucket/b-{00..63}.tar"
    weight = 0.5
    """
    assert read_mixture(write(tmp_path / "m.toml", text)) == MixtureFile(
        window=256,
        mixture=(
            Source(data=str(tmp_path / "a/*.tar"), weight=7.0, max_epochs=4.0),
            Source(data="s3://bucket/b-{00..63}.tar", weight=0.5),
        ),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window = 4", "missing key 'mixture'"),
        ("mixture = []", "weight above 0"),
        ("[[mixture]]\ndata = 'a'\nwieght = 1", "nearest: weight"),
        ("[[mixture]]\ndata = 'a'\nweight = -1", "at least 0"),
        ("[[mixture]]\ndata = 'a'\nweight = 1\nmax_epochs = 0", "above 0"),
        ("stop = 'soon'\n[[mixture]]\ndata = 'a'\nweight = 1", "'longest'"),
    ],
)
def test_mixture_files_that_do_not_fit(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_mixture(write(tmp_path / "m.toml", text))
    assert "m.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
