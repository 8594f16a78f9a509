"""The loop on a real pair: exact resuming, accumulation, stopping, averages."""

import itertools
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from training.tiny import TINY, equal, rows, weights
from zoo.modalities.vision.codec import VisionCodec
from zoo.objectives.mae import MAE
from zoo.registry.build import resolve_recipe

import zoo
from zoo.data.shards import ShardSet
from zoo.errors import NonFiniteError, Preempted, UsageError
from zoo.pretraining import _trainer
from zoo.training.metrics import read_metrics
from zoo.training.world import ALONE


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("train.optimizer=muon", "train.ema=0.9"),
        ("train.optimizer=schedulefree", "train.schedule=constant"),
    ],
)
@pytest.mark.parametrize("stop", [1, 5, 8])
def test_stopped_and_resumed_equals_undisturbed(build, tmp_path, stop, options):
    """Dropout, order, masks, optimiser, schedule, average: one missing part would show here."""
    whole = build(*options, folder=tmp_path / "whole")
    whole.train(progress=False)
    part = build(*options)
    gradients = part._gradients

    def stopping(micro):
        if part.step == stop - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return gradients(micro)

    part._gradients = stopping
    with pytest.raises(Preempted, match=f"stopped by SIGTERM at step {stop}, state saved"):
        part.train(progress=False)
    again = build(*options)
    assert again.step == stop
    again.train(progress=False)
    assert equal(weights(whole), weights(again))
    assert equal(whole.result.state_dict(), again.result.state_dict())
    assert rows(whole) == rows(again)


def test_the_same_seed_gives_the_same_run(build, tmp_path):
    first, second = build(folder=tmp_path / "a"), build(folder=tmp_path / "b")
    first.train(progress=False)
    second.train(progress=False)
    assert equal(weights(first), weights(second))
    assert rows(first)[-1]["step"] == 12


def test_micro_batches_change_nothing(build, tmp_path):
    losses = []
    for accumulate in (1, 2, 4):
        # A small rate: Adam makes steps of full size of what is only rounding.
        options = (f"train.accumulate={accumulate}", "encoder.drop_path=0", "train.lr=1e-4")
        trainer = build(*options, folder=tmp_path / str(accumulate))
        trainer.train(progress=False)
        losses.append([row["loss"] for row in rows(trainer)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)


def test_micro_batches_are_weighed_by_their_targets(build, monkeypatch):
    """With 1 and 3 targets the mean of means would be wrong."""
    trainer = build("train.accumulate=2", "encoder.drop_path=0")
    monkeypatch.setattr(MAE, "count", lambda self, batch: int(batch["image"][0, 0, 0, 0]))
    micro = next(trainer.loader.iterate(0))
    for batch, count in zip(micro, (1, 3), strict=True):
        batch["image"] = batch["image"].clone()
        batch["image"][0, 0, 0, 0] = count
    alone = [trainer.objective(trainer.encoder, batch).total.item() for batch in micro]
    values = trainer._gradients(micro)
    assert values["loss"].item() == pytest.approx(alone[0] / 4 + alone[1] * 3 / 4, rel=1e-5)


def test_average_is_exported_and_lags(build):
    trainer = build("train.ema=0.9")
    start = weights(trainer)["encoder.blocks.0.attn.qkv.weight"]
    trainer.train(progress=False)
    key = "blocks.0.attn.qkv.weight"
    average, current = trainer.result.state_dict()[key], trainer.encoder.state_dict()[key]
    assert trainer.result is not trainer.encoder
    assert (average - start).norm() < (current - start).norm()


def test_clipping_limits_the_gradient(build):
    trainer = build("train.clip_grad=1e-3")
    seen = []
    step = trainer.optimizers[0].step

    def spy():
        seen.append(
            torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
            .norm()
            .item()
        )
        step()

    trainer.optimizers[0].step = spy
    trainer.train(progress=False)
    assert max(seen) <= 1.001e-3


def test_a_loss_that_is_no_number_stops_the_run(build, tmp_path):
    trainer = build()
    trainer.train(progress=False)
    later = build("train.steps=20", "train.on_nonfinite=stop")
    with torch.no_grad():
        later.encoder.cls_token.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"not finite at step 13; the last checkpoint"):
        later.train(progress=False)
    assert build("train.steps=20").step == 12, "the checkpoint is from before"
    [found] = tmp_path.rglob("postmortem.json")
    told = json.loads(found.read_text())
    assert told["step"] == 12
    assert len(told["samples"]) == later.recipe.batch_size


