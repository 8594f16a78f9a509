"""CLIP as open_clip has it: weights from a hub, the same vectors, zero-shot, training."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from zoo.hub.golden import fingerprint
from zoo.modalities.vision.codec import VisionCodec
from zoo.objectives.image_text import ImageText, ImageTextConfig
from zoo.registry import open_clip_models
from zoo.registry.build import build_objective, check_pairing

import zoo
from zoo.errors import DataError, UnknownNameError, UsageError
from zoo.probes.zero_shot import recall_at, zero_shot_classifier, zero_shot_predict

open_clip = pytest.importorskip("open_clip")

TINY = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16,
    },
    "text_cfg": {
        "context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2,
    },
}  # fmt: skip
FACTS = {
    "url": "", "hf_hub": "somebody/tiny-clip/", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25),
    "interpolation": "bilinear", "resize_mode": "squash", "quick_gelu": True,
}  # fmt: skip


@pytest.fixture
def known(monkeypatch):
    """open_clip knows a small model with a set of weights."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"web": FACTS})
    open_clip_models.rows.cache_clear()
    yield
    open_clip_models.rows.cache_clear()


@pytest.fixture
def published(known, hub):
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY, quick_gelu=True).eval()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    hub.add("somebody/tiny-clip", {"open_clip_model.safetensors": save(weights)})
    return model


def images(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 48, 3), dtype=np.uint8) for _ in range(count)]


