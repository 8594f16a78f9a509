"""The arithmetic of `zoo plan` against small cases done by hand, and what it measures."""

import math
import random

import pytest
import torch
from click.testing import CliRunner
from zoo.modalities.vision.codec import VisionCodec
from zoo.registry.build import resolve_recipe

import zoo
from zoo.cli.plan import command
from zoo.errors import UsageError
from zoo.planning import Cluster, Workload, best_interval, estimate, step_time
from zoo.workload import measure, synthetic_members

WORK = Workload(
    batch_size=64,
    steps=1000,
    flops=1e9,
    sample_bytes=1e5,
    sample_seconds=1e-3,
    gradient_bytes=4e8,
    checkpoint_bytes=1.2e9,
    save_every=100,
)
CLUSTER = Cluster(
    peak=1e12,
    utilisation=0.5,
    node=8,
    link=1e11,
    network=1e9,
    latency=1e-5,
    cores=4,
    read=1e8,
    write=4e8,
    restart=60,
    failure=math.inf,
    price=2,
)


def changed(what, **fields):
    return type(what)(**{name: getattr(what, name) for name in what.__slots__} | fields)


def test_one_gpu_only_computes():
    # 3 x 1e9 x 64 / 5e11; samples: max(1e-3 / 4, 1e5 / 1e8) x 64 = 0.064 s, hidden
    assert step_time(WORK, CLUSTER, 1) == pytest.approx((0.384, 0, 0))
    one = estimate(WORK, CLUSTER, 1)
    assert one.compute == pytest.approx(384)
    assert one.checkpoints == pytest.approx(10 * 3)  # ten of 1.2e9 / 4e8 s
    assert one.failures == 0
    assert one.cost(CLUSTER) == pytest.approx(414 / 3600 * 2)


def test_gradients_hide_behind_the_backward_pass_while_they_can():
    # within a node: 2 x 7 / 8 x 4e8 / 1e11 = 7 ms and 6 hops; backward takes 32 ms of 48
    assert step_time(WORK, CLUSTER, 8) == pytest.approx((0.048, 0, 0))
    # between nodes through eight cards: 2 x 15 / 16 x 4e8 / 8e9 = 93.75 ms and 8 hops of 10 us
    compute, exposed, wait = step_time(WORK, CLUSTER, 16)
    assert compute == pytest.approx(0.024)
    assert exposed == pytest.approx(0.09375 + 8e-5 - 0.016)
    assert wait == 0


def test_slow_data_are_waited_for():
    slow = changed(WORK, sample_seconds=0.1)  # 0.1 / 4 x 64 samples = 1.6 s
    assert step_time(slow, CLUSTER, 1) == pytest.approx((0.384, 0, 1.216))


def test_a_share_is_rounded_up_and_gpus_beyond_the_batch_idle():
    assert step_time(WORK, CLUSTER, 48)[0] == pytest.approx(2 * 0.006)
    most, more = (estimate(WORK, CLUSTER, gpus) for gpus in (64, 4096))
    assert more.step == most.step
    assert more.cost(CLUSTER) == pytest.approx(64 * most.cost(CLUSTER))


def test_failures_cost_what_a_simulation_says():
    failing = changed(CLUSTER, failure=100.0, restart=5)
    chance, need, spent = random.Random(0), 100 * 0.384 + 3, 0.0
    for _ in range(20_000):  # intervals with their checkpoint
        left = need
        while (until := chance.expovariate(1 / 100)) < left:
            spent += until
            left = need + 5
        spent += left
    found = estimate(WORK, failing, 1)
    assert found.seconds == pytest.approx(spent / 20_000 * 10, rel=0.02)
    assert estimate(WORK, changed(failing, failure=1e-3), 1).seconds == math.inf


def test_best_interval_is_a_minimum():
    failing = changed(CLUSTER, failure=5e4)
    steps = best_interval(WORK, failing, 1) / 0.384
    near, *others = (
        estimate(changed(WORK, steps=100_000, save_every=round(steps * factor)), failing, 1).seconds
        for factor in (1, 0.5, 2)
    )
    assert near < min(others)


def test_what_is_measured_is_the_models():
    recipe = resolve_recipe("digits-mae-tiny", "unused", ["train.steps=50"])
    work = measure(recipe, synthetic_members("vision"), 1797)
    assert (work.batch_size, work.steps) == (64, 50)
    encoder = zoo.create("digits-mae-tiny")
    own = sum(p.numel() for p in encoder.parameters())
    assert own < work.gradient_bytes / 4 < 2 * own  # the decoder is smaller
    assert work.checkpoint_bytes == 3 * work.gradient_bytes
    # 8 visible patches and a class token through three blocks of 12 D^2 weights, at the least
    assert 2 * 9 * 3 * 12 * 64**2 < work.flops < 2e7
    assert work.sample_seconds > 0
    assert not any(p.is_meta for p in encoder.parameters())


def test_flops_of_sound_are_counted_from_its_waveform_on():
    words = ["encoder.depth=1", "encoder.dim=16", "encoder.heads=2"]
    recipe = resolve_recipe("birds-mae-tiny", "unused", words)
    one, all_bytes = measure(recipe, synthetic_members("audio"), 1000), 5 * 32_000 * 2
    assert one.flops > 0
    assert all_bytes <= one.sample_bytes < all_bytes + 100


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder, codec = tmp_path_factory.mktemp("plan") / "shards", VisionCodec()
    image = torch.randint(0, 255, (8, 8), dtype=torch.uint8).numpy()
    samples = ((f"{i:03d}", codec.encode({"image": image})) for i in range(20))
    zoo.write_shards(samples, folder)
    return folder


def test_the_command_shows_what_it_assumes(shards):
    words = ["--model", "digits-mae-tiny", "--data", str(shards), "--gpus", "1", "--price", "9"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert "20 samples, 1,800 steps of 64" in done.output
    assert "9.00 $ a GPU-hour" in done.output
    assert done.output.splitlines()[-1].startswith("1 ")


def test_counts_have_units():
    words = ["--model", "digits-mae-tiny", "--data", "1.7M"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert "1,700,000 samples" in done.output
    assert [line.split()[0] for line in done.output.splitlines()[-2:]] == ["2,048", "4,096"]


def test_what_cannot_be_known_is_refused():
    words = ["--model", "digits-mae-tiny", "--data", "5k", "--gpu", "TPU"]
    with pytest.raises(UsageError, match="no peak is known of 'TPU'"):
        CliRunner().invoke(command, words, catch_exceptions=False)
    with pytest.raises(UsageError, match="give shards"):
        synthetic_members("code")
