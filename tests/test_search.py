"""Code search and clone detection: ranks, BM25, fusion, intervals, thresholds."""

import sysconfig

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo.demo.stdlib_pairs as stdlib
from zoo.corpus import code_source
from zoo.data.building.build import build_shards
from zoo.errors import DataError, UsageError
from zoo.probes.clones import clone_probe, f1_threshold
from zoo.probes.search import (
    SearchPairs,
    bm25,
    choose_weight,
    cluster_interval,
    cosine,
    fuse,
    read_pairs,
    reciprocal_ranks,
    search_probe,
    words,
)


def test_words_of_code():
    text = "getHTTPResponse_code2 = Foo.bar_baz"
    assert words(text) == ["get", "httpresponse", "code2", "foo", "bar", "baz"]


def test_bm25_is_the_formula():
    codes = ["read a file", "read read a socket and wait", "wait for it"]
    got = bm25(["read file file"], codes)
    lengths = np.array([3, 6, 3])
    norm = 1.5 * (0.25 + 0.75 * lengths / lengths.mean())
    idf = {word: np.log(1 + (3 - n + 0.5) / (n + 0.5)) for word, n in (("read", 2), ("file", 1))}
    want = idf["read"] * np.array([1, 2, 0]) * 2.5 / (np.array([1, 2, 0]) + norm)
    want += idf["file"] * np.array([1, 0, 0]) * 2.5 / (np.array([1, 0, 0]) + norm)
    np.testing.assert_allclose(got[0], want, rtol=1e-6)


def test_ranks_take_ties_for_the_worst():
    scores = np.array([[3, 1, 2], [1, 1, 0], [0, 5, 4]], dtype=np.float32)
    np.testing.assert_allclose(reciprocal_ranks(scores), [1, 1 / 2, 1 / 2])
    np.testing.assert_allclose(reciprocal_ranks(scores, np.array([2, 2, 1])), [1 / 2, 1 / 3, 1])


