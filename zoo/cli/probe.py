"""zoo probe."""

import click


@click.command(epilog="Example:  zoo probe runs/digits/ --train shards/train --test shards/test")
@click.argument("source")
@click.option("--train", required=True, help="Labelled shards to fit the probe on.")
@click.option("--test", required=True, help="Labelled shards to measure it on.")
@click.option("--kind", type=click.Choice(["knn", "linear"]), default="linear", show_default=True)
@click.option("-k", default=20, show_default=True, help="Neighbours of the kNN.")
@click.option("--random", is_flag=True, help="Random weights instead: the baseline.")
def command(source: str, train: str, test: str, kind: str, k: int, random: bool) -> None:
    """Accuracy of a probe on frozen features.

    SOURCE is a run or export folder (with a slash), or a name of the catalogue.
    """
    import zoo

    encoder = zoo.create(source, seed=0) if random else zoo.load(source)
    score = zoo.probe(encoder, train, test, kind=kind, k=k)  # type: ignore[arg-type]
    click.echo(f"accuracy {score.accuracy:.4f}  balanced {score.balanced:.4f}  ({score.protocol})")
