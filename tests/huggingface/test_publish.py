"""`zoo publish` with the real client: whole or absent, and after any kill the same end."""

import itertools
import json
import logging
import os
import re
import resource
import signal
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from huggingface.server import TOKEN, sha256
from zoo.hub import publish as publishing
from zoo.hub.export import save_export
from zoo.modalities.vision.codec import VisionCodec
from zoo.registry.build import encoder_spec

import zoo
from zoo.cli import cli
from zoo.errors import IntegrityError, StorageError, UsageError, WeightsError, ZooError

# How the client sends files; a matter between it and its transport.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
SMALL = {"dim": 48, "depth": 1, "heads": 2}
CHANGES = (
    r"POST /api/repos/create|PUT /upload|POST /verify|POST .*/commit/|POST .*/tag/|PUT .*/settings"
)
TINY = {
    **{"train.steps": 2, "train.warmup": 1, "train.batch_size": 8, "train.log_every": 1},
    **{"encoder.dim": 24, "encoder.depth": 1, "objective.decoder_dim": 16, "loader.workers": 0},
}


@pytest.fixture
def folder(tmp_path):
    encoder = zoo.create("digits-mae", seed=1, **SMALL)
    save_export(tmp_path / "export", encoder, encoder_spec("digits-mae", SMALL))
    return tmp_path / "export"


@pytest.fixture
def here(monkeypatch):
    """Proofs in this process: a new one takes seconds, and one test is enough for it."""
    monkeypatch.setattr(publishing, "elsewhere", lambda source, cache=None: _look(source))


def _look(source):
    if isinstance(source, Path):
        return publishing.proved(source)
    return publishing.fingerprint(zoo.load(source))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("publish")
    codec = VisionCodec()
    image = torch.arange(64, dtype=torch.uint8).view(8, 8).numpy()
    items = ((f"{i:03d}", codec.encode({"image": image})) for i in range(16))
    zoo.write_shards(items, folder / "s")
    zoo.pretrain("digits-mae", folder / "s", folder / "run", TINY)
    return folder / "run"


def state(hub, name="org/digits"):
    """What anybody can see of a repository."""
    repo = hub.repos[name]
    files = [{path: sha256(data) for path, data in commit.files.items()} for commit in repo.commits]
    return repo.private, files, repo.tags == {"v1": repo.commits[-1].oid}


def test_a_run_is_published_and_comes_back(hub, token, run):
    """With new processes for the proofs, as a user has it."""
    done = zoo.publish(run, "org/digits", licence="MIT", public=True)
    assert json.loads((run / "published.json").read_text())["commit"] == done.commit
    private, (_, files), tagged = state(hub)
    assert not private
    assert tagged
    assert {name: files[name] for name in done.files} == done.files
    assert set(files) == {
        *(".gitattributes", "README.md", "loss.svg"),
        *("card.toml", "config.json", "model.safetensors"),
    }
    images = [torch.full((1, 8, 8), 9, dtype=torch.uint8)]
    loaded, own = zoo.load("hf-hub:org/digits@v1"), zoo.load(run)
    assert (loaded.embed(images) == own.embed(images)).all()
    assert loaded.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(own.state_dict()[n], t) for n, t in loaded.state_dict().items())


def test_the_page(hub, token, run, here):
    zoo.publish(run, "org/digits", licence="MIT")
    page = hub.repos["org/digits"].commits[-1].files["README.md"].decode()
    _, front, text = page.split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["license"], front["library_name"]) == ("mit", "zoo")
    assert front["pipeline_tag"] == "image-feature-extraction"
    assert {"vision", "mae", "arxiv:2111.06377"} <= set(front["tags"])
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    assert metric["type"] == "loss"
    assert metric["value"] == zoo.pretraining.Run(run).metrics[-1]["loss"]
    assert 'zoo.load("hf-hub:org/digits@v1")' in text
    assert "![Loss" in text
    assert "batch_size = 8" in text
    for part in ("Without zoo", "Training data", "Licence", "Citation", "Limitations"):
        assert f"## {part}\n" in text
    assert str(run.parent) not in page, "nobody's folders"


