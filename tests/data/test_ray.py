"""Ray on this machine with two processes; starting it takes ten seconds and more."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from zoo.data.building.build import BuildOptions, build_shards
from zoo.data.building.folders import folder_source
from zoo.files import sha256_of

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")


def left_behind():
    """Ray's processes, but for dead ones that nobody collects, and its folders."""
    ps = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True)
    words = ("raylet", "gcs_server", "ray::", "ray/_private")
    lines = [line for line in ps.stdout.splitlines() if any(word in line for word in words)]
    folders = sorted(Path(tempfile.gettempdir()).glob("ray-*"))
    return [line for line in lines if not line.startswith("Z")], folders


def test_ray_gives_the_same_bytes_and_leaves_nothing(tmp_path):
    before, environment = left_behind(), dict(os.environ)
    (tmp_path / "in").mkdir()
    for i in range(20):
        (tmp_path / "in" / f"{i:02d}.txt").write_text(f"text {i}")
    source = folder_source(tmp_path / "in")
    options = BuildOptions(samples_per_shard=3, shuffle=True)
    build_shards(source, tmp_path / "here", options, workers=0)
    build_shards(source, tmp_path / "ray", options, engine="ray", workers=2)
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names == {path.name for path in (tmp_path / "ray").iterdir()}
    for name in names:
        if not name.endswith(".zidx"):
            assert sha256_of(tmp_path / "here" / name) == sha256_of(tmp_path / "ray" / name)
    assert not ray.is_initialized()
    assert left_behind() == before
    assert dict(os.environ) == environment
