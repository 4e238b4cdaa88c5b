"""A worked example is a document: a question to be found by, with its answer and with the turn that asks it.

A row of a test set or a training chat becomes a row of a corpus; retrieved, it is a demonstration. Pure. Knows nothing
of files, of search, or of how a prompt lays a demonstration out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from retrieval.passage import Passage

Row: TypeAlias = Mapping[str, Any]

ANSWER: Final = "answer"
"""The key of a document's metadata that makes it a worked example: what was answered, word for word."""
ASKED: Final = "asked"
"""The whole user turn, where it shows more than the question: the passages above it, a schema."""
SPLIT: Final = "split"
TRAIN: Final = "train"
"""The only split whose answers may be shown."""
OURS: Final = ("_id", "title", "text", ANSWER, ASKED)
CHAT: Final = '[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'


def is_worked(meta: Row) -> bool:
    """Whether a document with this metadata is a worked example."""
    return ANSWER in meta


def is_example(row: Row) -> bool:
    """Whether the row is a test set's or a chat, and not yet a corpus's."""
    return "_id" not in row and ("question" in row or "messages" in row)


def corpus_row(row: Row, number: int) -> Row | str:
    """The row of a corpus that the `number`th row of a file makes; or, as a text, why it makes none.

    Of a test set's row the first gold answer is shown. Of a chat, which is `user, assistant` after a system message at
    will, the assistant's words are shown after the user's; the system message is left out, because a strategy brings
    its own. A chat is found by `meta.question`, or else by what the user said.

    >>> corpus_row({"id": "t1", "question": "Is it big?", "answers": ["no", "No."], "meta": {"hardness": "easy"}}, 1)
    {'hardness': 'easy', '_id': 't1', 'title': '', 'text': 'Is it big?', 'answer': 'no'}
    """
    meta = row.get("meta", {})
    if not isinstance(meta, Mapping):
        return 'the "meta" is no object of keys and values'
    taken = [key for key in OURS if key in meta]
    if taken:
        return f"meta.{taken[0]} would be taken for the document's own {taken[0]!r}: rename it"
    if "messages" in row:
        return _from_chat(row["messages"], meta, number)
    return _from_example(row, meta)


def held_out(row: Row) -> str:
    """Why a row of a corpus may not be shown with its answer; empty when it may, and for what is no worked example."""
    split = row.get(SPLIT, TRAIN)
    if not is_worked(row) or split == TRAIN:
        return ""
    return f'is of the split {split!r}: showing its answer would give the split away. Show those of "{TRAIN}"'


def shown(passage: Passage) -> str:
    """All of a passage that a prompt shows: of a worked example its turn and its answer."""
    if not is_worked(passage.meta):
        return passage.searchable
    return f"{passage.meta.get(ASKED, passage.text)}\n{passage.meta[ANSWER]}"


def _from_example(row: Row, meta: Row) -> Row | str:
    question, answers = row.get("question"), row.get("answers")
    if not _is_text(question):
        return 'a worked example needs a "question" that is text'
    if not isinstance(answers, Sequence) or isinstance(answers, str) or not answers or not _is_text(answers[0]):
        return f'the worked example {row.get("id")!r} needs "answers", a list of texts, of which the first is shown'
    if not isinstance(row.get("id"), str | int) or row["id"] == "":
        return 'a worked example needs an "id" that is text'
    return {**meta, "_id": row["id"], "title": "", "text": question, ANSWER: answers[0]}


def _from_chat(messages: Any, meta: Row, number: int) -> Row | str:
    try:
        turns = [(turn["role"], turn["content"]) for turn in messages]
    except (KeyError, TypeError):
        turns = []
    said = turns[1:] if turns and turns[0][0] == "system" else turns
    if [role for role, _ in said] != ["user", "assistant"] or not all(_is_text(content) for _, content in said):
        return f"a worked chat is one question and its answer, both text: {CHAT}, after a system message at will"
    (_, asked), (_, answer) = said
    rest = {key: value for key, value in meta.items() if key not in ("id", "question")}
    found_by = meta.get("question", asked)
    return {**rest, "_id": meta.get("id", str(number)), "title": "", "text": found_by, ANSWER: answer, ASKED: asked}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
