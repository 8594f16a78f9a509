"""The command: what a person types, wrong on purpose."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import click
import numpy as np
import pytest
from PIL import Image
from zoo.modalities.vision.codec import VisionCodec

import zoo

TINY = [
    *("encoder.dim=24", "encoder.depth=1", "objective.decoder_dim=16", "train.warmup=1"),
    *("train.batch_size=8", "loader.workers=0"),
]


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "zoo", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def refused(done, code, *parts):
    """One line on stderr, no traceback, nothing on stdout, the right exit code."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(("zoo: ", "Error: "))
    for part in parts:
        assert part in line
    assert not done.stdout


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "shards"
    codec = VisionCodec()
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    items = [
        (f"{i:03d}", codec.encode({"image": image * (i % 3), "label": i % 3})) for i in range(24)
    ]
    zoo.write_shards(items, folder)
    return folder


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli-run") / "run"
    done = run("pretrain", "digits-mae", "--data", shards, "--out", out, "train.steps=3", *TINY)
    assert done.returncode == 0, done.stderr
    assert "step 3/3" in done.stderr
    assert "done: zoo.load(" in done.stdout
    return out


def test_list_and_card():
    assert run("list", "mae-b*").stdout.splitlines()[1].startswith("mae-base")
    rows = json.loads(run("list", "--json").stdout)
    assert {row["name"] for row in rows} == set(zoo.list_models())
    assert json.loads(run("card", "mae", "--json").stdout)["family"] == "mae"
    assert 'arxiv = "2111.06377"' in run("card", "mae-base").stdout
    assert 'pretraining_overlap = ["BTCV", ' in run("card", "voco").stdout


def test_load_check_embed_and_probe(trained, shards, tmp_path):
    assert re.search(r"\d+ tensors from .*\n.*parameters", run("load-check", trained).stdout)
    files = []
    for i in range(3):
        files.append(tmp_path / f"{i},x.png")
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(files[-1])
    want = zoo.load(trained).embed(files)
    for suffix in ("npy", "npz", "csv"):
        out = tmp_path / f"features.{suffix}"
        done = run("embed", trained, *files, "-o", out)
        assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "features.npy"), want)
    with np.load(tmp_path / "features.npz") as stored:
        assert np.array_equal(stored["features"], want)
        assert stored["names"].tolist() == [str(file) for file in files]
    first = (tmp_path / "features.csv").read_text().splitlines()[0]
    assert first.startswith(f'"{files[0]}",')
    done = run("probe", trained, "--train", shards, "--test", shards, "--kind", "knn", "-k", 3)
    assert done.stdout.startswith("accuracy ")


def test_doctor():
    assert "torch" in run("doctor").stdout


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["lst"], ["unknown command 'lst'", "did you mean list"]),
        (["card", "mae-bas"], ["unknown model 'mae-bas'", "mae-base"]),
        (["list", "--modality", "vison"], ["unknown modality 'vison'", "vision"]),
        (["list", "--objective", "mea"], ["unknown objective 'mea'", "mae"]),
        (["list", "--modalty", "x"], ["No such option", "--modality"]),
        (["load-check", "none/"], ["none", "no such folder"]),
        (["pretrain", "digits-mae", "--out", "x"], ["which data?", "--data"]),
    ],
)
def test_wrong_words_are_usage_errors(words, parts, tmp_path):
    refused(run(*words, cwd=tmp_path), 2, *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("objective.name=mea", ["unknown objective 'mea'", "did you mean mae"]),
        ("objective.name=masked_lm", ["'masked_lm' needs", "it works with mae"]),
        ("train.lrr=1", ["unknown key 'train.lrr'", "nearest: lr"]),
        ("train.lr=fast", ["'train.lr' must be a number"]),
        ("train.lr", ["not of the form key=value"]),
        ("encoder.patch_size=3", ["must be a multiple of patch_size"]),
    ],
)
def test_wrong_options_make_nothing(option, parts, shards, tmp_path):
    out = tmp_path / "run"
    refused(run("pretrain", "digits-mae", "--data", shards, "--out", out, option), 2, *parts)
    assert not out.exists()


def test_empty_and_missing_data(tmp_path):
    (tmp_path / "empty").mkdir()
    for data in ("empty", "none"):
        done = run("pretrain", "digits-mae", "--data", data, "--out", "run", cwd=tmp_path)
        refused(done, 2, data)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run(trained, shards):
    done = run("pretrain", "digits-mae", "--data", shards, "--out", trained, "train.steps=9")
    refused(done, 2, "holds another run", "choose another folder")


