"""zoo shards head."""

import click

from zoo.errors import DataError
from zoo.text import in_bytes

_WIDTH = 72  # letters of a value


@click.command(epilog="Example:  zoo shards head shards/train -n 2")
@click.argument("data", nargs=-1, required=True)
@click.option("-n", "count", type=click.IntRange(1), default=3, show_default=True)
def command(data: tuple[str, ...], count: int) -> None:
    """The first samples of DATA: keys, parts and what is in them. Nothing is unpickled."""
    from zoo.data.shards import ShardSet

    shards = ShardSet(list(data), allow_missing=True)
    for index in range(min(count, len(shards))):
        where = shards.where(index)
        click.echo(f"{where.key}  ({where.shard})")
        try:
            members = shards.read(index)
        except DataError as error:
            click.echo(f"  {error.code}: {error}")
            continue
        for extension, content in members.items():
            size = in_bytes(len(content))
            click.echo(f"  {extension:<8} {size:>9}  {_shown(extension, content)}")


def _shown(extension: str, content: bytes) -> str:
    from zoo.modalities.members import decode_member

    try:
        value = decode_member(extension, content)
    except DataError as error:
        return f"{error.code}: {error}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    text = " ".join(str(value).split()) if not isinstance(value, bytes) else ""
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
