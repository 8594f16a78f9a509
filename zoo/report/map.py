"""Embeddings as points of a plane, near each other where they are alike: one SVG.

Notation: N embeddings, D width.
"""

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UsageError
from zoo.files import write_atomic
from zoo.report.page import page

__all__ = ["SUFFIXES", "embedding_map", "project", "write_map"]

SUFFIXES = (".html", ".svg")
_MOST = 5_000  # points that are drawn
_WIDTH, _HEIGHT, _SQUARE, _EDGE = 720.0, 484.0, 440.0, 22.0  # SVG units
# Told apart with impaired colour vision, on white and on black.
_COLOURS = ("#2b7bba", "#e08a1e", "#1f9e77", "#d1495b", "#8a63c9", "#56b4e9", "#a0783c", "#e377b4")
_OTHER, _NAME_LENGTH = "#98a2b3", 20
_RAMP = ((58, 54, 140), (37, 111, 165), (31, 158, 119), (150, 190, 60), (244, 180, 54))
_STYLE = (  # what page.css says, for an SVG of its own
    "text{fill:#5b6678;font:12px system-ui,sans-serif}.frame{fill:#fff;stroke:#d9dfe8}"
    "circle{stroke:#fff;stroke-width:.5}"
)

Features = NDArray[np.float32]
Numbers = NDArray[np.float64]
Method = Literal["pca", "tsne"]


