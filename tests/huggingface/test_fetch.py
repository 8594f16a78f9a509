"""The real client against a hub on the loopback: what is fetched, verified, asked for again."""

import json
import os

import pytest
from zoo.hub.fetch import fetch, pinned

from zoo.errors import IntegrityError, UsageError, ZooError

WEIGHTS = os.urandom(20_000)
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "deep/er.bin": WEIGHTS[:2000]}


def test_a_warm_fetch_of_a_pinned_commit_asks_nothing(hub):
    oid = hub.add("org/one", FILES)
    source = pinned("org/one")
    assert source.commit == oid
    folder = fetch(source, ["config.json", "model.safetensors", "deep/er.bin"])
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    hub.requests.clear()
    for revision in (None, oid):
        assert pinned("org/one", revision) == source
        assert fetch(pinned("org/one", revision), list(FILES)) == folder
    assert not hub.requests


def test_only_the_files_that_are_needed_are_fetched(hub):
    hub.add("org/one", FILES)
    fetch(pinned("org/one"), ["config.json"])
    assert not any("safetensors" in request or "cdn" in request for request in hub.requests)


def test_what_a_branch_was_at_first_is_kept_and_another_answer_is_asked_for_by_name(hub):
    first = hub.add("org/one", FILES)
    assert pinned("org/one").commit == first
    second = hub.add("org/one", {"config.json": b"2"})
    assert pinned("org/one").commit == first
    assert pinned("org/one", "main").commit == second
    hub.fail(r"GET /api", 503, times=99)
    assert pinned("org/one", "main").commit == second, "recorded, where the Hub does not answer"


@pytest.mark.parametrize("kind", [500, 429, 503, "reset", "cut", "slow"])
@pytest.mark.parametrize("match", ["GET /api", "HEAD .*safetensors", "GET /cdn", "config.json"])
def test_faults_that_pass(hub, kind, match):
    hub.add("org/one", FILES)
    hub.fail(match, kind)
    folder = fetch(pinned("org/one"), ["config.json", "model.safetensors"])
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_bytes_are_fetched_again_and_never_kept(hub, tmp_path, name):
    """The client itself takes bytes of the right size for the right ones."""
    hub.add("org/one", FILES)
    match = "GET /cdn" if name.endswith("safetensors") else "GET .*config.json"
    hub.fail(match, "flip")
    assert (fetch(pinned("org/one"), [name]) / name).read_bytes() == FILES[name]
    hub.add("org/two", FILES)
    hub.fail(match, "flip", times=2)
    with pytest.raises(IntegrityError, match=f"^org/two, {name}: sha256 .* instead of .* removed"):
        fetch(pinned("org/two"), [name])
    kept = [path for path in (tmp_path / "hf" / "models--org--two").rglob(name)]
    assert not kept
    assert (fetch(pinned("org/two"), [name]) / name).read_bytes() == FILES[name]


def test_bytes_that_rot_in_the_cache_are_noticed(hub):
    hub.add("org/one", FILES)
    source = pinned("org/one")
    path = fetch(source, ["model.safetensors"]) / "model.safetensors"
    path.resolve().write_bytes(WEIGHTS[:-1] + b"x" if WEIGHTS[-1:] != b"x" else WEIGHTS[:-1] + b"y")
    assert (fetch(source, ["model.safetensors"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_cards_digest_counts_more_than_the_hubs(hub):
    hub.add("org/one", FILES)
    with pytest.raises(IntegrityError, match="instead of 000000000000"):
        fetch(pinned("org/one"), ["model.safetensors"], {"model.safetensors": "0" * 64})


def test_what_is_not_there_or_not_open(hub, token, monkeypatch):
    oid = hub.add("org/private", FILES, private=True)
    hub.add("org/gated", FILES, gated=True)
    assert pinned("org/private").commit == oid
    monkeypatch.delenv("HF_TOKEN")
    for repo, said in {
        "org/none": "no such repository on the Hub, or a private one",
        "org/gated": "whom they accept: ask on its page",
    }.items():
        with pytest.raises(UsageError, match=f"^{repo}: .*{said}") as caught:
            pinned(repo)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="log in with `hf auth login`"):
        fetch(pinned("org/private"), ["config.json"])
    hub.add("org/one", FILES)
    with pytest.raises(UsageError, match=r"^org/one: no such branch, tag or commit"):
        pinned("org/one", "v9")
    with pytest.raises(UsageError, match=r"^org/one: no file 'x' at \w{12}, but config.json, deep"):
        fetch(pinned("org/one"), ["x"])
    with pytest.raises(UsageError, match="no name of a repository"):
        pinned("a/b/c")
    hub.fail("GET /api", 403)
    with pytest.raises(UsageError, match="refuses access"):
        pinned("org/two")


def test_a_hub_that_does_not_answer(hub):
    hub.add("org/one", FILES)
    hub.fail("GET /api", 503, times=99)
    with pytest.raises(ZooError, match=r"^org/one: the Hub answers with status 503; try again"):
        pinned("org/one")
    hub.faults.clear()
    hub.fail("GET /api", "reset", times=99)
    with pytest.raises(ZooError, match=r"^org/one: the Hub cannot be reached"):
        pinned("org/one")


def test_offline(hub, monkeypatch):
    from huggingface_hub import constants

    hub.add("org/one", FILES)
    folder = fetch(pinned("org/one"), ["config.json"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert fetch(pinned("org/one"), ["config.json"]) == folder
    assert pinned("org/one", "main") == pinned("org/one")
    with pytest.raises(ZooError, match="HF_HUB_OFFLINE forbids to fetch it"):
        fetch(pinned("org/one"), ["model.safetensors"])
    with pytest.raises(ZooError, match="HF_HUB_OFFLINE forbids"):
        pinned("org/two")
    assert not hub.requests


@pytest.mark.parametrize("damage", ["", "[]", '{"revisions": 3}', '{"revisions": {"main": "x"}}'])
def test_a_damaged_record_is_no_record(hub, tmp_path, damage):
    hub.add("org/one", FILES)
    source = pinned("org/one")
    record = tmp_path / "zoo" / "hub" / "org--one.json"
    assert json.loads(record.read_text())["revisions"] == {"main": source.commit}
    record.write_text(damage)
    assert pinned("org/one") == source
