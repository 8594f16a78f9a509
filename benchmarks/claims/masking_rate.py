"""Whether hiding 30 % of the tokens is better than 15 % (MosaicBERT, arXiv 2312.17482)."""

from pathlib import Path

from zoo.benchmarks.claims import masked
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials

__all__ = ["CLAIM"]

COMPARED = Comparison(ours="30 %", base="15 %", better="lower")
WAYS = {"30 %": {"objective.mask_ratio": 0.3}, "15 %": {"objective.mask_ratio": 0.15}}


def trials(seeds: int, folder: Path) -> Trials:
    """30 % against 15 % masking at equal steps."""
    return masked.trials(COMPARED, WAYS, seeds, folder)


CLAIM = Claim(
    name="masking_rate",
    paper="2312.17482",
    says="Hiding 30 % of the tokens pretrains better than hiding 15 %.",
    modality="code",
    data=masked.DATA,
    measure=masked.MEASURE,
    comparisons=(COMPARED,),
    seeds=3,
    budget=180,
    trials=trials,
)
