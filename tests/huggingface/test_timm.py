"""What timm makes of our ViTs, and we of its models: the same features."""

import re

import pytest
import torch
from safetensors.torch import save
from zoo.hub.timm import save_timm

import zoo
from zoo.errors import UsageError

SMALL = {"dim": 24, "depth": 2, "heads": 2}


def same_features(model, encoder):
    image = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        theirs, ours = model.eval()(image), encoder.eval()({"image": image}).pooled
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("pool", ["cls", "mean", "mean_norm"])
def test_timm_gives_equal_features(tmp_path, pool):
    timm = pytest.importorskip("timm")
    encoder = zoo.create("digits-mae", seed=1, pool=pool, pos_embed="learned", **SMALL)
    for norm in (m for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)):
        torch.nn.init.normal_(norm.weight)
    save_timm(tmp_path / "vit", encoder)
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True)
    same_features(model, encoder)
    assert [*timm.data.resolve_model_data_config(model)["mean"]] == [0.29]


def test_what_timm_does_not_have(tmp_path):
    with pytest.raises(UsageError, match="timm has only plain ViTs"):
        save_timm(tmp_path / "x", zoo.create("stdlib-mlm", dim=24, depth=1, heads=2))
    assert not (tmp_path / "x").exists()


@pytest.fixture
def published(hub):
    """A small model as timm publishes it, with a classifier."""
    model = pytest.importorskip("timm").create_model("test_vit")
    hub.add("timm/test_vit.r160_in1k", {"model.safetensors": save(model.state_dict())})
    return model.eval()


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_vit.r160_in1k"])
def test_published_weights_of_timm_with_their_preprocessing(published, hub, name):
    encoder = zoo.load(name)
    assert set(encoder.load_report.loaded) == set(encoder.state_dict())
    assert set(encoder.load_report.ignored) == {"model.head.weight", "model.head.bias"}
    facts, constants = published.pretrained_cfg, encoder.preprocess.config
    for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode"):
        assert getattr(constants, key) == facts[key]
    image = torch.rand(2, *facts["input_size"])
    with torch.no_grad():
        theirs = published.forward_head(published.forward_features(image), pre_logits=True)
        torch.testing.assert_close(encoder({"image": image}).pooled, theirs)
    hub.requests.clear()
    zoo.load(name)
    assert not hub.requests


def test_constants_of_the_weights_cannot_be_changed(published):
    said = re.escape("preprocess.mean = (0.5, 0.5, 0.5), not (0.1, 0.1, 0.1)")
    with pytest.raises(UsageError, match=f"^timm/test_vit: its weights were trained with {said}"):
        zoo.load("timm/test_vit", preprocess={"mean": [0.1] * 3})
    with pytest.raises(UsageError, match="interpolation = bicubic, not bilinear"):
        zoo.load("timm/test_vit", preprocess={"interpolation": "bilinear"})
    encoder = zoo.load("timm/test_vit", preprocess={"crop_pct": 1.0}, img_size=64)
    assert encoder.preprocess.config.crop_pct == 1.0
    assert encoder.load_report.resized == ("model.pos_embed",)
