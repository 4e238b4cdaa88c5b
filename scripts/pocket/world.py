"""A made-up world: registers of a harbour and a clinic, house notices, and questions with gold answers and evidence.

Every slice gives one lever something true to do: names and values are random, so only retrieval can know them; codes are
exact, so lexical search finds them; notices share no word with their question, so dense search does. Knows nothing of
models, prompts or files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Final

from scripts.pocket.lexicon import COLOURS, GOODS, code, name, person
from scripts.pocket.notices import NOTICES

Maker = Callable[[Random], str]


@dataclass(frozen=True, slots=True)
class Field:
    """One thing a register says about an entry, and how it is asked."""

    key: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    make: Maker


@dataclass(frozen=True, slots=True)
class Kind:
    """What a register lists."""

    domain: str
    noun: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One page of a register: `values` holds what it states, `year` when it was written."""

    id: str
    kind: Kind
    name: str
    year: int
    values: tuple[tuple[str, str], ...]
    title: str
    text: str

    def value(self, key: str) -> str:
        return dict(self.values)[key]


@dataclass(frozen=True, slots=True)
class Notice:
    """A house notice: one statement in words that its question avoids."""

    id: str
    topic: int
    title: str
    text: str
    value: str


@dataclass(frozen=True, slots=True)
class Question:
    """`answer` is empty when no document has it; `evidence` names the documents that together state it."""

    slice: str
    text: str
    answer: str
    evidence: tuple[str, ...]
    domain: str


@dataclass(frozen=True, slots=True)
class World:
    documents: tuple[Entry | Notice, ...]
    questions: tuple[Question, ...]


# Three fields stand in both registers and mean another thing in each: the clash that routing has to resolve.
CLASHING: Final = (
    Field("code", ("The code of the {n} is {v}.", "The {n} carries the code {v}."), ("what is the code of the {n}",), code),
    Field("keeper", ("The keeper of the {n} is {v}.", "The {n} has the keeper {v}."), ("who is the keeper of the {n}", "which keeper has the {n}"), person),
    Field("colour", ("The colour of the {n} is {v}.", "The {n} has the colour {v}."), ("what is the colour of the {n}", "which colour has the {n}"), lambda r: r.choice(COLOURS)),
)  # fmt: skip
VESSEL: Final = Kind(
    "harbour",
    "vessel",
    (
        Field("captain", ("The captain of the {n} is {v}.", "The {n} has the captain {v}."), ("who is the captain of the {n}", "which captain has the {n}"), person),
        Field("port", ("The home port of the {n} is {v}.", "The {n} has the home port {v}."), ("what is the home port of the {n}", "which home port has the {n}"), name),
        Field("cargo", ("The cargo of the {n} is {v}.", "The {n} carries a cargo of {v}."), ("what is the cargo of the {n}", "which cargo has the {n}"), lambda r: r.choice(GOODS)),
        Field("length", ("The length of the {n} is {v}.", "The {n} has a length of {v}."), ("how long is the {n}", "what is the length of the {n}"), lambda r: f"{r.randrange(10, 100)} metres"),
        *CLASHING,
    ),
)  # fmt: skip
MEDICINE: Final = Kind(
    "clinic",
    "medicine",
    (
        Field("maker", ("The maker of the {n} is {v}.", "The {n} has the maker {v}."), ("who is the maker of the {n}", "which maker has the {n}"), person),
        Field("shelf", ("The shelf of the {n} is {v}.", "The {n} stands on the shelf {v}."), ("on which shelf is the {n}", "what is the shelf of the {n}"), name),
        Field("base", ("The base of the {n} is {v}.", "The {n} has a base of {v}."), ("what is the base of the {n}", "which base has the {n}"), lambda r: r.choice(GOODS)),
        Field("dose", ("The dose of the {n} is {v}.", "The {n} has a dose of {v}."), ("what is the dose of the {n}", "which dose has the {n}"), lambda r: f"{r.randrange(2, 100)} drops"),
        *CLASHING,
    ),
)  # fmt: skip
KINDS: Final = (VESSEL, MEDICINE)
SHARED: Final = {"vessel": "port", "medicine": "shelf"}
"""The field that several entries have in common, so that counting them means something."""


