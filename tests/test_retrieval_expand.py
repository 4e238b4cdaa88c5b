"""One question becomes several queries."""

import doctest
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import expand
from retrieval.expand import KINDS, LONGEST, ExpandSettings, Kind, Write, clauses, expansion, lines, prompt
from retrieval.files import FileError, read_yaml
from retrieval.passage import Query, RetrievalError
from retrieval.ranking import fuse, interleave

GOLDEN = Path(__file__).parent / "golden" / "expansions"
ASKED = Query("Who keeps the Orla, and who owns the Bafo?", ("Hello.",), {"domain": "harbour"})
BY_MODEL = [kind for kind in KINDS if ExpandSettings(kind=kind).needs_model]


def writes(reply: str) -> Write:
    async def write(_: str) -> str:
        return reply

    return write


async def texts(kind: Kind, reply: str, n: int = 3) -> list[str]:
    queries = await expansion(ExpandSettings(kind=kind, n=n), writes(reply))(ASKED)
    assert all((query.history, query.meta) == (ASKED.history, ASKED.meta) for query in queries)
    return [query.text for query in queries]


def test_what_the_doctests_say() -> None:
    assert doctest.testmod(expand).failed == 0


@pytest.mark.parametrize("kind", BY_MODEL)
def test_what_a_model_reads(kind: Kind) -> None:
    assert prompt(ExpandSettings(kind=kind, n=4), "Who keeps {n} Orlas?") + "\n" == (GOLDEN / f"{kind}.txt").read_text()


async def test_own_instructions_replace_ours() -> None:
    read = []

    async def write(text: str) -> str:
        read.append(text)
        return ""

    await expansion(ExpandSettings(kind="multi", n=2, instructions="Ask {n} times, {so}:"), write)(ASKED)

    assert read == [f"Ask 2 times, {{so}}:\n\nQuestion: {ASKED.text}"]


@pytest.mark.parametrize("kind", ["hyde", "multi"])
async def test_the_question_is_searched_with_what_a_model_writes_for_it(kind: Kind) -> None:
    assert await texts(kind, "1. One\n2. Two\n3. Three\n4. Four") == [ASKED.text, "One", "Two", "Three"]
    assert await texts(kind, f"{ASKED.text.upper()}\nTwo") == [ASKED.text, "Two"]
    assert KINDS[kind].merge is fuse


async def test_the_parts_are_searched_instead_of_the_question() -> None:
    assert await texts("parts", "- Who keeps the Orla?\n- Who owns the Bafo?") == [
        "Who keeps the Orla?",
        "Who owns the Bafo?",
    ]
    assert KINDS["parts"].merge is KINDS["clauses"].merge is interleave


async def test_a_draft_of_the_answer_is_searched_instead_of_the_question() -> None:
    assert await texts("draft", "Odo\nThe Odo family", n=1) == ["Odo"]


@pytest.mark.parametrize("kind", BY_MODEL)
@pytest.mark.parametrize("reply", ["", " \n\n", "---", "Here they are:", "<think>Who?</think>"])
async def test_a_reply_without_a_query_leaves_the_question(kind: Kind, reply: str) -> None:
    assert await texts(kind, reply) == [ASKED.text]


@pytest.mark.parametrize("kind", BY_MODEL)
async def test_an_outage_is_no_answer(kind: Kind) -> None:
    async def write(_: str) -> str:
        raise ConnectionError("the model is away")

    with pytest.raises(ConnectionError, match="the model is away"):
        await expansion(ExpandSettings(kind=kind), write)(ASKED)


async def test_clauses_need_no_model() -> None:
    queries = await expansion(ExpandSettings(kind="clauses"))(ASKED)

    assert [query.text for query in queries] == ["Who keeps the Orla?", "Who owns the Bafo?"]
    assert queries[1].meta == ASKED.meta


