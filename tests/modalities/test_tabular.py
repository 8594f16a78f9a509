import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.contracts import to_device
from zoo.modalities.tables import MISSING, take_cells
from zoo.modalities.tabular.codec import TabularCodec
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.table import concatenate
from zoo.modalities.tabular.words import Words

import zoo
from zoo.errors import DataError, UsageError

FLOWERS = {
    "petal length": [1.4, 4.7, None, 5.1, 2.2],
    "colour": ["red", None, "Deep Blue", "", "red"],
    "wild": [True, False, None, True, True],
}
CITIES = {"city": ["São Paulo", "Ulm 🏰"], "people": [12_400_000, 129_000]}
FORMS = {
    "small": {},
    "pieces": {"tokens": "pieces"},
    "paper": {"tokens": "pieces", "numbers": "digits", "pool": "cls"},
    "plr": {"numbers": "plr"},
    "ple": {"numbers": "ple"},
}


@pytest.fixture(params=FORMS)
def encoder(request):
    encoder = zoo.create("unitabe-small", seed=0, depth=2, **FORMS[request.param])
    encoder.preprocess.fit([{"table": read_table(t)} for t in (FLOWERS, CITIES)])
    return encoder.eval()


def pooled(encoder, *tables):
    batch = encoder.preprocess.collate([encoder.preprocess(table) for table in tables])
    with torch.no_grad():
        return encoder(to_device(batch, torch.device("cpu"))).pooled.numpy()


def test_packed_equals_alone_whatever_the_neighbours(encoder):
    flowers, cities = read_table(FLOWERS), read_table(CITIES)
    together = pooled(encoder, flowers, cities)
    alone = [
        pooled(encoder, t.take(np.array([i]))) for t in (flowers, cities) for i in range(t.rows)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-5)
    back = pooled(encoder, cities, flowers)
    np.testing.assert_allclose(back[:2], together[5:], rtol=1e-5, atol=1e-5)


def test_order_of_columns_does_not_matter(encoder):
    table = read_table(FLOWERS)
    turned = table.pick(table.names[::-1])
    np.testing.assert_allclose(pooled(encoder, table), pooled(encoder, turned), atol=1e-5)


def test_names_and_values_matter(encoder):
    table = read_table(FLOWERS)
    other = table.rename({"petal length": "colour", "colour": "petal length"})
    assert np.abs(pooled(encoder, table) - pooled(encoder, other)).max() > 1e-3
    assert np.abs(pooled(encoder, table)[0] - pooled(encoder, table)[4]).max() > 1e-4


def test_gradients_agree_packed_and_alone(encoder):
    table = read_table(FLOWERS)
    found = []
    for parts in ([table], [table.take(np.array([i])) for i in range(table.rows)]):
        encoder.zero_grad()
        for part in parts:
            encoder(
                encoder.preprocess.collate([encoder.preprocess(part)])
            ).pooled.square().sum().backward()
        found.append(encoder.cls_token.grad.clone())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_row_without_cells_is_the_class_token_alone(encoder):
    batch = encoder.preprocess.collate([encoder.preprocess(FLOWERS)])
    bare = take_cells(batch, torch.zeros(len(batch["cell_value"]), dtype=torch.bool))
    some = take_cells(batch, torch.arange(len(batch["cell_value"])) >= 3)
    out, mixed = encoder(bare).pooled, encoder(some).pooled
    assert out.isfinite().all()
    torch.testing.assert_close(out[0], out[1])
    torch.testing.assert_close(mixed[0], out[0], rtol=1e-5, atol=1e-5)


def test_unseen_strings_and_columns_have_vectors(encoder):
    rows = encoder.embed({"hue": ["ochre", "teal", "日本"], "height": [1.0, None, 3.0]})
    assert rows.shape == (3, 64)
    assert np.isfinite(rows).all()
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


def test_rows_of_several_tables_follow_one_another(encoder):
    both = encoder.embed([FLOWERS, CITIES])
    np.testing.assert_array_equal(both, np.vstack([encoder.embed(t) for t in (FLOWERS, CITIES)]))
    assert encoder.embed([]).shape == (0, 64)


def test_statistics_come_from_the_table_they_were_fitted_on(encoder):
    table = read_table({"a": [0.0, 10.0, 20.0]})
    one = read_table({"a": [10.0]}).like(table.columns)
    assert one.standardised(0)[0] == 0.0
    assert encoder.embed({"a": [20.0]}, columns=table.columns).shape == (1, 64)
    far = read_table({"a": [1e9]}).like(table.columns)
    clipped = encoder.preprocess(far)["cell_number"]
    assert clipped.abs().max() <= encoder.preprocess.config.clip


def test_all_inputs_say_the_same(tmp_path):
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = pd.DataFrame(CITIES)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_feather(tmp_path / "a.feather")
    want = [cells.values() for cells in read_table(CITIES).cells]
    sources = [frame, frame.set_index(pd.Index(["p", "q"])), pl.DataFrame(CITIES)]
    sources += [tmp_path / f"a.{kind}" for kind in ("csv", "parquet", "feather")]
    for source in sources:
        table = read_table(source)
        assert table.names == ["city", "people"]
        assert [cells.values() for cells in table.cells] == want
    numbers = read_table(np.array([[1, 2], [3, 4]]))
    assert numbers.names == ["x0", "x1"]


