"""`zoo.export` and readers of runs: the same bits as the run's own export, and nothing touched."""

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training.ranks import Ranks
from zoo.modalities.vision.codec import VisionCodec
from zoo.registry.card import read_card

import zoo
from zoo.cli.export import command
from zoo.errors import BusyError, IntegrityError, UsageError
from zoo.lock import locked
from zoo.pretraining import LOCK, restore_objective
from zoo.report.pictures import objective_pictures
from zoo.runs import Run

OPTIONS = {
    "encoder.dim": 24, "encoder.depth": 1, "objective.decoder_dim": 16, "train.steps": 4,
    "train.batch_size": 8, "train.schedule": "constant", "train.warmup": 0, "train.save_every": 2,
    "train.keep": 9, "train.timeout": 20, "train.loggers": [], "loader.workers": 0,
}  # fmt: skip
KINDS = {
    "plain": (1, {}),
    "average": (1, {"train.ema": 0.5}),
    "divided": (2, {"train.parallel": "fsdp"}),
    "divided average": (2, {"train.parallel": "fsdp", "train.ema": 0.5}),
}  # processes, options


def train(shards, out, options):
    # In a forked child torch makes its pool anew: by one thread, before several try at once.
    torch.set_num_threads(1)
    return zoo.pretrain("digits-mae", shards, out, OPTIONS | options, progress=False).finished


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("restoring") / "shards", np.random.default_rng(0)
    items = (
        (f"{i:03d}", VisionCodec().encode({"image": rng.integers(0, 256, (8, 8), dtype=np.uint8)}))
        for i in range(40)
    )
    zoo.write_shards(items, folder)
    return folder


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    assert train(shards, out, {})
    return Run(out)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_any_step_is_what_the_run_exports_if_it_ends_there(shards, tmp_path, kind):
    size, options = KINDS[kind]
    for out, steps in (("whole", 4), ("half", 2)):
        more = options | {"train.steps": steps}
        ranks = Ranks(size, train, shards, tmp_path / out, more)
        assert set(ranks.results().values()) == {True}
    for out, step in (("whole", None), ("half", 2)):
        found = zoo.export(tmp_path / "whole", tmp_path / f"of-{out}", step)
        assert content(found) == content(tmp_path / out / "export")
    assert read_card(found / "card.toml") == zoo.card("digits-mae")
    step, drawn = objective_pictures(Run(tmp_path / "whole"))
    assert step == 4
    assert drawn


def test_a_run_in_progress_is_read_and_left_alone(run, tmp_path):
    live = shutil.copytree(run.folder, tmp_path / "live", ignore=lambda *_: ["export"])
    (live / "checkpoints" / ".tmp-step-6").mkdir()
    with locked(live / LOCK, "writing this run"):
        before = {path: path.stat().st_mtime_ns for path in live.rglob("*")}
        zoo.export(live, tmp_path / "out")
        restore_objective(Run(live))
        assert {path: path.stat().st_mtime_ns for path in live.rglob("*")} == before
    assert content(tmp_path / "out") == content(run.folder / "export")


def test_the_command(run, tmp_path):
    done = CliRunner().invoke(command, [str(run.folder), str(tmp_path / "out"), "--step", "2"])
    assert done.output == f"done: zoo.load('{tmp_path}/out/')\n"
    steps = run.folder / "checkpoints"
    assert not zoo.load(tmp_path / "out").training
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o777 == (
        steps.stat().st_mode & 0o666
    ), "others may read what is made to be shared"


def test_what_cannot_be_exported(run, tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        zoo.export(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="no checkpoint of step 3; there are 4, 2"):
        zoo.export(run, tmp_path / "out", step=3)
    with pytest.raises(UsageError, match="exists already"):
        zoo.export(run, run.folder / "export")
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    (copy / "checkpoints" / "step-4" / "optim.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"step-4/optim\.safetensors: missing"):
        zoo.export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_start_is_refused_by_every_process(shards, tmp_path):
    """Rank 0 holds the lock; here it is a holder from elsewhere that the others meet."""
    out = tmp_path / "run"
    out.mkdir()
    with locked(out / LOCK, "writing this run"):
        results = Ranks(2, train, shards, out, {}).results()
        assert all(result.startswith(BusyError.__name__) for result in results.values()), results
        assert [path.name for path in out.iterdir()] == [LOCK]


def test_a_run_that_another_process_began_meanwhile_is_not_overwritten(
    shards, tmp_path, monkeypatch
):
    """Both found an empty folder; the one that waited for nothing comes second to the lock."""
    from zoo import pretraining

    out, real = tmp_path / "run", pretraining._open

    def slow(recipe):
        if not out.exists():
            monkeypatch.setattr(pretraining, "_open", real)
            assert train(shards, out, {"train.steps": 2})
        return real(recipe)

    monkeypatch.setattr(pretraining, "_open", slow)
    with pytest.raises(UsageError, match=r"holds another run: train\.steps is 2 there and 4 now"):
        train(shards, out, {})
    assert Run(out).recipe.train.steps == 2
