"""How should a search use earlier turns? Conversations of the demo's world, searched with none, one and two of them.

    python -m scripts.check_turns out/demo/world out/index/demo

Some end on a follow-up, which needs what was said before; some on another matter, which it can only disturb. `turns: 1`
is the setting of a retriever; `only 1` searches for the question after one turn and not for the question alone. No
model is asked: the assistant's turns are the gold answers. Knows nothing of how a search is put together.
"""

import asyncio
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from retrieval.console import Parser
from retrieval.files import FileError, read_jsonl
from retrieval.measure import MEASURED
from retrieval.metrics import ranked
from retrieval.passage import Query, RetrievalError
from retrieval.retriever import Retriever, open_retriever
from retrieval.settings import RetrieverSettings
from retrieval.stats import Estimate, mean, paired
from retrieval.turns import searches

ALONE: Final = "turns: 0"
TURNS: Final = (1, 2)
SPLITS: Final = ("train.jsonl", "dev.jsonl", "test.jsonl")
"""All of them: nothing here has been trained."""
SURE: Final = ("Are you sure?", "Yes.")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of the world, about one document."""

    text: str
    answer: str
    document: str
    slice: str

    @property
    def said(self) -> tuple[str, str]:
        """It and its answer, as two turns."""
        return self.text, self.answer

    def following(self, what: str) -> str:
        """As one asks it of what was just spoken of.

        >>> Asked("Who is the maker of the Orla?", "Ann Bo", "d", "fact").following("it")
        'And who is the maker of it?'
        """
        text = re.sub(
            r"(?P<link> (?:of|has|is))? the [A-Z]\w+\?$", lambda found: _linked(found["link"], what), self.text
        )
        return f"And {text[0].lower()}{text[1:]}?"


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation up to its last question, and the document that answers that."""

    kind: str
    query: Query
    document: str


def talks(asked: Sequence[Asked]) -> Iterator[Talk]:
    """Every kind of conversation, each entry once in each: what entries say is independent."""
    facts: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        if one.slice == "fact":
            facts[one.document].append(one)
    entries = [pair for pair in facts.values() if len(pair) > 1]
    for (first, second, *_), (other, another, *_) in zip(entries, [*entries[1:], entries[0]], strict=True):
        it, bare = second.following("it"), second.following("")
        here, there = second.document, other.document
        yield Talk("follow-up, `it`", Query(it, first.said), here)
        yield Talk("follow-up, left out", Query(bare, first.said), here)
        yield Talk("follow-up, two turns back", Query(it, first.said + SURE), here)
        yield Talk("follow-up after a change", Query(another.following("it"), first.said + other.said), there)
        yield Talk("other entry", Query(other.text, first.said), there)
        yield Talk("other entry, after two turns", Query(other.text, (*first.said, it, second.answer)), there)
    for kind in ("code", "paraphrase"):
        for (first, *_), one in zip(entries, [one for one in asked if one.slice == kind], strict=False):
            yield Talk(f"other matter, {kind}", Query(one.text, first.said), one.document)


def read_world(folder: Path) -> list[Asked]:
    """The questions that one document answers."""
    rows = (row for name in SPLITS for _, row in read_jsonl(folder / name))
    return [
        Asked(row["question"], row["answers"][0], row["evidence"][0], row["meta"]["slice"])
        for row in rows
        if len(row["evidence"]) == 1
    ]


@dataclass(frozen=True, slots=True)
class Way:
    """A retriever, and what it is asked."""

    retriever: Retriever
    only: int = 0
    """So many turns before the question, and nothing beside that."""

    async def place(self, talk: Talk) -> int:
        """At which place the answering document is found; 0 where it is not."""
        query = Query(searches(talk.query, self.only)[0].text) if self.only else talk.query
        documents = ranked(await self.retriever.search(query))
        return documents.index(talk.document) + 1 if talk.document in documents else 0


def ways(settings: RetrieverSettings) -> dict[str, Way]:
    """What is compared, the question alone first."""
    alone = open_retriever(replace(settings, turns=0))
    setting = {f"turns: {turns}": Way(open_retriever(replace(settings, turns=turns))) for turns in TURNS}
    return {ALONE: Way(alone)} | {f"only {turns}": Way(alone, turns) for turns in TURNS} | setting


def table(search: str, places: Mapping[str, Sequence[int]], k: int) -> Iterator[str]:
    """recall@1 and recall@k of each way, and the second against the question alone."""
    within = {name: [float(0 < place <= k) for place in where] for name, where in places.items()}
    for name, where in places.items():
        first = _span(mean([float(place == 1) for place in where]))
        against = _span(paired(within[name], within[ALONE]).estimate, "+.2f") if name != ALONE else ""
        yield f"  {search:<9}{name:<12}{first:<23}{_span(mean(within[name])):<23}{against}".rstrip()


async def measured(world: Path, index: Path, k: int) -> list[str]:
    by_kind: dict[str, list[Talk]] = defaultdict(list)
    for talk in talks(read_world(world)):
        by_kind[talk.kind].append(talk)
    settings = {search: RetrieverSettings(kind=search, index=index, k=max(k, 10)) for search in MEASURED}
    opened = {search: ways(one) for search, one in settings.items()}
    lines = []
    for kind, asked in by_kind.items():
        lines.append(f"\n{f'{kind} ({len(asked)})':<34}{'recall@1':<23}{f'recall@{k}':<23}against {ALONE}")
        for search, compared in opened.items():
            places = {name: [await way.place(talk) for talk in asked] for name, way in compared.items()}
            lines += table(search, places, k)
    return lines


def main() -> int:
    parser = Parser(
        description="Compare searches with none, one and two earlier turns on made-up conversations.",
        epilog="example: python -m scripts.check_turns out/demo/world out/index/demo",
    )
    parser.add_argument("world", type=Path, metavar="WORLD", help="the folder of a demo's world")
    parser.add_argument("index", type=Path, metavar="INDEX", help="the index of its documents")
    parser.add_argument("-k", type=int, default=3, help="passages in which the answer should be (default: %(default)s)")
    options = parser.parse_args()
    try:
        print(*asyncio.run(measured(options.world, options.index, options.k)), sep="\n")
    except (FileError, RetrievalError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _linked(link: str | None, what: str) -> str:
    """` of it`, or nothing where the name is left out."""
    return f"{link or ''} {what}" if what else ""


def _span(one: Estimate, form: str = ".2f") -> str:
    return f"{one.value:{form}} ({one.low:{form}} to {one.high:{form}})"


if __name__ == "__main__":
    sys.exit(main())
