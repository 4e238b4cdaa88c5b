"""A re-ranker puts what another search has found in the order of its own scores, and only a real one is let in."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from eval.keys import _retriever as key_of
from retrieval.__main__ import main
from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.files import FileError, read_yaml
from retrieval.index import open_index
from retrieval.manifest import BuildSettings
from retrieval.measure import kinds_of, means, measure
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.rerank import locate
from retrieval.retriever import Reread, open_retriever
from retrieval.search import KINDS
from retrieval.settings import Kind, RetrieverSettings
from retrieval.topics import read_topics
from serve.stack import Stack
from tests.tiny_search import make_beir, make_embedder, make_encoder, write_qrels

ROOT = Path(__file__).parents[1]
QUESTION = "q3 q7"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder, an index of it, and a cross-encoder with random weights."""
    folder = tmp_path_factory.mktemp("world")
    make_beir(folder / "beir")
    make_encoder(folder / "reader", labels=1)
    embedder = make_embedder(folder / "embedder")
    build(read_documents(folder / "beir"), folder / "index", BuildSettings(embedder=str(embedder)))
    return folder


def settings(world: Path, k: int, depth: int, kind: Kind = "dense") -> RetrieverSettings:
    return RetrieverSettings(kind=kind, index=world / "index", k=k, depth=depth, rerank=world / "reader")


def search(retriever: Any, text: str) -> tuple[Hit, ...]:
    found: tuple[Hit, ...] = asyncio.run(retriever.search(Query(text)))
    return found


@pytest.mark.parametrize("kind", ["dense", "hybrid", "random"])
@pytest.mark.parametrize(("k", "depth"), [(1, 1), (4, 30), (20, 20), (5, 10_000)])
def test_reranking_is_sorting_by_the_scores_of_the_model(world: Path, kind: Kind, k: int, depth: int) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(world / "reader"), device="cpu")
    first = search(KINDS[kind](open_index(world / "index"), depth), QUESTION)
    scores = model.predict([(QUESTION, hit.passage.searchable) for hit in first], activation_fn=lambda scores: scores)
    order = np.argsort(-scores, kind="stable")[:k]

    hits = search(open_retriever(settings(world, k, depth, kind)), QUESTION)

    assert [hit.passage.id for hit in hits] == [first[n].passage.id for n in order]
    assert [hit.score for hit in hits] == pytest.approx(scores[order], abs=1e-5)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


class Indifferent:
    """Finds all passages equally good."""

    async def scores(self, asked: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.zeros(len(asked) - 1, dtype=np.float32)


def test_what_the_model_finds_equal_stays_in_the_order_in_which_it_was_found(world: Path) -> None:
    first = KINDS["dense"](open_index(world / "index"), 12)

    found = search(first, QUESTION)

    hits = asyncio.run(Reread(Indifferent())(Query(QUESTION), found))  # type: ignore[arg-type]

    assert [hit.passage for hit in hits] == [hit.passage for hit in found]


def test_nothing_found_is_nothing_to_read(world: Path) -> None:
    assert search(open_retriever(settings(world, 3, 20, "lexical")), "zzz") == ()


def test_many_questions_at_once_get_the_answers_they_get_alone(world: Path) -> None:
    retriever = open_retriever(settings(world, 3, 15))
    questions = [f"q{n} q{n + 1}" for n in range(12)]

    async def together() -> list[tuple[Hit, ...]]:
        return await asyncio.gather(*(retriever.search(Query(question)) for question in questions))

    for found, question in zip(asyncio.run(together()), questions, strict=True):
        alone = search(open_retriever(settings(world, 3, 15)), question)
        assert [hit.passage.id for hit in found] == [hit.passage.id for hit in alone]


LAZY = """
import asyncio, sys
from pathlib import Path
from retrieval.passage import Query
from retrieval.retriever import open_retriever
from retrieval.settings import RetrieverSettings

index, model = map(Path, sys.argv[1:])
retriever = open_retriever(RetrieverSettings(kind="lexical", index=index, k=2, rerank=model))
before = "torch" in sys.modules
asyncio.run(retriever.search(Query("d3 d7")))
print(before, "torch" in sys.modules)
"""


def test_a_model_is_loaded_with_the_first_question(world: Path) -> None:
    program = [sys.executable, "-c", LAZY, str(world / "index"), str(world / "reader")]

    said = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert said.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no re-ranker is here"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model.bin"), "no .safetensors file here"),
        (lambda folder: change(folder, architectures=["BertModel"]), "holds a BertModel, not a cross-encoder"),
        (lambda folder: change(folder, id2label={"0": "no", "1": "yes"}), "not a cross-encoder with one score"),
    ],
)
def test_a_folder_that_is_no_safe_reranker_is_refused(world: Path, tmp_path: Path, break_it: Any, says: str) -> None:
    copytree(world / "reader", tmp_path / "reader")
    copytree(world / "index", tmp_path / "index")
    copytree(world / "embedder", tmp_path / "embedder")
    break_it(tmp_path / "reader")

    with pytest.raises(RetrievalError, match=says):
        open_retriever(settings(tmp_path, 3, 20))


