import pytest
import torch
from zoo.objectives.mae import MAE, MAEConfig
from zoo.objectives.swin_decoder import SwinBlock
from zoo.registry.build import build_objective

import zoo
from zoo.errors import ConfigError

GRID = (12, 8)


def block(shifted):
    torch.manual_seed(0)
    return SwinBlock(16, 2, 32, grid=GRID, shifted=shifted, eps=1e-6).eval()


@torch.no_grad()
def rows_that_see(swin, row):
    """Rows whose tokens change when one token of `row` does, in its column's windows."""
    x = torch.randn(1, GRID[0] * GRID[1], 16)
    changed = x.clone()
    changed[0, row * GRID[1]] += 1
    difference = (swin(x) - swin(changed)).abs().amax(-1).view(GRID)
    assert difference[:, 4:].max() == 0, "the windows of the other columns see nothing"
    return difference[:, :4].amax(1).gt(1e-6).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("shifted", "row", "seen_by"),
    [
        (False, 0, [0, 1, 2, 3]),
        (False, 5, [4, 5, 6, 7]),
        (True, 5, [2, 3, 4, 5]),
        # What the roll brought together stays apart.
        (True, 0, [0, 1]),
        (True, 11, [10, 11]),
    ],
)
def test_windows(shifted, row, seen_by):
    assert rows_that_see(block(shifted), row) == seen_by


def test_bias_network_drops_out_in_training_only():
    swin, x = block(True), torch.randn(1, 96, 16)
    assert torch.equal(swin(x), swin(x))
    swin.train()
    assert not torch.equal(swin(x), swin(x))


def test_runs_in_bfloat16():
    swin, x = block(True), torch.randn(2, 96, 16)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(swin(x), block(True)(x), atol=0.05, rtol=0.05)
    assert swin.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_hidden_tokens_are_decoded_in_their_places():
    """The order of the noise decides what is hidden, never what the decoder makes of it."""
    encoder = zoo.create("mae-base", dim=16, depth=1, heads=2, img_size=64, patch_size=8)
    options = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
    objective = MAE(MAEConfig(decoder="swin", **options), encoder).eval()
    noise = torch.rand(1, 64)
    visible = noise.argsort().argsort() < objective.num_visible
    shuffled = torch.rand(1, 64) + torch.where(visible, 0.0, 1.0)
    image = torch.randn(1, 3, 64, 64)
    first, second = (
        objective.reconstruct(encoder, {"image": image, "noise": values})
        for values in (noise, shuffled)
    )
    assert torch.equal(first.mask, second.mask)
    torch.testing.assert_close(first.prediction, second.prediction)


def test_a_grid_that_windows_do_not_fill_is_refused():
    encoder = zoo.create("mae-base", dim=16, depth=1, heads=2, img_size=48, patch_size=8)
    with pytest.raises(ConfigError, match=r"multiples of 4, the encoder's is \(6, 6\)"):
        build_objective({"name": "mae", "decoder": "swin"}, encoder)
