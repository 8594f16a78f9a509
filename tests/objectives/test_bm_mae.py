"""BM-MAE: which tokens are visible, sequences that are missing, and one that is made up."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig
from zoo.objectives.bm_mae import BMMAE, BMMAEConfig, draw_noise, draw_shares
from zoo.objectives.mae import MAE, MAEConfig

from zoo.errors import UnknownNameError

SEQUENCES = ("t1", "t1ce", "t2", "flair")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(sequences=SEQUENCES, kind=BMMAE, **options):
    torch.manual_seed(0)
    encoder = ViT3D(
        ViT3DConfig(patch_size=4, dim=24, depth=1, heads=2),
        VolumePreprocessConfig(sequences=sequences, size=(12, 8, 8)),
    )
    config = {BMMAE: BMMAEConfig, MAE: MAEConfig}[kind]
    config = config(decoder_dim=12, decoder_depth=1, decoder_heads=2, **options)
    return encoder, kind(config, encoder)


def batch_of(objective, volumes, present=None):
    present = torch.ones(volumes.shape[:2], dtype=torch.bool) if present is None else present
    samples = [
        objective.views({"volume": volume, "present": row}, seeded(i))
        for i, (volume, row) in enumerate(zip(volumes, present, strict=True))
    ]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


@settings(deadline=None, max_examples=60, database=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=5).filter(any),
    st.integers(1, 30),
    st.floats(0.02, 0.98),
    st.integers(0, 9),
)
def test_the_same_share_of_what_is_there_is_visible(present, tokens, ratio, seed):
    present = torch.tensor(present)
    noise = draw_noise(present, tokens, ratio, seeded(seed)).unflatten(0, (-1, tokens))
    visible = noise < 1
    assert visible.sum() == int(int(present.sum()) * tokens * (1 - ratio))
    assert not visible[~present].any()
    assert (noise[~present] == 1).all()
    assert (noise[present][~visible[present]] > 1).all()


@settings(deadline=None, max_examples=30, database=None)
@given(st.integers(1, 6), st.floats(0.05, 1.5), st.integers(0, 9))
def test_shares_stay_below_their_limit(count, room, seed):
    """Also where hardly any draw does."""
    limit = (1 + room) / count
    shares = draw_shares(count, limit, 5, seeded(seed))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5))
    assert (shares < limit).all()


def test_shares_are_uniform_on_the_simplex():
    """Dirichlet(1, 1, 1): each share has mean 1/3 and variance 1/18."""
    shares = draw_shares(3, 2.0, 20_000, seeded())
    torch.testing.assert_close(shares.mean(dim=0), torch.full((3,), 1 / 3), rtol=0, atol=0.01)
    torch.testing.assert_close(shares.var(dim=0), torch.full((3,), 1 / 18), rtol=0.04, atol=0)


def test_views_are_pure():
    _, objective = pair()
    first, again, other = (objective.views({}, seeded(seed))["noise"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first < 1).sum() == objective.num_visible


def test_missing_sequences_are_in_no_loss():
    """Whatever their channel holds, nothing changes, and their projection learns nothing."""
    encoder, objective = pair()
    present = torch.tensor([[True, False, True, True], [True, False, False, True]])
    volumes = torch.randn(2, 4, 12, 8, 8)
    batch = batch_of(objective, volumes, present)
    losses = objective(encoder, batch)
    assert losses.parts.keys() == set(SEQUENCES)
    assert losses.parts["t1ce"] == 0
    torch.testing.assert_close(losses.total, sum(losses.parts.values()))
    losses.total.backward()
    assert not encoder.patch_embed["t1ce"].weight.grad.any()
    assert encoder.patch_embed["t2"].weight.grad.any()
    changed = torch.where(present[:, :, None, None, None], volumes, 7.0)
    assert objective(encoder, batch | {"volume": changed}).total == losses.total


def test_a_volume_alone_is_as_good_as_among_others():
    """Padding to those that have more sequences is neither seen nor decoded."""
    encoder, objective = pair()
    present = torch.tensor([[True] * 4, [False, True, True, False], [True, False, False, False]])
    batch = batch_of(objective, torch.randn(3, 4, 12, 8, 8), present)
    together = objective.reconstruct(encoder, batch)
    for i in range(3):
        alone = objective.reconstruct(encoder, {k: v[i : i + 1] for k, v in batch.items()})
        torch.testing.assert_close(alone.prediction[0], together.prediction[i])
        assert torch.equal(alone.mask[0], together.mask[i])
    seen = (together.mask == 0).unflatten(1, (4, -1)).any(dim=2)
    assert not (seen & ~present).any()


def test_a_sequence_is_made_up_from_the_others():
    encoder, objective = pair()
    volumes = torch.randn(2, 4, 12, 8, 8)
    batch = {"volume": volumes}
    whole = objective.reconstruct(encoder, batch, missing="t1ce")
    assert whole.mask.unflatten(1, (4, -1)).float().mean(dim=(0, 2)).tolist() == [0, 1, 0, 0]
    other = volumes.clone()
    other[:, 1] = 5.0
    again = objective.reconstruct(encoder, {"volume": other}, missing="t1ce")
    assert torch.equal(again.prediction, whole.prediction)
    other[:, 0] = 5.0
    again = objective.reconstruct(encoder, {"volume": other}, missing="t1ce")
    assert not torch.equal(again.prediction, whole.prediction)
    with pytest.raises(UnknownNameError, match="unknown sequence 't1c'; did you mean t1ce"):
        objective.reconstruct(encoder, batch, missing="t1c")


def test_a_sequence_that_is_all_visible_costs_nothing():
    encoder, objective = pair(("t1", "t2"), mask_ratio=0.5)
    batch = {"volume": torch.randn(1, 2, 12, 8, 8), "noise": torch.arange(24.0)[None]}
    losses = objective(encoder, batch)
    assert losses.parts["t1"] == 0
    assert losses.total.isfinite()
    assert losses.parts["t2"] > 0


def test_the_decoder_knows_which_sequence_a_token_is_of():
    encoder, objective = pair()
    batch = batch_of(objective, torch.randn(1, 4, 12, 8, 8))
    objective(encoder, batch).total.backward()
    assert all(p.grad.any() for p in objective.modality_embeddings.values())
    assert "decoder_pos_embed" not in objective.state_dict()


@pytest.mark.parametrize(("kind", "sequences"), [(BMMAE, SEQUENCES), (MAE, ("ct",))])
def test_it_learns(kind, sequences):
    """Several sequences, and the masked autoencoder of images on a volume of one."""
    encoder, objective = pair(
        sequences, kind, **({} if kind is BMMAE else {"norm_pix_loss": False})
    )
    wave = torch.linspace(0, 6, 12)[:, None, None].sin().expand(12, 8, 8)
    volumes = torch.stack([wave * (1 + i) for i in range(len(sequences))]).expand(4, -1, -1, -1, -1)
    optimizer = torch.optim.AdamW(
        [p for m in (encoder, objective) for p in m.parameters() if p.requires_grad], lr=3e-3
    )
    curve = []
    for _ in range(40):
        loss = objective(encoder, batch_of(objective, volumes)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    assert curve[-1] < 0.5 * curve[0]


@pytest.mark.parametrize(("kind", "sequences"), [(BMMAE, SEQUENCES), (MAE, ("ct",))])
def test_pictures_show_a_slice_of_every_sequence(kind, sequences):
    encoder, objective = pair(sequences, kind)
    batch = batch_of(objective, torch.rand(2, len(sequences), 12, 8, 8))
    shown = dict(objective.pictures(encoder, batch))
    made_up = [f"{name} from the others" for name in sequences if kind is BMMAE]
    usual = ["original", "what the encoder sees", "hidden tokens filled in"]
    assert [*shown] == usual + made_up
    assert {picture.shape for picture in shown.values()} == {(10, 2 * (12 * len(sequences) + 2), 1)}
    assert len({picture.numpy().tobytes() for picture in shown.values()}) == len(shown)
