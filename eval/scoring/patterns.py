"""Replies that should match a regular expression, in Python's notation; `(?i)` at its start ignores case.

A pattern that backtracks without end holds up the run: it is the task's own. Knows nothing of what it means.
"""

import re
from collections.abc import Sequence

from eval.example import Example
from eval.scoring.kinds import Scorer, ScorerSettings
from eval.scoring.reading import reading


def regex(settings: ScorerSettings) -> Scorer:
    """The one pattern of the task, or any of the example's answers as patterns, spaces around the reply aside.

    Strict: all of the reply, or of its field, matches. Loose: it does somewhere. ValueError when the pattern is broken.
    """
    said = reading(settings)
    whole = [compiled(settings.pattern)] if settings.pattern is not None else None

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        reply = said(text)
        if reply is None:
            return 0.0
        patterns = whole or map(re.compile, example.answers)
        return float(any(one.search(reply) if settings.loose else one.fullmatch(reply.strip()) for one in patterns))

    return score


def holds_patterns(settings: ScorerSettings, example: Example) -> None:
    """ValueError when an answer, which is a pattern here, is broken."""
    for answer in example.answers if settings.pattern is None else ():
        compiled(answer)


def compiled(pattern: str) -> re.Pattern[str]:
    """ValueError with a sentence when it cannot be."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is broken: {error}") from None
