"""Every speed script in turn, and how long each took: what `make bench` runs.

    python -m zoo.benchmarks.speed [NAME ...]

Each in a process of its own, and never two at once, which would measure each other. Figures are
kept in `benchmarks/results`. A script that fails is named at the end; the others still run.
"""

import subprocess
import sys
import time

import click

from zoo.text import columns

SCRIPTS = (
    "startup",
    "loading",
    "hub",
    "attention",
    "data",
    "building",
    "memory",
    "scale",
    "plan",
    "engine",
    "contrastive",
    "clip_step",
    "audio",
    "audio_step",
    "code",
    "code_waiting",
    "tabular",
    "volume",
    "volume_step",
    "vision",
    "vision_step",
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(SCRIPTS), metavar="[NAME ...]")
def main(names: tuple[str, ...]) -> None:
    """Runs the scripts NAME, all of them by default."""
    rows, failed = [], []
    for name in names or SCRIPTS:
        click.secho(name, bold=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"zoo.benchmarks.speed.{name}"], check=False)
        rows.append([name, f"{time.monotonic() - began:.0f}", "failed" if done.returncode else ""])
        failed += [name] if done.returncode else []
    rows.append(["all", str(sum(int(row[1]) for row in rows)), ""])
    click.echo(columns(["script", "seconds", ""], rows))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
