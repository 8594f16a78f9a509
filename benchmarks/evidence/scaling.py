"""How long pretraining takes on 1 to 4,096 GPUs and what it costs, as `zoo plan` estimates it."""

import html
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from zoo.registry.build import resolve_recipe

from zoo.cli.plan import assumed, described
from zoo.planning import GPUS, Cluster, estimate
from zoo.report.chart import Curve, chart
from zoo.report.page import grid, listing
from zoo.training.flops import PEAKS
from zoo.workload import measure, synthetic_members

__all__ = ["scaling_part"]

# Models, and samples of the data that they were published with: ImageNet-1k, and XCL of BirdSet.
PLANNED = (("mae-base", 1_281_167), ("mae-huge", 1_281_167), ("bird-mae-large", 1_700_000))
_GPU = "H100"


def scaling_part(folder: Path) -> list[str]:
    """Curves of time and cost, what they assume, and the check of the model that was measured."""
    cluster, hours, costs, lines = Cluster(peak=PEAKS[_GPU]), [], [], []
    for model, samples in PLANNED:
        recipe = resolve_recipe(model, str(samples), ())
        work = measure(recipe, synthetic_members(recipe.modality), samples)
        lines.append(described(recipe, work, samples, "a made-up sample"))
        found = [estimate(work, cluster, gpus) for gpus in GPUS]
        hours.append(Curve(model, GPUS, [one.seconds / 3600 for one in found]))
        costs.append(Curve(model, GPUS, [one.cost(cluster) for one in found]))
    lines.append(assumed(cluster, _GPU))
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return [
        "<p>Estimates, not measurements: arithmetic on what one sample costs.</p>",
        grid(
            [
                chart(hours, x="GPUs", y="Hours of a pretraining", log=True),
                chart(costs, x="GPUs", y="Dollars of a pretraining", log=True),
            ]
        ),
        f"<details><summary>What is measured and what is assumed</summary><pre class=wrapped>"
        f"{html.escape(chr(10).join(lines))}</pre></details>",
        *_checked(folder / "plan_local.json"),
        f"<p class=soft>Measured here with torch {torch.__version__}, "
        f"Python {platform.python_version()}, {html.escape(machine)}.</p>",
    ]


def _checked(path: Path) -> list[str]:
    """Two processes of one machine beside what the model says of them."""
    if not path.exists():
        return []
    facts: dict[str, Any] = json.loads(path.read_text())
    rows = [(name, f"{row['median_ms']:,.0f} ms") for name, row in facts["rows"].items()]
    caption = (
        f"The model against processes of one machine, a step each ({facts['machine']}): predicted "
        f"is {facts['predicted_over_measured']:.2f} of measured"
    )
    return [listing(("what", "median"), rows, numeric=1, caption=caption)]
