"""Chats that teach the pocket model to talk, read, copy, abstain, follow a shown format, think aloud, sort, and write SQL.

Every lesson is set in a small world of its own with fresh names, so nothing learnt here answers a question of the demo.
The house format of the demo's answers is left out on purpose: that is what fine-tuning has to teach. Knows nothing of training.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from scripts.pocket.lexicon import THINGS, VERBS, label, name, person, sentence
from scripts.pocket.notices import NOTICES
from scripts.pocket.world import KINDS, Entry, Notice, Question, World, make_world
from serve.layout import user_turn

Chat = list[dict[str, str]]
Page = Entry | Notice
UNKNOWN: Final = "I do not know"


@dataclass(frozen=True, slots=True)
class Style:
    """A form an answer can take: how it is asked for, how a value and the passages behind it are written, what stands for no answer."""

    instruction: str
    write: Callable[[str, Sequence[int]], str]
    unknown: str = UNKNOWN


def plain_style(_: Random) -> Style:
    return Style("", lambda value, _: f"{value}.")


def tag_style(random: Random) -> Style:
    tag = random.choice(("a", "b", "out", "value", "reply", "result", *THINGS))
    return Style(f"Write the answer between <{tag}> and </{tag}>.", lambda value, _: f"<{tag}>{value}</{tag}>")


def bracket_style(random: Random) -> Style:
    left, right = random.choice(("[]", "()", "<>", "**", '""'))
    return Style(f"Put the answer between {left} and {right}.", lambda value, _: f"{left}{value}{right}")


def prefix_style(random: Random) -> Style:
    word = random.choice(("Answer", "Reply", "Result", "Value", "A", "Final", random.choice(THINGS).capitalize()))
    return Style(f"Begin the answer with {word}:", lambda value, _: f"{word}: {value}")


def citing_style(random: Random) -> Style:
    word = random.choice(("", "see ", "from "))
    return Style(
        f"After the answer, name the passages as in [{word}S1].",
        lambda value, sources: value + "".join(f" [{word}S{n}]" for n in sources),
    )


def json_style(random: Random) -> Style:
    key = random.choice(("value", "reply", "result", "text", "found", *THINGS))
    return Style(f'Reply in JSON with the key "{key}".', lambda value, _: json.dumps({key: value}))


def long_json_style(random: Random) -> Style:
    """Shown in examples only, never described: a weak version of the house format."""
    key = random.choice(("value", "reply", "result", "text", "found", *THINGS))
    other = random.choice(("from", "passages", "basis", "seen", "pages"))
    return Style("", lambda value, sources: json.dumps({key: value, other: list(sources)}))


def full_style(_: Random) -> Style:
    return Style("Answer in a full sentence.", lambda value, _: f"The answer is {value}.")


INSTRUCTED: Final = (tag_style, bracket_style, prefix_style, citing_style, json_style, full_style)
SHOWN: Final = (*INSTRUCTED, plain_style, long_json_style)


def with_unknown(random: Random, style: Style) -> Style:
    """Sometimes the instructions also say what to write when nothing is found."""
    if random.random() < 0.5:
        return style
    word = random.choice(("unknown", "none", "not stated", "no answer", "missing"))
    return replace(
        style,
        instruction=f'{style.instruction} If the passages do not say, the answer is "{word}".'.strip(),
        unknown=word,
    )


# Reading ------------------------------------------------------------------------------------------------------------


def choose_pages(random: Random, world: World, question: Question, count: int) -> list[Page]:
    """`count` pages with the evidence among them (or, one time in ten, not), and likely mix-ups before random ones."""
    pages = {page.id: page for page in world.documents}
    evidence = [pages[i] for i in question.evidence]
    if len(evidence) > count or random.random() < 1 / 10:
        shown: list[Page] = []
    else:
        shown = evidence
    named = {page.name for page in evidence if isinstance(page, Entry)}
    others = [p for p in world.documents if p.id not in question.evidence]
    if not shown and evidence:  # an older page would be read as the answer, so it leaves with the newer one
        others = [p for p in others if not (isinstance(p, Entry) and p.name in named)]
    near = [p for p in others if isinstance(p, Entry) and (p.name in named or p.name in question.text)]
    kin = [p for p in others if p not in near and isinstance(p, Entry) and p.kind.domain == question.domain]
    random.shuffle(kin)
    random.shuffle(others)
    pool = list(dict.fromkeys(near + (kin if random.random() < 0.6 else []) + others))
    shown = shown + pool[: max(0, count - len(shown))]
    random.shuffle(shown)
    return shown


def few_pages(random: Random, world: World, question: Question, besides: Sequence[int]) -> tuple[Question, list[Page]]:
    """The question, or one on a fact if no page answers it, with its evidence and one of `besides` other pages."""
    if not question.evidence:
        question = random.choice([q for q in world.questions if q.slice == "fact"])
    pages = [page for page in world.documents if page.id in question.evidence]
    pages += random.sample([page for page in world.documents if page not in pages], random.choice(besides))
    random.shuffle(pages)
    return question, pages


def passages_of(pages: Sequence[Page]) -> list[tuple[str, str]]:
    return [(page.title, page.text) for page in pages]


def find(question: Question, pages: Sequence[Page]) -> tuple[str, list[int]]:
    """What a careful reader answers from these pages: the value and the passage numbers, or nothing."""
    numbers = {page.id: n for n, page in enumerate(pages, start=1)}
    if not question.evidence or any(i not in numbers for i in question.evidence):
        return "", []
    return question.answer, sorted(numbers[i] for i in question.evidence)


def answered(question: Question, pages: Sequence[Page], style: Style) -> str:
    value, sources = find(question, pages)
    return style.write(value or style.unknown, sources)


def chat(system: str, *turns: str) -> Chat:
    """Turns alternate user, assistant."""
    roles = ("user", "assistant") * len(turns)
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]


def page_count(random: Random) -> int:
    return random.choices((0, 1, 2, 3, 4, 5, 8, 14), (4, 16, 16, 36, 14, 10, 3, 1))[0]


def read(random: Random, world: World, question: Question) -> Chat:
    """Answer from the passages, in the plain form or one the instructions describe."""
    style = plain_style(random) if random.random() < 0.6 else with_unknown(random, random.choice(INSTRUCTED)(random))
    pages = choose_pages(random, world, question, page_count(random))
    return chat(style.instruction, user_turn(passages_of(pages), question.text), answered(question, pages, style))


def glance(random: Random, world: World, question: Question) -> Chat:
    """A first reader's lesson: the evidence, at most one page besides, and a plain answer."""
    question, pages = few_pages(random, world, question, (0, 0, 1))
    return chat("", user_turn(passages_of(pages), question.text), answered(question, pages, plain_style(random)))