def write_map(
    path: Path,
    features: Features,
    names: Sequence[str],
    starts: Numbers | None = None,
    *,
    method: Method = "pca",
) -> None:
    """A map as an HTML page or an SVG; a point shows its file's name under the pointer.

    Its colour says the folder where there are several, else the file where several were cut into
    windows, else when the window begins.

    Args:
        path: ends with .html or .svg.
        features: (N, D).
        names: (N,) files.
        starts: (N,) seconds, where files were cut into windows.
        method: see `project`.

    Raises:
        UsageError: another suffix, or no embeddings.
        StorageError: it cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: a map is one of {', '.join(SUFFIXES)}")
    folders = [Path(name).parent.name for name in names]
    values: Sequence[str] | Numbers | None = None
    what = ""
    if len(set(folders)) > 1:
        values, what = folders, ", coloured by folder"
    elif starts is not None and len(set(names)) > 1:
        values, what = [Path(name).name for name in names], ", coloured by file"
    elif starts is not None:
        values, what = starts, ", coloured by time"
    said = list(names)
    if starts is not None:
        said = [f"{name}, {start:g} s" for name, start in zip(names, starts, strict=True)]
    svg = embedding_map(features, said, values, method=method)
    if path.suffix == ".html":
        lead = f"Embeddings ({len(features):,}) of {features.shape[1]:,} numbers{what}"
        svg = page("Map of embeddings", lead, [f"<figure class=map>{svg}</figure>"])
    else:
        start, rest = svg.split(">", 1)
        svg = f'{start} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{rest}\n'
    write_atomic(path, svg)


def embedding_map(
    features: Features,
    names: Sequence[str],
    values: Sequence[str] | Numbers | None = None,
    *,
    method: Method = "pca",
) -> str:
    """An SVG with a legend. Of very many points a random part is drawn, and it says so.

    Args:
        features: (N, D).
        names: (N,) shown under the pointer.
        values: (N,) what colours stand for: names, of which the most frequent get a colour of
            their own, or seconds.
        method: see `project`.

    Raises:
        UsageError: there are no embeddings, or too few for the method.
    """
    places, axes = project(features, method)
    # In a random order, so that the last class does not cover the others.
    shown = np.random.default_rng(0).permutation(len(places))[:_MOST]
    colours, legend = _coloured(values, len(places))
    radius = 4.5 if len(shown) < 300 else 3.5 if len(shown) < 1500 else 2.5
    points = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colours[i]}" fill-opacity=".85">'
        f"<title>{html.escape(names[i])}</title></circle>"
        for i, (x, y) in zip(shown.tolist(), _placed(places)[shown].tolist(), strict=True)
    ]
    left, middle = _EDGE, _EDGE / 2 + _SQUARE / 2
    if len(shown) < len(places):
        legend.append(_text(480, _HEIGHT - 50, f"{len(shown):,} of {len(places):,} points"))
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="{len(places):,} embeddings as points of a plane">'
        f'<rect class="frame" x="{left}" y="2" width="{_SQUARE}" height="{_SQUARE}" rx="6"/>'
        + "".join([*points, *legend])
        + _text(left + _SQUARE / 2, _SQUARE + 22, axes[0], anchor="middle")
        + f'<g transform="translate(14 {middle}) rotate(-90)">'
        + _text(0, 0, axes[1], anchor="middle")
        + "</g></svg>"
    )


def project(features: Features, method: Method = "pca") -> tuple[Numbers, tuple[str, str]]:
    """(N, D) -> (N, 2), and what the axes are.

    Features are standardised first: a single large one would be all that is seen.

    Args:
        features: one embedding a row.
        method: "pca", the two directions of the largest variance; or "tsne" (Maaten and Hinton
            2008), which shows neighbourhoods but no distances.

    Raises:
        UsageError: there are no embeddings, or too few for the method.
    """
    count = len(features)
    if not count:
        raise UsageError("a map needs embeddings, there are none")
    x = features.astype(np.float64)
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-12)
    if method == "tsne":
        from sklearn.manifold import TSNE

        if count < 5:
            raise UsageError(f"t-SNE of {count} embeddings: it needs 5")
        places = TSNE(perplexity=min(30, (count - 1) / 3), random_state=0).fit_transform(x)
        return places.astype(np.float64), ("t-SNE", "t-SNE")
    places, shares = np.zeros((count, 2)), [0.0, 0.0]
    if np.ptp(x, axis=0).any():
        from sklearn.decomposition import PCA

        pca = PCA(min(2, *x.shape), svd_solver="full")
        found = pca.fit_transform(x)
        places[:, : found.shape[1]] = found
        shares[: found.shape[1]] = pca.explained_variance_ratio_.tolist()
    return places, (
        f"first component, {shares[0]:.0%} of the variance",
        f"second component, {shares[1]:.0%}",
    )


def _placed(places: Numbers) -> Numbers:
    """(N, 2) in SVG units, one scale for both axes."""
    low, high = places.min(axis=0), places.max(axis=0)
    scale = (_SQUARE - 2 * _EDGE) / max(float((high - low).max()), 1e-12)
    placed: Numbers = (places - (low + high) / 2) * scale * (1.0, -1.0)
    placed += (_EDGE + _SQUARE / 2, 2 + _SQUARE / 2)
    return placed


def _coloured(values: Sequence[str] | Numbers | None, count: int) -> tuple[list[str], list[str]]:
    """A colour for each point, and the legend."""
    if values is None:
        return [_COLOURS[0]] * count, []
    if isinstance(values, np.ndarray):
        low, high = float(values.min()), float(values.max())
        shares = (values - low) / max(high - low, 1e-12)
        return [_ramp(share) for share in shares.tolist()], _ramp_legend(low, high)
    counts = Counter(values)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    most = len(_COLOURS) if len(ranked) > len(_COLOURS) else len(ranked)
    of_name = dict(zip(sorted(ranked[:most]), _COLOURS, strict=False))
    rows = [(name, colour, counts[name]) for name, colour in of_name.items()]
    if rest := len(ranked) - most:
        number = sum(counts[name] for name in ranked[most:])
        rows.append((f"{rest} others", _OTHER, number))
    legend = []
    for row, (name, colour, number) in enumerate(rows):
        down = 20 + 22 * row
        short = name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
        legend += [
            f'<circle cx="486" cy="{down - 4}" r="5" fill="{colour}"/>',
            _text(500, down, short),
            _text(_WIDTH - 10, down, f"{number:,}", anchor="end"),
        ]
    return [of_name.get(name, _OTHER) for name in values], legend


def _ramp(share: float) -> str:
    """The colour at a place of the ramp, 0 to 1."""
    at = share * (len(_RAMP) - 1)
    low = min(int(at), len(_RAMP) - 2)
    mixed = [a + (b - a) * (at - low) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True)]
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def _ramp_legend(low: float, high: float) -> list[str]:
    steps = 40
    bars = [
        f'<rect x="482" y="{30 + 4 * step}" width="14" height="4.5" fill="{_ramp(step / steps)}"/>'
        for step in range(steps)
    ]
    return [*bars, _text(504, 40, f"{low:,.4g} s"), _text(504, 190, f"{high:,.4g} s")]


def _text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(words)}</text>'
