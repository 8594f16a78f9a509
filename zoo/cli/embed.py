"""zoo embed."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.errors import DataError, UsageError
from zoo.files import atomic_open

if TYPE_CHECKING:
    import numpy as np

    from zoo.modalities.contracts import Encoder

FORMATS = (".npy", ".npz", ".csv")


@click.command(
    epilog="Examples:  zoo embed runs/digits/ scans/*.png -o features.npz;  "
    "zoo embed runs/bird/ recordings --window 5 -o features.csv --plot map.html"
)
@click.argument("source")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    *("-o", "--output", "--plot", "outputs"),
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="npy, npz or csv; html or svg: a map of the embeddings. May be given several times.",
)
@click.option("--weights", type=click.Path(), help="A file of weights for a catalogue name.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--device", help="cpu by default.")
@click.option("--window", type=float, help="Audio: seconds of the windows to cut it into.")
@click.option("--hop", type=float, help="Seconds between windows; no overlap by default.")
def command(
    source: str,
    files: tuple[Path, ...],
    outputs: tuple[Path, ...],
    weights: str | None,
    batch_size: int,
    device: str | None,
    window: float | None,
    hop: float | None,
) -> None:
    """Pooled features of FILES.

    SOURCE is a run or export folder (with a slash), or a name of the catalogue. The output is a
    matrix (npy), a matrix with the files' names (npz: features, names), a table (csv), or a map
    (html, svg), coloured by the files' folders or by time. A table gives a row each of its rows,
    named FILE:NUMBER. With --window there is a row a window,
    and npz and csv have its start in seconds too; FILES may be folders, whose bad recordings are
    named and left out.
    """
    import zoo
    from zoo.report.map import SUFFIXES

    for output in outputs:
        if output.suffix not in FORMATS + SUFFIXES:
            raise UsageError(f"{output}: the output is one of {', '.join(FORMATS + SUFFIXES)}")
    if window is None and hop is not None:
        raise UsageError("--hop is for windows: --window says how long they are")
    encoder = zoo.load(source, weights=weights, device=device)
    starts = None
    if encoder.modality == "tabular" and window is None:
        features, names = _rows(encoder, files, batch_size)
    elif window is None:
        features = encoder.embed(list(files), batch_size=batch_size)
        names = [str(file) for file in files]
    else:
        lengths = window, window if hop is None else hop
        features, names, starts = _windows(encoder, files, lengths, batch_size)
    for output in outputs:
        _write(output, features, names, starts)
        click.echo(f"{output}: {features.shape[0]} x {features.shape[1]}")


def _rows(
    encoder: "Encoder", files: tuple[Path, ...], batch_size: int
) -> tuple["np.ndarray", list[str]]:
    """Features of every row of tables, and file and number of each, from 0."""
    import numpy as np

    parts = [encoder.embed([file], batch_size=batch_size) for file in files]
    pairs = zip(files, parts, strict=True)
    return np.concatenate(parts), [f"{f}:{row}" for f, part in pairs for row in range(len(part))]


def _windows(
    encoder: "Encoder", places: tuple[Path, ...], lengths: tuple[float, float], batch_size: int
) -> tuple["np.ndarray", list[str], "np.ndarray"]:
    """Features, file and start in seconds of every window."""
    from zoo.modalities.audio.windows import AudioEncoder

    if not isinstance(encoder, AudioEncoder):
        raise UsageError(f"--window is for audio, the encoder is for {encoder.modality}")
    files = [file for place in places for file in _recordings(place)]
    found = encoder.embed(
        files,
        batch_size=batch_size,
        window=lengths[0],
        hop=lengths[1],
        skip_bad=any(place.is_dir() for place in places),
    )
    for reason in found.skipped.values():
        click.echo(f"left out: {reason}", err=True)
    if not len(found.features):
        raise DataError(f"{', '.join(map(str, places))}: no recording that can be read")
    return found.features, [str(files[number]) for number in found.inputs], found.starts


def _recordings(place: Path) -> list[Path]:
    """The file, or those of a folder and its folders whose names say sound."""
    from zoo.modalities.audio.decode import EXTENSIONS

    if not place.is_dir():
        return [place]
    ours = (path for path in place.rglob("*") if path.suffix.lower().lstrip(".") in EXTENSIONS)
    return sorted(path for path in ours if path.is_file() and not path.name.startswith("."))


def _write(
    output: Path, features: "np.ndarray", names: list[str], starts: "np.ndarray | None"
) -> None:
    import numpy as np

    from zoo.report.map import SUFFIXES, write_map

    if output.suffix in SUFFIXES:
        write_map(output, features, names, starts)
        return
    with atomic_open(output) as file:
        if output.suffix == ".npy":
            np.save(file, features)
        elif output.suffix == ".npz":
            if starts is None:
                np.savez(file, features=features, names=np.array(names))
            else:
                np.savez(file, features=features, names=np.array(names), starts=starts)
        else:
            for number, (name, row) in enumerate(zip(names, features.tolist(), strict=True)):
                cells = [] if starts is None else [starts[number].item()]
                file.write(f"{_quoted(name)},{','.join(map(repr, cells + row))}\n".encode())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\n') else name
