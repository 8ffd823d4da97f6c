"""The settings of a run as one short line that people can read, send and paste: what differs from `DEFAULT`.

    encode(config)  ->  'cbn1 activation=sigmoid*3,tanh*3 placement=before lr=0.03 norm_options={eps:0.001}'
    decode(text)    ->  the same TrainConfig

`cbn1` is the version: the grammar and `DEFAULT`. Names stand bare where they can, else in double quotes as in JSON;
numbers, True, False and None as in Python; a*3 is a three times. A tuple is written a,b at the top (a tuple of one:
a*1) and (a,b) inside, a list [a,b], a dictionary {key:value}. White space between the parts means nothing.
"""

import json
import math
import re
from dataclasses import fields
from itertools import groupby

from cbn_lab.config import TrainConfig

VERSION = "cbn1"
EXAMPLE = f"{VERSION} activation=relu placement=before lr=0.03"
# The playground's start, that of `start.config`. Strings of this version mean it: another default needs a new version.
DEFAULT = TrainConfig(data="digits", model="convnet", activation="sigmoid", placement="complete", epochs=10,
                      batch_size=128, lr=0.1, momentum=0.9, weight_decay=5e-4, decay_norm=True, seed=0, device="cpu",
                      precision="fp32", log_every=4)
LONGEST_RUN = 10_000  # a*n with a larger n is refused, and a state of more values in all:
MOST_VALUES = 1_000_000  # pasted text must not fill the memory, with runs inside of runs either

