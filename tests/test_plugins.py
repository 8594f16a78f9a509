"""Objectives and cards from outside: found by name, and every mistake in them is one line."""

import sys
import textwrap

import numpy as np
import pytest
from zoo.modalities.vision.codec import VisionCodec
from zoo.registry import catalogue
from zoo.registry.build import resolve_recipe

import zoo
from zoo.errors import ConfigError, UnknownNameError, UsageError, WorkerError, unexpected

OBJECTIVE = """
from dataclasses import dataclass
import torch
from torch import nn
from zoo.objectives.contract import Losses, Objective

@dataclass(frozen=True, kw_only=True)
class BrightnessConfig:
    scale: float = 1.0

class Brightness(Objective):
    config_class = BrightnessConfig

    def __init__(self, config, encoder):
        super().__init__()
        self.config, self.head = config, nn.Linear(encoder.embed_dim, 1)

    def views(self, sample, generator):
        return {"image": sample["image"], "mean": sample["image"].float().mean() / 255}

    def forward(self, encoder, batch):
        found = self.head(encoder(batch).pooled).squeeze(1)
        loss = (found - batch["mean"]).square().mean() * self.config.scale
        return Losses(total=loss, metrics={"found": found.mean()})
"""
CARD = """
family = "guest"
modality = "vision"
summary = "from elsewhere"
default_size = "s"
[encoder]
name = "vit"
img_size = 8
patch_size = 4
in_chans = 1
[sizes.s]
dim = 16
depth = 1
heads = 2
[preprocess]
mean = [0.5]
std = [0.5]
[recipe.objective]
name = "brightness:Brightness"
[recipe.train]
batch_size = 4
steps = 2
lr = 1e-3
[recipe.loader]
workers = 0
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an objective, a card and shards; nothing of it is installed."""
    (tmp_path / "brightness.py").write_text(OBJECTIVE)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "guest.toml").write_text(CARD)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    codec = VisionCodec()
    rows = ((f"{i}", codec.encode({"image": image})) for i, image in enumerate(images))
    zoo.write_shards(rows, tmp_path / "shards")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ZOO_CARDS", str(tmp_path / "cards"))
    catalogue.rows.cache_clear()
    yield tmp_path
    catalogue.rows.cache_clear()
    sys.modules.pop("brightness", None)


def train(place, *options):
    return zoo.pretrain("guest", place / "shards", place / "run", options, progress=False)


def change(place, old, new):
    assert old in OBJECTIVE
    (place / "brightness.py").write_text(OBJECTIVE.replace(old, new))


def test_one_file_and_one_card_are_enough(place, monkeypatch):
    assert zoo.list_models("guest*") == ["guest-s"]
    run = train(place)
    assert "found" in run.metrics[-1]
    monkeypatch.delenv("ZOO_CARDS")
    catalogue.rows.cache_clear()
    assert zoo.load(place / "run").dim == 16


@pytest.mark.parametrize("where", ["cards/guest.toml", "cards"])
def test_cards_are_named_by_file_or_folder(place, monkeypatch, where):
    monkeypatch.chdir(place)
    monkeypatch.setenv("ZOO_CARDS", where)
    monkeypatch.chdir(place)
    assert zoo.card("guest").family == "guest"


def test_a_variable_that_leads_nowhere(place, monkeypatch):
    for word, said in (("shards", "shards: no card"), ("gone.toml", "cannot read it")):
        catalogue.rows.cache_clear()
        monkeypatch.setenv("ZOO_CARDS", str(place / word))
        with pytest.raises(ConfigError, match=said):
            zoo.list_models()


def test_a_card_is_no_model(place):
    path = place / "cards" / "guest.toml"
    with pytest.raises(UnknownNameError, match=r"ZOO_CARDS=.*guest\.toml adds"):
        zoo.create(str(path))
    with pytest.raises(UsageError, match=r"a card, not the config\.toml of a run: .* 'guest'"):
        resolve_recipe(str(path), "shards")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("brightnes:Brightness", "No module named 'brightnes'.*PYTHONPATH"),
        ("brightness:Bright", "AttributeError.*'Bright'"),
        ("brightness:BrightnessConfig", "no subclass of zoo.objectives.contract.Objective"),
        ("brightness", "one of your own is named MODULE:CLASS"),
    ],
)
def test_names_of_classes(place, name, said):
    with pytest.raises(UsageError, match=said):
        train(place, f"objective.name={name}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("config_class =", "config =", r"lacks config_class \(a dataclass\)"),
        ("def forward", "def foward", "lacks forward"),
        ("import torch\n", "import torch!\n", "SyntaxError"),
        ("return Losses", "return dict", "Brightness.forward must give a Losses"),
        ('"found": found.mean()', '"found": 0.5', "metrics are tensors"),
        (".mean() / 255}", ".mean().item()}", "Brightness.views must give tensors, which mean is"),
    ],
)
def test_what_an_objective_lacks(place, old, new, said):
    change(place, old, new)
    with pytest.raises(UsageError, match=said):
        train(place)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_a_view_names_the_line_and_the_sample(place, workers):
    change(place, '"mean": sample["image"]', '"mean": sample["picture"]')
    with pytest.raises(WorkerError, match=r"'\d'.*brightness\.py, line 19: KeyError") as caught:
        train(place, f"loader.workers={workers}")
    assert "Traceback" in caught.value.__notes__[0]


def test_an_error_nobody_foresaw_is_of_a_plugin_or_ours(place):
    change(place, "encoder.embed_dim, 1", "encoder.embed_dim + 1, 1")
    with pytest.raises(RuntimeError) as caught:
        train(place)
    # A test's own frames are somebody else's code too: the command's begin in zoo.
    trace = caught.value.__traceback__
    while trace.tb_frame.f_globals["__name__"] != "zoo.pretraining":
        trace = trace.tb_next
    said = unexpected(caught.value.with_traceback(trace))
    assert "brightness.py, line 22: RuntimeError: mat1" in textwrap.shorten(said, 1000)
    assert unexpected(KeyError("x")).startswith("internal error, KeyError: 'x'; please report")
