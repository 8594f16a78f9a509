"""FT-Transformer and SAINT: encoders of one table."""

import numpy as np
import pytest
import torch
from zoo.hub.export import save_export
from zoo.modalities.tables import MISSING, take_cells
from zoo.modalities.tabular.read import read_table
from zoo.registry.build import encoder_spec, resolve_recipe

import zoo
from zoo.errors import DataError, UsageError
from zoo.tabular import Classifier, Regressor, pretrain_tables

TINY = {"ft-transformer": {"dim": 16, "depth": 2, "heads": 2}, "saint": {"dim": 8, "depth": 1}}
SIZES = {"numbers": 2, "levels": [3, 2]}
ROWS = {
    "size": [1.0, 2.5, None, 4.0],
    "colour": ["red", "blue", None, "green"],
    "age": [4, 3, 2, 1],
    "wild": [True, False, True, None],
}


@pytest.fixture(params=TINY)
def encoder(request):
    encoder = zoo.create(request.param, seed=0, **TINY[request.param], **SIZES)
    encoder.preprocess.fit([{"table": read_table(ROWS)}])
    return encoder.eval()


def test_any_order_of_columns_is_the_schema(encoder):
    turned = dict(reversed(ROWS.items()))
    np.testing.assert_array_equal(encoder.embed(turned), encoder.embed(ROWS))
    assert encoder.embed(ROWS).shape == (4, encoder.dim)


def test_every_kind_of_cell_counts(encoder):
    before = encoder.embed(ROWS)[0]
    for name, value in {"size": 9.0, "colour": "blue", "age": None, "wild": None}.items():
        changed = encoder.embed(ROWS | {name: [value, *ROWS[name][1:]]})
        assert np.abs(changed[0] - before).max() > 1e-5


def test_unknown_strings_are_missing(encoder):
    batch = encoder.preprocess({"table": read_table(ROWS | {"colour": ["teal", "red", "", "red"]})})
    assert (batch["cell_value"].view(4, 4)[[0, 2], 2] == MISSING).all()


def test_statistics_are_those_of_the_schema(encoder):
    alone = encoder.preprocess({"table": read_table(ROWS).take(np.array([1]))})
    among = encoder.preprocess({"table": read_table(ROWS)})
    torch.testing.assert_close(alone["cell_number"], among["cell_number"][4:8])


def test_a_cell_that_is_taken_away_is_a_missing_one(encoder):
    batch = encoder.preprocess({"table": read_table(ROWS)})
    there = batch["cell_value"] != MISSING
    assert not there.all()
    torch.testing.assert_close(encoder(take_cells(batch, there)).pooled, encoder(batch).pooled)
    assert encoder(take_cells(batch, there)).tokens.shape == (1, int(there.sum()), encoder.dim)


def test_rows_alone_or_together():
    for name, alike in (("ft-transformer", True), ("saint", False)):
        encoder = zoo.create(name, seed=0, **TINY[name], **SIZES)
        encoder.preprocess.fit([{"table": read_table(ROWS)}])
        gap = np.abs(encoder.embed(ROWS, batch_size=1) - encoder.embed(ROWS)).max()
        assert (gap < 1e-5) == alike


def test_exports_bring_their_schema(encoder, tmp_path):
    name = "saint" if encoder.rows_mix else "ft-transformer"
    save_export(tmp_path / "x", encoder, encoder_spec(name, TINY[name] | SIZES))
    np.testing.assert_array_equal(zoo.load(tmp_path / "x").embed(ROWS), encoder.embed(ROWS))


@pytest.mark.parametrize("objective", ["masked_cells", "scarf"])
def test_pretrains_on_its_table(tmp_path, objective):
    options = [f"objective.name={objective}", "train.steps=3", "train.warmup=1", "encoder.dim=16"]
    options += ["encoder.depth=1", "encoder.heads=2"]
    run = pretrain_tables(
        {"rows": read_table(ROWS)}, tmp_path / "run", model="ft-transformer", options=options
    )
    assert np.isfinite([row["loss"] for row in run.metrics]).all()
    assert run.load().embed(ROWS).shape == (4, 16)


def test_what_cannot_work_is_refused(encoder):
    with pytest.raises(DataError, match=r"\['age'\] are not both"):
        encoder.embed({name: values for name, values in ROWS.items() if name != "age"})
    with pytest.raises(UsageError, match=r"needs tables in word pieces.*masked_cells"):
        resolve_recipe("ft-transformer", "x", ["objective.name=unitabe"])
    for name, values in (("size", ["a", "b", "c", "d"]), ("colour", [1, 2, 3, 4])):
        with pytest.raises(DataError, match=rf"\['{name}'\] are text where"):
            encoder.embed(ROWS | {name: values})
    other = zoo.create("ft-transformer", **TINY["ft-transformer"])
    with pytest.raises(UsageError, match="no schema yet"):
        other.embed(ROWS)
    with pytest.raises(DataError, match=r"made for numbers=1 levels=\[\], the table has numbers=2"):
        other.preprocess.fit([{"table": read_table(ROWS)}])
    with pytest.raises(DataError, match="is for one table; unitabe-small reads any"):
        other.preprocess.fit([{"table": read_table({"a": [1.0]})}, {"table": read_table(ROWS)}])
    with pytest.raises(DataError, match="is no schema"):
        other.preprocess.load_assets({"schema.json": b"{}"})


@pytest.mark.filterwarnings("ignore:column 'm' mixes")
def test_a_column_of_two_kinds_is_refused():
    pd = pytest.importorskip("pandas")
    mixed = read_table({"m": pd.Series([1, "two"], dtype=object)})
    with pytest.raises(DataError, match="'m' mixes numbers and text"):
        zoo.create("ft-transformer", **TINY["ft-transformer"]).preprocess.fit([{"table": mixed}])


def test_as_estimators():
    pd = pytest.importorskip("pandas")
    x = np.random.default_rng(0).normal(size=(60, 3))
    frame = pd.DataFrame(x, columns=list("abc")).assign(d=np.where(x[:, 1] > 0, "up", "down"))
    tuned = Classifier(
        "ft-transformer-small", mode="finetune", pretrain_steps=0, epochs=40, random_state=0
    )
    assert tuned.fit(frame, x[:, 0] > 0).score(frame, x[:, 0] > 0) > 0.9
    pretrained = Regressor("ft-transformer-small", pretrain_steps=2, random_state=0)
    assert pretrained.fit(frame, x[:, 0]).score(frame, x[:, 0]) > 0.9
    with pytest.raises(UsageError, match="with its neighbours"):
        Classifier("saint", pretrain_steps=0).fit(frame, x[:, 0] > 0)
