r"""The result of an answer to a GSM8K question (Cobbe et al. 2021, arXiv 2110.14168), as models really write it.

Currency, percent signs, bold type and LaTeX around a number are no part of it. What could be read in two ways, such
as ``10-15``, is not read at all: an answer must not be right by accident.
"""

from __future__ import annotations

import re
from decimal import Decimal

RESULT_CHARACTERS = 200
"""A result is written within so many characters of its mark."""
_THIN = "\u00a0\u2007\u2009\u202f"
_MINUS = "-\u2212"
_DASH = rf"[{_MINUS}\u2013\u2014~]"
_MONEY = r"(?:US)?[$\u20ac\u00a3\u00a5]?"
_DIGITS = r"(?:\d+(?:,\d+)*(?:\.\d+)?|\.\d+)"
_FRACTION = r"(?:\d+ )?\d+/\d+(?![\d/.])"
_THIN_GROUPS = rf"\d{{1,3}}(?:[{_THIN}]\d{{3}})+(?!\d)(?:\.\d+)?"
_GROUPS = r"\d{1,3}(?: \d{3})+(?![\d/])(?:\.\d+)?"

_MARK = re.compile(r"####|\\boxed\s*(?=\{)")
# "1 234" is one number behind a mark, where nothing else may stand; in running text it may well be two.
_RESULT = re.compile(
    rf"[\s*_`:(\[{{]*(?P<sign>[{_MINUS}+]?){_MONEY}\s?(?P<inner>[{_MINUS}]?)"
    rf"(?P<number>{_FRACTION}|{_THIN_GROUPS}|{_GROUPS}|{_DIGITS})"
)
# A range, a sum, a second number, a time of day.
_GOES_ON = re.compile(
    rf"[*_%]*\s*(?:(?:{_DASH}|[+*/^\u00d7\u00f7x,;]|(?:to|or|and)\b)\s*[*_]*{_MONEY}\.?\d|[.:,]?\d)", re.IGNORECASE
)
_NUMBER = re.compile(
    rf"(?P<range>{_MONEY}\d[\d,.]*%?(?:{_DASH}{_MONEY}\d[\d,.]*)+)"
    rf"|(?P<sign>(?:(?<![\w)\]}}])[{_MINUS}+])?){_MONEY}(?P<inner>(?:(?<=[$\u20ac\u00a3\u00a5])[{_MINUS}])?)"
    rf"(?P<number>{_FRACTION}|{_THIN_GROUPS}|{_DIGITS})"
)
_NEXT_TURN = re.compile(
    r"<\|[\w ]+\|>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]"
    r"|^[ \t]*(?:#+ *|\*\*)?(?:question|q|human|user|problem|instruction)(?: ?\d+)?(?:\*\*)?:",
    re.IGNORECASE | re.MULTILINE,
)
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}"), r"\1/\2"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;: ]"), "\u2009"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|left|right|!)"), ""),
    (re.compile(r"\\([$%()\[\]])"), r"\1"),
)


def final_number(text: str, *, marked: bool = True) -> Decimal | None:
    r"""The result of an answer.

    Args:
        text: the answer; what follows the beginning of another turn or question, which a model made up, is not read.
        marked: take the number after the first ``####``, as the data write it, or in the first ``\boxed{}``; else the
            last number of the text.

    Returns:
        The number, a fraction as its quotient and a percentage without its sign; None where there is none, or where
        it is a range, a sum without its result or two numbers.

    Example:
        >>> final_number("She has 3 + 1,200 = 1,203 eggs. #### 1,203")
        Decimal('1203')
    """
    text = _first_turn(text)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    if marked:
        return _marked_number(text)
    numbers = list(_NUMBER.finditer(text))
    return None if not numbers or numbers[-1]["range"] else _value(numbers[-1])


def _first_turn(text: str) -> str:
    for found in _NEXT_TURN.finditer(text):
        # An answer may begin with its own turn's marker, or by repeating the question.
        if re.search(r"\w", text[: found.start()]):
            return text[: found.start()]
    return text


def _marked_number(text: str) -> Decimal | None:
    for mark in _MARK.finditer(text):
        rest = text[mark.end() : mark.end() + RESULT_CHARACTERS].lstrip()
        written = rest.partition("\n")[0] if mark[0] == "####" else _braced(rest)
        # "#### Step 1" and the like are headings, and a box has a mark of its own.
        if "\\boxed" in written:
            continue
        found = _RESULT.match(written)
        if "=" in written and (found is None or _GOES_ON.match(written, found.end())):
            written = written.rpartition("=")[2]
            found = _RESULT.match(written)
        if found:
            return None if _GOES_ON.match(written, found.end()) else _value(found)
    return None


def _braced(text: str) -> str:
    """What stands between a text's first brace and the one that closes it."""
    depth = 0
    for i, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[1:i]
    return text[1:]


def _value(found: re.Match[str]) -> Decimal | None:
    whole, _, part = found["number"].rpartition(" ") if "/" in found["number"] else ("", "", found["number"])
    top, _, bottom = re.sub(rf"[{_THIN} ,]", "", part).partition("/")
    divisor = Decimal(bottom or 1)
    if not divisor:
        return None
    value = Decimal(whole or 0) + Decimal(top) / divisor
    return -value if found["sign"] in tuple(_MINUS) or found["inner"] else value
