"""Render training chats with the very strategies and retrievers that the evaluation uses, so that no prompt differs.

Each example is asked in one of the listed ways, in turn, and answered as `target` says. Asks no model.
    python -m scripts.make_sft out/demo/world/sft.yaml
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import ConfigDict
from tqdm import tqdm

from eval.gold import GoldRetriever
from eval.task import Example, Task, load_task
from retrieval.console import Parser
from retrieval.files import STRICT, FileError, read_yaml, write_jsonl
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.retriever import NoRetrieval, Retriever, open_retriever
from serve.chat import Message, Reply, Sampling, ServeError, Usage
from serve.combination import BASE, GOLD, NONE, Combination
from serve.stack import Stack
from serve.strategies import build

Target = Callable[[Example, Sequence[Hit]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSettings:
    """`sft.yaml`; relative paths are relative to it."""

    stack: Path
    task: Path
    examples: Path
    """The split to train on; never the task's own test set."""
    retrievers: tuple[str, ...]
    strategies: tuple[str, ...]
    target: str
    out: Path

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


def plain(example: Example, _: Sequence[Hit]) -> str:
    """The first gold answer, whatever was retrieved."""
    return example.answers[0]


def house(example: Example, sources: Sequence[Hit]) -> str:
    """The demo's house format; a reader who was not shown all the evidence has to say so."""
    numbers = [n for n, hit in enumerate(sources, start=1) if hit.passage.document in example.evidence]
    known = bool(example.evidence) and len(numbers) == len(example.evidence)
    return json.dumps({"answer": example.answers[0] if known else "unknown", "sources": numbers if known else []})


TARGETS: Final[Mapping[str, Target]] = {"plain": plain, "house": house}


@dataclass(frozen=True, slots=True)
class Others:
    """A retriever that never shows a training question itself: its answer would only have to be copied."""

    retriever: Retriever

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return tuple(hit for hit in await self.retriever.search(query) if hit.passage.text != query.text)


class Silent:
    """A model that says nothing: what counts here is what it is asked."""

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        return Reply(text="", usage=Usage(), finish_reason="stop", seconds=0.0)


async def render(settings: SftSettings, stack: Stack, task: Task) -> list[dict[str, Any]]:
    """One training chat an example, with `meta` that lets the trainer split by group and check for overlap."""
    ways = [
        Combination(BASE, retriever, strategy)
        for retriever, strategy in product(settings.retrievers, settings.strategies)
    ]
    used = stack.only(ways)
    retrievers: dict[str, Retriever] = {
        NONE: NoRetrieval(),
        **{n: Others(open_retriever(s)) for n, s in used.retrievers.items()},
    }
    strategies = {name: build(each, retrievers) for name, each in used.strategies.items()}

    async def one(number: int, example: Example) -> dict[str, Any]:
        way = ways[number % len(ways)]
        gold = GoldRetriever(tuple(task.evidence[place] for place in example.evidence))
        retriever = gold if way.retriever == GOLD else retrievers[way.retriever]
        answer = await strategies[way.strategy](Query(example.question, meta=example.meta), retriever, Silent())
        said = Message("assistant", TARGETS[settings.target](example, answer.sources))
        group = example.evidence[0] if example.evidence else example.question
        meta = {"id": example.id, "question": example.question, "group": group}
        return {"messages": [asdict(message) for message in (*answer.messages, said)], "meta": meta}

    bar = tqdm(total=len(task.examples), unit="chat", desc="rendering", disable=None)
    return await asyncio.gather(*(_counted(one(n, e), bar) for n, e in enumerate(task.examples)))


async def _counted(work: Awaitable[dict[str, Any]], bar: Any) -> dict[str, Any]:
    row = await work
    bar.update()
    return row


def load(path: Path) -> tuple[SftSettings, Stack, Task]:
    """Read the settings and what they name; FileError has every problem, before anything is rendered."""
    settings = read_yaml(path, SftSettings)
    here = path.parent
    stack = Stack.load(here / settings.stack)
    task = load_task(here / settings.task, here / settings.examples)
    problems = (
        [f"{path}: target: {settings.target!r} is none of {', '.join(TARGETS)}"]
        if settings.target not in TARGETS
        else []
    )
    offered = {"retrievers": (NONE, GOLD, *stack.retrievers), "strategies": tuple(stack.strategies)}
    for key, names in (("retrievers", settings.retrievers), ("strategies", settings.strategies)):
        problems += [
            f"{path}: {key}: {n!r} is none of {', '.join(offered[key])}" for n in names if n not in offered[key]
        ]
    if problems:
        raise FileError("\n".join(problems))
    return settings, stack, task


def main() -> int:
    parser = Parser(
        description="Render training chats with the strategies and retrievers of the evaluation.",
        epilog="example: python -m scripts.make_sft out/demo/world/sft.yaml",
    )
    parser.add_argument("settings", type=Path)
    path = parser.parse_args().settings
    try:
        settings, stack, task = load(path)
        rows = asyncio.run(render(settings, stack, task))
        write_jsonl(path.parent / settings.out, rows)
    except (FileError, RetrievalError, ServeError) as error:
        print(error, file=sys.stderr)
        return 1
    out = path.parent / settings.out
    print(f"wrote {len(rows)} chats to {out}; next: python -m train.chat {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
