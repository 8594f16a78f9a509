import sys

import pytest
import torch
from zoo.hub.export import load_export, save_export
from zoo.hub.weights import load_encoder
from zoo.modalities.volume.merging import MERGING, LegacyPatchMerging
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.swin import Swin3D, Swin3DConfig
from zoo.registry.build import encoder_spec

from zoo.errors import UsageError, WeightsError

SEQUENCES = {1: ("ct",), 3: ("ct", "pet", "mask")}


def swin(channels=1, seed=0, **changes):
    torch.manual_seed(seed)
    config = Swin3DConfig(**{"feature_size": 12, "merging": "legacy"} | changes)
    return Swin3D(config, VolumePreprocessConfig(sequences=SEQUENCES[channels])).eval()


def volumes(count, channels=1):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, 64, 32, 32, generator=generator)


@pytest.fixture(scope="module")
def encoder():
    return swin()


def test_features_are_those_of_monai(encoder):
    """Levels, and their global averages, are what MONAI's own network computes on its way."""
    from monai.networks.nets import SwinUNETR

    monai = SwinUNETR(1, 2, feature_size=12, use_v2=True, downsample=LegacyPatchMerging).eval()
    monai.load_state_dict(encoder.state_dict(), strict=False)
    seen = []
    for name in ("encoder1", "encoder2", "encoder3", "encoder4", "encoder10"):
        monai.get_submodule(name).register_forward_hook(lambda _, __, out: seen.append(out))
    volume = volumes(2)
    with torch.no_grad():
        monai(volume)
        levels, features = encoder.pyramid(volume), encoder({"volume": volume})
    for level, want in zip(levels, seen, strict=True):
        torch.testing.assert_close(level, want, atol=2e-5, rtol=1e-5)
    pooled = torch.cat([level.mean(dim=(2, 3, 4)) for level in seen], dim=1)
    torch.testing.assert_close(features.pooled, pooled, atol=2e-5, rtol=1e-5)
    assert features.grid == (2, 1, 1)
    assert features.tokens.shape == (2, 2, encoder.dim)


def test_the_order_of_merging_matters(encoder):
    """The same weights, without an error, other features: why the order is part of the config."""
    other = swin(merging="v2")
    other.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        found = [one({"volume": volumes(1)}).pooled for one in (encoder, other)]
    assert (found[0] - found[1]).abs().max() > 0.1


def test_micro_batches_change_nothing(encoder):
    """But for rounding, which norms over few channels enlarge."""
    volume, readout = volumes(2), torch.randn(2, encoder.dim)
    results = []
    for size in (None, 1):
        one = swin(micro_batch=size)
        pooled = one({"volume": volume}).pooled
        (pooled * readout).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None])
        results.append((pooled.detach(), gradient))
    (pooled, gradient), (pooled_parts, gradient_parts) = results
    torch.testing.assert_close(pooled, pooled_parts, atol=5e-4, rtol=1e-4)
    assert (gradient - gradient_parts).norm() < 1e-2 * gradient.norm()


def test_one_channel_serves_several(encoder, tmp_path):
    """Weights of one channel, on copies of it, see what they saw."""
    several = swin(channels=3, seed=1)
    state = dict(encoder.state_dict())
    assert set(several.adapt(state)) == {
        "swinViT.patch_embed.proj.weight",
        "encoder1.layer.conv1.conv.weight",
        "encoder1.layer.conv3.conv.weight",
    }
    several.load_state_dict(state)
    with torch.no_grad():
        want = encoder({"volume": volumes(1)}).pooled
        found = several({"volume": volumes(1).expand(-1, 3, -1, -1, -1)}).pooled
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_of_training_loads_strictly(encoder, tmp_path):
    """Prefixes, projectors, a table that is not there; then zoo's own format, bit for bit."""
    state = {
        f"module.backbone.{name}": value
        for name, value in encoder.state_dict().items()
        if not name.endswith("relative_position_index")
    }
    state["module.student.layer1.0.weight"] = torch.zeros(4, 4)
    path = tmp_path / "step.pt"
    torch.save({"global_step": 7, "state_dict": state}, path)
    spec = encoder_spec("voco-base", {"feature_size": 12})
    loaded = load_encoder(spec, path)
    report = loaded.load_report
    assert len(report.loaded) == len(state) - 1
    assert all(name.endswith("relative_position_index") for name in report.new)
    assert set(report.ignored) == {"student.layer1.0.weight"}
    for name, value in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name

    save_export(tmp_path / "export", loaded, spec)
    again = load_export(tmp_path / "export")
    assert again.config == loaded.config
    assert again.config.merging == "legacy"
    with torch.no_grad():
        found = [one({"volume": volumes(1)}).pooled for one in (loaded, again)]
    assert torch.equal(*found)

    del state["module.backbone.encoder2.layer.conv1.conv.weight"]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"missing encoder2\.layer\.conv1\.conv\.weight"):
        load_encoder(spec, path)


def test_odd_grids_are_padded():
    merging = MERGING["v2"](2)
    x = torch.rand(1, 5, 4, 3, 2)
    whole = torch.nn.functional.pad(x, (0, 0, 0, 1, 0, 0, 0, 1))
    assert torch.equal(merging(x), merging(whole))


@pytest.mark.parametrize("shape", [(1, 1, 32, 32, 32), (1, 1, 64, 64, 48), (1, 2, 64, 64, 64)])
def test_other_shapes_are_refused(encoder, shape):
    with pytest.raises(ValueError, match="multiples of 32"):
        encoder({"volume": torch.zeros(shape)})


def test_widths_must_fit_the_heads():
    with pytest.raises(ValueError, match="num_heads"):
        Swin3DConfig(feature_size=10)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "einops", None)
    with pytest.raises(UsageError, match=r"zoo\[volume\]"):
        swin()
