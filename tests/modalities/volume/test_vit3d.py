import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig, patchify, unpatchify
from zoo.objectives.mae import MAE, MAEConfig

import zoo
from zoo.errors import ConfigError, WeightsError

MRI = ("t1", "t1ce", "t2", "flair")
SIZE = (16, 24, 8)
KINDS = ("weight", "bias")
SMALL = {"dim": 24, "depth": 2, "heads": 2, "patch_size": 8}


def vit(sequences=MRI, intensity="z-score", **changes):
    torch.manual_seed(0)
    constants = VolumePreprocessConfig(
        modality="mr", sequences=sequences, size=SIZE, intensity=intensity
    )
    return ViT3D(ViT3DConfig(**SMALL | changes), constants).eval()


def volumes(count, sequences=MRI):
    return torch.randn(count, len(sequences), *SIZE, generator=torch.Generator().manual_seed(1))


@settings(deadline=None, max_examples=20, database=None)
@given(
    grid=st.tuples(*[st.integers(1, 3)] * 3),
    patch=st.sampled_from([1, 2, 4]),
    sequences=st.integers(1, 3),
)
def test_patchify_round_trip(grid, patch, sequences):
    sizes = [patch * side for side in grid]
    volume = torch.arange(2 * sequences * torch.Size(sizes).numel()).float()
    volume = volume.view(2, sequences, *sizes)
    patches = patchify(volume, patch)
    assert torch.equal(unpatchify(patches.flatten(1, 2), grid, patch), volume)
    second = volume[0, -1, :patch, :patch, sizes[2] - patch :]  # the last of the first row
    assert torch.equal(patches[0, -1, grid[2] - 1], second.flatten())


def test_patch_projection_is_its_convolution():
    encoder, volume = vit(), volumes(1)
    tokens = encoder.tokenize({"volume": volume}).x.unflatten(1, (4, -1))
    for i, name in enumerate(MRI):
        want = encoder.patch_embed[name](volume[:, i : i + 1]).flatten(2).transpose(1, 2)
        want = want + encoder.patch_embed.positions
        torch.testing.assert_close(tokens[:, i], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_missing_sequences_are_as_if_they_had_never_been(pool):
    """A batch of different subsets gives each volume what it gets alone, in a smaller encoder."""
    encoder, volume = vit(pool=pool), volumes(3)
    present = torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0]], dtype=torch.bool)
    volume = volume * present[:, :, None, None, None]
    with torch.no_grad():
        together = encoder({"volume": volume, "present": present})
        assert together.grid == (4, 2, 3, 1)
        for i, row in enumerate(present):
            names = tuple(name for name, there in zip(MRI, row, strict=True) if there)
            alone = vit(names, pool=pool)
            alone.load_state_dict(
                {k: v for k, v in encoder.state_dict().items() if k in alone.state_dict()}
            )
            want = alone({"volume": volume[i : i + 1, row]})
            torch.testing.assert_close(together.pooled[i], want.pooled[0], atol=1e-5, rtol=1e-4)
            count = want.tokens.shape[1]
            found = together.tokens[i]
            torch.testing.assert_close(found[:count], want.tokens[0], atol=1e-5, rtol=1e-4)
            assert not found[count:].any()


def test_a_common_subset_costs_only_its_own_tokens():
    encoder = vit()
    present = torch.tensor([[True, False, False, True]] * 2)
    features = encoder({"volume": volumes(2), "present": present})
    assert features.tokens.shape == (2, 12, 24)
    assert features.grid is None
    tokens = encoder.tokenize({"volume": volumes(2), "present": present})
    assert tokens.valid.tolist() == [[True] * 6 + [False] * 12 + [True] * 6] * 2


def test_the_shared_mae_learns_on_one_sequence():
    encoder = vit(("ct",), "window").train()
    task = MAEConfig(decoder_dim=24, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)
    objective = MAE(task, encoder)
    generator = torch.Generator().manual_seed(0)
    samples = [
        objective.views({"volume": volume}, generator) for volume in volumes(2, ("ct",)).abs()
    ]
    batch = encoder.preprocess.collate(samples)
    objective(encoder, batch).total.backward()
    assert all(p.grad is not None for p in encoder.parameters())
    titles = [title for title, _ in objective.pictures(encoder, batch)]
    assert len(titles) == 3


def test_pictures_are_middle_slices_as_radiologists_see_them():
    encoder = vit(("t1", "flair"), "window")
    volume = torch.zeros(1, 2, *SIZE)
    volume[0, 1, -1, -1, 4] = 1.0  # at the patient's right, in front, in the middle slice
    values = patchify(volume, 8).flatten(1, 2)
    picture = encoder.draw(values)
    assert picture.shape == (1, 24, 32, 1)
    assert picture.dtype == torch.uint8
    assert picture.nonzero().tolist() == [[0, 0, 16, 0]]
    hidden = torch.ones(values.shape[:2], dtype=torch.bool)
    assert set(encoder.draw(values, hidden).flatten().tolist()) == {128}


def test_a_published_file_serves_fewer_sequences(tmp_path):
    """Of the others the projections are left out; a sequence that it lacks is an error."""
    state = {}
    for name, value in vit().state_dict().items():
        place, _, rest = name.partition(".")
        if place == "patch_embed":
            name = "tokenizers.{}.patch_embedding.patch_embeddings.{}".format(*rest.split("."))
        name = name.replace(".attn.proj.", ".attn.out_proj.").replace(".mlp.fc", ".mlp.linear")
        state[name] = value
    state["blocks.0.norm_cross_attn.weight"] = torch.ones(24)
    path = tmp_path / "bmmae.pth"
    torch.save(state, path)

    def load(*sequences):
        changes = {"sequences": list(sequences), "size": list(SIZE)}
        return zoo.load("bm-mae", weights=path, preprocess=changes, mlp_ratio=4.0, **SMALL)

    encoder = load("flair", "t1")
    report = encoder.load_report
    assert set(report.loaded) == encoder.state_dict().keys()
    left_out = {f"patch_embed.{name}.{kind}" for name in ("t1ce", "t2") for kind in KINDS}
    assert report.ignored.keys() == {"blocks.0.norm_cross_attn.weight", *left_out}
    assert "built without" in report.ignored["patch_embed.t2.bias"]
    source = vit().patch_embed["flair"].weight
    assert torch.equal(encoder.patch_embed["flair"].weight, source)
    assert encoder.patch_embed.positions.isfinite().all()
    assert not encoder.patch_embed.positions.is_meta
    with pytest.raises(WeightsError, match=r"missing patch_embed\.pet"):
        load("pet")


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="multiples of patch_size"):
        zoo.create("bm-mae", preprocess={"size": [100, 128, 128]})
    with pytest.raises(ValueError, match="the encoder takes"):
        vit()({"volume": torch.zeros(1, 3, *SIZE)})
