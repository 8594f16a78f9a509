"""Probes: metrics by hand, heads that find what is there, few shots, and the facade."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from zoo.modalities.vision.codec import VisionCodec

import zoo
from zoo.errors import DataError, UnknownNameError, UsageError
from zoo.probes import samples as samples_module
from zoo.probes.attentive import Attentive
from zoo.probes.finetune import FinetuneRecipe, Tuned, _optimizer, held
from zoo.probes.frozen import pooled, token_map
from zoo.probes.heads import HeadRecipe, Linear, Standardize, predict, train_head
from zoo.probes.losses import asymmetric
from zoo.probes.metrics import auroc, average_precision, top1
from zoo.probes.prototypical import Prototypical
from zoo.probes.samples import Labelled, label_arrays
from zoo.probes.score import bootstrap, mean_score, score_of
from zoo.probes.shots import choose
from zoo.probing import knn_probe, knn_votes, linear_probe

SCORES = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.3], [0.3, 0.6, 0.9], [0.1, 0.2, 0.4]], np.float32)
TARGETS = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)


def test_metrics_by_hand():
    """Class 0: positives at ranks 1 and 3; class 1: at rank 1; class 2 has no positive."""
    cmap, skipped = average_precision(SCORES, TARGETS)
    assert cmap == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert skipped == 1
    # Pairs of a positive and a negative in the right order: 3 of 4, and 3 of 3.
    assert auroc(SCORES, TARGETS) == pytest.approx((3 / 4 + 1) / 2)
    # The last sample has no label; of the others the first is right.
    assert top1(SCORES, TARGETS) == pytest.approx(1 / 3)


def test_equal_scores_count_together():
    """Exact thresholds: two samples with one score are taken at once."""
    scores = np.array([[0.5], [0.5], [0.1]], np.float32)
    assert average_precision(scores, np.array([[1], [0], [0]], bool))[0] == pytest.approx(0.5)


def test_nothing_to_measure_is_not_a_number():
    nothing = np.zeros_like(TARGETS)
    cmap, skipped = average_precision(SCORES, nothing)
    assert (math.isnan(cmap), skipped) == (True, 3)
    assert math.isnan(auroc(SCORES, nothing))
    assert math.isnan(auroc(SCORES, ~nothing))
    assert math.isnan(top1(SCORES, nothing))


def test_scores_of_one_and_of_several_labels():
    one = score_of("x", SCORES, np.array([0, 1, 2, 1]), "p")
    assert (one.accuracy, one.balanced) == (0.5, pytest.approx(2 / 3))
    assert one.predictions.tolist() == [0, 0, 2, 2]
    several = score_of("x", SCORES, TARGETS.astype(np.int64), "p")
    assert several.cmap == average_precision(SCORES, TARGETS)[0]
    assert math.isnan(several.balanced)
    mean = mean_score([one, several])
    assert mean.accuracy == pytest.approx((0.5 + 1 / 3) / 2)
    assert mean.interval("accuracy") == pytest.approx((1 / 3, 0.5))
    assert all(map(math.isnan, one.interval()))


def test_bootstrap_covers_the_mean():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = bootstrap(rng.normal(0.5, 0.1, 20), draws=400)
        hits += low <= 0.5 <= high
    assert 85 <= hits <= 99


def test_asymmetric_loss_by_hand():
    logits, targets = torch.tensor([[0.0, 0.0, -10.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    # p = 1/2: a positive costs p ln 2; a negative (p - 0.05)^4 times -ln(1 - p + 0.05); p < 0.05: 0
    want = (0.5 * math.log(2) - 0.45**4 * math.log(0.55)) / 3
    assert asymmetric(logits, targets).item() == pytest.approx(want, rel=1e-6)


def test_shots():
    labels = np.array([0] * 10 + [1] * 3 + [2] * 1)
    chosen = choose(labels, 5, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 1]
    assert chosen.tolist() == choose(labels, 5, seed=0).tolist() == sorted(set(chosen.tolist()))
    assert chosen.tolist() != choose(labels, 5, seed=1).tolist()
    several = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])
    taken = several[choose(several, 2, seed=0)]
    assert taken.sum(axis=0).tolist() == [2, 2]


def test_votes_of_several_labels_are_those_of_one():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(2, 30, 5)).astype(np.float32)
    labels = rng.integers(0, 4, 30)
    options = {"k": 7, "temperature": 0.1, "classes": 4}
    one = knn_votes(train, labels, test, **options)
    several = knn_votes(train, np.eye(4, dtype=np.int64)[labels], test, **options)
    np.testing.assert_allclose(several, one, rtol=1e-6)


def test_linear_probe_with_too_few_samples_to_choose_on():
    x = np.array([[0.0, 1], [1, 0], [5, 5]], np.float32)
    score = linear_probe(x, np.array([0, 1, 3]), x, np.array([0, 1, 3]))
    assert score.accuracy == 1
    assert "for want of samples" in score.protocol
    assert knn_probe(x, np.array([0, 1, 3]), x, np.array([0, 1, 2]), k=1).accuracy < 1


def test_standardisation_is_that_of_the_training_set():
    x = torch.randn(300, 4, 3) * torch.tensor([1.0, 50.0, 0.01]) + 7
    x[..., 2] = 3.0  # a constant stays finite
    done = Standardize(x.half())(x.half().float())
    assert done[..., :2].mean((0, 1)).abs().max() < 0.05
    assert (done[..., :2].std((0, 1)) - 1).abs().max() < 0.01
    assert done.isfinite().all()


def test_prototypes_find_a_class_anywhere():
    """A pattern at a random place among 16: its mean over places is weak, its maximum is not."""
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    tokens = 0.3 * torch.randn(90, 16, 32)
    tokens[torch.arange(90), torch.randint(16, (90,))] += 4 * torch.eye(32)[labels]
    recipe = HeadRecipe(epochs=40, batch_size=20, lr=1e-2, standardize=False)
    head = Prototypical(32, 3, grid=(4, 4), per_class=2)
    before = head.penalty().item()
    model = train_head(head, tokens[:60], labels[:60], recipe, seed=0)
    assert (predict(model, tokens[60:]).argmax(1) == labels[60:].numpy()).mean() > 0.9
    assert head.penalty().item() < before


@pytest.mark.parametrize("grid", [(6,), (2, 3), (1, 2, 3)])
def test_upsampling_after_the_product_is_the_same(grid):
    """The reference upsamples the tokens, then compares."""
    torch.manual_seed(0)
    head, tokens = Prototypical(5, 2, grid=grid, prefix=1, per_class=3), torch.randn(2, 7, 5)
    x = (tokens[:, 1:] - tokens[:, :1]).transpose(1, 2).unflatten(2, grid)
    mode = ("linear", "bilinear", "trilinear")[len(grid) - 1]
    x = torch.nn.functional.interpolate(x, scale_factor=2, mode=mode)
    cosines = torch.einsum("bd...,pd->bp...", x, head.prototype_vectors)
    cosines = cosines / x.norm(dim=1, keepdim=True)
    cosines = cosines / head.prototype_vectors.norm(dim=1).view(1, -1, *[1] * len(grid))
    torch.testing.assert_close(head.similarity(tokens), cosines.relu() / 1.01, atol=1e-3, rtol=0)


def test_the_same_seed_trains_the_same_head():
    x, y = torch.randn(40, 6), (torch.rand(40, 3) > 0.5).float()
    found, recipe = [], HeadRecipe(epochs=2, batch_size=8)
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        head = Linear(6, 3)
        found.append(predict(train_head(head, x, y, recipe, seed=seed), x))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


class Bits(VisionCodec):
    """The label's bits are labels: 0 none, 1 and 2 one, 3 both."""

    def decode(self, members):
        sample = super().decode(members)
        label = sample.pop("label")
        return sample | {"facts": {"labels": [bit for bit in (0, 1) if label >> bit & 1]}}