def make_world(random: Random, entries: int, topics: Sequence[int], tag: str = "") -> World:
    """A world of about `entries` register names and a notice for each topic; `tag` keeps the ids of two worlds apart."""
    documents: list[Entry | Notice] = []
    questions: list[Question] = []
    names = list({name(random): None for _ in range(entries * 2)})[:entries]
    clashing, updated = names[: entries // 6], names[entries // 6 : entries // 3]
    groups = _groups(random, names[entries // 3 :])
    for each in names:
        kind = random.choice(KINDS)
        year = random.randrange(1990, 2015)
        fixed = groups.get((each, kind.noun), {})
        first = make_entry(random, kind, each, year, fixed, tag)
        documents.append(first)
        if each in clashing:
            other = make_entry(random, KINDS[1 - KINDS.index(kind)], each, random.randrange(1990, 2015), {}, tag)
            documents.append(other)
            questions += ask_clash(random, first, other)
        elif each in updated:
            newer = revise(random, first, year + random.randrange(1, 12), tag)
            documents.append(newer)
            questions += ask_updated(random, first, newer)
        else:
            questions += ask_facts(random, first)
            questions += ask_missing(random, first)
    plain = [d for d in documents if isinstance(d, Entry) and d.name not in {*clashing, *updated}]
    questions += ask_pairs(random, plain)
    questions += ask_counts(plain)
    questions += [ask_absent(random) for _ in range(max(1, entries // 20))]
    for topic in topics:
        notice = make_notice(random, topic, tag)
        documents.append(notice)
        questions.append(Question("paraphrase", NOTICES[topic][1], notice.value, (notice.id,), "house"))
    random.shuffle(documents)
    return World(tuple(documents), tuple(questions))


def make_entry(random: Random, kind: Kind, called: str, year: int, fixed: dict[str, str], tag: str) -> Entry:
    """A register page that states five of its fields (the fixed ones among them) in any order and wording."""
    optional = [f for f in kind.fields if f.key not in fixed]
    stated = random.sample(optional, 5 - len(fixed)) + [f for f in kind.fields if f.key in fixed]
    random.shuffle(stated)
    values = tuple((f.key, fixed.get(f.key) or f.make(random)) for f in stated)
    return _entry(random, kind, called, year, values, tag)


def revise(random: Random, old: Entry, year: int, tag: str) -> Entry:
    """A later page on the same entry, every value of which is new."""
    makers = {f.key: f.make for f in old.kind.fields}
    values = tuple((key, makers[key](random)) for key, _ in old.values)
    return _entry(random, old.kind, old.name, year, values, tag)


def make_notice(random: Random, topic: int, tag: str) -> Notice:
    value = name(random)
    title = f"House notice {code(random)}"
    text = f"{NOTICES[topic][0].format(v=value)} Signed by {person(random)}."
    return Notice(f"{tag}notice-{topic}", topic, title, text, value)


def _entry(random: Random, kind: Kind, called: str, year: int, values: tuple[tuple[str, str], ...], tag: str) -> Entry:
    fields = {f.key: f for f in kind.fields}
    facts = " ".join(random.choice(fields[key].statements).format(n=called, v=value) for key, value in values)
    title = f"{kind.domain.capitalize()} register of {year}: {called}"
    text = f"The {called} is a {kind.noun} in the {kind.domain} register of {year}. {facts}"
    return Entry(f"{tag}{kind.domain}-{called.lower()}-{year}", kind, called, year, values, title, text)


def _groups(random: Random, names: Sequence[str]) -> dict[tuple[str, str], dict[str, str]]:
    """For some names, the shared value that puts each into a group of two to four of its kind."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    rest = list(names)[: len(names) // 2]
    while len(rest) > 1:
        members, rest = rest[:5], rest[5:]  # kinds are drawn later: five names make groups of about two and three
        for kind in KINDS:
            shared = name(random)
            groups |= {(member, kind.noun): {SHARED[kind.noun]: shared} for member in members}
    return groups


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}?"


def _wordings(random: Random, entry: Entry) -> Iterator[tuple[Field, str]]:
    """Each field the entry states, with one way to ask for it."""
    fields = {f.key: f for f in entry.kind.fields}
    for key, _ in entry.values:
        yield fields[key], random.choice(fields[key].questions).format(n=entry.name)


def ask_facts(random: Random, entry: Entry) -> list[Question]:
    found = []
    for field, wording in _wordings(random, entry):
        found.append(Question("fact", _sentence(wording), entry.value(field.key), (entry.id,), entry.kind.domain))
        if field.key == "code":
            text = f"Which {entry.kind.noun} carries the code {entry.value('code')}?"
            found.append(Question("code", text, entry.name, (entry.id,), entry.kind.domain))
    return found


def ask_clash(random: Random, first: Entry, other: Entry) -> list[Question]:
    """A field of both registers, asked with the register's name: only one of the two pages is right."""
    both = {key for key, _ in first.values} & {key for key, _ in other.values} & {f.key for f in CLASHING}
    return [
        Question("clash", f"In the {e.kind.domain} register, {wording}?", e.value(f.key), (e.id,), e.kind.domain)
        for e in (first, other)
        for f, wording in _wordings(random, e)
        if f.key in both
    ]


def ask_updated(random: Random, old: Entry, newer: Entry) -> list[Question]:
    """What holds now: the later page wins."""
    return [
        Question(
            "updated", f"As of the latest register, {wording}?", newer.value(f.key), (newer.id,), newer.kind.domain
        )
        for f, wording in _wordings(random, newer)
        if old.value(f.key) != newer.value(f.key)
    ]


def ask_missing(random: Random, entry: Entry) -> list[Question]:
    """A field that the page does not state."""
    stated = {key for key, _ in entry.values}
    field = random.choice([f for f in entry.kind.fields if f.key not in stated])
    text = _sentence(random.choice(field.questions).format(n=entry.name))
    return [Question("unanswerable", text, "", (), entry.kind.domain)]


def ask_absent(random: Random) -> Question:
    """A field of an entry that no register lists."""
    kind = random.choice(KINDS)
    field = random.choice(kind.fields)
    return Question(
        "unanswerable", _sentence(random.choice(field.questions).format(n=name(random))), "", (), kind.domain
    )


def ask_pairs(random: Random, entries: Sequence[Entry]) -> list[Question]:
    """Two questions in one, about two pages."""
    found = []
    for one, two in pairwise(random.sample(list(entries), len(entries))):
        (f1, w1), (f2, w2) = (random.choice(list(_wordings(random, e))) for e in (one, two))
        answer = f"{one.value(f1.key)} and {two.value(f2.key)}"
        domain = one.kind.domain if one.kind is two.kind else "both"
        found.append(Question("two_part", f"{_sentence(w1)[:-1]}, and {w2}?", answer, (one.id, two.id), domain))
    return found


def ask_counts(entries: Sequence[Entry]) -> list[Question]:
    """How many entries share a value: an aggregate that one page cannot answer."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        shared = dict(entry.values).get(SHARED[entry.kind.noun])
        if shared:
            groups.setdefault((entry.kind.noun, shared), []).append(entry)
    return [
        Question(
            "count",
            f"How many {noun}s have the {'home port' if noun == 'vessel' else 'shelf'} {shared}?",
            str(len(group)),
            tuple(e.id for e in group),
            group[0].kind.domain,
        )
        for (noun, shared), group in groups.items()
        if 2 <= len(group) <= 4
    ]
