"""Models of timm as encoders."""

import numpy as np
import pytest
import torch
from zoo.hub.export import save_export
from zoo.modalities.vision.codec import VisionCodec
from zoo.registry.build import build_objective, encoder_spec

import zoo
from zoo.errors import ConfigError, UnknownNameError, UsageError

timm = pytest.importorskip("timm")
KINDS = {  # channels last, channels first, and tokens with and without prefix
    "swin_tiny_patch4_window7_224": (7, 7),
    "test_convnext": (5, 5),
    "test_vit": (10, 10),
    "eva02_tiny_patch14_224": (16, 16),
}


@pytest.mark.parametrize("name", KINDS)
def test_features_are_timms(name):
    encoder = zoo.create(f"timm/{name}", seed=0).eval()
    size = encoder.config.img_size
    raw = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    model = timm.create_model(name, num_classes=0).eval()
    model.load_state_dict(encoder.model.state_dict())
    facts = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(facts[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        features = encoder({"image": raw})
        torch.testing.assert_close(features.pooled, model((raw.float() / 255 - mean) / std))
    assert features.grid == KINDS[name]
    assert features.tokens.shape == (2, KINDS[name][0] ** 2, encoder.dim)


def test_what_timm_keeps_in_no_file_is_there_after_loading(tmp_path):
    """Built without values: windows' masks and indices would be empty."""
    name = "timm/swin_tiny_patch4_window7_224"
    encoder = zoo.create(name, seed=0).eval()
    save_export(tmp_path / "swin", encoder, encoder_spec(name, {}))
    loaded = zoo.load(tmp_path / "swin")
    image = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded({"image": image}).pooled, encoder({"image": image}).pooled)
    assert loaded.preprocess.config == encoder.preprocess.config


def test_other_sizes():
    encoder = zoo.create("timm/test_vit", img_size=64)
    assert encoder({"image": torch.zeros(1, 3, 64, 64)}).grid == (4, 4)
    encoder = zoo.create("timm/test_convnext", img_size=96, drop_path=0.1)
    assert encoder({"image": torch.zeros(1, 3, 96, 96)}).grid == (3, 3)
    with pytest.raises(ValueError, match=r"takes \(B, 3, 96, 96\)"):
        encoder({"image": torch.zeros(1, 3, 64, 64)})
    with pytest.raises(ConfigError, match=r"timm's vgg11: .* 'drop_path_rate'"):
        zoo.create("timm/vgg11", drop_path=0.1)


def test_names_tags_and_cards():
    assert "timm/vit_tiny_patch16_224" in zoo.list_models("timm/*")
    assert not [name for name in zoo.list_models() if "/" in name]
    assert zoo.list_models("timm/test_vit.*", tags=True) == ["timm/test_vit.r160_in1k"]
    mae, default = (zoo.card(f"timm/vit_base_patch16_224{tag}") for tag in (".mae", ""))
    assert mae.licence.weights == "CC-BY-NC-4.0"
    assert [entry.repo for entry in mae.weights] == ["timm/vit_base_patch16_224.mae"]
    assert mae.preprocess["mean"] != default.preprocess["mean"]
    assert default.weights[0].tag == timm.get_pretrained_cfg("vit_base_patch16_224").tag
    with pytest.raises(UnknownNameError, match="did you mean timm/test_vit"):
        zoo.create("timm/test_vitt")
    with pytest.raises(UnknownNameError, match="unknown weights of timm/test_vit 'r9'"):
        zoo.load("timm/test_vit.r9")


@pytest.mark.parametrize("name", zoo.list_models("dinov2*", pretrained=True))
def test_cards_say_what_timm_says(name):
    card = zoo.card(name)
    (weights,) = [entry for entry in card.weights if name.endswith(f"-{entry.size}")]
    args = card.encoder_args(weights.size)
    facts = timm.get_pretrained_cfg(f"{args['model']}.{weights.tag}")
    assert weights.repo == facts.hf_hub_id
    assert args["img_size"] == facts.input_size[1]
    for key, value in card.preprocess.items():
        said = getattr(facts, key)
        assert value == (list(said) if isinstance(said, tuple) else said)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_convnext"])
def test_views_are_compared(name):
    encoder = zoo.create(name, seed=0, img_size=64)
    options = {"name": "contrastive", "hidden_dim": 16, "output_dim": 8}
    objective = build_objective(options, encoder)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 80, 90), dtype=torch.uint8, generator=generator)
    views = [objective.prepare({"image": image}, encoder.preprocess, generator) for _ in range(3)]
    objective(encoder, encoder.preprocess.collate(views)).total.backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_any_of_them_can_be_pretrained(tmp_path):
    rng, codec = np.random.default_rng(0), VisionCodec()
    images = rng.integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    samples = [(f"{i}", codec.encode({"image": image})) for i, image in enumerate(images)]
    zoo.write_shards(samples, tmp_path / "shards")
    name, words = "timm/test_convnext", {"encoder.img_size": 32, "loader.workers": 0}
    with pytest.raises(UsageError, match=r"has no recipe: .* give one"):
        zoo.pretrain(name, tmp_path / "shards", tmp_path / "run", words)
    words |= {"objective.name": "mae", "train.batch_size": 4, "train.steps": 2, "train.lr": 1e-3}
    with pytest.raises(UsageError, match=r"'mae' needs tokens on a fixed grid .* with contrastive"):
        zoo.pretrain(name, tmp_path / "shards", tmp_path / "run", words)
    words |= {"objective.name": "contrastive", "objective.hidden_dim": 16}
    zoo.pretrain(name, tmp_path / "shards", tmp_path / "run", words, progress=False)
    encoder = zoo.load(tmp_path / "run")
    assert encoder.embed([images[0]]).shape == (1, encoder.dim)
