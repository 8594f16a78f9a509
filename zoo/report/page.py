"""One self-contained HTML page: inline styles, inline SVG and PNG, nothing from a network."""

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["contents", "framed", "grid", "listing", "page", "picture", "section", "table", "tiles"]

_HERE = Path(__file__).parent


def page(title: str, lead: str, body: Sequence[str]) -> str:
    """The whole document; `lead` is plain text, `body` are pieces of HTML."""
    style, script = (_HERE / "page.css").read_text(), (_HERE / "page.js").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body><main><h1>{html.escape(title)}</h1><p class=soft>{html.escape(lead)}</p>"
        + "\n".join(body)
        + f"</main><script>{script}</script></body></html>\n"
    )


def section(title: str, body: Sequence[str]) -> str:
    """A part of a long page, which `contents` leads to."""
    return (
        f'<section id="{_anchor(title)}"><h2>{html.escape(title)}</h2>\n'
        + "\n".join(body)
        + "</section>"
    )


def contents(titles: Sequence[str]) -> str:
    """Links to the sections of these titles."""
    links = [f'<a href="#{_anchor(title)}">{html.escape(title)}</a>' for title in titles]
    return f'<nav aria-label="Contents">{"".join(links)}</nav>'


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def framed(lines: Sequence[str], caption: str, *, kind: str = "") -> str:
    """A table of these lines, which scrolls within the page where it is too wide for it."""
    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    kind = f" class={kind}" if kind else ""
    return f"<div class=scroll><table{kind}>{said}{''.join(lines)}</table></div>"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str | float]],
    *,
    ours: Sequence[bool],
    caption: str = "",
) -> str:
    """Rows of text and shares; the best share of each column is marked, whoever reached it.

    Args:
        head: column names.
        rows: cells; a float is a share between 0 and 1, NaN is shown as a dash.
        ours: for each row, whether it is what zoo pretrained.
        caption: plain text above it.
    """
    best = [
        max((c for c in column if isinstance(c, float) and c == c), default=None)
        for column in zip(*rows, strict=True)
    ]
    numeric = [isinstance(cell, float) for cell in rows[0]]
    lines = [
        "<tr>"
        + "".join(
            f"<th scope=col{' class=n' if n else ''}>{html.escape(h)}</th>"
            for h, n in zip(head, numeric, strict=True)
        )
        + "</tr>"
    ]
    for row, own in zip(rows, ours, strict=True):
        cells = [_cell(cell, top) for cell, top in zip(row, best, strict=True)]
        lines.append(f"<tr{' class=ours' if own else ''}>{''.join(cells)}</tr>")
    return framed(lines, caption)


def _cell(cell: str | float, best: str | float | None) -> str:
    if isinstance(cell, str):
        return f"<td>{html.escape(cell)}</td>"
    if cell != cell:
        return "<td class=n>–</td>"  # noqa: RUF001
    mark = " best" if cell == best else ""
    return f'<td class="n{mark}">{cell:.1%}</td>'


def listing(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: int = 0, caption: str = ""
) -> str:
    """Rows of plain text; the last `numeric` columns are numbers. No head, no head line."""
    first = len(rows[0]) - numeric if rows else len(head)
    lines = [_row("th", head, first)] if head else []
    lines += [_row("td", row, first) for row in rows]
    return framed(lines, caption, kind="" if head else "facts")


def _row(tag: str, cells: Sequence[str], first_number: int) -> str:
    scope = " scope=col" if tag == "th" else ""
    marks = [" class=n" if i >= first_number else "" for i in range(len(cells))]
    inner = "".join(
        f"<{tag}{scope}{mark}>{html.escape(cell)}</{tag}>"
        for cell, mark in zip(cells, marks, strict=True)
    )
    return f"<tr>{inner}</tr>"


def tiles(items: Sequence[tuple[str, str, str]]) -> str:
    """The few numbers that matter: (name, value, remark) each."""
    cells = [
        f"<div><span>{html.escape(name)}</span><b>{html.escape(value)}</b>"
        f"<small>{html.escape(remark)}</small></div>"
        for name, value, remark in items
    ]
    return f"<div class=tiles>{''.join(cells)}</div>"


def grid(figures: Sequence[str]) -> str:
    """Figures in as many columns as there is room for."""
    return f"<div class=grid>{''.join(figures)}</div>"


def picture(image: np.ndarray, *, scale: int, alt: str, caption: str) -> str:
    """A uint8 image (H, W), (H, W, 1) or (H, W, 3), enlarged without smoothing."""
    buffer = BytesIO()
    flat = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    big = flat.repeat(scale, axis=0).repeat(scale, axis=1)
    Image.fromarray(big).save(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><div class=scroll><img alt="{html.escape(alt)}" '
        f'src="data:image/png;base64,{data}"></div><figcaption>{html.escape(caption)}</figcaption></figure>'
    )
