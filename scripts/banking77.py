"""Banking77 (Casanueva et al. 2020) as files: training questions to learn from or to show, 3,080 to be asked.

A test set, and a BEIR folder in which the training questions of a test question's intent are relevant to it. Training
questions that the test asks too are left out. Reads a folder with the published train.csv and test.csv
(`scripts/fetch.py` can bring one). Knows nothing of models.
    python -m scripts.banking77 ../banking77 && make banking77
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from retrieval.console import Parser
from retrieval.files import FileError, write_atomically, write_jsonl
from train.overlap import Text, check

OUT: Final = Path(__file__).parents[1] / "out" / "banking77" / "data"


class Row(NamedTuple):
    """A customer's question."""

    id: str
    """Its place in the published file: `train-00000` is the first."""
    text: str
    intent: str


def read_questions(folder: Path, split: str) -> list[Row]:
    """Each row of `SPLIT.csv`; FileError names the rows that are none."""
    path = folder / f"{split}.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise FileError(
            f"{path}: cannot be read ({error.strerror}); give the folder that holds train.csv and test.csv"
        ) from None
    bad = [n for n, row in enumerate(rows, start=2) if not row.get("text") or not row.get("category")]
    if bad or not rows:
        raise FileError(f"{path}:{bad[0] if bad else 1}: expected the columns text and category, both filled")
    return [Row(f"{split}-{n:05d}", row["text"].strip(), row["category"]) for n, row in enumerate(rows)]


def without_copies(train: Sequence[Row], test: Sequence[Row]) -> list[Row]:
    """The training questions that the test does not ask, in these words or nearly (see `train.overlap`)."""
    ours, theirs = ([Text(where=row.id, question=row.text) for row in rows] for rows in (train, test))
    copies = {one.train.where for one in check(ours, theirs).refused}
    return [row for row in train if row.id not in copies]


def examples(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {"id": row.id, "question": row.text, "answers": [row.intent], "meta": {"slice": _slice(row)}}


def documents(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """A training question with its answer is a document: retrieved, it becomes a demonstration."""
    for row in rows:
        yield {"_id": row.id, "title": "", "text": row.text, "answer": row.intent}


def queries(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield {"_id": row.id, "text": row.text, "slice": _slice(row)}


def judgements(asked: Sequence[Row], shown: Sequence[Row]) -> Iterator[str]:
    """The lines of a BEIR qrels file: relevant is every training question of the same intent."""
    same: dict[str, list[str]] = defaultdict(list)
    for row in shown:
        same[row.intent].append(row.id)
    yield "query-id\tcorpus-id\tscore\n"
    for row in asked:
        yield from (f"{row.id}\t{document}\t1\n" for document in same[row.intent])


def _slice(row: Row) -> str:
    return row.intent.split("_")[0]


def main() -> int:
    parser = Parser(description="Write Banking77 as files.", epilog="example: python -m scripts.banking77 ../banking77")
    parser.add_argument("folder", type=Path, help="the folder with train.csv and test.csv")
    folder = parser.parse_args().folder
    try:
        published, test = (read_questions(folder, split) for split in ("train", "test"))
        train = without_copies(published, test)
        write_jsonl(OUT / "train.jsonl", examples(train))
        write_jsonl(OUT / "test.jsonl", examples(test))
        write_jsonl(OUT / "corpus.jsonl", documents(train))
        write_jsonl(OUT / "queries.jsonl", queries(test))
        write_atomically(OUT / "qrels" / "test.tsv", "".join(judgements(test, train)))
    except FileError as error:
        print(error, file=sys.stderr)
        return 1
    left_out = f"left out {len(published) - len(train)} training questions that the test asks too"
    print(f"wrote {len(train)} training and {len(test)} test questions to {OUT}; {left_out}; next: make banking77")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
