"""What many checks need: compare values of any kind, name the mistake, give a counter-example.

torch is not imported here: exercises about the theory do without it.
"""

import inspect
import numbers
from collections.abc import Mapping

import numpy as np

from cbn_lab.exercises.core import Wrong, require

RTOL = 1e-6
ATOL = 1e-12


def array(value, what: str = "the result") -> np.ndarray:
    """A float64 array of a number, list, array, tensor or sympy matrix. Wrong for text, None, functions, complex."""
    require(value is not None, f"{what} is None: is a `return` missing?")
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
        value = (value.to_dense() if str(value.layout) != "torch.strided" else value).resolve_conj()
        value = (value if value.is_complex() else value.double()).numpy()
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        return _real(np.array(value), what)
    if isinstance(value, list | tuple | np.ndarray) or hasattr(value, "tolist"):
        parts = [array(part, what) for part in (value if isinstance(value, list | tuple) else value.tolist())]
        require(len({part.shape for part in parts}) <= 1, f"{what} is a list of parts of different shapes")
        return np.array(parts, dtype=np.float64)
    return np.array(_float(value, what))


def number(value, what: str = "your answer") -> float:
    """The float of an int, float, Fraction, Decimal, numpy or torch scalar, sympy number. Wrong for all others."""
    truth = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    require(not truth, f"{what} is a truth value; expected a number")
    found = array(value, what)
    require(found.size == 1, f"{what} has {found.size} values; expected one number")
    found = float(found.reshape(()))
    require(np.isfinite(found), f"{what} is {found}; expected a finite number")
    return found


def same(a, b, *, rtol: float = RTOL, atol: float = ATOL) -> bool:
    """Equal in shape, and in every entry up to rtol of the entry, 1e-9 of the largest, and atol; nan equals nan."""
    try:
        a, b = array(a), array(b)
    except Wrong:
        return False
    return _fits(a, b) and not _differs(a.reshape(b.shape), b, rtol, atol).any()


def close(actual, expected, where: str = "", *, what: str = "the result", mistakes: Mapping[str, object] | None = None,
          rtol: float = RTOL, atol: float = ATOL) -> None:
    """Return if the two agree as in `same`, else raise Wrong with the mistake or a counter-example.

    where: the input, such as "x = 3" or "a batch of 4". mistakes: message -> the value that the mistake gives for this
    input; the first that agrees with `actual` is the message. One value may stand for a scalar whatever its axes.
    """
    where = f" for {where}" if where else ""
    found, wanted = array(actual, what), array(expected)
    if same(found, wanted, rtol=rtol, atol=atol):
        return
    for message, value in (mistakes or {}).items():
        if same(found, value, rtol=rtol, atol=atol):
            raise Wrong(message)
    require(_fits(found, wanted), f"{what} has the shape {list(found.shape)}{where}; expected {list(wanted.shape)}")
    raise Wrong(_counter_example(found.reshape(wanted.shape), wanted, where, what, rtol, atol))


def call(function, *arguments, **options):
    """function(*arguments, **options) with copies of tensors, arrays and lists; Wrong if it changed one in place.

    Not for arguments through which the check differentiates: copies are leaves of their own.
    """
    given = [_copy(value) for value in arguments]
    result = function(*given, **options)
    for position, (before, after) in enumerate(zip(arguments, given, strict=True)):
        if not _unchanged(before, after):
            raise Wrong(f"your function changes its argument{_name(function, position)} in place, and whoever passed "
                        "it loses the values; make a new one (`x = x - 1` instead of `x -= 1`, `add` instead of "
                        "`add_`)")
    return result


def _real(value: np.ndarray, what: str) -> np.ndarray:
    if np.iscomplexobj(value):
        negligible = np.abs(value.imag).max(initial=0) <= 1e-9 * np.abs(value).max(initial=0)
        require(negligible, f"{what} is complex; expected real numbers")
        value = value.real
    return value.astype(np.float64)


def _float(value, what: str) -> float:
    if isinstance(value, str | bytes):
        raise Wrong(f"{what} is the text {value!r:.40}; expected a number, without quotes")
    symbols = getattr(value, "free_symbols", None)
    if symbols and not callable(symbols):
        raise Wrong(f"{what} still contains {', '.join(sorted(map(str, symbols)))}; expected a number")
    if isinstance(value, type) or (callable(value) and not hasattr(value, "free_symbols")):
        raise Wrong(f"{what} is {_kind(value)}; expected a value: is it to be called?")
    if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
        return float(_real(np.array(complex(value)), what))
    try:
        return float(value)
    except (TypeError, ValueError, ArithmeticError):
        raise Wrong(f"{what} is {_kind(value)}; expected a number") from None


def _kind(value) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"the function {value.__name__}" if inspect.isroutine(value) else f"an object of type {type(value).__name__}"


def _fits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape or (b.ndim == 0 and a.size == 1)


def _differs(a: np.ndarray, b: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    finite = np.abs(b[np.isfinite(b)])
    allowed = rtol * np.abs(b) + 1e-9 * finite.max(initial=0) + atol
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b) > allowed
    odd = ~(np.isfinite(a) & np.isfinite(b))
    return np.where(odd, ~((a == b) | (np.isnan(a) & np.isnan(b))), apart)


def _counter_example(found, wanted, where, what, rtol, atol) -> str:
    apart = _differs(found, wanted, rtol, atol)
    index = tuple(int(i) for i in np.argwhere(apart)[0])
    place = f" at index {list(index)}" if index else ""
    got, right = float(found[index]), float(wanted[index])
    digits = next((d for d in (6, 12) if f"{right:.{d}g}" != f"{got:.{d}g}"), 17)
    text = f"{what} is wrong{where}: expected {right:.{digits}g}, got {got:.{digits}g}{place}"
    if right and np.isfinite(found).all() and np.isfinite(wanted).all():
        with np.errstate(all="ignore"):
            factor = got / right
            proportional = same(found, factor * wanted)
        if proportional and factor and (found.size > 1 or factor in (-1, 0.5, 2)):
            text += f"; it is {factor:.6g} times the right one" + (" everywhere" if found.size > 1 else "")
    return text


def _copy(value):
    if hasattr(value, "detach") and hasattr(value, "clone"):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        return type(value)(_copy(part) for part in value)
    return {key: _copy(part) for key, part in value.items()} if type(value) is dict else value


def _unchanged(before, after) -> bool:
    if hasattr(before, "detach") and hasattr(before, "clone") or isinstance(before, np.ndarray):
        return before.shape == after.shape and same(after, before, rtol=0, atol=0)
    if type(before) in (list, tuple):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    if type(before) is dict:
        return before.keys() == after.keys() and all(_unchanged(before[key], after[key]) for key in before)
    return before is after or bool(before == after)


def _name(function, position: int) -> str:
    try:
        signature = inspect.signature(getattr(function, "forward", function))  # of a module, what it computes
        return f" `{list(signature.parameters)[position]}`"
    except (TypeError, ValueError, IndexError):
        return ""