def change(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_an_embedder_is_no_reranker(world: Path) -> None:
    from retrieval.embed import PACKAGED
    from retrieval.embed import locate as locate_embedder

    with pytest.raises(RetrievalError, match="holds a BertModel, not a cross-encoder"):
        locate(locate_embedder(PACKAGED))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("rerank: m, depth: 2", r"depth is 2 and k is 3: k are chosen from what is found"),
        ("depth: 5", "there is none of these"),
        ("rerank: m, deep: 5", "unknown key"),
        ("k: 0, weight: 2", r"k is 0, but .*; weight is 2.0, a share .*; weight is of hybrid search"),
        ("distinct: 0", "distinct is 0.0, a share of words"),
        ("tokens: 0", "nothing fits"),
        ("order: best", "best_last"),
        ("where: {year: {mim: 3}}", "a range has min, max or both"),
        ("where: {year: 3}, route: {questions: q, label: year}", "both say which year"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, given: str, says: str) -> None:
    (tmp_path / "stack.yaml").write_text(f"{{kind: dense, index: i, {given}}}\n")

    with pytest.raises(FileError, match=says):
        read_yaml(tmp_path / "stack.yaml", RetrieverSettings)


def test_in_a_stack_its_path_starts_at_the_file(tmp_path: Path) -> None:
    line = "{kind: hybrid, index: ../index/docs, rerank: ../rerankers/mine}"
    (tmp_path / "stack.yaml").write_text(
        f"model: gpt2\nstrategies: {{direct: {{kind: direct}}}}\nretrievers: {{x: {line}}}\n"
    )

    found = Stack.load(tmp_path / "stack.yaml").retrievers["x"]

    assert (found.rerank, found.found) == (tmp_path.parent / "rerankers" / "mine", 20)
    assert found.index == tmp_path.parent / "index" / "docs"


def test_a_record_depends_on_what_reranks_it_and_not_on_where_that_lies(world: Path, tmp_path: Path) -> None:
    reranked, plain = settings(world, 3, 20), replace(settings(world, 3, 20), depth=None, rerank=None)
    copytree(world / "reader", tmp_path / "moved")
    moved = replace(reranked, rerank=tmp_path / "moved")
    other = replace(reranked, rerank=make_encoder(tmp_path / "other", labels=1))
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")

    assert key_of(reranked) == key_of(moved)
    keys = [key_of(one) for one in (plain, reranked, other, replace(reranked, depth=9))]
    assert all(keys[a] != keys[b] for a in range(4) for b in range(a))


def test_measuring_adds_a_row_that_finds_no_more_than_the_model_reads(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["measure", str(world / "index"), str(world / "beir"), "--json"]
    given = ["--split", "test", "--rerank", str(world / "reader"), "--depth", "7"]
    assert main([*command, *given]) == 0

    said = json.loads(capsys.readouterr().out)["retrievers"]

    found = measure(kinds_of(world / "index", world / "reader", 7), read_topics(world / "beir", "test"))
    shown = {name: {metric: one["value"] for metric, one in row["means"].items()} for name, row in said.items()}
    assert shown == {name: pytest.approx(means(asked)) for name, asked in found.items()}
    assert [*said] == ["lexical", "dense", "hybrid", "reranked"]
    assert shown["reranked"]["recall@10"] == shown["reranked"]["recall@100"]
    assert main([*command, "--split", "test", "--depth", "7"]) == 1
    assert "give both" in capsys.readouterr().err


def test_judgements_that_are_not_named_are_never_pooled(world: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="with --split; there are: test, train"):
        read_topics(world / "beir")
    with pytest.raises(FileError, match="no judgements named 'dev'; there are: test, train"):
        read_topics(world / "beir", "dev")

    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "why?"}\n')
    write_qrels(tmp_path / "qrels" / "all.tsv", [("q1", "d1")])

    assert [topic.id for topic in read_topics(tmp_path)] == ["q1"]
