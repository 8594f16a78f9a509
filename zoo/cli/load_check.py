"""zoo load-check."""

import click


@click.command("load-check", epilog="Example:  zoo load-check mae-base --weights mae.safetensors")
@click.argument("source")
@click.option("--weights", type=click.Path(), help="A file of weights for a catalogue name.")
@click.option("--layout", help="How a foreign file names its tensors.")
def command(source: str, weights: str | None, layout: str | None) -> None:
    """Loads an encoder and accounts for every tensor.

    SOURCE is a run or export folder (with a slash), or a name of the catalogue.
    """
    import zoo

    encoder = zoo.load(source, weights=weights, layout=layout)
    click.echo(str(encoder.load_report))
    assert encoder.load_report is not None
    for name, why in encoder.load_report.ignored.items():
        click.echo(f"  ignored {name}: {why}")
    count = sum(p.numel() for p in encoder.parameters())
    click.echo(f"{type(encoder).__name__}, {count:,} parameters, width {encoder.embed_dim}")
