"""Packed sequences on the CPU, against padding like lengths together and against padding all.

Lengths as functions of Python code have them (log-normal, median 63, cut at 256); forward and
backward.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from zoo.benchmarks.speed.timing import alternate, report
from zoo.modalities.attention import attention
from zoo.modalities.packing import Packed

SEQUENCES, HEADS, WIDTH, ROUNDS = 64, 4, 32, 9
TOGETHER = 8  # sequences of like length that are padded to the longest of them


def lengths() -> list[int]:
    """One batch of lengths."""
    drawn = torch.distributions.LogNormal(4.14, 0.85).sample((SEQUENCES,))
    return [int(n) for n in drawn.clamp(4, 256)]


def main() -> None:
    """Times the three ways, which give the same numbers (tests/modalities/test_attention.py)."""
    torch.manual_seed(0)
    sizes = lengths()
    total = sum(sizes)
    q, k, v = (torch.randn(1, total, HEADS, WIDTH, requires_grad=True) for _ in range(3))

    def packed() -> None:
        attention(q, k, v, packed=Packed(sizes)).sum().backward()

    def bucketed() -> None:
        parts = list(zip(*(x[0].split(sizes) for x in (q, k, v)), strict=True))
        parts.sort(key=lambda part: len(part[0]))
        for start in range(0, len(parts), TOGETHER):
            part = parts[start : start + TOGETHER]
            longest = [len(sequence[0]) for sequence in part]
            dense = [pad_sequence(list(x), batch_first=True) for x in zip(*part, strict=True)]
            valid = torch.arange(max(longest)) < torch.tensor(longest)[:, None]
            attention(*dense, valid=valid)[valid].sum().backward()

    def padded() -> None:
        dense = [pad_sequence(list(x[0].split(sizes)), batch_first=True) for x in (q, k, v)]
        valid = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        out: Tensor = attention(*dense, valid=valid)
        out[valid].sum().backward()

    print(f"{SEQUENCES} sequences, {total} tokens, longest {max(sizes)}")
    work = {"padded": padded, "like lengths together": bucketed, "packed": packed}
    report("attention", alternate(work, ROUNDS), base="padded")


if __name__ == "__main__":
    main()
