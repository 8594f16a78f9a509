"""The slow copy and its queue: what is told apart from what, exact resuming, several processes."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from training.ranks import Ranks
from zoo.modalities.code.codec import CodeCodec
from zoo.objectives.content import content_id
from zoo.objectives.contrastive import ViewContrastive, ViewContrastiveConfig
from zoo.objectives.contrastive_losses import info_nce
from zoo.objectives.momentum_queue import MomentumQueue, QueueConfig
from zoo.objectives.text_code import TextCode, TextCodeConfig
from zoo.registry.build import resolve_recipe

import zoo
from zoo.data.shards import ShardSet
from zoo.errors import ConfigError, Preempted
from zoo.pretraining import _trainer
from zoo.training.loop import Trainer
from zoo.training.metrics import read_metrics
from zoo.training.world import ALONE

RUN = {
    "encoder.dim": 16, "encoder.depth": 1, "encoder.heads": 2, "encoder.hidden": 24,
    "encoder.vocab_size": 320, "objective.name": "text_code", "objective.output_dim": 8,
    "objective.queue": 40, "objective.momentum": 0.5, "train.batch_size": 12, "train.steps": 8,
    "train.warmup": 2, "train.log_every": 1, "train.save_every": 3, "train.lr": 1e-2,
    "train.optimizer": "adamw", "train.timeout": 20, "train.loggers": [], "loader.workers": 0,
}  # fmt: skip


def vectors(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def queue_of(size=10, width=4, ids=1, momentum=0.75, modules=()):
    config = QueueConfig(queue=size, momentum=momentum)
    return MomentumQueue(*modules, width=width, ids=ids, config=config)


def test_the_loss_is_that_of_all_candidates():
    queue, scale = queue_of(), torch.tensor(5.0)
    queries, keys = vectors(2, 3, 4).requires_grad_(), vectors(2, 3, 4, seed=1)
    got = queue.loss(queries, keys, scale, torch.tensor([[1], [2], [3]]))
    want = [
        cross_entropy(
            scale * queries[a] @ torch.cat([keys[b], queue.vectors[b]]).T, torch.arange(3)
        )
        for a, b in ((0, 1), (1, 0))
    ]
    torch.testing.assert_close(got, sum(want) / 2)


def test_who_shares_an_id_is_no_negative():
    """Of three samples two share their second id; the queue holds the third already."""
    queue, scale = queue_of(size=3, ids=2), torch.tensor(5.0)
    ids = torch.tensor([[1, 11], [2, 11], [3, 13]])
    queue.ids.copy_(torch.tensor([[7, 17], [3, 18], [9, 13]]))
    queries, keys = vectors(2, 3, 4), vectors(2, 3, 4, seed=1)
    got, want = queue.loss(queries, keys, scale, ids), []
    meets = torch.tensor(
        [[1, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool
    )
    for a, b in ((0, 1), (1, 0)):
        logits = scale * queries[a] @ torch.cat([keys[b], queue.vectors[b]]).T
        want.append(cross_entropy(logits.masked_fill(~meets, -torch.inf), torch.arange(3)))
    torch.testing.assert_close(got, sum(want) / 2)
    in_batch = [
        cross_entropy(
            (scale * queries[a] @ queries[b].T).masked_fill(~meets[:, :3], -torch.inf),
            torch.arange(3),
        )
        for a, b in ((0, 1), (1, 0))
    ]
    torch.testing.assert_close(info_nce(*queries, scale, ids), sum(in_batch) / 2)


def test_the_newest_stay_and_the_copy_lags():
    layer = torch.nn.Linear(2, 4)
    queue = queue_of(size=5, modules=(layer,))
    start = layer.weight.detach().clone()
    for step in range(4):
        ids = torch.arange(3).unsqueeze(1) + 10 * step + 1
        queue.loss(vectors(2, 3, 4), vectors(2, 3, 4, seed=step), torch.tensor(1.0), ids)
        torch.nn.init.constant_(layer.weight, 2.0)
        queue.update(layer)
    assert sorted(queue.ids.flatten().tolist()) == [22, 23, 31, 32, 33]
    place = queue.ids.flatten().tolist().index(32)
    torch.testing.assert_close(queue.vectors[:, place], vectors(2, 3, 4, seed=3)[:, 1])
    torch.testing.assert_close(queue.towers[0].weight, 2.0 - (2.0 - start) * 0.75**4)
    queue.update(layer)  # without a loss before it, nothing new enters
    assert int(queue.place) == 12 % 5
    big = torch.arange(9).unsqueeze(1)  # a batch of more than the queue holds
    queue.loss(vectors(2, 9, 4), vectors(2, 9, 4), torch.tensor(1.0), big)
    queue.update(layer)
    assert sorted(queue.ids.flatten().tolist()) == [4, 5, 6, 7, 8]


def test_two_views_of_an_image_have_its_id():
    encoder = zoo.create("digits-mae", seed=0, dim=24, depth=1, heads=2)
    config = ViewContrastiveConfig(loss="info_nce", queue=16, hidden_dim=16, output_dim=8)
    objective = ViewContrastive(config, encoder)
    image = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    views = [
        objective.prepare({"image": one}, encoder.preprocess, torch.Generator().manual_seed(seed))
        for seed, one in enumerate((image, image, 255 - image))
    ]
    batch = encoder.preprocess.collate(views)
    first, again, other = batch["content_ids"].flatten().tolist()
    assert first == again == content_id(image) != other
    before = objective.queue.towers[0].cls_token.clone()
    objective.train()
    objective(encoder, batch).total.backward()
    assert all(p.grad is None for p in objective.queue.parameters())
    torch.nn.init.zeros_(encoder.cls_token)
    objective.after_step(encoder)
    torch.testing.assert_close(objective.queue.towers[0].cls_token, before * config.momentum)
    assert objective.queue.ids[:3].flatten().tolist() == [first, again, other]


def test_a_queue_must_fit():
    with pytest.raises(ConfigError, match="a queue needs loss=info_nce"):
        resolve_recipe("digits-mae", "x", ["objective.name=contrastive", "objective.queue=8"])
    with pytest.raises(ValueError, match="momentum lie between"):
        TextCodeConfig(queue=8, momentum=1.0)


def test_the_copy_has_no_dropout():
    encoder = zoo.create("stdlib-mlm", seed=0, dim=16, depth=1, heads=2, vocab_size=300)
    objective = TextCode(TextCodeConfig(queue=8), encoder).train()
    assert objective.queue.training
    assert not any(module.training for module in objective.queue.towers.modules())


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Some texts are about several functions."""
    folder = tmp_path_factory.mktemp("queue") / "shards"
    codec = CodeCodec()
    zoo.write_shards(
        (
            (
                f"{i:03d}",
                codec.encode(
                    {
                        "text": f"def f{i}(x):\n    return x + {i % 31}\n",
                        "facts": {"query": f"adds {i % 31} to a number"},
                    }
                ),
            )
            for i in range(60)
        ),
        folder,
    )
    return folder


