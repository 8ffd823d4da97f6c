"""What is said of a guess once its result is known, as HTML with colours of its own, for a light and a dark page."""

import html

from cbn_lab import figures, predictions
from cbn_lab.predictions import Prediction
from cbn_lab.widgets.guesses import Verdict

SCORE = ("The Brier score is (confidence − outcome)², outcome 1 if the guess was right and 0 if not: 0 is best, always "
         "saying 50 % gives 0.25, and on average it is least for those who say exactly what they believe.")
_BOX = ('<div role="status" style="background:#ffffff;color:#1a1a1a;border:1px solid #8a8a8a;border-left:8px solid '
         '{colour};padding:0.4em 0.9em;max-width:56em;line-height:1.5">{text}</div>')
_COLOURS = {True: "#00664b", False: "#9c2f00", None: "#4a4a4a"}


def card(right: bool | None, text: str) -> str:
    """A box that screen readers announce; `text` is HTML."""
    return _BOX.format(colour=_COLOURS[right], text=text)


def judged(verdict: Verdict, prediction: Prediction, first: bool) -> str:
    """The verdict on a guess, and its score where this result is the first one and so the one that counts."""
    sentence = html.escape(verdict.sentence)
    if verdict.right is None:
        return card(None, f"{sentence} The seeds decide no pair, so this guess is not counted.")
    outcome = f"<b>{'✓ Right' if verdict.right else '✗ Not right'}.</b> {sentence}"
    if not first:
        said = "right" if prediction.right else "not right"
        return card(verdict.right, f"{outcome} Counted as {said} when you first saw a result, on "
                                   f"{prediction.revealed}; showing it again changes nothing.")
    score = predictions.brier(prediction.confidence, verdict.right)
    return card(verdict.right, f"{outcome} You were {100 * prediction.confidence:.0f} % sure: Brier score "
                               f"({prediction.confidence:.1f} − {int(verdict.right)})² = <b>{score:.2f}</b>. {SCORE}")


def in_words(figure: figures.Figure) -> str:
    return f"<details><summary>in words</summary>{html.escape(figure.alt)}</details>"
