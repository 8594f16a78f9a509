"""Several processes of one run share one list of bad samples."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from zoo.data.quarantine import Bad, Quarantine
from zoo.errors import DataError


def bad(index, position, code="DECODE"):
    return Bad("a.tar", index, index, f"key-{index}", code, "no picture", 0, position, index + 1)


def positions(path):
    return sorted(json.loads(line)["position"] for line in path.read_text().splitlines())


def pair(tmp_path, most=0.9):
    return [Quarantine(tmp_path / "quarantine.jsonl", most=most, processes=2) for _ in range(2)]


def test_processes_add_to_one_file_and_know_of_each_other_after_resuming(tmp_path):
    one, other = pair(tmp_path)
    one.add([bad(1, 10)], 100)
    other.add([bad(2, 11), bad(3, 50, "CODEC")], 100)
    state = one.together([one.found, other.found])
    assert state == {"bad_ids": [1, 2, 3], "bad_counts": {"DECODE": 2, "CODEC": 1}}
    again = pair(tmp_path)
    for quarantine in again:
        quarantine.restore(state["bad_ids"], state["bad_counts"])
        quarantine.add([bad(2, 11)], 100)  # known
    again[0].trim(50)
    assert positions(tmp_path / "quarantine.jsonl") == [10, 11]
    again[1].add([bad(4, 60)], 100)
    assert positions(tmp_path / "quarantine.jsonl") == [10, 11, 60]
    # What was known before is counted once, not once a process.
    state = again[0].together([q.found for q in again])
    assert state == {"bad_ids": [1, 2, 3, 4], "bad_counts": {"DECODE": 3, "CODEC": 1}}


def test_no_line_is_torn_when_processes_write_at_once(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        writers = [
            pool.submit(quarantine.add, [bad(i * 1000 + n, n)], 10_000)
            for n in range(200)
            for i, quarantine in enumerate(pair(tmp_path))
        ]
        assert [writer.result() for writer in writers] == [None] * 400
    assert len(positions(tmp_path / "quarantine.jsonl")) == 400


def test_the_limit_is_the_share_of_what_this_process_reads(tmp_path):
    resumed, _ = pair(tmp_path, most=0.01)
    resumed.restore(range(38), {"DECODE": 38})  # 19 of them this process's, of 2,000
    resumed.add([bad(100, 4000)], 2000)
    with pytest.raises(DataError, match=r"21 of 2000 samples read are bad \(DECODE 40\)"):
        resumed.add([bad(101, 4001)], 2000)