def images(count, start=0):
    """Bit 0: bright on the left; bit 1: bright at the top."""
    rng, codec = np.random.default_rng(start), VisionCodec()
    for i in range(count):
        image = rng.integers(0, 60, (8, 8), dtype=np.uint8)
        image[:, :4] += 150 * (i & 1)
        image[:4] += 45 * (i >> 1 & 1)
        yield f"{i:03d}", codec.encode({"image": image, "label": i % 4})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    for name, count, start in (("train", 64, 0), ("test", 32, 1000)):
        zoo.write_shards(images(count, start), folder / name)
    return {name: folder / name for name in ("train", "test")}


@pytest.fixture(scope="module")
def encoder():
    return zoo.create("digits-mae", seed=0, dim=32, depth=1, heads=2, drop_path=0.5)


QUICK = {"epochs": 20, "batch_size": 16, "lr": 1e-2}
OPTIONS = {"knn": {}, "linear": {}, "finetune": {"epochs": 8, "batch_size": 16, "lr": 5e-3}}


@pytest.mark.parametrize("kind", ["knn", "linear", "attentive", "prototypical", "finetune"])
def test_every_kind_beats_chance(shards, encoder, kind):
    before = copy.deepcopy(encoder.state_dict())
    score = zoo.probe(encoder, **shards, kind=kind, k=3, options=OPTIONS.get(kind, QUICK))
    assert score.kind == kind
    assert score.accuracy >= 0.6  # chance is a quarter
    assert score.cmap > 0.6
    assert score.skipped == 0
    assert encoder.training  # as it was; frozen in between
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("kind", ["knn", "linear", "prototypical", "finetune"])
def test_several_labels(shards, encoder, kind, monkeypatch):
    monkeypatch.setattr(samples_module, "build_codec", lambda modality: Bits())
    options = QUICK | ({"epochs": 8} if kind == "finetune" else {})
    score = zoo.probe(encoder, **shards, kind=kind, k=3, options=options)
    assert score.cmap > 0.75  # chance is a half
    assert score.predictions.max() <= 1
    assert math.isnan(score.balanced)


