"""Exercises that check themselves.

    ex = exercise("6.1")
    ex.check(my_function)           # a card: correct, wrong with the mistake named, not attempted, error in your code
    ex.hint(); ex.hint(2)           # from gentle to strong
    ex.solution()
    layer = ex.use(my_function)     # yours if it is correct, else the reference, and says which

Each chapter's exercises are in exNN.py; what they are made of, and the tools for writing one, in core.py.
"""

import importlib
import inspect
import pkgutil
import re
import textwrap

from cbn_lab import progress
from cbn_lab.exercises.cards import NOT_ATTEMPTED, Card, Page
from cbn_lab.exercises.core import Spec
from cbn_lab.exercises.grading import grade

__all__ = ["Exercise", "chapters", "exercise", "ids", "source", "specs"]


class Exercise:
    """One exercise, as a notebook uses it."""

    def __init__(self, spec: Spec):
        self.spec = spec

    def check(self, student=None) -> Card:
        """Judge your function, class or value. Attempts are noted in your progress file."""
        card = grade(self.spec, student)
        if card.outcome == NOT_ATTEMPTED:
            return card
        try:
            progress.record(self.spec.id, card.outcome, correct=card.correct)
        except progress.ProgressError as error:
            note = f"Your progress was not saved: {error}."
            return Card(card.id, card.outcome, card.message, card.code, (*card.notes, note))
        return card

    def hint(self, number: int = 1) -> Page:
        """The first hint, or the one with that number."""
        hints = self.spec.hints
        if number not in range(1, len(hints) + 1):
            return Page(f"Exercise {self.spec.id} has {len(hints)} hints: `ex.hint(1)` to `ex.hint({len(hints)})`.")
        further = f" `ex.hint({number + 1})` says more." if number < len(hints) else ""
        return Page(f"**Hint {number} of {len(hints)} for exercise {self.spec.id}.** {hints[number - 1]}{further}")

    def solution(self) -> Page:
        """One way to do it, and why."""
        title = f"**Exercise {self.spec.id}: {self.spec.title}**"
        return Page(f"{title}\n\n```python\n{source(self.spec.reference)}\n```\n\n{self.spec.why}")

    def use(self, student=None):
        """`student` if it is correct, else the reference; prints which. Nothing is recorded."""
        card = grade(self.spec, student)
        if card.correct:
            print(f"Exercise {self.spec.id}: your own answer is used from here on.")
            return student
        reason = "not attempted" if card.outcome == NOT_ATTEMPTED else "your answer is not right yet"
        print(f"Exercise {self.spec.id}: {reason}, so the reference is used from here on.")
        return self.spec.reference

    def __repr__(self) -> str:
        return f"Exercise {self.spec.id}: {self.spec.title}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        text = f"**Exercise {self.spec.id}: {self.spec.title}.** {self.spec.task}"
        return {"text/markdown": text, "text/plain": text}


def exercise(id: str) -> Exercise:
    """The exercise "chapter.number". ValueError, with the known ones, for another id."""
    if isinstance(id, str) and id.partition(".")[0] in chapters():
        for spec in specs(id.partition(".")[0]):
            if spec.id == id:
                return Exercise(spec)
    hint = "" if isinstance(id, str) else '; an id is a text, such as "6.1"'
    raise ValueError(f"there is no exercise {id!r}{hint}; known: {', '.join(ids())}")


def ids() -> list[str]:
    """All exercises, in the order of the course."""
    return [spec.id for chapter in chapters() for spec in specs(chapter)]


def specs(chapter: str) -> tuple[Spec, ...]:
    """The exercises of one chapter, "6" for notebook 06. torch is imported only where a chapter needs it."""
    return importlib.import_module(f"cbn_lab.exercises.ex{int(chapter):02d}").EXERCISES


def source(answer) -> str:
    """The source of a function or class; other values as they print."""
    if inspect.isroutine(answer) or isinstance(answer, type):
        return textwrap.dedent(inspect.getsource(answer)).strip()
    return repr(answer)


def chapters() -> list[str]:
    """"6" for notebook 06, and so on."""
    names = (re.fullmatch(r"ex(\d\d)", module.name) for module in pkgutil.iter_modules(__path__))
    return [str(int(name[1])) for name in sorted(filter(None, names), key=lambda name: name[1])]
