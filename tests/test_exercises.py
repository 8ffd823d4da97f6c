"""Every exercise: its stub is not attempted, its solution correct, each plausible mistake named; the notebooks fit."""

import inspect
import json
import re
from pathlib import Path

import pytest

from cbn_lab import exercises
from cbn_lab.exercises import cards, ex06_layer
from cbn_lab.exercises.grading import grade

ROOT = Path(__file__).resolve().parent.parent
SPECS = [spec for chapter in exercises.chapters() for spec in exercises.specs(chapter)]
MUTANTS = [pytest.param(spec, mutant, id=f"{spec.id} {name}")
           for spec in SPECS for name, mutant in spec.mutants.items()]
BY_ID = {"argvalues": SPECS, "ids": lambda spec: spec.id}


@pytest.fixture(autouse=True)
def no_progress_here(tmp_path, monkeypatch):
    monkeypatch.setenv("CBN_LAB_PROGRESS", str(tmp_path / "progress.json"))


@pytest.mark.parametrize("spec", **BY_ID)
def test_stub_is_not_attempted_and_reference_correct(spec):
    assert grade(spec, spec.stub).outcome == cards.NOT_ATTEMPTED
    assert grade(spec, None).outcome == cards.NOT_ATTEMPTED
    assert repr(grade(spec, spec.reference)) == f"[correct] exercise {spec.id}: {spec.title}"


@pytest.mark.parametrize(("spec", "mutant"), MUTANTS)
def test_mistake_is_named(spec, mutant):
    card = grade(spec, mutant.answer)
    assert (card.outcome, mutant.says in card.message) == (cards.WRONG, True), card


@pytest.mark.parametrize("spec", **BY_ID)
def test_spec_keeps_the_rules(spec):
    assert len(spec.hints) >= 2 and len(set(spec.hints)) == len(spec.hints) and all(spec.hints)
    assert 5 <= len(spec.mutants) <= 12
    said = [mutant.says for mutant in spec.mutants.values()]
    assert not [(a, b) for i, a in enumerate(said) for j, b in enumerate(said) if i != j and a in b]
    assert all(len(phrase) >= 8 for phrase in said), "too short to tell a message from another"
    assert spec.title and spec.task and spec.why
    assert isinstance(spec.stub, type) == isinstance(spec.reference, type)


@pytest.mark.parametrize("spec", **BY_ID)
def test_messages_differ_between_mistakes(spec):
    messages = {name: grade(spec, mutant.answer).message for name, mutant in spec.mutants.items()}
    for name, mutant in spec.mutants.items():
        assert [other for other, message in messages.items() if mutant.says in message] == [name]


def test_ids_are_unique_and_match_their_files():
    assert len({spec.id for spec in SPECS}) == len(SPECS) >= 4
    for chapter in exercises.chapters():
        for spec in exercises.specs(chapter):
            assert re.fullmatch(rf"{chapter}\.[1-9]\d*", spec.id)


def notebook(chapter: str) -> Path | None:
    """The source of the chapter's notebook, if it has been written yet."""
    return next((ROOT / "notebooks" / "source").glob(f"{int(chapter):02d}_*.py"), None)


CHAPTERS = [chapter for chapter in exercises.chapters() if notebook(chapter)]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_notebook_calls_its_exercises_and_shows_their_stubs(chapter):
    text = notebook(chapter).read_text(encoding="utf-8")
    called = re.findall(r"\bexercise\(\s*[\"']([^\"']*)[\"']", text)
    assert sorted(called) == sorted(spec.id for spec in exercises.specs(chapter)), "each once, and no others"
    for spec in exercises.specs(chapter):
        if spec.stub is not None:
            assert inspect.getsource(spec.stub).strip() in text, f"the stub of {spec.id} differs from the notebook's"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_solutions_do_not_stand_in_the_notebook(chapter):
    source = notebook(chapter)
    built = source.parent.parent / f"{source.stem}.ipynb"
    texts = [source.read_text(encoding="utf-8")]
    if built.exists():
        texts.append("\n".join(cell_text(cell) for cell in json.loads(built.read_text(encoding="utf-8"))["cells"]))
    for spec in exercises.specs(chapter):
        for line in distinctive(spec):
            assert not any(line in squeezed(text) for text in texts), f"{spec.id}: {line}"


def cell_text(cell: dict) -> str:
    return "".join(cell["source"]) + json.dumps(cell.get("outputs", []))


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text).replace('"', "'")


def distinctive(spec) -> list[str]:
    """The lines of the solution that are neither the stub's nor docstring, comment or commonplace.

    Of a value its whole text, unless it is a number, which may stand in a notebook for other reasons.
    """
    if spec.stub is None:
        text = squeezed(repr(spec.reference))
        return [text] if len(text) >= 20 else []
    given = set(map(squeezed, inspect.getsource(spec.stub).splitlines()))
    code = re.sub(r'""".*?"""', "", exercises.source(spec.reference), flags=re.DOTALL).splitlines()[1:]
    lines = [line for line in (squeezed(line.split("#")[0]) for line in code)
             if line not in given and len(line) >= 10 and not line.startswith("def")]
    return [line for line in lines if len(line) >= 20] or sorted(lines, key=len)[-1:]


@pytest.mark.parametrize("spec", **BY_ID)
def test_solution_shows_the_source_and_the_reason(spec):
    text = repr(exercises.exercise(spec.id).solution())
    assert spec.why in text
    assert all(line in squeezed(text) for line in distinctive(spec))
    assert spec.stub is None or distinctive(spec), "the solution needs a line that can be looked for"


@pytest.mark.parametrize("spec", **BY_ID)
def test_check_leaves_the_random_state_and_prints_nothing(spec, capsys):
    import torch

    state = torch.random.get_rng_state()
    grade(spec, spec.reference)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ex06_layer.VARIANTS)
def test_further_mistakes_in_building_the_layer_are_named(name):
    said, variant = ex06_layer.VARIANTS[name]
    assert grade(ex06_layer.LAYER, ex06_layer.mutant(variant)).message == said


def test_unsolved_falls_back_to_the_reference_and_says_so(capsys):
    ex = exercises.exercise("6.1")
    assert ex.use(ex.spec.stub) is ex.spec.reference
    assert capsys.readouterr().out == "Exercise 6.1: not attempted, so the reference is used from here on.\n"
    assert ex.use(lambda h, eps: h) is ex.spec.reference
    assert "not right yet, so the reference is used" in capsys.readouterr().out

    def mine(h, eps=1e-5):
        return ex.spec.reference(h, eps)

    assert ex.use(mine) is mine
    assert "your own answer is used" in capsys.readouterr().out


@pytest.mark.parametrize("id", ["6.99", "77.1", "x", "", "6", "6.10", 6.1, None])
def test_unknown_id_lists_the_known_ones(id):
    with pytest.raises(ValueError, match=r"there is no exercise .*known: .*6\.1, 6\.2"):
        exercises.exercise(id)


def test_hints_go_from_the_first_to_the_last():
    ex = exercises.exercise("6.1")
    assert ex.spec.hints[0] in repr(ex.hint()) and "`ex.hint(2)` says more" in repr(ex.hint())
    assert ex.spec.hints[-1] in repr(ex.hint(len(ex.spec.hints))) and "says more" not in repr(ex.hint(3))
    for number in (0, -1, 4, "2", None):
        assert "has 3 hints: `ex.hint(1)` to `ex.hint(3)`" in repr(ex.hint(number))
