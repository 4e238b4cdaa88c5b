"""Does the contamination matrix find what is planted, and leave clean data alone? Recall and precision for each kind.

    python -m scripts.check_leaks out/demo/world DATA/banking77 DATA/spider DATA/xquad.json

A data set is a folder with train and test or dev (`.jsonl`, `.csv` or `.json`; a `corpus.jsonl` is its corpus), or a
file in SQuAD's format, whose passages are the corpus and whose articles are halved. Paraphrases and translations are
those of scripts/rewritten.jsonl, written by hand, because no rule makes a real one.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from eval.leaks import Check, Leaks, Sighting, blocks, check
from eval.material import Kind, Material
from eval.task import Example
from retrieval.embed import Embedder, locate
from retrieval.files import FileError, read_jsonl
from train.literals import SQL_TOKENS, masked
from train.overlap import Embedder as Embed
from train.overlap import Text, text_of

REWRITTEN: Final = Path(__file__).with_name("rewritten.jsonl")
PLANTED: Final = 200
"""Questions of each data set that are planted, for each kind."""
LISTED: Final = 5
"""Alarms on clean data that are printed."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Questions to train on, questions to test with, and pages to search; whoever made it meant them to be apart."""

    name: str
    training: tuple[Text, ...]
    tests: tuple[Example, ...]
    corpus: tuple[Text, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)
    """Place of a training question -> its answer, where the data has one."""

    @cached_property
    def gold(self) -> Mapping[str, str]:
        """Test question -> its answer."""
        return {one.id: one.answers[0].casefold() for one in self.tests}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of planting one kind."""

    kind: str
    data: str
    planted: int
    found: int
    """Planted questions that were flagged."""
    looked: int
    """Others of them that were listed, to look at."""
    rows: int
    """Texts that were flagged, planted or not."""
    false: int
    """Those of them that nobody planted and whose answer, where they have one, is not that of the test question."""


# --- the kinds


def as_it_is(question: str, draw: Random) -> str:
    """The same words in other case, spacing and marks."""
    return draw.choice([question.upper(), question.lower().rstrip("?."), f"  {question.replace(' ', '  ')} !"])


def nearly(question: str, draw: Random) -> str:
    """One word misspelt, or words of politeness more."""
    words = question.split(" ")
    long = [n for n, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long or draw.random() < 0.3:
        return f"Please, {question}"
    n = draw.choice(long)
    k = draw.randrange(1, len(words[n]) - 2)
    words[n] = words[n][:k] + words[n][k + 1] + words[n][k] + words[n][k + 2 :]
    return " ".join(words)


def other_literals(sql: str) -> str:
    """The same query for other values."""

    def other(token: str) -> str:
        if token.isdigit():
            return str(int(token) + 7)
        return f"{token[0]}something else{token[0]}" if token[0] in "'\"" else token

    return " ".join(map(other, SQL_TOKENS.findall(sql)))


def page(example: Example, draw: Random, corpus: Sequence[Text]) -> str:
    """A page of the corpus into which somebody pasted the question with its answer."""
    around = draw.choice(corpus).question if corpus else "Notes of the week."
    parted = draw.choice([" ", "\n"])
    return f"{around}\n{example.question}{parted}{example.answers[0]}\n{around}"


def plant(data: DataSet, embed: Embed | None) -> Iterator[Tried]:
    """Every kind that the data set has room for."""
    draw = Random(0)
    chosen = draw.sample(data.tests, min(PLANTED, len(data.tests)))

    def rows(of: Callable[[str, Random], str]) -> list[Text]:
        return [Text(where=f"planted:{one.id}", question=of(one.question, draw), db_id=_db(one)) for one in chosen]

    yield _tried("exact", data, rows(as_it_is))
    yield _tried("near copy", data, rows(nearly))
    yield _tried("inside a longer prompt", data, rows(lambda text, _: f"Context: none.\nQuestion: {text}\nBe brief."))
    queries = [
        one
        for one in chosen
        if (sql := str(one.meta.get("sql", ""))) and other_literals(sql) != sql and "?" in masked(sql)
    ]
    if queries:
        altered = [
            Text(where=f"planted:{one.id}", question=f"Report {n}", sql=other_literals(one.meta["sql"]), db_id=_db(one))
            for n, one in enumerate(queries)
        ]
        yield _tried("SQL with other literals", data, altered)
    if data.corpus:
        pages = [Text(where=f"planted:{one.id}", question=page(one, draw, data.corpus)) for one in chosen]
        yield _tried("answer in the corpus", data, pages, "corpus")
    for kind in ("paraphrase", "translation"):
        yield _rewritten(kind, data, embed)


def _rewritten(kind: str, data: DataSet, embed: Embed | None) -> Tried:
    """The pairs written by hand, among the questions of the data set."""
    pairs = [row for _, row in read_jsonl(REWRITTEN)]
    tests = tuple(Example(id=f"written-{n}", question=row["question"], answers=("-",)) for n, row in enumerate(pairs))
    planted = [Text(where=f"planted:written-{n}", question=row[kind]) for n, row in enumerate(pairs)]
    mixed = DataSet(name=data.name, training=data.training, tests=(*data.tests, *tests), answers=data.answers)
    return _tried(
        kind + (" (by hand)" if embed is None else " (by hand, with the embedder)"), mixed, planted, embed=embed
    )


def _tried(
    kind: str, data: DataSet, planted: Sequence[Text], of: Kind = "training data", embed: Embed | None = None
) -> Tried:
    own = data.corpus if of == "corpus" else data.training
    found = check(_material(of, (*own, *planted)), data.tests, embed)
    hits = {(one.where, one.id): one.leak for one in found.sightings}
    ours = [f"planted:{one.id}" for one in data.tests]
    flagged = {where for (where, _), leak in hits.items() if leak}
    copies = {one.where for one in found.sightings if _is_alike(data, one)}
    caught = {where for where in ours if hits.get((where, where.partition(":")[2]))}
    seen = {where for where in ours if (where, where.partition(":")[2]) in hits}
    return Tried(
        kind=kind,
        data=data.name,
        planted=len(planted),
        found=len(caught),
        looked=len(seen - caught),
        rows=len(flagged),
        false=len([where for where in flagged - copies if not where.startswith("planted:")]),
    )


# --- the data


def read_data(path: Path) -> DataSet:
    """A data set of one of the forms above; FileError when it has none of them."""
    if path.suffix == ".json":
        return _squad(path)
    train, test = _split(path, "train"), _split(path, "test", "dev")
    rows = {f"{train.name}:{n}": row for n, row in enumerate(_rows(train), start=1)}
    corpus = path / "corpus.jsonl"
    pages = read_jsonl(corpus) if corpus.is_file() else ()
    return DataSet(
        name=path.resolve().name if path.name != "world" else path.resolve().parent.name,
        training=tuple(text for where, row in rows.items() if (text := text_of(where, row))),
        answers={where: row["answers"][0] for where, row in rows.items() if "answers" in row},
        tests=tuple(_example(row, n) for n, row in enumerate(_rows(test), start=1)),
        corpus=tuple(
            Text(where=f"{corpus.name}:{n}", question=f"{row.get('title', '')}\n{row['text']}") for n, row in pages
        ),
    )


def _split(folder: Path, *names: str) -> Path:
    for name in names:
        for ending in ("jsonl", "csv", "json"):
            if (found := folder / f"{name}.{ending}").is_file():
                return found
    raise FileError(f"{folder}: there is no {' or '.join(names)} here (.jsonl, .csv or .json)")


def _rows(file: Path) -> list[dict[str, Any]]:
    """As a test set has them: `question`, `answers`, `meta`."""
    with file.open(encoding="utf-8", newline="") as stream:
        is_list = stream.read(1) == "["
        stream.seek(0)
        if file.suffix == ".csv":
            return [_row(row) for row in csv.DictReader(stream)]
        rows = json.load(stream) if is_list else [row for _, row in read_jsonl(file)]
    return [row if "answers" in row or "messages" in row else _row(row) for row in rows]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    answer = next(str(row[key]) for key in ("query", "category", "logical_form", "answer") if key in row)
    meta = {"db_id": row["db_id"], "sql": row["query"]} if "db_id" in row else {"label": row.get("category", "")}
    return {"question": row.get("question") or row["text"], "answers": [answer], "meta": meta}


def _example(row: Mapping[str, Any], number: int) -> Example:
    return Example(
        id=str(row.get("id", f"test-{number}")),
        question=row["question"],
        answers=tuple(row["answers"]),
        meta=row.get("meta", {}),
    )


def _squad(file: Path) -> DataSet:
    articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    halves = [
        [asked for article in articles[half::2] for part in article["paragraphs"] for asked in part["qas"]]
        for half in (0, 1)
    ]
    return DataSet(
        name=file.stem,
        training=tuple(Text(where=one["id"], question=one["question"]) for one in halves[0]),
        tests=tuple(
            Example(id=one["id"], question=one["question"], answers=tuple(a["text"] for a in one["answers"]))
            for one in halves[1]
        ),
        corpus=tuple(
            Text(where=f"passage {n}", question=part["context"])
            for n, part in enumerate(part for article in articles for part in article["paragraphs"])
        ),
    )


def _db(example: Example) -> str:
    return str(example.meta.get("db_id", ""))


def _material(kind: Kind, texts: tuple[Text, ...]) -> Material:
    return Material(kind=kind, used_by=("planted",), place="memory", texts=texts)


# --- what is printed


def clean(data: DataSet) -> tuple[Check, ...]:
    """The data as it came."""
    return tuple(
        check(_material(kind, texts), data.tests)
        for kind, texts in (("training data", data.training), ("corpus", data.corpus))
        if texts
    )


def _tell_clean(data: DataSet) -> None:
    started = time.perf_counter()
    found = clean(data)
    seconds = time.perf_counter() - started
    for one in found:
        blocked = [hit for hit in one.sightings if hit.leak]
        print(
            f"| {data.name} | {one.material.kind} | {len(one.material.texts):,} x {len(data.tests):,} | "
            f"{_counts(one.counts)} | {_alike(data, one)} | {_counts(one.doubts)} | "
            f"{'yes' if blocks(Leaks(checks=(one,))) else 'no'} |"
        )
        for hit in islice(blocked, LISTED):
            print(f"    {hit.kind} {hit.score:.2f}: {hit.question!r} ~ {hit.where}: {hit.seen!r}", file=sys.stderr)
    print(f"    {data.name}: {seconds:.1f} s", file=sys.stderr)


def _alike(data: DataSet, found: Check) -> str:
    """How many of the flagged questions have the answer of a text that flags them: a sign that they are the same."""
    same = {one.id for one in found.sightings if _is_alike(data, one)}
    return f"{len(same & found.flagged)} of {len(found.flagged)}" if data.answers and found.flagged else ""


def _is_alike(data: DataSet, hit: Sighting) -> bool:
    return data.answers.get(hit.where, "").casefold() == data.gold[hit.id]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "0"


def _tell(one: Tried) -> None:
    precision = f"{(one.rows - one.false) / one.rows:.3f}" if one.rows else "none flagged"
    print(
        f"| {one.kind} | {one.data} | {one.planted} | {one.found / one.planted:.3f} | "
        f"{(one.found + one.looked) / one.planted:.3f} | {precision} | {one.false} |"
    )


def main() -> int:
    """Print both tables; 1 when a data set cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA")
    parser.add_argument("--embedder", metavar="MODEL", help="compare paraphrases and translations in meaning as well")
    options = parser.parse_args()
    try:
        sets = [read_data(path) for path in options.data]
    except FileError as error:
        print(error, file=sys.stderr)
        return 1
    print("| data as it came | material | texts x questions | flagged | answered alike | to look at | blocks |")
    print("|---|---|---|---|---|---|---|")
    for data in sets:
        _tell_clean(data)
    print("\n| planted | among | n | recall | with those to look at | precision | others flagged, answered otherwise |")
    print("|---|---|--:|--:|--:|--:|--:|")
    embed = Embedder(locate(options.embedder)).passages if options.embedder else None
    for data in sets:
        for one in plant(data, embed):
            _tell(one)
    return 0


if __name__ == "__main__":
    sys.exit(main())
