"""Worked examples are documents: made from test sets and chats, found by question, shape or answer, shown as turns."""

import asyncio
import doctest
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from eval.task import Example
from retrieval import worked
from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.files import FileError
from retrieval.manifest import BuildSettings
from retrieval.measure import read_named
from retrieval.passage import Hit, Query
from retrieval.retriever import NO_HANDS, Hands, NoRetrieval, Retriever, open_retriever
from retrieval.settings import RetrieverSettings
from retrieval.views import View
from scripts.prompts import Others
from scripts.vote import right, vote
from serve.layout import layout
from serve.strategies.kinds import build as strategies
from serve.strategies.prompted import Prompted
from tests.test_serve_strategies import Parrot
from tests.tiny_search import make_embedder

ROOT = Path(__file__).parents[1]
SPIDER = ROOT.parent / "shared" / "data" / "spider"
LONG = "Which of these is it? " * 100
ASKED = "[S1] Varn\nOdo rules it.\n\nQuestion: Who rules Varn?"
CHAT = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": '{"answer": "Odo", "sources": [1]}'}]


def example(number: int, question: str, answer: str, **meta: Any) -> dict[str, Any]:
    return {"id": f"train-{number}", "question": question, "answers": [answer, "or so"], "meta": meta}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_the_doctests_say() -> None:
    assert doctest.testmod(worked).failed == 0


def test_a_test_sets_row_is_found_by_its_question_and_shows_its_first_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", example(1, "Who rules?", "Odo", hardness="easy", split="train"))

    (document,) = read_documents(path)

    assert (document.id, document.title, document.text) == ("train-1", "", "Who rules?")
    assert document.meta == {"hardness": "easy", "split": "train", "answer": "Odo"}


def test_a_chat_is_found_by_its_question_and_shown_turn_for_turn(tmp_path: Path) -> None:
    told = [{"role": "system", "content": "Answer in JSON."}, *CHAT]
    meta = {"id": "train-1", "question": "Who rules Varn?", "group": "varn"}
    path = write(tmp_path / "sft.jsonl", {"messages": told, "meta": meta}, {"messages": CHAT})

    first, second = read_documents(path)

    assert (first.id, first.text, second.id, second.text) == ("train-1", "Who rules Varn?", "2", ASKED)
    assert first.meta == {"group": "varn", "answer": CHAT[1]["content"], "asked": ASKED}
    shown = layout((), Query("Who rules Tarn?"), (Hit(first.cut(0, len(first.text)), 1.0, 1),))
    assert [(turn.role, turn.content) for turn in shown] == [
        ("user", ASKED),
        ("assistant", CHAT[1]["content"]),
        ("user", "Question: Who rules Tarn?"),
    ]


WRONG: dict[str, tuple[object, str]] = {
    "no question": ({"id": "a", "question": " ", "answers": ["x"]}, 'needs a "question"'),
    "no answer": ({"id": "a", "question": "x", "answers": []}, 'needs "answers", a list'),
    "an answer, not a list": ({"id": "a", "question": "x", "answers": "y"}, 'needs "answers", a list'),
    "no id": ({"question": "x", "answers": ["y"]}, 'needs an "id"'),
    "meta is text": ({"id": "a", "question": "x", "answers": ["y"], "meta": "easy"}, '"meta" is no object'),
    "a key of ours": ({"id": "a", "question": "x", "answers": ["y"], "meta": {"title": "z"}}, "meta.title would be"),
    "no chat": ({"messages": "hello"}, "one question and its answer"),
    "unanswered": ({"messages": CHAT[:1]}, "one question and its answer"),
    "a conversation": ({"messages": CHAT * 2}, "one question and its answer"),
    "a call": ({"messages": [CHAT[0], {"role": "assistant", "content": None}]}, "one question and its answer"),
    "the test": (example(1, "x", "y", split="test"), "is of the split 'test': showing its answer"),
    "dev, in a chat": ({"messages": CHAT, "meta": {"split": "dev"}}, "is of the split 'dev'"),
    "dev, in a corpus": ({"_id": "a", "text": "x", "answer": "y", "split": "dev"}, "is of the split 'dev'"),
    "twice": (example(0, "x", "y"), "'train-0' is already on line 1"),
}


