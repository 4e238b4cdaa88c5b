"""MTOP (Li et al. 2021, arXiv 2008.09335) as function calls: an intent is a function, a slot an argument.

    [IN:CREATE_CALL [SL:CONTACT [IN:GET_CONTACT [SL:TYPE_RELATION brother ] ] ] ]
    create_call(contact=[get_contact(type_relation=["brother"])]), as JSON

An argument is a list, since a slot may stand twice; an intent inside a slot is a call as a value. Nothing is lost but
the order of different slots. Reads a folder with train.json and dev.json; knows nothing of models.
    python -m scripts.mtop ../mtop && python -m scripts.make_sft out/mtop/data/sft.yaml
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml

from eval.scoring.calls import Call
from retrieval.console import Parser
from retrieval.files import FileError, read_text, write_atomically, write_jsonl

OUT: Final = Path(__file__).parents[1] / "out" / "mtop" / "data"
OFFERED: Final = 8
"""Functions on offer to each question, the right ones among them: all 117 are more than most contexts hold."""
MOST_NAMED: Final = 10
"""Rows named that are no calls; the others are counted."""

SETTINGS: Final[Mapping[str, Any]] = {
    "stack": {
        "model": "../../../scripts/pocket/model",
        "strategies": {"direct": {"kind": "direct"}},
    },
    "task": {
        "name": "MTOP, what a person asks an assistant for, as a function call",
        "examples": "test.jsonl",
        "primary": "call",
        "scorers": {"call": {"kind": "tool_call"}, "arguments": {"kind": "arguments"}, "valid": {"kind": "valid_call"}},
    },
    "sft": {
        "stack": "stack.yaml",
        "task": "task.yaml",
        "examples": "train.jsonl",
        "retrievers": ["none"],
        "strategies": ["direct"],
        "target": "calls",
        "out": "sft.jsonl",
    },
}
"""What `scripts.make_sft` and `eval` need besides; written beside the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question and what it asks for."""

    id: str
    question: str
    form: str
    call: Call


def read_rows(path: Path, split: str) -> tuple[list[Row], list[str]]:
    """The rows that are calls, and a sentence for each that is not; FileError for what is no row."""
    rows, inexpressible = [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            question, form = raw["question"].strip(), raw["logical_form"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FileError(f'{path}:{number}: expected {{"question": ..., "logical_form": "[IN:... ]"}}') from None
        try:
            rows.append(Row(id=f"{split}-{number:05}", question=question, form=form, call=call_of(form)))
        except ValueError as error:
            inexpressible.append(f"{path}:{number}: {error}: {form}")
    if not rows:
        raise FileError(f"{path}:1: there is no row in this file")
    return rows, inexpressible


def call_of(form: str) -> Call:
    """The call that a bracketed form says. ValueError where none can say it.

    >>> call_of("[IN:CREATE_CALL [SL:CONTACT Ann Lee ] [SL:CONTACT Bo ] ]")
    {'name': 'create_call', 'arguments': {'contact': ['Ann Lee', 'Bo']}}
    """
    words = form.split()
    call, end = _intent(words, 0)
    if end != len(words):
        raise ValueError("something stands behind the intent")
    return call


def form_of(call: Call) -> str:
    """The bracketed form of a call: the inverse of `call_of`, up to the order of different slots.

    >>> form_of({"name": "snooze_alarm", "arguments": {"date_time": ["for ten minutes"]}})
    '[IN:SNOOZE_ALARM [SL:DATE_TIME for ten minutes ] ]'
    """
    slots = [
        f"[SL:{slot.upper()} {form_of(value) if isinstance(value, dict) else value} ]"
        for slot, values in call["arguments"].items()
        for value in values
    ]
    return " ".join([f"[IN:{call['name'].upper()}", *slots, "]"])


def _intent(words: Sequence[str], at: int) -> tuple[Call, int]:
    name, at = _opening(words, at, "[IN:")
    arguments: dict[str, list[Any]] = {}
    while at < len(words) and words[at] != "]":
        slot, at = _opening(words, at, "[SL:")
        value, at = _value(words, at)
        arguments.setdefault(slot, []).append(value)
    return {"name": name, "arguments": arguments}, _closing(words, at)


def _value(words: Sequence[str], at: int) -> tuple[Any, int]:
    """Words, or one intent; its closing bracket belongs to the slot."""
    if at < len(words) and words[at].startswith("[IN:"):
        call, at = _intent(words, at)
        return call, _closing(words, at)
    start = at
    while at < len(words) and words[at] != "]":
        if words[at].startswith(("[IN:", "[SL:")):
            raise ValueError("a slot holds words beside an intent or a slot")
        at += 1
    if at == start:
        raise ValueError("a slot is empty")
    return " ".join(words[start:at]), _closing(words, at)


def _opening(words: Sequence[str], at: int, bracket: str) -> tuple[str, int]:
    if at >= len(words) or not words[at].startswith(bracket):
        found = words[at] if at < len(words) else "the end"
        raise ValueError(f"{found} stands where {bracket}... is expected")
    return words[at].removeprefix(bracket).lower(), at + 1


def _closing(words: Sequence[str], at: int) -> int:
    if at >= len(words) or words[at] != "]":
        raise ValueError("a bracket is not closed, or more than one intent stands in a slot")
    return at + 1


def calls_in(call: Call) -> Iterator[Call]:
    """The call and every call inside its arguments."""
    yield call
    for values in call["arguments"].values():
        for value in values:
            if isinstance(value, dict):
                yield from calls_in(value)


def tools_of(calls: Iterable[Call]) -> dict[str, dict[str, Any]]:
    """Each function that is called, in OpenAI's format, with the arguments and the nested functions seen in them."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for outer in calls:
        for call in calls_in(outer):
            arguments = seen[call["name"]]
            for slot, values in call["arguments"].items():
                arguments[slot] |= {value["name"] for value in values if isinstance(value, dict)}
    return {name: _tool(name, arguments) for name, arguments in sorted(seen.items())}


