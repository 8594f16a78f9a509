import json

import numpy as np
import pytest
import torch
from zoo.modalities.tables import HIDDEN, MISSING
from zoo.modalities.tabular.read import read_table
from zoo.objectives.column_views import column_views, partition
from zoo.objectives.unitabe import choose, hidden_count
from zoo.registry.build import build_objective

import zoo
from zoo.errors import ConfigError, UsageError
from zoo.tabular import ask, pretrain_tables, write_tables

PAPER = {"tokens": "pieces", "numbers": "digits", "pool": "cls"}
TASKS = {
    "masked_cells": ({"name": "masked_cells"}, {}),
    "with_recall": ({"name": "masked_cells", "recall": 1.0}, {"order": "rolled"}),
    "with_contrast": ({"name": "masked_cells", "contrast": 1.0}, {}),
    "scarf": ({"name": "scarf"}, {}),
    "unitabe": ({"name": "unitabe"}, PAPER),
}


def tables(rows=40):
    """Two schemas; a column of each follows from the others."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, rows))
    level = np.where(x > 0, "high", "low")
    first = {"x": x, "twice x": 2 * x, "level": level, "gap": np.where(y > 1, np.nan, y)}
    second = {"width": y, "negative width": -y, "third": x}
    return [read_table({n: v.tolist() for n, v in t.items()}) for t in (first, second)]


@pytest.fixture(params=TASKS)
def pair(request):
    options, form = TASKS[request.param]
    encoder = zoo.create("unitabe-small", seed=0, depth=2, **form)
    encoder.preprocess.fit([{"table": table} for table in tables()])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return encoder, build_objective(options, encoder)


def batch_of(encoder, objective, seed=0):
    generator = torch.Generator().manual_seed(seed)
    samples = [{"table": table} for table in tables()]
    parts = [objective.prepare(sample, encoder.preprocess, generator) for sample in samples]
    return encoder.preprocess.collate(parts)


def test_views_are_pure(pair):
    one, two = batch_of(*pair), batch_of(*pair)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[n], v) for n, v in batch_of(*pair, seed=1).items() if n in one)


def test_loss_falls(pair):
    encoder, objective = pair
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objective.parameters()], lr=2e-3)
    losses = []
    for step in range(25):
        loss = objective(encoder, batch_of(encoder, objective, seed=step % 3)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.97 * np.mean(losses[:3])


def test_hidden_values_do_not_leak():
    encoder = zoo.create("unitabe-small", seed=0, depth=1)
    encoder.preprocess.fit([{"table": table} for table in tables()])
    objective = build_objective({"name": "masked_cells"}, encoder)
    batch = batch_of(encoder, objective)
    hidden = batch["cell_value"] == HIDDEN
    assert (batch["cell_number"][hidden] == 0).all()
    assert torch.equal(hidden.nonzero().flatten(), batch["target_index"])
    assert (batch["true_value"][hidden] != MISSING).all()
    share = hidden.float().mean() / (batch["cell_value"] != MISSING).float().mean()
    assert 0.3 < share < 0.5
    strings = hidden & (batch["true_value"] >= 2)
    owners = batch["value_column"][batch["true_value"][strings] - 2]
    assert torch.equal(owners, batch["cell_column"][strings])


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 30])
def test_column_views_overlap_and_cover(columns):
    blocks = partition(columns, 4, 0.5)
    assert {c for block in blocks for c in block} == set(range(columns))
    assert all(len(set(block)) == len(block) for block in blocks)
    views = column_views(6, columns, 4, 0.5, torch.Generator().manual_seed(0))
    assert views.shape == (6, 2, columns)
    assert views.any(-1).all()


def test_dropout_is_for_training_only():
    encoder = zoo.create("unitabe-small", seed=0, depth=1, dropout=0.5)
    encoder.preprocess.fit([{"table": table} for table in tables()])
    batch = encoder.preprocess(tables()[0])
    plain = zoo.create("unitabe-small", seed=0, depth=1)
    assert not torch.equal(encoder(batch).pooled, encoder(batch).pooled)
    torch.testing.assert_close(encoder.eval()(batch).pooled, plain(batch).pooled)
    assert zoo.create("unitabe-paper", depth=1).config.dropout == 0.1


def test_how_many_cells_are_hidden():
    z = torch.tensor([0.5, 1.0, 1.1, 1.4, 1.6, 1.9, 2.2, 2.6])
    assert hidden_count(z, 20).tolist() == [1, 1, 2, 3, 4, 5, 7, 1]
    assert hidden_count(z, 4).tolist() == [1, 1, 2, 2, 2, 2, 2, 1]
    present = torch.tensor([[False, True, True], [False, False, False]])
    hidden, target = choose(present, torch.Generator().manual_seed(0))
    assert hidden[0, target[0]]
    assert not (hidden & ~present).any()


def test_pairings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="masked_cells"):
        build_objective({"name": "unitabe"}, zoo.create("unitabe-small"))
    with pytest.raises(ConfigError, match="one token a cell"):
        build_objective({"name": "masked_cells"}, zoo.create("unitabe-small", tokens="pieces"))
    with pytest.raises(zoo.ZooError, match="cells of tables"):
        zoo.pretrain("digits-mae", "nowhere", "nowhere", ["objective.name=scarf"])


def test_trains_from_shards_and_loads_again(tmp_path):
    named = {f"table {i}": table for i, table in enumerate(tables(200))}
    shards = write_tables(tmp_path / "shards", named, block=64)
    options = ("train.steps=12", "train.batch_size=2", "train.log_every=1", "encoder.depth=1")
    runs = [
        zoo.pretrain(
            "unitabe-small", shards, tmp_path / name, options, device="cpu", progress=False
        )
        for name in ("a", "b")
    ]
    lines = (runs[0].folder / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.isfinite(losses).all()
    encoder = zoo.load(runs[0].folder)
    rows = encoder.embed(tables()[0])
    assert rows.shape == (40, 64)
    np.testing.assert_array_equal(rows, zoo.load(runs[1].folder).embed(tables()[0]))
    export = zoo.load(tmp_path / "a" / "export")
    np.testing.assert_array_equal(rows, export.embed(tables()[0]))


def test_pretraining_in_memory_is_the_same_run(tmp_path):
    named = {"only": tables()[0]}
    options = ("train.steps=3", "encoder.depth=1")
    run = pretrain_tables(named, tmp_path / "run", options=options)
    assert run.finished
    assert run.load().embed(tables()[0]).shape == (40, 64)


def test_shards_end_at_their_size(tmp_path):
    generator = np.random.default_rng(0)
    named = {f"table {i}": {"x": generator.normal(size=100)} for i in range(2)}
    folder = write_tables(tmp_path / "small", named, block=40, shard_bytes=1)
    shards = sorted(folder.glob("*.tar"))
    assert [path.name for path in shards] == [f"tables-{i:06d}.tar" for i in range(6)]
    listed = json.loads((folder / "manifest.json").read_text())["shards"]
    assert [row["samples"] for row in listed] == [1] * 6
    whole = write_tables(tmp_path / "whole", named, block=40)
    assert len(list(whole.glob("*.tar"))) == 1


def test_a_hidden_column_is_asked_for(tmp_path):
    generator = np.random.default_rng(0)
    kinds = generator.choice(["cat", "dog"], 200)
    table = {"says": np.where(kinds == "cat", "meow", "woof").tolist(), "animal": kinds.tolist()}
    sizes = {"dim": 32, "embed_dim": 32, "depth": 1, "heads": 2, "hidden": 32, "vocab_size": 256}
    train = {"steps": 30, "epochs": "none", "lr": 1e-2, "loggers": "[]", "save_every": 30}
    options = [f"encoder.{key}={value}" for key, value in sizes.items()]
    options += [f"train.{key}={value}" for key, value in train.items()]
    run = pretrain_tables({"pets": table}, tmp_path / "run", model="unitabe-paper", options=options)
    rows = {"says": ["woof", "meow", "woof"]}
    found = ask(run, rows, "animal", ["cat", "dog"])
    assert found.argmax(1).tolist() == [1, 0, 1]
    np.testing.assert_allclose(found.sum(1), 1.0)
    np.testing.assert_allclose(ask(run, rows, "animal", ["dog", "cat"])[:, ::-1], found, rtol=1e-5)
    told = rows | {"animal": ["dog", "dog", "cat"]}  # what is asked for is not looked at
    np.testing.assert_allclose(ask(run, told, "animal", ["cat", "dog"]), found, rtol=1e-5)
    with pytest.raises(UsageError, match="none twice"):
        ask(run, rows, "animal", ["cat", "cat"])
