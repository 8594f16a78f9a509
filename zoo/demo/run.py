"""`zoo demo`: all parts, their tables in the terminal, and one HTML page."""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from zoo.demo.birds import birds_part
from zoo.demo.captions import captions_part
from zoo.demo.code import code_part
from zoo.demo.digits import digits_part
from zoo.demo.part import Part
from zoo.demo.results import Found, found_here, keep, section
from zoo.demo.tables import tables_part
from zoo.demo.volumes import volumes_part
from zoo.files import storage_errors, write_atomic
from zoo.report.page import page

__all__ = ["run_demo"]

REPORT = "report.html"
PARTS = {
    "digits": digits_part,
    "image-text": captions_part,
    "code": code_part,
    "birds": birds_part,
    "volumes": volumes_part,
    "tables": tables_part,
}


def run_demo(out: Path, *, quick: bool = False) -> Path:
    """Pretrains and measures all parts; what an interrupted demo had finished is kept.

    Args:
        out: a folder for shards, runs and the report.
        quick: a few steps only.

    Returns:
        The report's path.
    """
    began = time.perf_counter()
    console = Console()
    parts = []
    for number, (name, build) in enumerate(PARTS.items(), start=1):
        console.rule(f"{number}/{len(PARTS)} {name}", align="left")
        with storage_errors(out):
            (out / name).mkdir(parents=True, exist_ok=True)
        parts.append(build(out / name, quick=quick))
        console.print(
            f"pretrained in {parts[-1].seconds:.0f} s; exported, loaded in a fresh process: "
            "[green]features bit-identical[/]"
        )
    seconds = time.perf_counter() - began
    found = found_here(parts, seconds, quick=quick)
    keep(found, out)
    report = out / REPORT
    write_atomic(report, _page(found))
    console.print()
    for part in parts:
        console.print(_table(part))
        console.print(part.verdict + "\n")
    console.print(f"report: {report}  ({seconds:.0f} s in all)")
    return report


def _table(part: Part) -> Table:
    out = Table(title=part.title, title_justify="left")
    out.add_column("method")
    for measure in part.measures:
        out.add_column(measure, justify="right")
    best = [
        max(s for s in column if s == s)
        for column in zip(*(r.scores for r in part.rows), strict=True)
    ]
    for row in part.rows:
        cells = [
            "" if s != s else (f"[bold green]{s:.1%}[/]" if s == top else f"{s:.1%}")
            for s, top in zip(row.scores, best, strict=True)
        ]
        out.add_row(f"[bold]{row.name}[/]" if row.ours else row.name, *cells)
    return out


def _page(found: Found) -> str:
    body = [piece for part in found.parts for piece in section(part)]
    body.append(
        "<h2>Exported and loaded back</h2><p>Every encoder was written to a folder, loaded with "
        "<code>zoo.load</code> in a fresh process, and gave bit-identical features for files of "
        "held-out samples. The demo stops with an error if they do not.</p>"
    )
    return page("zoo demo", found.lead, body)
