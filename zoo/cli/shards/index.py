"""zoo shards index."""

from pathlib import Path

import click

from zoo.errors import UsageError
from zoo.text import in_bytes


@click.command(epilog="Example:  zoo shards index shards/train --manifest")
@click.argument("data", nargs=-1, required=True)
@click.option("--manifest", is_flag=True, help="Write manifest.json too; reads every byte.")
def command(data: tuple[str, ...], manifest: bool) -> None:
    """Makes the index of every shard of DATA now, instead of when it is first read.

    With a manifest, a data set opens without looking at its shards, and remote ones are fetched
    only when their turn comes.
    """
    from zoo.data.listing import list_shards
    from zoo.data.shard.local import local_shard, version_of
    from zoo.data.shard.write import row_of, write_manifest
    from zoo.files import sha256_of

    names = list_shards(list(data), manifests=False)
    folders = {Path(name.name).parent for name in names}
    if manifest and (len(folders) != 1 or any("://" in name.name for name in names)):
        raise UsageError("--manifest is for the shards of one local folder")
    rows = []
    samples = size = 0
    for name in names:
        local = local_shard(name, version_of(name))
        index = local.index
        samples, size = samples + len(index), size + index.facts.bytes
        if manifest:
            rows.append(row_of(name.base, index, sha256_of(Path(name.name))))
        local.close()
        if index.damaged:
            codes = ", ".join(sorted({event.code for event in index.damaged}))
            click.echo(f"{name.shown}: {codes}; zoo shards verify says more", err=True)
    if manifest:
        write_manifest(folders.pop(), rows)
    click.echo(f"{len(names)} shards, {in_bytes(size)}, {samples} samples")
