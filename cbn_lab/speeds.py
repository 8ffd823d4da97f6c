"""Records of `cbn_lab.ladder`: images per second of each rung, with every repeat, one JSON file per device and net.

    settings            of the training (`TrainConfig.record`): model, batch size, steps of a part, precision ...
    images_per_second   rung -> one number per repeat, in the order of the rungs; the rungs of one repeat were timed
                        right after each other
    above               rung -> the rung that it changes one thing of
    provenance          device, threads, versions, commit, date, data sources
    note                what else a reader should know
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import median

from cbn_lab import runs

SCHEMA = 1


@dataclass(frozen=True)
class Speeds:
    """The rungs of one device, timed in one run. ValueError if rungs, repeats and `above` do not fit together."""

    settings: dict
    images_per_second: dict[str, list[float]]
    above: dict[str, str]
    provenance: dict
    note: str = ""

    def __post_init__(self):
        repeats = {len(values) for values in self.images_per_second.values()}
        if len(repeats) != 1 or 0 in repeats:
            raise ValueError(f"every rung needs equally many repeats, at least one, got {sorted(repeats) or 'no rung'}")
        unknown = {*self.above, *self.above.values()} - set(self.images_per_second)
        if unknown:
            raise ValueError(f"'above' names rungs without times: {', '.join(sorted(unknown))}")

    @property
    def device(self) -> str:
        """"AMD EPYC (CPU), 2 threads"; threads only where they matter."""
        name, threads = self.provenance["device"], self.provenance["threads"]
        return f"{name}, {threads} thread{'s' * (threads > 1)}" if name.endswith("(CPU)") else name

    def speed(self, rung: str) -> float:
        """Images/s, the median over the repeats."""
        return median(self.images_per_second[rung])

    def gains(self, rung: str, over: str | None = None) -> list[float]:
        """How many times as fast as the rung above it, or as `over`, in each repeat."""
        other = self.images_per_second[over or self.above[rung]]
        return [mine / theirs for mine, theirs in zip(self.images_per_second[rung], other, strict=True)]

    def table(self) -> str:
        """For a terminal: images/s, times the rung above (median, range), times the first rung."""
        first, lines = next(iter(self.images_per_second)), [f"{self.device}: {self.setting()}"]
        for rung in self.images_per_second:
            step = self.gains(rung) if rung in self.above else [1.0]
            lines.append(f"{rung:<26}{self.speed(rung):>10,.0f} images/s{median(step):>8.2f} x ({min(step):.2f} to "
                         f"{max(step):.2f}){median(self.gains(rung, first)):>8.2f} x in all")
        return "\n".join(lines)

    def setting(self) -> str:
        """"convnet, batches of 128, bf16, 9 repeats of 10 steps"."""
        s = self.settings
        repeats, steps = len(next(iter(self.images_per_second.values()))), s["log_every"]
        return (f"{s['model']}, batches of {s['batch_size']}, {s['precision']}, {repeats} repeat{'s' * (repeats > 1)} "
                f"of {steps} step{'s' * (steps > 1)}")


def provenance(device: str, data_sources: dict[str, str]) -> dict:
    """As of a run, with the versions that the usual script's transforms depend on."""
    found = runs.provenance(device, data_sources)
    return found | {"versions": found["versions"] | {name: version(name) for name in ("torchvision", "pillow")}}


def save(found: Speeds, folder) -> Path:
    """Write the record to `folder` under its device, net and batch, whole or not at all; return the file's path."""
    path = record_path(found.device, found.settings, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"schema": SCHEMA} | asdict(found)
    record["images_per_second"] = {rung: [float(f"{v:.5g}") for v in values]
                                   for rung, values in found.images_per_second.items()}
    text = json.dumps(record, indent=1, allow_nan=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text)  # lists on one line
    runs.write_whole(path, lambda temporary: temporary.write_text(text + "\n"))
    return path


def record_path(device: str, settings: Mapping, folder) -> Path:
    """The file of a device and of settings with "model" and "batch_size"."""
    parts = [device, settings["model"], f"b{settings['batch_size']}"]
    return Path(folder) / f"{re.sub(r'[^a-z0-9]+', '-', ' '.join(parts).lower()).strip('-')}.json"


def load(path) -> Speeds:
    """RecordError if the file is missing, is not JSON or not such a record."""
    try:
        record = json.loads(Path(path).read_text())
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']!r}, expected {SCHEMA}")
        found = Speeds(**{field.name: record[field.name] for field in fields(Speeds)})
        found.table()  # reads every part of it
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise runs.RecordError(f"{path} is not a record of cbn_lab.ladder ({type(error).__name__}: {error}); delete it "
                               "and measure again") from error
    return found


def records(folder=None) -> list[Speeds]:
    """All records of a folder, results/speed of this checkout by default; an empty list where there is none."""
    if folder is None:
        folder = Path(__file__).resolve().parent.parent / "results" / "speed"
    return [load(path) for path in sorted(Path(folder).glob("*.json"))]
