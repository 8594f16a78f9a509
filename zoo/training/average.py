"""Averages of saved weights (arXiv 2511.18903): one tensor of each file at a time, in float32."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.errors import DataError, UsageError

__all__ = ["average", "exponential_weights"]


def exponential_weights(count: int, decay: float) -> list[float]:
    """Weights with which running = decay * running + (1 - decay) * next is one average.

    Args:
        count: of files, oldest first.
        decay: what the past keeps at each file.
    """
    return [(1.0 - decay if i else 1.0) * decay ** (count - 1 - i) for i in range(count)]


def average(paths: Sequence[Path], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """The weighted mean of safetensors files that hold the same tensors.

    Args:
        paths: the files, oldest first.
        weights: one a file, scaled to a sum of 1; by default all alike.

    Returns:
        Floating tensors as float32; tensors of whole numbers (counters) as the last file has them.
        Running statistics of batch norms have to be estimated again.

    Raises:
        UsageError: no files, not one weight a file, or files of different models.
        DataError: a file cannot be read.
    """
    weights = [1.0] * len(paths) if weights is None else weights
    if not paths or len(weights) != len(paths) or not sum(weights) > 0:
        raise UsageError(
            f"an average needs files and for each a weight, got {len(paths)} files and "
            f"{len(weights)} weights with the sum {sum(weights):g}"
        )
    shares = [weight / sum(weights) for weight in weights]
    with ExitStack() as stack:
        files = []
        for path in paths:
            try:
                files.append(stack.enter_context(safe_open(path, framework="pt")))
            except (OSError, SafetensorError) as error:
                raise DataError(f"{path}: not a readable safetensors file ({error})") from None
        names = sorted(files[0].keys())
        for path, file in zip(paths, files, strict=True):
            if odd := set(names) ^ set(file.keys()):
                raise UsageError(f"{path}: not of the model of {paths[0]}: {min(odd)} differs")
        means = {}
        for name in names:
            shapes = {tuple(file.get_slice(name).get_shape()) for file in files}
            if len(shapes) > 1:
                raise UsageError(f"{name} has several shapes in these files: {sorted(shapes)}")
            tensors = (file.get_tensor(name) for file in files)
            means[name] = _mean(tensors, shares)
        return means


def _mean(tensors: Iterable[Tensor], shares: Sequence[float]) -> Tensor:
    total: Tensor | None = None
    for tensor, share in zip(tensors, shares, strict=True):
        if not tensor.is_floating_point():
            total = tensor
        elif total is None:
            total = tensor.float() * share
        else:
            total.add_(tensor.float(), alpha=share)
    assert total is not None
    return total