@pytest.mark.parametrize("kind", ["linear", "prototypical"])
def test_one_label_to_learn_from_several_to_find(shards, encoder, kind, monkeypatch):
    """Bird recordings are labelled with one species, soundscapes with all that are heard."""
    codecs = iter([VisionCodec(), Bits()])
    monkeypatch.setattr(samples_module, "build_codec", lambda modality: next(codecs))
    score = zoo.probe(encoder, **shards, kind=kind, options=QUICK)
    assert "asymmetric loss" in score.protocol
    assert score.skipped == 2  # classes 2 and 3 are only learned


@pytest.mark.parametrize("kind", ["knn", "linear", "prototypical", "finetune"])
def test_few_shots_over_seeds(shards, encoder, kind):
    options = {"prototypical": QUICK, "finetune": OPTIONS["finetune"]}.get(kind, {})
    score = zoo.probe(encoder, **shards, kind=kind, shots=2, seeds=3, options=options)
    assert len(score.runs) == 3
    assert score.accuracy == pytest.approx(np.mean([run.accuracy for run in score.runs]))
    low, high = score.interval("cmap")
    assert 0 < low <= score.cmap <= high <= 1
    again = zoo.probe(encoder, **shards, kind=kind, shots=2, seeds=3, options=options)
    assert [run.accuracy for run in again.runs] == [run.accuracy for run in score.runs]


def test_mixed_samples_have_the_labels_of_both():
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1]])
    holds = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)
    assert held({"holds": holds}, targets).tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 1]]
    assert held({}, targets) is targets
    single = torch.tensor([0, 1, 2])
    assert held({"holds": holds}, single) is single


def test_pooling_before_and_behind_the_norm(encoder):
    batch = {"image": torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)}
    frozen = copy.deepcopy(encoder).eval()
    frozen.norm.weight.data *= 3.0
    tokens = token_map(frozen, batch)
    assert tokens.x.shape == (3, 1 + 16, 32)
    assert tokens.grid == (4, 4)
    behind = pooled(frozen, batch, "norm")
    torch.testing.assert_close(behind, tokens.x[:, 1:].mean(1))
    torch.testing.assert_close(pooled(frozen, batch, "encoder"), frozen(batch).pooled)


