"""Lines over a common x as inline SVG; a little script shows the values under the pointer."""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "chart", "drawing"]

_MOST = 800  # points of a curve that are drawn
_SIZE = 'width="600"'  # of a picture alone: where there is room, words are as large as a page's
_ALONE = {"main": "#1f6f5c", "second": "#b4552d", "soft": "#5b6678"}  # on white and on black
_STYLE = (
    "polyline{fill:none;stroke-width:1.75}line{stroke:#8884}line.at{visibility:hidden}"
    "text{fill:#7b8698;font:12px system-ui,sans-serif}"
)
_COLOURS = ("var(--main)", "var(--second)", "var(--soft)")
_DASHES = ("none", "7 4", "2 3")  # colours alone do not tell everybody
_BORDERS = ("solid", "dashed", "dotted")

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Where values lie in the picture: x in [x0, x1], y in [y0, y1], sizes in SVG units.

    On logarithmic axes all of these are powers of ten.
    """

    width: float
    height: float
    x0: float
    x1: float
    y0: float
    y1: float
    log: bool = False
    left: float = 52.0
    right: float = 20.0
    top: float = 10.0
    bottom: float = 24.0

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Across and down."""
        across = (x - self.x0) / (self.x1 - self.x0) * (self.width - self.left - self.right)
        up = (y - self.y0) / (self.y1 - self.y0) * (self.height - self.bottom - self.top)
        return self.left + across, self.height - self.bottom - up


def chart(
    curves: Sequence[Curve],
    *,
    x: str,
    y: str,
    caption: str = "",
    size: tuple[float, float] = (480.0, 220.0),
    from_zero: bool = False,
    log: bool = False,
) -> str:
    """A figure with its name and the last values above, and a caption below.

    Args:
        curves: up to three; points that are not finite are left out.
        x: name of the x axis, which all share.
        y: what is drawn.
        caption: plain text.
        size: width and height; text is 12 units high.
        from_zero: the y axis begins at 0.
        log: both axes are logarithmic; all values are above 0.
    """
    drawn = [(curve.name, *_thin(curve)) for curve in curves]
    scaled = [(name, np.log10(xs), np.log10(ys)) for name, xs, ys in drawn] if log else drawn
    frame = _frame(scaled, size, from_zero=from_zero, log=log)
    parts = _grid(frame)
    for number, (_, xs, ys) in enumerate(scaled):
        places = [frame.place(px, py) for px, py in zip(xs.tolist(), ys.tolist(), strict=True)]
        points = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = f";stroke-dasharray:{_DASHES[number % len(_DASHES)]}" if number else ""
        parts.append(f'<polyline points="{points}" style="stroke:{colour}{dashes}"/>')
        if len(places) == 1:
            parts.append(
                f'<circle cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3" '
                f'style="fill:{colour}"/>'
            )
    said = html.escape(f"{y} over {x}: " + ", ".join(curve.name for curve in curves))
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class=chart data-chart="{_data(drawn, frame, x)}">'
        f"<div class=said><b>{html.escape(y)}</b><output>{_last(drawn, x)}</output></div>"
        f"{_keys(curves)}"
        f'<svg viewBox="0 0 {frame.width:.0f} {frame.height:.0f}" role="img" aria-label="{said}">'
        f'{"".join(parts)}<line class="at" y1="{frame.top}" y2="{frame.height - frame.bottom}"/>'
        f"</svg>{below}</figure>"
    )


def drawing(figure: str) -> str:
    """The picture of a `chart` as an SVG file of its own, for pages without our style sheet."""
    svg = figure[figure.index("<svg ") : figure.index("</svg>")]
    opening, _, content = svg.partition(">")
    for name, colour in _ALONE.items():
        content = content.replace(f"var(--{name})", colour)
    space = 'xmlns="http://www.w3.org/2000/svg"'
    return f"{opening} {space} {_SIZE}><style>{_STYLE}</style>{content}</svg>\n"


def _keys(curves: Sequence[Curve]) -> str:
    """Which line is which; nothing where there is one."""
    keys = [
        f'<span><i style="border-top:2px {border} {colour}"></i>{html.escape(curve.name)}</span>'
        for curve, border, colour in zip(curves, _BORDERS, _COLOURS, strict=False)
    ]
    return f"<div class=keys>{''.join(keys)}</div>" if len(curves) > 1 else ""


