"""The GPU benchmark: its counts of operations, and its machinery with minute models on the CPU."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from zoo.benchmarks.speed import gpu
from zoo.benchmarks.speed.gpu_models import (
    WORKLOADS,
    clip_flops,
    mae_flops,
    masked_lm_flops,
    plain_attention,
    reference_attention,
)
from zoo.modalities.attention import attention
from zoo.modalities.code.encoder import CodeEncoderConfig
from zoo.modalities.vision.vit import ViTConfig
from zoo.objectives.mae import MAEConfig
from zoo.registry.build import build_encoder, encoder_spec

CPU = torch.device("cpu")
# What the compiler says about itself while it traces is no matter of ours.
compiling = pytest.mark.filterwarnings(
    "ignore:Dynamo detected a call to a `functools.lru_cache`",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)


@pytest.mark.parametrize(
    ("config", "giga"),
    [
        (ViTConfig(), 19.6),
        (ViTConfig(dim=1024, depth=24, heads=16), 41.5),
        (ViTConfig(patch_size=14, dim=1280, depth=32, heads=16), 97.1),
    ],
)
def test_mae_operations_equal_the_published_arithmetic(config, giga):
    tokens, values = (config.img_size // config.patch_size) ** 2, 3 * config.patch_size**2
    found = mae_flops(config, MAEConfig(), tokens=tokens, values=values)
    assert found / 1e9 == pytest.approx(giga, abs=0.05)


@pytest.mark.parametrize("name", ["mae-b", "bird-mae-b", "volume-vit-b"])
def test_operations_equal_what_torch_counts(name):
    """With softmax written out every product is one that torch counts."""
    image = WORKLOADS[name](CPU, tiny=True)
    image.objective.eval()  # in training the last block computes hidden patches alone
    with reference_attention(), FlopCounterMode(display=False) as counter:
        image.objective.reconstruct(image.encoder, image.batch(1))  # the pixels of every patch
    assert counter.get_total_flops() == image.cost(image.batch(1)).flops


def test_clip_operations_equal_the_published_arithmetic():
    """open_clip's own profile says 41.09 for ViT-B-16."""
    with torch.device("meta"):
        encoder = build_encoder(encoder_spec("open-clip/ViT-B-16", {}))
    assert clip_flops(encoder) / 1e9 == pytest.approx(41.09, rel=0.01)


def test_masked_lm_operations():
    """Six for each weight and token in training, as usual, then attention, then the head."""
    config = CodeEncoderConfig(vocab_size=100, dim=8, depth=3, heads=2, hidden=12)
    weights = 3 * (4 * 8 * 8 + 3 * 8 * 12)
    scores = 3 * 4 * 8 * (5**2 + 7**2)
    head = 4 * (8 * 8 + 8 * 100)
    assert masked_lm_flops(config, [5, 7], 4) == 2 * weights * 12 + scores + 2 * head


def test_reference_attention_is_attention():
    q, k, v = torch.randn(3, 2, 5, 4, 8)
    torch.testing.assert_close(plain_attention(q, k, v), attention(q, k, v), atol=1e-5, rtol=1e-5)


def test_code_batches_fill_their_budget():
    workload = WORKLOADS["code-base"](CPU, tiny=True)
    for _ in range(20):
        batch = workload.batch(2)
        assert batch["lengths"].sum() == len(batch["ids"]) == 192
        assert workload.cost(batch).samples == len(batch["lengths"])


@compiling
def test_rows_of_models(tmp_path):
    pytest.importorskip("open_clip")
    words = ["--device", "cpu", "--tiny", "--steps", "5", "--backend", "eager", "--date", "today"]
    models = ["mae-b", "clip-vit-b-16"]
    path = gpu.main([*words, "--out", str(tmp_path), *(f"--only={name}" for name in models)])
    assert path == tmp_path / "gpu-cpu-tiny-mae-b-clip-vit-b-16.json"
    kept = json.loads(path.read_text())
    assert kept["date"] == "today"
    assert list(kept["models"]) == models
    clip = kept["models"]["clip-vit-b-16"]
    assert list(clip) == ["eager sdpa", "compile sdpa"]
    assert all(row["steps"] == 5 for row in clip.values()), clip
    rows = kept["models"]["mae-b"]
    assert list(rows) == ["eager reference", "eager sdpa", "compile sdpa"]
    assert rows["eager reference"]["times_faster_than_eager reference"] == 1.0
    assert all(row["batch"] == 4 and row["steps"] == 5 for row in rows.values())
    assert rows["eager sdpa"]["tokens_per_second"] > rows["eager sdpa"]["samples_per_second"]


def test_packed_text_trains_and_is_counted():
    bench = gpu.Bench(WORKLOADS["code-base"](CPU, tiny=True), CPU, backend="eager")
    before = bench.workload.encoder.embedding.weight.clone()
    rows = gpu.measure(bench, gpu.variants(bench.workload)[:1], (2,), 5)
    row = rows["eager sdpa"]
    assert row["tokens_per_second"] * row["median_ms"] / 1e3 == pytest.approx(192, rel=0.01)
    assert not torch.equal(before, bench.workload.encoder.embedding.weight)


@compiling
def test_a_failing_variant_costs_no_other(monkeypatch):
    """The largest batch does not fit, one variant not at all, one breaks down later."""
    bench = gpu.Bench(WORKLOADS["mae-b"](CPU, tiny=True), CPU, backend="eager")
    run, calls = bench.run, []

    def failing(variant, size, count):
        calls.append(variant.name)
        if size == 4 or variant.attention == "reference":
            raise torch.OutOfMemoryError("out of memory")
        if variant.compiled and calls.count(variant.name) > 4:
            raise RuntimeError("broken\nat length")
        return run(variant, size, count)

    monkeypatch.setattr(bench, "run", failing)
    rows = gpu.measure(bench, gpu.variants(bench.workload), (4, 2), 5)
    fine = rows["eager sdpa"]
    assert fine["batch"] == 2
    assert fine["steps"] == 5
    assert not any(key.startswith("times_faster") for key in fine), "there is no base"
    assert rows["eager reference"] == {
        "error": "OutOfMemoryError: out of memory even with batches of 2"
    }
    assert rows["compile sdpa"]["error"] == "RuntimeError: broken"


def test_a_model_that_cannot_be_built_says_so(tmp_path, monkeypatch):
    def broken(device, *, tiny):
        raise ValueError("no such thing")

    monkeypatch.setitem(WORKLOADS, "mae-b", broken)
    path = gpu.main(["--device", "cpu", "--tiny", "--only", "mae-b", "--out", str(tmp_path)])
    assert path.name == "gpu-cpu-tiny-mae-b.json"
    rows = json.loads(path.read_text())["models"]["mae-b"]
    assert rows == {"-": {"error": "ValueError: no such thing"}}
