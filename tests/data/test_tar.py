import io
import os
import subprocess
import tarfile
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.shard.index import ShardIndex
from zoo.data.shard.indexing import build_index, index_of
from zoo.data.shard.opened import Arenas, OpenShard
from zoo.data.shard.tar import header, name_at, padding, scan
from zoo.data.shard.write import write_shard
from zoo.errors import DataError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
names = st.text(st.characters(exclude_characters="./\\\0", exclude_categories=["Cs", "Cc"]),
                min_size=1, max_size=150)  # fmt: skip


def archive(members, kind=tarfile.PAX_FORMAT, mtime=0):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def scanned(data):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return scan(file.fileno(), len(data))


@settings(deadline=None, max_examples=60, database=None)
@given(
    members=st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=6),
    kind=st.sampled_from(FORMATS),
    mtime=st.sampled_from([0, 1.5]),
)
def test_members_are_those_of_tarfile(members, kind, mtime):
    if kind == tarfile.USTAR_FORMAT:
        members = [(name[:40], data) for name, data in members if name.isascii()]
    data = archive(members, kind, mtime)
    found = scanned(data)
    assert not found.breaks
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        want = [(info.name, info.offset_data, info.size) for info in tar]
    assert [(m.name.decode(), m.offset, m.size) for m in found.members] == want


@settings(deadline=None, max_examples=60, database=None)
@given(name=names, size=st.integers(0, 3000))
def test_written_members_are_read_by_tarfile(name, size):
    data = header(f"{name}.bin", size) + b"x" * size + padding(size)
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as tar:
        [info] = tar.getmembers()
        assert (info.name, info.size, info.mtime) == (f"{name}.bin", size, 0)
        assert tar.extractfile(info).read() == b"x" * size
    [member] = scanned(data + bytes(1024)).members
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert name_at(file.fileno(), member.start).decode() == f"{name}.bin"


def test_written_members_are_read_by_tar(tmp_path):
    samples = [("a/" + "long" * 60, {"txt": b"1"}), ("ключ-é", {"txt": b"2", "cls": b"3"})]
    write_shard(tmp_path / "s.tar", samples)
    shown = subprocess.run(
        ["tar", "tf", tmp_path / "s.tar", "--quoting-style=literal"],
        capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"},
    ).stdout.decode().split()  # fmt: skip
    assert shown == ["a/" + "long" * 60 + ".txt", "ключ-é.cls", "ключ-é.txt"]


WHOLE = archive([(f"s{i}.{e}", bytes([i + 1]) * 700) for i in range(4) for e in ("a", "b")])


@settings(deadline=None, max_examples=400, database=None)
@given(
    cut=st.integers(0, len(WHOLE)),
    flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), max_size=4),
    zeroed=st.integers(-1, len(WHOLE) // 512),
)
def test_no_damage_is_silent_or_gives_a_partial_sample(cut, flips, zeroed):
    """Whatever happens to the bytes: samples are whole, or a code says what is wrong."""
    data = bytearray(WHOLE)
    if zeroed >= 0:
        data[512 * zeroed : 512 * (zeroed + 1)] = bytes(len(data[512 * zeroed :][:512]))
    for place, change in flips:
        data[place] ^= change
    data = bytes(data[:cut])
    found = scanned(data)
    index = index_of(found, len(data))
    again = ShardIndex.from_bytes(index.to_bytes())
    assert again is not None
    assert again.facts == index.facts
    headers_are_whole = all(
        data[p : p + 512] == WHOLE[p : p + 512] for p in range(0, len(WHOLE), 512)
        if not WHOLE[p : p + 512].isalnum() and p % 1536 == 0
    )  # fmt: skip
    good = [i for i in range(len(index)) if index.code[i] == 0]
    for i in good:
        rows = range(index.rows[i], index.rows[i + 1])
        assert all(int(index.offset[r]) + int(index.size[r]) <= len(data) for r in rows)
        if headers_are_whole:
            assert len(rows) == 2
    if len(good) < 4:
        assert index.facts.events


