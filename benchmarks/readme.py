"""The part of README.md that is made from `benchmarks/results`: claims and speed.

    python -m zoo.benchmarks.readme

What stands between its markers is replaced. A test fails when it differs from the results.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.benchmarks.claims.results import read_all
from zoo.benchmarks.speed.timing import RESULTS

from zoo.files import write_atomic

__all__ = ["PAGE", "headlines", "render", "replaced"]

PAGE = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- made by python -m zoo.benchmarks.readme -->"
END = "<!-- end -->"
# File of results, its base, and what of it is shown; what is measured, in words.
SPEED = (
    ("data_raw", "webdataset", "zoo, order of training", "reading samples of 105 kB"),
    ("data_small", "webdataset", "zoo, order of training", "reading records of 330 bytes"),
    ("data_decoded", "webdataset, Pillow", "zoo, its codec and preprocess", "images to 224 x 224"),
    ("data_writing", "webdataset.ShardWriter", "zoo, with index and digests", "writing shards"),
    ("attention", "padded", "packed", "attention over texts of many lengths"),
    ("vision_pipeline", "official", "zoo", "training images from JPEGs"),
    ("vision_step", "lightly float32", "zoo float32", "a step of MAE"),
    ("audio_features_1x8", "upstream", "zoo", "log-mel features"),
    ("audio_step", "upstream float32", "zoo float32", "a step of Bird-MAE"),
    ("volume_decoding", "nibabel", "zoo", "decoding a CT"),
    ("volume_resampling", "MONAI", "zoo", "resampling a CT"),
    ("volume_step", "upstream", "zoo", "a step of VoCo"),
    ("loading", "timm.create_model", "zoo.load", "loading an encoder, a whole process"),
)


def render(folder: Path = RESULTS) -> str:
    """Both tables, between their markers."""
    return "\n".join((BEGIN, *_claims(folder), "", *_speed(folder), END))


def _claims(folder: Path) -> Iterator[str]:
    yield "| claim | paper | tried on | compared | gain (95 %) | verdict |"
    yield "|---|---|---|---|---:|---|"
    for result in read_all(folder):
        seeds = len(next(iter(result["values"].values())))
        for number, one in enumerate(result["comparisons"]):
            low, high = one["interval_95"]
            cells = (
                "" if number else f"`{result['claim']}`: {result['says']}",
                "" if number else result["paper"],
                "" if number else f"{result['data']}, {seeds} seeds",
                f"{one['ours']} against {one['base']}",
                f"{one['gain']:+.3g} ({low:+.3g} to {high:+.3g})",
                one["verdict"],
            )
            yield f"| {' | '.join(cells)} |"


def _speed(folder: Path) -> Iterator[str]:
    yield "| what | peer | peer, ms | zoo, ms | times |"
    yield "|---|---|---:|---:|---:|"
    for words, base, before, after in headlines(folder):
        yield f"| {words} | {base} | {before:,.4g} | {after:,.4g} | {before / after:.3g} |"


def headlines(folder: Path = RESULTS) -> Iterator[tuple[str, str, float, float]]:
    """What is measured, the peer, its milliseconds and those of zoo."""
    for name, base, row, words in SPEED:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        rows: dict[str, Any] = json.loads(path.read_text())["rows"]
        yield words, base, rows[base]["median_ms"], rows[row]["median_ms"]


def replaced(text: str, block: str) -> str:
    """The page with the block between its markers."""
    start, rest = text.split(BEGIN)
    return start + block + rest.split(END, 1)[1]


if __name__ == "__main__":
    write_atomic(PAGE, replaced(PAGE.read_text(), render()))
