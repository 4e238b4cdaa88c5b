"""Every setting of a named retriever does what it says, alone and in its place among the others."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from retrieval.build import build
from retrieval.index import Index, open_index
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, Hit, Query, RetrievalError
from retrieval.ranking import convex, fuse, interleave
from retrieval.retriever import NO_HANDS, Hands, open_retriever
from retrieval.search import DEPTH, KINDS
from retrieval.settings import Kind, RetrieverSettings
from tests.tiny_search import make_embedder, make_encoder

LONG = "d1 d2 true. " * 4 + "\n\n" + "d3 d4 false. " * 4 + "\n\n" + "d5 d6 true. " * 4
DOCUMENTS = (
    *(
        Document(id=f"{kind}-{n}", title="", text=f"d{n} d{n + 1} {truth}", meta={"kind": kind, "year": 2000 + n})
        for n in range(8)
        for kind, truth in (("ship", "true"), ("shop", "false"))
    ),
    Document(id="copy", title="", text="d3 d4 true", meta={"kind": "ship", "year": 2010}),
    Document(id="long", title="Long", text=LONG, meta={"kind": "book"}),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retriever")
    make_embedder(folder / "embedder")
    build(DOCUMENTS, folder / "index", BuildSettings(embedder=str(folder / "embedder"), size=60, overlap=0))
    return folder / "index"


@pytest.fixture
def index(path: Path) -> Index:
    return open_index(path)


def found(
    path: Path, text: str, hands: Hands = NO_HANDS, meta: dict[str, Any] | None = None, **given: Any
) -> list[Hit]:
    settings = TypeAdapter(RetrieverSettings).validate_python({"kind": "lexical", "index": path, **given})
    return list(asyncio.run(open_retriever(settings, hands).search(Query(text, meta=meta or {}))))


def documents(hits: list[Hit]) -> list[str]:
    return [hit.passage.document for hit in hits]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_say_nothing_more_only_search(path: Path, index: Index, kind: Kind) -> None:
    plain = asyncio.run(KINDS[kind](index, 4).search(Query("d3 true")))

    assert found(path, "d3 true", kind=kind, k=4) == list(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_finds_what_a_search_of_only_those_would(path: Path, index: Index, kind: Kind) -> None:
    hits = found(path, "d3 d4", kind=kind, k=30, where={"kind": "$kind", "year": {"min": 2003}}, meta={"kind": "shop"})

    allowed = {f"shop-{n}" for n in range(3, 8)}
    whole = asyncio.run(KINDS[kind](index, len(index.passages)).search(Query("d3 d4")))
    expected = [hit.passage.document for hit in whole if hit.passage.document in allowed]
    assert sorted(documents(hits)) == sorted(expected)
    if kind in ("dense", "lexical"):
        assert documents(hits) == expected


def test_a_filter_without_what_it_needs_says_what_to_send(path: Path) -> None:
    with pytest.raises(RetrievalError, match="came without it; send"):
        found(path, "d3", where={"kind": "$kind"})


def test_a_weight_is_a_convex_combination_of_both_scores(path: Path, index: Index) -> None:
    text, rows = "d3 d4 true", range(len(index.passages))
    assert len(rows) < DEPTH, "every row is a candidate"

    hits = found(path, text, kind="hybrid", k=6, weight=0.3)

    dense = index.vectors.take(rows) @ asyncio.run(index.embedder.question(text))
    expected = convex(dense, index.words.scores(text), 0.3, 6)
    assert [(hit.passage, round(hit.score, 5)) for hit in hits] == [
        (index.passages[row], round(score, 5)) for row, score in expected
    ]


def test_parts_are_searched_each_and_take_turns(path: Path, index: Index) -> None:
    asked: list[str] = []

    async def write(prompt: str) -> str:
        asked.append(prompt)
        return "d1\nd6"

    hits = found(path, "d1 and d6?", Hands(write=write), k=4, expand={"kind": "parts"})

    rankings = [asyncio.run(index.matching(Query(text), 4)) for text in ("d1", "d6")]
    assert [hit.passage for hit in hits] == [index.passages[row] for row, _ in interleave(rankings, 4)]
    assert len(asked) == 1
    assert asked[0].endswith("Question: d1 and d6?")


def test_rewordings_are_fused_with_the_question(path: Path, index: Index) -> None:
    async def write(prompt: str) -> str:
        return "d2 true\nd3 true"

    hits = found(path, "d1", Hands(write=write), kind="dense", k=5, expand={"kind": "multi", "n": 2})

    rankings = [asyncio.run(index.nearest(Query(text), 5)) for text in ("d1", "d2 true", "d3 true")]
    assert [hit.passage for hit in hits] == [index.passages[row] for row, _ in fuse(rankings, 5)]


def test_a_model_that_nobody_lent_is_missed_when_it_is_asked(path: Path) -> None:
    with pytest.raises(RetrievalError, match="none was lent: name one"):
        found(path, "d1", expand={"kind": "hyde"})


def test_a_rule_puts_the_newest_of_equals_first(path: Path) -> None:
    rule = {"newest": "year", "weight": 0.1}

    assert documents(found(path, "d3 d4 true", k=2)) == ["ship-3", "copy"]
    assert documents(found(path, "d3 d4 true", k=2, prefer=[rule])) == ["copy", "ship-3"]


def test_a_rule_has_the_last_word_after_a_reader(path: Path) -> None:
    make_encoder(path.parent / "reader", labels=1)
    rule = {"newest": "year", "weight": 100}

    hits = found(path, "d3 d4", k=4, rerank=path.parent / "reader", prefer=[rule])

    years = [hit.passage.meta.get("year", 0) for hit in hits]
    assert years == sorted(years, reverse=True)


def test_near_duplicates_leave_room_for_others(path: Path) -> None:
    hits = documents(found(path, "d3 d4 true", k=2, distinct=0.9))

    assert len({"ship-3", "copy"} & {*hits}) == 1
    assert len(hits) == 2


def test_a_passage_can_be_shown_with_its_neighbours_or_its_document(path: Path, index: Index) -> None:
    rows = index.passages.of("long")
    assert len(rows) > 2

    (plain,) = found(path, "d3 d4 false long", k=1)
    (near,) = found(path, "d3 d4 false long", k=1, show="neighbours")
    (whole,) = found(path, "d3 d4 false long", k=1, show="document")

    place = next(row for row in rows if index.passages[row] == plain.passage)
    first, last = index.passages[max(rows[0], place - 1)], index.passages[min(rows[-1], place + 1)]
    assert (near.passage.start, near.passage.end) == (first.start, last.end)
    assert near.passage.text == LONG[first.start : last.end]
    assert whole.passage.text == LONG


def test_windows_that_meet_become_one_at_the_better_ones_rank(path: Path) -> None:
    hits = found(path, "long", k=3, show="neighbours")

    assert [(hit.passage.document, hit.passage.text, hit.rank) for hit in hits] == [("long", LONG.strip(), 1)]


def test_a_budget_of_tokens_is_kept(path: Path) -> None:
    hands = Hands(count=lambda text: len(text.split()))

    assert len(found(path, "d3 true", hands, k=5, tokens=7)) == 2
    with pytest.raises(RetrievalError, match="counts tokens"):
        found(path, "d3 true", k=5, tokens=7)


def test_the_best_can_stand_last(path: Path) -> None:
    first = found(path, "d3 true", k=3)

    assert found(path, "d3 true", k=3, order="best_last") == first[::-1]


def test_a_router_searches_in_the_domain_of_the_question_and_says_what_it_is(path: Path, tmp_path: Path) -> None:
    rows = [{"question": f"q1 q{n}", "meta": {"kind": "ship"}} for n in range(2, 8)]
    rows += [{"question": f"q20 q{n}", "meta": {"kind": "shop"}} for n in range(12, 18)]
    rows += [{"question": f"d20 d{n}", "meta": {"kind": "both"}} for n in range(12, 18)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"ship": "Lengths are in metres."}
    route = {"questions": tmp_path / "train.jsonl", "label": "kind", "about": about, "sure": 0}

    ship = found(path, "q1 d4", kind="dense", route=route)
    shop = found(path, "q20 d4", kind="dense", route=route)

    assert documents(ship) == ["about:ship", *documents(found(path, "q1 d4", kind="dense", where={"kind": "ship"}))]
    assert documents(shop) == documents(found(path, "q20 d4", kind="dense", where={"kind": "shop"}))
    assert found(path, "d20 d13", kind="dense", route=route) == found(path, "d20 d13", kind="dense"), "of both"
    unsure = found(path, "q1 d4", kind="dense", route={**route, "sure": 0.999})
    assert unsure == found(path, "q1 d4", kind="dense"), "as if there were no router"
