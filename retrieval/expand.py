"""One question becomes several queries, each searched, and their rankings merged: written by a model, or cut by a rule.

The model is a function that a caller lends, prompt -> text. Knows nothing of how it is served, nor of the search.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, NamedTuple, TypeAlias

from pydantic import ConfigDict

from retrieval.files import STRICT
from retrieval.passage import Query, RetrievalError
from retrieval.ranking import Ranking, fuse, interleave

Expansion: TypeAlias = Callable[[Query], Awaitable[tuple[Query, ...]]]
"""A question -> what is searched instead; never nothing."""

Texts: TypeAlias = Callable[[str], Awaitable[list[str]]]

Write: TypeAlias = Callable[[str], Awaitable[str]]
"""A model: prompt -> text. What it raises passes through: an outage is no answer."""

Kind = Literal["hyde", "draft", "multi", "parts", "clauses"]

LONGEST: Final = 4_000
"""Characters of a question that is still expanded. A longer one says enough, and may not fit into a small model."""


class Way(NamedTuple):
    """A kind of expansion, as data."""

    merge: Callable[[Sequence[Ranking], int], Ranking]
    """How the rankings of its queries become one."""
    instructions: str = ""
    """What a model is told; none when a rule does it."""
    with_question: bool = False
    """Whether the question itself is searched too, before what the model wrote."""
    fewest: int = 1
    """The least `n` that means anything: one part is the question itself."""


KINDS: Final[dict[Kind, Way]] = {
    # HyDE (Gao et al., 2212.10496) searches with the mean of the vectors of the question and of N passages sampled one
    # by one. Here each is a query of its own, so that it works for words as for vectors, and all N come from one reply,
    # because a model that always takes the likeliest word would write the same passage N times.
    "hyde": Way(
        fuse,
        "Write {n} short passages, each on one line, as they might stand in a document that answers the question. "
        "Invent what you do not know. Write nothing else.",
        with_question=True,
    ),
    # DAIL-SQL (Gao et al., 2308.15363) also chooses worked examples by how near their answers are to a first draft of
    # this one. The question is not searched: where answers are (`build --view answer`), it would be near to none.
    "draft": Way(
        fuse,
        "Write {n} short answers to the question, each on one line, in the form that is wanted. Invent what you do not "
        "know. Write nothing else.",
    ),
    # RAG-Fusion (Rackauckas, 2402.03367).
    "multi": Way(
        fuse,
        "Write {n} other ways to ask the question, each on one line, for a search that looks at words as well as "
        "meaning. Keep every name, number and code as it is. Write nothing else.",
        with_question=True,
    ),
    # Least-to-most prompting (Zhou et al., 2205.10625) also answers in order, each part knowing the answers before it;
    # here all parts are searched at once, so no part may need the answer to another.
    "parts": Way(
        interleave,
        "Split the question into the separate questions that it asks, at most {n}, each on one line and understandable "
        "without the others. Keep every name, number and code as it is. When it asks only one thing, repeat it. Write "
        "nothing else.",
        fewest=2,
    ),
    # Fusing the clauses' rankings would put both records of the demo's two-part questions among the first three for 54
    # of 90 questions (words alone, three seeds); taking turns does for all 90, as does the question uncut.
    "clauses": Way(interleave, fewest=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpandSettings:
    """`expand: {kind: multi, n: 3}` of a named retriever."""

    kind: Kind
    n: int = 3
    """The most passages, drafts, rewordings or parts."""
    instructions: str = ""
    """What the model is told instead of our own words; `{n}` stands for the number, and the question follows."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        fewest = KINDS[self.kind].fewest
        if self.n < fewest:
            raise RetrievalError(
                f"expand.n is {self.n}, but `{self.kind}` needs at least {fewest}; for none, leave it out"
            )
        if self.instructions and not self.instructions.strip():
            raise RetrievalError("expand.instructions are blank; leave them out for ours")
        if self.instructions and not KINDS[self.kind].instructions:
            raise RetrievalError(f"expand.instructions: `{self.kind}` asks no model, so nobody would read them")

    @property
    def needs_model(self) -> bool:
        return bool(KINDS[self.kind].instructions)


def expansion(settings: ExpandSettings, write: Write | None = None) -> Expansion:
    """The expansion these settings describe; RetrievalError when it needs a model and nobody lends one.

    Every query keeps the history and the metadata of the question. When the model writes nothing that can be searched,
    the question alone is.
    """
    texts = _asked(settings, write) if settings.needs_model else _cut(settings.n)

    async def expand(query: Query) -> tuple[Query, ...]:
        if len(query.text) > LONGEST:
            return (query,)
        return tuple(replace(query, text=text) for text in _unique(await texts(query.text)))

    return expand


