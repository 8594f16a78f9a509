"""Contrast, matching and generation on a tiny T5: who is matched with whom, and what is written."""

import pytest
import torch
from zoo.modalities.code.preprocess import CodePreprocessConfig
from zoo.modalities.code.t5 import T5, T5Config
from zoo.objectives.span_denoising import SpanDenoising, SpanDenoisingConfig
from zoo.objectives.text_code_matching import (
    TextCodeMatching,
    TextCodeMatchingConfig,
    hard_negatives,
)
from zoo.registry.build import check_pairing

from zoo.errors import UsageError

PAIRS = (
    ("adds one", "def f(x):\n    return x + 1\n"),
    ("counts to nine", "for i in range(9): pass\n"),
    ("has a field", "class A:\n    y = 2\n"),
)
CONFIG = TextCodeMatchingConfig(
    output_dim=8, match_id=300, write_text_id=301, write_code_id=302, temperature=0.2
)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 1, "decoder_depth": 1, "heads": 2, "head_dim": 8, "hidden": 24}
    preprocess = CodePreprocessConfig(ordinary_ids=(4, 300), sentinel_ids=(303, 320), max_length=64)
    made = T5(T5Config(vocab_size=320, dropout=0.0, **sizes), preprocess)
    made.preprocess.fit([{"text": text * 5} for _, text in PAIRS])
    return made.eval()


def batch_of(encoder, objective):
    views = []
    for query, text in PAIRS:
        sample = {"text": text, "facts": {"query": query}}
        views.append(objective.prepare(sample, encoder.preprocess, torch.Generator()))
    return encoder.preprocess.collate(views)


def learns(encoder, objective, batch, steps):
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objective.parameters()], lr=5e-3)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses = objective(encoder, batch)
        losses.total.backward()
        optimizer.step()
        objective.after_step(encoder)
        found.append(losses)
    return found


def test_every_loss_falls(encoder):
    objective = TextCodeMatching(CONFIG, encoder)
    torch.manual_seed(0)
    found = learns(encoder, objective, batch_of(encoder, objective), 60)
    assert set(found[0].parts) == {"contrast", "matching", "text_to_code", "code_to_text"}
    for name, first in found[0].parts.items():
        last = torch.stack([losses.parts[name] for losses in found[-5:]]).mean()
        assert last < 0.9 * first, name
    torch.testing.assert_close(found[0].total, sum(found[0].parts.values()))


def test_matching_reads_the_text(encoder, monkeypatch):
    """Nine rows: pairs first, then each text and each code with another's."""
    objective = TextCodeMatching(CONFIG, encoder)
    batch = batch_of(encoder, objective)
    seen = {}
    decode = encoder.decode

    def spy(features, given):
        seen.setdefault("features", features)
        seen.setdefault("given", given)
        return decode(features, given)

    monkeypatch.setattr(encoder, "decode", spy)
    objective(encoder, batch)
    features, given = seen["features"], seen["given"]
    reads = given["decoder_ids"].split(given["decoder_lengths"].tolist())
    own = batch["decoder_ids"].split(batch["decoder_lengths"].tolist())
    assert len(reads) == len(features.lengths) == 9
    assert all(int(ids[0]) == 300 for ids in reads)
    for row in range(3):
        assert torch.equal(reads[row][1:], own[row][1:])
        assert not torch.equal(reads[3 + row][1:], own[row][1:])  # a wrong code
        assert torch.equal(reads[6 + row][1:], own[row][1:])
        assert features.lengths[3 + row] == batch["lengths"][row]
        assert not torch.equal(features.pooled[6 + row], features.pooled[row])  # a wrong text


def test_negatives_are_others_and_the_likelier_ones():
    torch.manual_seed(0)
    none = float("-inf")
    similarity = torch.tensor([[none, 5.0, 0.0], [none, none, none], [5.0, 0.0, none]])
    for rows, _ in (drawn := [hard_negatives(similarity) for _ in range(200)]):
        assert rows.tolist() == [0, 2]  # the others of the second are right answers too
    columns = torch.stack([columns for _, columns in drawn])
    assert (columns != torch.tensor([0, 2])).all()
    assert (columns == torch.tensor([1, 0])).float().mean() > 0.95


def test_a_single_pair_has_no_negative(encoder):
    objective = TextCodeMatching(CONFIG, encoder)
    view = objective.prepare(
        {"text": "x = 1", "facts": {"query": "sets x"}}, encoder.preprocess, torch.Generator()
    )
    assert objective(encoder, encoder.preprocess.collate([view])).total.isfinite()


def test_task_ids_must_be_in_the_vocabulary(encoder):
    with pytest.raises(ValueError, match="the vocabulary ends at 320"):
        TextCodeMatching(TextCodeMatchingConfig(), encoder)


def test_t5_learns_to_denoise(encoder):
    objective = SpanDenoising(SpanDenoisingConfig(), encoder)
    batch = batch_of(encoder, objective)
    found = learns(encoder, objective, batch, 20)
    assert found[-1].total < 0.8 * found[0].total


def test_pairing():
    check_pairing({"name": "t5"}, {"name": "text_code_matching"})
    check_pairing({"name": "t5"}, {"name": "ul2"})
    with pytest.raises(UsageError, match="a decoder that writes"):
        check_pairing({"name": "t5_encoder"}, {"name": "text_code_matching"})
