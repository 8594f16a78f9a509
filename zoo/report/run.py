"""`zoo report`: one page about a run, finished or not; it reads the folder and changes nothing."""

import html
import json
import math
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo.errors import UsageError, ZooError
from zoo.files import write_atomic
from zoo.report.chart import Curve, chart
from zoo.report.page import grid, listing, page, picture, tiles
from zoo.report.pictures import objective_pictures
from zoo.runs import CONFIG, Run
from zoo.text import in_bytes
from zoo.training.profile import TEXT

__all__ = ["write_report"]

NAME = "report.html"
_PICTURE_WIDTH = 880  # pixels that the page has room for
_EXAMPLES = 10  # bad samples that are shown
# How a number is drawn: title, factor, whether the axis begins at 0. Others are parts of the loss
# or metrics of the objective, and follow the loss under their own names.
_KNOWN: dict[str, tuple[str, float, bool]] = {
    "loss": ("Loss", 1, False),
    "lr": ("Learning rate", 1, True),
    "grad_norm": ("Gradient norm", 1, True),
    "samples_per_second": ("Samples per second", 1, True),
    "tokens_per_second": ("Tokens per second", 1, True),
    "mfu": ("Model FLOPs utilisation, %", 100, True),
    "data_wait": ("Waiting for data, % of the time", 100, True),
    "memory_gb": ("Memory, GB", 1, True),
    "bad_samples": ("Bad samples so far", 1, True),
    "skipped_steps": ("Skipped steps so far", 1, True),
}
_ONLY_IF_ANY = ("bad_samples", "skipped_steps")

