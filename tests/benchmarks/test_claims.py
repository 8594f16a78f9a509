"""Miniatures of claims: their statistics, and that the scripts run, in seconds."""

import json

import pytest
import torch
import zoo.benchmarks.claims.masked as masked
import zoo.benchmarks.claims.paired as paired
from click.testing import CliRunner
from zoo.benchmarks.claims import biphasic, masking_rate
from zoo.benchmarks.claims.packing import padded
from zoo.benchmarks.speed.code import pair, prepare
from zoo.modalities.code.codec import CodeCodec

import zoo


def test_interval_of_paired_differences():
    # t quantile for two degrees of freedom: 4.303
    low, high = paired.interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    assert paired.interval([1.0]) != paired.interval([1.0])  # NaN


def test_padded_batches_are_those_of_the_packed_ones():
    torch.manual_seed(0)
    encoder, objective = pair()
    texts = [torch.randint(4, 8192, (size,)) for size in (5, 30, 12)]
    batch = prepare(texts, objective, encoder)
    with torch.no_grad():
        losses = [objective(encoder, form).total for form in (batch.packed, padded(batch))]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


@pytest.mark.parametrize("script", [masking_rate, biphasic], ids=lambda script: script.CLAIM.name)
def test_claims_run(script, tmp_path, monkeypatch):
    codec, folders = CodeCodec(), {}
    for side, count in (("train", 40), ("test", 8)):
        folders[side] = tmp_path / side
        texts = [f"def f{i}(x):\n    return x + {i}\n" for i in range(count)]
        samples = (
            (f"{i:03d}", codec.encode({"text": text, "facts": {"module": f"m{i % 3}"}}))
            for i, text in enumerate(texts)
        )
        zoo.write_shards(samples, folders[side])
    monkeypatch.setattr(masked, "write_stdlib", lambda folder: folders)
    monkeypatch.setattr(paired, "RESULTS", tmp_path)
    sizes = {"encoder.depth": 1, "encoder.dim": 16, "encoder.heads": 2, "loader.workers": 0}
    more = {"train.warmup": 1, "train.batch_size": 4, "train.loggers": []}
    pretrain = zoo.pretrain

    def small(model, data, out, options, **rest):
        return pretrain(model, data, out, options | sizes | more, **rest)

    monkeypatch.setattr(zoo, "pretrain", small)
    done = CliRunner().invoke(script.command, ["--steps", "4"], catch_exceptions=False)
    assert "paired by seed" in done.output
    found = json.loads((tmp_path / f"claim_{script.CLAIM.name}.json").read_text())
    assert [len(values) for values in found["values"].values()] == [3, 3]
    ours, base = (found["values"][way] for way in script.CLAIM.ways)
    assert found["difference"] == pytest.approx(sum(ours) / 3 - sum(base) / 3, abs=2e-5)
    assert found["interval_95"][0] <= found["difference"] <= found["interval_95"][1]
    assert found["modules"] == 3
