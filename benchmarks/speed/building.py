"""Building shards from a folder of 2,000 synthetic images with JSON, 100 samples a shard.

Nothing heavy is imported at the top: worker processes import this module again.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from zoo.benchmarks.speed.timing import alternate, report

from zoo.data.building.build import BuildOptions, build_shards
from zoo.data.building.folders import folder_source


def main() -> None:
    """In one process, and with two."""
    from zoo.benchmarks.speed.data import images  # webdataset and torch

    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    files = folder / "files"
    files.mkdir()
    for key, members in images():
        for extension, data in members.items():
            (files / f"{key}.{extension}").write_bytes(data)
    options = BuildOptions(samples_per_shard=100)

    def build(workers: int) -> Callable[[], None]:
        def work() -> None:
            source = folder_source(files, exclude=folder / "built")
            build_shards(source, folder / "built", options, workers=workers, progress=False)
            shutil.rmtree(folder / "built")

        return work

    work = {"in one process": build(0), "with 2 workers": build(2)}
    try:
        report("data_building", alternate(work, 7), base="in one process")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
