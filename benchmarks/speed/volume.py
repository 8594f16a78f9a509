"""Decoding, regions and resampling of a CT against nibabel's .nii.gz and MONAI's `Spacing`.

CPU seconds of one thread, in turn. The volume is synthetic (a body with organs, bone and correlated
noise) of 256 x 256 x 160 voxels, 0.8 x 0.8 x 2.5 mm.
"""

import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool3d
from zoo.benchmarks.speed.timing import report
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.resample import resample
from zoo.modalities.volume.volume import ALL, Sequence, Volume

nibabel = importlib.import_module("nibabel")  # comes without types, as monai does
ROUNDS, TIMES = 11, 5
SHAPE, SPACING, NEW = (256, 256, 160), (0.8, 0.8, 2.5), (1.5, 1.5, 1.5)
CROP = (slice(100, 164), slice(90, 154), slice(50, 114))
NOISE = 13.0  # HU
# Centre and half axes in [-1, 1], HU: body, spine, liver, kidney, lung.
ORGANS = (
    ((0.0, 0.0, 0.0), (0.8, 0.65, 9.0), 40),
    ((0.0, 0.4, 0.0), (0.1, 0.1, 9.0), 1000),
    ((-0.3, 0.0, 0.0), (0.3, 0.25, 0.5), 60),
    ((0.3, 0.1, 0.2), (0.2, 0.2, 0.3), 120),
    ((0.2, -0.2, -0.2), (0.15, 0.2, 0.3), -800),
)


def body() -> NDArray[np.int16]:
    """(X, Y, Z) HU."""
    generator = torch.Generator().manual_seed(0)
    noise = avg_pool3d(torch.randn(1, *SHAPE, generator=generator), 3, stride=1, padding=1)[0]
    values = np.full(SHAPE, -1000.0, np.float32)
    places = np.ix_(*(np.linspace(-1, 1, size) for size in SHAPE))
    for centre, half, hu in ORGANS:
        far = sum(((p - c) / h) ** 2 for p, c, h in zip(places, centre, half, strict=True))
        values[np.asarray(far) < 1] = hu
    values += (noise * (NOISE / noise.std())).numpy()
    return np.rint(values).clip(-1024, 3071).astype(np.int16)


def cpu_seconds(candidates: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Of each candidate, the mean of a few times, round by round; the first does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(ROUNDS + 1):
        for name, work in candidates.items():
            began = time.process_time()
            for _ in range(TIMES):
                work()
            if number:
                seconds[name].append((time.process_time() - began) / TIMES)
    return seconds


def decoding(path: Path, members: dict[str, bytes]) -> None:
    """A whole volume, and 64 x 64 x 64 voxels of it; nibabel must inflate all for either."""
    codec = VolumeCodec()

    def stored() -> Volume:
        volume = codec.decode(members)["volume"]
        assert isinstance(volume, Volume)
        return volume

    candidates: dict[str, Callable[[], object]] = {
        "nibabel": lambda: np.asanyarray(nibabel.load(path).dataobj),
        "zoo": lambda: stored().sequences["ct"].voxels[ALL],
        "zoo, a region": lambda: stored().read(["ct"], CROP),
    }
    assert np.array_equal(np.asarray(candidates["nibabel"]()), np.asarray(candidates["zoo"]()))
    megabytes = path.stat().st_size / 1e6, len(members["ct.b2nd"]) / 1e6
    print("decoding; .nii.gz has {:.1f} MB, the frame {:.1f} MB".format(*megabytes))
    report("volume_decoding", cpu_seconds(candidates), base="nibabel")


def resampling(voxels: NDArray[np.int16]) -> None:
    """To 1.5 mm, from memory to memory."""
    transforms = importlib.import_module("monai.transforms")
    meta = importlib.import_module("monai.data").MetaTensor
    affine = np.diag([*SPACING, 1.0])
    volume = Volume(sequences={"ct": Sequence(voxels)}, affine=affine, modality="ct")
    values = meta(torch.from_numpy(volume.read()), affine=torch.from_numpy(affine))
    spacing = transforms.Spacing(NEW, mode="bilinear")
    got, want = resample(volume, NEW).read(), spacing(values).numpy()
    print(f"resampling; largest difference {np.abs(got - want).max():.1e} HU")
    candidates: dict[str, Callable[[], object]] = {
        "MONAI": lambda: spacing(values),
        "zoo": lambda: resample(volume, NEW),
    }
    report("volume_resampling", cpu_seconds(candidates), base="MONAI")


def main() -> None:
    """Both parts."""
    torch.set_num_threads(1)
    voxels = body()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*SPACING, 1.0])), path)
        decoding(path, VolumeCodec().encode({"volume": path}))
    resampling(voxels)


if __name__ == "__main__":
    main()
