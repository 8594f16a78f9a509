"""Cold load of a ViT-B/16 from a local file, against timm on the same file, process by process.

Target: at most half of timm's time.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from zoo.benchmarks.speed.timing import alternate, report

import zoo

TIMM = """
import timm
timm.create_model("vit_base_patch16_224.mae", num_classes=0, checkpoint_path={path!r}).eval()
"""
ZOO = """
import zoo
zoo.load("mae-base", weights={path!r})
"""
ROUNDS = 5


def fresh(code: str) -> Callable[[], object]:
    """Runs code in a new process."""
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "vit-b.safetensors")
        save_file(zoo.create("mae-base", seed=0).state_dict(), path)
        work = {
            "import torch": fresh("import torch"),
            "zoo.load": fresh(ZOO.format(path=path)),
            "timm.create_model": fresh(TIMM.format(path=path)),
        }
        report("loading", alternate(work, ROUNDS), base="timm.create_model")
