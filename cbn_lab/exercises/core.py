"""What an exercise is made of, and how an answer is judged.

An exercise is a `Spec`. Its `check(student)` raises `Wrong(message)` with the mistake named and returns otherwise;
exceptions of the student's own code simply pass through it. The rest is done here and in `grade`, for every exercise:

- None, a function whose first call returns None, or a NotImplementedError: not attempted;
- a value where a function is expected, an instance where a class is, a call that the signature does not allow, a
  generator: wrong, with a sentence about it. `check` therefore sees an object of the right kind;
- output, warnings, random state, default dtype and grad mode are taken care of while a check runs.

Tools for checks (cbn_lab.exercises.tools; they import no torch):

    call(student, *arguments)     calls with copies of tensors, arrays and lists; Wrong if they were changed in place
    same(a, b)                    bool; numbers, tensors, arrays, nested lists; shapes must agree; never raises
    close(actual, expected, "x = 3", what="the result", mistakes={"message": value that the mistake gives, ...})
                                  returns if they agree. Otherwise Wrong: for None, a wrong type, the message of the
                                  first mistake whose value agrees with `actual`, a wrong shape, and at last a
                                  counter-example: where, index, expected, got
    number(student)               float of an int, float, Fraction, numpy or torch scalar, sympy number; else Wrong
    array(value)                  float64 numpy array of a number, list, array, tensor or sympy matrix; else Wrong

`mistakes` is the convenient way to give each mutant its own message: compute what the mistake would give for the same
input, and choose an input for which the mistakes give different values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


class Wrong(Exception):
    """The answer is wrong; the message names the mistake, for the student to read."""


def require(condition, message: str) -> None:
    """Raise Wrong(message) unless the condition holds."""
    if not condition:
        raise Wrong(message)


@dataclass(frozen=True)
class Mutant:
    """A plausible wrong answer, and a phrase that the message about it contains."""

    answer: object
    says: str


@dataclass(frozen=True, eq=False)
class Spec:
    """One exercise.

    id: "chapter.number"; task, why: Markdown, `why` is shown with the solution; hints: at least two, each stronger.
    stub: function or class whose body raises NotImplementedError, shown verbatim in the notebook; None for a value.
    reference: the solution, of the same kind. check: see the module. mutants: name of the mistake -> Mutant.
    """

    id: str
    title: str
    task: str
    stub: object
    reference: object
    check: Callable[[object], None]
    hints: tuple[str, ...]
    mutants: Mapping[str, Mutant]
    why: str
