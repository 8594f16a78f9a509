"""Whether causal language modelling before masked language modelling helps (arXiv 2507.00994).

    python -m zoo.benchmarks.claims.biphasic

As the paper has it: a quarter of the steps causal, 40 % masking, and a rate that decays at the end
of the masked phase only. About three minutes on two cores.
"""

import click
from zoo.benchmarks.claims.masked import compare
from zoo.benchmarks.claims.paired import Claim

CLAIM = Claim(
    name="biphasic",
    says="A quarter of the steps causal, then masked, beats masked alone (arXiv 2507.00994).",
    measure="loss at 15 % hidden, each seed",
    ways=("causal, then masked", "masked"),
)


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--steps", default=300, show_default=True, help="Of each run.")
def command(seeds: int, steps: int) -> None:
    """The biphasic schedule against masked language modelling at equal steps."""
    shared = {
        "objective.mask_ratio": 0.4,
        "train.schedule": "wsd",
        "train.anneal": max(1, steps // 10),
    }
    causal = {"objective.name": "biphasic", "objective.causal_steps": steps // 4}
    ways = dict(zip(CLAIM.ways, (shared | causal, shared), strict=True))
    compare(CLAIM, ways, seeds=seeds, steps=steps)


if __name__ == "__main__":
    command()
