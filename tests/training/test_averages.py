"""Averages of weights: while training, and of saved files."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoo.errors import DataError, UsageError
from zoo.training.average import average
from zoo.training.ema import averaged


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_timms(warmup):
    from timm.utils import ModelEmaV3

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    ours = averaged(model, 0.9, warmup=warmup)
    theirs = ModelEmaV3(model, decay=0.9, use_warmup=warmup, exclude_buffers=True)
    for step in range(1, 50):  # the decay is 0.9 from the 32nd update on
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
        model(torch.randn(3, 4))
        ours.update_parameters(model)
        theirs.update(model, step=step)
        want = theirs.module.state_dict()
        for name, value in ours.module.state_dict().items():
            assert torch.equal(value, want[name]), (step, name)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for i, path in enumerate(paths):
        low = torch.full((2,), 1.0 + i / 128, dtype=torch.bfloat16)
        save_file({"weight": low, "seen": torch.tensor(i)}, path)
    return paths


def test_files_are_averaged_in_float32(files):
    got = average(files, [1.0, 3.0])
    assert got["weight"].dtype == torch.float32
    assert got["weight"].tolist() == [1.005859375] * 2  # lies between two bfloat16 numbers
    assert got["seen"] == 1, "counters are those of the last file"


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    with pytest.raises(UsageError, match="2 files and 1 weights"):
        average(files, [1.0])
    with pytest.raises(UsageError, match="0 files"):
        average([])
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3), "seen": torch.tensor(1)}, other)
    with pytest.raises(UsageError, match="weight has several shapes"):
        average([files[0], other])
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(UsageError, match=r"other\.safetensors: not of the model.*seen"):
        average([files[0], other])
    other.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"other\.safetensors: not a readable"):
        average([files[0], other])
