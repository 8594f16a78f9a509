"""Contrastive losses over the global batch: InfoNCE, sigmoid, NT-Xent, DCL, supervised.

Sample i is (a_i, b_i): two views, or an image and its text; towers and projections are outside.
Every process gives its own n of the N samples and gets the mean loss of those n, with all N as
negatives; means weighed by n / N add up to the loss of a single process, and so do gradients (see
`zoo.objectives.gather`). No process holds more than a tile of the N x N logits.

Each loss is written with the positive pair apart from the negatives, which keeps its gradient
precise where the pair is nearly certain: -log softmax_i = log(1 + exp(lse_negatives - x_positive)).

Notation: a and b (n, D) float32 of unit length, scale 1 / temperature, x_ij = scale * a_i . b_j.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.negatives import PLAIN, NegativesConfig, negative_sums, without_false
from zoo.objectives.similarity import Pairs, log_sum_exp, softplus_sum

__all__ = [
    "decoupled",
    "info_nce",
    "nt_xent",
    "one_sided_info_nce",
    "sigmoid_loss",
    "supervised_contrastive",
]


def info_nce(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    ids: Tensor | None = None,
    negatives: NegativesConfig = PLAIN,
) -> Tensor:
    """CLIP (arXiv 2103.00020): each a_i finds its b among all b, each b_i its a among all a.

    -1/2N sum_i (log softmax_j x_ij + log softmax_j x_ji) at j = i.

    Args:
        a: (n, D) float32 of unit length.
        b: likewise.
        scale: one number.
        ids: (n, K): samples that share one are no negatives of each other.
        negatives: which of the others count, and how much.
    """
    batch = GlobalBatch.of(a)
    everyone = batch.gather(b)
    pairs = _pairs(batch, a) if ids is None else Pairs(ids, batch.gather(ids))
    if negatives.false_above is not None:
        sides = batch.gather(a), everyone
        pairs = without_false(pairs, (a, b), sides, negatives.false_above)
    rows, columns = negative_sums(
        a, everyone, scale, pairs, hardness=negatives.hardness, batch=batch
    )
    positive = scale * (a * b).sum(1)
    return (softplus(rows - positive) + softplus(columns - positive)).mean() / 2


def one_sided_info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Each a_i finds its b among all b: -1/N sum_i log softmax_j x_ij at j = i."""
    batch = GlobalBatch.of(a)
    rows, _ = log_sum_exp(a, batch.gather(b), scale, _pairs(batch, a))
    return softplus(rows - scale * (a * b).sum(1)).mean()


def sigmoid_loss(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """SigLIP (arXiv 2303.15343): every pair by itself is one sample or two.

    -1/N sum_ij log sigmoid(z_ij (x_ij + bias)), z_ij = 1 at i = j and -1 elsewhere.
    """
    batch = GlobalBatch.of(a)
    negatives = softplus_sum(a, batch.gather(b), scale, bias, _pairs(batch, a))
    positive = scale * (a * b).sum(1) + bias
    return (negatives + softplus(-positive)).mean()


def nt_xent(a: Tensor, b: Tensor, scale: Tensor, negatives: NegativesConfig = PLAIN) -> Tensor:
    """SimCLR (arXiv 2002.05709): each of 2N views finds the other of its sample among 2N - 1.

    1/2N sum over views v of -log(exp x_vw / sum_{u != v} exp x_vu), w the other view of v's sample.
    """
    sums, positive = _two_views(a, b, scale, negatives)
    return softplus(sums - positive).mean()


def decoupled(a: Tensor, b: Tensor, scale: Tensor, negatives: NegativesConfig = PLAIN) -> Tensor:
    """DCL (arXiv 2110.06848): NT-Xent without the positive pair in the sum.

    1/2N sum over views v of -x_vw + log sum_u exp x_vu, u the views of other samples.
    """
    sums, positive = _two_views(a, b, scale, negatives)
    return (sums - positive).mean()


def supervised_contrastive(a: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """SupCon (arXiv 2004.11362): each vector finds all others of its class.

    -1/N sum_i 1/|P(i)| sum_{p in P(i)} log(exp x_ip / sum_{j != i} exp x_ij), P(i) the others of
    i's class; a vector whose class has no other is left out of the mean.

    Args:
        a: (n, D) float32 of unit length.
        labels: (n,) classes.
        scale: one number.
    """
    batch = GlobalBatch.of(a)
    everyone, classes = batch.gather(a), batch.gather(labels)
    pairs = _pairs(batch, a)
    rows, _ = log_sum_exp(a, everyone, scale, pairs)
    # The mean of x_ip over p is x_i with the mean of its class, so no (n, N) logits are needed.
    names, which = classes.unique(return_inverse=True)
    sums = everyone.new_zeros(len(names), a.shape[1]).index_add(0, which, everyone)
    own = which[batch.own]
    others = which.bincount(minlength=len(names))[own] - 1
    positive = scale * (a * (sums[own] - a)).sum(1) / others.clamp(min=1)
    has_other = others > 0
    # Each process weighs its part by n / N: a mean over all vectors that count needs n / N back.
    total = (which.bincount(minlength=len(names))[which] > 1).sum().clamp(min=1)
    return ((rows - positive) * has_other).mean() * (len(which) / total)


def _two_views(
    a: Tensor, b: Tensor, scale: Tensor, negatives: NegativesConfig
) -> tuple[Tensor, Tensor]:
    """Log sum of each view (n, 2) over those of other samples, and x of the pair (n, 1)."""
    batch = GlobalBatch.of(a)
    views = torch.stack((a, b), 1)
    everyone = batch.gather(views)
    pairs = _pairs(batch, a, views=2)
    if negatives.false_above is not None:
        own, sides = (x.repeat_interleave(2, 0).unbind(1) for x in (views, everyone))
        pairs = without_false(pairs, own, sides, negatives.false_above)
    queries, keys = views.flatten(0, 1), everyone.flatten(0, 1)
    sums, _ = negative_sums(queries, keys, scale, pairs, hardness=negatives.hardness)
    return sums.unflatten(0, (-1, 2)), scale * (a * b).sum(1, keepdim=True)


def _pairs(batch: GlobalBatch, rows: Tensor, *, views: int = 1) -> Pairs:
    """Samples by their numbers in the global batch, each `views` times in a row."""
    everyone = torch.arange(sum(batch.sizes), device=rows.device).unsqueeze(1)
    own = everyone[batch.own]
    return Pairs(own.repeat_interleave(views, 0), everyone.repeat_interleave(views, 0))