def test_an_image_tells_towers_apart(known):
    prints = [fingerprint(zoo.create("open-clip/tiny", seed=seed)) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", ["open-clip/tiny", "open-clip/tiny.web"])
def test_published_weights_give_the_same_vectors(published, name):
    encoder = zoo.load(name)
    assert not encoder.load_report.new
    assert not encoder.load_report.ignored
    prepared = open_clip.image_transform(
        32,
        is_train=False,
        mean=FACTS["mean"],
        std=FACTS["std"],
        interpolation="bilinear",
        resize_mode="squash",
    )
    raw = images(3)
    theirs = torch.stack([prepared(Image.fromarray(image)) for image in raw])
    texts = ["a dog", "two cats on a sofa"]
    ids = open_clip.SimpleTokenizer(context_length=12)(texts)
    with torch.no_grad():
        for normalize in (False, True):
            want = published.encode_image(theirs, normalize=normalize)
            got = encoder.encode_image(theirs, normalize=normalize)
            torch.testing.assert_close(got, want)
            want = published.encode_text(ids, normalize=normalize)
            torch.testing.assert_close(encoder.encode_text(texts, normalize=normalize), want)
        # Pixels differ by one level of 255 where libraries round a resized image.
        vectors = torch.from_numpy(encoder.embed(raw))
        want = published.encode_image(theirs)
    assert torch.cosine_similarity(vectors, want).min() > 0.999


def test_what_belongs_to_the_weights_cannot_be_changed(published):
    with pytest.raises(UsageError, match=r"trained with preprocess\.mean"):
        zoo.load("open-clip/tiny.web", preprocess={"mean": [0.5] * 3})
    with pytest.raises(UnknownNameError, match=r"webb.*web"):
        zoo.load("open-clip/tiny.webb")
    with pytest.raises(UnknownNameError, match="tini"):
        zoo.create("open-clip/tini")


def test_real_names(hub):
    open_clip_models.rows.cache_clear()
    card = zoo.card("open-clip/ViT-B-32.laion2b_s34b_b79k")
    assert card.weights[0].repo == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert not card.encoder["quick_gelu"]
    assert zoo.card("open-clip/ViT-B-32.openai").encoder["quick_gelu"]
    assert "open-clip/ViT-L-14" in zoo.list_models("open-clip/ViT-L*")


def test_zero_shot_is_the_nearest_mean_of_templates(published):
    encoder, names, templates = zoo.load("open-clip/tiny"), ("cat", "dog"), ("a {}", "the {}!")
    classifier = zero_shot_classifier(encoder, names, templates)
    raw = images(5)
    vectors = torch.from_numpy(encoder.embed(raw))
    with torch.no_grad():
        for row, name in zip(classifier, names, strict=True):
            each = encoder.encode_text([f"a {name}", f"the {name}!"], normalize=True)
            torch.testing.assert_close(row, torch.nn.functional.normalize(each.mean(0), dim=0))
    found = zero_shot_predict(encoder, raw, classifier, batch_size=2)
    assert found.tolist() == (vectors @ classifier.T).argmax(1).tolist()
    with pytest.raises(UsageError, match="templates need"):
        zero_shot_classifier(encoder, names, ["a photo"])


def test_recall():
    eye = torch.eye(4)
    assert recall_at(eye, eye, eye.bool(), 1) == 1.0
    assert recall_at(eye, eye, eye.roll(1, 0).bool(), 1) == 0.0
    assert recall_at(eye, eye, eye.roll(1, 0).bool(), 4) == 1.0


def pair(**options):
    encoder = zoo.create("open-clip/tiny", seed=0)
    return encoder, build_objective({"name": "image_text", **options}, encoder)


def samples():
    codec, colours = VisionCodec(), {"red": 0, "green": 1, "blue": 2}
    for name, channel in [*colours.items()] * 2:
        image = np.zeros((32, 32, 3), np.uint8)
        image[..., channel] = 200
        raw = {"image": image, "text": f"a {name} square", "facts": {"alt": "nothing"}}
        yield codec.decode(codec.encode(raw))


def test_pairs_find_each_other(known):
    encoder, objective = pair()
    generator = torch.Generator().manual_seed(0)
    prepared = [objective.prepare(one, encoder.preprocess, generator) for one in samples()]
    batch = encoder.preprocess.collate(prepared)
    assert batch["caption_ids"][0] == batch["caption_ids"][3]
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    curve = []
    for _ in range(20):
        losses = objective(encoder, batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        objective.after_step(encoder)
        curve.append(losses.total.item())
    assert all(p.grad is not None for p in encoder.parameters())
    assert curve[-1] < 0.5 * curve[0]
    with torch.no_grad():
        encoder.logit_scale.fill_(9.0)
    objective.after_step(encoder)
    assert encoder.logit_scale.exp().item() == pytest.approx(100.0)


def test_entities_are_a_second_task(known):
    encoder, objective = pair(entities={"count": 9, "sampled": 4, "weight": 0.5})
    generator = torch.Generator().manual_seed(0)
    labelled = [one | {"label": i % 3} for i, one in enumerate(samples())]
    prepared = [objective.prepare(one, encoder.preprocess, generator) for one in labelled]
    batch = encoder.preprocess.collate(prepared)
    trained = [*encoder.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    curve = []
    for _ in range(20):
        parts = (losses := objective(encoder, batch)).parts
        assert losses.total == parts["contrast"] + 0.5 * parts["entities"]
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        curve.append([part.item() for part in parts.values()])
    assert all(last < 0.5 * first for first, last in zip(curve[0], curve[-1], strict=True))
    with pytest.raises(DataError, match=r"class 9: objective\.entities\.count is only 9"):
        objective.prepare(labelled[0] | {"label": 9}, encoder.preprocess, generator)
    with pytest.raises(DataError, match="without a label"):
        objective.prepare(next(samples()), encoder.preprocess, generator)


def test_captions_are_mixed_by_their_shares(known):
    _, objective = pair(captions=["txt", "alt", "absent"], caption_shares=[0.25, 0.75, 5.0])
    sample, generator = next(samples()), torch.Generator().manual_seed(0)
    drawn = [objective._caption(sample, generator) for _ in range(400)]
    assert drawn.count("nothing") / len(drawn) == pytest.approx(0.75, abs=0.1)
    with pytest.raises(DataError, match="no caption: neither of txt"):
        objective._caption({"image": sample["image"]}, generator)


def test_what_does_not_go_together(known):
    with pytest.raises(UsageError, match="'image_text' needs a tower of texts beside its own"):
        check_pairing({"name": "vit"}, {"name": "image_text"})
    with pytest.raises(zoo.ZooError, match="needs an encoder with a bias"):
        pair(loss="sigmoid")
    with pytest.raises(ValueError, match="go together"):
        ImageTextConfig(captions=("txt", "alt"))
    assert issubclass(ImageText, torch.nn.Module)
