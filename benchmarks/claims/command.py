"""zoo bench claims: miniatures of what papers state, kept whatever they show."""

import os
import tempfile
from pathlib import Path

import click
from zoo.benchmarks.claims.claim import NAMES, Claim, find
from zoo.benchmarks.claims.results import effects, keep, read_all, render, summarise
from zoo.benchmarks.speed.timing import RESULTS

from zoo.errors import ZooError
from zoo.files import write_atomic
from zoo.report.chart import drawing
from zoo.report.forest import forest

__all__ = ["PICTURE", "command"]

PICTURE = "claims.svg"
_KEPT = 3  # seeds from which on a result is kept: fewer are a trial of the script


@click.command(epilog="Examples:  zoo bench claims --only voco --seeds 5   zoo bench claims --show")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="May be repeated.")
@click.option("--seeds", type=click.IntRange(1), help="By default as many as each claim says.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="For the results.")
@click.option("--show", is_flag=True, help="Run nothing; show what is known.")
def command(only: tuple[str, ...], seeds: int | None, out: Path, show: bool) -> None:
    """Miniatures of papers' claims, each within three minutes of two cores.

    Paired over seeds, with 95 % intervals. Writes a JSON file each and one picture; with fewer than
    three seeds only what it found is shown.
    """
    fresh, failed = [], []
    for name in () if show else only or NAMES:
        try:
            fresh.append(_tried(find(name), seeds, out))
        except ZooError as error:  # one that cannot be tried here does not stop the others
            failed.append(f"{name} was not tried: {error}")
    known = {str(result["claim"]): result for result in read_all(out)}
    known |= {str(result["claim"]): result for result in fresh}
    shown = [known[name] for name in only or NAMES if name in known]
    click.echo(render(shown) if shown else f"{out}: no results yet")
    if fresh and (all_kept := read_all(out)):
        caption = "Gains with 95 % intervals; every line has a scale of its own."
        write_atomic(out / PICTURE, drawing(forest(effects(all_kept), caption=caption)))
    untried = [name for name in NAMES if name not in known]
    if untried:
        click.echo(f"no results of {', '.join(untried)}")
    if failed:
        raise ZooError("; ".join(failed))


def _tried(claim: Claim, seeds: int | None, out: Path) -> dict[str, object]:
    """What a claim comes out as now; kept, if there are enough seeds."""
    click.echo(f"{claim.name}: {claim.says} ({claim.paper}; {claim.data})")
    count, began = seeds or claim.seeds, sum(os.times()[:4])
    with tempfile.TemporaryDirectory(prefix="zoo-claim-") as folder:
        trials = claim.trials(count, Path(folder))
    result = summarise(claim, trials, seconds=sum(os.times()[:4]) - began)
    if count >= _KEPT:
        keep(result, out)
    return result


if __name__ == "__main__":
    command()
