"""How figures are said, the same in the verdict, the terminal and the report. Knows nothing of what they measure."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from retrieval.stats import Direction, Estimate

COLOURS: Final[Mapping[Direction, str]] = {1: "green", 0: "", -1: "red"}
"""Of a line in a terminal: none for what may be chance."""


def percent(share: float) -> str:
    """A score as people read it.

    >>> percent(0.8625)
    '86.2%'
    """
    return f"{100 * share:.1f}%"


def points(change: float) -> str:
    """A difference of two scores, with its sign.

    >>> points(0.125), points(-0.004)
    ('+12.5', '−0.4')
    """
    return f"{100 * change:+.1f}".replace("-", "−")


def span(estimate: Estimate) -> str:
    """The interval of a difference.

    >>> span(Estimate(0.1, -0.02, 0.21))
    '−2.0 to +21.0'
    """
    return f"{points(estimate.low)} to {points(estimate.high)}"


def within(low: float, high: float) -> str:
    """The interval of a share.

    >>> within(0.482, 0.614)
    '48.2 to 61.4'
    """
    return f"{100 * low:.1f} to {100 * high:.1f}"


def chance(p: float) -> str:
    """A p-value with the digits it deserves.

    >>> chance(0.00004), chance(0.0321), chance(0.4)
    ('< 0.001', '0.032', '0.40')
    """
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_value(p: float) -> str:
    """The same in a sentence.

    >>> p_value(0.00004), p_value(0.0321)
    ('p < 0.001', 'p = 0.032')
    """
    return f"p {chance(p)}" if p < 0.001 else f"p = {chance(p)}"


def counted(times: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "answer"), counted(2000, "answer")
    ('1 answer', '2,000 answers')
    """
    return f"{times:,} {noun}{'' if times == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them.

    >>> listed(["prompt", "retrieval", "adapter"])
    'prompt, retrieval and adapter'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def number(value: float) -> str:
    """A count or a cost, short.

    >>> number(1234.4), number(0.25), number(math.inf)
    ('1,234', '0.25', '∞')
    """
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"


def lasting(seconds: float) -> str:
    """A time as one plans with it.

    >>> lasting(42.3), lasting(750), lasting(9000)
    ('42 seconds', '12 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
