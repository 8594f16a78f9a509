"""Code search on the running Python's standard library: BM25, a dual encoder, and both.

    python -m zoo.benchmarks.tables.stdlib_search              # of a small one, trained on the spot
    python -m zoo.benchmarks.tables.stdlib_search runs/search  # of any other

Nothing is downloaded. The weight of the fusion is chosen on a quarter of the training side's
modules; train an encoder without them (`write_pairs`), or its weight comes out too large. The
recipe was chosen on these modules too, never on the test side.

On Python 3.11.7 BM25 has 0.4365, and 0.2444 anonymised, over 809 pairs. The figures that the split
was specified with are 0.4400 and 0.2563 over 810. Both start from the same 58,720 functions, 8,509
documented ones, 8,250 of them with a body, and hold out the same 31 modules; but 2,351 pairs to
train on and 810 to test remained there, 2,376 and 809 here. Looking for duplicates before short
codes are dropped gives 2,351 and 802 (BM25 0.4358 and 0.2450), so order explains the one side and
not the other. Where the scores' difference comes from is not known; which words are counted can
make as much: without those of a single letter or with digits, of which the specification says
nothing, BM25 has 0.4399 and 0.2516 here.
"""

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from zoo.benchmarks.speed.timing import RESULTS
from zoo.modalities.code.codec import CodeCodec
from zoo.modalities.contracts import Encoder

import zoo
from zoo.data.building.build import write_shards
from zoo.demo.stdlib import digest_of
from zoo.demo.stdlib_pairs import stdlib_pairs
from zoo.probes.search import SearchPairs, SearchScore, cosine, search_probe
from zoo.text import columns

__all__ = ["is_held_back", "measure", "train", "write_pairs"]

RECIPE: Mapping[str, object] = {
    "objective.name": "text_code",
    "encoder.vocab_size": 8192,
    "encoder.depth": 1,  # so few pairs and minutes are better spent on fewer layers
    "train.optimizer": "adamw",
    "train.batch_size": 96,
    "train.lr": 2e-3,
    "train.warmup": 10,
}


def is_held_back(module: str) -> bool:
    """Whether a module of the training side is for choosing the fusion's weight."""
    return digest_of(module) % 5 == 1


def measure(encoder: Encoder) -> SearchScore:
    """All columns of an encoder of code, which reads texts and code alike."""
    pairs = stdlib_pairs()
    train = pairs["train"].only(is_held_back)
    return search_probe(
        _dense(encoder, pairs["test"]), _dense(encoder, train), pairs["test"], train
    )


def write_pairs(folder: Path) -> Path:
    """Shards of the training side's pairs, without the modules that are held back."""
    pairs = stdlib_pairs()["train"].only(lambda module: not is_held_back(module))
    codec = CodeCodec()
    both = zip(pairs.codes, pairs.queries, strict=True)
    write_shards(
        (
            (f"{number:06d}", codec.encode({"text": code, "facts": {"query": query}}))
            for number, (code, query) in enumerate(both)
        ),
        folder,
    )
    return folder


def train(pairs: Path, out: Path, *, steps: int, seed: int) -> Encoder:
    """A small dual encoder, trained for a minute or two."""
    options = {**RECIPE, "train.steps": steps, "train.save_every": steps}
    return zoo.pretrain("stdlib-mlm-tiny", pairs, out, options, seed=seed, progress=False).load()


def _dense(encoder: Encoder, pairs: SearchPairs) -> np.ndarray:
    return cosine(encoder.embed(list(pairs.queries)), encoder.embed(list(pairs.codes)))


def _show(score: SearchScore) -> None:
    rows = [
        (name, f"{value:.4f}", "{:.4f} to {:.4f}".format(*score.intervals[name]))
        for name, value in score.mrr.items()
    ]
    click.echo(columns(("method", "MRR", "95 % interval"), rows))
    gain, low, high = score.gain
    click.echo(f"fused - bm25: {gain:+.4f} ({low:+.4f} to {high:+.4f}), weight {score.weight:.2f}")
    click.echo(score.protocol)


def _keep(scores: Sequence[SearchScore], steps: int) -> None:
    facts = {
        "zoo": zoo.__version__,
        "python": platform.python_version(),
        "recipe": {**RECIPE, "train.steps": steps},
        "seeds": [asdict(score) for score in scores],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "stdlib_search.json").write_text(json.dumps(facts, indent=1) + "\n")


@click.command()
@click.argument("model", required=False)
@click.option("--seeds", default=3, show_default=True, help="Without MODEL: how many are trained.")
@click.option("--steps", default=100, show_default=True, help="Without MODEL: of each.")
def command(model: str | None, seeds: int, steps: int) -> None:
    """MODEL's mean reciprocal ranks: a name of the catalogue, a run or an export folder."""
    if model is not None:
        _show(measure(zoo.load(model)))
        return
    scores = []
    with tempfile.TemporaryDirectory(prefix="zoo-search-") as name:
        pairs = write_pairs(Path(name) / "pairs")
        for seed in range(seeds):
            encoder = train(pairs, Path(name) / f"run-{seed}", steps=steps, seed=seed)
            scores.append(measure(encoder))
            click.echo(f"seed {seed}")
            _show(scores[-1])
    if seeds > 2:
        _keep(scores, steps)


if __name__ == "__main__":
    command()
