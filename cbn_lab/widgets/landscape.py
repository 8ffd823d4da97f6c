"""Sliders over probes along the gradient: which moment of training, and which step on the line."""

from collections.abc import Mapping, Sequence

import ipywidgets

from cbn_lab import figures
from cbn_lab.widgets.explorer import Explorer


def landscape_at(records: Mapping[str, Mapping[int, Sequence]], training_step: int, chosen: int) -> figures.Figure:
    """The picture behind the sliders. ValueError, with the known ones, for a training step that was not probed."""
    for arm, by_step in records.items():
        if training_step not in by_step:
            raise ValueError(f"{arm!r} was not probed after {training_step} training steps; known: "
                             f"{', '.join(map(str, by_step))}")
    found = figures.along_gradient({arm: by_step[training_step] for arm, by_step in records.items()}, chosen=chosen)
    return figures.Figure(found.fig, f"After {training_step} training steps. {found.alt}")


def landscape_explorer(records: Mapping[str, Mapping[int, Sequence]]) -> Explorer:
    """Two sliders over `landscape_at`; the numbers at the chosen step stand below the picture.

    records  arm -> training step -> a `probes.landscape.Landscape` per seed. ValueError for arms that were not probed
             at the same training steps
    """
    if not records or not all(records.values()) or len({tuple(by_step) for by_step in records.values()}) > 1:
        raise ValueError("every arm needs landscapes at the same training steps, at least one; got "
                         + "; ".join(f"{arm}: {list(by_step)}" for arm, by_step in records.items()))
    by_step = next(iter(records.values()))
    times, steps = list(by_step), next(iter(by_step.values()))[0].steps
    time = ipywidgets.SelectionSlider(description="after training steps", options=[(str(t), t) for t in times],
                                      value=times[len(times) // 2])
    step = ipywidgets.SelectionSlider(description="step on the line", value=len(steps) - 1,
                                      options=[(f"{size:.3g}", i) for i, size in enumerate(steps)])
    return Explorer(landscape_at, [time, step], lambda of: {
        "records": records, "training_step": time.value, "chosen": step.value}, words=True)
