"""Questions over databases with their SQL as files: Spider (Yu et al. 2018), BIRD, or a table of one's own.

    python -m scripts.spider ../spider && make spider

What is asked becomes a test set, whose evidence is the tables of the gold query and whose slices are Spider's levels of
difficulty; what may be learnt or shown becomes worked examples; each table becomes a document in each style. A question
whose gold query reads an empty table is left out, since whatever is answered to it comes to the same. Reads a folder
with `dev.json` (and `train.json`, `dev_hardness.json`) and a folder of SQLite files; knows nothing of models.
"""

import csv
import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from retrieval.console import Parser
from retrieval.databases import DATABASES as SUFFIXES
from retrieval.databases import STYLE, STYLES, Style, read_tables
from retrieval.documents import read_documents
from retrieval.files import FileError, read_jsonl, read_text, write_atomically, write_jsonl
from retrieval.masking import NAMES
from retrieval.passage import Document
from scripts.hardness import hardness, tables_of, words_of

OUT: Final = Path(__file__).parents[1] / "out" / "spider" / "data"
DATABASES: Final = ("database", "databases", "dev_databases", "train_databases")
"""What the folder of databases is called, by Spider and by BIRD."""
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "question": ("question",),
    "sql": ("query", "SQL", "sql", "answer"),
    "database": ("db_id", "db"),
    "hardness": ("hardness", "difficulty"),
    "hint": ("evidence", "external_knowledge"),
}
"""What the fields of a row are called, the first name that it has: Spider's, BIRD's, a table's."""
HALVES: Final = ("a", "b")
PLAIN: Final = frozenset(
    ("a", "all", "and", "as", "by", "for", "has", "in", "is", "no", "of", "on", "or", "the", "to", "with")
)
"""Words that parts of names are called, and that say in a question what is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with its gold query."""

    id: str
    question: str
    sql: str
    database: str
    hardness: str
    tables: tuple[str, ...] = ()
    """The documents of the tables that it reads."""


class Database(NamedTuple):
    """What is known of one, by the names in small letters."""

    tables: Mapping[str, str]
    """A table's name -> its document."""
    names: frozenset[str]
    """The words of which the names of its tables and columns are made."""


def read_asked(path: Path, levels: Sequence[str] = ()) -> list[Asked]:
    """Each question of a JSON list, of JSONL or of a CSV file; `levels` are their hardness, in the same order.

    FileError names the rows that are none, and is raised where levels and questions differ in number.
    """
    rows = list(_rows(path))
    if levels and len(levels) != len(rows):
        raise FileError(f"{path}: {len(rows)} questions, but {len(levels)} levels of hardness beside it")
    found: list[Asked] = []
    for number, row in enumerate(rows):
        given = {field: _first(row, names) for field, names in KEYS.items()}
        if lacking := [KEYS[field][0] for field in ("question", "sql", "database") if not given[field]]:
            raise FileError(f"{path}: question {number + 1} has no {' and no '.join(lacking)}")
        hint = f" ({given['hint']})" if given["hint"] else ""
        found.append(
            Asked(
                id=f"{path.stem}-{number:05d}",
                question=f"{given['question']}{hint}",
                sql=given["sql"].rstrip("; \n"),
                database=given["database"],
                hardness=levels[number] if levels else given["hardness"] or hardness(given["sql"]),
            )
        )
    return found


def founded(asked: Iterable[Asked], databases: Mapping[str, Database]) -> list[Asked]:
    """The questions with the tables that they are about; FileError for a database that is not there."""
    found = []
    for one in asked:
        if one.database not in databases:
            raise FileError(f"{one.id}: there is no database {one.database!r}; there are: {', '.join(databases)[:300]}")
        known = databases[one.database].tables
        found.append(replace(one, tables=tuple(known[name] for name in tables_of(one.sql) if name in known)))
    return found


def examples(asked: Iterable[Asked], databases: Mapping[str, Database]) -> Iterator[dict[str, Any]]:
    """A row of a test set for each. `shown`: the halves of which worked examples may be shown to it; here, of both."""
    for one in asked:
        names = [word for word in words_of(one.question) if _is_named(word, databases[one.database].names)]
        meta = {"slice": one.hardness, "cluster": one.database, "db_id": one.database, "hardness": one.hardness}
        yield {
            "id": one.id,
            "question": one.question,
            "answers": [one.sql],
            "evidence": list(one.tables),
            "meta": {**meta, NAMES: names, "shown": list(HALVES)},
        }


def lessons(asked: Sequence[Asked], databases: Mapping[str, Database]) -> Iterator[dict[str, Any]]:
    """The same of questions to learn from, each shown only what the other half of the databases has.

    A question of a training set often has a twin with the same query: were the twin shown, there would be nothing to
    learn but to copy it, and a test question has none.
    """
    order = sorted({one.database for one in asked})
    for row in examples(asked, databases):
        mine = order.index(row["meta"]["db_id"]) % len(HALVES)
        others = [half for place, half in enumerate(HALVES) if place != mine]
        yield row | {"meta": {**row["meta"], "split": "train", "half": HALVES[mine], "shown": others}}


def corpus(documents: Iterable[Document]) -> Iterator[dict[str, Any]]:
    for one in documents:
        yield {"_id": one.id, "title": one.title, "text": one.text, **one.meta}


def queries(asked: Iterable[Asked]) -> Iterator[dict[str, Any]]:
    for one in asked:
        yield {"_id": one.id, "text": one.question, "db_id": one.database, "slice": one.hardness}


