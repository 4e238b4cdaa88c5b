"""A follow-up is searched for with what was said before, a change of subject without it; a lone question as ever."""

import asyncio
import doctest
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from retrieval import turns
from retrieval.build import build
from retrieval.index import open_index
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, Hit, Query, RetrievalError
from retrieval.ranking import interleave
from retrieval.retriever import NO_HANDS, Hands, open_retriever
from retrieval.search import KINDS
from retrieval.settings import Kind, RetrieverSettings
from retrieval.turns import ROOM, searches
from scripts import check_turns
from serve.asked import ChatRequest, read
from serve.combination import Combination
from serve.pipeline import Pipeline
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from tests.serve_stub import echoing
from tests.tiny_search import make_embedder, make_encoder

DOCUMENTS = tuple(Document(id=f"n{n}", title="", text=f"d{n} d{n + 1} true") for n in range(12))
TALK = ("d1 ?", "it is d9", "d3 true", "it is d11")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turns")
    make_embedder(folder / "embedder")
    build(DOCUMENTS, folder / "index", BuildSettings(embedder=str(folder / "embedder")))
    return folder / "index"


def found(path: Path, query: Query, hands: Hands = NO_HANDS, **given: Any) -> list[Hit]:
    settings = TypeAdapter(RetrieverSettings).validate_python({"index": path, **given})
    return list(asyncio.run(open_retriever(settings, hands).search(query)))


def test_what_the_doctests_say() -> None:
    assert doctest.testmod(turns).failed == doctest.testmod(check_turns).failed == 0


@pytest.mark.parametrize(
    ("number", "texts"),
    [(0, ["d5"]), (1, ["d3 true\nd5", "d5"]), (2, ["d1 ?\nd3 true\nd5", "d5"]), (9, ["d1 ?\nd3 true\nd5", "d5"])],
)
def test_the_users_last_turns_come_before_the_question(number: int, texts: list[str]) -> None:
    assert [one.text for one in searches(Query("d5", TALK), number)] == texts


def test_turns_are_taken_whole_while_there_is_room() -> None:
    page = "word " * (ROOM // 5)

    assert [one.text for one in searches(Query("d5", (page, "Yes.", "d3", "Yes.")), 2)] == ["d3\nd5", "d5"]
    assert len(searches(Query("d5", (f"{page}more", "Yes.")), 1)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_alone_is_searched_for_as_ever(path: Path, kind: Kind) -> None:
    alone = found(path, Query("d5 true"), kind=kind, k=4)

    assert alone == list(asyncio.run(KINDS[kind](open_index(path), 4).search(Query("d5 true"))))
    assert alone == found(path, Query("d5 true", TALK), kind=kind, k=4, turns=0)


@pytest.mark.parametrize("kind", ["dense", "lexical", "hybrid"])
def test_in_a_conversation_both_searches_take_turns(path: Path, kind: Kind) -> None:
    index = open_index(path)
    rankings = [asyncio.run(KINDS[kind](index, 4).rank(Query(text))) for text in ("d3 true\nd8", "d8")]

    hits = found(path, Query("d8", TALK), kind=kind, k=4)

    assert [hit.passage for hit in hits] == [index.passages[row] for row, _ in interleave(rankings, 4)]


def test_a_model_that_rewords_reads_what_was_said_before(path: Path) -> None:
    asked: list[str] = []

    async def write(prompt: str) -> str:
        asked.append(prompt.partition("Question: ")[2])
        return "d4"

    found(path, Query("d8", TALK), Hands(write=write), kind="lexical", expand={"kind": "hyde"})

    assert asked == ["d3 true\nd8", "d8"]


def test_a_reader_orders_by_the_question_with_what_was_said_before(path: Path) -> None:
    make_encoder(path.parent / "reader", labels=1)
    given: dict[str, Any] = {"kind": "lexical", "k": 3, "depth": 12, "rerank": path.parent / "reader"}

    one, *_ = found(path, Query("d8 true", TALK), **given)

    scores = {hit.passage.id: hit.score for hit in found(path, Query("d3 true\nd8 true"), **given)}
    assert one.score == pytest.approx(scores[one.passage.id])


def test_less_than_no_turns_is_refused(path: Path) -> None:
    with pytest.raises(RetrievalError, match="0 searches for the question alone"):
        RetrieverSettings(kind="lexical", index=path, turns=-1)


def test_a_call_of_a_tool_does_not_swap_the_speakers() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Who built the Orla?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "Ann Bo"},
        {"role": "user", "content": "And who owns it?"},
    ]
    asked = read(ChatRequest, json.dumps({"model": "m", "messages": messages}).encode())

    assert searches(asked.query(), 1)[0].text == "Who built the Orla?\nAnd who owns it?"


async def test_what_is_searched_for_is_not_what_the_model_reads(path: Path) -> None:
    talk = [("user", "d3 true"), ("assistant", "it is d11"), ("user", "And what else?")]
    body = {"model": "base:words:direct", "messages": [{"role": role, "content": text} for role, text in talk]}
    query = read(ChatRequest, json.dumps(body).encode()).query()
    with echoing() as echo:
        stack = Stack(
            model="pocket",
            url=echo.url,
            retrievers={"words": RetrieverSettings(kind="lexical", index=path, k=1)},
            strategies={"direct": Prompted(kind="direct")},
        )
        async with Pipeline(stack) as pipeline:
            answer = await pipeline.ask(Combination.parse("base:words:direct"), query)

    assert [hit.passage.text for hit in answer.sources] == ["d2 d3 true"]
    assert [turn["content"] for turn in echo.asked[0]["messages"]] == [
        "d3 true",
        "it is d11",
        "[S1] \nd2 d3 true\n\nQuestion: And what else?",
    ]
