"""The small convolution network: levels, crops, and the U-Net around it."""

import pytest
import torch
from zoo.modalities.volume.conv import ConvNet3D, ConvNet3DConfig
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.objectives.voco import VoCo

SIZE = (24, 16, 8)


def network(sequences=("ct",), **shape):
    torch.manual_seed(0)
    config = ConvNet3DConfig(**{"widths": (8, 16, 24), **shape})
    return ConvNet3D(config, VolumePreprocessConfig(size=SIZE, sequences=sequences)).eval()


@torch.no_grad()
def test_features_are_means_of_all_levels():
    encoder, volume = network(("t1", "t2")), torch.rand(2, 2, *SIZE)
    levels, features = encoder.pyramid(volume), encoder({"volume": volume})
    shapes = [tuple(level.shape[1:]) for level in levels]
    assert shapes == [(8, 12, 8, 4), (16, 6, 4, 2), (24, 3, 2, 1)]
    wanted = torch.cat([level.mean(dim=(2, 3, 4)) for level in levels], dim=1)
    torch.testing.assert_close(features.pooled, wanted)
    assert features.grid == (3, 2, 1)
    assert features.tokens.shape == (2, 6, encoder.dim)
    assert torch.equal(features.tokens[:, -1, -24:], levels[-1][:, :, 2, 1, 0])


@torch.no_grad()
def test_volumes_do_not_see_each_other():
    assert issubclass(ConvNet3D, VoCo.requires)
    encoder, volumes = network().train(), torch.rand(3, 1, 16, 8, 8)
    alone = torch.cat([encoder({"volume": one[None]}).pooled for one in volumes])
    torch.testing.assert_close(encoder({"volume": volumes}).pooled, alone)


def test_segmenter_has_its_own_copy_and_any_size():
    encoder = network()
    segmenter = encoder.segmenter(3)
    assert segmenter(torch.rand(2, 1, 8, 16, 24)).shape == (2, 3, 8, 16, 24)
    next(segmenter.encoder.parameters()).data.zero_()
    assert next(encoder.parameters()).abs().sum() > 0


def test_widths_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match=r"\(12,\) must be multiples of groups = 8"):
        ConvNet3DConfig(widths=(12,))
