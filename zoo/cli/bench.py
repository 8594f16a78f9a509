"""zoo bench: where the project's numbers come from."""

from zoo.cli.verbs import Verbs

# By name: what is installed without benchmarks still has all other verbs.
command = Verbs(
    "bench",
    places={"claims": "zoo.benchmarks.claims.command", "table": "zoo.benchmarks.tables.command"},
    help="Papers' claims in minutes, and papers' tables at full scale.",
)
