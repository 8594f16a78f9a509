"""Masking policies: shares, whole words, names at all places, and who comes first."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.code.preprocess import CodePreprocess, CodePreprocessConfig
from zoo.objectives.masking import (
    MaskingConfig,
    Vocabulary,
    choose_words,
    corrupt,
    mark_words,
)
from zoo.objectives.spans import noise_mask, span_counts

from zoo.errors import DataError, UsageError

SOURCE = """def total(numbers, scale):
    result = 0
    for number in numbers:
        result += number * scale
    return result
"""
SAMPLE = {"text": SOURCE, "facts": {"language": "python"}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def preprocess():
    found = CodePreprocess(CodePreprocessConfig(max_length=128), vocab_size=300)
    found.fit([{"text": SOURCE}])
    return found


def masked(preprocess, config, seed=0, sample=SAMPLE):
    """Positions that were chosen, and the marks."""
    batch = preprocess(sample) | mark_words(sample, preprocess, config)
    vocabulary = Vocabulary(size=300, mask_id=3, ordinary=range(4, 300))
    return corrupt(batch, config, vocabulary, generator(seed))[1], batch


def pieces(preprocess, index):
    """The text of the chosen tokens."""
    spans = preprocess.tokenizer.spans(SOURCE)
    return [SOURCE[slice(*spans[i - 1])].strip() for i in index.tolist()]


@settings(deadline=None, max_examples=60, database=None)
@given(
    st.lists(st.integers(-1, 8), min_size=1, max_size=60),
    st.floats(0.05, 0.9),
    st.integers(0, 1000),
)
def test_words_are_whole_and_within_the_share(words, ratio, seed):
    words = torch.tensor(words)
    preferred = words == 3
    chosen = choose_words(words, preferred, ratio, generator(seed))
    assert not chosen[words < 0].any()
    for word in words[chosen].unique():
        assert chosen[words == word].all()
    total = int((words >= 0).sum())
    assert int(chosen.sum()) <= max(1, round(ratio * total))
    size = int(preferred.sum())
    if 0 < size <= max(1, round(ratio * total)):
        assert chosen[preferred].all()


def test_word_policy_hides_whole_words(preprocess):
    index, batch = masked(preprocess, MaskingConfig(policy="word", mask_ratio=0.3))
    word = batch["word"]
    chosen = torch.zeros_like(word, dtype=torch.bool)
    chosen[index] = True
    for number in word[index].unique():
        assert chosen[word == number].all()
    assert 0.2 < len(index) / (len(word) - 2) <= 0.31


def test_a_name_is_hidden_at_all_its_places(preprocess):
    config = MaskingConfig(policy="identifier", mask_ratio=0.3)
    hidden = set()
    for seed in range(20):
        index, batch = masked(preprocess, config, seed)
        word = batch["word"]
        for number in word[index].unique():
            assert set((word == number).nonzero().flatten().tolist()) <= set(index.tolist())
        names = {p for p in pieces(preprocess, index[batch["preferred"][index]]) if len(p) > 3}
        hidden |= names
    assert {"number", "numbers", "result", "scale", "total"} & hidden
    assert not {"return", "for", "in", "def"} & hidden  # keywords are no names


def test_the_lexicon_comes_first(preprocess):
    config = MaskingConfig(policy="lexicon", lexicon=("return", "scale"), mask_ratio=0.5)
    for seed in range(10):
        index, batch = masked(preprocess, config, seed)
        preferred = batch["preferred"].nonzero().flatten().tolist()
        assert len(preferred) >= 3  # once and twice
        assert set(preferred) <= set(index.tolist())


def test_identifiers_need_a_language(preprocess):
    config = MaskingConfig(policy="identifier")
    with pytest.raises(DataError, match="which language"):
        mark_words({"text": SOURCE}, preprocess, config)
    by_name = {"text": SOURCE, "facts": {"file": "a/b.py"}}
    marks = mark_words(by_name, preprocess, config)
    assert marks["preferred"].any()
    assert len(marks["word"]) == len(preprocess(SOURCE)["ids"])


def test_span_policy_hides_runs(preprocess):
    config = MaskingConfig(policy="span", mask_ratio=0.3, mean_span=4.0)
    index, batch = masked(preprocess, config)
    ordinary = len(batch["ids"]) - 2
    noise, spans = span_counts(ordinary, 0.3, 4.0)
    assert len(index) == noise
    assert int((index.diff() > 1).sum()) + 1 == spans


@settings(deadline=None, max_examples=80, database=None)
@given(st.integers(2, 200), st.floats(0.01, 0.99), st.floats(1.0, 80.0), st.integers(0, 99))
def test_noise_has_the_counted_spans(length, ratio, mean_span, seed):
    noise, spans = span_counts(length, ratio, mean_span)
    mask = noise_mask(length, ratio, mean_span, generator(seed))
    assert (len(mask), int(mask.sum())) == (length, noise)
    assert int((mask[1:] & ~mask[:-1]).sum()) == spans
    assert not mask[0]
    assert mask[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"mask_ratio": 1.0},
        {"policy": "lexicon"},
        {"lexicon": ("x",)},
        {"mean_span": 0.5},
        {"keep_share": 0.6, "random_share": 0.6},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"must|needs"):
        MaskingConfig(**options)


def test_words_need_text():
    class Other:
        pass

    with pytest.raises(UsageError, match="needs text"):
        mark_words(SAMPLE, Other(), MaskingConfig(policy="word"))
