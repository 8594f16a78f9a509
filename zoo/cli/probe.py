"""zoo probe."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.modalities.contracts import Encoder

_PLOT = "Page that shows where the prototypes of a few test clips are active."
_SHOWN = 8  # clips


@click.command(epilog="Example:  zoo probe runs/digits/ --train shards/train --test shards/test")
@click.argument("source")
@click.option("--train", required=True, help="Labelled shards to fit the probe on.")
@click.option("--test", required=True, help="Labelled shards to measure it on.")
@click.option(
    "--kind",
    type=click.Choice(["knn", "linear", "attentive", "prototypical", "finetune"]),
    default="linear",
    show_default=True,
)
@click.option("-k", default=20, show_default=True, help="Neighbours of the kNN.")
@click.option("--shots", type=int, help="Labelled samples of a class, instead of all.")
@click.option("--seeds", default=1, show_default=True, help="Repetitions, for an interval.")
@click.option("--plot", type=click.Path(path_type=Path), help=_PLOT)
@click.option("--random", is_flag=True, help="Random weights instead: the baseline.")
def command(
    source: str,
    train: str,
    test: str,
    plot: Path | None,
    **options: Any,  # noqa: ANN401 - those of zoo.probe, which Click has typed
) -> None:
    """Accuracy of a probe on frozen features.

    SOURCE is a run or export folder (with a slash), or a name of the catalogue. Classes without a
    positive test sample have no part in cmAP.
    """
    import zoo

    if plot and options["kind"] != "prototypical":
        raise UsageError("--plot shows prototypes: it goes with --kind prototypical")
    random = options.pop("random")
    encoder = zoo.create(source, seed=0) if random else zoo.load(source)
    score = zoo.probe(encoder, train, test, **options)
    low, high = score.interval()
    spread = f" [{low:.4f}, {high:.4f}]" if score.runs else ""
    click.echo(
        f"accuracy {score.accuracy:.4f}{spread}  balanced {score.balanced:.4f}  "
        f"cmAP {score.cmap:.4f}  AUROC {score.auroc:.4f}  ({score.protocol})"
    )
    if plot:
        _draw(encoder, train, test, options["shots"], plot)


def _draw(encoder: "Encoder", train: str, test: str, shots: int | None, path: Path) -> None:
    """Clips from all over the test samples."""
    import zoo
    from zoo.probes.samples import Labelled
    from zoo.report.activation import write_activations

    names = Labelled(encoder, train).classes
    samples = Labelled(encoder, test)
    head = zoo.fit_probe(encoder, train, kind="prototypical", shots=shots)
    numbers = {len(samples) * i // _SHOWN for i in range(_SHOWN)}
    clips = {str(samples.data.where(i)): samples.sample(i) for i in sorted(numbers)}
    write_activations(path, encoder, head, clips, classes=names)
