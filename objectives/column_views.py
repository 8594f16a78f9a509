"""Two views of a table's rows, for contrastive terms: a batch that holds each row several times."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from zoo.modalities.contracts import Batch

__all__ = ["column_views", "partition", "repeat_rows"]

_CELLS = ("cell_column", "cell_number", "cell_value")


def partition(columns: int, parts: int, overlap: float) -> list[list[int]]:
    """UniTabE's overlapping blocks of columns (arXiv 2307.09249, released code).

    With k = ceil(overlap * the length of the first chunk), block i is chunk i and the first k
    columns of chunk i + 1; the last one takes the last k of the chunk before it.
    """
    chunks = [chunk.tolist() for chunk in np.array_split(np.arange(columns), min(parts, columns))]
    if len(chunks) < 2:
        return chunks
    shared = math.ceil(overlap * len(chunks[0]))
    if not shared:
        return chunks
    blocks = [chunk + after[:shared] for chunk, after in pairwise(chunks)]
    return [*blocks, chunks[-1] + chunks[-2][-shared:]]


def column_views(
    rows: int, columns: int, parts: int, overlap: float, generator: torch.Generator
) -> Tensor:
    """(rows, 2, columns) True at the columns of two different blocks, in a new order each time."""
    order = torch.randperm(columns, generator=generator)
    blocks = partition(columns, parts, overlap)
    masks = torch.zeros(len(blocks), columns, dtype=torch.bool)
    for mask, block in zip(masks, blocks, strict=True):
        mask[order[block]] = True
    chosen = torch.rand(rows, len(blocks), generator=generator).argsort(dim=1)[:, :2]
    return masks[chosen if chosen.shape[1] == 2 else chosen.expand(-1, 2)]


def repeat_rows(batch: Batch, times: int) -> Batch:
    """Each row of a block several times in turn; only for rows that all have the same cells."""
    rows = len(batch["lengths"])
    repeated = {
        name: batch[name].reshape(rows, -1).repeat_interleave(times, dim=0).flatten()
        for name in _CELLS
    }
    return batch | repeated | {"lengths": batch["lengths"].repeat_interleave(times)}