Rows = Sequence[Mapping[str, float]]


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes the page; the run may be in progress.

    Args:
        folder: of the run.
        out: the file; by default report.html in the folder.

    Returns:
        The file.

    Raises:
        UsageError: the folder holds no run.
        StorageError: the file cannot be written.
    """
    if not (folder / CONFIG).exists():
        raise UsageError(f"{folder}: holds no run; give the folder that zoo pretrain --out named")
    run, out = Run(folder), out or folder / NAME
    recipe, rows = run.recipe, run.metrics
    facts = _facts(folder)
    body = [
        _tiles(run, rows, facts),
        "<h2>Curves</h2>",
        _curves(rows),
        *_pictures(run),
        "<h2>Run</h2>",
        listing((), [*_described(run, facts).items()]),
        "<h2>Checkpoints</h2>",
        _checkpoints(run),
        "<h2>Bad samples</h2>",
        _quarantine(folder),
        *_profile(folder),
        "<h2>Config</h2>",
        f"<details open><summary>{CONFIG}</summary>"
        f"<pre>{html.escape((folder / CONFIG).read_text().strip())}</pre></details>",
    ]
    title = f"{recipe.model}: {recipe.objective['name']} on {Path(recipe.data).name}"
    write_atomic(out, page(title, _state(run, rows), body))
    return out


def _facts(folder: Path) -> dict[str, object]:
    path = folder / "run.json"
    facts: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
    return facts


def _state(run: Run, rows: Rows) -> str:
    path = run.folder / "metrics.jsonl"
    last = path if path.exists() else run.folder / CONFIG
    when = _when(last)
    where = run.folder.resolve()
    if run.finished:
        return f"{where}: finished, {when}."
    step = f"{int(rows[-1]['step']):,}" if rows else "0"
    return f"{where}: not finished; at step {step} when it last wrote, {when}."


def _tiles(run: Run, rows: Rows, facts: Mapping[str, object]) -> str:
    train, samples = run.recipe.train, int(str(facts.get("samples") or 0))
    last: Mapping[str, float] = rows[-1] if rows else {}
    step = int(last.get("step", 0))
    # Samples come from the recipe, for the loss knows steps only.
    total = train.total_steps(samples) if train.steps is not None or samples else None
    seen = step * train.batch_size
    epochs = f"{seen / samples:.3g} epochs" if samples else ""
    items = [
        ("steps", f"{step:,}", f"of {total:,}" if total else ""),
        ("samples seen", f"{seen:,}", epochs),
    ]
    losses = [row["loss"] for row in rows if math.isfinite(row.get("loss", math.nan))]
    if losses:
        items.append(("loss", f"{losses[-1]:.4g}", f"lowest {min(losses):.4g}"))
    for name, title, shape in (
        ("samples_per_second", "samples/s", "{:,.0f}"),
        ("mfu", "MFU", "{:.1%}"),
        ("data_wait", "data wait", "{:.0%}"),
    ):
        values = sorted(row[name] for row in rows if name in row)
        if values:
            items.append((title, shape.format(values[len(values) // 2]), "median"))
    items.append(("bad samples", f"{int(last.get('bad_samples', 0)):,}", ""))
    return tiles(items)


def _curves(rows: Rows) -> str:
    if not rows:
        return "<p class=soft>Nothing is logged yet.</p>"
    found = dict.fromkeys(name for row in rows for name in row if name != "step")
    others = [name for name in found if name not in _KNOWN]
    names = ["loss", *others, *(name for name in _KNOWN if name in found and name != "loss")]
    figures = []
    for name in names:
        title, factor, from_zero = _KNOWN.get(name, (name, 1, False))
        points = [(row["step"], row[name] * factor) for row in rows if name in row]
        if name in _ONLY_IF_ANY and not any(y for _, y in points):
            continue
        curve = Curve(name, [x for x, _ in points], [y for _, y in points])
        figures.append(chart([curve], x="step", y=title, size=(440.0, 190.0), from_zero=from_zero))
    return grid(figures)


def _pictures(run: Run) -> list[str]:
    try:
        step, drawn = objective_pictures(run)
    except ZooError as error:
        return ["<h2>Pictures</h2>", f"<p class=soft>None: {html.escape(str(error))}.</p>"]
    if not drawn:
        return []
    figures = [
        picture(image, scale=max(1, _PICTURE_WIDTH // image.shape[1]), alt=title, caption=title)
        for title, image in drawn
    ]
    lead = f"<p class=soft>The weights of step {step:,} on samples of the training data.</p>"
    return ["<h2>Pictures</h2>", lead, *figures]


def _described(run: Run, facts: Mapping[str, object]) -> dict[str, str]:
    """Facts as text, in their own order; what nobody knows is left out."""
    recipe = run.recipe
    said = {"model": recipe.model, "data": recipe.data, "seed": str(recipe.seed)}
    for fact, value in facts.items():
        name = {"data": "data fingerprint"}.get(fact, fact)
        if value is None or value == "":
            continue
        if name == "command" and isinstance(value, list):
            said[name] = shlex.join(map(str, value))
        elif isinstance(value, list):
            said[name] = ", ".join(map(str, value))
        elif isinstance(value, dict):
            said |= {f"{name} {key}": str(inner) for key, inner in value.items()}
        else:
            said[name] = f"{value:,}" if isinstance(value, int) else str(value)
    return said


def _checkpoints(run: Run) -> str:
    rows = []
    for path in (run.folder / "checkpoints").glob("step-*"):
        try:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            rows.append((int(path.name.removeprefix("step-")), _when(path), in_bytes(size)))
        except (FileNotFoundError, ValueError):  # removed meanwhile, or somebody's own
            continue
    if not rows:
        return "<p class=soft>None yet.</p>"
    table = [(f"{step:,}", when, size) for step, when, size in sorted(rows)]
    if run.finished:
        table.append(("export", _when(run.folder / "export"), ""))
    return listing(("step", "written", "size"), table, numeric=1)


def _quarantine(folder: Path) -> str:
    path = folder / "quarantine.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:  # the last line of a run in progress
            continue
    if not found:
        return "<p class=soft>None.</p>"
    counts: Counter[str] = Counter()
    for row in found:
        counts[str(row["code"])] += int(row.get("count") or 1)
    said = ", ".join(f"{html.escape(code)} {count:,}" for code, count in counts.most_common())
    examples = [
        tuple(str(row.get(name, "")) for name in ("shard", "key", "code", "detail"))
        for row in found[:_EXAMPLES]
    ]
    more = f" The first {_EXAMPLES} of {len(found):,}:" if len(found) > _EXAMPLES else ""
    head = ("shard", "key", "code", "what is wrong")
    return f"<p>{said}.{more}</p>{listing(head, examples)}"


def _profile(folder: Path) -> list[str]:
    path = folder / "profile" / TEXT
    if not path.exists():
        return []
    return ["<h2>Where the time goes</h2>", f"<pre>{html.escape(path.read_text().strip())}</pre>"]


def _when(path: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime))
