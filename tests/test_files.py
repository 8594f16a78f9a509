"""Digests that are remembered: of a file as it is, also when its clock cannot tell a change."""

import os
import time

from zoo import files
from zoo.files import sha256_of, sha256_once


def test_a_digest_is_computed_once_and_again_after_any_change(tmp_path, monkeypatch):
    path, computed = tmp_path / "weights", []
    monkeypatch.setattr(files, "sha256_of", lambda p: computed.append(p) or sha256_of(p))
    path.write_bytes(b"old")
    assert sha256_once(path) == sha256_once(path) == sha256_of(path)
    assert len(computed) == 2, "a file of this very moment may change without another time"
    monkeypatch.setattr(files, "_TICK", 0)
    for data in (b"old", b"new", b"longer"):
        path.write_bytes(data)
        os.utime(path, ns=(0, 0))  # as tools do that restore times
        computed.clear()
        time.sleep(0.05)  # some ticks of the clock
        assert sha256_once(path) == sha256_once(path) == sha256_of(path)
        assert len(computed) <= 1
