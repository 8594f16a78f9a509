import pytest
import torch
from zoo.modalities.contracts import Tokens
from zoo.objectives.mae import MAE, MAEConfig, random_order, reconstruction_loss
from zoo.registry.build import build_objective

import zoo
from zoo.errors import ConfigError


def pair(**options):
    torch.manual_seed(0)
    encoder = zoo.create("digits-mae", dim=24, depth=1, heads=2)
    config = MAEConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2, **options)
    return encoder, MAE(config, encoder)


def images(count=4):
    return torch.rand(count, 1, 8, 8)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.75, 0.97])
def test_fast_form_equals_the_plain_one(ratio, normalize):
    """Training decodes in shuffled order and predicts hidden tokens only: the same function."""
    encoder, objective = pair(mask_ratio=ratio, norm_pix_loss=normalize)
    batch = {"image": images(), "noise": torch.rand(4, 16)}
    fast = objective(encoder, batch).total
    fast.backward()
    gradients = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    objective.zero_grad()
    whole = objective.reconstruct(encoder, batch)
    hidden = whole.mask.bool()
    plain = reconstruction_loss(whole.prediction[hidden], whole.target[hidden], normalize=normalize)
    plain.backward()
    torch.testing.assert_close(fast, plain)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            dict(objective.named_parameters())[name].grad, gradient, rtol=1e-4, atol=1e-6
        )


def test_hidden_pixels_never_reach_the_encoder():
    encoder, objective = pair(mask_ratio=0.5)
    batch = {"image": images(1), "noise": torch.rand(1, 16)}
    before = objective.reconstruct(encoder, batch)
    patch = int(before.mask[0].nonzero()[0])
    row, column = divmod(patch, 4)
    changed = batch["image"].clone()
    changed[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 9
    after = objective.reconstruct(encoder, batch | {"image": changed})
    assert torch.equal(before.latent, after.latent)
    assert torch.equal(before.prediction, after.prediction)


def test_repeated_samples_are_samples():
    """Decoded once, augmented and masked three times."""
    encoder, objective = pair(repeats=3)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (2, 1, 12, 14), dtype=torch.uint8)
    made = [objective.prepare({"image": image}, encoder.preprocess, generator) for image in raw]
    batch = encoder.preprocess.collate(made)
    assert batch["image"].shape == (2, 3, 1, 8, 8)
    assert len({tuple(view.flatten().tolist()) for view in batch["image"].flatten(0, 1)}) == 6
    assert len(batch["noise"].flatten(0, 1).unique(dim=0)) == 6
    single = [{name: value[i] for name, value in one.items()} for one in made for i in range(3)]
    single = encoder.preprocess.collate(single)
    assert torch.equal(objective(encoder, batch).total, objective(encoder, single).total)
    assert len(objective.pictures(encoder, batch)) == 3
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        MAEConfig(repeats=0)


def test_views_are_pure():
    _, objective = pair()
    views = [objective.views({}, torch.Generator().manual_seed(s))["noise"] for s in (1, 1, 2)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert views[0].shape == (16,)


def test_equal_noise_keeps_the_order():
    assert random_order(torch.zeros(2, 5)).tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("normalize", [False, True])
def test_fill_in_keeps_what_was_visible(normalize):
    encoder, objective = pair(norm_pix_loss=normalize)
    batch = {"image": images(), "noise": torch.rand(4, 16)}
    whole = objective.reconstruct(encoder, batch)
    filled = objective.fill_in(whole)
    seen = whole.mask == 0
    assert torch.equal(filled[seen], whole.target[seen])
    assert not torch.equal(filled[~seen], whole.target[~seen])


def test_select_carries_everything():
    tokens = Tokens(
        x=torch.arange(6.0).view(1, 3, 2),
        coords=torch.tensor([[0], [1], [2]]),
        targets=torch.arange(3.0).view(1, 3, 1),
        valid=torch.tensor([[True, False, True]]),
    )
    chosen = tokens.select(torch.tensor([[2, 0]]))
    assert chosen.x.tolist() == [[[4, 5], [0, 1]]]
    assert chosen.coords.tolist() == [[[2], [0]]]
    assert chosen.targets.flatten().tolist() == [2, 0]
    assert chosen.valid.tolist() == [[True, True]]
    with pytest.raises(ValueError, match="unpacked"):
        Tokens(x=torch.zeros(1, 3, 2), lengths=torch.tensor([3])).select(torch.tensor([[0]]))


def test_decoder_that_does_not_divide_is_refused():
    encoder, _ = pair()
    with pytest.raises(ConfigError, match="must be a multiple of heads"):
        build_objective({"name": "mae", "decoder_dim": 16, "decoder_heads": 3}, encoder)
    with pytest.raises(ConfigError, match=r"decoder_dim: .* a multiple of 4 channels"):
        build_objective({"name": "mae", "decoder_dim": 18, "decoder_heads": 3}, encoder)
