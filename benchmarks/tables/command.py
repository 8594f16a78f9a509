"""zoo bench table: the papers' full-scale tables, each by its own script."""

from zoo.cli.verbs import Verbs

__all__ = ["command"]

command = Verbs(
    "table",
    places={
        name: f"zoo.benchmarks.tables.{module}"
        for name, module in {
            "birdset": "birdset",
            "imagenet": "imagenet_mae",
            "chestxray14": "chestxray14",
            "btcv": "btcv",
            "brats": "brats",
            "codesearchnet": "codesearchnet",
            "glue": "glue",
            "stdlib-search": "stdlib_search",
        }.items()
    },
    help="A paper's table at full scale, measured and published numbers side by side.",
)
