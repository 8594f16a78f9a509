"""`unitabe-small.demo`: weights that a card only says how to make."""

import logging

import numpy as np
import pytest

import zoo
from zoo import first_use
from zoo.errors import UnknownNameError, UsageError
from zoo.tabular import Classifier

ROWS = {"height": [1.5, 1.9, 1.6, 1.2], "colour": ["red", "blue", "red", "blue"]}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    options = (*first_use._OPTIONS, "train.steps=2", "train.warmup=1", "encoder.depth=1")
    monkeypatch.setattr(first_use, "_OPTIONS", options)
    return tmp_path


def test_trained_once_then_loaded(tiny, caplog):
    pd = pytest.importorskip("pandas")
    with caplog.at_level(logging.WARNING, "zoo"):
        first = zoo.load("unitabe-small.demo").embed(ROWS)
        assert "training them here, once" in caplog.text
        caplog.clear()
        np.testing.assert_array_equal(zoo.load("unitabe-small").embed(ROWS), first)
        fitted = Classifier("unitabe-small.demo").fit(pd.DataFrame(ROWS), [0, 1, 0, 1])
        assert not caplog.text
    np.testing.assert_allclose(fitted.encoder_.embed(ROWS), first, atol=1e-5)
    assert len([*tiny.glob("trained/unitabe-small.demo-*/run/export")]) == 1


def test_an_interrupted_training_goes_on(tiny, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(first_use, "pretrain", stop)
        with pytest.raises(KeyboardInterrupt):
            zoo.load("unitabe-small.demo")
    (shard,) = tiny.glob("trained/*/shards/*.tar")
    before = shard.stat().st_mtime_ns
    zoo.load("unitabe-small.demo")
    assert shard.stat().st_mtime_ns == before


def test_listed_and_refused_in_one_line():
    assert "unitabe-small.demo" in zoo.list_models("unitabe*", tags=True)
    assert "unitabe-small" in zoo.list_models(pretrained=True)
    with pytest.raises(UsageError, match="leave out depth"):
        zoo.load("unitabe-small.demo", depth=1)
    with pytest.raises(UnknownNameError, match="demo"):
        zoo.load("unitabe-small.dmo")
