"""Arithmetic that a model wrote, worked out: numbers, + - * / // % **, brackets, and abs, min, max, round and sum.

    value("48 / 2 + 48")  ->  72

Nothing is executed: the expression is parsed, and only what is named here is followed. There are no names, no texts and
no attributes, and what would grow beyond a limit is refused before it is worked out. Knows nothing of models.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Final

LENGTH: Final = 500
"""Characters of an expression; Python's own parser can be brought down by very long ones."""
BITS: Final = 2_048
"""Of a whole number, which is about 600 digits."""

Number = int | float


class ArithmeticMistake(ValueError):  # noqa: N818 - a mistake in what was written, told to whoever wrote it
    """An expression that has no value here; the message says why, in a form that a model can read."""


def value(expression: str) -> Number:
    """What the expression is worth; ArithmeticMistake says why it cannot be worked out.

    >>> value("(1 + 2) * 3"), value("1 / 3"), value("max(2, 7) ** 2"), value("48 / 2")
    (9, 0.333333333333, 49, 24)
    """
    if len(expression) > LENGTH:
        raise ArithmeticMistake(f"is longer than {LENGTH} characters")
    try:
        return _plain(_worked_out(ast.parse(expression.strip(), mode="eval").body))
    except ArithmeticMistake:
        raise
    except (SyntaxError, ValueError):
        raise ArithmeticMistake("is no arithmetic") from None
    except (RecursionError, MemoryError):
        raise ArithmeticMistake("has too many brackets") from None
    except ZeroDivisionError:
        raise ArithmeticMistake("divides by zero") from None
    except OverflowError:
        raise ArithmeticMistake("has a value that is too large") from None


def _worked_out(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in SIGNS:
            return SIGNS[type(op)](_worked_out(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            return _bounded(OPERATIONS[type(op)](_worked_out(left), _worked_out(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return _bounded(_called(name, [_worked_out(one) for one in args]))
    raise ArithmeticMistake("has something in it that is no number, operation or one of " + ", ".join(FUNCTIONS))


def _called(name: str, numbers: list[Number]) -> Number:
    try:
        return FUNCTIONS[name](*numbers)
    except TypeError:
        raise ArithmeticMistake(f"gives {name} {len(numbers)} numbers, which it does not take") from None


def _power(base: Number, exponent: Number) -> Number:
    """Looked at before it is worked out: 9**9**9 would take all memory."""
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) * base.bit_length() > BITS:
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise ArithmeticMistake("has a root of a negative number")
    return result


def _rounded(number: Number, digits: Number = 0) -> Number:
    """Digits are few: round(5, -10**9) would work out 10**10**9."""
    if abs(digits) > 15 or digits != int(digits):
        raise ArithmeticMistake("rounds to more than 15 digits")
    return round(number, int(digits)) if digits else round(number)


def _bounded(number: Number) -> Number:
    if (isinstance(number, int) and number.bit_length() > BITS) or not -math.inf < number < math.inf:
        raise OverflowError
    return number


def _plain(number: Number) -> Number:
    """As one would write it: 24 for 24.0, and 0.3 for 0.1 + 0.2."""
    if isinstance(number, float):
        number = float(f"{number:.12g}")
        return int(number) if number.is_integer() and abs(number) < 10**15 else number
    return number


SIGNS: Final[Mapping[type, Callable[[Number], Number]]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
OPERATIONS: Final[Mapping[type, Callable[[Number, Number], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
FUNCTIONS: Final[Mapping[str, Callable[..., Number]]] = {
    "abs": abs,
    "min": lambda *numbers: min(numbers),
    "max": lambda *numbers: max(numbers),
    "round": _rounded,
    "sum": lambda *numbers: math.fsum(numbers) if any(isinstance(n, float) for n in numbers) else sum(numbers),
}
