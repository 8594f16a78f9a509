"""zoo convert."""

from pathlib import Path

import click


@click.command(epilog="Example:  zoo convert mae_pretrain_vit_base.pth mae-base.safetensors")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--layout", help="How IN names its tensors; recognised by default.")
@click.option("--to", default="zoo", show_default=True, help="How OUT names them.")
def command(source: Path, out: Path, layout: str | None, to: str) -> None:
    """Weights of others as safetensors under zoo's names, or back; accounts for every tensor."""
    from zoo.hub.rewrite import rewrite

    found = rewrite(source, out, layout=layout, to=to)
    for name, why in sorted(found.extra.items()):
        click.echo(f"  left out {name}: {why}")
    click.echo(
        f"done: {len(found.encoder)} tensors of the encoder, {len(found.objective)} of heads, "
        f"{len(found.extra)} left out"
    )
