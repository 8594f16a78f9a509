"""zoo shards verify."""

import click

from zoo.errors import DataError


@click.command(epilog="Example:  zoo shards verify shards/train --modality vision")
@click.argument("data", nargs=-1, required=True)
@click.option("--require", help="Parts that every sample must have: jpg,txt")
@click.option("--modality", help="Decode every sample: vision, code, ...")
@click.option("--headers", is_flag=True, help="Only look at headers, which takes no time.")
def command(
    data: tuple[str, ...], require: str | None, modality: str | None, headers: bool
) -> None:
    """Everything that is wrong with DATA; exit code 1 if anything is.

    Reads headers, checksums where zoo wrote the shards, digests where a manifest has them, and with
    --modality every sample.
    """
    from zoo.data.listing import list_shards
    from zoo.data.shard.verify import verify_shard
    from zoo.registry.build import build_codec

    decode = build_codec(modality).decode if modality else None
    parts = require.split(",") if require else ()
    wrong = []
    names = list_shards(list(data))
    for name in names:
        report = verify_shard(name, require=parts, decode=decode, read=not headers)
        said = f", {report.bad} bad" if report.bad else ""
        click.echo(f"{report.name}: {report.status}, {report.samples} samples{said}")
        for event in report.events:
            sample = f" {event.sample}" if event.sample else ""
            count = f" x{event.count}" if event.count > 1 else ""
            detail = f": {event.detail}" if event.detail else ""
            click.echo(f"  {event.code}{sample}{count}{detail}")
        if report.wrong:
            wrong.append(report.name)
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(names)} shards have something wrong; zoo shards repair writes "
            "clean copies"
        )
