"""Selectors: which samples to train on, by their scores.

Ties go to the lower sample id; all chance is a function of the seed and the sample id, so that a
selection never changes with the machine, the order of reading, or a library's random stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.data.order import Purpose, key
from zoo.data.selecting.view import View
from zoo.errors import DataError
from zoo.registry.schema import Value

__all__ = [
    "ExactDedup",
    "TemperatureTopK",
    "TopK",
    "gumbel",
    "loss_difference",
    "perturbed",
    "taylor_softmax",
    "top",
]

Scores = NDArray[np.float64]
Sizes = NDArray[np.integer] | None  # (n,) in the unit of the budget; 1 each when None
Groups = NDArray[np.generic] | None  # (n,) values that sort


@dataclass(frozen=True, slots=True)
class TopK:
    """The best."""

    def select(
        self,
        scores: NDArray[np.floating],
        *,
        sizes: Sizes = None,
        groups: Groups = None,
        budget: int | None = None,
        seed: int = 0,
    ) -> View:
        """See `zoo.data.roles.Selector`."""
        ids = top(scores, sizes=sizes, groups=groups, budget=budget)
        return _view(ids, scores, sizes, groups, parameters=_said(self, budget), seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureTopK:
    """Sampling without replacement in proportion to exp(score / temperature).

    QuRating (2402.09739): temperature 2 is better than the plain best, which is temperature 0.
    """

    temperature: float = 2.0
    normalize: bool = True  # scores to mean 0 and variance 1 first

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < np.inf:
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")

    def select(
        self,
        scores: NDArray[np.floating],
        *,
        sizes: Sizes = None,
        groups: Groups = None,
        budget: int | None = None,
        seed: int = 0,
    ) -> View:
        """See `zoo.data.roles.Selector`."""
        noisy = perturbed(
            scores,
            temperature=self.temperature,
            noise=gumbel(seed, len(scores)),
            normalize=self.normalize,
        )
        ids = top(noisy, sizes=sizes, groups=groups, budget=budget)
        return _view(ids, scores, sizes, groups, parameters=_said(self, budget), seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class ExactDedup:
    """One of each: the best-scored sample among those with the same key, else the first.

    Attributes:
        keys: (n,) digests of the samples' bytes, or anything else that sorts.
    """

    keys: NDArray[np.generic]

    def select(
        self,
        scores: NDArray[np.floating],
        *,
        sizes: Sizes = None,
        groups: Groups = None,
        budget: int | None = None,
        seed: int = 0,
    ) -> View:
        """See `zoo.data.roles.Selector`; equal scores keep the first of each key."""
        best_first = top(scores)
        _, first = np.unique(self.keys[best_first], return_index=True)
        unique = np.full(len(scores), np.nan)
        unique[best_first[first]] = scores[best_first[first]]
        ids = top(unique, sizes=sizes, groups=groups, budget=budget)
        parameters = {"selector": "ExactDedup"} | _limit(budget)
        return _view(ids, scores, sizes, groups, parameters=parameters, seed=seed)


def top(
    scores: NDArray[np.floating],
    *,
    sizes: Sizes = None,
    groups: Groups = None,
    budget: int | None = None,
) -> NDArray[np.int64]:
    """Ids of the best samples until their sizes reach the budget; the one that crosses it is kept.

    Args:
        scores: (n,), higher is better; NaN is never chosen.
        sizes: (n,), see `Sizes`.
        groups: (n,); the budget is divided in proportion to the groups' sizes, rounded down.
        budget: None for every sample with a score.

    Returns:
        (k,) best first, group after group.
    """
    _check(scores, sizes=sizes, groups=groups)
    if budget is not None and budget < 1:
        raise ValueError(f"budget must be at least 1, not {budget}")
    size = np.ones(len(scores), dtype=np.int64) if sizes is None else sizes.astype(np.int64)
    scored = np.flatnonzero(~np.isnan(scores))
    total = int(size[scored].sum())
    chosen = []
    for members in _members(scored, groups):
        best_first = members[np.argsort(-scores[members].astype(np.float64), kind="stable")]
        if budget is not None:
            part = budget * int(size[members].sum()) // max(total, 1)
            reached = np.cumsum(size[best_first])
            best_first = best_first[: np.searchsorted(reached, part) + 1 if part else 0]
        chosen.append(best_first)
    return np.concatenate(chosen) if chosen else scored


def perturbed(
    scores: NDArray[np.floating], *, temperature: float, noise: Scores, normalize: bool = True
) -> Scores:
    """Scores whose top k are a sample without replacement (Gumbel top-k); see TemperatureTopK.

    Args:
        scores: (n,).
        temperature: 0 for no chance.
        noise: (n,) of Gumbel(0, 1).
        normalize: to mean 0 and variance 1 over the finite scores first.
    """
    result = scores.astype(np.float64)
    finite = result[np.isfinite(result)]
    if normalize and finite.size:
        result = (result - finite.mean()) / (finite.std() or 1.0)
    return result / temperature + noise if temperature else result


def gumbel(seed: int, samples: int) -> Scores:
    """(samples,) of Gumbel(0, 1), each a function of the seed and the sample id."""
    words = key(seed, Purpose.SELECT, np.arange(samples, dtype=np.uint64))
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(-np.log(uniform))


def loss_difference(
    reference: NDArray[np.floating], target: NDArray[np.floating]
) -> NDArray[np.float64]:
    """How much better the target model knows each sample: higher is worth more.

    CoLoR (2406.10670): reference = the prior model, target = the same after the target data.
    MiniPLM (2410.17215): reference = the small model, target = the teacher; its code takes this
    difference although its text writes a ratio.

    Args:
        reference: (n,) mean losses.
        target: (n,) mean losses.
    """
    return reference.astype(np.float64) - target.astype(np.float64)


def taylor_softmax(gains: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities in proportion to 1 + x + x^2 / 2, x = gain / temperature.

    INGENIOUS (2305.06677): greedy gains of a submodular function become chances to be drawn.
    """
    x = gains.astype(np.float64) / temperature
    terms = 1 + x + x**2 / 2
    return terms / terms.sum()


