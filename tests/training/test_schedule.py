import pytest
import torch
from torch import nn
from zoo.registry.recipe import TrainRecipe

from zoo.training.optim import build_optimizers
from zoo.training.schedule import cosine_with_warmup


def test_shape_of_the_schedule():
    def rate(step):
        return cosine_with_warmup(step, total=100, warmup=10, peak=2.0, low=0.5)

    assert rate(0) == 0
    assert rate(5) == 1.0
    assert rate(10) == 2.0
    assert rate(55) == pytest.approx(1.25)
    assert rate(100) == rate(1000) == 0.5
    assert cosine_with_warmup(0, total=10, warmup=0, peak=1.0) == 1.0


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))])
        self.head = nn.Linear(8, 2)
        self.table = nn.Parameter(torch.zeros(1, 4, 8), requires_grad=False)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_trainable_parameter_has_one_place(name):
    model = Model()
    recipe = TrainRecipe(batch_size=1, steps=1, lr=0.1, weight_decay=0.3, optimizer=name)
    optimizers = build_optimizers(model.named_parameters(), recipe)
    names = {id(p): n for n, p in model.named_parameters()}
    found = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                assert names[id(p)] not in found
                found[names[id(p)]] = (type(optimizer).__name__, group["weight_decay"])
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    hidden = "Muon" if name == "muon" else "AdamW"
    assert found["blocks.0.0.weight"] == (hidden, 0.3)
    assert found["embedding.weight"] == found["head.weight"] == ("AdamW", 0.3)
    for one_dimensional in ("blocks.0.0.bias", "blocks.0.1.weight", "head.bias"):
        assert found[one_dimensional] == ("AdamW", 0.0)
