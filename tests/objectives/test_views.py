"""Objectives over several views of a sample: real steps, several processes, what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.ranks import Ranks
from zoo.objectives.block_masks import block_mask
from zoo.objectives.crops import CropsConfig, crop_features
from zoo.objectives.sit import turned
from zoo.objectives.views import Colours, _blurred, coloured
from zoo.registry.build import build_objective, resolve_recipe

import zoo
from zoo.errors import ConfigError, UsageError
from zoo.training.world import joined

SMALL = {"hidden_dim": 16, "output_dim": 8}
PROTOTYPES = SMALL | {"bottleneck_dim": 8, "crops": {"count": 3, "size": 4}}
OPTIONS = {
    "contrastive": SMALL,
    "byol": SMALL,
    "vicreg": SMALL,
    "barlow_twins": SMALL,
    "tico": SMALL | {"momentum_steps": 8},
    "lejepa": SMALL | {"views": 3, "directions": 16},
    "dino": PROTOTYPES | {"warmup_teacher_temp": 0.03, "warmup_teacher_temp_steps": 4},
    "ibot": PROTOTYPES | {"mask_probability": 1.0, "koleo_weight": 0.1},
    "sit": SMALL | {"momentum_steps": 8},
}


def pair(name, **changes):
    torch.manual_seed(0)
    encoder = zoo.create("digits-mae", seed=0, dim=24, depth=1, heads=2)
    return encoder, build_objective({"name": name, **OPTIONS[name], **changes}, encoder)


def prepared(encoder, objective, count):
    """A batch of digits-like images with a bright side each."""
    samples = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        image = torch.randint(0, 100, (1, 8, 8), dtype=torch.uint8, generator=generator)
        image[:, i % 8 :, : 1 + i % 5] += 120
        samples.append(objective.prepare({"image": image}, encoder.preprocess, generator))
    return encoder.preprocess.collate(samples)


@pytest.mark.parametrize("name", OPTIONS)
def test_real_steps(name):
    """Losses fall, every parameter learns, and what is slow follows."""
    encoder, objective = pair(name)
    objective.start(encoder)
    batch = prepared(encoder, objective, 12)
    assert objective.count(batch) == 12
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    parameters = [*encoder.parameters(), *objective.parameters()]
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    curve = []
    for _ in range(20):
        losses = objective(encoder, batch)
        optimizer.zero_grad()
        losses.total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        optimizer.step()
        objective.after_step(encoder)
        curve.append(losses.total.item())
    assert curve[-1] < curve[0] or name in ("dino", "ibot", "tico")  # what they want still moves
    moved = {k for k, v in objective.state_dict().items() if not torch.equal(v, before[k])}
    assert all(
        k in moved
        for k in before
        if k.startswith("covariance") or "updates" in k or "towers.1" in k or "centre" in k
    )


@pytest.mark.parametrize("name", ["contrastive", "byol", "vicreg", "barlow_twins", "tico"])
def test_real_steps_of_a_model_of_timm_on_colours(name):
    pytest.importorskip("timm")
    encoder = zoo.create("timm/test_vit", seed=0, img_size=32)
    objective = build_objective({"name": name, **OPTIONS[name]}, encoder)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=generator)
    prepared = [objective.prepare({"image": x}, encoder.preprocess, generator) for x in images]
    batch = encoder.preprocess.collate(prepared)
    trained = [p for p in [*encoder.parameters(), *objective.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        objective(encoder, batch).total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        optimizer.step()
        objective.after_step(encoder)


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_a_teacher_that_stays_is_found(name):
    encoder, objective = pair(name, momentum=1.0, center_momentum=1.0)
    batch = prepared(encoder, objective, 12)
    trained = [p for p in [*encoder.parameters(), *objective.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    curve = []
    for _ in range(20):
        optimizer.zero_grad()
        losses = objective(encoder, batch)
        losses.total.backward()
        optimizer.step()
        objective.after_step(encoder)
        curve.append(losses.parts.get("view", losses.total).item())
    assert curve[-1] < 0.95 * curve[0]


SIZES = (3, 2)


def divided(names):
    """Each objective's share of the loss, and the encoder's gradients as the engine has them."""
    found = {}
    with joined("cpu", timeout=60) as world:
        begin = sum(SIZES[: world.rank])
        own = slice(begin, begin + SIZES[world.rank])
        for name in names:
            torch.manual_seed(0)
            encoder, objective = pair(name)
            batch = {k: v[own] for k, v in prepared(encoder, objective, sum(SIZES)).items()}
            torch.manual_seed(5)  # LeJEPA's directions
            share = objective(encoder, batch).total * (SIZES[world.rank] / sum(SIZES))
            share.backward()
            gradient = torch.cat(
                [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
            )
            objective.after_step(encoder)
            state = [v.double().sum().item() for v in objective.state_dict().values()]
            found[name] = share.item(), gradient.numpy(), state
    return found


def test_two_processes_have_the_loss_and_gradient_of_one():
    names = [name for name in OPTIONS if name != "sit"]  # its other image is of the same process
    results = Ranks(2, divided, names).results()
    for name in names:
        encoder, objective = pair(name)
        batch = prepared(encoder, objective, sum(SIZES))
        torch.manual_seed(5)
        total = objective(encoder, batch).total
        total.backward()
        objective.after_step(encoder)
        shares, gradients, states = zip(*(results[rank][name] for rank in range(2)), strict=True)
        assert sum(shares) == pytest.approx(total.item(), rel=1e-4), name
        want = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
        got = sum(torch.from_numpy(g) for g in gradients)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())
        alone = [v.double().sum().item() for v in objective.state_dict().values()]
        for state in states:
            assert state == pytest.approx(alone, rel=1e-4, abs=1e-4), name


def test_sit_with_dropped_pixels_only_is_the_same_on_two_processes():
    results = Ranks(2, sit_shares).results()
    encoder, objective = pair("sit", replace_probability=0.0)
    total = objective(encoder, prepared(encoder, objective, sum(SIZES))).total
    assert sum(results.values()) == pytest.approx(total.item(), rel=1e-4)


def sit_shares():
    with joined("cpu", timeout=60) as world:
        begin = sum(SIZES[: world.rank])
        encoder, objective = pair("sit", replace_probability=0.0)
        whole = prepared(encoder, objective, sum(SIZES))
        batch = {k: v[begin : begin + SIZES[world.rank]] for k, v in whole.items()}
        return objective(encoder, batch).total.item() * SIZES[world.rank] / sum(SIZES)


def test_sit_of_the_paper_tells_rotations_and_learns_its_weights():
    encoder, objective = pair("sit", version="paper")
    batch = prepared(encoder, objective, 12)
    assert batch["turns"].unique().tolist() == [0, 1, 2, 3]
    trained = [p for p in [*encoder.parameters(), *objective.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    curve = []
    for _ in range(30):
        optimizer.zero_grad()
        losses = objective(encoder, batch)
        losses.total.backward()
        optimizer.step()
        objective.after_step(encoder)
        curve.append(losses.parts["rotation"].item())
    assert curve[-1] < 0.9 * curve[0]
    s, parts = objective.log_variances.detach(), objective(encoder, batch).parts
    assert s.abs().min() > 0
    want = sum((-w).exp() * part + w for w, part in zip(s, parts.values(), strict=True))
    torch.testing.assert_close(objective(encoder, batch).total, want)
    # A view that is not turned is left as it is.
    images = torch.randn(2, 2, 1, 4, 4)
    there = turned(images, torch.tensor([[0, 1], [2, 3]]))
    assert torch.equal(there[0, 0], images[0, 0])
    assert torch.equal(turned(there, torch.tensor([[0, 3], [2, 1]])), images)


def test_prototypes_wait_until_they_may_learn():
    encoder, objective = pair("dino", freeze_last_layer=1)
    batch = prepared(encoder, objective, 4)
    for learns in (False, True):
        objective.head.prototypes.grad = None
        objective(encoder, batch).total.backward()
        assert objective.head.prototypes.grad.any() == learns
        objective.after_step(encoder)


def test_a_crop_as_large_as_the_image_is_the_image():
    encoder, _ = pair("dino")
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(crop_features(encoder, images), encoder({"image": images}).pooled)
    assert crop_features(encoder, images[..., :4, :4]).shape == (3, 24)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_pure_and_keep_the_shape(channels):
    image = torch.randint(0, 256, (channels, 16, 16), dtype=torch.uint8)
    seen = [
        coloured(image, view, Colours(jitter_p=1.0), torch.Generator().manual_seed(seed))
        for view in (0, 1)
        for seed in (1, 1, 2)
    ]
    assert all(x.shape == image.shape and x.dtype == torch.uint8 for x in seen)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    nothing = Colours(jitter_p=0.0, grey_p=0.0, blur_p=(0.0,), solarize_p=(0.0,))
    assert torch.equal(coloured(image, 0, nothing, torch.Generator()), image)


def test_blur_is_torchvisions():
    gaussian_blur = pytest.importorskip("torchvision.transforms.v2.functional").gaussian_blur
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    got, want = _blurred(image, 1.5).int(), gaussian_blur(image, [11, 11], [1.5, 1.5]).int()
    assert (got - want).abs().max() <= 1


@given(st.integers(2, 14), st.floats(0.1, 0.6), st.integers(0, 1000))
@settings(deadline=None, max_examples=25, database=None)
def test_blocks_cover_about_their_share(side, share, seed):
    mask = block_mask((side, side), share, torch.Generator().manual_seed(seed))
    assert mask.float().mean().item() == pytest.approx(share, abs=0.25 + 2 / side)
    assert not block_mask((side, side), 0.0, torch.Generator()).any()


@pytest.mark.parametrize(
    ("model", "words", "message"),
    [
        (
            "birds-mae",
            ["objective.name=dino"],
            r"'dino' needs patches of images, which .* works with mae",
        ),
        ("stdlib-mlm", ["objective.name=byol"], "'byol' needs samples that are all of one shape"),
        ("digits-mae", ["objective.name=vicreg", "train.accumulate=2"], "compares all samples"),
        (
            "digits-mae",
            ["objective.name=byol", "objective.momentum=2"],
            "momentum must lie between",
        ),
        (
            "digits-mae",
            ["objective.name=sit", "objective.drop_share=2,2"],
            "must lie between 0 and",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_the_recipe_is_read(model, words, message):
    with pytest.raises((ConfigError, UsageError), match=message) as caught:
        resolve_recipe(model, "x", words)
    assert "\n" not in str(caught.value)


def test_crops_must_fit_the_encoder():
    with pytest.raises(ConfigError, match=r"crops.size 5 must be a multiple of patch_size 2"):
        pair("dino", crops={"size": 5})
    assert CropsConfig().count == 8