def _members(scored: NDArray[np.int64], groups: Groups) -> list[NDArray[np.int64]]:
    if groups is None:
        return [scored]
    _, label, counts = np.unique(groups[scored], return_inverse=True, return_counts=True)
    return np.split(scored[np.argsort(label, kind="stable")], np.cumsum(counts)[:-1])


def _check(scores: NDArray[np.floating], **others: NDArray[np.generic] | None) -> None:
    if scores.ndim != 1:
        raise ValueError(f"scores must have one dimension, not {scores.ndim}")
    for name, values in others.items():
        if values is not None and values.shape != scores.shape:
            raise ValueError(f"{name} must be as many as scores: {values.shape}, {scores.shape}")


def _limit(budget: int | None) -> dict[str, Value]:
    return {} if budget is None else {"budget": budget}


def _said(selector: TopK | TemperatureTopK, budget: int | None) -> dict[str, Value]:
    fields = {name: getattr(selector, name) for name in selector.__dataclass_fields__}
    return {"selector": type(selector).__name__} | fields | _limit(budget)


def _view(
    ids: NDArray[np.int64],
    scores: NDArray[np.floating],
    sizes: Sizes,
    groups: Groups,
    *,
    parameters: Mapping[str, Value],
    seed: int,
) -> View:
    """A view of the chosen ids that says what was left."""
    missing = int(np.isnan(scores).sum())
    if not ids.size:
        raise DataError(f"nothing to select: {missing} of {len(scores)} samples have no score")
    size = np.ones(len(scores), dtype=np.int64) if sizes is None else sizes.astype(np.int64)
    labels = np.zeros(len(scores), dtype=np.int64) if groups is None else groups
    names, label = np.unique(labels, return_inverse=True)
    whole = np.bincount(label, weights=size)
    part = np.bincount(label[ids], weights=size[ids], minlength=len(names))
    shares = (part / np.maximum(whole, 1)).tolist()
    return View(
        ids=np.sort(ids).astype(np.uint64),
        parameters=dict(parameters),
        seed=seed,
        counts={
            "samples": len(scores),
            "kept": len(ids),
            "no_score": missing,
            "size": int(size.sum()),
            "kept_size": int(size[ids].sum()),
        },
        kept=dict(zip(["all"] if groups is None else map(str, names), shares, strict=True)),
    )