def test_report_kinds_and_overrides():
    texts = [f"a long sentence of words number {i}" for i in range(20)]
    table = read_table(
        {"zip": [12345] * 20, "note": texts, "ok": [True, None] * 10}, kinds={"zip": "category"}
    )
    report = {row["name"]: row for row in table.describe()}
    assert [row["kind"] for row in report.values()] == ["category", "text", "boolean"]
    assert report["zip"]["example"] == "12345"
    assert report["ok"]["missing"] == 0.5
    with pytest.raises(UsageError, match="not there"):
        read_table(CITIES, kinds={"town": "text"})


cells = st.one_of(
    st.lists(st.one_of(st.none(), st.floats(-1e12, 1e12)), min_size=3, max_size=3),
    st.lists(st.one_of(st.none(), st.text(max_size=8)), min_size=3, max_size=3),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=3, max_size=3),
)


@settings(deadline=None, max_examples=40, database=None)
@given(st.dictionaries(st.text(min_size=1, max_size=6), cells, min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore:column")
def test_blocks_round_trip(columns):
    table = read_table(columns)
    members = TabularCodec().encode({"table": table})
    again = TabularCodec("zstd").decode(TabularCodec("zstd").encode({"table": table}))["table"]
    assert TabularCodec().decode(members)["table"].columns == table.columns == again.columns
    for one, other in zip(table.cells, again.cells, strict=True):
        assert one.values() == other.values()
        assert one.whole == other.whole


@settings(deadline=None, max_examples=60, database=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
def test_damaged_blocks_are_data_errors(place, value, length):
    data = bytearray(TabularCodec().encode({"table": read_table(FLOWERS)})["arrow"])
    data[place % len(data)] = value
    for broken in (bytes(data), bytes(data[: length % len(data)])):
        with suppress(DataError):  # anything else fails the test
            TabularCodec().decode({"arrow": broken})


def test_a_label_belongs_to_one_row():
    codec, table = TabularCodec(), read_table(CITIES)
    members = codec.encode({"table": table.take(np.array([1])), "label": 3})
    assert codec.decode(members)["label"] == 3
    with pytest.raises(DataError, match="of one row, this block has 2"):
        codec.decode(codec.encode({"table": table, "label": 3}))


def test_blocks_of_other_writers_are_read():
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    block = pa.table(CITIES)
    with pa.ipc.new_stream(sink, block.schema) as writer:
        writer.write_table(block)
    table = TabularCodec().decode({"arrow": sink.getvalue().to_pybytes()})["table"]
    assert table.cells[0].values() == CITIES["city"]
    assert table.columns[1].mean == pytest.approx(np.mean(CITIES["people"]))


def test_concatenated_tables_keep_their_values():
    table = read_table(FLOWERS)
    parts = [table.take(np.array([i])) for i in range(table.rows)]
    joined = concatenate(parts)
    assert [c.values() for c in joined.cells] == [c.values() for c in table.cells]
    with pytest.raises(DataError, match="different columns"):
        concatenate([table, read_table(CITIES)])


def test_vocabulary_is_the_same_in_every_process():
    code = (
        "from zoo.modalities.tabular.words import Words; import hashlib;"
        "words = Words.train({f'word{i} of {i % 7}' for i in range(500)}, 400);"
        "print(hashlib.sha256(words.to_bytes()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    words = Words.train(["Naïve cafés", "red"], 400)
    assert words.pieces("NAIVE red") == ["naive", "red"]
    assert min(words.encode(["[MASK]"], 9)[0]) > Words.mask_id
    assert Words.from_bytes(words.to_bytes()).encode(["reds"], 9) == words.encode(["reds"], 9)
    with pytest.raises(DataError):
        Words.from_bytes(b"{}")


def test_missing_is_not_hidden(encoder):
    batch = encoder.preprocess.collate([encoder.preprocess(FLOWERS)])
    hidden = batch | {"cell_value": batch["cell_value"].where(batch["cell_value"] != MISSING, 1)}
    assert (encoder(batch).pooled - encoder(hidden).pooled).abs().max() > 1e-4


def test_rolled_pieces_tell_their_order():
    mirrored = read_table({"pixel 1 2": [1.0], "pixel 2 1": [2.0]})
    gaps = {}
    for order in ("added", "rolled"):
        encoder = zoo.create("unitabe-small", seed=0, order=order)
        encoder.preprocess.fit([{"table": mirrored}])
        batch = encoder.preprocess(mirrored)
        with torch.no_grad():
            one, two = encoder.unit.columns(batch["names"], batch["types"])
        gaps[order] = float((one - two).norm() / one.norm())
    assert gaps["rolled"] > 0.5 > 0.1 > gaps["added"]
