"""zoo bench table: the papers' full-scale tables, each by its own script."""

import click

from zoo.cli.verbs import Verbs

__all__ = ["command"]

_MODULES = {
    "birdset": "birdset",
    "imagenet": "imagenet_mae",
    "chestxray14": "chestxray14",
    "clip-zeroshot": "clip_zeroshot",
    "btcv": "btcv",
    "brats": "brats",
    "codesearchnet": "codesearchnet",
    "glue": "glue",
    "stdlib-search": "stdlib_search",
    "sklearn": "sklearn_tables",
}


class _Tables(Verbs):
    """Every script takes its MODEL also as --model."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The script, and its own arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        if "--model" in rest[:-1]:
            at = rest.index("--model")
            rest = [rest[at + 1], *rest[:at], *rest[at + 2 :]]
        return name, command, rest


command = _Tables(
    "table",
    places={name: f"zoo.benchmarks.tables.{module}" for name, module in _MODULES.items()},
    help="A paper's table at full scale: zoo bench table birdset --model bird-mae-base.",
)
