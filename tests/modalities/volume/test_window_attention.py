"""Both ways of attention in windows against the formula."""

import copy

import pytest
import torch
from torch import nn
from zoo.modalities.volume.window_attention import (
    WindowAttention,
    fused,
    use_window_attention,
    windowed,
)

VOLUMES, WINDOWS, HEADS, TOKENS, WIDTH = 2, 3, 2, 7, 4


def plain(q, k, v, bias, mask):
    scores = q @ k.transpose(-2, -1) + bias
    if mask is not None:
        scores = scores + mask.repeat(VOLUMES, 1, 1).unsqueeze(1)
    return scores.softmax(dim=-1) @ v


def inputs(dtype=torch.float64):
    torch.manual_seed(0)
    tensors = [torch.randn(VOLUMES * WINDOWS, HEADS, TOKENS, WIDTH, dtype=dtype) for _ in range(3)]
    tensors.append(torch.randn(HEADS, TOKENS, TOKENS, dtype=dtype))
    return [tensor.requires_grad_() for tensor in tensors]


def wrapped():
    """The first window is whole, the others hold two and three regions."""
    regions = torch.zeros(WINDOWS, TOKENS)
    regions[1, 4:], regions[2, 2:], regions[2, 5:] = 1, 1, 2
    return (regions.unsqueeze(1) != regions.unsqueeze(2)) * -100.0


@pytest.mark.parametrize("way", [windowed, fused])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_the_formula(way, masked):
    mask = wrapped().double() if masked else None
    weight = torch.randn(VOLUMES * WINDOWS, HEADS, TOKENS, WIDTH, dtype=torch.float64)
    found, want = [], []
    for out, compute in ((found, way), (want, plain)):
        leaves = inputs()
        value = compute(*leaves, mask)
        (value * weight).sum().backward()
        out += [value, *(leaf.grad for leaf in leaves)]
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected)


def test_low_precision_comes_in_and_goes_out_but_is_not_summed():
    leaves = [leaf.bfloat16() for leaf in inputs(torch.float32)]
    got = windowed(*leaves, wrapped())
    want = plain(*(leaf.float() for leaf in leaves), wrapped())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, want.bfloat16())


class Monai(nn.Module):
    """What is looked at in MONAI's module."""

    def __init__(self):
        super().__init__()
        self.num_heads = HEADS
        self.relative_position_bias_table = nn.Parameter(torch.randn(5, HEADS))
        self.register_buffer("relative_position_index", torch.randint(5, (TOKENS, TOKENS)))
        self.qkv, self.proj = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH), nn.Linear(8, 8)


def test_it_takes_the_place_of_monais_with_every_name():
    block = nn.Module()
    block.attn = Monai()
    before = block.state_dict()
    use_window_attention(block)
    assert isinstance(block.attn, WindowAttention)
    assert [*block.state_dict()] == [*before]
    x = torch.randn(WINDOWS, TOKENS, HEADS * WIDTH)
    twin = copy.deepcopy(block)
    assert torch.equal(twin.attn(x, None), block.attn(x, None))
    with torch.no_grad():
        twin.attn.proj.bias += 1
    torch.testing.assert_close(twin.attn(x, None), block.attn(x, None) + 1)
    meta = twin.to("meta")  # FLOPs are counted there
    assert meta.attn(x.to("meta"), wrapped().to("meta")).shape == x.shape
