"""The questions of a BEIR folder with the documents that people marked as relevant to them, and their folds.

Knows nothing of how anything is found.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from retrieval.files import FileError, read_jsonl, read_judgements
from retrieval.passage import Query

Grades: TypeAlias = Mapping[str, int]
"""Document -> how relevant it is, for one query; only what is relevant at all."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A query and the documents that people marked as relevant to it."""

    id: str
    text: str
    grades: Grades
    meta: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """What else its row of `queries.jsonl` says: a slice, a domain."""

    @property
    def query(self) -> Query:
        return Query(self.text, meta=self.meta)


def read_topics(beir: Path, split: str = "") -> list[Topic]:
    """The queries of a BEIR folder that something is relevant to, by `qrels/SPLIT.tsv` or the only file there is."""
    rows = {str(row.get("_id")): row for _, row in read_jsonl(beir / "queries.jsonl")}
    file = _judgements(beir / "qrels", split)
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for query, document, grade in read_judgements(file, rows):
        if grade > 0:
            judged[query][document] = grade
    if not judged:
        raise FileError(f"{file}: no relevant document (query-id, corpus-id and score, with tabs between)")
    return [_topic(rows[query], grades) for query, grades in judged.items()]


def folds(topics: Sequence[Topic], count: int) -> list[list[Topic]]:
    """The topics in `count` parts of about one size; FileError when that leaves a part empty, or only one."""
    if not 2 <= count <= len(topics):
        raise FileError(
            f"--folds {count}: there are {len(topics)} questions; 2 folds at least, and one question in each"
        )
    order = mixed(topics)
    return [order[fold::count] for fold in range(count)]


def mixed(topics: Iterable[Topic]) -> list[Topic]:
    """In the order of a hash: which stand together depends on what they are called, not on where they stood."""
    return sorted(topics, key=lambda topic: hashlib.sha256(topic.id.encode()).digest())


def _topic(row: Mapping[str, Any], grades: Grades) -> Topic:
    meta = {key: value for key, value in row.items() if key not in ("_id", "text")}
    return Topic(str(row["_id"]), str(row.get("text", "")), grades, meta=meta)


def _judgements(folder: Path, split: str) -> Path:
    """The file to measure by. No two are pooled: one of them may be what a model was trained on."""
    files = {file.stem: file for file in sorted(folder.glob("*.tsv"))}
    if split in files:
        return files[split]
    there = ", ".join(files) or "none"
    if split:
        raise FileError(f"{folder}: there are no judgements named {split!r}; there are: {there}")
    if len(files) != 1:
        raise FileError(f"{folder}: name the judgements to measure by with --split; there are: {there}")
    return next(iter(files.values()))
