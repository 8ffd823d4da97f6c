"""Predict, then run: Run stays locked until a guess is locked in, and then draws the result over it.

    predict_ranking("7.1", "Which trains Sigmoid best?", ["after", "before", "none"], reveal)

`reveal` holds the result: label -> runs (or label -> numbers, one a seed), a `LiveTraining`, or a function without
arguments that returns one of these, called when Run is pressed. Until then nothing of it is computed, drawn or written,
so a notebook that is merely run, and its static form, do not tell. A `LiveTraining` is started by Run; one whose
recorded runs answer the question is shown with them at once, for the reader to start.

`cbn_lab.predictions.forget("7.1")` takes a guess out of the student's file: for the next room, say. In a room let hands
decide: the majority's guess, and its share of the hands as the confidence.
"""

from collections.abc import Mapping, Sequence

from cbn_lab.runs import Run
from cbn_lab.widgets.guesses import CurveSheet, NumberSheet, RankingSheet
from cbn_lab.widgets.predictor import Predict, Reveal


def predict_ranking(id: str, question: str, items: Sequence[str], reveal: Reveal, *, metric: str = "test_accuracy",
                    largest: bool = True) -> Predict:
    """Put `items`, labels of the result's arms, in order; other arms of the result are left out.

    metric   the final number of the runs to order by; of plain numbers its name, with the unit
    largest  whether the largest comes first

    Give `items` in an order that is not the answer: the buttons stand in it.
    """
    return Predict(id, question, RankingSheet(items, metric, largest), reveal)


def predict_number(id: str, question: str, reveal: Reveal, *, low: float, high: float, tolerance: float, what: str,
                   metric: str = "test_accuracy", step: float | None = None) -> Predict:
    """The mean over the seeds of the result's one arm, or of the first arm minus the second, paired by seed.

    what  the quantity with its unit, such as "gap (points)"; right is a guess at most `tolerance` off
    step  of the slider from `low` to `high`, 1 for a count; by default about a hundredth of the range
    """
    return Predict(id, question, NumberSheet(low, high, tolerance, what, metric, step), reveal)


def predict_curve(id: str, question: str, reveal: Reveal, *, epochs: Sequence[float], low: float = 0.0,
                  high: float = 100.0, tolerance: float = 5.0, metric: str = "test_accuracy",
                  known: Mapping[str, Sequence[Run]] | None = None) -> Predict:
    """The mean curve of the result's arm at some epochs; right is a guess at most `tolerance` off as a mean over them.

    metric  "test_accuracy", "validation_accuracy" (in %) or "loss" (training, nats)
    known   label -> runs that are drawn from the beginning, for comparison
    """
    return Predict(id, question, CurveSheet(epochs, low, high, tolerance, metric, known), reveal)
