"""Tiled and divided among processes, against the losses as textbooks have them."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, logsigmoid, normalize, softplus
from torch.utils._python_dispatch import TorchDispatchMode
from training.ranks import Ranks
from zoo.objectives import similarity
from zoo.objectives.contrastive_losses import (
    decoupled,
    info_nce,
    nt_xent,
    sigmoid_loss,
    supervised_contrastive,
)
from zoo.objectives.negatives import NegativesConfig
from zoo.objectives.similarity import Pairs, log_sum_exp, softplus_sum

from zoo.training.world import joined


def plain_info_nce(a, b, scale, bias):
    x, target = scale * a @ b.T, torch.arange(len(a))
    return (cross_entropy(x, target) + cross_entropy(x.T, target)) / 2


def plain_sigmoid(a, b, scale, bias):
    signs = 2 * torch.eye(len(a)) - 1
    return -logsigmoid(signs * (scale * a @ b.T + bias)).sum() / len(a)


def plain_nt_xent(a, b, scale, bias):
    views = torch.cat((a, b))
    x = (scale * views @ views.T).fill_diagonal_(-torch.inf)
    return cross_entropy(x, torch.arange(len(views)).roll(len(a)))


def plain_decoupled(a, b, scale, bias):
    views, own = torch.cat((a, b)), torch.eye(len(a), dtype=torch.bool).repeat(2, 2)
    x = scale * views @ views.T
    positive = (scale * (a * b).sum(1)).repeat(2)
    return (x.masked_fill(own, -torch.inf).logsumexp(1) - positive).mean()


CHOSEN = NegativesConfig(hardness=0.5, false_above=0.6)


def chosen_sum(x, excluded):
    """The log of the weighed sum of each row, of the negatives that are left."""
    each = []
    for row, out in zip(x, excluded, strict=True):
        left = row[~out]
        weights = (CHOSEN.hardness * left).exp()
        each.append((len(left) * (weights * left.exp()).sum() / weights.sum()).log())
    return torch.stack(each)


def too_alike(a, b):
    own = torch.eye(len(a), dtype=torch.bool)
    return own | (a @ a.T > CHOSEN.false_above) | (b @ b.T > CHOSEN.false_above)


def plain_chosen_info_nce(a, b, scale, bias):
    x, out = scale * a @ b.T, too_alike(a, b)
    sums = (chosen_sum(x, out), chosen_sum(x.T, out))
    return sum(softplus(one - x.diagonal()).mean() for one in sums) / 2


def plain_chosen_nt_xent(a, b, scale, bias):
    views = torch.cat((a, b))
    positive = (scale * (a * b).sum(1)).repeat(2)
    sums = chosen_sum(scale * views @ views.T, too_alike(a, b).repeat(2, 2))
    return softplus(sums - positive).mean()


def classes(b):
    """Two or so, told by the features, so that every process knows its own."""
    return (b[:, 0] > 0).long()


def plain_supervised(a, b, scale, bias):
    own = torch.eye(len(a), dtype=torch.bool)
    x = (scale * a @ a.T).masked_fill(own, -torch.inf).log_softmax(1)
    others = (classes(b)[:, None] == classes(b)) & ~own
    each = -x.masked_fill(~others, 0).sum(1) / others.sum(1).clamp(min=1)
    return each.sum() / others.any(1).sum().clamp(min=1)


LOSSES = {
    "supervised": (
        lambda a, b, scale, bias: supervised_contrastive(a, classes(b), scale),
        plain_supervised,
    ),
    "info_nce": (lambda a, b, scale, bias: info_nce(a, b, scale), plain_info_nce),
    "sigmoid": (sigmoid_loss, plain_sigmoid),
    "chosen_info_nce": (
        lambda a, b, scale, bias: info_nce(a, b, scale, negatives=CHOSEN),
        plain_chosen_info_nce,
    ),
    "chosen_nt_xent": (
        lambda a, b, scale, bias: nt_xent(a, b, scale, CHOSEN),
        plain_chosen_nt_xent,
    ),
    "decoupled": (lambda a, b, scale, bias: decoupled(a, b, scale), plain_decoupled),
    "nt_xent": (lambda a, b, scale, bias: nt_xent(a, b, scale), plain_nt_xent),
}


def inputs(count, dim=6):
    """Features in double precision, scale and bias; the same in every process."""
    torch.manual_seed(count)
    a, b = (normalize(torch.randn(count, dim, dtype=torch.float64), dim=1) for _ in range(2))
    scale, bias = torch.tensor([8.0]), torch.tensor([-3.0])
    return [x.double().requires_grad_() for x in (a, b, scale, bias)]


def gradients(loss, leaves):
    found = torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True)
    return [g.numpy() for g in found]


def divided(name, sizes):
    """This process's share of the loss, and its gradients as the engine has them."""
    with joined("cpu", timeout=20) as world:
        a, b, scale, bias = inputs(sum(sizes))
        begin = sum(sizes[: world.rank])
        own = slice(begin, begin + sizes[world.rank])
        leaves = [x.detach().requires_grad_() for x in (a[own], b[own], scale, bias)]
        share = LOSSES[name][0](*leaves) * sizes[world.rank] / sum(sizes)
        # What the engine does: W times each share goes backward, then W processes are averaged.
        found = gradients(share * world.size, leaves)
        return share.item(), [g / world.size for g in found]


