"""Classes by cosines: against the formula, with some of the classes, on two processes."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from training.ranks import Ranks
from zoo.objectives.entities import EntitiesConfig, EntityClassifier

from zoo.training.world import joined

SIZES, CLASSES, WIDTH = (5, 3), 40, 6


def inputs(**options):
    torch.manual_seed(0)
    classifier = EntityClassifier(WIDTH, EntitiesConfig(count=CLASSES, margin=0.2, **options))
    z = normalize(torch.randn(sum(SIZES), WIDTH), dim=1).requires_grad_()
    return classifier, z, torch.tensor([3, 0, 39, 3, 7, 7, 12, 1])


def plain(classifier, z, labels, classes):
    cosines = z @ normalize(classifier.prototypes, dim=1).T
    margins = 0.2 * torch.nn.functional.one_hot(labels, CLASSES)
    logits = (cosines - margins) / 0.03
    absent = torch.tensor([c not in classes for c in range(CLASSES)])
    return cross_entropy(logits.masked_fill(absent, -torch.inf), labels)


def test_all_classes_take_part():
    classifier, z, labels = inputs()
    torch.testing.assert_close(classifier(z, labels), plain(classifier, z, labels, range(CLASSES)))


def test_some_classes_take_part_anew_each_time():
    classifier, z, labels = inputs(sampled=10)
    chosen = [classifier._chosen(labels).tolist() for _ in range(3)]
    assert all(set(labels.tolist()) <= set(some) and len(some) <= 16 for some in chosen)
    assert chosen[0] != chosen[1]
    torch.manual_seed(3)
    classes = classifier._chosen(labels).tolist()
    torch.manual_seed(3)
    loss = classifier(z, labels)
    torch.testing.assert_close(loss, plain(classifier, z, labels, classes))
    loss.backward()
    touched = classifier.prototypes.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == classes


def part():
    with joined("cpu", timeout=30) as world:
        classifier, z, labels = inputs(sampled=10)
        begin = sum(SIZES[: world.rank])
        own = slice(begin, begin + SIZES[world.rank])
        mine = z.detach()[own].requires_grad_()
        torch.manual_seed(4 + world.rank)  # the first one's draws are taken
        share = classifier(mine, labels[own]) * SIZES[world.rank] / sum(SIZES)
        share.backward()
        gradients = classifier.prototypes.grad.numpy(), mine.grad.numpy()
        return share.item(), *gradients


def test_two_processes_have_the_loss_of_one():
    classifier, z, labels = inputs(sampled=10)
    torch.manual_seed(4)
    loss = classifier(z, labels)
    loss.backward()
    shares, weights, vectors = zip(*Ranks(2, part).results().values(), strict=True)
    assert sum(shares) == pytest.approx(loss.item(), rel=1e-5)
    got = torch.from_numpy(sum(weights))
    torch.testing.assert_close(got, classifier.prototypes.grad, rtol=1e-4, atol=1e-4)
    got = torch.cat([torch.from_numpy(v) for v in vectors])
    torch.testing.assert_close(got, z.grad, rtol=1e-4, atol=1e-4)


def test_numbers_out_of_bounds():
    with pytest.raises(ValueError, match="temperature positive"):
        EntitiesConfig(count=3, temperature=0.0)
