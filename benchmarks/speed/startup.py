"""Cold start: what `import zoo` and `zoo.list_models()` cost a fresh process, against its peers.

Targets: import <= 40 ms, listing <= 80 ms, the start of Python itself not counted.
"""

import subprocess
import sys
from collections.abc import Callable

from zoo.benchmarks.speed.timing import alternate, report

WORK = {
    "python": "pass",
    "import zoo": "import zoo",
    "zoo.list_models()": "import zoo; zoo.list_models()",
    "zoo.card('mae')": "import zoo; zoo.card('mae')",
    "import torch": "import torch",
    "timm.list_models()": "import timm; timm.list_models()",
}
ROUNDS = 7


def fresh(code: str) -> Callable[[], object]:
    """Runs code in a new process."""
    return lambda: subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    report(
        "startup",
        alternate({name: fresh(code) for name, code in WORK.items()}, ROUNDS),
        base="python",
    )