def _thin(curve: Curve) -> tuple[Points, Points]:
    """Finite points; of many, the lowest and the highest of each stretch, so that no spike is lost.

    Returns:
        x and y, each (M,).
    """
    x, y = np.asarray(curve.x, dtype=np.float64), np.asarray(curve.y, dtype=np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= _MOST:
        return x, y
    keep = {0, len(x) - 1}
    for stretch in np.array_split(np.arange(len(x)), _MOST // 2 - 1):
        keep |= {int(stretch[y[stretch].argmin()]), int(stretch[y[stretch].argmax()])}
    chosen = np.array(sorted(keep))
    return x[chosen], y[chosen]


def _frame(
    drawn: Sequence[tuple[str, Points, Points]],
    size: tuple[float, float],
    *,
    from_zero: bool,
    log: bool,
) -> _Frame:
    xs = np.concatenate([x for _, x, _ in drawn])
    ys = np.concatenate([y for _, _, y in drawn])
    low, high = (float(ys.min()), float(ys.max())) if len(ys) else (0.0, 1.0)
    low = min(low, 0.0) if from_zero else low
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a flat line lies in the middle
        around = abs(high) / 2 or 1.0
        low, high = (low if from_zero else low - around), high + around
    x0, x1 = (float(xs.min()), float(xs.max())) if len(xs) else (0.0, 1.0)
    if x0 == x1:
        x0, x1 = x0 - 1, x1 + 1
    return _Frame(width=size[0], height=size[1], x0=x0, x1=x1, y0=low, y1=high, log=log)


def _grid(frame: _Frame) -> list[str]:
    parts = []
    right = frame.width - frame.right
    ticks = _powers if frame.log else _linear
    for value, label in ticks(frame.y0, frame.y1, frame.height / 45):
        _, down = frame.place(frame.x0, value)
        parts.append(
            f'<line x1="{frame.left}" x2="{right}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text x="{frame.left - 8}" y="{down + 4:.1f}" text-anchor="end">'
            f"{label}</text>"
        )
    for value, label in ticks(frame.x0, frame.x1, frame.width / 110):
        across, _ = frame.place(value, frame.y0)
        parts.append(
            f'<text x="{across:.1f}" y="{frame.height - 5}" text-anchor="middle">{label}</text>'
        )
    return parts


def _data(drawn: Sequence[tuple[str, Points, Points]], frame: _Frame, x: str) -> str:
    """What the script needs, as an attribute."""
    names = ("width", "x0", "x1", "left", "right", "log")
    table = {
        "x": x,
        "frame": {name: getattr(frame, name) for name in names},
        "curves": [
            {"name": name, "x": xs.tolist(), "y": [float(f"{v:.5g}") for v in ys.tolist()]}
            for name, xs, ys in drawn
        ],
    }
    return html.escape(json.dumps(table, separators=(",", ":")))


def _last(drawn: Sequence[tuple[str, Points, Points]], x: str) -> str:
    known = [(name, xs[-1], ys[-1]) for name, xs, ys in drawn if len(xs)]
    if not known:
        return ""
    ends = ", ".join(
        f"{html.escape(name)} {_value(value)}" if len(drawn) > 1 else _value(value)
        for name, _, value in known
    )
    return f"{ends} at {html.escape(x)} {known[0][1]:,.0f}"


def _linear(low: float, high: float, most: float) -> list[tuple[float, str]]:
    return [(value, _label(value)) for value in _ticks(low, high, most)]


def _powers(low: float, high: float, most: float) -> list[tuple[float, str]]:
    """Places between two powers of ten: 1, 2 and 5, 1 and 3, or 1 of each, as there is room."""
    found: list[tuple[float, str]] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        values = [n * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for n in steps]
        found = [(math.log10(v), _label(v)) for v in values if low <= math.log10(v) + 1e-9]
        found = [(place, label) for place, label in found if place - 1e-9 <= high]
        if len(found) <= most:
            break
    return found


def _ticks(low: float, high: float, most: float) -> list[float]:
    """Round values inside [low, high], about `most` of them."""
    rough = (high - low) / max(2.0, most)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    slack = step * 1e-6
    first, last = math.ceil((low - slack) / step), math.floor((high + slack) / step)
    return [n * step for n in range(first, last + 1)]


def _value(value: float) -> str:
    """Four significant digits, as page.js says them."""
    rounded = float(f"{value:.4g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def _label(value: float) -> str:
    """Short: 0.05, 2.5e-4, 1,200, 20k, 1.5M."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,g}" if size >= 1000 else f"{value:g}"