def trainer(shards, folder, **options):
    words = [f"{name}={value}" for name, value in (RUN | options).items()]
    recipe = resolve_recipe("stdlib-mlm", str(shards), words)
    return _trainer(recipe, (ShardSet(shards), None), folder, ALONE)


def test_a_run_continues_bit_for_bit(shards, tmp_path):
    whole = trainer(shards, tmp_path / "whole")
    whole.train(progress=False)
    part = trainer(shards, tmp_path / "part")
    advance = Trainer._advance

    def stopping(micro):
        if part.step == 4:
            part._signals.came = "a test"
        return advance(part, micro)

    part._advance = stopping
    with pytest.raises(Preempted):
        part.train(progress=False)
    again = trainer(shards, tmp_path / "part")
    assert 0 < again.step < 8
    again.train(progress=False)
    states = [one.objective.state_dict() for one in (whole, again)]
    assert {"queue.vectors", "queue.ids", "queue.place"} < states[0].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert int(whole.objective.queue.place) == 8 * 12 % 40


def test_the_copy_begins_with_the_weights_of_the_run(shards, tmp_path):
    sizes = {name.removeprefix("encoder."): n for name, n in RUN.items() if "encoder" in name}
    weights = zoo.create("stdlib-mlm", seed=5, **sizes).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    run = trainer(shards, tmp_path / "run", **{"train.init": tmp_path / "weights.pth"})
    copied = run.objective.queue.towers[0].state_dict()
    assert all(torch.equal(copied[name], value) for name, value in weights.items())


def test_a_dropped_update_leaves_the_queue(shards, tmp_path):
    run = trainer(shards, tmp_path / "run", **{"train.save_every": 100})
    forward = TextCode.forward
    after = []

    def poisoned(encoder, batch):
        losses = forward(run.objective, encoder, batch)
        after.append(int(run.objective.queue.place))
        if run.step == 2:
            losses.total.mul_(float("nan"))
        return losses

    run.objective.forward = poisoned
    run.train(progress=False)
    assert after[:5] == [0, 12, 24, 24, 36]


def pretrain(shards, out, options):
    options = RUN | options
    return zoo.pretrain(
        "stdlib-mlm", shards, out, options, seed=3, device="cpu", progress=False
    ).finished


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_give_the_same_run(shards, tmp_path, parallel):
    assert pretrain(shards, tmp_path / "alone", {})
    more = {"train.parallel": parallel}
    results = Ranks(2, pretrain, shards, tmp_path / "both", more).results()
    assert results == {0: True, 1: True}
    curves = [
        np.array([[row["loss"], row["grad_norm"]] for row in read_metrics(tmp_path / name)])
        for name in ("alone", "both")
    ]
    assert len(curves[0]) == 8
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)
