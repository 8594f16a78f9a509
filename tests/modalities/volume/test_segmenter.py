import pytest
import torch
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.segmenter import UNETRTrunk
from zoo.modalities.volume.swin import Swin3D, Swin3DConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig

from zoo.errors import UsageError

SIZE = (32, 32, 48)


def swin(**changes):
    torch.manual_seed(0)
    config = Swin3DConfig(**{"feature_size": 12, "merging": "v2"} | changes)
    return Swin3D(config, VolumePreprocessConfig())


def vit(sequences=("ct",), **changes):
    torch.manual_seed(0)
    config = ViT3DConfig(**{"dim": 24, "depth": 3, "heads": 2, "norm_eps": 1e-5} | changes)
    return ViT3D(config, VolumePreprocessConfig(sequences=sequences, size=SIZE))


def test_swin_equals_monais_own_bit_for_bit():
    """Built by MONAI itself, with its own merging, weights of the encoder and of the decoder."""
    from monai.networks.nets import SwinUNETR

    encoder = swin()
    segmenter = encoder.segmenter(3)
    ours = segmenter.state_dict()
    monai = SwinUNETR(1, 3, feature_size=12, use_v2=True, downsample="mergingv2")
    assert {name: value.shape for name, value in monai.state_dict().items()} == {
        name: value.shape for name, value in ours.items()
    }
    monai.load_state_dict(encoder.state_dict(), strict=False)
    new = {name: v for name, v in ours.items() if name.startswith(("decoder", "out."))}
    monai.load_state_dict(new, strict=False)
    volume = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        assert torch.equal(segmenter.eval()(volume), monai.eval()(volume))


def test_merging_of_the_encoder_reaches_the_segmenter():
    encoder = swin(merging="legacy")
    other = swin(merging="v2").segmenter(2)
    segmenter = encoder.segmenter(2)
    other.load_state_dict(segmenter.state_dict())
    volume = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(segmenter(volume), other(volume), atol=1e-3)


def test_the_encoder_stays_as_it_is():
    for encoder in (swin(), vit()):
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        with torch.no_grad():
            for p in encoder.segmenter(2).parameters():
                p.add_(1.0)
        assert all(torch.equal(before[name], v) for name, v in encoder.state_dict().items())


def test_whole_scans_go_through_a_sliding_window():
    from monai.inferers import sliding_window_inference

    for encoder in (swin(), vit(("t1", "flair"))):
        channels = len(encoder.preprocess.config.sequences)
        scan, segmenter = torch.rand(1, channels, 40, 33, 32), encoder.segmenter(2).eval()
        roi = (64, 32, 32) if isinstance(encoder, Swin3D) else SIZE
        with torch.no_grad():
            found = sliding_window_inference(scan, roi, 2, segmenter, mode="gaussian")
        assert found.shape == (1, 2, 40, 33, 32)
        assert found.isfinite().all()


def test_vit_equals_monais_own():
    """One sequence is MONAI's UNETR itself, with our weights in its transformer."""
    from monai.networks.nets import UNETR

    encoder = vit(depth=12)
    segmenter = encoder.segmenter(2).eval()
    monai = UNETR(1, 2, SIZE, hidden_size=24, mlp_dim=96, num_heads=2, qkv_bias=True).eval()
    names = {"patch_embed.ct.": "patch_embedding.patch_embeddings."}
    names |= {".attn.proj.": ".attn.out_proj.", ".mlp.fc": ".mlp.linear"}
    state = {"vit.patch_embedding.position_embeddings": encoder.patch_embed.positions}
    for name, value in segmenter.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = value
    state |= {name: v for name, v in monai.state_dict().items() if "norm_cross_attn" in name}
    monai.load_state_dict(state)
    volume = torch.rand(1, 1, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(segmenter(volume), monai(volume), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 4, 12, 24])
def test_any_depth_fills_the_places_that_monai_reads(depth):
    encoder = vit(depth=depth)
    trunk = UNETRTrunk(encoder.config, encoder.preprocess.config)
    volume = torch.rand(1, 1, *SIZE)
    last, spread = trunk(volume)
    states = trunk.states(volume)
    assert len(spread) == 12
    assert torch.equal(last, trunk.norm(states[-1]).mean(dim=1))
    found = [next(j for j, s in enumerate(states) if torch.equal(s.mean(dim=1), x)) for x in spread]
    assert found == sorted(found)
    if depth == 12:
        assert found == list(range(12))


def test_what_monai_cannot_is_refused():
    with pytest.raises(UsageError, match="multiple of 12"):
        swin(feature_size=6).segmenter(2)
    with pytest.raises(UsageError, match="patch_size 16"):
        vit(patch_size=8).segmenter(2)
