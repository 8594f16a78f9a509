import pytest
import torch
from torch.nn.functional import linear
from zoo.objectives import tiled_cross_entropy as module
from zoo.objectives.lm_head import token_loss
from zoo.objectives.tiled_cross_entropy import tiled_cross_entropy


def tensors(positions):
    generator = torch.Generator().manual_seed(positions)
    shapes = (positions, 6), (11, 6), (11,)
    x, weight, bias = (torch.randn(s, generator=generator).requires_grad_() for s in shapes)
    return x, weight, bias, torch.randint(0, 11, (positions,), generator=generator)


@pytest.mark.parametrize("positions", [0, 1, 4, 9])
def test_as_the_plain_form(positions, monkeypatch):
    """Whole tiles, a last one that is not full, and no target at all."""
    monkeypatch.setattr(module, "_ROWS", {"cpu": 4})
    x, weight, bias, targets = tensors(positions)
    total, top1 = tiled_cross_entropy(x, weight, bias, targets)
    logits = linear(x, weight, bias)
    wanted = token_loss(logits, targets)
    torch.testing.assert_close(total, wanted)
    if positions:
        assert top1 == (logits.argmax(-1) == targets).float().mean()
    found = torch.autograd.grad(3 * total, (x, weight, bias))
    torch.testing.assert_close(found, torch.autograd.grad(3 * wanted, (x, weight, bias)))


def test_autocast_makes_products_short_and_sums_long():
    x, weight, bias, targets = tensors(300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = tiled_cross_entropy(x, weight, bias, targets)
        wanted = token_loss(linear(x, weight, bias), targets)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, wanted, rtol=1e-3, atol=1e-3)
    found = torch.autograd.grad(total, (x, weight, bias))
    assert {gradient.dtype for gradient in found} == {torch.float32}
    wanted = torch.autograd.grad(wanted, (x, weight, bias))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)


def test_without_gradients():
    x, weight, bias, targets = tensors(5)
    with torch.inference_mode():
        total, _ = tiled_cross_entropy(x, weight, bias, targets)
        assert not total.requires_grad
        torch.testing.assert_close(total, token_loss(linear(x, weight, bias), targets))
