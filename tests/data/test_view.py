import hashlib
import io
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.selecting.view import View, nested, read_view, write_view
from zoo.errors import ConfigError, DataError, IntegrityError, UsageError, ZooError


def view(ids, repeats=None, **options):
    repeats = None if repeats is None else np.array(repeats, dtype=np.uint8)
    return View(ids=np.array(ids, dtype=np.uint64), repeats=repeats, **options)


def everything(v):
    return v.map(np.arange(len(v))).tolist()


def test_positions_name_samples():
    assert everything(view([3, 5, 9])) == [3, 5, 9]
    repeated = view([3, 5, 9], [2, 1, 3])
    assert len(repeated) == 6
    assert everything(repeated) == [3, 3, 5, 9, 9, 9]
    assert repeated.map(np.array([5, 0])).tolist() == [9, 3]


VIEWS = st.dictionaries(st.integers(0, 400), st.integers(1, 4), min_size=1, max_size=30)


@settings(deadline=None, max_examples=50, database=None)
@given(VIEWS, VIEWS)
def test_a_view_of_a_view_is_a_view(first, second):
    outer = view(sorted(first), [first[i] for i in sorted(first)], parents=("root",))
    second = {i % len(outer): count for i, count in second.items()}
    inner = view(sorted(second), [second[i] for i in sorted(second)], parents=(outer.fingerprint,))
    both = nested(outer, inner)
    assert everything(both) == outer.map(inner.map(np.arange(len(inner)))).tolist()
    assert both.parents == ("root", outer.fingerprint, inner.fingerprint)


def test_views_that_do_not_nest():
    outer = view([3, 5], parents=("root",))
    with pytest.raises(UsageError, match="position 2 of a view of 2"):
        nested(outer, view([2]))
    with pytest.raises(UsageError, match="not of"):
        nested(outer, view([1], parents=("another",)))
    with pytest.raises(UsageError, match="255 is the most"):
        nested(view([3], [20]), view(range(20), [13] * 20))


@pytest.mark.parametrize(
    ("ids", "repeats"), [([], None), ([2, 2], None), ([3, 1], None), ([1, 2], [1]), ([1], [0])]
)
def test_impossible_views(ids, repeats):
    with pytest.raises(ValueError, match="view"):
        view(ids, repeats)


def test_the_fingerprint_is_of_the_samples():
    first = view([1, 2], parents=("root",), seed=1)
    assert first.fingerprint == view([1, 2], parents=("root", "more"), seed=2).fingerprint
    others = [view([1, 3]), view([1, 2], [1, 1]), view([1, 2], parents=("toor",))]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "good.view.toml"
    written = view(
        [3, 5, 2**40],
        [1, 2, 255],
        parents=("root",),
        parameters={"selector": "TopK", "inner": {"budget": 3, "temperature": 0.5}},
        seed=7,
        counts={"samples": 10, "kept": 3},
        kept={"a b": 0.25, "ö": 1.0},
    )
    write_view(written, path)
    return path, written


def test_saved_and_read_again(saved):
    path, written = saved
    again = read_view(path)
    assert everything(again) == everything(written)
    for name in ("parents", "parameters", "seed", "counts", "kept", "fingerprint"):
        assert getattr(again, name) == getattr(written, name), name
    assert {file.name for file in path.parent.iterdir()} == {"good.view.toml", "good.view.npz"}
    write_view(replace(written, repeats=None), path)
    assert read_view(path).repeats is None


def test_other_ids_are_noticed(saved):
    path, _ = saved
    arrays = path.with_suffix(".npz")
    content = bytearray(arrays.read_bytes())
    content[200] ^= 1
    arrays.write_bytes(content)
    with pytest.raises(IntegrityError, match="expected sha256"):
        read_view(path)
    arrays.unlink()
    with pytest.raises(DataError, match=r"good\.view\.npz"):
        read_view(path)


def test_names_and_parents_are_asked_for(tmp_path):
    with pytest.raises(UsageError, match=r"\.view\.toml"):
        write_view(view([1], parents=("root",)), tmp_path / "a.toml")
    with pytest.raises(UsageError, match="which data set"):
        write_view(view([1]), tmp_path / "a.view.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_view(tmp_path / "none.view.toml")
    assert not list(tmp_path.iterdir())


def swap(path, content):
    """Puts other bytes there, with the digest that belongs to them."""
    path.with_suffix(".npz").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    path.write_text(re.sub(r'sha256 = "\w+"', f'sha256 = "{digest}"', path.read_text()))


def packed(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def claimed(header):
    """An array that says of itself what its header says, and holds nothing."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        text = header.ljust(117).encode() + b"\n"
        archive.writestr("ids.npy", b"\x93NUMPY\x01\x00" + bytes([118, 0]) + text)
    return file.getvalue()


IDS = np.arange(4, dtype=np.uint64)
HOSTILE = {
    "not a zip": b"<html>",
    "objects": packed(ids=np.array([{}], dtype=object)),
    "compressed": packed(np.savez_compressed, ids=np.arange(10_000, dtype=np.uint64)),
    "other arrays": packed(ids=IDS, extra=IDS),
    "no ids": packed(repeats=np.ones(4, dtype=np.uint8)),
    "other type": packed(ids=IDS.astype(np.int64)),
    "two dimensions": packed(ids=IDS.reshape(2, 2)),
    "descending": packed(ids=IDS[::-1].copy()),
    "repeats of others": packed(ids=IDS, repeats=np.ones(3, dtype=np.uint8)),
    "huge": claimed("{'descr': '<u8', 'fortran_order': False, 'shape': (1152921504606846976,), }"),
    "negative": claimed("{'descr': '<u8', 'fortran_order': False, 'shape': (-1,), }"),
    "nonsense": claimed("{'descr': '<u8', "),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line(saved, name):
    path, _ = saved
    swap(path, HOSTILE[name])
    with pytest.raises(DataError, match=r"good\.view\.npz: not a view") as caught:
        read_view(path)
    assert "\n" not in str(caught.value)


def test_any_damage_is_an_error_of_ours(saved):
    path, written = saved
    whole = path.with_suffix(".npz").read_bytes()
    chance = np.random.RandomState(0)
    for _ in range(200):
        content = bytearray(whole)
        for place in chance.randint(len(content), size=3):
            content[place] = chance.randint(256)
        swap(path, bytes(content[: chance.choice([len(content), chance.randint(len(content))])]))
        try:
            again = read_view(path)
        except ZooError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert len(again.ids) == len(written.ids)