@pytest.mark.parametrize("sizes", [(5,), (4, 1), (3, 3), (1, 4, 2), (2, 1, 3, 3)])
@pytest.mark.parametrize("name", LOSSES)
def test_any_number_of_processes_has_the_loss_and_gradient_of_one(name, sizes):
    leaves = inputs(sum(sizes))
    want = LOSSES[name][1](*leaves)
    results = Ranks(len(sizes), divided, name, sizes).results()
    shares, parts = zip(*(results[rank] for rank in range(len(sizes))), strict=True)
    assert sum(shares) == pytest.approx(want.item(), rel=1e-12)
    # Shares are summed; features belong to one process each, scale and bias to all of them.
    a, b, scale, bias = zip(*parts, strict=True)
    got = [np.concatenate(a), np.concatenate(b), sum(scale), sum(bias)]
    for mine, wanted in zip(got, gradients(want, leaves), strict=True):
        # Features' gradients went to their owners in W shares, which the engine averages.
        np.testing.assert_allclose(mine, wanted, rtol=1e-10, atol=1e-12)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
@settings(deadline=None, max_examples=25, database=None)
def test_tiles_of_any_size_give_the_same(n, m, tile, kinds):
    torch.manual_seed(n * 100 + m * 10 + kinds)
    queries, keys = torch.randn(n, 3), torch.randn(m, 3)
    scale, bias = torch.tensor(1.7), torch.tensor([-0.4])
    leaves = [x.double().requires_grad_() for x in (queries, keys, scale, bias)]
    ids = torch.randint(0, kinds + 1, (n,)), torch.randint(0, kinds + 1, (m,))
    pairs = Pairs(*(numbers.unsqueeze(1) for numbers in ids))
    alike = ids[0][:, None] == ids[1]
    x = (leaves[2] * leaves[0] @ leaves[1].T + leaves[3]).masked_fill(alike, -torch.inf)
    with mock.patch.object(similarity, "TILE", tile):
        check_tiles(leaves, pairs, x, ~alike)


def check_tiles(leaves, pairs, x, meet):
    without_bias = x - leaves[3]
    for dim in (1, 0):
        met = meet.any(dim)
        got = log_sum_exp(*leaves[:3], pairs, with_columns=True)[1 - dim]
        assert (got[~met] < -1e38).all(), "who meets nobody"
        compare(got[met], without_bias.logsumexp(dim)[met], leaves[:3])
    plain = torch.nn.functional.softplus(x).sum(1)
    compare(softplus_sum(*leaves, pairs), plain, leaves)


def compare(got, want, leaves):
    torch.testing.assert_close(got, want)
    weights = torch.arange(1.0, 1 + len(want)).double()
    found = gradients((got * weights).sum(), leaves)
    for mine, wanted in zip(found, gradients((want * weights).sum(), leaves), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-9, atol=1e-12)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.untyped_storage().size() // 4)
        return made


@pytest.mark.parametrize("name", LOSSES)
def test_memory_is_linear_in_the_batch(name, monkeypatch):
    monkeypatch.setattr(similarity, "TILE", 64)
    most = []
    for count in (256, 512):
        leaves = [x.detach().float().requires_grad_() for x in inputs(count, dim=32)]
        with Largest() as largest:
            LOSSES[name][0](*leaves).backward()
        most.append(largest.most)
    assert most[1] == 2 * most[0]
    assert most[1] < 512 * 512 / 3


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_touch_the_logits(name):
    leaves = [x.detach().float().requires_grad_() for x in inputs(9)]
    want = LOSSES[name][0](*leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = LOSSES[name][0](*leaves)
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["info_nce", "sigmoid", "nt_xent"])  # one positive each
def test_certain_pairs_still_have_a_gradient(name):
    """1 - p is 4e-9 here, which float32 rounds to nothing where p is computed first."""
    eye = torch.eye(3, dtype=torch.float64)
    leaves = [eye, eye, torch.tensor([20.0]).double(), torch.tensor([-10.0]).double()]
    leaves = [x.clone().requires_grad_() for x in leaves]
    want = gradients(LOSSES[name][1](*leaves), leaves)[0]
    low = [x.detach().float().requires_grad_() for x in leaves]
    got = gradients(LOSSES[name][0](*low), low)[0]
    assert 0 < np.abs(want).max() < 1e-3
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("name", ["info_nce", "nt_xent"])
def test_one_sample_alone_has_nothing_to_learn(name):
    leaves = inputs(1)
    loss = LOSSES[name][0](*leaves)
    assert loss.item() == 0
    assert not any(g.any() for g in gradients(loss, leaves))