def judgements(asked: Iterable[Asked]) -> Iterator[str]:
    """The lines of a BEIR qrels file: relevant are the tables of the gold query."""
    yield "query-id\tcorpus-id\tscore\n"
    for one in asked:
        yield from (f"{one.id}\t{table}\t1\n" for table in one.tables)


def known(documents: Iterable[Document]) -> dict[str, Database]:
    """What there is, by database."""
    tables: dict[str, dict[str, str]] = {}
    names: dict[str, set[str]] = {}
    for one in documents:
        database = one.meta["db_id"]
        tables.setdefault(database, {})[one.meta["table"].lower()] = one.id
        names.setdefault(database, set()).update(*map(words_of, (one.meta["table"], *one.meta["columns"])))
    return {name: Database(tables[name], frozenset(map(_stem, names[name]))) for name in tables}


def empty_tables(folder: Path, databases: Mapping[str, Database]) -> frozenset[str]:
    """The documents of the tables that have no row."""
    files = (file for kind in SUFFIXES for file in folder.rglob(f"*{kind}") if file.stem in databases)
    empty = ((file.stem, table.name.lower()) for file in files for table in read_tables(file) if not table.rows)
    return frozenset(databases[name].tables[table] for name, table in empty)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".jsonl":
        yield from (row for _, row in read_jsonl(path))
        return
    if path.suffix == ".csv":
        yield from csv.DictReader(read_text(path).splitlines(keepends=True))
        return
    try:
        rows = json.loads(read_text(path))
    except ValueError as error:
        raise FileError(f"{path}: is no JSON ({error})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FileError(f"{path}: is no list of questions, each an object with question, query and db_id")
    yield from rows


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The value under the first of these keys that has one."""
    return next((str(row[name]).strip() for name in names if row.get(name)), "")


def _is_named(word: str, names: frozenset[str]) -> bool:
    return word.lower() not in PLAIN and len(word) > 1 and _stem(word) in names


def _stem(word: str) -> str:
    """Small, and of one or of many.

    >>> _stem("Countries"), _stem("singers"), _stem("address")
    ('country', 'singer', 'address')
    """
    small = word.lower()
    if small.endswith("ies"):
        return f"{small[:-3]}y"
    return small[:-1] if small.endswith("s") and not small.endswith(("ss", "us", "is")) else small


def main() -> int:
    parser = Parser(
        description="Write questions over databases as files.", epilog="example: python -m scripts.spider ../spider"
    )
    parser.add_argument("folder", type=Path, help="the folder with dev.json, train.json and the databases")
    parser.add_argument(
        "--test", default="dev.json", help="the questions to ask (.json, .jsonl, .csv; default: dev.json)"
    )
    parser.add_argument(
        "--train", default="train.json", help="those to learn from, if there are any (default: train.json)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="where to write (default: out/spider/data)")
    try:
        for line in _written(parser.parse_args()):
            print(line)
    except FileError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _written(given: Namespace) -> Iterator[str]:
    """Write the files; a sentence for each thing to know."""
    folder, out = given.folder, given.out
    places = [folder / name for name in DATABASES if (folder / name).is_dir()] or [folder]
    _link(out / "databases", places[0])
    tables = {style: _tables(places, style) for style in STYLES}
    for style, documents in tables.items():
        write_jsonl(out / f"{style}.jsonl", corpus(documents))
    databases = known(tables[STYLE])
    levels = _levels(folder / f"{Path(given.test).stem}_hardness.json")
    published = founded(read_asked(folder / given.test, levels), databases)
    empty = frozenset(table for place in places for table in empty_tables(place, databases))
    test = [one for one in published if not empty.intersection(one.tables)]
    train = founded(read_asked(folder / given.train), databases) if (folder / given.train).is_file() else []
    write_jsonl(out / "test.jsonl", examples(test, databases))
    if train:
        write_jsonl(out / "train.jsonl", lessons(train, databases))
    write_jsonl(out / "queries.jsonl", queries(test))
    write_atomically(out / "qrels" / "test.tsv", "".join(judgements(test)))
    if vacuous := [one.id for one in published if empty.intersection(one.tables)]:
        yield f"left out {len(vacuous)} questions whose query reads a table without rows: {', '.join(vacuous)}"
    if unfounded := [one.id for one in (*test, *train) if not one.tables]:
        named = ", ".join(unfounded[:5])
        yield f"{len(unfounded)} questions have no evidence, since no known table is in their query: {named}"
    if levels:
        agree = sum(hardness(one.sql) == one.hardness for one in published)
        yield f"hardness by rule, which is all that other questions have: as published for {agree} of {len(published)}"
    counted = ", ".join(f"{count} {level}" for level, count in Counter(one.hardness for one in test).most_common())
    what = f"{len(test)} questions to ask ({counted}) and {len(train)} to learn from"
    yield f"wrote {what}, {len(databases)} databases, to {out}; next: make spider"


def _tables(places: Sequence[Path], style: Style) -> list[Document]:
    """The tables in these folders; what else lies there is no schema."""
    return [one for place in places for one in read_documents(place, tables=style) if "db_id" in one.meta]


def _link(place: Path, databases: Path) -> None:
    """Where scorers find the databases, which stay where they are."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and not place.is_symlink():
        raise FileError(f"{place}: is here and no link that this program made: move it away")
    place.unlink(missing_ok=True)
    place.symlink_to(databases.resolve(), target_is_directory=True)


def _levels(path: Path) -> list[str]:
    """The published hardness of each question, where there is such a file."""
    try:
        return [str(level) for level in json.loads(read_text(path))] if path.is_file() else []
    except (ValueError, TypeError) as error:
        raise FileError(f"{path}: is no JSON list of levels ({error})") from None


if __name__ == "__main__":
    raise SystemExit(main())
