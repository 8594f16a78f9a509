import pytest
import torch
from zoo.modalities.volume.crop_vit import CropViT3D
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig
from zoo.objectives.mae import MAE
from zoo.objectives.voco import VoCo

SIZE = (24, 16, 8)
CONFIG = ViT3DConfig(dim=24, depth=2, heads=2, patch_size=4, pool="mean")


def vit(cls, sequences=("ct",)):
    torch.manual_seed(0)
    return cls(CONFIG, VolumePreprocessConfig(size=SIZE, sequences=sequences)).eval()


def test_a_whole_volume_is_that_of_the_plain_transformer():
    plain, ours = vit(ViT3D), vit(CropViT3D)
    ours.load_state_dict(plain.state_dict())
    batch = {"volume": torch.rand(2, 1, *SIZE)}
    with torch.no_grad():
        wanted, found = plain(batch), ours(batch)
    torch.testing.assert_close(found.tokens, wanted.tokens, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.pooled, wanted.pooled, atol=1e-6, rtol=1e-5)
    tokens = ours.tokenize(batch), plain.tokenize(batch)
    assert torch.equal(tokens[0].coords, tokens[1].coords)
    assert torch.equal(tokens[0].targets, tokens[1].targets)


def test_crops_go_through_wherever_they_were_cut_out():
    encoder, volume = vit(CropViT3D), torch.rand(1, 1, *SIZE)
    crop = volume[..., 8:16, 8:16, :]
    with torch.no_grad():
        features = encoder({"volume": crop})
        assert torch.equal(features.pooled, encoder({"volume": crop.clone()}).pooled)
    assert features.grid == (2, 2, 2)
    assert features.tokens.shape == (1, 8, 24)


def test_both_objectives_take_it():
    assert issubclass(CropViT3D, MAE.requires)
    assert issubclass(CropViT3D, VoCo.requires)


def test_several_sequences_are_refused():
    with pytest.raises(ValueError, match="one sequence, and there are 2"):
        vit(CropViT3D, ("t1", "t2"))
