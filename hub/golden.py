"""What an encoder holds and computes, as digests: where they agree, weights and code do.

`python -m zoo.hub.golden SOURCE THREADS` prints those of an export folder or of hf-hub:ORG/NAME@TAG
as JSON: what a process that knows nothing yet makes of it.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from zoo.hub.export import HUB, load_export
from zoo.hub.published import published_folder
from zoo.modalities.contracts import Encoder, Raw
from zoo.modalities.image_patches import ImagePreprocess
from zoo.modalities.two_towers import TwoTowers
from zoo.modalities.volume.preprocess import VolumePreprocess
from zoo.modalities.volume.volume import Sequence as Scan
from zoo.modalities.volume.volume import Volume

from zoo.errors import UsageError, ZooError

__all__ = ["elsewhere", "fingerprint"]

_TEXT = "def area(width, height):\n    return width * height  # of a rectangle\n"


def _image(encoder: Encoder) -> Sequence[Raw]:
    preprocess = encoder.preprocess
    assert isinstance(preprocess, ImagePreprocess)
    shape = (preprocess.img_size, preprocess.img_size, preprocess.in_chans)
    return [np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)]


def _sound(encoder: Encoder) -> Sequence[Raw]:
    return [(0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)]


def _volume(encoder: Encoder) -> Sequence[Raw]:
    preprocess = encoder.preprocess
    assert isinstance(preprocess, VolumePreprocess)
    constants = preprocess.config
    rng = np.random.default_rng(0)
    scans = {
        name: Scan(rng.normal(100, 200, constants.size).astype(np.float32))
        for name in constants.sequences
    }
    affine = np.diag([*(constants.spacing or (1.0, 1.0, 1.0)), 1.0])
    return [{"volume": Volume(sequences=scans, affine=affine, modality=constants.modality)}]


def _table(encoder: Encoder) -> np.ndarray:
    rows = [[1.5, "red"], [-0.25, "dark blue"], [None, None]]
    return np.array(rows, dtype=object)


# What `embed` takes: a sequence, or a table, whose rows are the items.
_INPUTS: dict[str, Callable[[Encoder], Any]] = {
    "vision": _image,
    "audio": _sound,
    "code": lambda _: [_TEXT],
    "volume": _volume,
    "tabular": _table,
}


def fingerprint(encoder: Encoder) -> dict[str, str]:
    """Digests of every tensor by name, and of the features of a fixed input as "features of it".

    Raises:
        UsageError: of this modality there is no such input.
    """
    if encoder.modality not in _INPUTS:
        raise UsageError(f"{encoder.modality}: zoo has no input to try such an encoder with")
    found = {name: _digest(value) for name, value in encoder.state_dict().items()}
    own = encoder.tower if isinstance(encoder, TwoTowers) else encoder
    features = encoder.embed(_INPUTS[encoder.modality](own))
    return found | {"features of it": _digest(torch.from_numpy(features))}


def elsewhere(source: str | Path, cache: Path | None = None) -> dict[str, str]:
    """The fingerprint that a fresh process finds.

    Args:
        source: an export folder, or "hf-hub:ORG/NAME@TAG".
        cache: where that process keeps what it fetches, and nothing of which it finds elsewhere.

    Raises:
        ZooError: it could not load the encoder; says why.
    """
    places = {} if cache is None else {"HF_HUB_CACHE": str(cache), "ZOO_CACHE": str(cache / "zoo")}
    done = subprocess.run(
        [sys.executable, "-m", "zoo.hub.golden", str(source), str(torch.get_num_threads())],
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it was killed"]
        raise ZooError(f"{source}: a fresh process cannot load it ({said[-1]})")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _digest(value: Tensor) -> str:
    plain = value.detach().cpu().contiguous()
    about = f"{plain.dtype} {tuple(plain.shape)} ".encode()
    return hashlib.sha256(about + plain.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _main(arguments: Mapping[str, str]) -> None:
    torch.set_num_threads(int(arguments["threads"]))
    source = arguments["source"]
    is_remote = source.startswith(HUB)
    folder = published_folder(source.removeprefix(HUB)) if is_remote else Path(source)
    sys.stdout.write(json.dumps(fingerprint(load_export(folder))))


if __name__ == "__main__":
    _main(dict(zip(("source", "threads"), sys.argv[1:], strict=True)))
