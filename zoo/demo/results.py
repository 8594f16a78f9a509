"""What a demo found: kept as JSON beside its page, read again, and shown."""

import html
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.demo.part import Part, ScoreRow
from zoo.errors import UsageError
from zoo.files import write_atomic
from zoo.report.page import table

__all__ = ["Found", "found_here", "keep", "read", "section"]

NAME = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All parts of a demo, and where it ran; figures are kept by its page alone."""

    parts: tuple[Part, ...]
    seconds: float  # of everything
    quick: bool
    zoo: str
    torch: str
    python: str
    threads: int

    @property
    def lead(self) -> str:
        """What the page of the demo begins with."""
        quick = "A quick run of a few steps: it shows that everything works, not how well. "
        return (
            f"{quick if self.quick else ''}{len(self.parts)} kinds of data, encoders pretrained on "
            "them on this machine, by captions in one part and without labels in the others, and "
            "baselines that are shown also where they win. Digits, code and held-out tables are "
            "real; captions, bird song and torsos are synthesised. "
            f"zoo {self.zoo}, torch {self.torch}, Python {self.python}, {self.threads} CPU "
            f"threads, {self.seconds:.0f} s in all."
        )


def found_here(parts: Sequence[Part], seconds: float, *, quick: bool) -> Found:
    """The parts, with the versions of this process."""
    return Found(
        parts=tuple(parts),
        seconds=seconds,
        quick=quick,
        zoo=zoo.__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        threads=torch.get_num_threads(),
    )


def keep(found: Found, folder: Path) -> Path:
    """Writes results.json; an older one is replaced.

    Raises:
        StorageError: it cannot be written.
    """
    facts = asdict(found)
    for part in facts["parts"]:
        del part["figures"]
        for row in part["rows"]:
            row["scores"] = [None if score != score else score for score in row["scores"]]
    path = folder / NAME
    write_atomic(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return path


def read(folder: Path) -> Found:
    """What a demo wrote into its folder.

    Raises:
        UsageError: it wrote nothing there, or something else.
    """
    path = folder / NAME
    try:
        facts = json.loads(path.read_text())
        return Found(**facts | {"parts": tuple(map(_part, facts["parts"]))})
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: no results of a demo; give the folder that zoo demo --out named"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"{path}: no results of a demo ({error}); run zoo demo again") from error


def _part(facts: dict[str, Any]) -> Part:
    rows = tuple(
        ScoreRow(
            row["name"],
            tuple(float("nan") if score is None else score for score in row["scores"]),
            ours=row["ours"],
        )
        for row in facts["rows"]
    )
    return Part(**facts | {"measures": tuple(facts["measures"]), "rows": rows, "figures": ()})


def section(part: Part, *, heading: str = "h2") -> list[str]:
    """A part as HTML: its table, what it says, and its figures where they are known."""
    rows: list[tuple[str | float, ...]] = [(row.name, *row.scores) for row in part.rows]
    said, protocol = html.escape(part.verdict), html.escape(part.protocol)
    lead = html.escape(f"{part.lead} {part.steps:,} steps, {part.seconds:.0f} s.")
    return [
        f"<{heading}>{html.escape(part.title)}</{heading}>",
        f"<p>{lead}</p>",
        table(
            ("method", *part.measures),
            rows,
            ours=[row.ours for row in part.rows],
            caption="Scores; the best of each column is marked",
        ),
        f"<p>{said}</p><p class=soft>{protocol}</p>",
        *part.figures,
    ]
