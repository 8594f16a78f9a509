"""One test for each row of the specification's table of bad input."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from zoo.modalities.tabular.read import read_table

import zoo
from zoo.errors import DataError
from zoo.tabular import Classifier, Regressor

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": ["u", "v", "u", "v"]})
LABELS = ["yes", "no", "yes", "no"]


@pytest.fixture(scope="module")
def fitted():
    return Classifier(pretrain_steps=0, columns="flexible", random_state=0).fit(FRAME, LABELS)


def test_infinities_are_named_and_counted():
    table = {"good": [1.0, 2.0], "bad": [np.inf, -np.inf]}
    with pytest.raises(DataError, match=r"'bad' \(2\)"):
        read_table(table)
    with pytest.warns(UserWarning, match="without a single value"):
        assert read_table(table, infinities="missing").cells[1].missing.all()

    cleaned = read_table({"bad": [np.inf, 1.0, 2.0, 3.0]}, infinities="missing")
    model = Classifier(pretrain_steps=0).fit(cleaned, LABELS)
    assert model.predict(cleaned).shape == (4,)
    with pytest.raises(DataError, match=r"'a' \(1\).*infinities='missing'"):
        model.fit(FRAME.assign(a=[np.inf, 1.0, 2.0, 3.0]), LABELS)


def test_decimal_commas_are_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("name;height\na;1,5\nb;\n")
    with pytest.raises(DataError, match=r"t\.csv: .* semicolons; .*sep=';', decimal=','"):
        read_table(path)
    frame = pd.read_csv(path, sep=";")
    with pytest.warns(UserWarning, match="'height': '1,5' is text, not a number"):
        read_table(frame)
    assert read_table(pd.read_csv(path, sep=";", decimal=",")).columns[1].kind == "number"


def test_empty_columns_are_accepted_and_said():
    with pytest.warns(UserWarning, match=r"\['b'\]"):
        table = read_table({"a": [1.0, 2.0], "b": [None, None]})
    assert table.cells[1].missing.all()


def test_constant_columns_are_standard():
    table = read_table({"a": [7.0, 7.0, 7.0], "b": [1e300, 1e300, -1e300]})
    assert table.standardised(0).tolist() == [0.0, 0.0, 0.0]
    assert np.isfinite(table.standardised(1)).all()


def test_duplicate_names_are_listed():
    frame = pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"])
    with pytest.raises(DataError, match=r"\['a'\]"):
        read_table(frame)


def test_no_rows(fitted):
    with pytest.raises(ValueError, match="0 sample"):
        Classifier(pretrain_steps=0).fit(FRAME[:0], [])
    assert fitted.predict_proba(FRAME[:0]).shape == (0, 2)
    assert fitted.predict(FRAME[:0]).shape == (0,)


def test_one_row_or_one_class():
    with pytest.raises(ValueError, match="one class"):
        Classifier(pretrain_steps=0).fit(FRAME, ["yes"] * 4)
    with pytest.raises(ValueError, match="one sample"):
        Regressor(pretrain_steps=0).fit(FRAME[:1], [1.0])
    assert Regressor(pretrain_steps=0).fit(FRAME[:2], [1.0, 2.0]).predict(FRAME).shape == (4,)


def test_large_whole_numbers_are_exact_text():
    large = 2**63 - 1
    table = read_table({"id": [large, large - 1]})
    assert table.cells[0].values() == [str(large), str(large - 1)]
    assert read_table(np.array([[large], [large - 1]])).cells[0].levels[0] == str(large)
    with pytest.warns(UserWarning, match="rounded"):
        read_table({"id": [large, 1]}, kinds={"id": "number"})


def test_mixed_objects_keep_numbers_as_numbers():
    with pytest.warns(UserWarning, match="mixes numbers and text") as said:
        table = read_table(pd.DataFrame({"m": [1, "two", None, 3.5, "nan"]}, dtype=object))
    assert table.cells[0].values() == [1.0, "two", None, 3.5, "nan"]
    assert len(said) == 1


def test_unseen_categories_are_predicted_and_counted(fitted):
    rows = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["never", "u", "never"]})
    assert np.isfinite(fitted.predict_proba(rows)).all()
    assert fitted.unseen(rows) == {"b": 2}
    assert fitted.unseen(FRAME) == {}


def test_hostile_text_is_text():
    texts = ["emoji 🦜", "tab\there", "'\"quotes\"'", "line\nbreak", "\x00"]
    assert read_table({"t": texts}).cells[0].values() == texts


def test_missing_and_extra_columns_by_name(fitted):
    with pytest.warns(UserWarning, match=r"missing: \['b'\]"):
        assert fitted.predict(FRAME[["a"]]).shape == (4,)
    wide = FRAME.assign(c=[1.0, 5.0, 2.0, 0.0])
    np.testing.assert_array_equal(fitted.predict_proba(wide), fitted.predict_proba(FRAME))
    strict = Classifier(pretrain_steps=0).fit(FRAME, LABELS)
    for frame in (FRAME[["a"]], wide, FRAME[["b", "a"]]):
        with pytest.raises(ValueError, match="feature names"):
            strict.predict(frame)


def test_reordered_columns_give_the_same(fitted):
    here, there = fitted.predict_proba(FRAME), fitted.predict_proba(FRAME[["b", "a"]])
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_names_of_several_types_are_refused_with_the_fix():
    with pytest.raises(DataError, match=r"columns\.map\(str\)"):
        read_table(pd.DataFrame([[1, 2]], columns=[0, "a"]))


def test_dates_become_numbers_that_are_named():
    stamps = pd.to_datetime(pd.Series(["2024-02-29 12:00:00", None]))
    table = read_table(pd.DataFrame({"t": stamps}))
    names = ["t year", "t month", "t day", "t weekday", "t seconds"]
    assert table.names == names
    assert [cells.values()[0] for cells in table.cells] == [2024.0, 2.0, 29.0, 3.0, 43200.0]
    assert all(cells.values()[1] is None for cells in table.cells)


def test_nullable_types():
    frame = pd.DataFrame(
        {"i": pd.array([2**53, None], "Int64"), "b": pd.array([True, None], "boolean")}
    )
    values = [cells.values() for cells in read_table(frame).cells]
    assert values == [[float(2**53), None], ["true", None]]
    objects = read_table(np.array([[pd.NA, "NaT"], [1, pd.NaT]], dtype=object))
    assert [cells.values() for cells in objects.cells] == [[None, 1.0], ["NaT", None]]


@pytest.mark.parametrize(
    ("kind", "y"),
    [
        (Regressor, [1.0, np.nan, 2.0, 3.0]),
        (Classifier, ["yes", None, "no", "yes"]),
        (Classifier, pd.array([1, None, 0, 1], "Int64")),
    ],
)
def test_gaps_in_the_target_are_refused_or_dropped(kind, y):
    with pytest.raises(ValueError, match=r"NaN\) in 1 of 4 rows.*drop_unlabelled"):
        kind(pretrain_steps=0).fit(FRAME, y)
    found = kind(pretrain_steps=0, random_state=0).fit(FRAME, y, drop_unlabelled=True)
    kept = [0, 2, 3]
    same = kind(pretrain_steps=0, random_state=0).fit(FRAME.iloc[kept], [y[i] for i in kept])
    np.testing.assert_array_equal(found.predict(FRAME), same.predict(FRAME))


def test_text_that_never_repeats_is_accepted():
    rows = {"t": [f"comment number {i} of many" for i in range(30)]}
    assert read_table(rows).describe()[0]["kind"] == "text"


def test_sparse_matrices_are_refused_with_the_fix():
    with pytest.raises(DataError, match="toarray"):
        read_table(csr_matrix(np.eye(3)))


@pytest.mark.parametrize("labels", [["a", "b"], [True, False], [0.5, 1.5], [7, 3]])
def test_labels_of_any_type_come_back_as_given(labels):
    y = np.array(labels * 2)
    y = y.astype(str) if y.dtype.kind == "f" else y
    found = Classifier(pretrain_steps=0, random_state=0).fit(FRAME, y).predict(FRAME)
    assert found.dtype == y.dtype
    assert set(found) <= set(y)


def test_huge_width_is_refused_before_memory():
    encoder = zoo.create("unitabe-small", depth=1, preprocess={"max_cells": 1000})
    encoder.preprocess.fit([{"table": read_table(FRAME)}])
    with pytest.raises(DataError, match="max_cells=1000"):
        encoder.embed(np.zeros((1, 1001)))


def test_nothing_warns_without_reason(fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.predict(FRAME)


ODD = {
    "all missing": [None, None, None, None],
    "constant": [7.0, 7.0, 7.0, 7.0],
    "huge": [2**63 - 1, 2**63 - 2, 2**63 - 3, 2**63 - 4],
    "mixed": pd.Series([1, "two", None, 3.5], dtype=object),
    "moment": pd.date_range("2024-02-28", periods=4),
    "nullable": pd.array([1, None, 3, 4], "Int64"),
    "truth": pd.array([True, None, False, True], "boolean"),
    "level": pd.Categorical(["p", "q", None, "p"]),
    "near-unique text": [f"comment number {i} of a person" for i in range(4)],
    "🦜 tab\t'quote'": ["a\tb", '"', "line\nbreak", "日本"],
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore:column")
def test_odd_columns_are_fitted_and_predicted(name):
    frame = FRAME.assign(**{name: ODD[name]})
    model = Classifier(pretrain_steps=0, random_state=0).fit(frame, LABELS)
    assert np.isfinite(model.predict_proba(frame)).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pd.DataFrame(np.ones((4, 2)), columns=["a", "a"]), "'a'"),
        (pd.DataFrame(np.ones((4, 2)), columns=[0, "a"]), "string names"),
        (csr_matrix(np.eye(4)), "toarray"),
        (np.array([[np.inf]] * 4), "infinity"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_estimators_too(rows, message):
    with pytest.raises(Exception, match=message) as caught:
        Classifier(pretrain_steps=0).fit(rows, LABELS)
    assert isinstance(caught.value, DataError | ValueError | TypeError)
