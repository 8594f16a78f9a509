"""What is installed from the built wheel is what is here, and only `zoo`."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.tree
ROOT = Path(__file__).parent.parent
MAPPED = ("modalities", "objectives", "registry", "hub", "benchmarks")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # setuptools leaves build folders behind: not in our tree
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    words = ["wheel", "--no-build-isolation", "--no-deps", "--no-index", "-q", "-w", out, source]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_everything_lies_under_zoo(names):
    assert {name.split("/")[0] for name in names} == {"zoo"}


def test_every_module_and_data_file_is_there(names):
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    want = set()
    for name in listed:
        top = name.split("/")[0]
        if name.endswith((".py", ".toml", ".css", ".js", "/index.json", "py.typed")):
            if top == "zoo":
                want.add(name)
            elif top in MAPPED:
                want.add(f"zoo/{name}")
    assert want <= names
