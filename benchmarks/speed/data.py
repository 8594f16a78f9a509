"""The shard loader against `webdataset`, in turn in one process.

Every page of every member is touched on both sides. webdataset reads in the order of the shards;
zoo does too, and in the order of training, where neighbours lie anywhere. Data are synthetic: 2,000
JPEG of 500 x 375 (about 105 kB) with JSON in 4 shards, and 50,000 records of 330 bytes in one, all
in the page cache. Targets: raw >= 5x and >= 0.75 of plain reading, small records >= 15x, decoded
>= 1x with Pillow and >= 1.9x with torchvision's decoder and our resize, headers of one shard of
2,000 images within 20 ms, writing >= 2x, resuming at 99 % <= 2x that at 0 %.
"""

import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from zoo.benchmarks.speed.timing import alternate, report
from zoo.modalities.vision.codec import VisionCodec
from zoo.modalities.vision.preprocess import VisionPreprocess, VisionPreprocessConfig

from zoo.data.order import Order
from zoo.data.shard.indexing import build_index
from zoo.data.shard.write import write_shard
from zoo.data.shards import ShardSet

ROUNDS, BATCH = 7, 256
IMAGES, DISTINCT, RECORDS = 2_000, 100, 50_000
SIDE = 224

Sample = tuple[str, dict[str, bytes]]


def images() -> Iterator[Sample]:
    """Smooth noise: JPEG takes as many bytes for it as for photographs."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(DISTINCT):
        coarse = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
        noise = generator.normal(0, 14, image.shape)
        buffer = io.BytesIO()
        pixels = np.clip(image + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, "jpeg", quality=90)
        files.append(buffer.getvalue())
    for i in range(IMAGES):
        yield f"{i:06d}", {"jpg": files[i % DISTINCT], "json": json.dumps({"id": i}).encode()}


def records() -> Iterator[Sample]:
    """Short texts with facts."""
    for i in range(RECORDS):
        text = (f"record {i} " * 30)[:200].encode()
        yield f"{i:06d}", {"txt": text, "json": json.dumps({"id": i, "x": "y" * 100}).encode()}


def written(folder: Path, samples: Iterable[Sample], shards: int) -> list[Path]:
    """Equal shards of the samples."""
    every = list(samples)
    size = -(-len(every) // shards)
    paths = [folder / f"{number:05d}.tar" for number in range(shards)]
    for number, path in enumerate(paths):
        write_shard(path, every[number * size : (number + 1) * size])
    return paths


def touch(members: Iterable[bytes | memoryview]) -> int:
    """Looks at every page."""
    return sum(len(bytes(data[::4096])) for data in members)


def plainly(paths: list[Path]) -> None:
    """All bytes into one buffer: what the machine can do."""
    buffer = bytearray(4 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while read := file.readinto(buffer):
                bytes(memoryview(buffer)[:read:4096])


def by_webdataset(paths: list[Path]) -> Iterator[dict[str, bytes]]:
    """Samples in the order of the shards, nothing decoded."""
    yield from webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)


def by_zoo(shards: ShardSet, *, shuffled: bool) -> Iterator[Mapping[str, memoryview]]:
    """Samples in the order of the shards, or in that of training."""
    ids = np.arange(len(shards))
    if shuffled:
        ids = Order(samples=len(shards), pool=65_536).ids(ids)
    for start in range(0, len(shards), BATCH):
        for _, members in shards.read_many(ids[start : start + BATCH]):
            assert not isinstance(members, Exception), members
            yield members


def touched_by_webdataset(paths: list[Path]) -> Callable[[], None]:
    """Reads everything with webdataset."""

    def work() -> None:
        for sample in by_webdataset(paths):
            touch(value for key, value in sample.items() if not key.startswith("__"))

    return work


def touched_by_zoo(
    paths: list[Path], *, check: bool = False, shuffled: bool = False
) -> Callable[[], None]:
    """Reads everything with zoo."""
    shards = ShardSet(paths, check=check)

    def work() -> None:
        for sample in by_zoo(shards, shuffled=shuffled):
            touch(sample.values())

    return work


def with_pillow(data: bytes | memoryview) -> torch.Tensor:
    """Decoded and resized as the transforms of torchvision do on Pillow images."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def reading(folder: Path) -> None:
    """Raw samples, large and small."""
    paths = written(folder / "images", images(), 4)
    work = {
        "read into one buffer": lambda: plainly(paths),
        "webdataset": touched_by_webdataset(paths),
        "zoo": touched_by_zoo(paths),
        "zoo, order of training": touched_by_zoo(paths, shuffled=True),
        "zoo, and checksums": touched_by_zoo(paths, shuffled=True, check=True),
    }
    print(f"{IMAGES} images, {sum(path.stat().st_size for path in paths) / 1e6:.0f} MB")
    seconds = alternate(work, ROUNDS)
    report("data_raw", seconds, base="webdataset")
    report("data_raw_limit", seconds, base="read into one buffer")
    paths = written(folder / "records", records(), 1)
    work = {
        "webdataset": touched_by_webdataset(paths),
        "zoo": touched_by_zoo(paths),
        "zoo, order of training": touched_by_zoo(paths, shuffled=True),
        "zoo, and checksums": touched_by_zoo(paths, shuffled=True, check=True),
    }
    print(f"{RECORDS} records")
    report("data_small", alternate(work, ROUNDS), base="webdataset")


