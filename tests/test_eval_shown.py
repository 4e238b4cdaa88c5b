"""An index of worked examples that are test questions is refused before anything is asked or started."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.grid import load_grid
from eval.record import RunError
from eval.shown import refuse_test_questions
from retrieval.build import build
from retrieval.generation import current
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, RetrievalError
from retrieval.store import DOCUMENTS
from tests.eval_stub import example, write_rows, write_world
from tests.tiny_search import make_embedder

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> BuildSettings:
    return BuildSettings(embedder=str(make_embedder(tmp_path_factory.mktemp("embedder"))))


def world(folder: Path, retrievers: tuple[str, ...] = ("none", "train"), strategy: str = "direct") -> Path:
    """A grid over ten questions that uses the index `train`, as its retriever or where a strategy finds examples."""
    grid = write_world(folder, NOBODY, n=10, retrievers=list(retrievers), strategies=[strategy])
    edit(grid, baseline=f"base:none:{strategy}")
    strategies = {"direct": {"kind": "direct"}, "shown": {"kind": "fewshot", "examples_from": "train"}}
    edit(folder / "stack.yaml", retrievers={"train": {"kind": "lexical", "index": "train"}}, strategies=strategies)
    return grid


def edit(path: Path, **keys: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))


def publish(index: Path, settings: BuildSettings, *texts: str, **meta: str) -> None:
    build([Document(id=f"t{n}", title="", text=text, meta=meta) for n, text in enumerate(texts)], index, settings)


def test_the_run_is_refused_with_how_many_three_of_them_and_what_to_do(
    tmp_path: Path, settings: BuildSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = world(tmp_path)
    publish(tmp_path / "train", settings, *(example(n)["question"] for n in range(5)), "Who else?", answer="word")

    code = main(["run", str(grid), "--out", str(tmp_path / "out")])

    said = capsys.readouterr().err
    assert code == 1
    assert "stack.yaml:" in said
    assert f"retrievers.train: 5 worked examples of {tmp_path / 'train'} would show the model the answer" in said
    assert said.count("What does entry ") == 3
    assert f"python -m retrieval build TRAIN {tmp_path / 'train'}" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["what  does ENTRY 3\nsay", "“What does entry 3 say?!”", "What does entry 3 say ?"])
def test_a_test_question_is_known_however_it_is_written(tmp_path: Path, settings: BuildSettings, text: str) -> None:
    grid = world(tmp_path)
    publish(tmp_path / "train", settings, text, answer="word3")

    with pytest.raises(RunError, match="1 worked example of"):
        refuse_test_questions(load_grid(grid))


def test_examples_that_only_a_strategy_shows_are_looked_at_too(tmp_path: Path, settings: BuildSettings) -> None:
    grid = world(tmp_path, retrievers=("none",), strategy="shown")
    publish(tmp_path / "train", settings, "What does entry 3 say?", answer="word3")

    with pytest.raises(RunError, match=r"retrievers\.train: 1 worked example"):
        refuse_test_questions(load_grid(grid))


@pytest.mark.parametrize(
    ("text", "meta"),
    [
        ("What does entry 10 say?", {"answer": "word10"}),
        ("What does entry 3 say?", {}),
        ("?", {"answer": "word3"}),
    ],
    ids=["another question", "a passage without an answer", "nothing but a sign"],
)
def test_what_gives_no_answer_away_passes(
    tmp_path: Path, settings: BuildSettings, text: str, meta: dict[str, str]
) -> None:
    grid = world(tmp_path)
    publish(tmp_path / "train", settings, text, **meta)

    refuse_test_questions(load_grid(grid))


@pytest.mark.parametrize(("database", "refused"), [("school", True), ("", True), ("harbour", False)])
def test_the_same_words_about_another_database_are_another_question(
    tmp_path: Path, settings: BuildSettings, database: str, refused: bool
) -> None:
    grid = world(tmp_path)
    write_rows(tmp_path / "test.jsonl", [example(3) | {"meta": {"db_id": "school"}}])
    publish(tmp_path / "train", settings, "What does entry 3 say?", answer="word3", db_id=database)

    if refused:
        with pytest.raises(RunError, match="1 worked example"):
            refuse_test_questions(load_grid(grid))
    else:
        refuse_test_questions(load_grid(grid))


def test_an_index_that_no_cell_uses_is_not_opened(tmp_path: Path) -> None:
    grid = world(tmp_path, retrievers=("none",))

    refuse_test_questions(load_grid(grid))


def test_a_damaged_index_is_a_sentence(tmp_path: Path, settings: BuildSettings) -> None:
    grid = world(tmp_path)
    publish(tmp_path / "train", settings, "Who else?", answer="word")
    documents = current(tmp_path / "train") / DOCUMENTS
    documents.write_text(documents.read_text().replace("{", "[", 1))

    with pytest.raises(RetrievalError, match="damaged since it was written"):
        refuse_test_questions(load_grid(grid))
