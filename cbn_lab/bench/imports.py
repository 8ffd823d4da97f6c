"""What importing costs, each time in a fresh interpreter."""

import subprocess
import sys
from statistics import median

from cbn_lab.bench.measure import Row

LIMIT = 0.3  # s
STATEMENTS = ("import torch", "import cbn_lab", "import cbn_lab.train, cbn_lab.models, cbn_lab.runs")
_TIMED = """
import time
for statement in {statements}:
    began = time.perf_counter()
    exec(statement)
    print(time.perf_counter() - began)
"""
_THEORY = """
import sys
from cbn_lab import activations
activations.moments("tanh")
print(int("torch" in sys.modules))
"""


def measure(*, repeats: int, root=None):
    """Rows: torch; then the package and its training path, each after what stands above it; theory without torch."""
    rounds = [_run(_TIMED.format(statements=STATEMENTS)) for _ in range(repeats)]
    rows = []
    for statement, *seconds in zip(STATEMENTS, *rounds, strict=True):
        limit = None if statement == "import torch" else LIMIT
        rows.append(Row(statement, median(seconds), "s", limit, seconds={statement: seconds}))
    return [*rows, Row("torch imported by theory", _run(_THEORY)[0], "times", 0)], None, {}


def _run(code: str) -> list[float]:
    """The numbers that `code` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]
