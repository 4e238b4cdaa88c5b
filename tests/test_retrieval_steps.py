"""Steps between a search and a prompt, against their definitions."""

import doctest
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import steps
from retrieval.files import FileError, read_yaml
from retrieval.passage import Document, Hit, RetrievalError
from retrieval.steps import Order, Rule, arrange, distinct, jaccard, prefer, shingles, within

WORDS = st.lists(st.sampled_from(["the", "Orla", "carries", "coal", "to", "Brest", "7", "8"]), max_size=12).map(
    " ".join
)
SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 7.5]), max_size=8).map(lambda some: sorted(some, reverse=True))


def hit(rank: int, text: str = "", score: float = 1.0, **meta: Any) -> Hit:
    source = Document(id=str(rank), title="", text=text, meta=meta)
    return Hit(source.cut(0, len(text)), score, rank)


def ids(hits: tuple[Hit, ...]) -> list[str]:
    return [one.passage.document for one in hits]


def test_what_the_doctests_say() -> None:
    assert doctest.testmod(steps).failed == 0


@given(SCORES, st.data())
def test_preferring_is_its_definition(scores: list[float], data: st.DataObject) -> None:
    years = data.draw(st.lists(st.sampled_from([None, 1999, 2004, "2020"]), min_size=len(scores), max_size=len(scores)))
    hits = [hit(n, score=score, year=year) for n, (score, year) in enumerate(zip(scores, years, strict=True), start=1)]

    found = prefer(hits, [Rule(newest="year", weight=0.5), Rule(where={"year": {"max": 2004}}, weight=-0.25)])

    def spread(value: float, of: list[float]) -> float:
        return (value - min(of)) / (max(of) - min(of)) if max(of) > min(of) else 0.0

    known = [float(year) for year in years if year]
    newest = {one.rank: spread(float(year), known) if year else 0.0 for one, year in zip(hits, years, strict=True)}
    early = {one.rank: float(year in (1999, 2004)) for one, year in zip(hits, years, strict=True)}
    total = {one.rank: spread(one.score, scores) + 0.5 * newest[one.rank] - 0.25 * early[one.rank] for one in hits}
    assert ids(found) == [str(rank) for rank in sorted(total, key=lambda rank: (-total[rank], rank))]
    assert [one.rank for one in found] == list(range(1, len(hits) + 1))
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@pytest.mark.parametrize(
    "hits",
    [
        [],
        [hit(1, year=2003)],
        [hit(1, score=0.0), hit(2, score=0.0)],
        [hit(1, score=3.0, year="soon"), hit(2, score=2.0, year=None)],
        [hit(1, score=3.0, year=2003), hit(2, score=2.0, year="2003")],
    ],
)
def test_a_rule_that_tells_no_hit_from_another_changes_nothing(hits: list[Hit]) -> None:
    assert prefer(hits, [Rule(newest="year", weight=2)]) == tuple(hits)
    assert prefer(hits, []) == tuple(hits)


def test_equal_scores_leave_the_choice_to_the_rules() -> None:
    hits = [hit(1, day="2003-01-30"), hit(2, day=["2003-01-31", 1990]), hit(3), hit(4, day="2003-01-31")]

    assert ids(prefer(hits, [Rule(newest="day", weight=0.1)])) == ["2", "4", "1", "3"]


def test_a_rule_may_ask_for_what_the_caller_sent() -> None:
    rule = Rule(where={"domain": "$domain"}, weight=2)

    assert ids(prefer([hit(1, domain="a"), hit(2, domain="b")], [rule], {"domain": "b"})) == ["2", "1"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight": 1}, "write one of the two"),
        ({"weight": 1, "newest": "year", "where": {"a": 1}}, "write one of the two"),
        ({"weight": 0, "newest": "year"}, "weight is 0"),
        ({"weight": math.inf, "newest": "year"}, "weight is inf"),
        ({"weight": 1, "where": {"a": []}}, "write a value"),
    ],
)
def test_a_rule_without_meaning_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RetrievalError, match=said):
        Rule(**settings)