def test_rows_that_are_no_worked_examples_are_refused_all_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", example(0, "Who?", "Odo"), *(row for row, _ in WRONG.values()))

    with pytest.raises(FileError) as caught:
        list(read_documents(path))

    said = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in said] == [f"{path}:{number}" for number in range(2, len(WRONG) + 2)]
    assert all(words in line for line, (_, words) in zip(said, WRONG.values(), strict=True))


def test_a_document_of_any_split_is_only_a_document(tmp_path: Path) -> None:
    (document,) = read_documents(write(tmp_path / "corpus.jsonl", {"_id": "a", "text": "x", "split": "test"}))

    assert document.meta == {"split": "test"}


ROWS = (
    *(example(n, f"q{n} q{n + 1} true", f"d{n} d{n + 1}", hardness="easy") for n in range(8)),
    *(example(n, f"q{n} q{n + 1} false", f"d{n} d{n + 1} true", hardness="hard") for n in range(12, 20)),
    example(20, "true and false says Orla in 1990", "d9 false", hardness="hard"),
    example(21, LONG, "long", hardness="hard"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes of the same worked examples, one for each way to be found."""
    folder = tmp_path_factory.mktemp("worked")
    make_embedder(folder / "embedder")
    train = write(folder / "train.jsonl", *ROWS)
    views: tuple[View, ...] = ("titled", "masked", "answer")
    for view in views:
        build(read_documents(train), folder / view, BuildSettings(embedder=str(folder / "embedder"), view=view))
    return folder


def opened(folder: Path, view: View, hands: Hands = NO_HANDS, **given: Any) -> Retriever:
    named = {"kind": "dense", "index": folder / view, "k": 2, **given}
    return open_retriever(TypeAdapter(RetrieverSettings).validate_python(named), hands)


def found(retriever: Retriever, question: str, **meta: Any) -> list[str]:
    hits = asyncio.run(retriever.search(Query(question, meta=meta)))
    return [hit.passage.document for hit in hits]


def test_a_long_worked_example_stays_whole(folder: Path) -> None:
    (hit,) = asyncio.run(opened(folder, "titled", kind="lexical", k=5).search(Query("which these")))

    assert hit.passage.text == LONG.strip()


def test_shown_are_the_k_nearest_questions_the_nearest_right_before_ours(folder: Path) -> None:
    settings = Prompted(kind="fewshot", examples_from="similar")

    for k in (1, 2, 5):
        similar = opened(folder, "titled", k=k)
        answer = asyncio.run(
            strategies({"near": settings}, {"similar": similar})["near"](Query("q3 q4 true"), NoRetrieval(), Parrot())
        )

        turns = [message.content for message in answer.messages]
        assert len(turns) == 2 * k + 1
        assert turns[-3:] == ["Question: q3 q4 true", "d3 d4", "Question: q3 q4 true"]


def test_masked_questions_are_found_by_shape_whatever_their_names(folder: Path) -> None:
    assert found(opened(folder, "masked", k=1), "true and false says Bafo in 2003") == ["train-20"]
    assert found(opened(folder, "masked", kind="lexical", k=1), "true and false says Bafo in 2003") == ["train-20"]


def test_answers_are_found_by_a_draft_of_the_answer_alone(folder: Path) -> None:
    async def write(prompt: str) -> str:
        return "d14 d15 true"

    draft = opened(folder, "answer", Hands(write=write), k=1, expand={"kind": "draft", "n": 1})

    assert found(draft, "q2 q3") == ["train-14"]


def test_worked_examples_can_be_of_the_difficulty_that_is_sent_or_predicted(folder: Path) -> None:
    sent = opened(folder, "titled", where={"hardness": "$hardness"})
    predicted = opened(folder, "titled", route={"questions": folder / "train.jsonl", "label": "hardness"})
    hard = {row["id"] for row in ROWS if row["meta"]["hardness"] == "hard"}

    assert {*found(sent, "q3 q4 true", hardness="hard")} <= hard
    assert {*found(predicted, "q13 q15 false")} <= hard
    assert not {*found(predicted, "q3 q5 true")} & hard


def test_a_budget_of_tokens_counts_the_turn_and_the_answer_that_are_shown(folder: Path) -> None:
    hands = Hands(count=lambda text: len(text.split()))

    assert len(found(opened(folder, "titled", hands, k=3, tokens=10), "q3 q4 true")) == 2
    assert len(found(opened(folder, "titled", hands, k=3, tokens=9), "q3 q4 true")) == 1


def test_k_as_a_grid_is_one_retriever_with_several_ks_and_a_problem_names_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "stack.yaml").write_text(
        "retrievers:\n  similar: &similar {kind: dense, index: worked, k: 6}\n  similar.1: {<<: *similar, k: 1}\n"
    )

    ks = {name: (one.kind, one.k) for name, one in read_named(tmp_path / "stack.yaml").items()}

    assert ks == {"similar": ("dense", 6), "similar.1": ("dense", 1)}
    (tmp_path / "stack.yaml").write_text((tmp_path / "stack.yaml").read_text().replace("k: 1", "k: one"))
    with pytest.raises(FileError, match=r"stack\.yaml:3: retrievers\.similar\.1\.k: Input should be a valid integer"):
        read_named(tmp_path / "stack.yaml")


def test_the_settings_that_come_with_banking77_are_a_grid_of_k() -> None:
    named = read_named(ROOT / "eval" / "grids" / "banking77" / "retrievers.yaml")

    assert {(one.kind, one.index.name, one.k) for one in named.values()} == {
        (kind, index, k)
        for kind, index in (
            ("dense", "banking77"),
            ("dense", "banking77-masked"),
            ("lexical", "banking77"),
            ("hybrid", "banking77"),
        )
        for k in (1, 3, 6, 10)
    }


def test_a_training_question_never_shows_itself_and_yet_has_as_many_examples(folder: Path) -> None:
    settings = RetrieverSettings(kind="dense", index=folder / "titled", k=3)
    asked, other = Query("q3 q4 true"), Query("q3 q5 true")

    alone, shown = asyncio.run(open_retriever(settings).search(asked)), asyncio.run(Others.open(settings).search(asked))

    assert alone[0].passage.text == asked.text
    assert shown[:2] == alone[1:]
    assert len(shown) == 3
    assert asyncio.run(Others.open(settings).search(other)) == asyncio.run(open_retriever(settings).search(other))


def test_a_vote_is_right_where_most_of_the_nearest_have_a_gold_answer(folder: Path) -> None:
    """No two worked examples here have the same answer, so the nearest has the vote."""
    asked = [
        Example(id="right", question="q3 q4 true", answers=("x", "d3 d4")),
        Example(id="wrong", question="q3 q4 true", answers=("d9 d10",)),
    ]

    assert asyncio.run(right(opened(folder, "titled", k=3), asked)) == 1
    assert vote(["a", "b", "b"]) == "b"
    assert vote([]) is None


@pytest.mark.skipif(not SPIDER.exists(), reason=f"{SPIDER} is not here")
def test_spiders_training_questions_become_worked_examples_and_its_dev_questions_do_not(tmp_path: Path) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        return [
            example(number, row["question"], row["query"], db_id=row["db_id"], split=name)
            for number, row in enumerate(json.loads((SPIDER / f"{name}.json").read_text()))
        ]

    train = list(read_documents(write(tmp_path / "train.jsonl", *rows("train"))))

    assert len(train) == 5069
    assert train[0].meta["answer"] == "SELECT count(*) FROM head WHERE age  >  56"
    with pytest.raises(FileError, match="is of the split 'dev'"):
        list(read_documents(write(tmp_path / "dev.jsonl", *rows("dev"))))
