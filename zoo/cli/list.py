"""zoo list."""

import json

import click

from zoo.text import columns


@click.command(epilog="Examples:  zoo list 'mae*'   zoo list --modality code --json")
@click.argument("pattern", default="*")
@click.option("--modality", help="Only this modality.")
@click.option("--objective", help="Only models whose recipe uses this objective.")
@click.option("--pretrained", is_flag=True, help="Only models with weights.")
@click.option("--tags", is_flag=True, help="List every set of weights as name.tag.")
@click.option("--json", "as_json", is_flag=True, help="Full rows as JSON.")
def command(
    pattern: str,
    modality: str | None,
    objective: str | None,
    pretrained: bool,
    tags: bool,
    as_json: bool,
) -> None:
    """Models of the catalogue."""
    from zoo.registry.catalogue import find, list_models

    names = list_models(
        pattern, modality=modality, objective=objective, pretrained=pretrained, tags=tags
    )
    rows = [find(name)[0]._asdict() | {"name": name} for name in names]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    keys = ("name", "modality", "objective", "licence", "summary")
    click.echo(columns(keys, [[str(row[key]) for key in keys] for row in rows]))
