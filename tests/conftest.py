import os

import pytest
import torch
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
# The suite runs several processes side by side: threads of one would wait for those of another.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# The same examples in every run; `--hypothesis-profile=default` draws others.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    """Nothing of a test stays in the user's cache."""
    os.environ["ZOO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
