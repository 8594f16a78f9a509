"""Code search on the running Python's standard library: an encoder, BM25, and both.

    python -m zoo.benchmarks.tables.stdlib_search runs/code/export

Nothing is downloaded. The weight of the fusion is chosen on a fifth of the training side's modules;
train the encoder without them (`is_held_back`), or its weight comes out too large.
"""

from dataclasses import replace

import click
import numpy as np
from zoo.modalities.contracts import Encoder

import zoo
from zoo.cli.text import columns
from zoo.demo.stdlib import digest_of
from zoo.demo.stdlib_pairs import stdlib_pairs
from zoo.probes.search import SearchPairs, SearchScore, cosine, search_probe

__all__ = ["is_held_back", "measure"]


def is_held_back(module: str) -> bool:
    """Whether a module of the training side is for choosing the fusion's weight."""
    return digest_of(module) % 5 == 1


def measure(encoder: Encoder) -> SearchScore:
    """All columns of an encoder of code, which reads texts and code alike."""
    pairs = stdlib_pairs()
    train = _only_held_back(pairs["train"])
    return search_probe(
        _dense(encoder, pairs["test"]), _dense(encoder, train), pairs["test"], train
    )


def _dense(encoder: Encoder, pairs: SearchPairs) -> np.ndarray:
    return cosine(encoder.embed(list(pairs.queries)), encoder.embed(list(pairs.codes)))


def _only_held_back(pairs: SearchPairs) -> SearchPairs:
    keep = [i for i, module in enumerate(pairs.modules) if is_held_back(module)]
    fields = ("queries", "codes", "anonymous", "modules")
    return replace(pairs, **{name: [getattr(pairs, name)[i] for i in keep] for name in fields})


@click.command()
@click.argument("model")
def command(model: str) -> None:
    """MODEL's mean reciprocal ranks: a name of the catalogue, a run or an export folder."""
    score = measure(zoo.load(model))
    rows = [
        (name, f"{value:.4f}", "{:.4f} to {:.4f}".format(*score.intervals[name]))
        for name, value in score.mrr.items()
    ]
    click.echo(columns(("method", "MRR", "95 % interval"), rows))
    gain, low, high = score.gain
    click.echo(f"fused - bm25: {gain:+.4f} ({low:+.4f} to {high:+.4f}), weight {score.weight:.2f}")
    click.echo(score.protocol)


if __name__ == "__main__":
    command()
