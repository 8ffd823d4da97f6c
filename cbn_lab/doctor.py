"""What this machine has for the course: `cbn-lab doctor`. Reads files and versions only; reports what fails.

Every part of the report is made on its own, so that a missing or broken package leaves the others readable.
"""

import json
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "ipywidgets", "jupyterlab")
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def report(root=None) -> dict:
    """Everything that `text` shows, as JSON types."""
    return {"versions": {"cbn_lab": _version("cbn-lab"), "python": platform.python_version()}
            | {name: _version(name) for name in PACKAGES},
            "device": _device(), "data": _data(root), "notebooks": notebooks()}


def text(report: dict) -> str:
    """The report for people."""
    rows = [(name, version or "missing: run `make install`") for name, version in report["versions"].items()]
    device = report["device"]
    if "problem" in device:
        rows.append(("device", device["problem"]))
    else:
        rows += [("device", device["name"]), ("tier", device["tier"]), ("threads", device["threads"]),
                 ("fast bf16", "yes" if device["fast_bf16"] else "no")]
    rows += [(f"data {name}", source.partition("; ")[0]) for name, source in report["data"].items()]
    rows.append(("network", "not used; only `cbn-lab train --download` fetches data"))
    rows += [(entry["name"], f"about {entry['minutes']:g} min on {entry['device']}" if entry["minutes"]
              else "not measured yet") for entry in report["notebooks"]]
    if not report["notebooks"]:
        rows.append(("notebooks", "none found: they lie in the folder notebooks of a checkout"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def notebooks() -> list[dict]:
    """Name, minutes and device of each built notebook, as notebooks/build.py measured them on its own machine."""
    found = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        try:
            measured = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("cbn_lab", {})
        except (OSError, ValueError, KeyError):
            measured = {}
        found.append({"name": path.stem, "minutes": measured.get("minutes"), "device": measured.get("device")})
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _device() -> dict:
    try:
        import torch

        from cbn_lab.config import has_fast_bf16
        from cbn_lab.runs import device_name

        device = "cuda" if torch.cuda.is_available() else "cpu"
        fast = has_fast_bf16(device)
        tier = "gpu" if device == "cuda" else "cpu with bf16" if fast else "cpu"
        return {"name": device_name(device), "tier": tier, "threads": torch.get_num_threads(), "fast_bf16": fast}
    except Exception as error:  # a broken installation raises ImportError, OSError, RuntimeError, AttributeError
        return {"problem": f"PyTorch does not work here ({type(error).__name__}: {error}); run `make install`"}


def _data(root) -> dict[str, str]:
    try:
        from cbn_lab import data

        return data.available(root)
    except Exception as error:  # as above
        return {"digits": f"not readable ({type(error).__name__}: {error})"}
