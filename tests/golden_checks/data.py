"""Checkers of the part `data`."""

import os
import re
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import numpy as np

from golden_checks.decode import decode_events
from zoo.data.listing import ShardName
from zoo.data.order import Order, key, mix, perm
from zoo.data.shard.verify import verify_shard
from zoo.data.shards import ShardSet
from zoo.errors import DataError, UsageError


def order_vectors(fixture):
    vectors = fixture.sidecar["primitives"]
    with np.errstate(over="ignore"):
        for case in vectors["mix64"]:
            assert int(mix(np.array([int(case["x"])], dtype=np.uint64))[0]) == int(case["y"])
        for case in vectors["key"]:
            assert int(key(*case["args"])[0]) == int(case["key"])
        for case in vectors["perm"]:
            n, k = np.uint64(case["n"]), key(*case["key_args"])
            forth = perm(np.arange(case["n"], dtype=np.uint64), n, k)
            assert forth.tolist() == case["perm"]
            assert perm(forth, n, k, inverse=True).tolist() == list(range(case["n"]))
    for case in fixture.sidecar["order"]:
        order = Order(
            samples=case["M"], block=case["b"], pool=case["P"], lanes=case["C"], seed=case["seed"]
        )
        assert order.ids(np.array(case["positions"])).tolist() == case["sample_ids"]


def expected(fixture):
    """What is read of whole, damaged and hostile shards, and what is said about them."""
    with _copied(fixture.path.parent / "shards") as folder:
        for case in fixture.sidecar["fixtures"]:
            path = folder.parent / case["file"]
            assert sha256(path.read_bytes()).hexdigest() == case["sha256"], case["file"]
            _check_shard(case, path)
            for other in [case.get("read_together_with")] if "read_together_with" in case else []:
                whole = next(c for c in fixture.sidecar["fixtures"] if c["file"] == other)
                _check_pair(case, path, whole, folder.parent / other)
    assert "ZOO_CANARY" not in os.environ


@contextmanager
def _copied(shards):
    """Indexes are written beside shards: not into the repository."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(shards, Path(folder) / "shards"))


def _check_shard(case, path):
    want, what = case["expected"], case["file"]
    schema = re.search(r"schema: ([\w, .]+?) required", case["what"])
    require = schema[1].split(", ") if schema else []
    report = verify_shard(ShardName(str(path)), require=require, read=False)
    assert report.status == want["shard_status"], what
    stored = [e for e in want["events"] if "when" not in e and "only_if" not in e]
    assert Counter({(e.code, e.sample): e.count for e in report.events}) == Counter(
        {(e["code"], e.get("sample")): e.get("count", 1) for e in stored}
    ), what
    samples = _samples([path], require)
    names = [[name, sorted(members)] for name, members in samples]
    assert all(sample in names for sample in want["samples_required"]), what
    assert all(sample in want["samples_allowed"] for sample in names), what
    _check_bytes(case, samples)
    decoding = {
        (name, e["code"])
        for e in want["events"]
        if e.get("when") == "decode"
        for name in e["samples"]
    }
    # Bit rot may be noticed by a decoder or not.
    rotten = {e["sample"] for e in want["events"] if "only_if" in e}
    found = {event for event in decode_events(samples) if event[0] not in rotten}
    assert found == decoding, what


def _samples(paths, require=()):
    """[(key, members)] that a training run would read."""
    try:
        shards = ShardSet(paths, require=require, allow_missing=True)
    except UsageError:
        return []
    found = []
    for i in range(len(shards)):
        with suppress(DataError):
            found.append((shards.key(i), shards.read(i)))
    return found


def _check_bytes(case, samples):
    """Every member's bytes are those that Python's tarfile finds at the same place."""
    digests = {}
    for member in case["python_tarfile"]["members"]:
        if "sha256_16" in member:
            digests.setdefault(member["name"].lower(), member["sha256_16"])
    for name, members in samples:
        for extension, data in members.items():
            want = digests.get(f"{name}.{extension}".lower())
            if want is not None:  # tarfile stops at damage, and spells odd names its own way
                assert sha256(data).hexdigest()[:16] == want, (case["file"], name, extension)


def _check_pair(case, path, other_case, other):
    """Parts of two shards never mix, and one that is damaged takes nothing from the next."""
    together = _samples([path, other])
    assert together == _samples([path]) + _samples([other]), case["file"]
    wanted = other_case["expected"]["samples_required"]
    assert [[name, sorted(members)] for name, members in _samples([other])] == wanted


CHECKS = {"order_vectors": order_vectors, "expected": expected}