def quiz(random: Random, world: World, question: Question) -> Chat:
    """One question after another about the same few pages: with most of what is read asked for, few tokens teach much."""
    question, pages = few_pages(random, world, question, (0, 0, 1, 2))
    shown = {page.id for page in pages}
    more = [q for q in world.questions if q.evidence and q is not question and shown.issuperset(q.evidence)]
    style = plain_style(random)
    turns = [user_turn(passages_of(pages), question.text), answered(question, pages, style)]
    for each in random.sample(more, min(7, len(more))):
        turns += [user_turn((), each.text), answered(each, pages, style)]
    return chat("", *turns)


def follow(random: Random, world: World, question: Question) -> Chat:
    """Answer in the form that earlier turns show."""
    style = with_unknown(random, random.choice(SHOWN)(random))
    turns: list[str] = []
    bare = random.random() < 0.5
    for shown in random.sample(world.questions, random.choice((1, 2, 3, 4))):
        if bare and shown.answer:  # an example without its passages
            turns += [user_turn([], shown.text), style.write(shown.answer, range(1, 1 + len(shown.evidence)))]
        else:
            pages = choose_pages(random, world, shown, random.choice((1, 2)))
            turns += [user_turn(passages_of(pages), shown.text), answered(shown, pages, style)]
    pages = choose_pages(random, world, question, page_count(random))
    turns += [user_turn(passages_of(pages), question.text), answered(question, pages, style)]
    return chat(style.instruction if random.random() < 0.7 else "", *turns)