_NAMES = [f.name for f in fields(TrainConfig)]
_WORD = r"[A-Za-z_/][A-Za-z0-9_./+~-]*"
_CONSTANTS = {"True": True, "False": False, "None": None}
_TOKEN = re.compile(rf"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")
                              |(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
                              |(?P<word>{_WORD})
                              |(?P<sign>[()\[\]{{}},:*=]))""", re.VERBOSE | re.ASCII)


def encode(config: TrainConfig) -> str:
    """One line that `decode` turns into an equal configuration (up to `MOST_VALUES` names and numbers).

    A data set given as a path is written with the whole path, which another machine may not have. Raises TypeError for
    anything but a TrainConfig.
    """
    if not isinstance(config, TrainConfig):
        raise TypeError(f"a TrainConfig is needed, got {type(config).__name__}")
    changed = [(name, getattr(config, name)) for name in _NAMES if getattr(config, name) != getattr(DEFAULT, name)]
    return " ".join([VERSION, *(f"{name}={_top(value)}" for name, value in changed)])


def decode(text: str) -> TrainConfig:
    """The configuration that `encode` wrote.

    Raises TypeError for anything but text, ValueError for text that is not such a line, that names a setting which does
    not exist or names it twice, or whose settings `TrainConfig` refuses. Names of models, activations and placements
    are looked up when the network is built, not here.
    """
    if not isinstance(text, str):
        raise TypeError(f"the state must be text, got {type(text).__name__}")
    try:
        return TrainConfig(**{name: getattr(DEFAULT, name) for name in _NAMES} | _Reader(text).settings())
    except ValueError as error:
        raise ValueError(f"{error} (a state looks like this: {EXAMPLE})") from None
    except RecursionError:
        raise ValueError(f"the state nests brackets too deeply (a state looks like this: {EXAMPLE})") from None


def _top(value) -> str:
    if isinstance(value, tuple) and value:
        return _items(value) + ("*1" if len(value) == 1 else "")
    return _written(value)


def _written(value) -> str:
    if isinstance(value, tuple):
        return f"({_items(value)})"
    if isinstance(value, list):
        return f"[{_items(value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_written(key)}:{_written(item)}' for key, item in value.items())}}}"
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        bare = re.fullmatch(_WORD, value) and value not in _CONSTANTS
        return str(value) if bare else json.dumps(str(value))
    if isinstance(value, int):
        return repr(int(value))
    return repr(float(value))


def _items(values) -> str:
    """a,b*3; grouped by what is written, since 1, 1.0 and True are equal."""
    parts = []
    for item, run in groupby(map(_written, values)):
        count = len(list(run))
        for start in range(0, count, LONGEST_RUN):
            length = min(LONGEST_RUN, count - start)
            parts.append(item if length == 1 else f"{item}*{length}")
    return ",".join(parts)


class _Reader:
    """Reads one state from left to right; each method takes what it names and leaves the rest."""

    def __init__(self, text: str):
        self.text, self.end, self.size = text.rstrip(), 0, 0
        self._advance()

    def settings(self) -> dict:
        """Name of a setting -> value."""
        version = self._take()
        if version != VERSION:
            if re.fullmatch(r"cbn\d+", version):
                raise ValueError(f"the state is of version {version}, and this copy of CBN Lab reads {VERSION}; "
                                 "get the newest copy, or the one that wrote it")
            raise ValueError(f"a state starts with {VERSION}, got {_short(self.text)!r}")
        found = {}
        while self.token:
            name = self._take()
            if name not in _NAMES:
                raise ValueError(f"there is no setting {name!r}; known: {', '.join(_NAMES)}")
            if name in found:
                raise ValueError(f"{name} is set twice; leave one of the two out")
            self._expect("=", f"after {name}")
            found[name] = self._top()
        return found

    def _top(self):
        values, several = self._items(end=None)
        return tuple(values) if several else values[0]

    def _items(self, end: str | None) -> tuple[list, bool]:
        """(values, whether they were written as several, with a comma or a *) up to the bracket `end`."""
        values, several = [], False
        while not (end and self.token == end):
            before = self.size
            value, count = self._value(), 1
            if self.token == "*":
                several, count = True, self._count()
                self._grow((self.size - before) * (count - 1))
            values += [value] * count
            if self.token != ",":
                break
            several = True
            self._advance()
        return values, several

    def _grow(self, values: int) -> None:
        self.size += values
        if self.size > MOST_VALUES:
            raise ValueError(f"the state holds more than {MOST_VALUES:,} values; shorten its lists")

    def _count(self) -> int:
        self._advance()
        text = self._take()
        if not (re.fullmatch(r"\d{1,9}", text) and 1 <= int(text) <= LONGEST_RUN):
            raise ValueError(f"a * is followed by a whole number from 1 to {LONGEST_RUN}, got {text!r}")
        return int(text)

    def _value(self):
        self._grow(1)
        kind, token = self.kind, self._take()
        if kind == "string":
            return _unquoted(token)
        if kind == "word":
            return _CONSTANTS.get(token, token)
        if kind == "number":
            number = int(token) if re.fullmatch(r"-?\d+", token) else float(token)
            if not math.isfinite(number):
                raise ValueError(f"{token} is too large for a number")
            return number
        if token in ("(", "["):
            close = ")" if token == "(" else "]"
            values, _ = self._items(close)
            self._expect(close, f"to close the {token}")
            return tuple(values) if token == "(" else values
        if token == "{":
            return self._dictionary()
        raise ValueError(f"a value is missing before {token!r} at character {self.end}")

    def _dictionary(self) -> dict:
        found = {}
        while self.token != "}":
            key = self._value()
            if isinstance(key, (tuple, list, dict)):
                raise ValueError("a key in { } must be a name or a number")
            self._expect(":", f"after the key {key!r}")
            if key in found:
                raise ValueError(f"the key {key!r} stands twice in one {{ }}; leave one of the two out")
            found[key] = self._value()
            if self.token != ",":
                break
            self._advance()
        self._expect("}", "to close the {")
        return found

    def _expect(self, sign: str, where: str) -> None:
        if self.token != sign:
            raise ValueError(f"a {sign} is missing {where}, got {self.token or 'the end'!r}")
        self._advance()

    def _take(self) -> str:
        token = self.token
        if not token:
            raise ValueError("the state ends too early" if self.text.strip() else "the state is empty")
        self._advance()
        return token

    def _advance(self) -> None:
        if self.end == len(self.text):
            self.kind, self.token = None, ""
            return
        match = _TOKEN.match(self.text, self.end)
        if match is None:
            raise ValueError(f"{_short(self.text[self.end:].strip())!r} cannot be read; names with other characters "
                             'than letters, digits and _ . / + ~ - go in "double quotes"')
        self.kind, self.token, self.end = match.lastgroup, match[match.lastgroup], match.end()


def _unquoted(token: str) -> str:
    try:
        return json.loads(token)
    except ValueError as error:
        raise ValueError(f"the quoted name {_short(token)} is not written as in JSON ({error})") from None


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."
