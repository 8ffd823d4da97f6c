"""`python -m cbn_lab.exercises`: which exercises there are, how far you are, and how good your guesses were."""

import sys

from cbn_lab import progress
from cbn_lab.exercises import exercise, ids
from cbn_lab.figures.tables import Table
from cbn_lab.predictions import calibration
from cbn_lab.predictions import load as load_predictions


def main() -> int:
    try:
        entries, predictions = progress.load(), load_predictions()
    except progress.ProgressError as error:
        print(error, file=sys.stderr)
        return 1
    rows = [("exercise", "", "state", "attempts")]
    for id in ids():
        entry = entries.get(id, {"last": "", "solved": None, "attempts": 0})
        state = f"solved on {entry['solved']}" if entry["solved"] else entry["last"] or "not attempted"
        rows.append((id, exercise(id).spec.title, state, entry["attempts"]))
    print(Table(rows))
    print(f"\nsolved: {sum(bool(entries.get(id, {}).get('solved')) for id in ids())} of {len(ids())}; "
          f"progress is kept in {progress.path()}")
    made = calibration(predictions.values())
    if made is not None:
        print(made.sentence())
    return 0


if __name__ == "__main__":
    sys.exit(main())
