"""Questions and the documents that people marked as relevant to them: a BEIR folder, read and checked.

Every problem at once as `file:line field: problem - fix`, before torch loads. Knows nothing of models.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from retrieval.files import FileError, read_jsonl, read_judgements
from train.chat import refuse_all
from train.overlap import Text, read_texts

CORPUS: Final = "corpus.jsonl"
QUERIES: Final = "queries.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, and the texts of the documents that people marked as relevant to it."""

    where: str
    """`file:line`"""
    text: str
    relevant: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What there is to learn from."""

    questions: tuple[Question, ...]
    documents: tuple[str, ...]
    """The texts of the whole corpus: what is not marked as relevant to a question is a wrong answer to it."""

    @property
    def relevant(self) -> Mapping[str, frozenset[str]]:
        """By the question's text: two questions in the same words share what is relevant to either."""
        found: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
        for question in self.questions:
            found[question.text] |= frozenset(question.relevant)
        return found


def read_judged(folder: Path, qrels: Path) -> Judged:
    """The queries of `qrels` that something is relevant to; TrainError has every problem of the three files."""
    wrong: list[str] = []
    documents = _collect(_documents, folder / CORPUS, wrong)
    queries = _collect(_queries, folder / QUERIES, wrong)
    marked: defaultdict[str, dict[str, None]] = defaultdict(dict)
    # A file that cannot be read leaves every reference into it open, which is not another problem.
    for query, document, grade in _judgements(qrels, wrong, queries or None, documents or None):
        if grade > 0 and not wrong:
            marked[query][documents[document][1]] = None
    # A document without text is in no index either.
    questions = [
        Question(where=where, text=text, relevant=tuple(filter(None, marked[query])))
        for query, (where, text) in queries.items()
        if any(marked.get(query, ()))
    ]
    if not wrong and not questions:
        wrong.append(f"{qrels}:1 score: no document is relevant to any query - mark some with a score above 0")
    refuse_all(wrong)
    return Judged(
        questions=tuple(questions), documents=tuple(filter(None, {text: None for _, text in documents.values()}))
    )


def read_tests(path: Path, folder: Path) -> tuple[Text, ...]:
    """The questions of a test set, or of judgements over the queries of `folder`; TrainError when there are none."""
    if path.suffix != ".tsv":
        return read_texts(path)
    wrong: list[str] = []
    queries = _collect(_queries, folder / QUERIES, wrong)
    asked = {query for query, _, _ in _judgements(path, wrong, queries or None)}
    texts = tuple(Text(where=where, question=text) for query, (where, text) in queries.items() if query in asked)
    if not wrong and not texts:
        wrong.append(f"{path}:2 query-id: names no query of {folder / QUERIES} - name a file of judgements over them")
    refuse_all(wrong)
    return texts


def draw(questions: Sequence[Question], most: int | None, seed: int) -> tuple[Question, ...]:
    """The questions with at most so many relevant documents each, drawn by chance, not by grade.

    A high grade is good in one data set and bad in another.
    """
    if most is None:
        return tuple(questions)
    return tuple(
        Question(
            where=one.where,
            text=one.text,
            relevant=tuple(random.Random(f"{seed}:{one.text}").sample(one.relevant, min(most, len(one.relevant)))),
        )
        for one in questions
    )


# --- the files

Known = dict[str, tuple[str, str]]
"""Id -> (`file:line`, text)"""


def _collect(read: Callable[[Path, list[str]], Iterator[tuple[str, str, str]]], path: Path, wrong: list[str]) -> Known:
    """What is in the file; nothing, when a part of it is bad."""
    found: Known = {}
    problems: list[str] = []
    try:
        for name, where, text in read(path, problems):
            if name in found:
                problems.append(
                    f"{where} _id: {name!r} is already on line {found[name][0].rpartition(':')[2]} - an _id names one"
                )
            else:
                found[name] = (where, text)
    except FileError as error:
        problems += str(error).split("\n")
    wrong += problems
    return {} if problems else found


def _documents(path: Path, wrong: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each as it will be embedded: the title above the text."""
    for where, name, row in _rows(path, wrong):
        title, text = row.get("title", ""), row.get("text")
        if not isinstance(text, str) or not isinstance(title, str):
            wrong.append(
                f'{where} text: "text" and "title" are text - write {{"_id": "d1", "title": "", "text": "..."}}'
            )
        else:
            yield name, where, f"{title}\n{text}".strip()


def _queries(path: Path, wrong: list[str]) -> Iterator[tuple[str, str, str]]:
    for where, name, row in _rows(path, wrong):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            wrong.append(f'{where} text: is missing or empty - write {{"_id": "q1", "text": "..."}}')
        else:
            yield name, where, text.strip()


def _rows(path: Path, wrong: list[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(`file:line`, id, row) of every row that has an id."""
    empty = True
    for number, row in read_jsonl(path):
        empty = False
        if not isinstance(row.get("_id"), str | int) or row["_id"] == "":
            wrong.append(f'{path}:{number} _id: is missing - give every row an "_id" of its own')
        else:
            yield f"{path}:{number}", str(row["_id"]), row
    if empty:
        wrong.append(f"{path}:1 file: has no rows - write one JSON object a line")


def _judgements(
    path: Path, wrong: list[str], queries: Known | None, documents: Known | None = None
) -> Sequence[tuple[str, str, int]]:
    try:
        return read_judgements(path, queries, documents)
    except FileError as error:
        wrong += str(error).split("\n")
        return ()