def test_other_data_or_another_model_is_refused(build, shards, tmp_path):
    build().train(progress=False)
    with pytest.raises(UsageError, match="of another shape"):
        build("encoder.dim=32")
    other = tmp_path / "other"
    zoo.write_shards([("a", VisionCodec().encode({"image": np.zeros((8, 8), np.uint8)}))], other)
    recipe = resolve_recipe("digits-mae", str(other), TINY)
    with pytest.raises(UsageError, match="started on other data"):
        _trainer(recipe, (ShardSet(other), None), tmp_path / "run", ALONE)


def test_signals_are_put_back_and_threads_are_fine(build, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    build("train.steps=2").train(progress=False)
    assert signal.getsignal(signal.SIGTERM) is before
    trainer = build("train.steps=2", folder=tmp_path / "thread")
    thread = threading.Thread(target=trainer.train, kwargs={"progress": False})
    thread.start()
    thread.join()
    assert trainer.step == 2


def test_progress_without_a_terminal_is_plain_lines(build, capsys):
    build("train.steps=3").train()
    shown = capsys.readouterr().err
    assert "step 3/3  loss " in shown
    assert "data wait" in shown
    assert "\x1b" not in shown


def test_bfloat16_autocast_trains(build):
    trainer = build("train.precision=bfloat16", "train.steps=3")
    trainer.train(progress=False)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert rows(trainer)[-1]["loss"] > 0


def test_a_failing_compiler_does_not_stop_the_run(build, tmp_path, monkeypatch, caplog):
    plain = build(folder=tmp_path / "plain")
    plain.train(progress=False)

    def broken(self):
        def fail(*args, **kwargs):
            raise torch._dynamo.exc.InternalTorchDynamoError("no compiler here")

        self._compiled_call_impl = fail

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    compiled = build("train.compile=true", folder=tmp_path / "compiled")
    compiled.train(progress=False)
    assert "no compiler here" in caplog.text
    assert caplog.text.count("goes on without") == 1
    assert equal(weights(plain), weights(compiled))


def test_recomputed_activations_change_nothing(build, tmp_path):
    plain = build(folder=tmp_path / "plain")
    plain.train(progress=False)
    frugal = build("train.checkpoint_activations=true", folder=tmp_path / "frugal")
    frugal.train(progress=False)
    assert equal(weights(plain), weights(frugal))


def test_saving_in_the_background_is_the_same_and_resumes(build, tmp_path):
    plain = build(folder=tmp_path / "plain")
    plain.train(progress=False)
    behind = build("train.save_in_background=true", folder=tmp_path / "behind")
    behind.train(progress=False)
    assert equal(weights(plain), weights(behind))
    assert build(folder=tmp_path / "behind").step == 12


def test_the_clock_on_the_wall_may_jump(build, tmp_path, monkeypatch):
    plain = build(folder=tmp_path / "plain")
    plain.train(progress=False)
    jumps = itertools.cycle([0.0, 4e9, -1e5, 1.7e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    jumping = build(folder=tmp_path / "jumping")
    jumping.train(progress=False)
    assert rows(plain) == rows(jumping)
    told = read_metrics(jumping.folder)
    assert all(row["samples_per_second"] > 0 and 0 <= row["data_wait"] <= 1 for row in told)
