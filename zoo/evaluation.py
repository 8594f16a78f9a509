"""`zoo.probe`: how good frozen features are, on labelled shards."""

from pathlib import Path
from typing import Literal

import numpy as np

from zoo.data.shards import ShardSet
from zoo.errors import DataError, UnknownNameError
from zoo.modalities.contracts import Encoder
from zoo.probing import Score, knn_probe, linear_probe
from zoo.registry.build import build_codec

__all__ = ["embed_shards", "probe"]

_READ = 1024  # samples that are decoded together


def probe(
    encoder: Encoder,
    train: str | Path,
    test: str | Path,
    *,
    kind: Literal["knn", "linear"] = "linear",
    k: int = 20,
) -> Score:
    """Accuracy of a probe on frozen features.

    Args:
        encoder: stays as it is.
        train: labelled shards (a `cls` member a sample) that the probe is fitted on.
        test: labelled shards that it is measured on.
        kind: "knn" (DINO's weighted kNN) or "linear" (logistic regression).
        k: neighbours of the kNN.

    Raises:
        DataError: a sample has no label.
        UsageError: there is nothing to fit or to measure.
    """
    if kind not in ("knn", "linear"):
        raise UnknownNameError("probe", kind, ("knn", "linear"))
    features = [*embed_shards(encoder, train), *embed_shards(encoder, test)]
    return knn_probe(*features, k=k) if kind == "knn" else linear_probe(*features)


def embed_shards(encoder: Encoder, shards: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and labels (N,) of labelled shards, in the order of the shards."""
    data, codec = ShardSet(shards, strict=True), build_codec(encoder.modality)
    features, labels = [], []
    for start in range(0, len(data), _READ):
        samples = []
        for index in range(start, min(start + _READ, len(data))):
            try:
                samples.append(codec.decode(data.read(index)))
            except DataError as error:
                raise DataError(f"{data.where(index)}: {error}", code=error.code) from None
            if "label" not in samples[-1]:
                raise DataError(f"{data.where(index)}: no label (a cls member) to probe with")
        labels += [int(str(sample["label"])) for sample in samples]
        features.append(encoder.embed(samples, progress=False))
    return np.concatenate(features), np.array(labels)
