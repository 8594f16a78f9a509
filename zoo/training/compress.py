"""Few bits for a tensor: the largest values of every chunk, in four bins (arXiv 2508.15706).

Numbers are those of the production code, one-covenant/templar (golden `sparseloco`). A matrix is
cut into square blocks; at the default sizes a kept value takes 12 bits for its place and 2 for its
bin, 146 times less than all of them in float32.

Notation: C chunks of S values each, K kept of each chunk.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TopK"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Keeps the K largest values of a chunk, rounded to the mean of their bin."""

    chunk: int = 64  # side of a matrix's blocks and length of a vector's; fitted to the shape
    kept: int = 64  # K; of a vector with the default chunk that is everything
    bins: int | None = 4  # None: kept values stay float32
    reach: float = 6.0  # standard deviations that the bins span

    def encode(self, tensor: Tensor) -> Tensor:
        """(bytes,) uint8, of a length that the shape alone decides."""
        chunks = self._cut(tensor.float())
        places = chunks.abs().topk(self._kept(chunks), dim=1).indices
        values = chunks.gather(1, places)
        packed = _pack(places.flatten(), _bits(chunks.shape[1]))
        if self.bins is None:
            return torch.cat([packed, _bytes(values)])
        mean = values.mean()
        codes, means = self._binned(values.flatten() - mean, self.bins)
        return torch.cat([packed, _pack(codes, _bits(self.bins)), _bytes(means + mean)])

    def decode(self, data: Tensor, like: Tensor) -> Tensor:
        """What `encode` kept, and zeros elsewhere.

        Args:
            data: what `encode` gave.
            like: a tensor of the shape and device of the encoded one.
        """
        chunks = self._cut(torch.zeros_like(like, dtype=torch.float32))
        count, width = len(chunks) * self._kept(chunks), _bits(chunks.shape[1])
        places, data = _unpack(data, width, count)
        if self.bins is None:
            values = _floats(data)
        else:
            codes, data = _unpack(data, _bits(self.bins), count)
            values = _floats(data)[codes]
        rows = len(chunks)
        chunks = chunks.scatter(1, places.view(rows, -1), values.view(rows, -1))
        return self._paste(chunks, like)

    def _binned(self, values: Tensor, bins: int) -> tuple[Tensor, Tensor]:
        """Each value's bin, and the mean of each bin; values are centred."""
        deviation = values.norm() / max(1, len(values) - 1) ** 0.5
        step = (deviation * self.reach / bins).clamp(min=torch.finfo(values.dtype).tiny)
        codes = (values / step + bins // 2).round().clamp(0, bins - 1).long()
        sums = values.new_zeros(bins).index_add(0, codes, values)
        return codes, sums / codes.bincount(minlength=bins).clamp(min=1)

    def _kept(self, chunks: Tensor) -> int:
        return min(self.kept, chunks.shape[1])

    def _sides(self, tensor: Tensor) -> list[int]:
        """Of a chunk: along each axis the largest divisor; a kernel's axes count as one."""
        shape = tensor.shape if tensor.ndim < 2 else (len(tensor), tensor[0].numel())
        return [max(d for d in range(1, self.chunk + 1) if n % d == 0) for n in shape or (1,)]

    def _cut(self, tensor: Tensor) -> Tensor:
        """(C, S)."""
        sides = self._sides(tensor)
        if len(sides) == 1:
            return tensor.reshape(-1, sides[0])
        rows, columns = sides
        blocks = tensor.reshape(len(tensor) // rows, rows, -1, columns)
        return blocks.transpose(1, 2).reshape(-1, rows * columns)

    def _paste(self, chunks: Tensor, like: Tensor) -> Tensor:
        """The inverse of `_cut`."""
        sides = self._sides(like)
        if len(sides) == 1:
            return chunks.reshape(like.shape)
        rows, columns = sides
        blocks = chunks.reshape(len(like) // rows, -1, rows, columns)
        return blocks.transpose(1, 2).reshape(like.shape)


def _bits(count: int) -> int:
    """That tell `count` things apart."""
    return (count - 1).bit_length()


def _pack(numbers: Tensor, width: int) -> Tensor:
    """Whole numbers of `width` bits each, end to end as bytes."""
    bits = (numbers.unsqueeze(1) >> torch.arange(width, device=numbers.device)) & 1
    bits = torch.nn.functional.pad(bits.flatten(), (0, -bits.numel() % 8)).view(-1, 8)
    return (bits << torch.arange(8, device=bits.device)).sum(1).byte()


def _unpack(data: Tensor, width: int, count: int) -> tuple[Tensor, Tensor]:
    """`count` numbers from the front of some bytes, and the bytes behind them."""
    used = -(-count * width // 8)
    bits = (data[:used].long().unsqueeze(1) >> torch.arange(8, device=data.device)) & 1
    bits = bits.flatten()[: count * width].view(count, width)
    return (bits << torch.arange(width, device=data.device)).sum(1), data[used:]


def _bytes(values: Tensor) -> Tensor:
    return values.flatten().view(torch.uint8)


def _floats(data: Tensor) -> Tensor:
    return data.clone().view(torch.float32)  # a slice may begin at any byte
