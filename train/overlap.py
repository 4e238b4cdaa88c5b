"""Which training questions are test questions: copied, inside a longer prompt, misspelt, or with other SQL literals.

`check(read_texts(data), read_texts(test))` finds every pair by an index, not by comparing all. Knows nothing of models
or recipes; nothing heavy is imported. Two questions that share a frame and differ in a name or a number are not a leak.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from sys import intern
from typing import Any, Final

import numpy as np

from retrieval.files import FileError, read_jsonl
from train.literals import masked

EXACT: Final = "same question"
CONTAINED: Final = "contained"
NEAR: Final = "near copy"
SQL: Final = "same SQL but for literals"
MEANING: Final = "close in meaning"
KINDS: Final = (EXACT, CONTAINED, NEAR, SQL, MEANING)
"""The ladder: a pair is told once, by the first that finds it."""

FEWEST, PART, LONG = 4, 6, 13
"""Words. Fewer than FEWEST are looked for as the whole text only; fewer than PART must be a sentence ("Where is my
card" also opens longer questions); up to LONG they must end one; longer questions are found anywhere, and in halves."""
GRAM, COVER = 8, 0.5
"""Of a long question, half of its 8-word runs are enough, ..."""
COMMON_IN_TESTS, COMMON_IN_TRAINING = 2, 10
"""... but runs of more questions than these are phrases (GPT-3's filter has this rule) or the frame of a template."""
TYPOS, COPY = 0.65, 0.85
"""Shared character 3-grams, over all: from TYPOS on, every word must have its like; from COPY on, one side may have
words more."""
CLOSE: Final = 0.95
"""Cosine: with all-MiniLM-L6-v2, questions that share a frame and differ in a name come up to 0.94."""

Words = tuple[str, ...]
Embedder = Callable[[list[str]], Any]
"""Texts -> an array of unit vectors."""
Hits = Iterable[tuple[int, int, float]]
"""(number of the training question, number of the test question, score)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A question of either side."""

    where: str
    """`file:line`"""
    question: str
    sql: str = ""
    db_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A training question and the test question that it is."""

    train: Text
    test: Text
    kind: str
    score: float

    @property
    def other_database(self) -> bool:
        """The same words about different data, which is no leak: it has another answer."""
        return bool(self.train.db_id and self.test.db_id and self.train.db_id != self.test.db_id)

    @property
    def is_leak(self) -> bool:
        """Closeness in meaning alone is for people to judge: embedders hardly see that a name differs."""
        return not self.other_database and self.kind != MEANING

    @property
    def said(self) -> str:
        """Where it is in the test set, and how sure that is."""
        elsewhere = ", other database" if self.other_database else ""
        return f"{self.test.where} ({self.kind}, {self.score:.2f}{elsewhere})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All pairs, in the order of the training data."""

    training: int
    tests: int
    refused: tuple[Overlap, ...]
    listed: tuple[Overlap, ...]
    """To look at: other databases, and what is only close in meaning."""

    @property
    def leaked(self) -> tuple[str, ...]:
        """`file:line` of each row that must not be trained on."""
        return tuple(dict.fromkeys(one.train.where for one in self.refused))

    def refusals(self, field: str = "messages") -> list[str]:
        """A sentence for each leaking row, with its surest pair."""
        return [
            f"{where} {field}: the question is in {said} - remove the row, or set leaks=drop"
            for where, said in _by_row(self.refused)
        ]

    def notes(self, field: str = "messages") -> list[str]:
        """A sentence for each row that is listed only."""
        return [f"{where} {field}: the question resembles {said}" for where, said in _by_row(self.listed)]

    def card(self) -> dict[str, Any]:
        """For `provenance.json`: pairs of each kind that was found, and on how many rows and questions."""
        return {
            "training_rows": self.training,
            "test_questions": self.tests,
            "leaking_rows": len(self.leaked),
            "leaked_questions": len({one.test.where for one in self.refused}),
            "refused": dict(Counter(one.kind for one in self.refused)),
            "listed": dict(Counter(one.kind + ", other database" * one.other_database for one in self.listed)),
        }


def check(training: Sequence[Text], tests: Sequence[Text], embed: Embedder | None = None) -> Report:
    """Everything that the two sides share, at once."""
    found = overlaps(training, tests, embed)
    return Report(
        training=len(training),
        tests=len(tests),
        refused=tuple(one for one in found if one.is_leak),
        listed=tuple(one for one in found if not one.is_leak),
    )


def overlaps(training: Sequence[Text], tests: Sequence[Text], embed: Embedder | None = None) -> tuple[Overlap, ...]:
    """Every pair, once, by the first kind of the ladder that finds it; sorted by training row, then test question."""
    ours, theirs = [read(text.question) for text in training], [read(text.question) for text in tests]
    ladder: list[tuple[str, Hits]] = [
        (EXACT, _equal([one.key for one in ours], [one.key for one in theirs])),
        (CONTAINED, _contained(ours, theirs)),
        (NEAR, _near(ours, theirs)),
        (SQL, _equal([_masked(text) for text in training], [_masked(text) for text in tests])),
    ]
    if embed and training and tests:
        ladder.append((MEANING, _close(training, tests, embed)))
    first: dict[tuple[int, int], tuple[str, float]] = {}
    for kind, hits in ladder:
        for i, j, score in hits:
            first.setdefault((i, j), (kind, score))
    return tuple(
        Overlap(train=training[i], test=tests[j], kind=kind, score=score)
        for (i, j), (kind, score) in sorted(first.items())
    )


def _by_row(pairs: Sequence[Overlap]) -> Iterator[tuple[str, str]]:
    """(training row, its surest pair and how many more it has)"""
    rows: defaultdict[str, list[Overlap]] = defaultdict(list)
    for pair in pairs:
        rows[pair.train.where].append(pair)
    for where, found in rows.items():
        best = min(found, key=lambda one: (KINDS.index(one.kind), -one.score))
        yield where, best.said + (f" and {len(found) - 1} more" if len(found) > 1 else "")


# --- what a question is, whatever way it is written


@dataclass(frozen=True, slots=True)
class Reading:
    """A question as words: without case, punctuation and ways of writing; signs that carry meaning are words."""

    words: Words
    bounds: frozenset[int]
    """Positions between words where a sentence starts or ends."""
    names: frozenset[str]
    """Words with a capital inside a sentence."""

    @property
    def key(self) -> str:
        """Without spaces ("top up", "topup"), except between numbers."""
        return re.sub(r"(?<!\d) | (?!\d)", "", " ".join(self.words))

    @property
    def grams(self) -> frozenset[str]:
        """All its runs of three characters."""
        text = f" {' '.join(self.words)} "
        return frozenset(text[i : i + 3] for i in range(len(text) - 2)) if self.words else frozenset()


def read(question: str) -> Reading:
    """The words of a question and where its sentences part."""
    words: list[str] = []
    bounds, names = {0}, set()
    for sentence in SENTENCE_ENDS.split(unicodedata.normalize("NFKC", question)):
        # A minus is part of a number; a hyphen is not part of a word.
        found = MINUS.sub(" − ", APOSTROPHE.sub("", sentence)).translate(LETTERS).split()
        names |= {word.casefold() for word in found[1:] if word[0].isupper()}
        words += [intern(word.casefold()) for word in found]  # most stand in many questions
        bounds.add(len(words))
    return Reading(tuple(words), frozenset(bounds), frozenset(names))


class _Letters(dict[int, str]):
    """For `str.translate`: prose punctuation becomes a space, signs and ideographs become words of their own."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        kind = unicodedata.category(letter)
        if kind[0] == "S" or letter in "#%&*/@" or unicodedata.name(letter, "").startswith("CJK UNIFIED"):
            self[code] = f" {letter} "
        else:
            self[code] = " " if kind[0] in "PZC" else letter
        return self[code]


LETTERS: Final = _Letters()
APOSTROPHE: Final = re.compile(r"(?<=\w)['’](?=\w)")
MINUS: Final = re.compile(r"(?<![^\W\d])\s*-(?=\s*\d)")
SENTENCE_ENDS: Final = re.compile(r"[!?:;\n\"“”„«»…。()\[\]]+|\.(?=\s|$)")


# --- the ladder


def _equal(ours: Sequence[str], theirs: Sequence[str]) -> Hits:
    """Equal keys; an empty key equals nothing."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for j, key in enumerate(theirs):
        if key:
            places[key].append(j)
    return ((i, j, 1.0) for i, key in enumerate(ours) for j in places.get(key, ()))


def _contained(ours: Sequence[Reading], theirs: Sequence[Reading]) -> Hits:
    """Test questions that stand in a training text, whole or, where long, for the most part."""
    whole: defaultdict[Words, list[int]] = defaultdict(list)
    lengths: defaultdict[Words, set[int]] = defaultdict(set)
    by_gram: defaultdict[Words, list[int]] = defaultdict(list)
    for j, test in enumerate(theirs):
        if len(test.words) >= FEWEST:
            whole[test.words].append(j)
            lengths[test.words[:2]].add(len(test.words))
        for gram in runs(test.words) if len(test.words) > LONG else ():
            by_gram[gram].append(j)
    telling = _telling(by_gram, ours, theirs)
    counts = Counter(j for gram in telling for j in by_gram[gram])
    for i, text in enumerate(ours):
        for start in range(len(text.words)):
            for length in lengths.get(text.words[start : start + 2], ()):
                if stands_alone(text, start, start + length):
                    yield from ((i, j, 1.0) for j in whole.get(text.words[start : start + length], ()))
        shared = Counter(j for gram in runs(text.words) & telling for j in by_gram[gram])
        yield from ((i, j, n / counts[j]) for j, n in shared.items() if n / counts[j] >= COVER)


def stands_alone(text: Reading, start: int, end: int) -> bool:
    """Whether these words may be taken for a question, not for a part of another."""
    if end - start > LONG:
        return end <= len(text.words)
    return end in text.bounds and (start in text.bounds or end - start >= PART)


def runs(words: Words) -> set[Words]:
    """All runs of eight words."""
    return {words[i : i + GRAM] for i in range(len(words) - GRAM + 1)}


def _telling(by_gram: Mapping[Words, Any], ours: Iterable[Reading], theirs: Iterable[Reading]) -> set[Words]:
    """The 8-word runs that tell questions apart. A question that is repeated word for word counts once."""
    in_ours, in_theirs = (
        Counter(gram for words in {one.words for one in side} for gram in runs(words) & by_gram.keys())
        for side in (ours, theirs)
    )
    return {gram for gram in by_gram if in_theirs[gram] <= COMMON_IN_TESTS and in_ours[gram] <= COMMON_IN_TRAINING}


def _near(ours: Sequence[Reading], theirs: Sequence[Reading]) -> Hits:
    """Misspelt copies and copies with a word more, by character 3-grams.

    Two sets that share enough also share one of their rarest grams (prefix filtering: Bayardo et al. 2007), so only
    those of the training side are indexed, and no pair is missed. The tests' are made when they are looked up.
    """
    places, tests = _distinct(ours), _distinct(theirs)
    longest = max((len(" ".join(test.words)) for test in tests), default=0) / TYPOS
    sides = [(one, grams) for one in places if len(grams := one.grams) <= longest]  # no document is a question
    spread = Counter(gram for _, grams in sides for gram in grams)
    number = {gram: n for n, gram in enumerate(spread)}
    bits = [sum(1 << number[gram] for gram in grams) for _, grams in sides]
    index: defaultdict[str, list[int]] = defaultdict(list)
    for n, (_, grams) in enumerate(sides):
        for gram in _rarest(grams, spread):
            index[gram].append(n)
    for test, there in tests.items():
        grams = test.grams
        if len(known := grams & number.keys()) < TYPOS * len(grams):
            continue
        its = sum(1 << number[gram] for gram in known)
        for n in {n for gram in _rarest(grams, spread) for n in index.get(gram, ())}:
            one, mine = sides[n]
            score = (shared := (bits[n] & its).bit_count()) / (len(mine) + len(grams) - shared)
            if score >= TYPOS and is_copy(one, test, score):
                yield from ((i, j, score) for i in places[one] for j in there)


def _distinct(texts: Sequence[Reading]) -> dict[Reading, list[int]]:
    """Where each wording stands: training data asks one question in many ways of prompting."""
    places: defaultdict[Reading, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        places[text].append(i)
    return places


def _rarest(grams: frozenset[str], spread: Mapping[str, int]) -> list[str]:
    """So many that whatever shares none of them is less alike than TYPOS."""
    return sorted(grams, key=lambda gram: (spread[gram], gram))[: len(grams) - ceil(TYPOS * len(grams)) + 1]


def is_copy(one: Reading, other: Reading, score: float) -> bool:
    """Whether two questions whose letters are alike also ask for the same: no word is exchanged for another."""

    def alike(a: str, b: str) -> bool:
        return a == b or (is_typo(a, b) and not (a in one.names and b in other.names))

    if len(one.words) == len(other.words) and all(map(alike, one.words, other.words)):
        return True
    more, less = (Counter(a.words) - Counter(b.words) for a, b in ((one, other), (other, one)))
    for word in list(more):
        if like := next((b for b in less if alike(word, b)), None):
            more, less = more - Counter([word]), less - Counter([like])
    return score >= COPY and not (more and less)


@lru_cache(maxsize=100_000)
def is_typo(one: str, other: str) -> bool:
    """One letter more, less, other or exchanged with its neighbour. Numbers and words under four letters have none."""
    if min(len(one), len(other)) < 4 or abs(len(one) - len(other)) > 1 or any(c.isdigit() for c in one + other):
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _masked(text: Text) -> str:
    """The SQL of a text without its literals, behind its database; empty where either is unknown."""
    return f"{text.db_id}: {masked(text.sql)}" if text.sql and text.db_id else ""


def _close(training: Sequence[Text], tests: Sequence[Text], embed: Embedder) -> Hits:
    """Pairs whose vectors are close, a thousand training rows at a time."""
    ours = np.asarray(embed([text.question for text in training]), dtype=np.float32)
    theirs = np.asarray(embed([text.question for text in tests]), dtype=np.float32)
    for start in range(0, len(ours), 1000):
        cosines = ours[start : start + 1000] @ theirs.T
        for i, j in np.argwhere(cosines >= CLOSE):
            yield start + int(i), int(j), float(cosines[i, j])


# --- the files


def read_texts(path: Path) -> tuple[Text, ...]:
    """The questions of a test set or of training chats; FileError has every row without one."""
    texts: list[Text] = []
    wrong: list[str] = []
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        if text := text_of(where, row):
            texts.append(text)
        else:
            wrong.append(
                f"{where} question: is missing - write `question` and `answers`, or `messages` with a user turn"
            )
    if wrong or not texts:
        raise FileError("\n".join(wrong) or f"{path}:1 file: has no rows - write one JSON object a line")
    return tuple(texts)


def text_of(where: str, row: Mapping[str, Any]) -> Text | None:
    """The question of a row of either kind; None where it has none."""
    meta = row["meta"] if isinstance(row.get("meta"), dict) else {}
    turns = [turn for turn in row.get("messages") or () if isinstance(turn, dict)]
    question = row.get("question") or meta.get("question") or _last(turns, "user")
    answers = row["answers"] if isinstance(row.get("answers"), list) else []
    answer = str(answers[0] if answers else _last(turns, "assistant"))
    if not isinstance(question, str) or not question.strip():
        return None
    sql = meta.get("sql") or meta.get("query") or (answer if LOOKS_LIKE_SQL.match(answer) else "")
    return Text(where=where, question=question, sql=FENCE.sub("", str(sql)), db_id=str(meta.get("db_id") or ""))


def _last(turns: Sequence[Mapping[str, Any]], role: str) -> Any:
    return next((turn.get("content") for turn in reversed(turns) if turn.get("role") == role), None)


FENCE: Final = re.compile(r"^\s*```\w*\s*|\s*```\s*$")
LOOKS_LIKE_SQL: Final = re.compile(r"(?is)\s*(```\w*\s*)?\(?\s*(select|with)\b.*\bfrom\b")
