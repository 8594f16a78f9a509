"""Effects with their intervals, one below the other, as inline SVG (a forest plot).

Effects of different measures cannot share an axis: each line has a scale of its own, and in common
only where nothing is gained.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Effect", "forest"]

_WIDTH, _LINE, _TOP = 800.0, 40.0, 26.0  # SVG units
_LEFT, _RIGHT = 8.0, 580.0  # where intervals lie; numbers follow
_COLOURS = {"reproduced": "var(--main)", "not reproduced": "var(--second)"}
_UNDECIDED = "var(--soft)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A gain; above 0 is what was claimed.

    Attributes:
        name: plain text.
        mean: the estimate.
        low: where its interval begins.
        high: where it ends.
        least: the gain that was needed.
        verdict: "reproduced", "not reproduced", or another word.
    """

    name: str
    mean: float
    low: float
    high: float
    least: float = 0.0
    verdict: str = ""


def forest(effects: Sequence[Effect], *, caption: str = "") -> str:
    """A figure: a name, an interval, the needed gain as a tick, and the numbers."""
    height = _TOP + _LINE * len(effects) + 6
    middle = (_LEFT + _RIGHT) / 2
    parts = [
        f'<line x1="{middle}" x2="{middle}" y1="{_TOP - 6}" y2="{height - 4}"/>',
        _text(middle - 8, 14, "worse", anchor="end"),
        _text(middle + 8, 14, "better"),
    ]
    for number, effect in enumerate(effects):
        parts += _drawn(effect, _TOP + _LINE * number, middle)
    said = html.escape("; ".join(f"{e.name}: {e.verdict}" for e in effects))
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{said}">'
        f"{''.join(parts)}</svg>{below}</figure>"
    )


def _drawn(effect: Effect, top: float, middle: float) -> list[str]:
    colour = _COLOURS.get(effect.verdict, _UNDECIDED)
    furthest = max(abs(effect.low), abs(effect.high), abs(effect.least)) or 1.0
    scale = (_RIGHT - _LEFT) / 2 / furthest
    low, mean, high, least = (
        round(middle + scale * value, 1)
        for value in (effect.low, effect.mean, effect.high, effect.least)
    )
    said = f"{effect.mean:+.2g} ({effect.low:+.2g} to {effect.high:+.2g})"
    across, line = top + 26, f'stroke-width="2.5" style="stroke:{colour}"'
    return [
        _text(_LEFT, top + 14, effect.name),
        f'<line x1="{low}" x2="{high}" y1="{across}" y2="{across}" {line}/>',
        f'<line x1="{least}" x2="{least}" y1="{across - 6}" y2="{across + 6}"/>',
        f'<circle cx="{mean}" cy="{across}" r="4.5" style="fill:{colour}"/>',
        _text(_RIGHT + 12, top + 14, effect.verdict),
        _text(_RIGHT + 12, top + 30, said),
    ]


def _text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(words)}</text>'
