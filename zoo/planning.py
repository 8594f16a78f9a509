"""How long a pretraining takes on how many GPUs, and what it costs: arithmetic, nothing is run.

Data-parallel training, every GPU a copy of the model. All times are seconds, all sizes bytes.

Notation: N GPUs, b samples a GPU and step, F FLOPs of a forward pass over one sample, P bytes of
gradients, M mean time between failures of the whole job.
"""

import math
from dataclasses import dataclass

__all__ = ["GPUS", "Cluster", "Estimate", "Workload", "best_interval", "estimate", "step_time"]

GPUS = tuple(2**power for power in range(13))  # 1 to 4,096


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a recipe asks for.

    Attributes:
        batch_size: samples of a step, over all GPUs.
        steps: of the run.
        flops: of a forward pass over one sample.
        sample_bytes: that one sample has in a shard.
        sample_seconds: of one core, from these bytes to tensors.
        gradient_bytes: that processes exchange in a step.
        checkpoint_bytes: weights and the optimiser's state.
        save_every: steps between checkpoints.
    """

    batch_size: int
    steps: int
    flops: float
    sample_bytes: float
    sample_seconds: float
    gradient_bytes: float
    checkpoint_bytes: float
    save_every: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Assumptions about machines; networks and cores are those of an NVIDIA DGX H100 data sheet.

    Attributes:
        peak: dense bfloat16 FLOPs a second of a GPU.
        utilisation: share of the peak that training reaches (MFU).
        node: GPUs in one machine.
        link: bytes a second between GPUs of a node, one direction.
        network: bytes a second of a GPU's share of the network between nodes.
        latency: of one hop.
        cores: for each GPU, that prepare samples.
        read: bytes a second of samples for each GPU.
        write: bytes a second of a checkpoint.
        restart: from a failure to the first step after it.
        failure: GPU-seconds from one failure to the next: 419 in 54 days of 16,384 GPUs (Llama 3,
            arXiv 2407.21783, 3.3.4).
        price: of a GPU-hour.
    """

    peak: float
    utilisation: float = 0.35
    node: int = 8
    link: float = 450e9
    network: float = 50e9
    latency: float = 10e-6
    cores: float = 14.0
    read: float = 1e9
    write: float = 2e9
    restart: float = 600.0
    failure: float = 54 * 86_400 * 16_384 / 419
    price: float = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds of a whole run by what they go to, and their sum."""

    gpus: int
    step: float  # one step
    compute: float
    communication: float  # that the backward pass cannot hide
    data: float  # waiting for samples
    checkpoints: float
    failures: float  # lost work and restarts

    @property
    def seconds(self) -> float:
        """From the start to the end."""
        parts = (self.compute, self.communication, self.data, self.checkpoints, self.failures)
        return sum(parts)

    def cost(self, cluster: Cluster) -> float:
        """At the price of a GPU-hour."""
        return self.seconds / 3600 * self.gpus * cluster.price


def step_time(work: Workload, cluster: Cluster, gpus: int) -> tuple[float, float, float]:
    """Seconds of computing, of communication beyond it, and of waiting for data, in one step.

    Computing: 3 F b / (peak x utilisation); the backward pass counts as two forward passes. The
    slowest GPU decides, so b is rounded up.

    Communication: an all-reduce moves 2 (N - 1) / N P bytes through every GPU (Patarasuk and Yuan,
    J. Parallel Distrib. Comput. 69, 2009) and takes 2 log2(N) hops in trees (Sanders, Speck and
    Traeff, Parallel Comput. 35, 2009). Between nodes as many rings as a node has GPUs share the
    bytes, each over a network card of its own. It runs beside the backward pass, two thirds of
    computing (PyTorch DDP, arXiv 2006.15704).

    Data: samples are prepared and read for the next step meanwhile; the slower of the two counts.
    """
    share = math.ceil(work.batch_size / gpus)
    compute = 3 * work.flops * share / (cluster.peak * cluster.utilisation)
    speed = cluster.link
    if gpus > cluster.node:
        speed = min(speed, cluster.node * cluster.network)
    exchange = 2 * (gpus - 1) / gpus * work.gradient_bytes / speed
    exchange += 2 * math.ceil(math.log2(gpus)) * cluster.latency
    exposed = max(0.0, exchange - compute * 2 / 3)
    ready = share * max(work.sample_seconds / cluster.cores, work.sample_bytes / cluster.read)
    return compute, exposed, max(0.0, ready - compute - exposed)


def best_interval(work: Workload, cluster: Cluster, gpus: int) -> float:
    """Seconds between checkpoints that lose least: sqrt(2 d M), d to write one (Young, 1974)."""
    return math.sqrt(2 * work.checkpoint_bytes / cluster.write * cluster.failure / gpus)


def estimate(work: Workload, cluster: Cluster, gpus: int) -> Estimate:
    """The whole run on N GPUs.

    With work T, checkpoints of d seconds every t seconds of it and restarts of r, failures that
    follow a Poisson process stretch it to T / t M exp(r / M) (exp((t + d) / M) - 1) (Daly, Future
    Gener. Comput. Syst. 22, 2006); infinite where hardly any interval ends without a failure.
    GPUs beyond the batch size have nothing to do, yet cost and fail like the others.
    """
    compute, exposed, wait = step_time(work, cluster, min(gpus, work.batch_size))
    step = compute + exposed + wait
    total = step * work.steps
    interval = min(work.save_every, work.steps) * step
    stall = work.checkpoint_bytes / cluster.write
    mean = cluster.failure / gpus
    checkpoints = total / interval * stall
    exponent = (interval + stall) / mean
    lasting = math.inf
    if exponent + cluster.restart / mean < 700:  # exp stays finite
        lasting = total / interval * mean * math.exp(cluster.restart / mean) * math.expm1(exponent)
    return Estimate(
        gpus=gpus,
        step=step,
        compute=compute * work.steps,
        communication=exposed * work.steps,
        data=wait * work.steps,
        checkpoints=checkpoints,
        failures=max(0.0, lasting - total - checkpoints),
    )
