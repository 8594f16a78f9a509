"""One self-contained HTML page: inline styles, inline SVG and PNG, nothing from a network."""

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["Curve", "chart", "page", "picture", "table"]

_STYLE = (Path(__file__).parent / "page.css").read_text()


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def page(title: str, lead: str, body: Sequence[str]) -> str:
    """The whole document; `lead` is plain text, `body` are pieces of HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{html.escape(title)}</h1><p class=soft>{html.escape(lead)}</p>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[str | float]], *, ours: Sequence[bool]
) -> str:
    """Rows of text and shares; the best share of each column is marked, whoever reached it.

    Args:
        head: column names.
        rows: cells; a float is a share between 0 and 1, NaN is shown as a dash.
        ours: for each row, whether it is what zoo pretrained.
    """
    best = [
        max((c for c in column if isinstance(c, float) and c == c), default=None)
        for column in zip(*rows, strict=True)
    ]
    numeric = [isinstance(cell, float) for cell in rows[0]]
    lines = [
        "<tr>"
        + "".join(
            f"<th{' class=n' if n else ''}>{html.escape(h)}</th>"
            for h, n in zip(head, numeric, strict=True)
        )
        + "</tr>"
    ]
    for row, own in zip(rows, ours, strict=True):
        cells = [_cell(cell, top) for cell, top in zip(row, best, strict=True)]
        lines.append(f"<tr{' class=ours' if own else ''}>{''.join(cells)}</tr>")
    return f"<div class=scroll><table>{''.join(lines)}</table></div>"


def _cell(cell: str | float, best: str | float | None) -> str:
    if isinstance(cell, str):
        return f"<td>{html.escape(cell)}</td>"
    if cell != cell:
        return "<td class=n>–</td>"  # noqa: RUF001
    mark = " best" if cell == best else ""
    return f'<td class="n{mark}">{cell:.1%}</td>'


def chart(curves: Sequence[Curve], *, x: str, y: str, caption: str) -> str:
    """Lines over a common x, as SVG."""
    width, height, left, right, bottom, top = 720.0, 260.0, 44.0, 28.0, 38.0, 12.0
    xs = np.concatenate([np.asarray(curve.x, dtype=float) for curve in curves])
    ys = np.concatenate([np.asarray(curve.y, dtype=float) for curve in curves])
    x0, x1 = float(xs.min()), float(max(xs.max(), xs.min() + 1e-9))
    y0, y1 = float(ys.min()), float(max(ys.max(), ys.min() + 1e-9))

    def place(px: float, py: float) -> tuple[float, float]:
        across = left + (px - x0) / (x1 - x0) * (width - left - right)
        up = height - bottom - (py - y0) / (y1 - y0) * (height - bottom - top)
        return across, up

    parts = []
    for value in _ticks(y0, y1):
        _, up = place(x0, value)
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{up:.1f}" y2="{up:.1f}" '
            f'stroke="var(--line)"/><text x="{left - 8}" y="{up + 4:.1f}" '
            f'text-anchor="end">{value:g}</text>'
        )
    for value in _ticks(x0, x1):
        across, _ = place(value, y0)
        parts.append(
            f'<text x="{across:.1f}" y="{height - 18}" text-anchor="middle">{value:,.0f}</text>'
        )
    for number, curve in enumerate(curves):
        points = " ".join(
            "{:.1f},{:.1f}".format(*place(float(px), float(py)))
            for px, py in zip(curve.x, curve.y, strict=True)
        )
        colour = ("var(--main)", "var(--second)", "var(--soft)")[number % 3]
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    label = html.escape(f"{y} over {x}: " + ", ".join(curve.name for curve in curves))
    parts.append(
        f'<text x="{width - right}" y="{height - 2}" text-anchor="end">{html.escape(x)}</text>'
    )
    return (
        f'<figure><svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg><figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round values inside [low, high], about five of them."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def picture(image: np.ndarray, *, scale: int, alt: str, caption: str) -> str:
    """A uint8 image (H, W) or (H, W, 3), enlarged without smoothing."""
    buffer = BytesIO()
    big = np.asarray(image).repeat(scale, axis=0).repeat(scale, axis=1)
    Image.fromarray(big).save(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><div class=scroll><img alt="{html.escape(alt)}" '
        f'src="data:image/png;base64,{data}"></div><figcaption>{html.escape(caption)}</figcaption></figure>'
    )
