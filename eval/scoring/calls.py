"""Function calls written as text: whether a text is one, and how much of the right one it is.

A call is a JSON object with exactly `name` and `arguments`; several stand in a list, or each in <tool_call> tags, as
models trained in Hermes' format write them. Pure; knows nothing of who called, or of what a function does.
"""

import json
import re
from collections import Counter
from typing import Any

Call = dict[str, Any]


def calls_of(text: str) -> list[Call] | None:
    """The calls that the text is, and nothing else; None when it is anything else.

    >>> calls_of('<tool_call>{"name": "ring", "arguments": {"who": "Ann"}}</tool_call>')
    [{'name': 'ring', 'arguments': {'who': 'Ann'}}]
    >>> calls_of('I will ring. {"name": "ring", "arguments": {}}'), calls_of('{"name": "ring"}')
    (None, None)
    """
    try:
        found = [_parsed(part) for part in re.split(r"</?tool_call>", text) if part.strip()]
    except (ValueError, RecursionError):
        return None
    made = found[0] if len(found) == 1 and isinstance(found[0], list) else found
    return made if made and all(map(_is_call, made)) else None


def names_of(tools: Any) -> set[str]:
    """The names of functions described in OpenAI's format; what is described otherwise has none.

    >>> names_of([{"type": "function", "function": {"name": "ring", "parameters": {}}}, "hammer"])
    {'ring'}
    """
    described = [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return {one["name"] for one in described if isinstance(one, dict) and isinstance(one.get("name"), str)}


def same_calls(said: str, gold: str) -> float:
    """The right functions with exactly the right arguments; the order of calls and of arguments does not count.

    >>> same_calls('{"arguments": {"b": [2], "a": 1}, "name": "f"}', '{"name": "f", "arguments": {"a": 1, "b": [2]}}')
    1.0
    """
    ours, theirs = calls_of(said), calls_of(gold)
    return float(ours is not None and theirs is not None and Counter(map(_text, ours)) == Counter(map(_text, theirs)))


def same_arguments(said: str, gold: str) -> float:
    """F1 over what the calls say: each function's name, and each argument with its whole value.

    >>> same_arguments('{"name": "f", "arguments": {"a": 1, "b": 3}}', '{"name": "f", "arguments": {"a": 1, "b": 2}}')
    0.666...
    """
    ours, theirs = _parts(said), _parts(gold)
    return 2 * (ours & theirs).total() / max(1, ours.total() + theirs.total())


def _parts(text: str) -> Counter[tuple[str, str, str]]:
    """(function, argument, value), and once (function, "", "")."""
    made = calls_of(text) or []
    named = [(call["name"], "", "") for call in made]
    return Counter(
        named + [(call["name"], key, _text(value)) for call in made for key, value in call["arguments"].items()]
    )


def _is_call(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "arguments"}
        and isinstance(value["name"], str)
        and isinstance(value["arguments"], dict)
    )


def _text(value: Any) -> str:
    """The value as JSON in one way of writing: a Counter needs it, and `1` is not `true` then, as it is in Python."""
    return json.dumps(value, sort_keys=True)


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's pairs; ValueError when a key stands twice, since nobody can say which value was meant."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def refuse(constant: str) -> None:
    """NaN and Infinity, which Python's parser takes and JSON has not."""
    raise ValueError(f"{constant} is not JSON")