def test_a_dry_run_shows_everything_and_asks_nobody(hub, run, here, token):
    words = ["publish", str(run), "org/digits", "--license", "MIT"]
    said = CliRunner().invoke(cli, [*words, "--dry-run"]).output
    assert not hub.requests
    assert CliRunner().invoke(cli, words).exit_code == 0
    files = hub.repos["org/digits"].commits[-1].files
    assert files["README.md"].decode() in said
    for name, data in files.items():
        if name != ".gitattributes":
            assert re.search(rf"^{sha256(data)} .* {re.escape(name)}$", said, re.M)
    assert files["README.md"].decode() in said


def test_again_nothing_is_sent(hub, token, folder, here):
    first = zoo.publish(folder, "org/digits", licence="MIT")
    hub.requests.clear()
    assert zoo.publish(folder, "org/digits", licence="MIT") == first
    assert len(hub.repos["org/digits"].commits) == 2
    assert not any(re.match(r"PUT|POST .*/commit/", request) for request in hub.requests)
    assert zoo.publish(folder, "org/digits", licence="MIT", public=True) == first
    assert state(hub)[0] is False


def killed_before(hub, number, folder):
    """A child that publishes, and dies by SIGKILL before its change of that number is made.

    Returns:
        Whether there was such a change.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.read(reading, 1)
            zoo.publish(folder, "org/digits", licence="MIT", public=True)
        finally:
            os._exit(0)
    seen = itertools.count()

    def fault(request):
        if re.match(CHANGES, request) and next(seen) == number:
            os.kill(child, signal.SIGKILL)
            return "reset"
        return None

    hub.fault = fault
    os.write(writing, b".")
    _, status = os.waitpid(child, 0)
    del hub.fault
    os.close(reading)
    os.close(writing)
    return os.WIFSIGNALED(status)


def test_killed_before_any_change_and_run_again_it_ends_the_same(hub, token, folder, monkeypatch):
    golden = publishing.proved(folder)  # once: torch's threads do not survive a fork
    monkeypatch.setattr(publishing, "proved", lambda _: golden)
    monkeypatch.setattr("zoo.publishing.proved", lambda _: golden)
    monkeypatch.setattr(publishing, "elsewhere", lambda *_: golden)
    zoo.publish(folder, "org/digits", licence="MIT", public=True)
    wanted, kills = state(hub), 0
    whole = set(wanted[1][1])
    for number in itertools.count():
        hub.repos.clear()
        hub.blobs.clear()
        was_killed = killed_before(hub, number, folder)
        if "org/digits" in hub.repos:
            private, commits, _ = state(hub)
            assert all(set(files) in ({".gitattributes"}, whole) for files in commits)
            assert private or not was_killed, "nothing is shown before all is proved"
        zoo.publish(folder, "org/digits", licence="MIT", public=True)
        assert state(hub) == wanted
        if not was_killed:
            break
        kills += 1
    assert kills >= 6, "create, uploads, commit, tag, settings"


@pytest.mark.parametrize("kind", [503, 429, "reset", "slow"])
def test_faults_that_pass(hub, token, folder, here, kind):
    for match in ("create", "preupload", "batch", "PUT /upload", "commit/", "tag/", "tree/"):
        hub.fail(match, kind)
    zoo.publish(folder, "org/digits", licence="MIT")
    assert len(hub.repos["org/digits"].commits) == 2
    assert state(hub)[2]


@pytest.mark.parametrize("when", ["before", "after the commit"])
def test_a_full_disk(hub, token, folder, here, when):
    """As files that may not grow past a size; it is what comes back from the Hub in the end."""
    if when == "before":
        fill()
    else:
        hub.before_commit = fill
    try:
        with pytest.raises(StorageError, match=r"free some space|choose another folder"):
            zoo.publish(folder, "org/digits", licence="MIT", public=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    hub.before_commit = lambda: None
    assert "org/digits" not in hub.repos or hub.repos["org/digits"].private
    zoo.publish(folder, "org/digits", licence="MIT", public=True)
    assert not hub.repos["org/digits"].private
    assert len(hub.repos["org/digits"].commits) == 2


def fill():
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)
    )  # less than weights


def test_the_answer_to_the_commit_is_lost(hub, token, folder, here, monkeypatch):
    """It arrived: asked again, the Hub says that the branch has moved on, to our own commit."""
    hub.fail("POST .*/commit/", "cut")
    zoo.publish(folder, "org/digits", licence="MIT")
    assert len(hub.repos["org/digits"].commits) == 2


def test_two_at_once(hub, token, folder, here):
    def other():
        hub.before_commit = lambda: None
        hub.add("org/digits", {"theirs.txt": b"x"})

    hub.before_commit = other
    with pytest.raises(ZooError, match=r"^org/digits: somebody else published there"):
        zoo.publish(folder, "org/digits", licence="MIT")
    files = set(hub.repos["org/digits"].commits[-1].files)
    assert files == {".gitattributes", "theirs.txt"}


def test_other_bytes_on_the_hub(hub, token, folder, here, monkeypatch):
    hub.fail("PUT /upload", "flip", times=99)
    with pytest.raises(ZooError, match="status 422"):
        zoo.publish(folder, "org/digits", licence="MIT")
    assert len(hub.repos["org/digits"].commits) == 1, "no commit without its files"
    hub.faults.clear()
    commit = hub.repos["org/digits"].commit

    def spoiled(files):
        return commit({**files, "config.json": b"{}"})

    monkeypatch.setattr(hub.repos["org/digits"], "commit", spoiled)
    with pytest.raises(IntegrityError, match=r"holds other bytes than were sent: config\.json"):
        zoo.publish(folder, "org/digits", licence="MIT")
    assert not hub.repos["org/digits"].tags


def test_what_comes_back_differs(hub, token, folder, monkeypatch):
    golden = publishing.proved(folder)
    spoiled = golden | {"norm.bias": ""}
    monkeypatch.setattr(publishing, "elsewhere", lambda source, cache=None: spoiled)
    with pytest.raises(IntegrityError, match=r"finds other values: norm\.bias"):
        zoo.publish(folder, "org/digits", licence="MIT")
    assert not hub.requests


def test_a_new_version_replaces_the_old_one(hub, token, folder, tmp_path, here):
    zoo.publish(folder, "org/digits", licence="MIT")
    assert zoo.load("hf-hub:org/digits").config.depth == 1
    other = zoo.create("digits-mae", seed=2, **SMALL | {"depth": 2})
    save_export(tmp_path / "two", other, encoder_spec("digits-mae", SMALL | {"depth": 2}))
    with pytest.raises(UsageError, match=r"tag 'v1' exists and is something else .*--tag v2"):
        zoo.publish(tmp_path / "two", "org/digits", licence="MIT")
    zoo.publish(tmp_path / "two", "org/digits", licence="MIT", tag="v2")
    assert zoo.load("hf-hub:org/digits@v1").config.depth == 1
    assert zoo.load("hf-hub:org/digits").config.depth == 2


def test_what_is_refused(hub, token, folder, tmp_path, run, here, monkeypatch):
    def no(match, source=folder, repo="org/digits", error=UsageError, **words):
        with pytest.raises(error, match=match) as caught:
            zoo.publish(source, repo, **{"licence": "MIT", **words})
        assert "\n" not in str(caught.value)
        assert not any("commit" in request for request in hub.requests)

    no("under which licence", licence=None)
    no("write ORG/NAME", repo="digits")
    no("holds neither a run nor", source=tmp_path)
    hub.add("org/digits", {"pytorch_model.bin": b"x"})
    no(r"holds something else \(pytorch_model.bin\)")
    hub.add("org/other", {"config.json": b'{"zoo_format": 1, "name": "mae-base", "files": {}}'})
    no(r"holds something else \(the model mae-base\)", repo="org/other")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.toml").write_text((run / "config.toml").read_text())
    no("the run has not finished", source=tmp_path / "begun")
    bad = zoo.create("digits-mae", seed=1, **SMALL)
    bad.norm.bias.data[3] = float("nan")
    save_export(tmp_path / "bad", bad, encoder_spec("digits-mae", SMALL))
    no("1 tensors hold NaN or infinity", source=tmp_path / "bad", error=WeightsError)
    monkeypatch.delenv("HF_TOKEN")
    no("hf auth login", repo="org/new")


@pytest.mark.parametrize(
    ("repo", "licence", "said"),
    [
        ("DBD-research-group/Bird-MAE-Base", "MIT", "whose authors state no licence"),
        ("facebook/vit-mae-base", "MIT", "which is CC-BY-NC-4.0: it cannot be MIT"),
        ("facebook/vit-mae-base", None, None),
        ("some/body", "MIT", "no card lists this file"),
    ],
)
def test_weights_that_started_from_others(run, tmp_path, repo, licence, said):
    place = tmp_path / f"models--{repo.replace('/', '--')}" / "snapshots"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"x")
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, init in ((first, place / "model.safetensors"), (second, first)):
        folder.mkdir()
        text = (run / "config.toml").read_text()
        (folder / "config.toml").write_text(
            text.replace("[train]", f'[train]\ninit = "{init}"').replace(str(run), str(folder))
        )
        (folder / "export").symlink_to(run / "export")
    from zoo.publishing import prepare

    for folder in (first, second):
        if said:
            with pytest.raises(UsageError, match=said):
                prepare(folder, "org/digits", licence=licence)
        else:
            page = prepare(folder, "org/digits", licence=licence).pages["README.md"].decode()
            assert "license: cc-by-nc-4.0" in page
            assert f"base_model: {repo}" in page


def test_no_token_is_ever_shown(hub, token, folder, here, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    zoo.publish(folder, "org/digits", licence="MIT")
    hub.fail("POST .*/tag/", 403)
    errors = []
    for name in ("org/two", "org/digits"):
        try:
            zoo.publish(folder, name, licence="MIT", tag="v3")
        except ZooError as error:
            errors.append(f"{error!r} {error.__context__!r} {error.__cause__!r}")
    assert errors
    out, err = capfd.readouterr()
    stored = b"".join(f.read_bytes() for f in folder.iterdir()).decode(errors="replace")
    sent = b"".join(hub.repos["org/digits"].commits[-1].files.values()).decode(errors="replace")
    for text in (out, err, caplog.text, *errors, stored, sent):
        assert TOKEN not in text


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, SMALL) for name in ("digits-mae", "birds-mae", "wav2vec2-base", "stdlib-mlm")),
        ("torsos-voco", {}),
        ("bm-mae", SMALL | {"patch_size": 8, "preprocess": {"size": [16, 16, 16]}}),
    ],
)
def test_every_modality_has_an_input_to_be_tried_with(name, options):
    encoder = zoo.create(name, seed=0, **options)
    encoder.preprocess.fit([{"text": "def area(width):\n    return width\n" * 9}])
    found = publishing.fingerprint(encoder)
    assert found == publishing.fingerprint(encoder)
    with torch.no_grad():
        next(p for p in encoder.parameters() if p.ndim > 1 and p.isfinite().all()).add_(0.01)
    changed = [key for key, value in publishing.fingerprint(encoder).items() if value != found[key]]
    assert len(changed) == 2
    assert "features of it" in changed