def test_lower_layers_learn_slower(encoder):
    model = Tuned(encoder, Prototypical(32, 4, grid=(4, 4)), "encoder")
    optimizer = _optimizer(model, FinetuneRecipe(lr=1e-3, layer_decay=0.5))
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: g for g in optimizer.param_groups for p in g["params"]}
    scales = {name: group["lr_scale"] for name, group in found.items()}
    assert scales["encoder.cls_token"] == 0.25
    assert scales["encoder.blocks.0.attn.qkv.weight"] == 0.5
    assert scales["head.weight"] == 1.0
    assert scales["head.prototype_vectors"] == pytest.approx(40)
    assert found["encoder.blocks.0.attn.qkv.bias"]["weight_decay"] == 0
    assert found["head.prototype_vectors"]["weight_decay"] > 0
    assert set(names.values()) - set(found) == {"encoder.pos_embed"}


def test_attention_ignores_the_prefix():
    head, tokens = Attentive(8, 2, heads=2, prefix=1), torch.randn(2, 5, 8)
    other = tokens.clone()
    other[:, 0] = 9
    assert torch.equal(head(tokens), head(other))


def test_labels_of_both_sides_agree():
    assert [a.tolist() for a in label_arrays([0, 2], [1])] == [[0, 2], [1]]
    one, two = label_arrays([0, ()], [(1, 2)])
    assert (one.tolist(), two.tolist()) == ([[1, 0, 0], [0, 0, 0]], [[0, 1, 1]])


def test_classes_are_matched_by_name(shards, encoder, tmp_path):
    """Two folders number their classes on their own, and the test set may lack some."""
    codec, names = VisionCodec(), ["a", "b", "c", "d"]
    sets = {"train": (images(64), names), "test": (images(32, 1000), ["x", *names[::-1]])}
    for name, (samples, classes) in sets.items():
        renumbered = []
        for key, members in samples:
            sample = codec.decode(members)
            number = classes.index(names[sample["label"]])
            renumbered.append((key, members | {"cls": str(number).encode()}))
        zoo.write_shards(renumbered, tmp_path / name)
        manifest = tmp_path / name / "manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"classes": classes}))
    wanted = zoo.probe(encoder, **shards, kind="knn", k=5)
    found = zoo.probe(encoder, tmp_path / "train", tmp_path / "test", kind="knn", k=5)
    assert found.accuracy == wanted.accuracy
    test = Labelled(encoder, tmp_path / "test", classes=names)
    assert (test.classes, test.labels[:4]) == ([*names, "x"], [0, 1, 2, 3])
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"classes": ["a"]}))
    with pytest.raises(DataError, match=r"sample '000': class 4, the manifest names 1"):
        zoo.probe(encoder, tmp_path / "train", tmp_path / "test", kind="knn")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "magic"}, UnknownNameError, "unknown probe 'magic'"),
        ({"seeds": 0}, UsageError, "seeds=0"),
        ({"shots": 0}, UsageError, "shots=0"),
        ({"options": {"epoch": 3}}, UsageError, "nearest: epochs"),
        ({"kind": "knn", "k": 1000}, UsageError, "1000 neighbours of 64"),
    ],
)
def test_wrong_requests(shards, encoder, options, error, message):
    with pytest.raises(error, match=message):
        zoo.probe(encoder, **shards, **options)


def test_bad_labels_are_named(shards, encoder, monkeypatch):
    monkeypatch.setattr(samples_module, "build_codec", lambda modality: Bits())
    monkeypatch.setattr(Bits, "decode", lambda self, members: {"facts": {"labels": [1.5]}})
    with pytest.raises(DataError, match=r"00000\.tar, sample '000': labels \[1\.5\] are no list"):
        zoo.probe(encoder, **shards, kind="prototypical")


def test_mae_s_linear_probing(shards, encoder):
    options = QUICK | {"optimizer": "lars", "standardize": "batch", "lr": 3.0, "batch_size": 21}
    score = zoo.probe(encoder, **shards, kind="linear", options=options)
    assert score.accuracy >= 0.6  # chance is a quarter
    assert "standardised by batch" in score.protocol
    assert "lars" in score.protocol
    with pytest.raises(UsageError, match="is for pooled features"):
        zoo.probe(encoder, **shards, kind="attentive", options=options)
