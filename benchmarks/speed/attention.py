"""Packed sequences on the CPU: buckets of like length, one call a sequence, and padding.

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

    def buckets() -> None:
        attention(q, k, v, packed=Packed(sizes)).sum().backward()

    def one_by_one() -> None:
        parts = zip(*(x.split(sizes, dim=1) for x in (q, k, v)), strict=True)
        torch.cat([attention(*part) for part in parts], dim=1).sum().backward()

    def padded() -> None:
        dense = [pad_sequence(list(x[0].split(sizes)), batch_first=True) for x in (q, k, v)]
        valid = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        out: Tensor = attention(*dense, valid=valid)
        out[valid].sum().backward()

    print(f"{SEQUENCES} sequences, {total} tokens, longest {max(sizes)}")
    work = {"padded": padded, "one call a sequence": one_by_one, "buckets": buckets}
    report("attention", alternate(work, ROUNDS), base="padded")


if __name__ == "__main__":
    main()
