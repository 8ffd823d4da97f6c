"""From a student's object to a card: what kind of object it is, what its check says, where its code fails."""

import contextlib
import copy
import functools
import inspect
import linecache
import re
import sys
import sysconfig
import traceback
from pathlib import Path

from cbn_lab.exercises import isolation
from cbn_lab.exercises.cards import CORRECT, ERROR, NOT_ATTEMPTED, WRONG, Card
from cbn_lab.exercises.core import Spec, Wrong, require

_NOT_THE_STUDENTS = (Path(__file__).resolve().parent.parent,
                     *{Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LINES, _CHARACTERS = 12, 1000  # of a message


class _NotAttempted(Exception):
    """The message says what is missing, as the beginning of a sentence."""


def grade(spec: Spec, student) -> Card:
    """Judge `student`; nothing is recorded. KeyboardInterrupt passes through."""
    with isolation.isolated() as printed:
        outcome, message, code = _outcome(spec, student)
    return Card(spec.id, outcome, message, code, _printed(printed.getvalue()))


def _outcome(spec: Spec, student) -> tuple[str, str, str]:
    try:
        _require_kind(spec, student)
        with _first_output(spec, student):
            spec.check(_prepared(spec, student))
    except _NotAttempted as missing:
        return NOT_ATTEMPTED, f"{missing}, and run the cell again. `ex.hint()` shows a hint.", ""
    except Wrong as wrong:
        return WRONG, str(wrong), ""
    except NotImplementedError as error:
        if _deliberate(error):
            name = traceback.extract_tb(error.__traceback__)[-1].name
            return NOT_ATTEMPTED, (f"`{name}` raises NotImplementedError: put your own lines in its place, and run the "
                                   "cell again. `ex.hint()` shows a hint."), ""
        return ERROR, *_told(error)
    except isolation.TooLong as error:
        _, code = _told(error)
        return ERROR, f"stopped after {isolation.SECONDS:g} seconds: is there a loop without end?", code
    except (Exception, SystemExit) as error:
        return ERROR, *_told(error)
    return CORRECT, spec.title, ""


def _require_kind(spec: Spec, student) -> None:
    """Wrong unless `student` is a function, a class or a value, as the exercise asks."""
    if student is None:
        raise _NotAttempted("there is no answer yet: put yours in place of `None`")
    is_class = isinstance(student, type)
    routine = inspect.isroutine(student) or isinstance(student, functools.partial)
    if spec.stub is None:
        require(not (is_class or routine), f"this is {_kind(student)}; expected a value: is it to be called?")
    elif isinstance(spec.stub, type):
        name = spec.stub.__name__
        require(is_class, f"this is {_kind(student)}; expected a class: pass the class itself, `ex.check({name})`, "
                          "not an instance of it and not a function")
        _require_signature(student, spec.stub)
    else:
        name = spec.stub.__name__
        require(not is_class, f"this is {_kind(student)}; expected a function like `{name}`")
        require(callable(student), f"this is {_kind(student)}; expected a function: pass the function itself, "
                                   f"`ex.check({name})`, not what it returns")


def _prepared(spec: Spec, student):
    """What the check gets: a watched function, the class itself, or a copy of a value."""
    if isinstance(student, type):
        return student
    if spec.stub is not None:
        return _watched(student, spec.stub)
    with contextlib.suppress(Exception):  # what cannot be copied is passed as it is
        return copy.deepcopy(student)
    return student


def _watched(function, stub):
    """The function, with its calls looked at: arguments that fit, a first result that is not None, no generator."""
    first, signature = True, _signature(function)

    @functools.wraps(function, updated=())
    def watched(*arguments, **options):
        nonlocal first
        if signature is not None:
            _require_call(signature, stub, arguments, options)
        result = function(*arguments, **options)
        if first and result is None:
            raise _NotAttempted("your function returns None: let it `return` the result")
        first = False
        if not inspect.isgeneratorfunction(stub):
            require(not inspect.isgenerator(result), "your function contains `yield`, so a call gives a generator and "
                                                     "computes nothing; use `return`")
        if inspect.iscoroutine(result):
            result.close()
            raise Wrong("your function is `async`, so a call computes nothing; define it with plain `def`")
        return result

    return watched


def _signature(function) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return None


def _require_call(signature: inspect.Signature, stub, arguments, options) -> None:
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise Wrong(f"your function takes {signature}, but is called as `{stub.__name__}{inspect.signature(stub)}`: "
                    f"{error}") from None


def _require_signature(student: type, stub: type) -> None:
    """The constructor takes what the stub's takes."""
    if "__init__" not in vars(stub):
        return
    wanted = inspect.signature(stub)
    positional = [p.name for p in wanted.parameters.values() if p.default is p.empty]
    named = [p.name for p in wanted.parameters.values() if p.default is not p.empty]
    found = _signature(student)
    try:
        if found is not None:
            found.bind(*positional, **dict.fromkeys(named))
    except TypeError as error:
        raise Wrong(f"the constructor of your class takes {found}; expected what "
                    f"`{stub.__name__}{wanted}` takes: {error}") from None


@contextlib.contextmanager
def _first_output(spec: Spec, student):
    """A module class whose first forward pass returns None is not attempted."""
    torch = sys.modules.get("torch")
    if torch is None or not (isinstance(student, type) and issubclass(student, torch.nn.Module)):
        yield
        return
    seen = []

    def look(module, inputs, output):
        if isinstance(module, student):
            if output is None and not seen:
                raise _NotAttempted("`forward` returns None: let it `return` the result")
            seen.append(True)

    handle = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


def _deliberate(error: NotImplementedError) -> bool:
    """Was it the exercise's own `raise NotImplementedError`? torch raises it too, for a dtype that it cannot do."""
    frames = traceback.extract_tb(error.__traceback__)
    return not str(error) or "raise NotImplementedError" in (frames[-1].line or "")


def _told(error: BaseException) -> tuple[str, str]:
    """(the error in words, the student's line where it happened)."""
    try:
        text = _ADDRESS.sub("", str(error)).strip()
    except Exception:
        text = "(an error whose message cannot be shown)"
    text = _shortened(f"{type(error).__name__}: {text}" if text else f"{type(error).__name__}, without a message")
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if _is_students(frame.f_code.co_filename):
            name = frame.f_code.co_name
            place = f"line {line}" + (f" in `{name}`" if not name.startswith("<") else "")
            source = linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()
            return f"{place}: {text}", source
    return f"the check cannot work with what it was given: {text}", ""


def _is_students(filename: str) -> bool:
    """Is it neither this course's, nor a library's, nor Python's? A cell's file and `<string>` are the student's."""
    paths = (Path(filename), Path(filename).resolve())
    library = any(path.is_relative_to(folder) for path in paths for folder in _NOT_THE_STUDENTS)
    return not (library or filename.startswith("<frozen"))


def _shortened(text: str) -> str:
    lines = text.splitlines()
    short = "\n".join(lines[:_LINES])[:_CHARACTERS]
    return short if short == "\n".join(lines) else short.rstrip() + " ..."


def _printed(text: str) -> tuple[str, ...]:
    lines = [line for line in _ADDRESS.sub("", text).splitlines() if line.strip()]
    if not lines:
        return ()
    first = "; ".join(line[:80] for line in lines[:3])
    return (f"During the check your code printed {len(lines)} line{'s' * (len(lines) > 1)}: {first}"
            + (" ..." if len(lines) > 3 else ""),)


def _kind(value) -> str:
    if isinstance(value, type):
        return f"the class `{value.__name__}`"
    if inspect.isroutine(value):
        return f"the function `{value.__name__}`"
    return f"an object of type `{type(value).__name__}`"
