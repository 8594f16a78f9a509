"""VoCo: crops and labels against voxels that are counted, the teacher, and runs of it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training.ranks import Ranks
from training.tiny_crops import RECIPE, TinyCrops, TinyCropsConfig
from zoo.modalities.contracts import Features
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.objectives.voco import VoCo, VoCoConfig
from zoo.objectives.voco_losses import Projected, voco_losses
from zoo.objectives.volume_crops import (
    CropAugment,
    base_starts,
    cut,
    draw_crops,
    overlaps,
    random_starts,
)

import zoo
from zoo.errors import UsageError
from zoo.training.metrics import read_metrics

STILL = CropAugment(flip=0.0, rotate=0.0, shift=0.0)
GRIDS = st.tuples(*[st.integers(1, 3)] * 3).filter(lambda grid: max(grid) > 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(**options):
    torch.manual_seed(0)
    encoder = TinyCrops(TinyCropsConfig(), VolumePreprocessConfig(size=(32, 32, 16)))
    config = {"crop_size": 16, "hidden_dim": 32, "output_dim": 16, **options}
    return encoder, VoCo(VoCoConfig(**config), encoder)


def batch_of(objective, volumes, seed=0):
    generator = seeded(seed)
    samples = [objective.views({"volume": volume}, generator) for volume in volumes]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


@settings(deadline=None, max_examples=30, database=None)
@given(
    st.tuples(*[st.integers(1, 3)] * 3).filter(lambda g: max(g) > 1), st.integers(2, 6), st.data()
)
def test_labels_are_shares_of_voxels(grid, size, data):
    """On grids of two and of three axes, for even and odd sizes."""
    shape = tuple(size * n for n in grid)
    bases = base_starts(shape, size)
    start = [data.draw(st.integers(0, length - size)) for length in shape]
    owner = np.empty(shape, int)
    for k, (x, y, z) in enumerate(bases.tolist()):
        owner[x : x + size, y : y + size, z : z + size] = k
    x, y, z = start
    inside = owner[x : x + size, y : y + size, z : z + size]
    want = np.bincount(inside.ravel(), minlength=len(bases)) / size**3
    got = overlaps(torch.tensor([start]), bases, size)
    np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-12)


def test_random_crops_lie_inside_and_never_last():
    starts = random_starts((6, 9, 4), 4, 2000, seeded())
    assert starts.min(dim=0).values.tolist() == [0, 0, 0]
    assert starts.max(dim=0).values.tolist() == [1, 4, 0]


def test_crops_are_turned_and_shifted():
    """Every mirror image and quarter turn comes up, and each is what numpy makes of it."""
    volume = torch.rand(1, 2, 6, 5, 4)
    augment = CropAugment(flip=0.5, rotate=0.7, shift=0.5, shift_range=0.25)
    starts = random_starts((6, 5, 4), 3, 400, seeded())
    crops, shifts = draw_crops(starts, augment, seeded(1))
    found = cut({"volume": volume, "crops": crops[None], "shifts": shifts[None]}, 3)
    poses = set()
    for crop, shift, got in zip(crops.tolist(), shifts, found, strict=True):
        (x, y, z), flips, swap = crop[:3], crop[3:6], crop[6]
        piece = volume[0, :, x : x + 3, y : y + 3, z : z + 3].numpy()
        piece = np.flip(piece, [axis for axis, flip in enumerate(flips, 1) if flip])
        piece = piece.swapaxes(1, 2) if swap else piece
        np.testing.assert_array_equal(got, piece + shift.numpy())
        poses.add((*flips, swap))
    assert len(poses) == 16
    assert 0.4 < (shifts != 0).float().mean() < 0.6
    assert shifts.abs().max() <= 0.25


def test_turns_alone_are_quarter_turns():
    volume = torch.rand(1, 1, 4, 4, 4)
    only_turns = CropAugment(flip=0.0, rotate=1.0, shift=0.0)
    crops, shifts = draw_crops(torch.zeros(60, 3, dtype=torch.int64), only_turns, seeded())
    turned = [torch.rot90(volume[0], k, (1, 2)) for k in (1, 2, 3)]
    found = cut({"volume": volume, "crops": crops[None], "shifts": shifts[None]}, 4)
    which = [[k for k, want in enumerate(turned) if torch.equal(got, want)] for got in found]
    assert {tuple(k) for k in which} == {(0,), (1,), (2,)}


def test_views_are_pure():
    _, objective = pair()
    volume = torch.rand(1, 32, 32, 16)
    first, again, other = (batch_of(objective, [volume], seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["crops"], other["crops"])
    assert first["labels"].shape == (1, 2, 4)
    assert first["crops"].shape == (1, 6, 7)


@pytest.mark.parametrize("shape", [(32, 30, 16), (16, 16, 16), (32, 32, 8)])
def test_volumes_that_are_no_grid_are_refused(shape):
    _, objective = pair()
    with pytest.raises(UsageError, match=r"cannot be divided into crops of 16: set preprocess"):
        objective.views({"volume": torch.zeros(1, *shape)}, seeded())


def test_one_volume_is_refused_where_volumes_are_compared():
    encoder, objective = pair()
    with pytest.raises(UsageError, match=r"this micro-batch holds one: raise train.batch_size"):
        objective(encoder, batch_of(objective, torch.rand(1, 1, 32, 32, 16)))
    encoder, objective = pair(variant="code_v1")
    losses = objective(encoder, batch_of(objective, torch.rand(1, 1, 32, 32, 16)))
    assert losses.parts.keys() == {"intra", "regularization"}


@pytest.mark.parametrize("variant", ["code_v2", "code_v1", "paper"])
def test_the_right_answer_costs_least(variant):
    """Base crops at right angles and crops that lie between two of them."""
    bases = torch.eye(4).expand(3, -1, -1)
    labels = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.5, 0.5]]).expand(3, -1, -1)
    right = labels / labels.norm(dim=-1, keepdim=True)
    totals = [
        sum(voco_losses(Projected(c, bases), Projected(c, bases), labels, variant=variant).values())
        for c in (right, right.roll(1, -1), right + 0.3)
    ]
    assert totals[0] < totals[1]
    assert totals[0] < totals[2]


def test_the_teacher_follows_and_learns_nothing():
    encoder, objective = pair()
    batch = batch_of(objective, torch.rand(3, 1, 32, 32, 16))
    objective(encoder, batch).total.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert all(p.grad is not None for p in objective.student.parameters())
    name = "layer2.0.weight"
    teacher, student = (m.get_parameter(name) for m in (objective.teacher, objective.student))
    want = 0.9 * teacher + 0.1 * student
    objective.after_step()
    torch.testing.assert_close(teacher, want)


def test_rows_are_dropped_whole_and_only_in_training():
    _, objective = pair(embed_drop="row", drop=0.5)
    kept = objective.drop(torch.ones(64, 16)).sum(dim=1)
    assert set(kept.tolist()) == {0.0, 32.0}
    assert torch.equal(objective.eval().drop(torch.ones(2, 3)), torch.ones(2, 3))


def test_crops_are_resized_where_the_encoder_wants_them_smaller():
    encoder, objective = pair(input_size=8, augment=STILL)
    volumes = torch.rand(2, 1, 32, 32, 16)
    batch = batch_of(objective, volumes)
    small = volumes[:, :, :16, :16].unflatten(2, (8, 2)).unflatten(4, (8, 2)).unflatten(6, (8, 2))
    want = encoder({"volume": small.mean(dim=(3, 5, 7))}).pooled
    got = objective.embed(encoder, batch).unflatten(0, (2, -1))[:, 2]
    torch.testing.assert_close(got, want)


def test_pictures_show_where_a_crop_lies():
    """The true shares are bright where the crop is; lines are those of the grid and the crop."""
    encoder, objective = pair()
    batch = batch_of(objective, torch.rand(2, 1, 32, 32, 16))
    batch["crops"][0, 0, :3] = torch.tensor([16, 0, 0])  # the patient's left, behind
    batch["labels"][0, 0] = torch.tensor([0.0, 0, 1, 0])
    with torch.inference_mode():
        shown = dict(objective.pictures(encoder, batch))
    asked, true, found = shown.values()
    assert asked.dtype == torch.uint8
    assert {picture.shape for picture in shown.values()} == {(34, 2 * 34, 3)}
    inside = true[1:-1, 1:33].flip(0, 1)  # (Y, X) from the corner that is behind and left
    assert (inside[4:12, 20:28] == 255).all()
    assert not inside[20:, 20:].any()
    assert (inside[4, 16] == torch.tensor([255, 140, 0])).all()
    assert found.float().std() > 0


class Means(nn.Module):
    """Knows of a crop what its channels are on average."""

    dim = 16

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, batch):
        means = batch["volume"].mean(dim=(2, 3, 4))
        return Features(tokens=means.unsqueeze(1), pooled=self.layers(means))


def test_it_learns_where_crops_lie():
    """In volumes whose voxels say where they are."""
    torch.manual_seed(0)
    encoder = Means()
    config = VoCoConfig(
        crop_size=4, random_crops=8, hidden_dim=64, output_dim=64, drop=0.0, augment=STILL
    )
    objective = VoCo(config, encoder)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objective.student.parameters()], lr=3e-3)
    axes = [torch.arange(12.0)] * 2 + [torch.zeros(4)]
    volume = torch.stack(torch.meshgrid(*axes, indexing="ij"))[:2] / 4 - 1
    errors = []
    for step in range(100):
        losses = objective(encoder, batch_of(objective, [volume] * 4, step))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        objective.after_step()
        errors.append(losses.metrics["overlap_error"].item())
    assert np.mean(errors[-10:]) < 0.5 * np.mean(errors[:10])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voco") / "shards"
    codec, rng = VolumeCodec(), np.random.default_rng(0)
    raw = [
        {"volume": rng.integers(-1000, 240, (36, 34, 18)).astype(np.int16), "spacing": (1.5,) * 3}
        for _ in range(12)
    ]
    zoo.write_shards(((f"{i:02d}", codec.encode(one)) for i, one in enumerate(raw)), folder)
    return folder


def train(recipe, shards, out, words):
    run = zoo.pretrain(str(recipe), shards, out, words, seed=3, device="cpu", progress=False)
    return run.finished


def test_processes_are_as_good_as_micro_batches(shards, tmp_path):
    """Volumes of a micro-batch meet each other, whoever has them: two runs of the same groups."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    assert train(recipe, shards, tmp_path / "alone", ["train.accumulate=2"])
    for number, parallel in enumerate(("ddp", "fsdp")):
        words = [f"train.parallel={parallel}"]
        out = tmp_path / str(number)
        results = Ranks(2, train, recipe, shards, out, words).results()
        assert results == {0: True, 1: True}
        rows, alone = read_metrics(out), read_metrics(tmp_path / "alone")
        assert len(rows) == len(alone) == 4
        for row, name in itertools.product(range(4), ("loss", "intra", "inter", "overlap_error")):
            assert rows[row][name] == pytest.approx(alone[row][name], rel=1e-4)
