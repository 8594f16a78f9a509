"""Effects with their intervals, one below the other, as inline SVG (a forest plot).

Effects of different measures cannot share an axis: each line has a scale of its own, and in common
only where nothing is gained. The picture is narrow and its words are wrapped, for telephones.
"""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Effect", "forest"]

_WIDTH, _TEXT, _STRIP, _GAP, _TOP = 480.0, 17.0, 20.0, 14.0, 24.0  # SVG units
_LEFT, _RIGHT = 6.0, 474.0  # where intervals lie
_CHARACTERS = 58  # of a line
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

    @property
    def said(self) -> str:
        """Verdict, estimate and interval."""
        ends = f"{_signed(self.low)} to {_signed(self.high)}"
        return f"{self.verdict} {_signed(self.mean)} ({ends})".strip()


def forest(effects: Sequence[Effect], *, caption: str = "") -> str:
    """A figure: of each effect a name, a verdict, an interval, and the needed gain as a tick."""
    middle, top = (_LEFT + _RIGHT) / 2, _TOP
    parts = [
        _text(middle - 8, 13, "worse", anchor="end"),
        _text(middle + 8, 13, "better"),
    ]
    for effect in effects:
        drawn, top = _drawn(effect, top, middle)
        parts += drawn
    said = html.escape("; ".join(f"{e.name}: {e.said}" for e in effects))
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class=forest><svg viewBox="0 0 {_WIDTH:.0f} {top:.0f}" role="img" '
        f'aria-label="{said}">{"".join(parts)}</svg>{below}</figure>'
    )


def _drawn(effect: Effect, top: float, middle: float) -> tuple[list[str], float]:
    """Its parts, and where the next effect begins."""
    colour = _COLOURS.get(effect.verdict, _UNDECIDED)
    furthest = max(abs(effect.low), abs(effect.high), abs(effect.least)) or 1.0
    scale = (_RIGHT - _LEFT) / 2 / furthest
    low, mean, high, least = (
        round(middle + scale * value, 1)
        for value in (effect.low, effect.mean, effect.high, effect.least)
    )
    parts = []
    for line in textwrap.wrap(effect.name, _CHARACTERS):
        top += _TEXT
        parts.append(_text(_LEFT, top, line, kind="name"))
    parts.append(_text(_LEFT, top + _TEXT, effect.said))
    top += _TEXT + _STRIP
    across, line = top - 8, f'stroke-width="2.5" style="stroke:{colour}"'
    thin = f'style="stroke:{_UNDECIDED}"'
    parts += [
        f'<line x1="{middle}" x2="{middle}" y1="{across - 8}" y2="{across + 8}" {thin}/>',
        f'<line x1="{low}" x2="{high}" y1="{across}" y2="{across}" {line}/>',
        f'<line x1="{least}" x2="{least}" y1="{across - 6}" y2="{across + 6}" {thin}/>',
        f'<circle cx="{mean}" cy="{across}" r="4.5" style="fill:{colour}"/>',
    ]
    return parts, top + _GAP


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 100 else f"{value:+.2g}"


def _text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(words)}</text>'
