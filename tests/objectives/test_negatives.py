"""Hard and false negatives where objectives take them: the queue, matching, recipes."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize, softplus
from zoo.objectives.momentum_queue import MomentumQueue, QueueConfig
from zoo.objectives.negatives import NegativesConfig, alike, negative_sums
from zoo.objectives.similarity import Pairs
from zoo.objectives.text_code_matching import hard_negatives
from zoo.registry.build import resolve_recipe

from zoo.errors import ConfigError


def vectors(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_hardness_goes_from_the_sum_to_the_hardest():
    queries, keys, scale = vectors(4, 6), vectors(9, 6, seed=1), torch.tensor(3.0)
    ids = (torch.arange(4).unsqueeze(1), torch.arange(9).unsqueeze(1))
    logits = scale * queries @ keys.T
    logits[torch.arange(4), torch.arange(4)] = -torch.inf
    sums = [
        negative_sums(queries, keys, scale, Pairs(*ids), hardness=hardness)[0]
        for hardness in (0.0, 1.0, 3.0, 30.0)
    ]
    torch.testing.assert_close(sums[0], logits.logsumexp(1))
    assert all((a < b).all() for a, b in pairwise(sums))
    hardest = logits.amax(1) + torch.tensor(8.0).log()
    torch.testing.assert_close(sums[-1], hardest, rtol=0.0, atol=0.05)


def test_the_queue_leaves_false_negatives_out():
    """What the slow copy makes of a sample's either side says that it is too alike."""
    negatives = NegativesConfig(false_above=0.5)
    config = QueueConfig(queue=7, negatives=negatives)
    queue, scale = MomentumQueue(width=3, ids=1, config=config), torch.tensor(4.0)
    queries, keys = vectors(2, 5, 3), vectors(2, 5, 3, seed=1)
    got = queue.loss(queries, keys, scale, torch.arange(5).unsqueeze(1) + 1)
    candidates = torch.cat([keys, queue.vectors], 1)
    excluded = (keys @ candidates.mT > 0.5).any(0)
    excluded |= torch.eye(5, 12, dtype=torch.bool)
    assert 5 < excluded.sum() < 50
    want = []
    for side in (0, 1):
        logits = scale * queries[side] @ candidates[1 - side].T
        sums = logits.masked_fill(excluded, -torch.inf).logsumexp(1)
        want.append(softplus(sums - logits.diagonal()).mean())
    torch.testing.assert_close(got, sum(want) / 2)


def test_matching_draws_no_false_negative():
    """Two of four texts say the same; the code of one answers the other."""
    texts, codes = vectors(4, 8), vectors(4, 8, seed=1)
    texts[3] = normalize(texts[1] + 0.01, dim=0)
    same = alike((texts, codes), NegativesConfig(false_above=0.9))
    assert same.sum() == 4 + 2
    assert not alike((texts, codes), NegativesConfig()).any()
    similarity = (5 * texts @ codes.T).masked_fill(same, -torch.inf)
    for _ in range(50):
        rows, columns = hard_negatives(similarity)
        assert not same[rows, columns].any()


def test_recipes():
    words = ["objective.name=text_code", "objective.negatives.hardness=0.5"]
    recipe = resolve_recipe("stdlib-mlm", "x", [*words, "objective.negatives.false_above=0.9"])
    assert recipe.objective["negatives"] == {"hardness": 0.5, "false_above": 0.9}
    for word, said in (("hardness=-1", "must not be negative"), ("false_above=2", "a cosine")):
        with pytest.raises(ConfigError, match=said):
            resolve_recipe("stdlib-mlm", "x", [words[0], f"objective.negatives.{word}"])
    words = ["objective.name=contrastive", "objective.loss=sigmoid", words[1]]
    with pytest.raises(ConfigError, match="other than sigmoid"):
        resolve_recipe("digits-mae", "x", words)