def prompt(settings: ExpandSettings, question: str) -> str:
    """What the model reads."""
    told = settings.instructions.strip() or KINDS[settings.kind].instructions
    return f"{told.replace('{n}', str(settings.n))}\n\nQuestion: {question}"


def lines(reply: str, n: int) -> list[str]:
    """The first n different queries in a model's reply, one a line: numbers, bullets, labels and quotes come off.

    What it thought aloud before `</think>`, lines without a word, and headings (a colon at the end) are no queries.

    >>> lines('Here are two:\\n1. Who founded it?\\n- "Who is its founder?"\\n* who founded it?', n=3)
    ['Who founded it?', 'Who is its founder?']
    """
    written = reply.rpartition("</think>")[2].replace("**", "").splitlines()
    texts = (MARK.sub("", line.strip()).strip(' \t"“”') for line in written if not line.startswith("```"))
    return _unique(text for text in texts if re.search(r"\w", text) and not text.endswith(":"))[:n]


MARK: Final = re.compile(
    r"^([-*•–+>#]+\s+|\(?\d{1,3}[.):]\s+)*"
    r"(((sub-?|search )?(question|query)|passage|q)\s*\d*\s*[:.)]\s+)?",
    re.IGNORECASE,
)
"""What a model puts before a line of a list; the 3.5 of a number is not such a mark."""


def clauses(question: str, n: int) -> list[str]:
    """The questions in a question, at most n of them; the last keeps what is left. A rule for English, and no more.

    Cuts after `?` or `;`, and before `, and`, where a new question begins: with who, what, which ..., alone or after a
    preposition. What it cannot do: hear a question in other words ("Tell me its length and its owner"), give a part
    what an earlier one says ("In 1998, who ..., and who ..."), or tell a relative clause after `, and` from a question.
    A part that refers to another (it, she, their ...) or has fewer than three words is not cut off.

    >>> clauses("Who keeps the Orla, and on which shelf is the Bafo?", n=3)
    ['Who keeps the Orla?', 'On which shelf is the Bafo?']
    >>> clauses("Who built the Orla, and when did she sink?", n=3)
    ['Who built the Orla, and when did she sink?']
    """
    parts: list[str] = []
    begin = 0
    places = [*BOUNDARY.finditer(question)]
    ends = [*(place.start() for place in places[1:]), len(question)]  # one more than places when there are none
    for place, end in zip(places, ends, strict=False):
        before, after = question[begin : place.start()], question[place.end() : end]
        if len(parts) < n - 1 and _asks(before) and _asks(after) and not REFERENCE.search(after):
            parts.append(before)
            begin = place.end()
    if not parts:
        return [question]
    return [_as_question(part) for part in (*parts, question[begin:])]


ASKING: Final = r"(?:who|whom|whose|what|which|when|where|why|how)\b"
LEADING: Final = r"(?:(?:in|on|at|by|for|from|of|to|under|with|since|until|about|through|during|after|before)\s+)?"
BOUNDARY: Final = re.compile(
    rf"(?:(?<=[?;])\s*(?:and\s+)?|,\s*and\s+)(?={LEADING}{ASKING}|(?<=[?;]\s)(?:is|are|was|were|does|do|did|has|have|can)\b)",
    re.IGNORECASE,
)
REFERENCE: Final = re.compile(r"\b(?:it|its|he|him|his|she|her|hers|they|them|their|theirs)\b", re.IGNORECASE)


def _asks(part: str) -> bool:
    """Whether this is a question that stands alone."""
    begins = re.match(r"\s*(?:is|are|was|were|does|do|did|has|have|can)\b", part, re.IGNORECASE)
    return len(part.split()) > 2 and bool(begins or re.search(rf"\b{ASKING}", part, re.IGNORECASE))


def _as_question(part: str) -> str:
    """The part, with a capital and a question mark."""
    text = part.strip(" \t\n,;?")
    return f"{text[:1].upper()}{text[1:]}?"


def _cut(n: int) -> Texts:
    async def cut(question: str) -> list[str]:
        return clauses(question, n)

    return cut


def _asked(settings: ExpandSettings, write: Write | None) -> Texts:
    if write is None:
        raise RetrievalError(
            f"expand.kind `{settings.kind}` asks a model, and here is none; `clauses` is the kind that needs none"
        )

    async def ask(question: str) -> list[str]:
        written = lines(await write(prompt(settings, question)), settings.n)
        return [question, *written] if KINDS[settings.kind].with_question else written or [question]

    return ask


def _unique(texts: Iterable[str]) -> list[str]:
    """The texts, none twice, capitals apart."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(text.casefold(), text)
    return list(found.values())
