"""Float8 is for GPUs that have it; which layers it takes can be seen anywhere."""

import sys

import pytest
import torch
from torch import nn
from zoo.registry.recipe import TrainRecipe

from zoo.errors import UsageError
from zoo.training.precision import use_float8, uses_bfloat16

CUDA = torch.device("cuda")


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 30))])
        self.head = nn.Linear(32, 16)


def test_devices_without_float8_are_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"capability 8\.9 or more .* this is a CPU: use train"):
        use_float8(Model(), torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    with pytest.raises(UsageError, match="this is A100"):
        use_float8(Model(), CUDA)


def test_a_missing_package_is_named(monkeypatch, hopper):
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(UsageError, match=r"pip install 'zoo\[fp8\]'"):
        use_float8(Model(), CUDA)


@pytest.mark.filterwarnings("ignore")  # of torchao's own import
def test_layers_of_blocks_with_sides_that_fit_are_taken(hopper):
    pytest.importorskip("torchao")
    model = Model()
    before = dict(model.named_parameters())
    use_float8(model, CUDA)
    low = {name for name, m in model.named_modules() if type(m).__name__ == "Float8Linear"}
    assert low == {"blocks.0.0"}
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


@pytest.mark.parametrize(
    ("precision", "on_cpu", "on_cuda"),
    [
        ("auto", False, True),
        ("float32", False, False),
        ("bfloat16", True, True),
        ("fp8", True, True),
    ],
)
def test_what_autocast_lowers(precision, on_cpu, on_cuda):
    recipe = TrainRecipe(batch_size=1, steps=1, lr=1.0, precision=precision)
    assert uses_bfloat16(recipe, torch.device("cpu")) == on_cpu
    assert uses_bfloat16(recipe, CUDA) == on_cuda