@given(st.lists(WORDS, max_size=8), st.sampled_from([0.3, 0.8, 1.0]))
def test_of_near_duplicates_the_first_stays(texts: list[str], similarity: float) -> None:
    def near(one: str, other: str) -> bool:
        return set(one) & set("78") == set(other) & set("78") and jaccard(shingles(one), shingles(other)) >= similarity

    kept = distinct([hit(n, text) for n, text in enumerate(texts, start=1)], similarity)

    expected: list[str] = []
    for text in texts:
        expected += [text] if not any(near(text, one) for one in expected) else []
    assert [one.passage.text for one in kept] == expected
    assert [one.rank for one in kept] == list(range(1, len(kept) + 1))
    assert distinct(kept, similarity) == kept


@pytest.mark.parametrize(
    ("one", "other", "left"),
    [
        ("🙂", "😡", 2),
        ("🙂", "🙂", 1),
        ("", "", 1),
        ("Coal.", "coal", 1),
        ("a coal ship", "a coal ship in Brest", 2),
        (" ".join("abcdefghijklmnopqrstuvwxyz") + " in 2003", " ".join("abcdefghijklmnopqrstuvwxyz") + " in 2004", 2),
        (" ".join(map(chr, range(97, 200))), " ".join(map(chr, range(97, 200))) + " and so on", 1),
    ],
)
def test_short_texts_texts_without_words_and_versions(one: str, other: str, left: int) -> None:
    assert len(distinct([hit(1, one), hit(2, other)])) == left


def test_similarity_by_hand() -> None:
    assert jaccard(shingles("a b c d e"), shingles("A b c d f")) == 2 / 4


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 30))
def test_a_budget_takes_the_longest_beginning_and_is_never_exceeded(lengths: list[int], tokens: int) -> None:
    hits = [hit(n, "a " * length) for n, length in enumerate(lengths, start=1)]

    shown = within(hits, tokens, lambda text: len(text.split()))

    assert shown == tuple(hits[: len(shown)])
    assert sum(lengths[: len(shown)]) <= tokens
    assert len(shown) == len(hits) or sum(lengths[: len(shown) + 1]) > tokens


@given(st.integers(0, 20), st.sampled_from(["best_first", "best_last", "edges"]))
def test_arranging_loses_nothing_and_keeps_ranks(number: int, order: Order) -> None:
    hits = [hit(n) for n in range(1, number + 1)]

    assert sorted(arrange(hits, order), key=lambda one: one.rank) == hits


@given(st.integers(0, 20))
def test_the_edges_have_the_best_by_turns(number: int) -> None:
    ranks = [one.rank for one in arrange([hit(n) for n in range(1, number + 1)], "edges")]

    taken = [ranks.pop(0 if turn % 2 == 0 else -1) for turn in range(number)]

    assert taken == list(range(1, number + 1))


def test_the_best_first_and_the_best_last() -> None:
    hits = [hit(1), hit(2), hit(3)]

    assert (ids(arrange(hits, "best_first")), ids(arrange(hits, "best_last"))) == (["1", "2", "3"], ["3", "2", "1"])


def test_a_rule_is_read_from_a_file_and_its_problems_have_a_line(tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text("weight: 0.2\nwhere:\n  valid: {min: 2004-03-01}\n  kind: [manual, $kind]\n")

    rule = read_yaml(file, Rule)

    assert ids(prefer([hit(1, kind="a", valid="2004-03-01")], [rule], {"kind": "a"})) == ["1"]
    file.write_text("weight: 0.2\nnewst: year\n")
    with pytest.raises(FileError, match=r"rule\.yaml:2: newst: unknown key; did you mean 'newest'"):
        read_yaml(file, Rule)
    file.write_text("weight: 0.2\nwhere: {year: {min: soon}}\n")
    with pytest.raises(FileError, match=r"rule\.yaml:1: .*where\.year\.min is 'soon'"):
        read_yaml(file, Rule)


@given(st.integers(1, 20), st.floats(0, 1))
def test_a_depth_puts_the_best_there_and_each_further_one_at_the_nearest_place_that_is_free(
    number: int, depth: float
) -> None:
    ranks = [one.rank for one in arrange([hit(n) for n in range(1, number + 1)], depth)]
    middle = depth * (number - 1)

    away = [abs(ranks.index(rank) - middle) for rank in range(1, number + 1)]

    assert away == sorted(away)


@given(st.integers(0, 20))
def test_the_first_depth_is_best_first_and_the_last_best_last(number: int) -> None:
    hits = [hit(n) for n in range(1, number + 1)]

    assert (arrange(hits, 0.0), arrange(hits, 1.0)) == (arrange(hits, "best_first"), arrange(hits, "best_last"))
