"""What a prediction says in words, as HTML: in the colours of the page, or on a ground of its own."""

import html

from cbn_lab import figures, predictions, progress
from cbn_lab.predictions import Prediction
from cbn_lab.widgets.guesses import Verdict

SCORE = ("The Brier score is (confidence − outcome)², outcome 1 if the guess was right and 0 if not: 0 is best, always "
         "saying 50 % gives 0.25, and on average it is least for those who say exactly what they believe.")
_BOX = ('<div role="status" style="background:#ffffff;color:#1a1a1a;border:1px solid #8a8a8a;border-left:8px solid '
         '{colour};padding:0.4em 0.9em;max-width:56em;line-height:1.5">{text}</div>')
_COLOURS = {True: "#00664b", False: "#9c2f00", None: "#4a4a4a"}


def lines(*texts: str, role: str = "") -> str:
    """Plain texts below each other; with role="status" screen readers announce a change."""
    said = "<br>".join(map(html.escape, texts))
    announced = f' role="{role}"' if role else ""
    return f'<div{announced} style="line-height:1.4;margin:0.3em 0">{said}</div>'


def asked(id: str, question: str, invitation: str) -> str:
    return (f'<div style="line-height:1.4;margin:0.3em 0"><b>Prediction {html.escape(id)}.</b> '
            f"{html.escape(question)}<br>{html.escape(invitation)}</div>")


def explained() -> str:
    """How a guess is scored, where it is kept, and how a room guesses."""
    return ("<details><summary>how this is scored, and where it is kept</summary>" + lines(
        SCORE, f"Guesses are kept in the file {progress.path().name}, which is yours alone and is sent nowhere. "
               "cbn_lab.predictions.forget() takes them out of it; deleting the file does too, with your exercises.",
        "In a room: hands up, enter what most say, and their share of the hands as the confidence.") + "</details>")


def status(locked: Prediction | None, missing: list[str], sure: float | None, *, training: bool, shown: bool) -> str:
    """What to do now. `locked` is the guess that was locked in, `missing` what one that is not still needs."""
    if locked is None:
        chosen = "" if sure is None else f" You are {100 * sure:.0f} % sure."
        left = f"Run is locked. Still missing: {'; '.join(missing)}." if missing else "Ready: lock in your guess."
        return left + chosen
    if training:
        return "Training: your guess is judged when it has finished."
    if shown:
        return "The result is drawn over your guess."
    if locked.revealed:
        return f"You guessed on {locked.made} and have seen the result. Run shows it again."
    return (f"Your guess of {locked.made} is locked in, {100 * locked.confidence:.0f} % sure. Run shows the result; "
            "from then on the guess stays.")


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
