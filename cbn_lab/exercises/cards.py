"""What a student sees: cards for outcomes, pages for hints and solutions.

A card says its outcome in words, with a symbol and a colour; it sets its own text and background colours, so that it
can be read on a dark page too. Its plain text is ASCII where the message is, for terminals, and the same in every run.
"""

import html
import re
from dataclasses import dataclass

CORRECT, WRONG, NOT_ATTEMPTED, ERROR = "correct", "wrong", "not attempted", "error in your code"
_LOOK = {CORRECT: ("✓", "#00664b"), WRONG: ("✗", "#9c2f00"), NOT_ATTEMPTED: ("○", "#4a4a4a"), ERROR: ("!", "#7a0d57")}
_BOX = ("background:#ffffff;color:#1a1a1a;border:1px solid #8a8a8a;border-left:8px solid {colour};"
        "padding:0.5em 0.9em;margin:0.3em 0;max-width:56em")
_PRE = ("background:#f2f2f2;color:#1a1a1a;padding:0.3em 0.6em;margin:0.4em 0;white-space:pre-wrap;"
        "overflow-wrap:anywhere")


@dataclass(frozen=True)
class Card:
    """The outcome of a check: `outcome` is one of the four, `message` says why; `code` is the student's own line."""

    id: str
    outcome: str
    message: str
    code: str = ""
    notes: tuple[str, ...] = ()

    @property
    def correct(self) -> bool:
        return self.outcome == CORRECT

    def __repr__(self) -> str:
        code = [f"    {line}" for line in self.code.splitlines()]
        return "\n".join([f"[{self.outcome}] exercise {self.id}: {self.message}", *code, *self.notes])

    def html(self) -> str:
        symbol, colour = _LOOK[self.outcome]
        parts = [f'<div style="{_BOX.format(colour=colour)}"><div style="color:{colour};font-weight:bold">'
                 f"{symbol} Exercise {html.escape(self.id)}: {self.outcome}</div>",
                 f"<div>{_inline(self.message)}</div>"]
        if self.code:
            parts.append(f'<pre style="{_PRE}">{html.escape(self.code)}</pre>')
        parts += [f'<div style="color:#4a4a4a">{_inline(note)}</div>' for note in self.notes]
        return "".join([*parts, "</div>"])

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": repr(self)}


@dataclass(frozen=True)
class Page:
    """Markdown that a notebook renders and a terminal prints."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/markdown": self.text, "text/plain": self.text}


def _inline(text: str) -> str:
    """Escaped, with `code` and line breaks."""
    style = "background:#f2f2f2;color:#1a1a1a"
    escaped = re.sub(r"`([^`\n]+)`", rf'<code style="{style}">\1</code>', html.escape(text))
    return escaped.replace("\n", "<br>")
