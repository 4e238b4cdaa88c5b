"""Whether the evidence was in a prompt is told from records; in company it takes the places of the best."""

import pytest

from eval.evidence import in_prompt, marked
from eval.gold import CrowdedRetriever
from eval.record import Record, Source
from eval.task import Example
from retrieval.passage import Document, Hit, Passage, Query
from serve.chat import Message, Usage
from serve.combination import Combination
from serve.layout import user_turn


def record(*passages: tuple[str, str]) -> Record:
    """An answer from these (id, text) passages."""
    return Record(
        id="q",
        combination=Combination("base", "dense", "direct"),
        prompt=(Message("user", user_turn([("", text) for _, text in passages], "Which?")),),
        sources=tuple(Source(name, 1.0) for name, _ in passages),
        text="",
        usage=Usage(1, 1),
        seconds=0.0,
        scores={},
        finish_reason="stop",
    )


@pytest.mark.parametrize(
    ("evidence", "passages", "found"),
    [
        ([], [("a@0-50", "red")], None),
        (["a@10-90"], [("a@0-50", ""), ("a@51-100", "")], True),
        (["a@10-90"], [("a@0-50", ""), ("a@60-100", "")], False),
        (["a@10-90"], [("b@0-100", "red")], False),
        (["a"], [("a@0-100", "")], True),  # the whole of it, as the oracle shows
        (["a"], [("a@0-50", "it is red")], True),  # a piece, with the answer in it
        (["a"], [("a@0-50", "it is old")], False),  # a piece, when another piece has the answer
        (["a", "b"], [("a@0-100", "")], False),  # both are needed
        (["a#p2"], [("a@40-100", "")], True),
        (["a#p2"], [("a@0-30", "")], False),
    ],
)
def test_the_evidence_is_in_the_prompt_or_not(
    evidence: list[str], passages: list[tuple[str, str]], found: bool | None
) -> None:
    asked = Example(id="q", question="Which?", answers=("red",), evidence=tuple(evidence))
    oracle = record(("a@50-100" if evidence == ["a#p2"] else "a@0-100", "it is old and red"))

    assert in_prompt(asked, record(*passages), oracle) is found


@pytest.mark.parametrize(
    ("evidence", "passages", "found"),
    [
        (["a@10-90"], [("a@0-20", ""), ("a@90-99", ""), ("b@10-90", "red")], (True, False, False)),
        (["a@10-20", "b@0-9"], [("b@5-50", ""), ("a@30-50", "red")], (True, False)),
        (["a"], [("a@0-50", "it is red"), ("a@50-90", "it is old"), ("b@0-9", "red")], (True, None, False)),
    ],
)
def test_a_passage_has_a_part_of_the_evidence_or_not(
    evidence: list[str], passages: list[tuple[str, str]], found: tuple[bool | None, ...]
) -> None:
    asked = Example(id="q", question="Which?", answers=("red",), evidence=tuple(evidence))

    assert marked(asked, record(*passages)) == found


def test_how_far_a_document_reaches_is_not_guessed() -> None:
    asked = Example(id="q", question="Which?", answers=("red",), evidence=("a",))

    assert in_prompt(asked, record(("a@0-50", "it is old")), None) is None
    assert in_prompt(asked, record(("b@0-50", "it is red")), None) is False


@pytest.mark.parametrize(
    ("ranks", "evidence", "shown"),
    [
        ((1, 2, 3), "b", "bac"),  # the evidence moves to the front
        ((1, 2, 3), "x", "xab"),  # it takes the place of the last one found
        ((3, 2, 1), "x", "bax"),  # where the best stands last, so does the evidence
        ((1, 3, 2), "xy", "xay"),
        ((1, 2, 3), "wxyz", "wxyza"),  # at least one stranger
        ((1, 2, 3), "", "abc"),
        ((), "x", "x"),
    ],
)
async def test_the_evidence_takes_the_places_of_the_best(ranks: tuple[int, ...], evidence: str, shown: str) -> None:
    def page(name: str) -> Passage:
        return Document(id=name, title="", text="a page").cut(0, 6)

    async def find(query: Query) -> tuple[Hit, ...]:
        return tuple(Hit(page("abc"[rank - 1]), 1 / rank, rank) for rank in ranks)

    hits = await CrowdedRetriever(tuple(map(page, evidence)), find).search(Query("Who?"))

    assert "".join(hit.passage.document for hit in hits) == shown
