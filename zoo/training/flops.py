"""How much of the device's arithmetic a run uses (MFU).

MFU = model FLOPs a second / the device's peak. Model FLOPs are three times those of the forward
pass (the backward pass makes two products of each one), without recomputation; a multiplication
with its addition is two. Matrix products, convolutions and attention count, attention over the
whole square also where it is causal. Where samples differ in length, the FLOPs per token of one
micro-batch stand for those of all others.

The peak is that of dense bfloat16 whatever the run computes in, so that runs compare.
"""

import copy
import logging

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.modalities.contracts import Batch, Encoder
from zoo.objectives.contract import Objective

__all__ = ["PEAKS", "ForwardFlops", "peak_flops", "train_flops"]

_log = logging.getLogger("zoo")

# Dense bfloat16 FLOPs a second by a part of the device's name, as the vendor's data sheets say;
# the first that fits is taken. Sheets also print twice these numbers, for sparse matrices.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 FLOPs a second of a device; None where none is known, as for any CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def train_flops(forward: float) -> float:
    """Model FLOPs of a forward and backward pass."""
    return 3.0 * forward


class ForwardFlops:
    """Counts the forward pass on copies of the modules that have shapes and no numbers.

    Nothing is computed and no generator advances, so that a run is the same to the bit; and as the
    copies are made before anything wraps, compiles or divides the modules, which attention kernel
    will run, and on how many devices, makes no difference.
    """

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        """Copies the modules as they were built; costs no memory for weights."""
        pair = nn.ModuleList([encoder, objective])
        memo: dict[int, object] = {id(encoder.preprocess): encoder.preprocess}
        memo |= {id(tensor): _shape_of(tensor) for tensor in (*pair.parameters(), *pair.buffers())}
        self._encoder, self._objective = copy.deepcopy(pair, memo).eval()

    def __call__(self, batch: Batch) -> int | None:
        """FLOPs of one micro-batch; None, with a warning, where they depend on its values."""
        shapes = {k: v if k.endswith("lengths") else v.to("meta") for k, v in batch.items()}
        counter = FlopCounterMode(display=False)
        try:
            # An objective may draw on the host, whatever its tensors are on.
            with torch.random.fork_rng([]), torch.no_grad(), counter:
                self._objective(self._encoder, shapes)
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            _log.warning("FLOPs cannot be counted, so there is no MFU (%s)", reason)
            return None
        return counter.get_total_flops()


def _shape_of(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
