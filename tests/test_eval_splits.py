"""Splits: what stays together, how few clusters show nothing, and that what is learnt is what the prompt shows."""

from typing import Any

import pytest

from eval.splits import by_cluster, by_document, together
from eval.task import Example
from retrieval.passage import Document, Hit
from retrieval.power import fewest_clusters
from retrieval.stats import paired
from scripts.targets import TARGETS


def test_what_shares_two_documents_a_cluster_or_its_words_stays_together() -> None:
    def ask(name: str, question: str, *evidence: str, **meta: Any) -> Example:
        return Example(id=name, question=question, answers=("x",), evidence=evidence, meta=meta)

    tied = [
        ask("a", "What does the first page say of owls?", "one"),
        ask("b", "Who signed both of these two letters?", "one", "two"),
        ask("c", "When was the bridge near Varn built?", "two"),
        ask("d", "Which colour has the eldest horse?", cluster="farm"),
        ask("e", "How heavy was the smallest calf?", "nine", cluster="farm"),
        ask("f", "Where do the swifts sleep in winter?"),
        ask("g", "Where do the swifts sleep, in winter?"),
        ask("h", "What is the number of thing 7 called 7919?", "nine"),
    ]

    strict, loose = ({frozenset(group) for group in together(tied, labels)} for labels in (by_document, by_cluster))

    assert strict == {frozenset("abc"), frozenset("deh"), frozenset("fg")}
    assert loose == {frozenset("ab"), frozenset("c"), frozenset("de"), frozenset("fg"), frozenset("h")}


@pytest.mark.parametrize(
    ("mark", "start", "end", "said"),
    [
        ("d", 5, 9, "Odo"),
        ("d@10-20", 5, 25, "Odo"),
        ("d@10-20", 12, 25, "unknown"),
        ("d#p2", 5, 25, "Odo"),
        ("d#p2", 30, 60, "unknown"),
        ("e@10-20", 5, 25, "unknown"),
    ],
)
def test_an_answer_is_learnt_where_its_evidence_is_shown(mark: str, start: int, end: int, said: str) -> None:
    document = Document(id="d", title="", text=f"{'x' * 10} Odo keeps {'y' * 60}")
    asked = Example(id="q", question="Who?", answers=("Odo",), evidence=(mark,))

    learnt = TARGETS["careful"](asked, [Hit(document.cut(start, end), 1.0, 1)])

    assert learnt["content"] == said


@pytest.mark.parametrize("comparisons", [1, 2, 11, 47])
def test_with_fewer_clusters_no_gain_whatever_is_clear(comparisons: int) -> None:
    """The rule is that of the statistics: every cluster won, over the same number of comparisons."""

    def p(clusters: int) -> float:
        labels = [f"c{n}" for n in range(clusters) for _ in range(3)]
        return min(1.0, comparisons * paired([1.0] * len(labels), [0.0] * len(labels), labels).p)

    needed = fewest_clusters(comparisons)

    assert p(needed) < 0.05 <= p(needed - 1)