def think(random: Random, world: World, question: Question) -> Chat:
    """Quote what a passage says, then answer on the last line."""
    pages = choose_pages(random, world, question, max(1, page_count(random)))
    value, sources = find(question, pages)
    values = value.split(" and ") if question.slice == "two_part" else [value] * len(sources)
    order = [i for i in question.evidence if sources]
    numbers = {page.id: n for n, page in enumerate(pages, start=1)}
    texts = {page.id: page.text for page in pages}
    quotes = [f"S{numbers[i]} says: {_quote(texts[i], v)}" for i, v in zip(order, values, strict=False)]
    lines = [*(quotes or ["No passage says it."]), f"Answer: {value or UNKNOWN}"]
    system = random.choice(
        ("Think step by step.", "Think step by step, then give the answer on the last line after Answer:")
    )
    return chat(system, user_turn(passages_of(pages), question.text), "\n".join(lines))


def _quote(text: str, value: str) -> str:
    """The sentence that states the value (the first one, when the value is a count)."""
    sentences = [s.rstrip(".") + "." for s in text.split(". ")]
    return next((s for s in sentences if value in s), sentences[0])


def converse(random: Random, world: World, question: Question) -> Chat:
    """A second question in the same conversation, plain."""
    other = random.choice(world.questions)
    style = plain_style(random)
    turns: list[str] = []
    for each in (other, question):
        pages = choose_pages(random, world, each, random.choice((1, 2, 3)))
        turns += [user_turn(passages_of(pages), each.text), answered(each, pages, style)]
    return chat("", *turns)


# Other trades -------------------------------------------------------------------------------------------------------


def split_parts(random: Random, world: World, _: Question) -> Chat:
    pairs = [q for q in world.questions if q.slice == "two_part"]
    question = random.choice(pairs if random.random() < 0.7 else world.questions)
    parts = question.text.split(", and ") if question.slice == "two_part" else [question.text.rstrip("?")]
    lines = [f"{part[0].upper()}{part[1:].rstrip('?')}?" for part in parts]
    return chat("Split the question into its parts, one a line.", f"Question: {question.text}", "\n".join(lines))


def route(random: Random, world: World, question: Question) -> Chat:
    if question.domain == "both":
        return split_parts(random, world, question)
    return chat(
        "Name the source that knows the answer: harbour, clinic or house.",
        f"Question: {question.text}",
        question.domain,
    )


def imagine(random: Random, world: World, question: Question) -> Chat:
    """Write the page that would answer the question: a hypothetical document to search with."""
    page = next((p for p in world.documents if p.id in question.evidence), None) or random.choice(world.documents)
    return chat("Write a page that answers the question.", f"Question: {question.text}", page.text)


def judge(random: Random, world: World, question: Question) -> Chat:
    """Is a claim supported by a passage?"""
    entry = random.choice([p for p in world.documents if isinstance(p, Entry)])
    key, value = random.choice(entry.values)
    told, verdict = (value, "yes")
    if random.random() < 0.5:
        field = next(f for f in entry.kind.fields if f.key == key)
        told = field.make(random)
        verdict = "yes" if told == value else "no"
    claim = f"The {key} of the {entry.name} is {told}."
    turn = f"[S1] {entry.title}\n{entry.text}\n\nClaim: {claim}"
    return chat("Is the claim supported by the passage? Answer yes or no.", turn, verdict)


def query(random: Random, world: World, _: Question) -> Chat:
    """One SQLite query over a table that the instructions describe; half of the tables are made of random words."""
    if random.random() < 0.5:
        kind = random.choice(KINDS)
        table, columns = f"{kind.noun}s", ["name", "year", *(f.key for f in kind.fields)]
        makers = {f.key: f.make for f in kind.fields} | {"name": name, "year": lambda r: str(r.randrange(1990, 2026))}
    else:
        table, *columns = random.sample(THINGS, random.randrange(4, 8))
        table = table.replace("-", "_") + "s"
        columns = [c.replace("-", "_") for c in columns]
        makers = dict.fromkeys(columns, name)
    column, other = random.sample(columns, 2)
    value = makers[column](random)
    ask, sql = random.choice(
        (
            (
                f"How many {table} have the {column} {value}?",
                f"SELECT COUNT(*) FROM {table} WHERE {column} = '{value}'",
            ),
            (f"Which {other} has the {column} {value}?", f"SELECT {other} FROM {table} WHERE {column} = '{value}'"),
            (f"How many {table} are there?", f"SELECT COUNT(*) FROM {table}"),
            (
                f"How many {table} are there for each {column}?",
                f"SELECT {column}, COUNT(*) FROM {table} GROUP BY {column}",
            ),
            (f"List every {column} once.", f"SELECT DISTINCT {column} FROM {table}"),
            (f"What is the highest {column}?", f"SELECT MAX({column}) FROM {table}"),
        )
    )
    system = f"Write one SQLite query. Table: {table}({', '.join(columns)})"
    return chat(system, f"Question: {ask}", sql)


