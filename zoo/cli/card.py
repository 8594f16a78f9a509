"""zoo card."""

import json

import click


@click.command(epilog="Example:  zoo card mae-base")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON instead of TOML.")
def command(name: str, as_json: bool) -> None:
    """Everything that is known about a model family."""
    from zoo.registry.catalogue import card
    from zoo.registry.schema import to_table, to_toml

    table = to_table(card(name))
    if as_json:
        click.echo(json.dumps(table, indent=1))
        return
    lists = {kind: table.pop(kind, []) for kind in ("weights", "trained", "results")}
    click.echo(to_toml(table))
    for kind, entries in lists.items():
        assert isinstance(entries, list)
        for entry in entries:
            click.echo(f"\n[[{kind}]]\n{to_toml(entry)}")
