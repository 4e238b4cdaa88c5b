"""Numbers in texts: the text that is a number, the last number in a text, and whether two are the same.

Reads English and JSON notation: `1,234.5`, `-3`, `$1,200`, `12 %`, `3/4`, `1 1/2`, `2e-3`; `3,14` is two numbers. A
percent sign is a unit, as a currency is: `12%` is 12 and never 0.12. Pure; knows nothing of examples.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from eval.example import Example
from eval.scoring.kinds import Scorer, ScorerSettings
from eval.scoring.reading import reading
from eval.scoring.words import exact

PLAIN: Final = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?"
PARTED: Final = r"(?:\d+\s)?\d+/\d+(?![\d/])"
UNIT: Final = "[$€£¥]"
NUMBER: Final = re.compile(
    rf"(?<![\w.])(?P<sign>[-+]?)\s?{UNIT}?\s?(?P<inner>[-+]?)(?P<number>{PARTED}|{PLAIN})\s?(?:%|{UNIT})?"
)
MARKED: Final = re.compile(r"####(.*)")
"""Before the answer that GSM8K's solutions end with (Cobbe et al. 2021)."""


def number(text: str) -> Fraction | None:
    """The number that the text is; None when it is anything else.

    >>> number("$1,234.50"), number("1 1/2"), number("-12%"), number("42 apples"), number("1,23")
    (Fraction(2469, 2), Fraction(3, 2), Fraction(-12, 1), None, None)
    """
    found = NUMBER.fullmatch(_plain(text).strip())
    return _value(found) if found else None


def last_number(text: str) -> Fraction | None:
    """The number after the last `####`, or else the last one in the text; digits inside a word are none.

    >>> last_number("5 boxes of 12, so 60 in all."), last_number("6*7=42\\n#### 42\\n(2 steps)"), last_number("B12")
    (Fraction(60, 1), Fraction(42, 1), None)
    """
    marked = MARKED.findall(text)
    found = [*NUMBER.finditer(_plain(marked[-1] if marked else text))]
    return next(filter(lambda one: one is not None, map(_value, reversed(found))), None)


def numeric(settings: ScorerSettings) -> Scorer:
    """The number of any gold answer, within `tolerance` (a share of the gold number).

    Strict: the reply, or its field, is that number and nothing else. Loose: its last number. A gold answer that holds
    no number, such as the "unknown" of an unanswerable question, is compared as words.
    """
    said, find = reading(settings), last_number if settings.loose else number
    tolerance = Fraction(str(settings.tolerance))  # a tenth as it is written, not as a float has it

    def right(reply: str, gold: str) -> float:
        wanted = gold_number(gold)
        if wanted is None:
            return exact(reply, gold)
        found = find(reply)
        return float(found is not None and abs(found - wanted) <= tolerance * abs(wanted))

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        reply = said(text)
        return 0.0 if reply is None else max((right(reply, gold) for gold in example.answers), default=0.0)

    return score


def gold_number(text: str) -> Fraction | None:
    """The number that a gold answer is, or that stands after its last `####`."""
    return last_number(text) if MARKED.search(text) else number(text)


def holds_number(_: ScorerSettings, example: Example) -> None:
    """ValueError when a gold answer is no number, though the question has an answer."""
    for gold in example.answers:
        if gold_number(gold) is None and not example.meta.get("unanswerable"):
            raise ValueError(f"the answer {gold!r} is no number; write it as one, or after `####`")


def _plain(text: str) -> str:
    """Compatible forms (full width, `½`, thin spaces) and minus signs as ASCII has them."""
    parted = re.sub(r"(?<=\d)([¼-¾⅐-⅞])", r" \1", text)
    return unicodedata.normalize("NFKC", parted).replace("\N{FRACTION SLASH}", "/").replace("\N{MINUS SIGN}", "-")


def _value(found: re.Match[str]) -> Fraction | None:
    """None for a division by zero, and for more digits than Python reads."""
    try:
        *whole, rest = found["number"].replace(",", "").split()
        value = Fraction(rest) + sum(map(Fraction, whole))
    except (ValueError, ZeroDivisionError):
        return None
    return -value if "-" in found["sign"] + found["inner"] else value
