"""Losses of volumes and their reports: whole, and sentence by sentence (VELVET-Med, 2508.12108).

Numbers match ZiyangZhang0511/VELVET-Med. Its contrastive loss of two views is
`zoo.objectives.contrastive_losses.nt_xent` at a temperature of 0.5.

Notation: B pairs, V cells of a volume, T sentences (or words) of a report, L tokens, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

__all__ = ["local_loss", "report_loss", "sentence_mask"]


def report_loss(
    volumes: Tensor, reports: Tensor, temperature: Tensor, *, smoothing: float = 0.1
) -> Tensor:
    """Each volume finds its report among those of the batch and the other way round.

    Args:
        volumes: (B, D).
        reports: (B, D).
        temperature: what cosines are divided by; the paper learns it from 0.07 on.
        smoothing: of the labels.
    """
    logits = normalize(volumes, dim=1) @ normalize(reports, dim=1).T / temperature
    return _both_ways(logits, smoothing)


def local_loss(
    volumes: Tensor,
    reports: Sequence[Tensor],
    *,
    temperatures: tuple[float, float, float] = (4.0, 5.0, 10.0),
) -> Tensor:
    """The same by parts: how well each sentence agrees with the cells that it attends to.

    After GLoRIA (Huang et al., ICCV 2021): cosines are normalised over sentences,
    then over cells; a pair's similarity is log sum exp over its sentences.

    Args:
        volumes: (B, V, D).
        reports: B of (T, D), each with its own T.
        temperatures: of the attention to cells, of the sum over sentences, of the logits.
    """
    focus, within, across = temperatures
    cells = normalize(volumes, dim=-1)
    columns = []
    for report in reports:
        parts = normalize(report, dim=-1)
        attention = (focus * (cells @ parts.T).softmax(dim=2)).softmax(dim=1)  # (B, V, T)
        seen = attention.transpose(1, 2) @ cells
        columns.append((within * cosine_similarity(parts, seen, dim=-1)).logsumexp(dim=1))
    return _both_ways(across * torch.stack(columns, dim=1), 0.0)


def sentence_mask(sentences: Tensor, keep: Tensor) -> Tensor:
    """What each token of a report sees: everything real, but a sentence token its sentence only.

    The first token of a sentence stands for it, in the first sentence the second, behind [CLS]; it
    sees position 0 besides. As in the reference, without padding the last sentence token but one
    sees to the end, and the last one everything.

    Args:
        sentences: (B, L), 1, 1, 2, 2, 2, 3 and so on; 0 at padding.
        keep: (B, L) True at real tokens.

    Returns:
        (B, L, L) bool, True where the row's token sees the column's.
    """
    mask = keep.bool().unsqueeze(1).repeat(1, keep.shape[1], 1)
    for row, numbers, real in zip(mask, sentences, keep.sum(dim=1).tolist(), strict=True):
        changes = (numbers.diff().nonzero().flatten() + 1).tolist()
        ends = [*changes[:-1], int(real)]
        for begin, end in zip([1, *ends[:-1]], ends, strict=True):
            row[begin] = False
            row[begin, [0, *range(begin, end)]] = True
    return mask


def _both_ways(logits: Tensor, smoothing: float) -> Tensor:
    target = torch.arange(len(logits), device=logits.device)
    sides = (cross_entropy(x, target, label_smoothing=smoothing) for x in (logits, logits.T))
    return sum(sides, start=logits.new_zeros(())) / 2