@settings(deadline=None, max_examples=30, database=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_fusion_keeps_the_order_of_either_alone(seed, scale):
    rng = np.random.default_rng(seed)
    lexical, dense = (rng.standard_normal((6, 6)).astype(np.float32) for _ in range(2))
    same = reciprocal_ranks(fuse(lexical, dense * (1 + scale), 0.0))
    np.testing.assert_array_equal(same, reciprocal_ranks(lexical))
    np.testing.assert_array_equal(
        reciprocal_ranks(fuse(lexical, dense, 1.0)), reciprocal_ranks(dense)
    )


def test_the_weight_follows_the_better_scores():
    right = np.eye(20, dtype=np.float32)
    noise = np.random.default_rng(0).standard_normal((20, 20)).astype(np.float32)
    assert choose_weight(right, noise) == 0.0
    assert choose_weight(noise, right) >= 0.5


def test_an_interval_of_modules_is_wider_than_one_of_functions():
    values = np.repeat(np.arange(10.0), 30)
    low, high = cluster_interval(values, [str(v) for v in values])
    single = cluster_interval(values, [str(i) for i in range(len(values))])
    assert low < single[0] < values.mean() < single[1] < high
    assert all(np.isnan(cluster_interval(values, ["one"] * len(values))))


def pairs(modules, words_of):
    return SearchPairs(
        queries=[f"find the {word} of it" for word in words_of],
        codes=[f"def {word}(x):\n    return x" for word in words_of],
        anonymous=["def Func(arg_0):\n    return arg_0"] * len(words_of),
        modules=modules,
    )


def test_probe_gives_every_column():
    names = [f"name{chr(97 + i)}" for i in range(8)]
    test, train = pairs(["a", "a", "b", "b"], names[:4]), pairs(["c", "d"] * 2, names[4:])
    vectors = np.eye(4, dtype=np.float32)
    score = search_probe(cosine(vectors, vectors), np.eye(4, dtype=np.float32), test, train)
    assert set(score.mrr) == {"bm25", "bm25, anonymised", "encoder", "fused"}
    assert score.mrr["bm25"] == score.mrr["encoder"] == score.mrr["fused"] == 1.0
    assert score.mrr["bm25, anonymised"] == pytest.approx(1 / 4)  # all the same: last of four
    assert score.gain == (0.0, 0.0, 0.0)
    with pytest.raises(UsageError, match="both sides of the search: a"):
        search_probe(np.eye(4), np.eye(4), test, test)


def test_pairs_of_shards_without_an_anonymised_column(tmp_path):
    source = tmp_path / "src"
    for name in ("alpha", "beta"):
        path = source / name / "io.py"
        path.parent.mkdir(parents=True)
        path.write_text(f'def {name}(x):\n    """Find {name}."""\n    return x + 1\n')
    build_shards(code_source(source, unit="pair"), tmp_path / "pairs")
    found = read_pairs(tmp_path / "pairs")
    assert found.modules == ["alpha/io.py", "beta/io.py"]
    assert found.queries == ["Find alpha.", "Find beta."]
    assert found.codes[1] == "def beta(x):\n    return x + 1"
    one, other = (found.only(lambda module, name=name: name in module) for name in ("al", "be"))
    score = search_probe(np.eye(1), np.eye(1), one, other)
    assert set(score.mrr) == {"bm25", "encoder", "fused"}
    build_shards(code_source(source, unit="function"), tmp_path / "functions")
    assert read_pairs(tmp_path / "functions").queries == found.queries
    for path in source.rglob("*.py"):
        path.write_text("def bare(x):\n    return x\n")
    build_shards(code_source(source), tmp_path / "bare")
    with pytest.raises(DataError, match=r"bare/00000\.tar.*no `query`.*--unit pair"):
        read_pairs(tmp_path / "bare")


LIBRARY = '''
class Reader:
    def fetch(self, size, *rest):
        """Read some bytes from it.

        More words.
        """
        data = self.stream.read(size)
        return data or rest

    def short(self):
        """Too short to look for."""
        return 1

    def __len__(self):
        """Say how long it is."""
        total = 0
        return total

    def test_it(self):
        """Test whether it works."""
        total = 0
        return total
'''


def test_pairs_of_a_library(tmp_path, monkeypatch):
    for module in ("alpha", "beta", "gamma"):
        (tmp_path / f"{module}.py").write_text(LIBRARY.replace("bytes", module))
    (tmp_path / "again.py").write_text(LIBRARY.replace("bytes", "beta"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "x.py").write_text(LIBRARY)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    monkeypatch.setattr(stdlib, "is_held_out", lambda module: module == "gamma")
    found = stdlib.stdlib_pairs()
    both = [pair for side in found.values() for pair in side.queries]
    assert len(both) == 1  # one code, however often, and whatever it is called
    code = next(code for side in found.values() for code in side.codes)
    assert '"""' not in code
    anonymous = next(code for side in found.values() for code in side.anonymous)
    assert "def Func(arg_0, arg_1, *arg_2):" in anonymous
    assert "stream.read(arg_1)" in anonymous


def test_clones_by_similarity():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((200, 16)).astype(np.float32)
    labels = (np.arange(200) % 4 == 0).astype(np.int64)
    other = np.where(labels[:, None] > 0, one + 0.2, rng.standard_normal((200, 16)))
    data = (one[:100], other[:100].astype(np.float32)), labels[:100]
    held = (one[100:], other[100:].astype(np.float32)), labels[100:]
    score = clone_probe(*data, *held)
    assert score.f1 > 0.95
    assert score.auroc > 0.99
    with pytest.raises(UsageError, match="both clones and others"):
        clone_probe(*data, held[0], np.zeros(100, dtype=np.int64))


@settings(deadline=None, max_examples=50, database=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_threshold_is_the_best_one(rows):
    scores = np.array([float(score) for score, _ in rows])
    labels = np.array([int(label) for _, label in rows])
    if not labels.any():
        return

    def f1(threshold):
        found = scores >= threshold
        return 2 * (found & (labels > 0)).sum() / (found.sum() + labels.sum())

    assert f1(f1_threshold(scores, labels)) == max(map(f1, scores))
