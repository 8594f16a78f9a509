"""zoo shards repair."""

from pathlib import Path

import click

from zoo.errors import UsageError


@click.command(epilog="Example:  zoo shards repair shards/00007.tar repaired/00007.tar")
@click.argument("shard")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--require", help="Parts that every sample must have: jpg,txt")
@click.option("--modality", help="Leave out what does not decode: vision, code, ...")
def command(shard: str, out: Path, require: str | None, modality: str | None) -> None:
    """Writes the good samples of SHARD to OUT, as a plain tar, and says what it left out.

    SHARD may be compressed: this is also how to convert a .tar.gz.
    """
    from zoo.data.listing import ShardName
    from zoo.data.shard.verify import repaired
    from zoo.registry.build import build_codec

    if out.exists():
        raise UsageError(f"{out}: exists; choose another name")
    decode = build_codec(modality).decode if modality else None
    parts = require.split(",") if require else ()
    row, dropped = repaired(ShardName(shard), out, require=parts, decode=decode)
    for line in dropped:
        click.echo(f"left out: {line}")
    click.echo(f"{out}: {row.samples} samples")
