"""Span corruption of T5 (arXiv 1910.10683): which tokens are noise, and what is read and written.

Notation: N tokens of a text, r share of noise, m mean length of a noise span.
"""

import torch
from torch import Tensor

__all__ = ["corrupt_spans", "fitting_length", "noise_mask", "span_counts"]


def span_counts(length: int, ratio: float, mean_span: float) -> tuple[int, int]:
    """Noise tokens and noise spans of a text of `length` >= 2 tokens; halves round to even."""
    noise = min(max(round(length * ratio), 1), length - 1)
    # Spans are separated by tokens that stay: there can be no more than those.
    return noise, min(max(round(noise / mean_span), 1), noise, length - noise)


def noise_mask(length: int, ratio: float, mean_span: float, generator: torch.Generator) -> Tensor:
    """(length,) True at noise; begins with a span that stays, and ends with one of noise."""
    noise, spans = span_counts(length, ratio, mean_span)
    parts = [_composition(total, spans, generator) for total in (length - noise, noise)]
    lengths = torch.stack(parts, dim=1).flatten()
    return (torch.arange(2 * spans) % 2 == 1).repeat_interleave(lengths)


def _composition(total: int, parts: int, generator: torch.Generator) -> Tensor:
    """(parts,) positive whole numbers that add up to `total`, all such lists equally likely."""
    cuts = torch.randperm(total - 1, generator=generator)[: parts - 1].sort().values + 1
    return torch.cat([torch.tensor([0]), cuts, torch.tensor([total])]).diff()


def corrupt_spans(ids: Tensor, noise: Tensor, *, sentinels: range, eos_id: int) -> list[Tensor]:
    """What the encoder reads and what the decoder writes.

    Both end in `eos_id`. To the reader each noise span is one sentinel, to the writer each span
    that stays; each counts its sentinels for itself.

    Args:
        ids: (N,).
        noise: (N,) bool.
        sentinels: their ids in order of use, as many as there are spans.
        eos_id: the end of a text.
    """
    return [_replace(ids, hidden, sentinels, eos_id) for hidden in (noise, ~noise)]


def _replace(ids: Tensor, hidden: Tensor, sentinels: range, eos_id: int) -> Tensor:
    starts = hidden.clone()
    starts[1:] &= ~hidden[:-1]
    stand_in = sentinels.start + sentinels.step * (starts.cumsum(0) - 1)
    kept = torch.where(starts, stand_in, ids)[starts | ~hidden]
    return torch.cat([kept, kept.new_tensor([eos_id])])


def fitting_length(inputs: int, ratio: float, mean_span: float) -> tuple[int, int]:
    """How long a text may be to be read as `inputs` tokens, and what is then written.

    Returns:
        Tokens of the text, and of the decoder's targets.
    """

    def lengths(tokens: int) -> tuple[int, int]:
        noise = round(tokens * ratio)
        spans = round(noise / mean_span)
        return tokens - noise + spans + 1, noise + spans + 1

    tokens = inputs
    while lengths(tokens + 1)[0] <= inputs:
        tokens += 1
    targets = lengths(tokens)[1]
    if ratio == 0.5 and targets > inputs:  # the reference keeps targets no longer than inputs
        return tokens - 1, targets - 1
    return tokens, targets
