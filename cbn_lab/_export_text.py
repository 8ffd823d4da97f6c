"""Lines of Python as text, for `cbn_lab.export`: short lists, and long lines cut."""

import re
from itertools import groupby

LINE = 120


def listed(values: list) -> str:
    """[16, 16, 32], or [1, 2] * 3 or [16] * 10 + [32] * 5 where that is shorter."""
    plain = f"[{', '.join(map(str, values))}]"
    for period in range(1, len(values) // 2 + 1):
        if values == values[:period] * (len(values) // period):
            plain = f"[{', '.join(map(str, values[:period]))}] * {len(values) // period}"
            break
    runs = [(value, len(list(run))) for value, run in groupby(values)]
    coded = " + ".join(f"[{value}]" + f" * {count}" * (count > 1) for value, count in runs)
    return min(plain, coded, key=len)


def wrapped(line: str, width: int = LINE, within: tuple[int, ...] = ()) -> list[str]:
    """A line that is too long, cut after a comma or before "for" or "if"; the rest stands under the bracket it is in.

    `within`: where the contents of the brackets begin that an earlier line has opened.
    """
    if len(line) <= width:
        return [line]
    brackets = [within]  # before each character
    for i, character in enumerate(line):
        inside = brackets[-1]
        brackets.append((*inside, i + 1) if character in "([{" else inside[:-1] if character in ")]}" else inside)
    cuts = [m.end() for m in re.finditer(r", | (?=(?:for|if) )", line) if m.end() <= width and brackets[m.end()]]
    cuts = [cut for cut in cuts if not re.search(r" for (?!.* in )", line[:cut])]  # not among the names after "for"
    cuts = [cut for cut in cuts if cut > brackets[cut][-1]]
    if not cuts:
        return [line]
    cut = max(cuts, key=lambda cut: (-len(brackets[cut]), cut))  # the last of the outermost
    return [line[:cut].rstrip(), *wrapped(" " * brackets[cut][-1] + line[cut:], width, brackets[cut])]
