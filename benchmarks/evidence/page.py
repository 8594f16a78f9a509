"""`zoo report --all`: claims, speed, bars, scaling, demo and catalogue on one static page."""

import html
from pathlib import Path

from zoo.benchmarks.evidence.measured import bars_part, claims_part, speed_part
from zoo.benchmarks.evidence.scaling import scaling_part
from zoo.benchmarks.speed.timing import RESULTS

import zoo
from zoo.demo import results as demos
from zoo.errors import UsageError
from zoo.files import write_atomic
from zoo.report.catalogue import catalogue
from zoo.report.page import contents, page, section

__all__ = ["write_evidence"]


def write_evidence(out: Path, *, demo: Path | None = None, results: Path = RESULTS) -> Path:
    """Writes the page.

    Args:
        out: an .html file; an older one is replaced.
        demo: the folder of a demo.
        results: what `zoo bench claims` and `make bench` wrote; may be empty or absent.

    Returns:
        `out`.

    Raises:
        UsageError: `out` is no .html file, or `demo` holds no results.
        StorageError: it cannot be written.
    """
    if out.suffix not in (".html", ".htm"):
        raise UsageError(f"{out}: the page is HTML; give a name that ends in .html")
    shown = _demo(demo)
    parts = {
        "Claims of papers": claims_part(results),
        "Speed against peers": speed_part(results),
        "Tables": bars_part(results),
        "Scaling": scaling_part(results),
        "Demo": shown,
        "Catalogue": catalogue(),
    }
    body = [contents([*parts]), *(section(title, part) for title, part in parts.items())]
    lead = (
        "Everything that the project can show, and where each number comes from. What did not "
        f"reproduce and what is slower stands here too. Made with zoo {zoo.__version__}."
    )
    write_atomic(out, page("zoo: the evidence", lead, body))
    return out


def _demo(folder: Path | None) -> list[str]:
    if folder is None:
        return [
            "<p class=soft>No demo was given: <code>zoo demo --out FOLDER</code>, then "
            "<code>zoo report --all --demo FOLDER</code>.</p>"
        ]
    found = demos.read(folder)
    parts = [piece for part in found.parts for piece in demos.section(part, heading="h3")]
    return [f"<p class=soft>{html.escape(found.lead)}</p>", *parts]
