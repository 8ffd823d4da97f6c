"""What a student has tried, solved and predicted: one JSON file that belongs to the student.

It lies in the working folder, or where the environment variable CBN_LAB_PROGRESS says. Only real attempts are
written (correct, wrong, error) and guesses that were locked in, so a notebook that is merely run leaves no file. It is
read by nobody else and sent nowhere. Delete the file to start again.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from datetime import date
from pathlib import Path

VARIABLE = "CBN_LAB_PROGRESS"
NAME = "cbn_lab_progress.json"
_FORMAT = "cbn-lab progress, version 1"


class ProgressError(Exception):
    """The file cannot be read or written; the message says what to do."""


def path() -> Path:
    return Path(os.environ.get(VARIABLE) or NAME)


def load() -> dict[str, dict]:
    """exercise id -> {"last": outcome, "attempts": count, "solved": date or None}; empty if there is no file."""
    return _read()["exercises"]


def record(exercise: str, outcome: str, *, correct: bool) -> None:
    """Count an attempt. A solved exercise stays solved. ProgressError if the file is not ours or cannot be written."""
    content = _read()
    old = content["exercises"].get(exercise, {"attempts": 0, "solved": None})
    solved = old["solved"] or (date.today().isoformat() if correct else None)
    content["exercises"][exercise] = {"last": outcome, "attempts": old["attempts"] + 1, "solved": solved}
    _write(content)


def predictions() -> dict[str, dict]:
    """prediction id -> what `cbn_lab.predictions` keeps of it; empty if there is none. ProgressError as for `load`."""
    return _read()["predictions"]


def keep_prediction(id: str, entry: dict) -> None:
    """Write one prediction, over an older one of that id. ProgressError as for `record`."""
    content = _read()
    content["predictions"][id] = entry
    _write(content)


def forget_predictions(ids: Iterable[str]) -> None:
    """Take these predictions out of the file; unknown ids are passed over. ProgressError as for `record`."""
    content = _read()
    unwanted = set(ids) & set(content["predictions"])
    if unwanted:
        for id in unwanted:
            del content["predictions"][id]
        _write(content)


def _read() -> dict:
    """The whole file. One that was written before there were predictions has none."""
    file = path()
    advice = f"move it away, or set {VARIABLE} to another file"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        content = {"format": _FORMAT, "exercises": {}}
    except OSError as error:
        raise ProgressError(f"{file} cannot be read ({error.strerror}); {advice}") from error
    except ValueError as error:
        raise ProgressError(f"{file} is damaged, it is no JSON; {advice}") from error
    if not _valid(content):
        raise ProgressError(f"{file} is not a progress file of this course; {advice}")
    return {"predictions": {}} | content


def _valid(content) -> bool:
    return (isinstance(content, dict) and content.get("format") == _FORMAT
            and isinstance(content.get("exercises"), dict)
            and all(isinstance(entry, dict) and {"last", "attempts", "solved"} <= entry.keys()
                    and isinstance(entry["attempts"], int) for entry in content["exercises"].values())
            and isinstance(content.get("predictions", {}), dict)
            and all(isinstance(entry, dict) for entry in content.get("predictions", {}).values()))


def _write(content: dict) -> None:
    """To a file beside it and then in its place: a reader never sees half of it."""
    file = path().resolve()
    scratch = None
    try:
        handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1, sort_keys=True)
            stream.write("\n")
        os.replace(scratch, file)
    except OSError as error:
        if scratch is not None:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
        raise ProgressError(f"{path()} cannot be written ({error.strerror}); set {VARIABLE} to a file in a folder "
                            "that you may write to") from error
