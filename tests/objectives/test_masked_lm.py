import pytest
import torch
from torch.nn.functional import cross_entropy
from zoo.objectives.masked_lm import MaskedLM, MaskedLMConfig
from zoo.objectives.masking import MaskingConfig, Vocabulary, corrupt

import zoo

SPECIAL, MASK, VOCAB = 4, 3, 100


def run(ids, seed=0, **options):
    vocabulary = Vocabulary(size=VOCAB, mask_id=MASK, ordinary=range(SPECIAL, VOCAB))
    generator = torch.Generator().manual_seed(seed)
    return corrupt({"ids": ids}, MaskingConfig(**options), vocabulary, generator)


def test_shares_are_as_stated():
    ids = torch.randint(SPECIAL, VOCAB, (200_000,))
    shown, index = run(ids, mask_ratio=0.3)
    assert len(index) / len(ids) == pytest.approx(0.3, abs=0.01)
    masked = shown[index] == MASK
    kept = shown[index] == ids[index]
    assert masked.float().mean() == pytest.approx(0.8, abs=0.01)
    # a random id is the old one once in VOCAB times
    assert kept.float().mean() == pytest.approx(0.1 + 0.1 / (VOCAB - SPECIAL), abs=0.01)
    rest = torch.ones(len(ids), dtype=torch.bool)
    rest[index] = False
    assert torch.equal(shown[rest], ids[rest])
    assert shown[index][~masked].min() >= SPECIAL
    assert shown.max() < VOCAB


def test_special_ids_are_never_chosen():
    ids = torch.tensor([1, 50, 2, 0, 3, 60])
    for seed in range(50):
        _, index = run(ids, seed, mask_ratio=0.9)
        assert set(index.tolist()) <= {1, 5}


def test_every_text_has_a_target_if_it_can():
    for seed in range(50):
        assert len(run(torch.tensor([1, 50, 51, 2]), seed, mask_ratio=0.01)[1]) >= 1
    assert len(run(torch.tensor([1, 2]))[1]) == 0


def test_pure():
    ids = torch.randint(SPECIAL, VOCAB, (64,))
    before = ids.clone()
    first, again, other = (run(ids, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(ids, before)


@pytest.fixture
def pair():
    encoder = zoo.create("stdlib-mlm", seed=0, dim=24, depth=1, heads=2, vocab_size=320)
    encoder.preprocess.fit([{"text": "def f(x): return x\n" * 9}])
    return encoder, MaskedLM(MaskedLMConfig(), encoder)


def test_loss_is_cross_entropy_of_the_hidden_tokens(pair):
    encoder, objective = pair
    ids = encoder.preprocess("def f(y): return y")["ids"]
    view = objective.views({"ids": ids}, torch.Generator().manual_seed(0))
    batch = encoder.preprocess.collate([view, view])
    losses = objective(encoder, batch)
    states = encoder(batch).tokens[0]
    head = objective.head
    logits = head.norm(torch.nn.functional.gelu(head.dense(states)))
    logits = logits @ encoder.embedding.weight.T + head.bias
    labels = torch.full((len(batch["ids"]),), -100)
    labels[batch["target_index"]] = batch["target_ids"]
    torch.testing.assert_close(losses.total, cross_entropy(logits, labels))
    assert objective.count(batch) == 2 * len(view["target_ids"])
    assert 0 <= losses.metrics["top1"] <= 1


def test_a_batch_without_targets_costs_nothing(pair):
    encoder, objective = pair
    view = objective.views(encoder.preprocess(""), torch.Generator().manual_seed(0))
    losses = objective(encoder, encoder.preprocess.collate([view]))
    assert losses.total == 0


@pytest.mark.parametrize(
    "options", [{"mask_ratio": 0}, {"mask_ratio": 1}, {"keep_share": 0.6, "random_share": 0.6}]
)
def test_impossible_shares(options):
    with pytest.raises(ValueError, match="must lie between"):
        MaskedLMConfig(**options)
