"""Low-rank layers in a real pair: what is replaced, what is saved, and what is given out."""

import pytest
import torch
from torch import nn
from zoo.registry.build import build_encoder, build_objective, encoder_spec

from zoo.errors import UsageError
from zoo.training.groups import decays, is_hidden
from zoo.training.low_rank import SparseLowRankLinear, merged, reparametrize
from zoo.training.wrap import Step

SMALL = {"encoder.dim": 24, "encoder.depth": 2, "encoder.heads": 2, "encoder.drop_path": 0}


@pytest.fixture
def pair():
    encoder = build_encoder(encoder_spec("digits-mae", {}))
    return Step(encoder, build_objective({"name": "mae"}, encoder))


def images(encoder):
    size = encoder.config.img_size
    return {"image": torch.rand(2, encoder.config.in_chans, size, size)}


def test_blocks_are_replaced_and_merge_into_the_plain_model(pair):
    encoder = pair.encoder
    plain = encoder.state_dict()
    shapes = {name: value.shape for name, value in plain.items()}
    reparametrize(encoder, rank=4, density=0.1)
    low = {n for n, m in encoder.named_modules() if isinstance(m, SparseLowRankLinear)}
    parts = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert low == {f"blocks.{i}.{part}" for i in range(len(encoder.blocks)) for part in parts}
    for parameter in encoder.parameters():  # B is zero at first
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    whole = merged(encoder)
    assert {name: value.shape for name, value in whole.state_dict().items()} == shapes
    batch = images(encoder)
    torch.testing.assert_close(whole(batch).tokens, encoder(batch).tokens, rtol=1e-4, atol=1e-5)
    assert len(low) == sum(isinstance(m, SparseLowRankLinear) for m in encoder.modules())


def test_what_a_checkpoint_holds_makes_the_same_layer():
    first = SparseLowRankLinear(12, 8, rank=3)
    first.refactorize()
    second = SparseLowRankLinear(12, 8, rank=3)
    assert not torch.equal(first.sparse_index, second.sparse_index)
    assert set(first.state_dict()) == {
        *("lora_A", "lora_B", "sparse_value", "sparse_index", "bias")
    }
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weight, second.weight)


def test_the_full_matrix_is_not_kept_for_the_backward_pass():
    layer, x = SparseLowRankLinear(64, 64, rank=2), torch.randn(3, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        layer(x)
    assert max(kept, default=0) < 64 * 64


def test_mixed_precision_trains_all_parts():
    layer = SparseLowRankLinear(16, 16, rank=2)
    layer.lora_B.data.normal_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(4, 16))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_factors_decay_and_sparse_values_do_not():
    layer = nn.ModuleDict({"blocks": nn.ModuleList([SparseLowRankLinear(4, 4, rank=2)])})
    named = dict(layer.named_parameters())
    assert {n.rpartition(".")[2] for n, p in named.items() if decays(n, p)} == {"lora_A", "lora_B"}
    assert {n.rpartition(".")[2] for n, p in named.items() if is_hidden(n, p)} == {
        "lora_A",
        "lora_B",
    }


@pytest.mark.parametrize("options", [{"rank": 0}, {"rank": 5}, {"rank": 2, "density": 1.5}])
def test_what_does_not_fit_is_said(options):
    with pytest.raises(UsageError, match="a low-rank layer of 4 x 8 needs a rank up to 4"):
        SparseLowRankLinear(4, 8, **options)
