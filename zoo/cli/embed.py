"""zoo embed."""

from pathlib import Path

import click

from zoo.errors import UsageError
from zoo.files import atomic_open

FORMATS = (".npy", ".npz", ".csv")


@click.command(epilog="Example:  zoo embed runs/digits/ scans/*.png -o features.npz")
@click.argument("source")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="npy, npz, csv."
)
@click.option("--weights", type=click.Path(), help="A file of weights for a catalogue name.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--device", help="cpu by default.")
def command(
    source: str,
    files: tuple[Path, ...],
    output: Path,
    weights: str | None,
    batch_size: int,
    device: str | None,
) -> None:
    """Pooled features of FILES.

    SOURCE is a run or export folder (with a slash), or a name of the catalogue. The output is a
    matrix (npy), a matrix with the files' names (npz: features, names), or a table (csv).
    """
    import numpy as np

    import zoo

    if output.suffix not in FORMATS:
        raise UsageError(f"{output}: the output is one of {', '.join(FORMATS)}")
    encoder = zoo.load(source, weights=weights, device=device)
    features = encoder.embed(list(files), batch_size=batch_size)
    names = [str(file) for file in files]
    with atomic_open(output) as file:
        if output.suffix == ".npy":
            np.save(file, features)
        elif output.suffix == ".npz":
            np.savez(file, features=features, names=np.array(names))
        else:
            for name, row in zip(names, features, strict=True):
                file.write(f"{_quoted(name)},{','.join(map(repr, row.tolist()))}\n".encode())
    click.echo(f"{output}: {features.shape[0]} x {features.shape[1]}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n') else name