def test_an_unreadable_image(trained, tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    done = run("embed", trained, tmp_path / "x.png", "-o", tmp_path / "f.npy")
    refused(done, 1, "x.png", "image")
    done = run("embed", trained, tmp_path / "none.png", "-o", tmp_path / "f.npy")
    refused(done, 1, "none.png: cannot read")
    assert not (tmp_path / "f.npy").exists()


def test_an_output_that_cannot_be(trained, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    refused(run("embed", trained, tmp_path / "x.png", "-o", "f.pdf"), 2, "one of .npy")
    done = run("embed", trained, tmp_path / "x.png", "-o", "/proc/none/f.npy")
    refused(done, 1, "cannot write")


def test_corrupt_shards_have_their_own_code(tmp_path):
    zoo.write_shards([("a", {"png": b"no"})], tmp_path / "s")
    done = run("pretrain", "digits-mae", "--data", tmp_path / "s", "--out", tmp_path / "run", *TINY)
    refused(done, 65, "00000.tar, sample 'a'", "not an image")


def test_no_permission_to_write(shards):
    done = run("pretrain", "digits-mae", "--data", shards, "--out", "/proc/run", *TINY)
    refused(done, 74, "/proc/run", "cannot write")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.argv = ["zoo", *sys.argv[1:]]
from zoo.cli import main
main()
"""


def test_a_disk_without_room_keeps_the_run(shards, tmp_path):
    """A limit on file sizes stands in for the full disk: writes fail half-way with EFBIG."""
    out = tmp_path / "run"
    words = ["pretrain", "digits-mae", "--data", str(shards), "--out", str(out), "train.steps=2"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words, *TINY, "encoder.dim=64"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 74, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.glob("**/step-*"))
    assert not list(out.glob("**/.tmp-*"))
    assert run(*words, *TINY, "encoder.dim=64").returncode == 0, "with room it goes on"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_runs_exit_75_and_continue(shards, tmp_path, number):
    """A terminal and Slurm signal every process of the run, workers too."""
    out = tmp_path / "run"
    words = ["pretrain", "digits-mae", "--data", shards, "--out", out, *TINY, "train.steps=4000"]
    child = subprocess.Popen(
        [sys.executable, "-m", "zoo", *map(str, words), "train.log_every=1", "loader.workers=2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(child.pid, number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 75, err
    assert "the same command continues" in err
    assert "Traceback" not in err
    steps = [path.name for path in (out / "checkpoints").iterdir()]
    assert len(steps) == 1
    refused(run("load-check", out), 2, "has not finished")


def test_checkpoints_of_another_shape(trained, tmp_path):
    done = run("load-check", "mae-base", "--weights", trained / "export" / "model.safetensors")
    refused(done, 1, "not for this encoder", "missing blocks", "misshapen")


def test_debug_shows_the_traceback():
    done = run("--debug", "card", "nothing-like-it")
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_options_are_frozen():
    """The command is a promise: a new or vanished option is a deliberate change."""
    from zoo.cli import COMMANDS, cli

    found = {}
    for name in COMMANDS:
        command = cli.get_command(None, name)
        verbs = {name: command}
        if isinstance(command, click.Group):
            verbs = {f"{name} {v}": command.get_command(None, v) for v in command.places}
        for full, verb in verbs.items():
            found[full] = sorted(option for p in verb.params for option in p.opts)
    assert found == {
        "list": ["--json", "--modality", "--objective", "--pretrained", "--tags", "pattern"],
        "card": ["--json", "name"],
        "catalogue": ["--html"],
        "load-check": ["--layout", "--weights", "source"],
        "pretrain": [
            *("--data", "--device", "--out", "--profile", "--quiet", "--seed", "model", "options")
        ],
        "plan": [
            *("--data", "--gpu", "--gpus", "--mfu", "--model", "--mtbf", "--price", "options")
        ],
        "export": ["--format", "--step", "out", "run"],
        "convert": ["--layout", "--to", "out", "source"],
        "publish": ["--dry-run", "--license", "--public", "--tag", "repo", "run"],
        "embed": [
            *("--batch-size", "--device", "--hop", "--output", "--plot", "--weights", "--window"),
            *("-o", "files", "source"),
        ],
        "probe": [
            *("--kind", "--plot", "--random", "--seeds", "--shots", "--test", "--train"),
            *("-k", "source"),
        ],
        "shards build": [
            *("--allow-outside", "--engine", "--key", "--label", "--label-from-folder"),
            *(
                "--licence",
                "--member",
                "--modality",
                "--quiet",
                "--samples-per-shard",
                "--seed",
                "--shard-size",
            ),
            *("--shuffle", "--similar", "--skip-bad", "--spacing", "--unit", "--workers"),
            *("-m", "out", "source"),
        ],
        "shards info": ["data"],
        "shards head": ["-n", "data"],
        "shards verify": ["--headers", "--modality", "--require", "data"],
        "shards index": ["--manifest", "data"],
        "shards repair": ["--modality", "--require", "out", "shard"],
        "report": ["--all", "--demo", "--output", "-o", "run"],
        "bench claims": ["--only", "--out", "--seeds", "--show"],
        "bench table": [],
        "demo": ["--out", "--quick"],
        "doctor": [],
    }