@pytest.mark.parametrize("kind", KINDS)
async def test_a_question_as_long_as_a_book_is_searched_as_it_is(kind: Kind) -> None:
    async def write(_: str) -> str:
        raise AssertionError("nobody should ask")

    book = Query("Who is it, and who was it? " * (100_000 // 27))

    assert len(book.text) > LONGEST
    assert await expansion(ExpandSettings(kind=kind), write)(book) == (book,)


@pytest.mark.parametrize(
    ("reply", "queries"),
    [
        ("1. One\n2) Two\n(3) Three\n4: Four", ["One", "Two", "Three", "Four"]),
        ("- One\n* Two\n• Three\n> Four", ["One", "Two", "Three", "Four"]),
        ("**Question 1:** One\nSub-question 2: Two\nQ3: Three\nPassage: Four", ["One", "Two", "Three", "Four"]),
        ('"One"\n“Two”', ["One", "Two"]),
        ("Sure! Here are some:\n\n```\nOne\n```\nONE\n", ["One"]),
        ("<think>Perhaps\nso</think>\nOne", ["One"]),
        (
            "3.5 mm jack?\n-40 degrees\nQ7 tanks\n1990: what?",
            ["3.5 mm jack?", "-40 degrees", "Q7 tanks", "1990: what?"],
        ),
        ("One\r\nTwo", ["One", "Two"]),
    ],
)
def test_how_a_reply_is_read(reply: str, queries: list[str]) -> None:
    assert lines(reply, 9) == queries


@given(st.text(), st.integers(1, 4))
def test_any_reply_gives_at_most_n_different_queries(reply: str, n: int) -> None:
    found = lines(reply, n)

    assert len(found) <= n
    assert len({text.casefold() for text in found}) == len(found)
    assert all(text.strip() and text in reply.replace("**", "") for text in found)


@given(st.text('*-#>1. \n"q:?;,', max_size=300))
def test_marks_alone_are_read_too(reply: str) -> None:
    assert len(lines(reply, 3)) <= 3
    assert 1 <= len(clauses(reply, 3)) <= 3


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("Who keeps the Orla?", None),
        (
            "How long is the Orla, and on which shelf is the Bafo?",
            ["How long is the Orla?", "On which shelf is the Bafo?"],
        ),
        ("Is the Orla red? Is the Bafo blue?", ["Is the Orla red?", "Is the Bafo blue?"]),
        ("Who owns the Orla; and what is a Bafo?", ["Who owns the Orla?", "What is a Bafo?"]),
        ("Who built the Orla, and when did she sink?", None),
        ("I have a ship; who may have built the Orla?", None),
        ("Who and what sank?", None),
        ("Who wrote salt, and pepper?", None),
        ("Tell me the length of the Orla, and the owner of the Bafo.", None),
        ("", None),
    ],
)
def test_where_a_question_is_cut(question: str, parts: list[str] | None) -> None:
    assert clauses(question, 3) == (parts or [question])


def test_the_last_clause_keeps_what_is_left() -> None:
    question = "Who owns the Aa, and who owns the Bb, and who owns the Cc?"

    assert clauses(question, 2) == ["Who owns the Aa?", "Who owns the Bb, and who owns the Cc?"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "parts", "n": 1}, "`parts` needs at least 2"),
        ({"kind": "clauses", "n": 1}, "`clauses` needs at least 2"),
        ({"kind": "multi", "n": 0}, "`multi` needs at least 1"),
        ({"kind": "clauses", "instructions": "Cut."}, "asks no model"),
        ({"kind": "hyde", "instructions": " "}, "expand.instructions"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(RetrievalError, match=said):
        ExpandSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BY_MODEL)
def test_a_model_that_nobody_lends_is_missed_at_once(kind: Kind) -> None:
    with pytest.raises(RetrievalError, match=f"`{kind}` asks a model, and here is none; `clauses`"):
        expansion(ExpandSettings(kind=kind))


def test_settings_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "expand.yaml").write_text("kind: multi\nn: 2\n")

    assert read_yaml(tmp_path / "expand.yaml", ExpandSettings) == ExpandSettings(kind="multi", n=2)

    (tmp_path / "expand.yaml").write_text("kind: many\n")
    known = "'hyde', 'draft', 'multi', 'parts' or 'clauses'"
    with pytest.raises(FileError, match=rf"expand\.yaml:1: kind: Input should be {known}"):
        read_yaml(tmp_path / "expand.yaml", ExpandSettings)
