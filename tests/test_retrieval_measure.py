"""The measures against their definitions, trec_eval and hand-worked examples; the files; and the command."""

import doctest
import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from retrieval.__main__ import main
from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.files import FileError
from retrieval.index import open_index
from retrieval.manifest import BuildSettings
from retrieval.measure import WARM_UP, kinds_of, measure
from retrieval.metrics import METRICS, context_precision, judged, ranked, scores
from retrieval.passage import Hit, Passage
from retrieval.stats import holm, paired
from retrieval.topics import Topic, folds, read_topics
from tests.tiny_search import make_beir, make_embedder

GRADES = {"a": 3, "b": 1, "c": 1}
IDEAL = 3 + 1 / math.log2(3) + 0.5


@pytest.mark.parametrize(
    ("found", "gain", "recall", "first", "at_1", "at_5"),
    [
        (["a", "b", "c"], 1.0, 1.0, 1.0, 1.0, 1.0),
        (["x", "a"], 3 / math.log2(3) / IDEAL, 1 / 3, 1 / 2, 0.0, 1.0),
        (["x", "y", "b"], 0.5 / IDEAL, 1 / 3, 1 / 3, 0.0, 1.0),
        ([*"stuvwx", "a"], 3 / math.log2(8) / IDEAL, 1 / 3, 1 / 7, 0.0, 0.0),
        ([*"nopqrstuvw", "a"], 0.0, 0.0, 0.0, 0.0, 0.0),
        ([], 0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_the_measures_by_hand(
    found: list[str], gain: float, recall: float, first: float, at_1: float, at_5: float
) -> None:
    row = judged({"q": found}, {"q": GRADES})["q"]

    deep = row.pop("recall@100")
    assert row == pytest.approx(
        {"nDCG@10": gain, "recall@10": recall, "MRR@10": first, "success@1": at_1, "success@5": at_5}
    )
    assert deep == pytest.approx(len({*found} & GRADES.keys()) / 3)


queries = st.sampled_from(["q1", "q2", "q3"])
names = st.sampled_from([f"d{n}" for n in range(30)])


@given(
    st.dictionaries(queries, st.dictionaries(names, st.integers(1, 3), min_size=1), min_size=1),
    st.dictionaries(queries, st.lists(names, unique=True)),
)
def test_the_measures_are_trec_evals_and_every_query_counts(
    grades: dict[str, dict[str, int]], found: dict[str, list[str]]
) -> None:
    run = {query: {name: -float(n) for n, name in enumerate(found.get(query, ()))} for query in grades}
    theirs = pytrec_eval.RelevanceEvaluator(grades, {"ndcg_cut_10", "recall_10,100", "success_1,5"}).evaluate(run)

    ours = judged(found, grades)

    assert ours.keys() == grades.keys()
    official = {
        "nDCG@10": "ndcg_cut_10",
        "recall@10": "recall_10",
        "recall@100": "recall_100",
        "success@1": "success_1",
        "success@5": "success_5",
    }
    for query, row in ours.items():
        expected = {name: theirs.get(query, {}).get(their, 0.0) for name, their in official.items()}
        assert {name: row[name] for name in official} == pytest.approx(expected)


def hit(document: str, rank: int) -> Hit:
    return Hit(Passage(document, "", "text", 0, 4), 1.0, rank)


def test_passages_count_in_the_order_of_the_prompt_and_documents_by_their_best_passage() -> None:
    best_last = (hit("x", 3), hit("a", 2), hit("b", 4), hit("a", 1))

    row = scores(best_last, GRADES)

    assert ranked(best_last) == ["a", "x", "b"]
    assert row["MRR@10"] == 1.0
    assert row["precision"] == 3 / 4
    assert row["context precision"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert [*row] == [*METRICS]
    assert scores((), GRADES) == dict.fromkeys(METRICS, 0.0)
    assert scores((hit("a note on the domain", 0), *best_last), GRADES) == row


@given(st.lists(st.booleans()))
def test_context_precision_is_ragas_formula(relevant: list[bool]) -> None:
    precisions = [sum(relevant[:k]) / k * relevant[k - 1] for k in range(1, len(relevant) + 1)]

    assert context_precision(relevant) == pytest.approx(sum(precisions) / sum(relevant) if any(relevant) else 0)


def beir(folder: Path, *judgements: str) -> Path:
    queries = [{"_id": "q1", "text": "red?", "slice": "fact"}, {"_id": "q2", "text": "blue?"}]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judgements]) + "\n")
    return folder


def test_only_grades_above_0_are_relevant_and_only_such_queries_count(tmp_path: Path) -> None:
    folder = beir(tmp_path, "q1\td1\t2", "q1\td2\t-1", "q1\td3\t1", "q2\td1\t0")

    assert read_topics(folder) == [Topic("q1", "red?", {"d1": 2, "d3": 1}, meta={"slice": "fact"})]


def test_bad_judgements_are_refused_with_every_line(tmp_path: Path) -> None:
    folder = beir(tmp_path, "q1\td1\t1", "q1 d2 1", "q9\td1\t1", "q1\td1\thigh")

    with pytest.raises(FileError) as refusal:
        read_topics(folder)

    assert [line.split("test.tsv:")[1][:2] for line in str(refusal.value).splitlines()] == ["3 ", "4 ", "5 "]


def test_a_folder_without_judgements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no relevant document"):
        read_topics(beir(tmp_path))


@given(st.integers(2, 7), st.integers(7, 40), st.randoms())
def test_folds_share_nothing_and_do_not_depend_on_order(count: int, size: int, random: Any) -> None:
    topics = [Topic(f"q{n}", "?", {"d": 1}) for n in range(size)]
    parts = folds(topics, count)

    assert sorted(topic.id for part in parts for topic in part) == sorted(topic.id for topic in topics)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    random.shuffle(topics)
    assert folds(topics, count) == parts


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder with slices, an index of it, and a stack."""
    folder = tmp_path_factory.mktemp("world")
    make_beir(folder / "beir")
    file = folder / "beir" / "queries.jsonl"
    queries = [json.loads(line) for line in file.read_text().splitlines()]
    # Half of them also say a word that documents say, so that word search finds something.
    asked = [
        {**row, "text": f"{row['text']} true" if n % 2 else row["text"], "slice": "worded" if n % 2 else "bare"}
        for n, row in enumerate(queries)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in asked))
    build(
        read_documents(folder / "beir"), folder / "index", BuildSettings(embedder=str(make_embedder(folder / "model")))
    )
    (folder / "stack.yaml").write_text(
        "model: ../elsewhere\nretrievers:\n"
        "  few: {kind: dense, index: index, k: 3}\n"
        "  many: {kind: dense, index: index, k: 30}\n"
        "  words: {kind: lexical, index: index, k: 3}\n"
    )
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_named_retrievers_of_a_stack_are_measured_each_with_its_k(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("measure", world / "stack.yaml", world / "beir", "--split", "test")

    own, same = said(capsys, *command), said(capsys, *command, "-k", 30, "--only", "few", "--only", "many")

    assert {name: row["k"] for name, row in own["retrievers"].items()} == {"few": 3, "many": 30, "words": 3}
    few, many = (own["retrievers"][name]["means"]["recall@100"]["value"] for name in ("few", "many"))
    assert few < many
    assert [row["k"] for row in same["retrievers"].values()] == [30, 30]
    assert (
        same["retrievers"]["few"]["means"] == same["retrievers"]["many"]["means"] == own["retrievers"]["many"]["means"]
    )
    assert same["retrievers"]["many"]["differences"]["nDCG@10"]["p_holm"] == 1.0


def test_slices_and_rows_are_the_same_figures(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    options = ("--split", "test", "--by", "slice", "--per-query", file, "--against", "dense")

    found = said(capsys, "measure", world / "index", world / "beir", *options)

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 3 * found["queries"] == 60
    assert all(row["documents"] == list(dict.fromkeys(row["documents"])) for row in rows)
    slices = {topic.id: topic.meta["slice"] for topic in read_topics(world / "beir", "test")}
    tables: dict[str, tuple[dict[str, Any], set[str]]] = {"all": (found, {"worded", "bare"})}
    tables |= {name: (found["by"][f"slice = {name}"], {name}) for name in ("worded", "bare")}
    for table, included in tables.values():
        columns = {
            name: [row["nDCG@10"] for row in rows if row["retriever"] == name and slices[row["id"]] in included]
            for name in ("lexical", "dense", "hybrid")
        }
        for name, row in table["retrievers"].items():
            assert row["means"]["nDCG@10"]["value"] == pytest.approx(fmean(columns[name]), abs=1e-6)
        expected = paired(columns["lexical"], columns["dense"]).estimate
        assert table["retrievers"]["lexical"]["differences"]["nDCG@10"]["low"] == pytest.approx(expected.low, abs=1e-5)
        assert table["retrievers"]["dense"]["differences"] == {}
    family = [
        found["by"][f"slice = {name}"]["retrievers"][way]["differences"]["nDCG@10"]
        for name in ("worded", "bare")
        for way in ("lexical", "hybrid")
    ]
    assert [one["p_holm"] for one in family] == pytest.approx(holm([one["p"] for one in family]))


def test_the_table_shows_k_intervals_and_latency_and_warns_of_different_k(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", str(world / "stack.yaml"), str(world / "beir"), "--split", "test"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["20", "queries", "k"]
    assert [line.split()[:2] for line in lines[1:4]] == [["few", "3"], ["many", "30"], ["words", "3"]]
    assert all(line.endswith(" -") for line in lines[1:4])  # 20 questions have no 95 % quantile
    assert "different k compare badly" in lines[-1]


def test_each_retriever_embeds_the_questions_anew(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = open_index(world / "index").embedder.question
    embedded: list[str] = []
    encode = question._encode
    monkeypatch.setattr(question, "_encode", lambda texts: embedded.extend(texts) or encode(texts))
    topics = read_topics(world / "beir", "test")
    settings = kinds_of(world / "index")["dense"]

    measure({"first": settings, "second": settings}, topics)

    assert embedded == [*WARM_UP, *(topic.text for topic in topics)] * 2


@pytest.mark.parametrize(
    ("yaml", "words", "says"),
    [
        ("retrievers:\n  a: {kind: dense, index: index, kk: 3}", [], "stack.yaml:2: retrievers.a.kk: unknown key"),
        ("retrievers:\n  a:\n    kind: dense\n    index: index\n    k: 0", [], "stack.yaml:2: retrievers.a"),
        ("retrievers:\n  a: {kind: nearest, index: index}", [], "stack.yaml:2: retrievers.a.kind"),
        ("model: here", [], "no retriever to measure"),
        ("retrievers:\n  a: {kind: dense, index: index}", ["--only", "b"], "no retriever 'b'; there are: a"),
        ("retrievers:\n  a: {kind: dense, index: index}", ["--against", "b"], "--against b: it is not measured"),
        ("retrievers:\n  a: {kind: dense, index: index}", ["--depth", "3"], "says it for each retriever"),
        ("retrievers:\n  a: {kind: dense, index: index}", ["--by", "year"], "there are: slice"),
        ("retrievers:\n  a: {kind: dense, index: index}", ["-k", "0"], "k is 0"),
        ("retrievers:\n  a: {kind: dense, index: index}", ["--per-query", "."], "a folder is here"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_with_its_place(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], yaml: str, words: Sequence[str], says: str
) -> None:
    (tmp_path / "stack.yaml").write_text(yaml)
    (tmp_path / "index").symlink_to(world / "index")

    assert main(["measure", str(tmp_path / "stack.yaml"), str(world / "beir"), "--split", "test", *words]) == 1

    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "dense"], "an index has none"),
        (["--depth", "5"], "give both"),
        (["--split", "dev"], "no judgements"),
    ],
)
def test_options_that_mean_nothing_for_an_index_are_refused(
    world: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["measure", str(world / "index"), str(world / "beir"), "--split", "test", *words]) == 1

    assert says in capsys.readouterr().err


def test_k_holds_for_every_kind_of_search_over_an_index(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "measure", world / "index", world / "beir", "--split", "test", "-k", 2)

    assert {row["k"] for row in found["retrievers"].values()} == {2}


@pytest.mark.parametrize(
    "module", ["metrics", "ranking", "stats", "power", "chunking", "vectors", "gpu", "grid", "worked"]
)
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"retrieval.{module}"), optionflags=doctest.ELLIPSIS)

    assert result.attempted
    assert not result.failed
