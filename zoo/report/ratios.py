"""How many times faster than a peer: a table with a bar a line, all on one logarithmic axis.

Bars are placed in percent and words are plain text, so that it fits any width.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.report.page import framed

__all__ = ["Group", "ratios"]

_LEAST, _MOST = 0.1, 30.0  # the axis; bars beyond are cut, their numbers are not
_TICKS = (0.1, 1, 10)


@dataclass(frozen=True, slots=True)
class Group:
    """What was measured in one run.

    Attributes:
        title: what is measured, against which peer; empty for none.
        times: how many times faster than the peer each line is.
    """

    title: str
    times: Sequence[tuple[str, float]]


def ratios(groups: Sequence[Group], *, caption: str) -> str:
    """The table; bars to the right of 1 are faster than the peer."""
    lines = [
        "<colgroup><col><col class=plot><col class=times></colgroup>",
        f"<tr><th scope=col>what</th><th scope=col>{_axis()}</th>"
        "<th scope=col class=n>times</th></tr>",
    ]
    for group in groups:
        if group.title:
            title = html.escape(group.title)
            lines.append(f"<tr><th scope=rowgroup colspan=3>{title}</th></tr>")
        for name, times in group.times:
            lines.append(
                f"<tr><td>{html.escape(name)}</td><td>{_bar(times)}</td>"
                f"<td class=n>{times:.3g}</td></tr>"
            )
    return framed(lines, caption, kind="ratios")


def _axis() -> str:
    words = "".join(
        f'<text x="{_place(tick):.1f}%" y="12" '
        f'text-anchor="{"middle" if tick > _LEAST else "start"}">{tick:g}</text>'
        for tick in _TICKS
    )
    said = f"times as fast as the peer, {_LEAST:g} to {_MOST:g} on a logarithmic axis"
    return f'<svg role="img" aria-label="{said}">{words}</svg>'


def _bar(times: float) -> str:
    """The number beside it says the same to who cannot see it."""
    peer, end = _place(1.0), _place(times)
    left, kind = min(peer, end), "faster" if times >= 1 else "slower"
    return (
        f'<svg aria-hidden="true"><rect class={kind} x="{left:.1f}%" y="3" '
        f'width="{abs(end - peer):.1f}%" height="8"/>'
        f'<line x1="{peer:.1f}%" x2="{peer:.1f}%" y1="0" y2="14"/></svg>'
    )


def _place(times: float) -> float:
    """Percent of the axis."""
    inside = min(max(times, _LEAST), _MOST)
    return 100 * math.log(inside / _LEAST) / math.log(_MOST / _LEAST)
