"""Banking77 (Casanueva et al. 2020) as files: 10,003 training questions to learn from or to show, 3,080 to be asked.

A test set, and a BEIR folder in which the training questions of a test question's intent are relevant to it.

Reads a folder with the published train.csv and test.csv (`scripts/fetch.py` can bring one). Knows nothing of models.
    python -m scripts.banking77 ../banking77 && make banking77
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from retrieval.console import Parser
from retrieval.files import FileError, write_atomically, write_jsonl

OUT: Final = Path(__file__).parents[1] / "out" / "banking77" / "data"


def read_questions(path: Path) -> list[tuple[str, str]]:
    """(question, intent) of each row; FileError names the rows that are not."""
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
    return [(row["text"].strip(), row["category"]) for row in rows]


def examples(split: str, questions: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for number, (text, intent) in enumerate(questions):
        yield {
            "id": f"{split}-{number:05d}",
            "question": text,
            "answers": [intent],
            "meta": {"slice": intent.split("_")[0]},
        }


def documents(questions: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """A training question with its answer is a document: retrieved, it becomes a demonstration."""
    for number, (text, intent) in enumerate(questions):
        yield {"_id": f"train-{number:05d}", "title": "", "text": text, "answer": intent}


def queries(asked: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for row in examples("test", asked):
        yield {"_id": row["id"], "text": row["question"], **row["meta"]}


def judgements(asked: list[tuple[str, str]], shown: list[tuple[str, str]]) -> Iterator[str]:
    """The lines of a BEIR qrels file: relevant is every training question of the same intent."""
    same: dict[str, list[int]] = defaultdict(list)
    for number, (_, intent) in enumerate(shown):
        same[intent].append(number)
    yield "query-id\tcorpus-id\tscore\n"
    for query, (_, intent) in enumerate(asked):
        yield from (f"test-{query:05d}\ttrain-{number:05d}\t1\n" for number in same[intent])


def main() -> int:
    parser = Parser(description="Write Banking77 as files.", epilog="example: python -m scripts.banking77 ../banking77")
    parser.add_argument("folder", type=Path, help="the folder with train.csv and test.csv")
    folder = parser.parse_args().folder
    try:
        train, test = (read_questions(folder / name) for name in ("train.csv", "test.csv"))
        write_jsonl(OUT / "train.jsonl", examples("train", train))
        write_jsonl(OUT / "test.jsonl", examples("test", test))
        write_jsonl(OUT / "corpus.jsonl", documents(train))
        write_jsonl(OUT / "queries.jsonl", queries(test))
        write_atomically(OUT / "qrels" / "test.tsv", "".join(judgements(test, train)))
    except FileError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {len(train)} training and {len(test)} test questions to {OUT}; next: make banking77")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