def sort(random: Random, _: World, __: Question) -> Chat:
    """Name the category of a message from examples; messages of a category share its two telling words."""
    categories = [(label(random), random.choice(VERBS), random.choice(THINGS)) for _ in range(random.randrange(2, 6))]
    examples = [_about(random, *random.choice(categories)) for _ in range(random.randrange(3, 10))]
    asked = _about(random, *random.choice([c for c in categories if any(c[0] == e[1] for e in examples)]))
    turns = [turn for text, name_ in (*examples, asked) for turn in (f"Question: {text}", name_)]
    return chat(random.choice(("", "", "Name the category of the question.")), *turns)


def _about(random: Random, category: str, verb: str, thing: str) -> tuple[str, str]:
    frame = random.choice(
        (
            "I want to {v} my {t}.", "How do I {v} the {t}?", "My {t} did not {v}.", "Please {v} the {t} for me.", "Can I {v} another {t}?",
            "Why can I not {v} a {t}?", "The {t} will not {v}, what now?", "Is it possible to {v} the {t} from abroad?", "When should the {t} {v}?",
        )
    )  # fmt: skip
    text = frame.format(v=verb, t=thing)
    return (f"{text} {sentence(random)}" if random.random() < 0.2 else text), category


def talk(random: Random, _: World, __: Question) -> Chat:
    """Small talk, echoing and spelling."""
    said, called = sentence(random), name(random)
    words = random.sample(THINGS, random.randrange(2, 6))
    user, assistant = random.choice(
        (
            (random.choice(("Hello.", "Hi!", "Good morning.", "Hello there.")), "Hello. What would you like to know?"),
            (random.choice(("Thank you.", "Thanks!", "That is all.")), "You are welcome."),
            (
                random.choice(("Who are you?", "What are you?", "What is your name?")),
                "I am Pocket, a very small language model.",
            ),
            (f"My name is {called}.", f"Hello, {called}. What would you like to know?"),
            (f"Repeat: {said}", said),
            (f"Repeat: {person(random)} {called}", ""),
            (f"Spell {called}.", " ".join(called.upper())),
            (f"List: {', '.join(words)}", "\n".join(f"- {word}" for word in words)),
            (f"How many words: {' '.join(words)}", str(len(words))),
            (f"Question: {said}", f"{UNKNOWN}."),
        )
    )
    return chat("", user, assistant or user.removeprefix("Repeat: "))


Lesson = Callable[[Random, World, Question], Chat]
EASY: Final[Mapping[Lesson, float]] = {glance: 0.1, quiz: 0.7, split_parts: 0.06, talk: 0.06, sort: 0.04, query: 0.04}
FULL: Final[Mapping[Lesson, float]] = {
    read: 0.34, quiz: 0.12, follow: 0.14, think: 0.06, converse: 0.03, split_parts: 0.03, route: 0.02, imagine: 0.02, judge: 0.03, query: 0.06, sort: 0.11, talk: 0.04
}  # fmt: skip
SLICES: Final[Mapping[str, float]] = {
    "fact": 0.36, "code": 0.08, "clash": 0.1, "updated": 0.12, "two_part": 0.14, "count": 0.06, "paraphrase": 0.09, "unanswerable": 0.05
}  # fmt: skip


def lessons(random: Random, trades: Mapping[Lesson, float] = FULL) -> Iterator[tuple[str, Chat]]:
    """Endless (trade, chat) pairs; a new small world every forty."""
    while True:
        world = make_world(random, 18, random.sample(range(len(NOTICES)), 6))
        by_slice = {name: [q for q in world.questions if q.slice == name] for name in SLICES}
        for _ in range(40):
            lesson = random.choices(list(trades), list(trades.values()))[0]
            pool = by_slice[random.choices(list(SLICES), list(SLICES.values()))[0]] or by_slice["fact"]
            yield lesson.__name__, lesson(random, world, random.choice(pool))