def test_indexes_survive_storing_and_refuse_damage(tmp_path):
    write_shard(tmp_path / "s.tar", [(f"{i}", {"txt": b"x" * i}) for i in range(1, 9)])
    index = build_index(tmp_path / "s.tar")
    stored = index.to_bytes()
    assert ShardIndex.from_bytes(stored) is not None
    for place in range(0, len(stored), 7):
        damaged = bytearray(stored)
        damaged[place] ^= 1
        found = ShardIndex.from_bytes(bytes(damaged))
        assert found is None or found.to_bytes() == stored, place  # some header bytes say nothing
    for cut in range(0, len(stored), 11):
        assert ShardIndex.from_bytes(stored[:cut]) is None


@pytest.mark.parametrize("field", ["offset", "size", "rows", "extension", "code"])
def test_an_index_that_leads_out_of_its_file_is_refused(tmp_path, field):
    """A stranger can make the digest fit."""
    write_shard(tmp_path / "s.tar", [("a", {"txt": b"x"}), ("b", {"txt": b"y"})])
    index = build_index(tmp_path / "s.tar")
    getattr(index, field)[-1] = 60_000 if field != "code" else 99
    assert ShardIndex.from_bytes(index.to_bytes()) is None


def test_checksums_notice_what_headers_cannot(tmp_path):
    path = tmp_path / "s.tar"
    write_shard(path, [("a", {"txt": b"right"}), ("b", {"txt": b"fine!"})])
    index = ShardIndex.from_bytes((tmp_path / "s.tar.zidx").read_bytes())
    path.write_bytes(path.read_bytes().replace(b"right", b"wrong"))
    shard = OpenShard(path, index)
    found = dict(shard.read(np.arange(2), np.arange(2), Arenas(), check=True))
    assert isinstance(found[0], DataError)
    assert found[0].code == "CHECKSUM"
    assert bytes(found[1]["txt"]) == b"fine!"
    shard.close()


def test_memory_is_used_again_only_when_nobody_holds_it():
    arenas = Arenas()
    first, second = arenas.take(10), arenas.take(10)
    first[:], second[:] = b"a" * 10, b"b" * 10
    held = first[2:5]
    del first, second
    third, fourth = arenas.take(10), arenas.take(10)
    third[:], fourth[:] = b"c" * 10, b"d" * 10
    assert bytes(held) == b"aaa"


def test_scattered_samples_are_whole(tmp_path):
    path = tmp_path / "s.tar"
    parts = [(f"{k}.{e}", f"{k}{e}".encode()) for e in ("txt", "cls") for k in range(5)]
    path.write_bytes(archive(parts))
    index = build_index(path)
    shard = OpenShard(path, index)
    found = dict(shard.read(np.array([4, 0, 2]), np.arange(3), Arenas(), check=False))
    assert {e: bytes(d) for e, d in found[0].items()} == {"txt": b"4txt", "cls": b"4cls"}
    assert [event.code for event in index.facts.events] == ["NONCONTIGUOUS"]
    shard.close()


def test_absurd_numbers_are_no_crash():
    """A size of 80 bits, and more extensions than anybody has."""
    huge = bytearray(header("a.txt", 1))
    huge[124:136] = b"\x80" + b"\xff" * 11
    huge[148:156] = b"        "
    huge[148:156] = b"%06o\0 " % sum(huge)
    data = bytes(huge) + b"x".ljust(512, b"\0")
    index = index_of(scanned(data), len(data))
    assert [event.code for event in index.facts.events] == ["TRUNCATED"]
    assert not (index.code == 0).any()
    many = b"".join(header(f"a.{i:x}", 0) for i in range(66_000)) + header("b.0", 0)
    many += bytes(1024)
    index = index_of(scanned(many), len(many))
    assert [int(code != 0) for code in index.code] == [1, 0]


def test_a_source_that_fails_is_not_the_disk(tmp_path):
    def broken():
        yield "a", {"txt": b"1"}
        raise FileNotFoundError(2, "No such file", "gone.txt")

    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        write_shard(tmp_path / "s.tar", broken())
    assert not list(tmp_path.iterdir())
