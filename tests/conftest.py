import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # the suite runs several processes side by side


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
