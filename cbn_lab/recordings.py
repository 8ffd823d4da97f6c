"""All recorded runs that can stand side by side, part by part: what notebook 09 explores."""

from collections.abc import Iterable
from pathlib import Path

from cbn_lab import claims, grid, runs, start
from cbn_lab.ablation import ACTIVATIONS
from cbn_lab.claim_rows import Source, ablation_sources, grid_source
from cbn_lab.runs import Run


def parts(root=None) -> dict[str, list[Run]]:
    """Label -> the runs of one network, data set, size and setting, arm by arm; parts without any run are left out.

    Those of the evidence grid first, then the structure ablation's vanilla, swapped and default rows, then notebook
    00's. `root` is a results folder (None: this checkout's). RecordError where there is none, or a record is damaged.
    """
    root = claims.folder() if root is None else Path(root)
    found = grid.recorded(root / "grid")
    ablation = runs.load_all(root / "ablation") if (root / "ablation").is_dir() else []
    sources = {source.label: _of(source, grid.PLACEMENTS) for source in (grid_source(p, found) for p in grid.PARTS)}
    sources |= {source.label: _of(source, ("before", "after", "complete")) for source in ablation_sources(ablation)}
    if (root / "start").is_dir():
        sources["digits, six-layer ConvNet, 10 epochs (notebook 00)"] = start.records(root / "start")
    return {label: some for label, some in sources.items() if some}


def _of(source: Source, placements: Iterable[str]) -> list[Run]:
    return [run for f in ACTIVATIONS for place in placements for run in source.arms(f, place).values()]
