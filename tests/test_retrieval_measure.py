"""The measures, by hand, and the files they are taken from."""

import json
import math
from pathlib import Path

import pytest

from retrieval.files import FileError
from retrieval.measure import Topic, ndcg, read_topics, recall, reciprocal_rank

GRADES = {"a": 3, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("ranked", "gain", "found", "first"),
    [
        (["a", "b", "c"], 1.0, 1.0, 1.0),
        (["x", "a"], (3 / math.log2(3)) / (3 + 1 / math.log2(3) + 0.5), 1 / 3, 1 / 2),
        (["x", "y", "b"], 0.5 / (3 + 1 / math.log2(3) + 0.5), 1 / 3, 1 / 3),
        (["x", "y", "z", "a"], 0.0, 0.0, 0.0),
        ([], 0.0, 0.0, 0.0),
    ],
)
def test_the_measures_by_hand(ranked: list[str], gain: float, found: float, first: float) -> None:
    assert ndcg(ranked, GRADES, k=3) == pytest.approx(gain)
    assert recall(ranked, GRADES, k=3) == pytest.approx(found)
    assert reciprocal_rank(ranked, GRADES, k=3) == pytest.approx(first)


def beir(folder: Path, *judgements: str) -> Path:
    queries = [{"_id": "q1", "text": "red?"}, {"_id": "q2", "text": "blue?"}]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judgements]) + "\n")
    return folder


def test_only_grades_above_0_are_relevant_and_only_such_queries_count(tmp_path: Path) -> None:
    folder = beir(tmp_path, "q1\td1\t2", "q1\td2\t-1", "q1\td3\t1", "q2\td1\t0")

    assert read_topics(folder) == [Topic("q1", "red?", {"d1": 2, "d3": 1})]


def test_bad_judgements_are_refused_with_every_line(tmp_path: Path) -> None:
    folder = beir(tmp_path, "q1\td1\t1", "q1 d2 1", "q9\td1\t1", "q1\td1\thigh")

    with pytest.raises(FileError) as refusal:
        read_topics(folder)

    assert [line.split("test.tsv:")[1][:2] for line in str(refusal.value).splitlines()] == ["3 ", "4 ", "5 "]


def test_a_folder_without_judgements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no relevant document"):
        read_topics(beir(tmp_path))
