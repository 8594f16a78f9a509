"""Whether causal language modelling before masked language modelling helps (arXiv 2507.00994).

As the paper has it: a quarter of the steps causal, 40 % masking, and a rate that decays at the end
of the masked phase only.
"""

from pathlib import Path

from zoo.benchmarks.claims import masked
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials

__all__ = ["CLAIM"]

COMPARED = Comparison(ours="causal, then masked", base="masked", better="lower")


def trials(seeds: int, folder: Path) -> Trials:
    """The biphasic schedule against masked language modelling at equal steps."""
    steps = masked.STEPS
    shared = {
        "objective.mask_ratio": 0.4,
        "train.schedule": "wsd",
        "train.anneal": max(1, steps // 10),
    }
    causal = {"objective.name": "biphasic", "objective.causal_steps": steps // 4}
    ways = {COMPARED.ours: shared | causal, COMPARED.base: shared}
    return masked.trials(COMPARED, ways, seeds, folder)


CLAIM = Claim(
    name="biphasic",
    paper="2507.00994",
    says="A quarter of the steps causal, then masked, beats masked alone.",
    modality="code",
    data=masked.DATA,
    measure=masked.MEASURE,
    comparisons=(COMPARED,),
    seeds=3,
    budget=180,
    trials=trials,
)
