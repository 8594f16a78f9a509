"""Bad updates: dropped to the bit, judged one step later, never saved, never the end of a run."""

import json
import math
import os
import signal

import pytest
import torch
from training.ranks import Ranks
from training.tiny import TINY, equal, rows, weights
from zoo.objectives.contract import Losses
from zoo.objectives.mae import MAE

import zoo
from zoo.errors import NonFiniteError, Preempted
from zoo.training.metrics import read_metrics
from zoo.training.nonfinite import NonFinite

# Only every eighth step is anybody told at once: other verdicts come late.
RARELY = (
    *("train.steps=20", "train.log_every=8", "train.save_every=8", "train.loggers=[]"),
    "train.optimizer=adamw",
)


def poisoned(trainer, steps, by=math.inf):
    """Makes the loss infinite at what would be these steps if the run never went back."""
    real = trainer.objective.forward
    seen = []

    def forward(encoder, batch):
        seen.append(trainer.position // trainer.recipe.batch_size)
        losses = real(encoder, batch)
        return Losses(total=losses.total * (by if seen[-1] in steps else 1.0))

    trainer.objective.forward = forward
    return seen


@pytest.mark.parametrize(
    ("steps", "by"),
    [([0], math.inf), ([2, 3, 6, 7], math.nan), ([*range(8, 14)], math.inf), ([18, 19], math.nan)],
)
def test_masked_and_left_out_updates_give_the_same_bits(build, tmp_path, steps, by):
    """The one is asked about a step later, the other before anything is done."""
    late, now = (build(*RARELY, "train.ema=0.9", folder=tmp_path / name) for name in "ab")
    assert late._masks
    now._masks = False
    for trainer in (late, now):
        poisoned(trainer, steps, by)
        trainer.train(progress=False)
    assert equal(weights(late), weights(now))
    assert equal(late.ema.state_dict(), now.ema.state_dict())
    assert rows(late) == rows(now)
    assert late.nonfinite == now.nonfinite
    assert late.nonfinite.skipped == len(steps) or late.nonfinite.rollbacks == 1
    assert all(value.isfinite().all() for value in weights(late).values())


def test_a_bad_update_touches_nothing(build):
    trainer = build(*RARELY)
    before = weights(trainer)
    poisoned(trainer, [0])
    assert trainer._advance(next(trainer.loader.iterate(0)))
    assert trainer._settle()
    assert trainer.nonfinite.skipped == 1
    assert equal(before, weights(trainer))
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    assert not any(value.any() for state in states for value in state.values())


def test_many_bad_updates_go_back_and_on_with_other_data(build):
    trainer = build(*RARELY)
    seen = poisoned(trainer, range(8, 14))
    trainer.train(progress=False)
    assert trainer.step == trainer.total
    assert trainer.nonfinite.rollbacks == 1
    # The sixth in a row is known while the next one's gradients are made, which are dropped.
    assert seen == [*range(15), *range(14, 26)], "from the checkpoint of step 8, none amid trouble"


def test_endless_bad_updates_stop_the_run(build):
    trainer = build(*RARELY, "train.steps=60")
    poisoned(trainer, range(9, 1000))
    with pytest.raises(NonFiniteError):
        trainer.train(progress=False)
    assert trainer.nonfinite.rollbacks == 2


def test_a_run_does_not_end_amid_bad_updates(build, tmp_path):
    trainer = build(*RARELY)
    seen = poisoned(trainer, [19])
    trainer.train(progress=False)
    assert seen == [*range(20), *range(20, 24)], "back to step 16"
    assert trainer.nonfinite.rollbacks == 1
    assert build(*RARELY).step == 20
    unsaved = build(*RARELY, "train.save_every=100", folder=tmp_path / "other")
    poisoned(unsaved, [19])
    with pytest.raises(NonFiniteError, match="by step 20, before the first checkpoint"):
        unsaved.train(progress=False)
    assert build(folder=tmp_path / "other").step == 0


@pytest.mark.parametrize(("steps", "end"), [([3, 4], 6), ([*range(8, 14)], 9)])
def test_a_stop_amid_bad_updates_comes_when_a_good_one_is_saved(build, tmp_path, steps, end):
    whole = build(*RARELY, folder=tmp_path / "whole")
    poisoned(whole, steps)
    whole.train(progress=False)
    part = build(*RARELY)
    poisoned(part, steps)
    gradients = part._gradients

    def asked(micro):
        if part.step == steps[-1]:
            os.kill(os.getpid(), signal.SIGTERM)
        return gradients(micro)

    part._gradients = asked
    with pytest.raises(Preempted, match=f"at step {end}, state saved"):
        part.train(progress=False)
    assert (part.folder / "checkpoints" / f"step-{end}" / "COMMITTED").exists()
    again = build(*RARELY)
    poisoned(again, steps)
    assert again.step == end
    again.train(progress=False)
    assert equal(weights(whole), weights(again))


def test_the_postmortem_names_step_batch_and_layer(build, tmp_path):
    trainer = build(*RARELY, "train.on_nonfinite=stop", "train.clip_grad=1")
    bad = iter([False, False, True])
    trainer.encoder.cls_token.register_hook(
        lambda grad: grad * math.inf if next(bad, False) else grad
    )
    with pytest.raises(NonFiniteError, match="not finite at step 3;"):
        trainer.train(progress=False)
    told = json.loads((tmp_path / "run" / "postmortem.json").read_text())
    assert told["step"] == 2
    norms = told["gradient_norms"]
    assert [name for name in norms if not math.isfinite(norms[name])] == ["encoder.cls_token"]
    want = trainer.loader.order.ids(torch.arange(16, 24).numpy())
    assert told["samples"] == [str(trainer.loader.shards.where(int(i))) for i in want]


@pytest.mark.parametrize("masks", [True, False])
def test_an_objective_changes_no_state_after_a_bad_update(build, monkeypatch, masks):
    def after_step(self, encoder):
        self.updates += 1
        self.newest = self.newest.new_full((), float(self.updates))  # another tensor in its place

    monkeypatch.setattr(MAE, "after_step", after_step)
    trainer = build(*RARELY)
    trainer._masks = masks
    trainer.objective.register_buffer("updates", torch.tensor(0))
    trainer.objective.register_buffer("newest", torch.tensor(math.nan))
    poisoned(trainer, [2, 5, 18])
    trainer.train(progress=False)
    assert trainer.objective.updates == trainer.objective.newest == 17


def test_a_skipped_step_names_its_samples(build, caplog):
    trainer = build(*RARELY)
    poisoned(trainer, {2})
    trainer.train(progress=False)
    [said] = [record.getMessage() for record in caplog.records if "skipped" in record.message]
    first = trainer.loader.shards.where(
        int(trainer.loader.order.ids(torch.tensor([16]).numpy())[0])
    )
    assert f"step 3 skipped ({first}, " in said


def test_budget_of_skipped_updates():
    few = NonFinite("skip")
    verdicts = [few.judge(step, is_finite=step % 2 == 0) for step in range(12)]
    assert verdicts == ["go", "skip"] * 5 + ["go", "rollback"]
    many = NonFinite("skip", skipped=8)
    assert many.judge(10_000, is_finite=False) == "skip"
    assert many.judge(9_999, is_finite=False, is_last=True) == "rollback"
    assert NonFinite("skip", rollbacks=2).judge(5, is_finite=False, is_last=True) == "stop"
    assert NonFinite("stop").judge(10_000, is_finite=False) == "stop"


def train(shards, out):
    """Only the loss of one process is infinite, and its gradients are fine."""
    real, calls = MAE.forward, []

    def forward(self, encoder, batch):
        calls.append(None)
        losses = real(self, encoder, batch)
        bad = os.environ["RANK"] == "1" and len(calls) == 3
        return Losses(total=losses.total + (math.inf if bad else 0.0))

    MAE.forward = forward
    options = ["train.loggers=[]", "train.timeout=20", "train.save_every=100"]
    zoo.pretrain("digits-mae", shards, out, [*TINY, *options], device="cpu", progress=False)


def test_all_processes_drop_what_is_bad_for_one(shards, tmp_path):
    out = tmp_path / "run"
    assert Ranks(2, train, shards, out).results() == {0: None, 1: None}
    assert [row["skipped_steps"] for row in read_metrics(out)] == [0, 0, *[1] * 10]
    assert "loss" not in read_metrics(out)[2]
