"""Speed and memory, as ratios within one run: `cbn-lab bench`.

    block        complete block, forward and backward, over conv-BN-act from torch's modules: time, and memory saved
    throughput   images/s of our training loop over those of the script a student would write
    probes       a product with the Hessian over a gradient; seconds for the three effects of the default ConvNet
    playground   seconds from a change in the playground to its new diagram and statistics
    live         training in a widget: pictures a second, share of the time spent on drawing, seconds that Stop takes
    imports      seconds that `import cbn_lab` and its training path add to `import torch`
    stack        small nets trained at once (`cbn_lab.stack`) over the same nets one after the other
    limits       operations and bytes of a training image, the speed that they allow, and how far from it we are
    gpu          images/s of ResNet-18 and the ConvNet by placement, compiled, in CUDA graphs; the time to 94 % on
                 CIFAR-10; skipped without a GPU

The arms of a comparison alternate (A B A B ...), with the same number of threads. A ratio is the median over the
repeats of one arm's time over the other's in the same repeat, so that slow drifts of the machine cancel; the records
keep every time. Submodules are imported when an entry runs.
"""

import json
import re
from importlib import import_module
from pathlib import Path

from cbn_lab.bench.measure import Row

ENTRIES = ("imports", "block", "throughput", "probes", "playground", "live", "stack", "limits", "gpu")
ON_GPU = ("stack", "limits", "gpu")  # on the GPU where there is one; the others measure the processor
LEAST_REPEATS = 5


def main(only: list[str] | None = None, *, out="results/bench", root=None, repeats: int = 9) -> int:
    """Measure, print a table, write one JSON file an entry to `out`. Returns 1 if a limit was missed, else 0."""
    if repeats < LEAST_REPEATS:
        raise ValueError(f"repeats must be at least {LEAST_REPEATS}, so that a median means something; got {repeats}")
    missed = False
    for entry in only or ENTRIES:
        rows, skipped, sources = import_module(f"cbn_lab.bench.{entry}").measure(repeats=repeats, root=root)
        print(f"{entry}: {skipped}" if skipped else table(rows), flush=True)
        if rows:
            print(f"  -> {save(entry, rows, sources, out)}", flush=True)
        missed |= any(row.passed is False for row in rows)
    return int(missed)


def table(rows: list[Row]) -> str:
    """Name, value, limit and verdict of each row, in columns."""
    cells = [(row.name, f"{row.value:.3g} {row.unit}", row.limit_text(), row.verdict()) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    return "\n".join("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
                     for line in cells)


def save(entry: str, rows: list[Row], sources: dict[str, str], out) -> Path:
    """Write one entry's rows and where they come from; the file appears whole or not at all."""
    from cbn_lab import runs

    path = record_path(entry, out)
    provenance = runs.provenance(_device(entry), sources)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"entry": entry, "rows": [row.record() for row in rows], "provenance": provenance}, indent=1)
    runs.write_whole(path, lambda temporary: temporary.write_text(text + "\n"))
    return path


def record_path(entry: str, out) -> Path:
    """The file of an entry; what is measured on a GPU has one of that GPU: limits-nvidia-h200.json, not limits.json."""
    from cbn_lab import runs

    device = _device(entry)
    gpu = re.sub(r"[^a-z0-9]+", "-", runs.device_name(device).lower()) if device == "cuda" else ""
    return Path(out) / f"{'-'.join(filter(None, (entry, gpu)))}.json"


def _device(entry: str) -> str:
    import torch

    return "cuda" if entry in ON_GPU and torch.cuda.is_available() else "cpu"
