"""`cbn-lab doctor --photographs PATH`: decodes every file of a class-folder set once, and lists those that cannot be.

Training on photographs (`stream`) ends at the first damaged one, and does not resume once files have changed: so check
beforehand. Each file is read whole by the function that training uses, so a file that passes here is no obstacle there
(its decoding at a part of the size included). Damage that still decodes, to wrong colours, is seen by neither.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cbn_lab import _photographs, stream
from cbn_lab._command_line import complain
from cbn_lab._data_files import DataError

_TOGETHER = 16  # files that a worker takes at a time


def main(folder: str, workers: int | None, as_json: bool) -> int:
    """Prints a sentence for each unusable file and a line for each split, or all of it as one JSON object.

    Returns 0; 1 if a file is unusable; 130 if stopped by Ctrl-C, 2 if a worker was lost: then what was found so far is
    printed. Raises DataError where training does so before its first step.
    """
    folder = folder.removeprefix("imagefolder:")
    splits = [stream.load(folder, split, image_size=1, workers=workers) for split in ("train", "test")]
    found = [{"split": Path(split.folder).name, "photographs": len(split), "classes": split.num_classes, "checked": 0,
              "unusable": {}} for split in splits]
    code, why = 0, ""
    try:
        _check(splits, found)
    except KeyboardInterrupt:
        code, why = 130, "interrupted"
    except DataError as error:
        code, why = 2, f"error: {error}"
    _show(found, as_json)
    if code:
        checked, photographs = (sum(entry[key] for entry in found) for key in ("checked", "photographs"))
        return complain(f"{why}; {checked:,} of {photographs:,} photographs were checked", code)
    return int(any(entry["unusable"] for entry in found))


def _check(splits: list[stream.Stream], found: list[dict]) -> None:
    """Decodes all files and enters into `found`, on the way, how many were checked and what is wrong with which."""
    size = shutil.get_terminal_size()  # tqdm shows nothing where a terminal says that it has 0 rows
    with tqdm(total=sum(map(len, splits)), desc="checking photographs", unit="file", leave=False, ncols=size.columns,
              nrows=size.lines, mininterval=0.1 if sys.stderr.isatty() else 60) as bar:  # in a log, once a minute
        for split, entry in zip(splits, found, strict=True):
            work = _Work(split.folder, np.sort(split.files))  # as they lie on the disk, and in the list
            places = [slice(first, first + _TOGETHER) for first in range(0, len(split), _TOGETHER)]
            for checked, faults in stream.results(work, places, split.workers):
                entry["checked"] += checked
                entry["unusable"] |= faults
                bar.update(checked)


@dataclass(frozen=True)
class _Work:
    """What a worker needs: `work[places]` is how many files these are, and {name: why} of the unusable ones."""

    folder: str
    files: np.ndarray

    def __getitem__(self, places: slice) -> tuple[int, dict[str, str]]:
        files, faults = self.files[places], {}
        for file in files:
            path = os.path.join(self.folder, os.fsdecode(file))
            try:
                _photographs.whole(path)
            except DataError as error:
                faults[path] = str(error)
        return len(files), faults


def _show(found: list[dict], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"photographs": found}))
        return
    encoding = sys.stdout.encoding or "utf-8"
    for fault in (fault for entry in found for fault in entry["unusable"].values()):
        line = " ".join(fault.splitlines())
        print(line.encode(encoding, "backslashreplace").decode(encoding))  # a name can be of another encoding
    for entry in found:
        print(f"{entry['split']}: {entry['checked']:,} of {entry['photographs']:,} photographs checked, classes: "
              f"{entry['classes']:,}, unusable: {len(entry['unusable']):,}")
