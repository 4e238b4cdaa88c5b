"""Ask examples in several ways and keep the prompts: the strategies and retrievers are the very objects that serve.

Nothing here asks a model: `Silent` stands in for it. Knows nothing of files, settings or teachers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tqdm import tqdm

from eval.gold import GoldRetriever
from eval.task import Example, Task
from retrieval.measure import handing_over
from retrieval.passage import Hit, Passage, Query
from retrieval.retriever import NO_HANDS, Hands, NoRetrieval, Retriever, open_retriever
from retrieval.settings import RetrieverSettings
from scripts.raft import RAFT, SPARE, Raft, RaftSettings, without_evidence
from scripts.targets import Target
from serve.chat import Message, Reply, Sampling, Usage
from serve.combination import GOLD, NONE, Combination
from serve.hands import counter
from serve.stack import Stack
from serve.strategies.kinds import build

Finder = Callable[[Example], Retriever]
"""What an example is asked over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Which examples are asked, and in which ways."""

    stack: Stack
    task: Task
    ways: tuple[Combination, ...]
    """The examples take these in turn."""
    raft: RaftSettings | None


@dataclass(frozen=True, slots=True)
class Others:
    """A retriever that never shows a training question itself: its answer would only have to be copied.

    One more takes its place, so that a prompt learnt from has as many worked examples as one that is answered.
    """

    retriever: Retriever
    one_more: Retriever
    """The same with a larger k."""

    @classmethod
    def open(cls, settings: RetrieverSettings, hands: Hands = NO_HANDS) -> "Others":
        more = handing_over(settings, settings.k + 1)
        return cls(open_retriever(settings, hands), open_retriever(more, hands))

    async def search(self, query: Query) -> tuple[Hit, ...]:
        found = await self.retriever.search(query)
        others = _without(found, query)
        return others if len(others) == len(found) else _without(await self.one_more.search(query), query)


def _without(hits: Sequence[Hit], query: Query) -> tuple[Hit, ...]:
    asked = query.text.casefold().split()
    return tuple(hit for hit in hits if hit.passage.text.casefold().split() != asked)


class Silent:
    """A model that says nothing: what counts here is what it is asked."""

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        return Reply(text="", usage=Usage(), finish_reason="stop", seconds=0.0)


async def render(asking: Asking, target: Target) -> list[dict[str, Any]]:
    """One training chat an example, with `meta` that lets the trainer split by group and check for overlap."""
    used, hands = asking.stack.only(asking.ways), Hands(count=counter(asking.stack.model))
    opened = {name: Others.open(settings, hands) for name, settings in used.retrievers.items()}
    strategies = build(used.strategies, {NONE: NoRetrieval(), **opened})
    finders = _finders(asking, opened)

    async def one(number: int, example: Example) -> dict[str, Any]:
        way = asking.ways[number % len(asking.ways)]
        query = Query(example.question, meta=example.meta)
        answer = await strategies[way.strategy](query, finders[way.retriever](example), Silent())
        said = target(example, answer.sources)
        group = example.evidence[0] if example.evidence else example.question
        meta = {"id": example.id, "question": example.question, "group": group}
        row = {"messages": [*map(asdict, answer.messages), said], "meta": meta}
        return row | ({"tools": example.meta["tools"]} if "tool_calls" in said else {})

    examples = asking.task.examples
    bar = tqdm(total=len(examples), unit="chat", desc="rendering", disable=None)
    return await asyncio.gather(*(_counted(one(number, each), bar) for number, each in enumerate(examples)))


def _finders(asking: Asking, opened: dict[str, Others]) -> dict[str, Finder]:
    """How each named retriever comes by what it shows an example."""
    finders: dict[str, Finder] = {
        NONE: _always(NoRetrieval()),
        GOLD: lambda example: GoldRetriever(_evidence(asking.task, example)),
        **{name: _always(retriever) for name, retriever in opened.items()},
    }
    return finders | ({RAFT: _raft(asking, asking.raft)} if asking.raft else {})


def _always(retriever: Retriever) -> Finder:
    return lambda _: retriever


def _raft(asking: Asking, settings: RaftSettings) -> Finder:
    source, examples = asking.stack.retrievers[settings.retriever], asking.task.examples
    most = max(len(example.evidence) for example in examples)
    wide = replace(source, k=settings.distractors + most + SPARE, depth=None, prefer=(), rerank=None, distinct=None)
    others = Others.open(wide, Hands(count=counter(asking.stack.model)))
    absent = without_evidence(examples, settings)
    return lambda example: Raft(
        evidence=_evidence(asking.task, example),
        others=others,
        distractors=settings.distractors,
        is_absent=example.id in absent,
        seed=f"{settings.seed} {example.id}",
    )


def _evidence(task: Task, example: Example) -> tuple[Passage, ...]:
    return tuple(task.evidence[place] for place in example.evidence)


async def _counted(work: Awaitable[dict[str, Any]], bar: Any) -> dict[str, Any]:
    row = await work
    bar.update()
    return row
