"""All that a GPU has to give, in one command: what is missing of its speeds, then of the evidence grid at full size.

    python -m cbn_lab.full

A speed is missing while results/ has no record of this kind of GPU, a run while it has no record from any. The command
can be stopped and started at will. Minutes for the speeds, hours for the grid: see results/GRID.md.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from cbn_lab import bench, grid, ladder, runs, speeds


def missing(results: Path) -> list[str]:
    """The entries of `cbn-lab bench` that have no record of this GPU, and "ladder" if `cbn_lab.ladder` has none."""
    entries = [entry for entry in bench.ON_GPU if not bench.record_path(entry, results / "bench").exists()]
    settings = ladder.config(device="cuda").record()
    recorded = speeds.record_path(runs.device_name("cuda"), settings, results / "speed").exists()
    return entries if recorded else [*entries, "ladder"]


def measure(entry: str, results: Path, root=None) -> bool:
    """Whether it could be measured; where not, the reason is printed, so that the grid does not wait for a speed."""
    try:
        if entry == "ladder":
            ladder.main(["--device", "cuda", "--out", str(results / "speed")] + (["--root", root] if root else []))
        else:
            bench.main([entry], out=results / "bench", root=root)
    except Exception:  # whatever it is, it is said, and hours of other runs are worth more than this one
        traceback.print_exc()
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cbn_lab.full", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records")
    parser.add_argument("--root", help="folder that holds cifar10.npz and cifar100.npz, or torchvision's folders")
    parser.add_argument("--jobs", type=int, help="runs of the grid at a time (default: one per GPU)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("this needs a GPU, and torch finds none here; `python -m cbn_lab.grid --size small` is for CPUs")
    failed = []
    for entry in missing(options.results):
        print(f"{entry}:", flush=True)
        if not measure(entry, options.results, options.root):
            failed.append(entry)
    of_grid = ["--size", "full", "--out", str(options.results / "grid")]
    of_grid += ["--root", options.root] if options.root else []
    of_grid += ["--jobs", str(options.jobs)] if options.jobs else []
    code = grid.main(of_grid)
    if failed:
        print(f"not measured: {', '.join(failed)} (the reasons are above)", file=sys.stderr)
    return code or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
