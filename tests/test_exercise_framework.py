"""How answers of any kind are judged, compared, shown and recorded, with an exercise made for this file."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cbn_lab import exercises, progress
from cbn_lab.exercises import isolation
from cbn_lab.exercises.cards import CORRECT, ERROR, NOT_ATTEMPTED, WRONG, Card
from cbn_lab.exercises.core import Spec, Wrong
from cbn_lab.exercises.grading import grade
from cbn_lab.exercises.tools import array, call, close, number, same


def square(x, power=2):
    raise NotImplementedError


def _check_square(student):
    for x in (3.0, 1.0, -2.0):
        close(call(student, torch.tensor([x, 2 * x]).double()), [x**2, 4 * x**2], f"x = {x:g}")


class Layer(nn.Module):
    def __init__(self, size, k=2.0):
        super().__init__()

    def forward(self, x):
        raise NotImplementedError


class Doubled(Layer):
    def forward(self, x):
        return 2 * x


def _check_layer(student):
    close(student(3)(torch.ones(2)), [2.0, 2.0])


def spec(stub, reference, check):
    return Spec("9.1", "made up", "Do it.", stub, reference, check, ("one", "two"), {}, "because")


SQUARE = spec(square, lambda x: x**2, _check_square)
LAYER = spec(Layer, Doubled, _check_layer)
SEVEN = spec(None, 7.0, lambda student: close(number(student), 7.0, what="your answer"))


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


def raising(error):
    def student(x):
        raise error

    return student


def generator(x):
    yield x


async def coroutine(x):
    return x


def recursive(x):
    return recursive(x)


def dtype_of_torch(x):
    return torch.relu(torch.tensor([1j]))  # torch raises a NotImplementedError of its own


WITHOUT_SOURCE: dict = {}
exec("def square(x, power=2):\n    raise NotImplementedError", WITHOUT_SOURCE)  # as typed into a plain shell


def once_none(x):
    return x**2 if x[0] == 3 else None


@pytest.mark.parametrize(
    ("answer", "outcome", "said"),
    [
        (None, NOT_ATTEMPTED, "there is no answer yet"),
        (square, NOT_ATTEMPTED, "`square` raises NotImplementedError"),
        (WITHOUT_SOURCE["square"], NOT_ATTEMPTED, "`square` raises NotImplementedError"),
        (lambda x: None, NOT_ATTEMPTED, "returns None: let it `return`"),
        (lambda x: x * x, CORRECT, "made up"),
        (torch.square, CORRECT, ""),
        (functools.partial(lambda p, x: x**p, 2), CORRECT, ""),
        (lambda x: np.asarray(x) ** 2, CORRECT, ""),
        (lambda x: [float(v) ** 2 for v in x], CORRECT, ""),
        (lambda x, *rest, **options: x**2, CORRECT, ""),
        (once_none, WRONG, "is None: is a `return` missing?"),
        (9, WRONG, "type `int`; expected a function: pass the function itself, `ex.check(square)`"),
        ("x**2", WRONG, "type `str`; expected a function"),
        (int, WRONG, "the class `int`; expected a function like `square`"),
        (lambda: 1, WRONG, "your function takes (), but is called as `square(x, power=2)`"),
        (lambda x, y: 1, WRONG, "missing a required argument: 'y'"),
        (generator, WRONG, "contains `yield`"),
        (coroutine, WRONG, "is `async`"),
        (lambda x: x.pow_(2), WRONG, "changes its argument `x` in place"),
        (lambda x: "nine", WRONG, "the text 'nine'"),
        (lambda x: x.sum() ** 2, WRONG, "has the shape [] for x = 3; expected [2]"),
        (lambda x: x**2 * 1.001, WRONG, "it is 1.001 times the right one everywhere"),
        (recursive, ERROR, "in `recursive`: RecursionError"),
        (raising(ValueError()), ERROR, "ValueError, without a message"),
        (raising(SystemExit(2)), ERROR, "SystemExit: 2"),
        (raising(Unprintable()), ERROR, "cannot be shown"),
        (raising(ValueError("line\n" * 100)), ERROR, "line ..."),
        (dtype_of_torch, ERROR, "in `dtype_of_torch`: NotImplementedError: "),
        (lambda x: eval("1 +"), ERROR, "SyntaxError"),
        (lambda x: object.missing, ERROR, "AttributeError"),
    ],
)
def test_outcomes_of_a_function(answer, outcome, said):
    card = grade(SQUARE, answer)
    assert (card.outcome, said in card.message) == (outcome, True), card
    assert len(repr(card)) < 2000
    assert "Traceback" not in card.html()


@pytest.mark.parametrize(
    ("answer", "outcome", "said"),
    [
        (Layer, NOT_ATTEMPTED, "`forward` raises NotImplementedError"),
        (type("Empty", (Layer,), {"forward": lambda self, x: None}), NOT_ATTEMPTED, "`forward` returns None"),
        (Doubled, CORRECT, "made up"),
        (Doubled(1), WRONG, "type `Doubled`; expected a class: pass the class itself, `ex.check(Layer)`"),
        (lambda x: 2 * x, WRONG, "the function `<lambda>`; expected a class"),
        (nn.Identity, WRONG, "the result is wrong"),
        (nn.ReLU6, WRONG, "the constructor of your class takes (inplace: bool = False)"),
        (type("NoInit", (nn.Module,), {}), ERROR, "TypeError: NoInit.__init__() takes 1 positional argument"),
    ],
)
def test_outcomes_of_a_class(answer, outcome, said):
    card = grade(LAYER, answer)
    assert (card.outcome, said in card.message) == (outcome, True), card


@pytest.mark.parametrize("value", [7, 7.0, Fraction(7), Decimal(7), np.float32(7), np.array(7), np.array([7.0]),
                                   torch.tensor(7.0, requires_grad=True), torch.tensor([7], dtype=torch.bfloat16),
                                   sympy.Integer(7), sympy.sqrt(49), 7 + 0j])
def test_numbers_of_every_kind_are_accepted(value):
    assert grade(SEVEN, value).outcome == CORRECT


@pytest.mark.parametrize(
    ("value", "said"),
    [("7", "the text '7'; expected a number, without quotes"), (True, "truth value"), (torch.tensor(True), "truth"),
     (float("nan"), "nan; expected a finite"), ([1, 2], "2 values"), (7 + 1j, "complex"), (sympy.I, "ImaginaryUnit"),
     (sympy.Symbol("x") * 2, "still contains x"), ({}, "type dict"), (float, "the class `float`"),
     (lambda: 7, "is it to be called?"), (10**400, "type int"), (-7, "expected 7, got -7; it is -1 times"),
     (object(), "type object"), ([[1], [1, 2]], "different shapes")],
)
def test_what_is_no_number_is_named(value, said):
    card = grade(SEVEN, value)
    assert (card.outcome, said in card.message) == (WRONG, True), card


def test_error_card_shows_the_students_line_and_none_of_ours():
    card = grade(SQUARE, lambda x: x / "two")
    assert card.message.startswith("line ") and "TypeError" in card.message
    assert '"two"' in card.code
    assert "/cbn_lab/" not in repr(card) and ".py" not in repr(card)


def test_error_in_the_check_itself_says_that_it_is_not_the_students_line():
    broken = spec(None, 1, len)
    card = grade(broken, 3)
    assert card.outcome == ERROR and "the check cannot work with what it was given: TypeError" in card.message


def test_keyboard_interrupt_passes_through():
    with pytest.raises(KeyboardInterrupt):
        grade(SQUARE, raising(KeyboardInterrupt()))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_endless_loop_is_stopped_even_where_it_catches_exceptions(monkeypatch):
    monkeypatch.setattr(isolation, "SECONDS", 120.5)
    given = []

    def endless(x):
        given.append(signal.setitimer(signal.ITIMER_REAL, 0.2)[0])  # sooner, and not before it has come this far
        while True:
            try:
                sum(range(100))
            except Exception:
                pass

    card = grade(SQUARE, endless)
    assert card.outcome == ERROR and "stopped after 120.5 seconds" in card.message and card.code
    assert 0 < given[0] <= 120.5


def test_check_leaves_no_traces(capsys):
    def untidy(x):
        print("working", x.device)
        print("error", file=sys.stderr)
        warnings.warn("beware", stacklevel=1)
        random.random(), np.random.random(), torch.rand(1)
        torch.set_default_dtype(torch.float16)
        torch.set_grad_enabled(False)
        np.seterr(all="raise")
        return x**2

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
    card = grade(SQUARE, untidy)
    assert card.correct and "your code printed 6 lines: working cpu; error; working cpu ..." in card.notes[0]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert np.geterr()["over"] == "warn"
    assert capsys.readouterr() == ("", "")


def test_grad_mode_is_on_in_a_check_and_restored():
    def student(x):
        x = x.clone().requires_grad_()
        (x**3).sum().backward()
        return x.grad / 3

    with torch.no_grad():
        assert grade(SQUARE, student).correct
        assert not torch.is_grad_enabled()


def test_check_of_a_class_leaves_no_hook_on_modules():
    grade(LAYER, Doubled)
    assert not torch.nn.modules.module._global_forward_hooks


def test_value_is_judged_as_a_copy():
    greedy = spec(None, [1], lambda student: student.clear())
    mine = [1, 2]
    assert grade(greedy, mine).correct and mine == [1, 2]


def test_card_is_readable_everywhere_and_escaped():
    card = Card("9.1", WRONG, "`a < b` is <script>\nnext", code="x = '<b>'", notes=("It printed <i>.",))
    shown = card._repr_mimebundle_()
    assert shown["text/plain"].isascii() and shown["text/plain"].startswith("[wrong] exercise 9.1: `a < b`")
    html = shown["text/html"]
    assert "<script" not in html and "<b>" not in html and "<i>" not in html
    assert "✗ Exercise 9.1: wrong" in html and ">a &lt; b</code>" in html and "<br>next" in html
    assert html.count("color:#1a1a1a") >= 3 and "background:#ffffff" in html, "its own colours, on dark pages too"


def test_addresses_do_not_make_two_runs_differ():
    assert " at 0x" not in repr(grade(SQUARE, raising(ValueError(f"bad {object()!r}"))))


# The tools -----------------------------------------------------------------------------------------------------------

finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=6))
def test_every_container_of_the_same_numbers_is_the_same(values):
    tensor = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    forms = [values, tuple(values), np.array(values), tensor, [sympy.Float(value) for value in values]]
    assert all(same(a, b) for a in forms for b in forms)
    close(tensor, values)


@given(st.lists(finite, min_size=1, max_size=5), st.data())
def test_a_changed_entry_is_found_and_shown(values, data):
    index = data.draw(st.integers(0, len(values) - 1))
    changed = list(values)
    changed[index] += 1e-3 * max(1.0, *map(abs, values))
    assert not same(changed, values)
    with pytest.raises(Wrong, match=rf"the slope is wrong for x = 1: expected .*, got .* at index \[{index}\]"):
        close(changed, values, "x = 1", what="the slope")


def test_close_names_the_first_mistake_that_agrees():
    mistakes = {"the root is missing": 4.0, "twice": 6.0, "a vector": [6.0, 6.0]}
    for wrong, said in ((4.0, "the root is missing"), (6.0, "twice"), ([6.0, 6.0], "a vector"), (5.0, "expected 2")):
        with pytest.raises(Wrong, match=said):
            close(wrong, 2.0, mistakes=mistakes)
    close(2.0, 2.0, mistakes={"equal by chance": 2.0})


def test_nan_and_infinity_are_compared():
    assert same([float("inf"), float("nan")], [float("inf"), float("nan")])
    assert not same([float("inf")], [float("-inf")]) and not same([1.0], [float("nan")])
    with pytest.raises(Wrong, match=r"expected 1, got nan at index \[1\]"):
        close([1.0, float("nan")], [1.0, 1.0])


def test_small_values_are_not_lost_in_the_tolerance():
    assert not same([1e-6, 2e-6], [1e-6, 2.1e-6]) and same([1e6, 1e-5], [1e6, 1.0001e-5])
    assert not same([1.0, 1e-5], [1.0, 1.1e-5])


def test_call_sees_changes_in_nested_arguments_and_keeps_the_originals():
    given_list, weights = [torch.ones(2)], {"w": np.ones(2)}
    with pytest.raises(Wrong, match="changes its argument `parts` in place"):
        call(lambda parts, w: parts[0].add_(1), given_list, weights)
    with pytest.raises(Wrong, match="changes its argument `w` in place"):
        call(lambda parts, w: w.pop("w"), given_list, weights)
    assert float(given_list[0].sum()) == 2 and "w" in weights
    assert call(lambda parts, w, *, k: k, given_list, weights, k=3) == 3


def test_array_takes_sparse_and_symbolic_matrices():
    assert array(torch.eye(2).to_sparse()).tolist() == array(sympy.eye(2)).tolist() == [[1, 0], [0, 1]]


# Progress ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("CBN_LAB_PROGRESS", str(tmp_path / "mine.json"))
    return tmp_path / "mine.json"


def test_attempts_are_counted_and_a_solved_exercise_stays_solved(file):
    ex = exercises.Exercise(SQUARE)
    ex.check(lambda x: x)
    assert progress.load() == {"9.1": {"last": "wrong", "attempts": 1, "solved": None}}
    ex.check(torch.square)
    ex.check(lambda x: x / "a")
    entry = progress.load()["9.1"]
    assert (entry["last"], entry["attempts"], bool(entry["solved"])) == ("error in your code", 3, True)
    assert [path.name for path in file.parent.iterdir()] == ["mine.json"], "a scratch file was left behind"


def test_running_an_unsolved_notebook_writes_nothing(file):
    ex = exercises.Exercise(SQUARE)
    ex.check(square), ex.check(None), ex.check(), ex.hint(), ex.solution(), ex.use(square), ex.use(torch.square)
    assert not file.exists()


@pytest.mark.parametrize("content", ["{broken", "[]", '{"format": "other"}', "\x00", "", '{"a": 1}',
                                     json.dumps({"format": progress._FORMAT, "exercises": {"9.1": 3}}),
                                     json.dumps({"format": progress._FORMAT, "exercises": []}),
                                     json.dumps({"format": progress._FORMAT, "exercises": {
                                         "9.1": {"last": "wrong", "attempts": "two", "solved": None}}})])
def test_damaged_or_foreign_file_is_kept_and_named(file, content):
    file.write_text(content, encoding="utf-8")
    card = exercises.Exercise(SQUARE).check(torch.square)
    assert card.correct
    assert "Your progress was not saved" in card.notes[-1] and "set CBN_LAB_PROGRESS to another file" in card.notes[-1]
    assert file.read_text(encoding="utf-8") == content


def test_failed_write_leaves_the_old_file_and_nothing_else(file, monkeypatch):
    exercises.Exercise(SQUARE).check(lambda x: x)
    before = file.read_text(encoding="utf-8")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress.os, "replace", full)
    assert "cannot be written (No space left on device)" in exercises.Exercise(SQUARE).check(torch.square).notes[-1]
    assert file.read_text(encoding="utf-8") == before and [path.name for path in file.parent.iterdir()] == ["mine.json"]


def test_missing_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CBN_LAB_PROGRESS", str(tmp_path / "no" / "p.json"))
    assert "cannot be written" in exercises.Exercise(SQUARE).check(torch.square).notes[-1]


def test_default_is_a_file_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("CBN_LAB_PROGRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    exercises.Exercise(SQUARE).check(torch.square)
    assert os.listdir() == ["cbn_lab_progress.json"]


def test_command_lists_the_exercises_and_the_state(file):
    from cbn_lab.exercises.__main__ import main

    exercises.exercise("6.1").check(exercises.exercise("6.1").spec.reference)
    run = subprocess.run([sys.executable, "-m", "cbn_lab.exercises"], capture_output=True, text=True, check=True)
    assert "solved on" in next(line for line in run.stdout.splitlines() if line.startswith("6.1"))
    assert f"solved: 1 of {len(exercises.ids())}" in run.stdout
    file.write_text("{", encoding="utf-8")
    assert main() == 1


def test_finding_an_exercise_of_notebook_03_style_needs_no_torch():
    code = "import sys, cbn_lab.exercises, cbn_lab.exercises.tools; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
