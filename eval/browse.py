"""Every answer of a run, for the table at the end of the report: files of data beside the page, read when wanted.

    report_data/table-HASH.js         the program (browse.js)
    report_data/index-HASH.js         the questions, and the score and leaf of each answer
    report_data/answers-NNN-HASH.js   prompts, sources and answers of some questions, each text once

They are scripts, because a page that is opened from a disk may read nothing else. Names have the hash of the content:
the page names those that belong to it, and a death at any moment leaves the old page with its old files. Takes all
figures from the Analysis; knows nothing of how the table looks.
"""

import hashlib
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from eval.analysis import Analysis
from eval.blame import MEANING, WRONG, Leaf
from eval.leaks import Leaks
from eval.record import Failure, Record
from eval.screening import by_lot
from eval.task import Example
from retrieval.files import write_atomically
from serve.chat import Message
from serve.combination import Combination

FOLDER: Final = "report_data"
SCRIPT: Final = Path(__file__).with_suffix(".js")
LONGEST: Final = 300
"""Characters of a question in the index; the whole of it stands beside its answers."""
ENOUGH: Final = 200_000
"""Characters after which a file of answers ends: what is read, whole, when one answer is opened."""
ANSWER: Final = 70
"""Characters that an answer takes, about, its texts aside."""
MOST: Final = 100_000
"""Questions in the table: a browser that is to look through them in a tenth of a second can have no more."""
CODES: Final = dict(zip(MEANING, "abcdefghijklmnopqrstuvwxyz", strict=False))
"""A letter for each leaf: the index has as many as the run has answers."""
NOT_ASKED: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files of one page, by their names in FOLDER."""

    program: str
    index: str
    answers: tuple[str, ...]

    @property
    def scripts(self) -> tuple[str, str]:
        """What the page loads at once, as seen from it."""
        return f"{FOLDER}/{self.program}", f"{FOLDER}/{self.index}"


def write_answers(analysis: Analysis, folder: Path) -> Written:
    """Write what is not there yet, beside the files of the page that stands."""
    data, examples = folder / FOLDER, in_table(analysis.results.examples)
    parts: list[tuple[int, str]] = []
    for first, chunk in _chunks(analysis, examples):
        parts.append((first, _write(data, f"answers-{len(parts):03d}", _call("answers", len(parts), chunk))))
    return Written(
        program=_write(data, "table", SCRIPT.read_text(encoding="utf-8")),
        index=_write(data, "index", _call("index", _index(analysis, examples), parts)),
        answers=tuple(name for _, name in parts),
    )


def in_table(examples: Sequence[Example]) -> Sequence[Example]:
    """The questions that the table has, in the order of the test set: all, or as many as it can have, drawn by lot."""
    if len(examples) <= MOST:
        return examples
    drawn = set(by_lot(examples)[:MOST])
    return tuple(one for one in examples if one.id in drawn)


def remove_outdated(folder: Path, written: Written) -> None:
    """Remove the files of other pages, once the new one stands; what is none of ours stays."""
    kept = {written.program, written.index, *written.answers}
    for file in (folder / FOLDER).iterdir():
        if _OURS.fullmatch(file.name) and file.name not in kept:
            file.unlink()


_OURS: Final = re.compile(r"(table|index|answers-\d+)-[0-9a-f]{12}\.js")


def _write(data: Path, name: str, text: str) -> str:
    file = data / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.js"
    if not file.exists():
        write_atomically(file, text)
    return file.name


def _call(function: str, *arguments: Any) -> str:
    """A script that hands data to the program. What could end a line, a script or the encoding is written in ASCII.

    >>> _call("answers", "</script>\u2028")
    'fulcrum.answers("\\\\u003c/script>\\\\u2028");\\n'
    """
    given = ",".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in arguments)
    return f"fulcrum.{function}({_RISKY.sub(_escaped, given)});\n"


def _escaped(sign: re.Match[str]) -> str:
    return f"\\u{ord(sign[0]):04x}"


_RISKY: Final = re.compile("<(?=[/!])|[\u2028\u2029\ud800-\udfff]")


def _index(analysis: Analysis, examples: Sequence[Example]) -> dict[str, Any]:
    results, flagged = analysis.results, analysis.leaks.flagged
    cells, items = _cells(analysis), [one.id for one in examples]
    slices = list(dict.fromkeys(one.slice for one in examples))
    places = {name: place for place, name in enumerate(slices)}
    return {
        "cells": [str(cell) for cell in cells],
        "baseline": cells.index(results.baseline),
        "scorers": _scorers(analysis),
        "leaves": [[CODES[leaf], leaf, _fault(leaf), meaning] for leaf, meaning in MEANING.items()],
        "slices": slices,
        "questions": [[one.id, one.question[:LONGEST], places[one.slice], int(one.id in flagged)] for one in examples],
        "scores": [_scores(results.records[cell], items, _scorers(analysis)[0]) for cell in cells],
        "codes": ["".join(_code(analysis.blamed[cell].get(item)) for item in items) for cell in cells],
    }


def _cells(analysis: Analysis) -> list[Combination]:
    """In the order of the rows."""
    return [Combination.parse(row.combination) for row in analysis.rows]


def _scorers(analysis: Analysis) -> list[str]:
    """The primary one first."""
    task = analysis.results.config.task
    return [task.primary, *(name for name in task.scorers if name != task.primary)]


def _fault(leaf: Leaf) -> str:
    """The class that gives it its colour."""
    return WRONG[leaf][0].replace(" ", "-") if leaf in WRONG else "right"


def _code(leaf: Leaf | None) -> str:
    return CODES[leaf] if leaf else NOT_ASKED


def _scores(records: Mapping[str, Record], items: Sequence[str], primary: str) -> list[float | None]:
    return [_short(records[item].scores[primary]) if item in records else None for item in items]


def _short(value: float) -> float:
    """With the digits that anybody reads; a whole number as one, which is shorter still."""
    rounded = round(value, 4)
    return int(rounded) if rounded == int(rounded) else rounded


class _Once(dict[Hashable, int]):
    """Things by the place that each got when it was first seen."""

    def place(self, one: Hashable) -> int:
        return self.setdefault(one, len(self))


class _Texts(_Once):
    """The same of texts, with their length in all."""

    length = 0

    def place(self, one: Hashable) -> int:
        self.length += len(str(one)) if one not in self else 0
        return super().place(one)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The answers to some questions: what several of them share, a passage or a whole prompt, stands there once."""

    texts: _Texts = field(default_factory=_Texts)
    prompts: _Once = field(default_factory=_Once)
    sources: _Once = field(default_factory=_Once)
    laid: list[Any] = field(default_factory=list)
    """The prompts by their texts."""
    questions: list[Any] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Of one that has a question; all have an answer, or none, by each combination."""
        return self.texts.length + ANSWER * len(self.questions) * len(self.questions[0]["answers"])

    def record(self, record: Record, scorers: Sequence[str]) -> list[Any]:
        """prompt, sources, text, scores, tokens of the prompt and of the answer, seconds, how it ended; then, where the
        strategy told any, its notes, and what the model wrote in each call."""
        told = [
            {name: _short(value) for name, value in record.notes.items()},
            list(map(self.texts.place, record.steps)),
        ]
        return [
            self._prompt(record.prompt),
            self.sources.place(tuple((self.texts.place(one.passage), _short(one.score)) for one in record.sources)),
            self.texts.place(record.text),
            [_short(record.scores[name]) for name in scorers],
            record.usage.prompt_tokens,
            record.usage.completion_tokens,
            _short(record.seconds),
            self.texts.place(record.finish_reason),
            *(told if record.notes or record.steps else ()),
        ]

    def failure(self, failure: Failure) -> list[Any]:
        return [self.texts.place(failure.reason), failure.attempts]

    def _prompt(self, prompt: tuple[Message, ...]) -> int:
        if prompt not in self.prompts:
            self.laid.append([(turn.role, list(map(self.texts.place, pieces(turn.content)))) for turn in prompt])
        return self.prompts.place(prompt)

    def to_json(self) -> dict[str, Any]:
        return {
            "texts": list(self.texts),
            "prompts": self.laid,
            "sources": list(self.sources),
            "questions": self.questions,
        }


def pieces(text: str) -> list[str]:
    """A prompt, cut where passages begin and end, so that a passage is the same text wherever it stands in a prompt.

    >>> pieces("[S1] Owls hoot.\\n\\nQuestion: Who?")
    ['[S1] ', 'Owls hoot.', '\\n\\n', 'Question: Who?']
    """
    mark = _MARK.match(text)
    start = mark.end() if mark else 0
    return [piece for piece in (text[:start], *_SEAM.split(text[start:])) if piece]


_MARK: Final = re.compile(r"\[S\d+\] ")
_SEAM: Final = re.compile(rf"(\n\n(?:{_MARK.pattern})?)")


def _chunks(analysis: Analysis, examples: Sequence[Example]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The place of the first question of each chunk, and the chunk."""
    sightings = _sightings(analysis.leaks)
    first, chunk = 0, _Chunk()
    for place, example in zip(count(1), examples, strict=False):
        chunk.questions.append(_question(analysis, example, chunk) | {"seen": sightings.get(example.id, [])})
        if chunk.size > ENOUGH:
            yield first, chunk.to_json()
            first, chunk = place, _Chunk()
    if chunk.questions:
        yield first, chunk.to_json()


def _question(analysis: Analysis, example: Example, chunk: _Chunk) -> dict[str, Any]:
    results, scorers = analysis.results, _scorers(analysis)

    def answer(cell: Combination) -> list[Any] | None:
        if record := results.records[cell].get(example.id):
            return chunk.record(record, scorers)
        failure = results.failures[cell].get(example.id)
        return chunk.failure(failure) if failure else None

    return {
        "question": example.question,
        "gold": example.answers,
        "evidence": example.evidence,
        "answers": [answer(cell) for cell in _cells(analysis)],
    }


def _sightings(leaks: Leaks) -> dict[str, list[tuple[str, str, str]]]:
    """Where each question was seen before: material, kind of likeness, what stands there."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for check in leaks.checks:
        for one in check.sightings:
            said = one.kind if one.leak else f"{one.kind}, to look at"
            found.setdefault(one.id, []).append((check.material.name, said, one.seen))
    return found
