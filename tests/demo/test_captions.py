"""The image-text part's captions and chance; `tests/test_demo.py` runs all of it."""

import numpy as np
import pytest
from zoo.modalities.vision.codec import VisionCodec

from zoo.data.shards import ShardSet
from zoo.demo.captions import NAMES, TEMPLATES, UNSEEN, _caption, chance
from zoo.demo.digits import write_digits


def test_captions_say_the_digit_and_leave_phrases_of_known_words_out(tmp_path):
    shards = ShardSet(write_digits(tmp_path, caption=_caption)["train"])
    said = set()
    for index in range(0, len(shards), 3):
        sample = VisionCodec().decode(shards.read(index))
        said.add(sample["text"])
        assert sample["text"].rpartition(" ")[2] == NAMES[sample["label"]]
    queries = {phrase.format(name) for phrase in UNSEEN for name in NAMES}
    assert not said & queries
    assert {word for phrase in UNSEEN for word in phrase.split()} <= {
        word for phrase in TEMPLATES for word in phrase.split()
    }
    assert len(said) > 100


def test_chance_is_that_of_drawing():
    labels = np.repeat(np.arange(3), [4, 5, 1])
    rng = np.random.default_rng(0)
    draws = [np.isin(range(3), labels[rng.choice(10, 2, replace=False)]) for _ in range(20_000)]
    assert chance([4, 5, 1], 2) == pytest.approx(np.mean(draws), abs=0.01)
    assert chance([4, 5, 1], 1) == pytest.approx(1 / 3)
