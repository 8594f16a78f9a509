"""Whether hiding 30 % of the tokens is better than 15 % (MosaicBERT, arXiv 2312.17482).

    python -m zoo.benchmarks.claims.masking_rate

About three minutes on two cores.
"""

import click
from zoo.benchmarks.claims.masked import compare
from zoo.benchmarks.claims.paired import Claim

CLAIM = Claim(
    name="masking_rate",
    says="Hiding 30 % of the tokens pretrains better than hiding 15 % (arXiv 2312.17482).",
    measure="loss at 15 % hidden, each seed",
    ways=("30 %", "15 %"),
)
WAYS = {"30 %": {"objective.mask_ratio": 0.3}, "15 %": {"objective.mask_ratio": 0.15}}


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--steps", default=300, show_default=True, help="Of each run.")
def command(seeds: int, steps: int) -> None:
    """30 % against 15 % masking at equal steps."""
    compare(CLAIM, WAYS, seeds=seeds, steps=steps)


if __name__ == "__main__":
    command()
