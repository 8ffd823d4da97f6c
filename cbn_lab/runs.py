"""Recorded runs: one JSON file each, with settings, curve, result and where they come from.

    config      the settings, resolved (no "auto" left), as `TrainConfig` fields; no paths of the machine
    curve       one entry per progress record: step, epoch, loss, accuracy, lr, images_per_second, seconds and, at the
                ends of evaluated epochs, {test|validation}_{loss|accuracy}
    final       train_loss (mean over the last epoch, train mode), {test|validation}_{loss|accuracy}; losses in nats,
                accuracies in [0, 1]
    provenance  device, threads, versions, commit, date, data sources; on several ranks also how many, the backend,
                and how many images are normalized together beside how many make one step
    status      "finished", "interrupted" or "diverged"
"""

import hashlib
import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

SCHEMA = 1
STATUSES = ("finished", "interrupted", "diverged")
_REQUIRED = {
    "config": ("data", "model", "activation", "placement", "epochs", "batch_size", "lr", "seed", "device"),
    "provenance": ("device", "versions", "commit", "date", "data_sources"),
}


class RecordError(ValueError):
    """A record that cannot be used; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Run:
    config: dict
    curve: list
    final: dict
    provenance: dict
    status: str = "finished"

    def summary(self) -> str:
        """One line for people."""
        c = self.config
        numbers = ", ".join(f"{key.replace('_', ' ')} {_readable(key, value)}" for key, value in self.final.items())
        return (f"{c['data']}, {c['model']}, {c['activation']}, {c['placement']}, seed {c['seed']} on "
                f"{self._where()}: {numbers or 'no result'} ({self.status})")

    def _where(self) -> str:
        device, ranks = self.provenance["device"], self.provenance.get("ranks")
        if ranks is None:
            return device
        batch = " to ".join(str(images) for images in ranks["normalization_batch"])
        norms = f" normalized over {batch} images {ranks['statistics']}," if batch else ""
        return f"{ranks['count']} ranks ({device};{norms} batch {ranks['optimizer_batch']})"


def _readable(key: str, value) -> str:
    if value is None:
        return "not finite"
    return f"{100 * value:.1f} %" if "accuracy" in key else f"{value:.3f}" if "loss" in key else f"{value:,.0f}"


def name(config: dict) -> str:
    """A file name without suffix: readable settings, then a hash of all of them, so that equal settings share it."""
    def word(value):
        return value if isinstance(value, str) else "mixed"

    text = json.dumps(config, sort_keys=True, default=list)
    data = word(config["data"]).split(":")[-1].removesuffix(".npz")
    parts = [data, word(config["model"]), word(config["activation"]), word(config["placement"]), f"s{config['seed']}"]
    readable = re.sub(r"[^\w.+-]", "_", "-".join(parts))  # a registered name may hold a slash
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def save(run: Run, folder) -> Path:
    """Write the run to `folder` and return the file's path. The file appears whole or not at all."""
    folder = made(folder)
    path = folder / f"{name(run.config)}.json"
    record = {"schema": SCHEMA} | asdict(run) | {"curve": _finite(run.curve), "final": _finite(run.final)}
    text = json.dumps(record, indent=None, separators=(",", ":"), allow_nan=False, default=list)
    text = text.replace(',"curve"', ',\n"curve"').replace(',"final"', ',\n"final"') + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))
    return path


def made(folder) -> Path:
    """The folder, made if it is not there. ValueError where a file stands in its place."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder} cannot be a folder for records: a file stands there, or above it; give another "
                         "one") from None
    return folder


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`write` a temporary file beside `path`, then put it in place: at no time is there half a file at `path`.

    The temporary name is this process's own, so that two runs of equal settings do not write into one file. OSError,
    in a sentence, where the disk is full or the folder may not be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror or error}); make room there, or give another "
                      "folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path) -> Run:
    """Read one record. Raises RecordError if it is missing, is not JSON or does not follow the schema."""
    path = Path(path)
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise RecordError(f"there is no record {path}; `cbn-lab train --out {path.parent}` writes one") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is not readable JSON ({error}); delete it and run its setting again") from error
    problem = _problem(record)
    if problem:
        raise RecordError(f"{path} is not a run of schema {SCHEMA}: {problem}; delete it and run its setting again")
    return Run(**{key: record[key] for key in ("config", "curve", "final", "provenance", "status")})


def load_all(folder) -> list[Run]:
    """All records below `folder`, in the order of their paths. RecordError names the first one that is not valid."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordError(f"there is no folder {folder} with recorded runs")
    return [load(path) for path in sorted(folder.rglob("*.json"))]


def stored(name: str, command: str) -> Path:
    """results/NAME of this checkout. RecordError, naming the command that records them, where there is no such folder.

    (A package that was installed without its checkout has none; a notebook may stand in one all the same.)
    """
    for place in (Path(__file__).resolve().parent.parent, Path.cwd(), Path.cwd().parent):
        if (place / "results" / name).is_dir():
            return place / "results" / name
    raise RecordError("the recorded runs are not here: open the notebook inside a copy of the repository, or make them "
                      f"with `{command}`")


def _problem(record) -> str | None:
    """What is wrong with a record, or None."""
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        return f"expected an object with schema {SCHEMA}, got {found!r}"
    for key, kind in (("config", dict), ("curve", list), ("final", dict), ("provenance", dict), ("status", str)):
        if not isinstance(record.get(key), kind):
            return f"'{key}' must be a {kind.__name__}"
    if record["status"] not in STATUSES:
        return f"status must be one of {', '.join(STATUSES)}, got {record['status']!r}"
    for part, keys in _REQUIRED.items():
        missing = [key for key in keys if key not in record[part]]
        if missing:
            return f"'{part}' lacks {', '.join(missing)}"
    if not all(isinstance(entry, dict) and {"step", "epoch", "loss"} <= entry.keys() for entry in record["curve"]):
        return "each entry of 'curve' needs step, epoch and loss"
    if record["status"] == "finished" and "train_loss" not in record["final"]:
        return "a finished run needs final.train_loss"
    return None


def _finite(value):
    """NaN and infinities become null: JSON has no word for them. Floats keep 6 significant digits."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def provenance(device: str, data_sources: dict[str, str]) -> dict:
    """Where a run comes from: device, threads, versions, commit, date (UTC), data."""
    import numpy
    import torch

    import cbn_lab

    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__,
                "cbn_lab": cbn_lab.__version__}
    return {"device": device_name(device), "threads": torch.get_num_threads(), "system": platform.system(),
            "versions": versions, "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "data_sources": data_sources}


def device_name(device: str) -> str:
    """"NVIDIA H100 80GB HBM3", "AMD EPYC (CPU)", ..."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpu = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return f"{cpu} ({device.upper()})"


def commit() -> str | None:
    """The commit that this package's files are of, with "+" if they differ from it; None if git does not track them.

    (A package installed into an environment inside some other project's checkout is not of that project's commit.)
    """
    def git(*arguments):
        return subprocess.run(["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True)

    try:
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
    except FileNotFoundError:
        return None
    head = git("rev-parse", "--short=12", "HEAD")
    if tracked.returncode or head.returncode:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no", "--", str(Path(__file__).parent)).stdout.strip()
    return head.stdout.strip() + ("+" if changed else "")
