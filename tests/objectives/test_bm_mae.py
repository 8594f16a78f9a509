"""BM-MAE: which tokens are visible, sequences that are missing, and one that is made up."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig, unpatchify
from zoo.modalities.volume.volume import Sequence, Volume
from zoo.objectives.bm_mae import BMMAE, BMMAEConfig, draw_noise, draw_shares
from zoo.objectives.mae import MAE, MAEConfig
from zoo.registry.build import build_objective

import zoo
from zoo.errors import ConfigError, UnknownNameError, UsageError, WeightsError
from zoo.report.pictures import objective_pictures
from zoo.restoring import blank, restore
from zoo.training.metrics import read_metrics

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


@pytest.mark.parametrize(
    ("name", "sequences", "good", "bad"),
    [("bm_mae", SEQUENCES, 18, 16), ("mae", SEQUENCES, 16, 18), ("mae", ("ct",), 18, 16)],
)
def test_decoders_that_positions_do_not_fit_are_refused(name, sequences, good, bad):
    """The shared one has an axis for several sequences."""
    encoder, _ = pair(sequences)
    options = {"name": name, "decoder_heads": 2, "decoder_depth": 1}
    build_objective(options | {"decoder_dim": good}, encoder)
    with pytest.raises(ConfigError, match=r"decoder_dim: .* need a multiple of [68] channels"):
        build_objective(options | {"decoder_dim": bad}, encoder)


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


WORDS = (
    *("encoder.dim=24", "encoder.depth=1", "encoder.heads=2", "encoder.patch_size=8"),
    *("preprocess.size=16,16,16", "objective.decoder_dim=24", "objective.decoder_depth=1"),
    *("objective.decoder_heads=2", "train.batch_size=4", "train.steps=20", "train.epochs=none"),
    *("train.warmup=2", "train.lr=3e-3", "train.log_every=5", "train.loggers=[]"),
    *("loader.workers=0",),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Twelve brains that are alike but for one sequence, which every third of them lacks."""
    rng, codec = np.random.default_rng(0), VolumeCodec()
    waves = np.sin(np.linspace(0, 9, 18))[:, None, None] + np.cos(np.linspace(0, 5, 16))

    def brain(number):
        names = [name for i, name in enumerate(SEQUENCES) if number % 3 or i != number // 3]
        found = {}
        for name in names:
            values = 1000 + 300 * waves + rng.normal(0, 20, (18, 16, 16))
            found[name] = Sequence(values.astype(np.int16))
        return {"volume": Volume(sequences=found, affine=np.eye(4), modality="mr")}

    folder = tmp_path_factory.mktemp("brains") / "shards"
    zoo.write_shards(((f"{i:02d}", codec.encode(brain(i))) for i in range(12)), folder)
    return folder


@pytest.mark.parametrize("objective", ["bm_mae", "mae"])
def test_a_run_from_shards_of_incomplete_patients(objective, shards, tmp_path):
    """Trains, draws, and gives back an encoder that makes up a sequence with one call."""
    words = [*WORDS, f"objective.name={objective}"]
    run = zoo.pretrain("bm-mae", shards, tmp_path / "run", words, device="cpu", progress=False)
    losses = [row["loss"] for row in read_metrics(run.folder)]
    assert losses[-1] < losses[0]
    _, shown = objective_pictures(run)
    assert len(shown) == (7 if objective == "bm_mae" else 3)
    encoder, (blank_encoder, task) = zoo.load(run.folder), blank(run)
    restore(run, blank_encoder, task)
    state = blank_encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    batch = {"volume": torch.randn(2, 4, 16, 16, 16)}
    if objective == "mae":
        with pytest.raises(UsageError, match="only objective 'bm_mae'"):
            encoder.reconstruct(batch, missing="t1ce")
        return
    found = encoder.reconstruct(batch, missing="t1ce")
    want = task.reconstruct(encoder, batch, missing="t1ce").prediction
    torch.testing.assert_close(found, unpatchify(want, (2, 2, 2), 8)[:, 1])
    with pytest.raises(UnknownNameError, match="unknown sequence 't3'"):
        encoder.reconstruct(batch, missing="t3")


def published(encoder, task):
    """Both in the names of the reference."""
    state = {}
    for name, value in encoder.state_dict().items():
        place, _, rest = name.partition(".")
        if place == "patch_embed":
            name = "tokenizers.{}.patch_embedding.patch_embeddings.{}".format(*rest.split("."))
        state[name] = value
    for name, value in task.state_dict().items():
        state["decoder." + name.replace("mask_token", "mask_tokens")] = value
    monai = (".attn.proj.", ".attn.out_proj."), (".mlp.fc", ".mlp.linear")
    return {name.replace(*monai[0]).replace(*monai[1]): value for name, value in state.items()}


def test_a_published_file_brings_its_decoder(tmp_path):
    """Built by the card; an encoder of fewer sequences cannot use it."""
    constants = {"size": [32, 32, 16], "intensity": "window"}
    changes = {"dim": 24, "depth": 1, "heads": 2}
    encoder = zoo.create("bm-mae", seed=0, preprocess=constants, **changes)
    task = build_objective(zoo.card("bm-mae").recipe.objective, encoder)
    path = tmp_path / "bmmae.pth"
    torch.save(published(encoder, task), path)
    loaded = zoo.load("bm-mae", weights=path, preprocess=constants, **changes)
    batch = {"volume": torch.randn(1, 4, 32, 32, 16)}
    want = task.reconstruct(encoder.eval(), batch, missing="flair").prediction
    found = loaded.reconstruct(batch, missing="flair")
    torch.testing.assert_close(found, unpatchify(want, (2, 2, 1), 16)[:, 3])
    with pytest.raises(UsageError, match="came without a decoder"):
        encoder.reconstruct(batch, missing="flair")
    fewer = constants | {"sequences": ["t1", "t2"]}
    loaded = zoo.load("bm-mae", weights=path, preprocess=fewer, **changes)
    with pytest.raises(WeightsError, match="of other sequences or sizes"):
        loaded.reconstruct({"volume": batch["volume"][:, :2]}, missing="t1")