def _tool(name: str, arguments: Mapping[str, set[str]]) -> dict[str, Any]:
    properties = {slot: {"type": "array", "items": _items(nested)} for slot, nested in sorted(arguments.items())}
    described = name.replace("_", " ").capitalize()
    schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": described, "parameters": schema}}


def _items(nested: set[str]) -> dict[str, Any]:
    """Words of the question, or a call of one of these functions."""
    if not nested:
        return {"type": "string"}
    parts = {"name": {"enum": sorted(nested)}, "arguments": {"type": "object"}}
    return {"anyOf": [{"type": "string"}, {"type": "object", "properties": parts, "required": sorted(parts)}]}


def example(row: Row, tools: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The row in the test-set format, with the functions on offer: its own and others, drawn by its id."""
    needed = sorted({call["name"] for call in calls_in(row.call)} & tools.keys())
    random = Random(row.id)
    others = random.sample(sorted(tools.keys() - set(needed)), max(0, min(OFFERED, len(tools)) - len(needed)))
    offered = [tools[name] for name in random.sample([*needed, *others], len(needed) + len(others))]
    nested = len(list(calls_in(row.call))) > 1
    return {
        "id": row.id,
        "question": row.question,
        "answers": [json.dumps(row.call, ensure_ascii=False)],
        "meta": {"slice": row.call["name"], "nested": nested, "tools": offered},
    }


def main() -> int:
    parser = Parser(description="Write MTOP as function calls.", epilog="example: python -m scripts.mtop ../mtop")
    parser.add_argument("folder", type=Path, help="the folder with train.json and dev.json")
    folder = parser.parse_args().folder
    try:
        splits = {"train": read_rows(folder / "train.json", "train"), "test": read_rows(folder / "dev.json", "test")}
        tools = tools_of(row.call for row in splits["train"][0])
        for name, (rows, _) in splits.items():
            write_jsonl(OUT / f"{name}.jsonl", (example(row, tools) for row in rows))
        for name, settings in SETTINGS.items():
            write_atomically(OUT / f"{name}.yaml", yaml.safe_dump(dict(settings), sort_keys=False))
    except FileError as error:
        print(error, file=sys.stderr)
        return 1
    for name, (rows, inexpressible) in splits.items():
        nested = sum(len(list(calls_in(row.call))) > 1 for row in rows)
        same = sum(form_of(row.call) == row.form for row in rows)
        print(
            f"{name}: {len(rows):,} rows as calls, {nested:,} of them with calls inside, {len(rows) - same:,} with "
            f"slots in another order than was written; {len(inexpressible):,} rows are no calls"
        )
        print(*(f"  {sentence}\n" for sentence in inexpressible[:MOST_NAMED]), sep="", end="")
    print(f"{len(tools)} functions; wrote {OUT}; next: python -m scripts.make_sft {OUT / 'sft.yaml'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
