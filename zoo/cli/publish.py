"""zoo publish."""

from pathlib import Path

import click


@click.command(epilog="Example:  zoo publish runs/digits my-org/digits --license Apache-2.0")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repo", metavar="ORG/NAME")
@click.option("--license", "licence", metavar="SPDX", help="For others' use, such as Apache-2.0.")
@click.option("--tag", default="v1", show_default=True, help="The version's name.")
@click.option("--public", is_flag=True, help="Show it to everybody; private otherwise.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent; ask nobody.")
def command(
    run: Path, repo: str, licence: str | None, tag: str, public: bool, dry_run: bool
) -> None:
    """Puts the encoder of a finished run, or an export folder, on the Hugging Face Hub.

    What was sent is fetched and compared. Interrupted, the same command continues.
    """
    from zoo.publishing import PAGE, prepare, publish
    from zoo.text import in_bytes

    if not dry_run:
        done = publish(run, repo, licence=licence, tag=tag, public=public)
        click.echo(f"done: zoo.load('hf-hub:{repo}@{tag}'), commit {done.commit}")
        return
    parcel = prepare(run, repo, licence=licence, tag=tag)
    for name, file in parcel.files.items():  # whole lines, however narrow the terminal is
        click.echo(f"{file.sha256}  {in_bytes(file.size):>7}  {name}")
    click.echo(f"\n{parcel.pages[PAGE].decode()}")
