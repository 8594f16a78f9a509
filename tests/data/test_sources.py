import csv
import json
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.building.build import build_shards
from zoo.data.building.folders import folder_source
from zoo.data.building.rows import table_source
from zoo.data.building.sources import clean_key
from zoo.data.shard.write import write_shard
from zoo.errors import DataError, UnknownNameError, UsageError


def content(source):
    """Every sample, read the way a worker reads it."""
    places = pickle.loads(pickle.dumps(source.places.part(np.arange(len(source.sizes)))))
    return [(item.key, item.read()) for item in places]


def put(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def save_table(path, rows):
    if path.suffix == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        pa = pytest.importorskip("pyarrow")
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".jsonl":
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            dialect = "excel-tab" if path.suffix == ".tsv" else "excel"
            writer = csv.DictWriter(file, rows[0], dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
    return path


def test_files_that_share_a_name_are_one_sample(tmp_path):
    files = {"b/2.jpg": "x", "b/2.seg.PNG": "y", "a.x/1.txt": "z", "a-1.txt": "q", "a.txt": "r"}
    put(tmp_path, files | {"README": "", ".hidden.txt": "", ".git/config.txt": ""})
    (tmp_path / "link").symlink_to(tmp_path / "b")
    os.mkfifo(tmp_path / "pipe.txt")
    put(tmp_path / "out", {"00000.tar": ""})
    source = folder_source(tmp_path, exclude=tmp_path / "out")
    assert content(source) == [
        ("a", {"txt": b"r"}),
        ("a-1", {"txt": b"q"}),
        ("a.x/1", {"txt": b"z"}),
        ("b/2", {"jpg": b"x", "seg.png": b"y"}),
    ]
    left_out = {"hidden": 2, "no_extension": 1, "no_file": 1, "linked_folder": 1, "shards": 1}
    assert source.facts["left_out"] == left_out
    assert source.sizes.tolist() == [1024, 1024, 1024, 2048]


def test_folders_name_classes(tmp_path):
    put(tmp_path, {"train/dog/1.jpg": "a", "train/cat/1.jpg": "b", "more/dog/2.jpg": "c"})
    source = folder_source(tmp_path, label_from_folder=True)
    assert list(source.classes) == ["cat", "dog"]
    assert [members["cls"] for _, members in content(source)] == [b"1", b"0", b"1"]
    put(tmp_path, {"3.jpg": "d"})
    with pytest.raises(UsageError, match="no folder that could name their class"):
        folder_source(tmp_path, label_from_folder=True)


def test_bad_files_are_named_or_listed(tmp_path):
    put(tmp_path, {"1.jpg": "a", "2.jpg": "b", "2.JPG": "c"})
    (tmp_path / "3.jpg").symlink_to(tmp_path / "gone")
    with (tmp_path / "4.jpg").open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(DataError, match=r"^2: two of its files have one extension; .*--skip-bad"):
        folder_source(tmp_path)
    source = folder_source(tmp_path, skip=True)
    assert [key for key, _ in content(source)] == ["1"]
    bad = [("2", "DUP_PART"), ("3", "IO"), ("4", "TOO_LARGE")]
    assert [(row["where"], row["code"]) for row in source.bad.rows] == bad


def test_what_is_listed_decides_the_digest_and_times_the_stamp(tmp_path):
    put(tmp_path, {"1.jpg": "a"})
    first = folder_source(tmp_path)
    os.utime(tmp_path / "1.jpg", ns=(5, 5))
    touched = folder_source(tmp_path)
    assert touched.facts == first.facts
    assert touched.stamp != first.stamp
    put(tmp_path, {"1.jpg": "ab"})
    assert folder_source(tmp_path).facts != first.facts


ROWS = [
    {"path": "i/0.jpg", "caption": 'one, "two"\nthree', "label": "3"},
    {"path": "i/1.jpg", "caption": "dö", "label": "4"},
    {"path": "i/0.jpg", "caption": "", "label": "5"},
]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(tmp_path, suffix):
    put(tmp_path, {"i/0.jpg": "zero", "i/1.jpg": "eins"})
    path = save_table(tmp_path / f"t.{suffix}", ROWS)
    source = table_source(path, members={"jpg": "@path", "txt": "caption", "cls": "label"})
    expected = [
        ("000000000", {"jpg": b"zero", "txt": b'one, "two"\nthree', "cls": b"3"}),
        ("000000001", {"jpg": b"eins", "txt": "dö".encode(), "cls": b"4"}),
        ("000000002", {"jpg": b"zero", "txt": b"", "cls": b"5"}),
    ]
    assert content(source) == expected
    backwards = source.places.part(np.array([2, 0, 1]))
    assert [(item.key, item.read()) for item in backwards] == [expected[i] for i in (2, 0, 1)]
    whole = content(table_source(path, key="label"))
    assert [key for key, _ in whole] == ["3", "4", "5"]
    assert [set(members) for _, members in whole] == [{"json", "jpg"}] * 3
    assert [json.loads(members["json"]) for _, members in whole] == ROWS
    with pytest.raises(UnknownNameError, match="did you mean caption"):
        table_source(path, members={"txt": "captoin"})


def test_a_column_names_the_classes(tmp_path):
    rows = [{"name": "1", "species": name} for name in ("wren", "robin", " wren", "")]
    path = save_table(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=r"row 3: nothing in column 'species'; .*--skip-bad"):
        table_source(path, members={"txt": "name"}, label="species")
    source = table_source(path, members={"txt": "name"}, label="species", skip=True)
    assert list(source.classes) == ["robin", "wren"]
    assert [members["cls"] for _, members in content(source)] == [b"1", b"0", b"1"]
    with pytest.raises(UnknownNameError, match=r"did you mean species\? \(t.csv begins .*: name, "):
        table_source(path, label="specis")
    path.write_text("name;species\n1;wren\n")
    with pytest.raises(UsageError, match=r"t\.csv: its cells are separated by semicolons"):
        table_source(path, label="species")


def refuse(members):
    raise DataError("odd")


def test_where_all_samples_are_bad_the_first_says_why(tmp_path):
    path = save_table(tmp_path / "t.csv", [{"name": "1", "species": " "}])
    with pytest.raises(
        UsageError, match=r"1 cannot be used, the first is t\.csv, row 0: nothing in"
    ):
        table_source(path, label="species", skip=True)
    source = table_source(path, skip=True)
    with pytest.raises(UsageError, match=r"all .* bad, the first is t\.csv, row 0: odd"):
        build_shards(source, tmp_path / "out", measure=refuse, workers=0)


def test_columns_that_are_only_named_like_files(tmp_path):
    path = save_table(tmp_path / "t.jsonl", [{"image": "x" * 5000, "audio": "\0", "path": ""}])
    assert [set(members) for _, members in content(table_source(path))] == [{"json"}]


def test_parquet_cells_of_other_types(tmp_path):
    image = {"bytes": b"\xff\0", "path": None}
    rows = [{"image": image, "label": 3, "tags": ["a"], "score": 0.5}]
    path = save_table(tmp_path / "t.parquet", rows)
    members = {"jpg": "image.bytes", "cls": "label", "tags.json": "tags", "score": "score"}
    parts = {"jpg": b"\xff\0", "cls": b"3", "tags.json": b'["a"]', "score": b"0.5"}
    assert content(table_source(path, members=members)) == [("000000000", parts)]
    with pytest.raises(UsageError, match="name the members"):
        table_source(path)
    with pytest.raises(DataError, match=r"row 0: nothing in column 'image\.path'"):
        table_source(path, members={"jpg": "@image.path"})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="not a readable Parquet"):
        table_source(path)


def test_bad_rows_are_named_or_listed(tmp_path):
    put(tmp_path, {"0.jpg": "a", "t.jsonl": '{"a": 1}\n{"a": \n[]\n{"b": 2}\n{"a": NaN}\n{"a": 7}'})
    source = table_source(tmp_path / "t.jsonl", members={"txt": "a"}, skip=True)
    assert content(source) == [("000000000", {"txt": b"1"}), ("000000005", {"txt": b"7"})]
    bad = ["DECODE", "DECODE", "MISSING_PART", "NONFINITE"]
    assert [row["code"] for row in source.bad.rows] == bad
    (tmp_path / "t.csv").write_bytes(
        b'p,a\n0.jpg,x\n0.jpg\n1.jpg,y\n0.jpg,\xff\n"0".jpg,z\n0.jpg,q'
    )
    members = {"jpg": "@p", "txt": "a"}
    with pytest.raises(DataError, match=r"t\.csv, row 1: 1 cells instead of 2"):
        table_source(tmp_path / "t.csv", members=members)
    source = table_source(tmp_path / "t.csv", members=members, skip=True)
    assert [key for key, _ in content(source)] == ["000000000", "000000005"]
    assert [row["where"] for row in source.bad.rows] == [f"t.csv, row {i}" for i in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "name", ["../secret.txt", "/etc/passwd", "in/../../secret.txt", "way.txt", "a\0b"]
)
def test_a_table_names_no_file_outside_its_folder(tmp_path, name):
    put(tmp_path, {"secret.txt": "s", "d/in/x": ""})
    (tmp_path / "d" / "way.txt").symlink_to(tmp_path / "secret.txt")
    path = save_table(tmp_path / "d" / "t.jsonl", [{"path": name}])
    with pytest.raises(DataError, match="row 0") as caught:
        table_source(path, members={"txt": "@path"})
    assert caught.value.code == "UNSAFE_NAME"
    if "\0" not in name:
        source = table_source(path, members={"txt": "@path"}, allow_outside=True)
        assert content(source)[0][1]["txt"]


def test_a_table_that_changes_later_is_refused(tmp_path):
    path = save_table(tmp_path / "t.csv", ROWS)
    source = table_source(path, members={"txt": "caption"})
    path.write_text("path,caption,label\na,b,c\n")
    with pytest.raises(DataError, match="has changed"):
        content(source)


def test_wrong_requests_are_one_line(tmp_path):
    put(tmp_path, {"t.csv": "a,a\n", "e.csv": "", "h.csv": "a,b\n", "t.jsonl": "", "t.xls": ""})
    wrong = [
        ("t.csv", "each once"),
        ("e.csv", "must name"),
        ("h.csv", "no samples"),
        ("t.jsonl", "no JSON"),
    ]
    for name, message in [*wrong, ("t.xls", "a table is one of")]:
        with pytest.raises(UsageError, match=message):
            table_source(tmp_path / name)
    with pytest.raises(DataError, match="cannot read it"):
        table_source(tmp_path / "none.csv")
    for extension in ("", "a/b", "JPG", "*"):
        with pytest.raises(UsageError, match="of the form"):
            table_source(tmp_path / "h.csv", members={extension: "a"})
    with pytest.raises(UsageError, match="a folder of their own"):
        folder_source(tmp_path, exclude=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no samples"):
        folder_source(tmp_path / "empty")


@settings(deadline=None, max_examples=10, database=None)
@given(st.lists(st.text(max_size=12) | st.text(alphabet="./\\_:-a ", max_size=8), min_size=20))
def test_any_text_makes_a_key_that_can_be_written(texts):
    keys = {clean_key(text) for text in texts}
    with tempfile.TemporaryDirectory() as folder:
        row = write_shard(Path(folder, "x.tar"), [(key, {"txt": b""}) for key in keys])
    assert row.samples == len(keys)
