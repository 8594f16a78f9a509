"""zoo shards info."""

import click

from zoo.text import columns, in_bytes


@click.command(epilog="Example:  zoo shards info shards/train")
@click.argument("data", nargs=-1, required=True)
def command(data: tuple[str, ...]) -> None:
    """How many shards, samples, bytes and parts DATA has.

    DATA is a folder, a brace list, a glob or tars; local or remote.
    """
    from zoo.data.shards import ShardSet

    shards = ShardSet(list(data), allow_missing=True)
    parts: dict[str, list[int]] = {}
    bad = size = 0
    for number in range(len(shards.names)):
        index = shards.index(number)
        bad += int((index.code != 0).sum())
        size += index.facts.bytes
        for i, extension in enumerate(index.facts.extensions):
            sizes = index.size[index.extension == i]
            count, total = parts.setdefault(extension, [0, 0])
            parts[extension] = [count + len(sizes), total + int(sizes.sum())]
    said = f", {bad} of them bad (zoo shards verify says why)" if bad else ""
    click.echo(f"{len(shards.names)} shards, {in_bytes(size)}, {len(shards)} samples{said}")
    rows = [
        (extension, str(count), in_bytes(total), in_bytes(total / max(count, 1)))
        for extension, (count, total) in sorted(parts.items())
    ]
    click.echo(columns(("part", "members", "bytes", "mean"), rows))
    for name, events in shards.events.items():
        said = "; ".join(f"{e.code} {e.sample or e.count}" for e in events[:5])
        if said:
            click.echo(f"{name}: {said}{' ...' if len(events) > 5 else ''}")
