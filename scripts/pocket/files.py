"""Write a world as files: the corpus, disjoint splits of questions, judgements, and the settings that put it to the test.

The same seed writes the same files. Knows nothing of models; `python -m scripts.pocket.files --seed 0 --out out/demo/world`.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import Template
from typing import Any, Final

from retrieval.console import Parser
from retrieval.files import write_atomically, write_jsonl
from scripts.pocket.general import write_general
from scripts.pocket.notices import NOTICES
from scripts.pocket.world import KINDS, Entry, Notice, Question, World, make_world

SETTINGS: Final = Path(__file__).parent / "settings"
"""stack, task, grid and training-chat settings of the demo; `$name` in them is the demo's name."""


@dataclass(frozen=True, slots=True)
class Split:
    """How large a split's world is, which notices it holds, and how many questions of each slice it asks."""

    name: str
    entries: int
    topics: range
    questions: Mapping[str, int]


TOPICS: Final = len(NOTICES)
SPLITS: Final = (
    Split("train", 220, range(16), {"fact": 220, "code": 80, "clash": 70, "updated": 80, "two_part": 90, "count": 20, "paraphrase": 16, "unanswerable": 64}),
    Split("dev", 50, range(16, 24), {"fact": 26, "code": 8, "clash": 8, "updated": 8, "two_part": 10, "count": 4, "paraphrase": 8, "unanswerable": 8}),
    Split("shown", 8, range(0), {"fact": 1, "two_part": 1, "unanswerable": 1}),
    Split("test", 150, range(24, TOPICS), {"fact": 56, "code": 30, "clash": 30, "updated": 30, "two_part": 30, "count": 10, "paraphrase": 24, "unanswerable": 30}),
)  # fmt: skip


def make_splits(seed: int) -> dict[str, World]:
    """A world a split; no name of a register stands in two of them, so nothing learnt in one answers another."""
    worlds: dict[str, World] = {}
    taken: set[str] = set()
    for split in SPLITS:
        for attempt in range(1000):
            world = make_world(Random(f"world-{seed}-{split.name}-{attempt}"), split.entries, split.topics)
            names = {page.name for page in world.documents if isinstance(page, Entry)}
            if not names & taken:
                break
        taken |= names
        worlds[split.name] = world
    return worlds


def corpus_rows(worlds: Mapping[str, World], seed: int) -> list[dict[str, Any]]:
    """All documents of all splits in one corpus, shuffled: the test's pages lie among the others."""
    rows = [_document(page) for world in worlds.values() for page in world.documents]
    Random(f"corpus-{seed}").shuffle(rows)
    return rows


def registers(worlds: Mapping[str, World]) -> bytes:
    """The entries of all splits as an SQLite file: a table for each register, for questions that no page answers."""
    with closing(sqlite3.connect(":memory:")) as database:
        for kind in KINDS:
            columns = ("name", "year", *(field.key for field in kind.fields))
            table = f"{kind.noun}s"
            database.execute(f"CREATE TABLE {table} (name TEXT, year INTEGER, {' TEXT, '.join(columns[2:])} TEXT)")
            pages = (page for world in worlds.values() for page in world.documents if isinstance(page, Entry))
            rows = [(one.name, one.year, *map(dict(one.values).get, columns[2:])) for one in pages if one.kind is kind]
            database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", sorted(rows, key=str))
        database.commit()
        return database.serialize()


def question_rows(split: Split, world: World, seed: int) -> Iterator[dict[str, Any]]:
    """Examples in the test-set format; where a slice has too few questions, there are fewer."""
    random = Random(f"questions-{seed}-{split.name}")
    number = 0
    for slice_, count in split.questions.items():
        pool = [q for q in world.questions if q.slice == slice_]
        for question in random.sample(pool, min(count, len(pool))):
            number += 1
            yield _example(f"{split.name}-{number:03d}", question)


def judgements(rows: Iterable[Mapping[str, Any]]) -> str:
    """The evidence of each question as a BEIR qrels file, so that search can be measured, and learnt, without answers."""
    lines = [f"{row['id']}\t{document}\t1" for row in rows for document in row["evidence"]]
    return "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"


def _document(page: Entry | Notice) -> dict[str, Any]:
    row: dict[str, Any] = {"_id": page.id, "title": page.title, "text": page.text}
    return row | ({"domain": page.kind.domain, "year": page.year} if isinstance(page, Entry) else {"domain": "house"})


def _example(called: str, question: Question) -> dict[str, Any]:
    meta: dict[str, Any] = {"slice": question.slice, "domain": question.domain}
    if not question.answer:
        meta["unanswerable"] = True
    answers = [question.answer] if question.answer else ["unknown", "I do not know"]
    return {
        "id": called,
        "question": question.text,
        "answers": answers,
        "evidence": list(question.evidence),
        "meta": meta,
    }


def write_world(seed: int, folder: Path) -> None:
    """Write everything the demo reads; `folder` is `out/NAME/world`, and NAME names its index and adapter too."""
    worlds = make_splits(seed)
    write_jsonl(folder / "corpus.jsonl", corpus_rows(worlds, seed))
    write_atomically(folder / "registers.sqlite", registers(worlds))
    questions = {split.name: list(question_rows(split, worlds[split.name], seed)) for split in SPLITS}
    for name, rows in questions.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
        write_atomically(folder / "qrels" / f"{name}.tsv", judgements(rows))
    write_jsonl(
        folder / "queries.jsonl",
        # What a test set says of its questions, so that search can be measured slice by slice.
        ({"_id": row["id"], "text": row["question"], **row["meta"]} for rows in questions.values() for row in rows),
    )
    write_general(seed, folder)
    for template in sorted(SETTINGS.glob("*.yaml")):
        text = Template(template.read_text(encoding="utf-8")).substitute(name=folder.resolve().parent.name)
        write_atomically(folder / template.name, text)


def main() -> None:
    parser = Parser(
        description="Write the demo's world.",
        epilog="example: python -m scripts.pocket.files --seed 0 --out out/demo/world",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed has other names, facts and questions (default: 0)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo/world"))
    options = parser.parse_args()
    write_world(options.seed, options.out)
    print(f"wrote {options.out}; read {options.out}/test.jsonl to see what is asked")


if __name__ == "__main__":
    main()
