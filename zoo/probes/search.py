"""Code search: every text looks for its own code among all (mean reciprocal rank).

A dual encoder is compared with BM25 (k1 1.5, b 0.75), and may be fused with it: z-scores of both,
weighed by a number that is chosen on other pairs. What a name gives away is large, so pairs may
have an anonymised column. Intervals resample whole modules, because functions of one resemble each
other.

Notation: Q texts, N codes (the first Q are the texts' own), D width.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.shards import ShardSet
from zoo.errors import DataError, UsageError
from zoo.registry.build import build_codec

__all__ = [
    "SearchPairs",
    "SearchScore",
    "bm25",
    "choose_weight",
    "cluster_interval",
    "cosine",
    "fuse",
    "read_pairs",
    "reciprocal_ranks",
    "search_probe",
    "words",
]

Matrix = NDArray[np.float32]
Ranks = NDArray[np.float64]
WEIGHTS = tuple(i / 20 for i in range(21))  # of the dense scores, that fusion chooses from
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD = re.compile(r"[A-Za-z0-9]+")
_K1, _B = 1.5, 0.75
_DRAWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPairs:
    """Texts and the codes that they are about, (Q,) each."""

    queries: Sequence[str]
    codes: Sequence[str]
    modules: Sequence[str]  # what is resampled together
    anonymous: Sequence[str] | None = None  # the codes without names of function and arguments

    def only(self, wanted: Callable[[str], bool]) -> "SearchPairs":
        """The pairs of some modules."""
        keep = [i for i, module in enumerate(self.modules) if wanted(module)]

        def kept(column: Sequence[str]) -> list[str]:
            return [column[i] for i in keep]

        return SearchPairs(
            queries=kept(self.queries),
            codes=kept(self.codes),
            modules=kept(self.modules),
            anonymous=None if self.anonymous is None else kept(self.anonymous),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchScore:
    """Mean reciprocal ranks with 95 % intervals over modules.

    Attributes:
        mrr: by name of the method.
        intervals: of each.
        gain: of `fused` over `bm25`, with its interval.
        weight: of the dense scores in the fusion.
        protocol: what was done.
    """

    mrr: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    gain: tuple[float, float, float]
    weight: float
    protocol: str


def read_pairs(shards: str | Path) -> SearchPairs:
    """The pairs of shards that `zoo shards build --unit pair` made; a module is a file.

    Raises:
        DataError: a sample cannot be read, or has no text about it; names it.
    """
    data, codec = ShardSet(shards, strict=True), build_codec("code")
    rows = list[tuple[str, str, str]]()
    for index in range(len(data)):
        sample = codec.decode(data.read(index))
        facts = sample.get("facts")
        if not isinstance(facts, dict) or not {"query", "file"} <= facts.keys():
            raise DataError(
                f"{data.where(index)}: no text about the code: its json member has no `query` or "
                "no `file`; zoo shards build --unit pair makes such samples"
            )
        rows.append((str(facts["query"]), str(sample["text"]), str(facts["file"])))
    queries, codes, modules = (list(column) for column in zip(*rows, strict=True))
    return SearchPairs(queries=queries, codes=codes, modules=modules)


def search_probe(
    dense: Matrix, train_dense: Matrix, test: SearchPairs, train: SearchPairs
) -> SearchScore:
    """BM25, the encoder alone, and both.

    Args:
        dense: (Q, Q) similarities of the test pairs' texts and codes.
        train_dense: the same of the pairs that the fusion's weight is chosen on.
        test: no module of which is in `train`.
        train: held back from training.

    Raises:
        UsageError: a module is on both sides.
    """
    if both := set(test.modules) & set(train.modules):
        raise UsageError(f"modules on both sides of the search: {', '.join(sorted(both)[:3])}")
    lexical = bm25(test.queries, test.codes)
    weight = choose_weight(bm25(train.queries, train.codes), train_dense)
    ranks = {
        "bm25": reciprocal_ranks(lexical),
        "encoder": reciprocal_ranks(dense),
        "fused": reciprocal_ranks(fuse(lexical, dense, weight)),
    }
    if test.anonymous is not None:
        ranks["bm25, anonymised"] = reciprocal_ranks(bm25(test.queries, test.anonymous))
    gain = ranks["fused"] - ranks["bm25"]
    return SearchScore(
        mrr={name: float(values.mean()) for name, values in ranks.items()},
        intervals={name: cluster_interval(v, test.modules) for name, v in ranks.items()},
        gain=(float(gain.mean()), *cluster_interval(gain, test.modules)),
        weight=weight,
        protocol=(
            f"{len(test.queries)} texts among as many codes, {len(set(test.modules))} modules; "
            f"weight of {len(train.queries)} other pairs; {_DRAWS} resamples of modules"
        ),
    )


def words(text: str) -> list[str]:
    """Words in lower case; camelCase and snake_case are several."""
    return [word.lower() for word in _WORD.findall(_HUMP.sub(" ", text))]


def bm25(queries: Sequence[str], codes: Sequence[str]) -> Matrix:
    """(Q, N) Okapi BM25 scores of the distinct words of each query."""
    from scipy.sparse import csr_matrix

    vocabulary: dict[str, int] = {}
    counts = [Counter(words(code)) for code in codes]
    for one in counts:
        for word in one:
            vocabulary.setdefault(word, len(vocabulary))
    shape = (len(codes), len(vocabulary))
    frequency = csr_matrix(_cells(counts, vocabulary), shape=shape)
    lengths = np.asarray(frequency.sum(1)).ravel()
    holding = np.bincount(frequency.indices, minlength=shape[1])
    idf = np.log(1 + (len(codes) - holding + 0.5) / (holding + 0.5))
    row = np.repeat(np.arange(len(codes)), np.diff(frequency.indptr))
    tf = frequency.data
    norm = _K1 * (1 - _B + _B * lengths[row] / max(1.0, lengths.mean()))
    frequency.data = idf[frequency.indices] * tf * (_K1 + 1) / (tf + norm)
    asked = csr_matrix(
        _cells([Counter(set(words(query))) for query in queries], vocabulary),
        shape=(len(queries), shape[1]),
    )
    return np.asarray((asked @ frequency.T).todense(), dtype=np.float32)


def _cells(
    counts: Sequence[Counter[str]], vocabulary: dict[str, int]
) -> tuple[NDArray[np.float64], tuple[list[int], list[int]]]:
    """Counts of known words, with their rows and columns."""
    values, rows, columns = list[int](), list[int](), list[int]()
    for row, one in enumerate(counts):
        for word, count in one.items():
            if word in vocabulary:
                values.append(count)
                rows.append(row)
                columns.append(vocabulary[word])
    return np.array(values, dtype=np.float64), (rows, columns)


def cosine(queries: Matrix, codes: Matrix) -> Matrix:
    """(Q, D) and (N, D) -> (Q, N)."""
    left, right = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, codes))
    return left @ right.T


def reciprocal_ranks(scores: Matrix, own: NDArray[np.int64] | None = None) -> Ranks:
    """One over the rank of each text's own code, behind all that score the same.

    Args:
        scores: (Q, N).
        own: (Q,) which code is each text's; by default the one of its number.

    Returns:
        (Q,).
    """
    own = np.arange(len(scores)) if own is None else own
    return 1.0 / (scores >= np.take_along_axis(scores, own[:, None], 1)).sum(1)


def fuse(lexical: Matrix, dense: Matrix, weight: float) -> Matrix:
    """(1 - weight) z(lexical) + weight z(dense), z over the codes of each text."""
    return (1 - weight) * _standard(lexical) + weight * _standard(dense)


def choose_weight(lexical: Matrix, dense: Matrix) -> float:
    """The weight with the best mean reciprocal rank; the smallest of equals."""
    found = [reciprocal_ranks(fuse(lexical, dense, weight)).mean() for weight in WEIGHTS]
    return WEIGHTS[int(np.argmax(found))]


def cluster_interval(values: Ranks, clusters: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the mean of `values` (Q,), whole clusters drawn with replacement."""
    names, which = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    sums = np.bincount(which, weights=values)
    sizes = np.bincount(which)
    drawn = np.random.default_rng(0).integers(len(names), size=(_DRAWS, len(names)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def _standard(scores: Matrix) -> Matrix:
    spread = scores.std(1, keepdims=True)
    centred: Matrix = (scores - scores.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    return centred
