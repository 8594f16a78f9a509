import os
import re
from pathlib import Path

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """`ZOO_EXTRAS` names the extras that are installed: a test that asks for another is skipped.

    It asks by zoo's own line, or by an import of its own: one in zoo that fails is a failure.
    """
    report = yield
    if report.failed and "ZOO_EXTRAS" in os.environ:
        lacking = _lacking(call.excinfo, os.environ["ZOO_EXTRAS"].split(","))
        if lacking:
            report.outcome, report.longrepr = "skipped", (str(item.path), 0, lacking)
    return report


def _lacking(found, extras):
    error, here = found.value, Path(str(found.traceback[-1].path))
    if isinstance(error, ModuleNotFoundError) and here.is_relative_to(Path(__file__).parent):
        return f"needs {error.name}"
    asked = re.search(r"pip install 'zoo\[(\w+)\]'", str(error))
    return f"needs zoo[{asked[1]}]" if asked and asked[1] not in extras else None
