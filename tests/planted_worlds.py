"""Worlds in which one thing is broken on purpose: a task, an index, and readers who break in one way each.

A reader is a function of the prompt alone, like a model: it finds the sentence about the ship it is asked for, or does
not. Now and then it misreads by bad luck, in one prompt and not in the next.
"""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.eval_stub import Say, write_rows

N = 100
SLIPS = 0.02
"""How often a reader misreads for no reason."""

Reader = Callable[[str, list[tuple[str, str]]], str]
"""(the ship that is asked for, what the passages say as (ship, cargo)) -> the reply."""


def ship(i: int) -> str:
    return f"ship{i:03d}"


def cargo(i: int) -> str:
    return f"grain{i:03d}"


def fact(i: int) -> str:
    return f"The cargo of {ship(i)} is {cargo(i)}."


def example(i: int) -> dict[str, Any]:
    return {
        "id": ship(i),
        "question": f"What is the cargo of {ship(i)}?",
        "answers": [cargo(i)],
        "evidence": [f"d{i}"],
        "meta": {"slice": ["odd", "even"][i % 2 == 0]},
    }


def nowhere(i: int) -> dict[str, Any]:
    """A question about a ship that no document has."""
    name = f"wreck{i:03d}"
    return {
        "id": name,
        "question": f"What is the cargo of {name}?",
        "answers": ["unknown"],
        "evidence": [],
        "meta": {"slice": "nowhere", "unanswerable": True},
    }


def documents() -> list[dict[str, str]]:
    return [{"_id": f"d{i}", "title": f"Log of {ship(i)}", "text": fact(i)} for i in range(N)]


def said(answer: str) -> str:
    return json.dumps({"answer": answer})


def careful(asked: str, passages: list[tuple[str, str]]) -> str:
    """Reads what is there, and says so when it is not."""
    return said(dict(passages).get(asked, "unknown"))


def chatty(asked: str, passages: list[tuple[str, str]]) -> str:
    """Right, in the wrong form."""
    return f"Sure! Here you are: {careful(asked, passages)}"


def blind(asked: str, passages: list[tuple[str, str]]) -> str:
    """Never reads."""
    return said("sand" if passages else "unknown")


def hasty(asked: str, passages: list[tuple[str, str]]) -> str:
    """Reads the passage next to the question, whatever it is about."""
    return said(passages[-1][1] if passages else "unknown")


def timid(asked: str, passages: list[tuple[str, str]]) -> str:
    """Says that it is not there as soon as there is more than one passage."""
    return careful(asked, passages) if len(passages) == 1 else said("unknown")


def bold(asked: str, passages: list[tuple[str, str]]) -> str:
    """Never says that it is not there: then any passage will do."""
    return careful(asked, passages) if asked in dict(passages) else hasty(asked, passages)


def learned(asked: str, passages: list[tuple[str, str]]) -> str:
    """Knows every cargo by heart."""
    return said(asked.replace("ship", "grain"))


def speaking(reader: Reader, *, slips: float = SLIPS) -> Say:
    """A model that reads like this."""

    def say(model: str, messages: list[dict[str, str]]) -> str:
        prompt = messages[-1]["content"]
        asked = re.findall(r"Question: What is the cargo of (\w+)\?", prompt)[-1]
        passages = re.findall(r"The cargo of (\w+) is (\w+)\.", prompt)
        slipped = passages and random.Random(prompt).random() < slips
        return said("a slip") if slipped else reader(asked, passages)

    return say


def write_world(folder: Path, url: str, index: Path, retriever: str, rows: list[dict[str, Any]]) -> Path:
    """The grid, with every arm; `retriever` is `lexical`, which finds it, or `random`, which is broken."""
    folder.mkdir(parents=True)
    write_rows(folder / "corpus.jsonl", documents())
    write_rows(folder / "test.jsonl", rows)
    task = {
        "name": "cargoes",
        "examples": "test.jsonl",
        "documents": "corpus.jsonl",
        "primary": "exact",
        "scorers": {"exact": {"kind": "exact", "json": "answer"}},
    }
    stack = {
        "model": "stub",
        "url": url,
        "adapters": {"tuned": "adapters/tuned"},
        "retrievers": {name: {"kind": name, "index": str(index), "k": 3} for name in ("lexical", "random")},
        "strategies": {"direct": {"kind": "direct"}},
    }
    grid = {
        "stack": "stack.yaml",
        "task": "task.yaml",
        "adapters": ["base"],
        "retrievers": ["none", retriever, "gold", f"gold-{retriever}"],
        "strategies": ["direct"],
        "baseline": "base:none:direct",
    }
    for name, content in (("task", task), ("stack", stack), ("grid", grid)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "grid.yaml"