def decoding(folder: Path) -> None:
    """Images of 224 x 224 from the shards of `reading`."""
    paths = sorted((folder / "images").glob("*.tar"))[:1]
    shards = ShardSet(paths)
    codec = VisionCodec()
    preprocess = VisionPreprocess(VisionPreprocessConfig(crop_pct=1.0), img_size=SIDE, in_chans=3)
    work = {
        "webdataset, Pillow": lambda: [with_pillow(s["jpg"]) for s in by_webdataset(paths)],
        "zoo, Pillow": lambda: [with_pillow(s["jpg"]) for s in by_zoo(shards, shuffled=True)],
        "zoo, its codec and preprocess": lambda: [
            preprocess(codec.decode(s)) for s in by_zoo(shards, shuffled=True)
        ],
    }
    print(f"{len(shards)} images, decoded")
    report("data_decoded", alternate(work, 5), base="webdataset, Pillow")


def indexing(folder: Path) -> None:
    """Headers of one shard of 224 MB with 4,000 members."""
    [path] = written(folder / "one", images(), 1)

    def by_tarfile() -> None:
        with tarfile.open(path) as tar:
            tar.getmembers()

    work = {
        "tarfile": by_tarfile,
        "zoo, headers and grouping": lambda: build_index(path),
    }
    report("data_index", alternate(work, ROUNDS), base="tarfile")


def writing(folder: Path) -> None:
    """The same samples into one shard."""
    samples = list(images())

    def ours() -> None:
        write_shard(folder / "ours.tar", samples)
        (folder / "ours.tar").unlink()  # the next round must not pay for replacing it

    def theirs() -> None:
        pattern = str(folder / "theirs-%06d.tar")
        with webdataset.ShardWriter(
            pattern, maxcount=1e9, maxsize=1e12, verbose=0, encoder=False
        ) as writer:
            for key, members in samples:
                writer.write({"__key__": key, **members})
        (folder / "theirs-000000.tar").unlink()

    work = {"webdataset.ShardWriter": theirs, "zoo, with index and digests": ours}
    report("data_writing", alternate(work, ROUNDS), base="webdataset.ShardWriter")


def resuming(folder: Path) -> None:
    """The first batch at the start and at 99 % of an epoch of 10^7 samples (links to one shard)."""
    many = folder / "many"
    [first] = written(many, list(records())[:10_000], 1)
    row = {"samples": 10_000, "bytes": first.stat().st_size, "sha256": ""}
    names = [f"{number:05d}.tar" for number in range(1_000)]
    for name in names[1:]:
        os.link(first, many / name)
        os.link(f"{first}.zidx", many / f"{name}.zidx")
    manifest = {"format": "zoo-shards/1", "shards": [{"name": name, **row} for name in names]}
    (many / "manifest.json").write_text(json.dumps(manifest))

    def begin(share: float) -> Callable[[], None]:
        def work() -> None:
            shards = ShardSet(many)
            start = int(share * len(shards))
            ids = Order(samples=len(shards), pool=65_536).ids(np.arange(start, start + BATCH))
            assert sum(1 for _ in shards.read_many(ids)) == BATCH

        return work

    work = {"at 0 %": begin(0.0), "at 99 %": begin(0.99)}
    report("data_resume", alternate(work, ROUNDS), base="at 0 %")


def seeking(folder: Path) -> None:
    """Positions of an epoch of 2,000,000,000 samples."""
    order = Order(samples=2_000_000_000, pool=65_536)
    work = {
        "one position": lambda: order.ids(np.array([1_234_567_890])),
        "4,096 neighbours": lambda: order.ids(np.arange(1_234_567_890, 1_234_567_890 + 4_096)),
    }
    report("data_seek", alternate(work, ROUNDS), base="one position")


def main() -> None:
    """Everything, in a folder of the machine's memory where there is one."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        for part in (reading, decoding, indexing, writing, resuming, seeking):
            if len(sys.argv) < 2 or part.__name__ in sys.argv[1:]:
                part(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
