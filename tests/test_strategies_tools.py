"""Strategies that use tools: each does on planted questions what a model alone does not."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from retrieval.files import FileError
from retrieval.passage import Hit, Passage, Query
from retrieval.retriever import NoRetrieval, Retriever
from serve.chat import Answer, Message, Reply, Sampling, ServeError, Usage
from serve.layout import shown_in
from serve.pipeline import _answer
from serve.stack import Stack
from serve.strategies.arithmetic import Arithmetic
from serve.strategies.kind import PROMPTS
from serve.strategies.kinds import Settings, build
from serve.strategies.prompted import Prompted
from serve.strategies.react import React
from serve.strategies.repair import Repair
from serve.strategies.sql_tool import SqlTool
from serve.strategies.sql_vote import SqlVote
from tests.test_serve_strategies import agrees_with

GOLDEN = Path(__file__).parent / "golden" / "prompts"
DIRECT = Prompted(kind="direct")
NAMES = "SELECT name FROM ship"
QUESTION = Query("Which ships are there?", meta={"db_id": "harbour"})


@dataclass
class Teller:
    """A model that says one thing after another, and keeps what it was asked."""

    texts: Sequence[str]
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    samplings: list[Sampling | None] = field(default_factory=list)
    sampling: Sampling = field(default_factory=Sampling)

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        self.asked.append(tuple(messages))
        self.samplings.append(sampling)
        text = self.texts[len(self.asked) - 1]
        return Reply(text=text, usage=Usage(7, 3), finish_reason="stop", seconds=0.5)


@dataclass(frozen=True)
class Library:
    """Finds the one page whose title is in what is searched for."""

    pages: tuple[tuple[str, str], ...]

    async def search(self, query: Query) -> tuple[Hit, ...]:
        found = [(title, text) for title, text in self.pages if title in query.text]
        return tuple(Hit(Passage(title, title, text, 0, len(text)), 1.0, n) for n, (title, text) in enumerate(found, 1))


LIBRARY = Library((("Varn", "The Varn was built by Odo."), ("Odo", "Odo was born in Tarn.")))


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("databases")
    with closing(sqlite3.connect(folder / "harbour.sqlite")) as database, database:
        database.execute("CREATE TABLE ship (name TEXT, port TEXT)")
        database.executemany("INSERT INTO ship VALUES (?, ?)", [("Varn", "Tarn"), ("Odo", "Tarn"), ("Ida", "Ulm")])
        database.execute("CREATE TABLE owner (name TEXT)")
    return folder


async def answered(settings: Settings, model: Teller, query: Query, retriever: Retriever | None = None) -> Answer:
    strategy = build({"direct": DIRECT, "tried": settings}, {})["tried"]
    return await _answer(strategy, query, retriever or NoRetrieval(), model)


# repair


async def test_a_query_that_fails_is_written_again_with_its_error_in_view(databases: Path) -> None:
    model = Teller(("SELECT title FROM ship", NAMES))

    answer = await answered(Repair(kind="repair", of="direct", databases=databases), model, QUESTION)

    assert (answer.text, answer.notes) == (NAMES, {"retries": 1, "error": 0})
    agrees_with(GOLDEN / "repair.txt", model.asked[1])


async def test_a_query_that_never_runs_is_given_up_and_said_so(databases: Path) -> None:
    model = Teller(("SELECT a FROM ship", "no query", "DROP TABLE ship"))

    answer = await answered(Repair(kind="repair", of="direct", databases=databases), model, QUESTION)

    assert answer.notes == {"retries": 2, "error": 1}
    assert [len(asked) for asked in model.asked] == [1, 3, 5], "every mistake stays in view"
    assert "there is no query in the reply" in model.asked[2][-1].content


@pytest.mark.parametrize(("empty_fails", "retries"), [(False, 0), (True, 1)])
async def test_a_query_without_rows_is_wrong_where_the_stack_says_so(
    databases: Path, empty_fails: bool, retries: int
) -> None:
    model = Teller((f"{NAMES} WHERE name = 'varn'", NAMES))
    settings = Repair(kind="repair", of="direct", databases=databases, empty_fails=empty_fails)

    answer = await answered(settings, model, QUESTION)

    assert answer.notes["retries"] == retries


async def test_what_was_shown_at_first_is_what_a_repaired_answer_rests_on(databases: Path) -> None:
    query = Query("What is the Varn?", meta={"db_id": "harbour"})

    answer = await answered(
        Repair(kind="repair", of="direct", databases=databases), Teller(("oh", NAMES)), query, LIBRARY
    )

    assert shown_in(answer.messages) == ("Varn\nThe Varn was built by Odo.",)


async def test_a_repaired_answer_is_read_as_its_strategy_reads_it(databases: Path) -> None:
    model = Teller(("Columns first.\nAnswer: SELECT x FROM ship", f"It is `name`.\nAnswer: {NAMES}"))
    named = {
        "cot": Prompted(kind="cot", instructions="Think."),
        "repair": Repair(kind="repair", of="cot", databases=databases),
    }

    answer = await _answer(build(named, {})["repair"], QUESTION, NoRetrieval(), model)

    assert answer.text == NAMES


async def test_a_question_without_a_database_is_told_so(databases: Path) -> None:
    with pytest.raises(ServeError, match="names no database"):
        await answered(Repair(kind="repair", of="direct", databases=databases), Teller((NAMES,)), Query("Which?"))


# sql_vote


async def test_queries_that_give_the_same_vote_together_however_they_are_written(databases: Path) -> None:
    said = (
        "SELECT port FROM ship",
        NAMES,
        "SELECT ship.name FROM ship ORDER BY rowid DESC",
        "SELECT s.name FROM ship AS s",
        "SELECT title FROM ship",
    )

    answer = await answered(SqlVote(kind="sql_vote", of="direct", databases=databases), Teller(said), QUESTION)

    assert (answer.text, answer.notes) == (NAMES, {"confidence": 2 / 5})


async def test_the_order_of_rows_is_part_of_a_vote_only_where_the_query_orders(databases: Path) -> None:
    said = ("SELECT name FROM ship ORDER BY name", "SELECT name FROM ship ORDER BY name DESC", NAMES, NAMES)
    settings = SqlVote(kind="sql_vote", of="direct", databases=databases, samples=4)

    assert (await answered(settings, Teller(said), QUESTION)).text == NAMES


async def test_queries_that_fail_have_no_vote_even_when_they_are_many(databases: Path) -> None:
    said = ("SELECT a FROM b", "SELECT a FROM b", NAMES)
    settings = SqlVote(kind="sql_vote", of="direct", databases=databases, samples=3)

    answer = await answered(settings, Teller(said), QUESTION)

    assert (answer.text, answer.notes) == (NAMES, {"confidence": 1 / 3})


# sql_tool


async def test_what_a_query_gives_stands_above_the_question(databases: Path) -> None:
    model = Teller(("SELECT COUNT(*) FROM ship WHERE port = 'Tarn'", "Two [S1]."))
    settings = SqlTool(kind="sql_tool", of="direct", database=databases / "harbour.sqlite")

    answer = await answered(settings, model, Query("How many ships sail from Tarn, as Odo does?"), LIBRARY)

    assert (answer.text, answer.notes) == ("Two [S1].", {"valid_call": 1})
    assert [hit.passage.document for hit in answer.sources] == ["harbour", "Odo"]
    assert [hit.rank for hit in answer.sources] == [1, 2]
    agrees_with(GOLDEN / "sql_tool-query.txt", model.asked[0])
    agrees_with(GOLDEN / "sql_tool-answer.txt", model.asked[1])


@pytest.mark.parametrize("said", ["DROP TABLE ship", "SELECT a FROM b", "I do not know."])
async def test_a_call_that_is_not_valid_is_noted_and_shows_nothing(databases: Path, said: str) -> None:
    model = Teller((said, "Unknown."))
    settings = SqlTool(kind="sql_tool", of="direct", database=databases / "harbour.sqlite")

    answer = await answered(settings, model, Query("How many ships?"))

    assert (answer.text, answer.sources, answer.notes) == ("Unknown.", (), {"valid_call": 0})


async def test_a_question_that_the_tool_is_not_for_is_answered_without_it(databases: Path) -> None:
    model = Teller(("Odo.",))
    settings = SqlTool(kind="sql_tool", of="direct", database=databases / "harbour.sqlite", when="^How many")

    answer = await answered(settings, model, Query("Who built the Varn?"), LIBRARY)

    assert (answer.text, answer.notes, len(model.asked)) == ("Odo.", {}, 1)


@pytest.mark.parametrize(
    ("said", "text"), [("SELECT COUNT(*) FROM ship", '{"answer": "3"}'), (NAMES, "Three."), ("oh", "Three.")]
)
async def test_a_value_alone_fills_the_form_and_whatever_else_is_left_to_the_model(
    databases: Path, said: str, text: str
) -> None:
    file, form = databases / "harbour.sqlite", '{"answer": "$value"}'
    settings = SqlTool(kind="sql_tool", of="direct", database=file, tables=("ship",), form=form)
    model = Teller((said, "Three."))

    answer = await answered(settings, model, Query("How many ships?"))

    assert answer.text == text
    assert "owner" not in model.asked[0][0].content


def test_what_is_wrong_with_a_tools_settings_is_said_when_it_is_made(databases: Path, tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be looked at as one " * 20)
    direct, file = {"direct": DIRECT}, databases / "harbour.sqlite"

    with pytest.raises(ValueError, match="no regular expression"):
        SqlTool(kind="sql_tool", of="direct", database=databases, when="(")
    with pytest.raises(FileError, match="no table 'boat'; there is: ship, owner"):
        build(direct | {"tool": SqlTool(kind="sql_tool", of="direct", database=file, tables=("boat",))}, {})
    with pytest.raises(FileError, match="cannot be read as a database: file is not a database"):
        build(direct | {"tool": SqlTool(kind="sql_tool", of="direct", database=tmp_path / "text.sqlite")}, {})


# arithmetic


async def test_calculations_are_worked_out_and_not_by_the_model() -> None:
    model = Teller(('{"answer": "<<48/2 + 48=70>>", "sources": [1]}',))

    answer = await answered(Arithmetic(kind="arithmetic", of="direct"), model, Query("How many in all?"))

    assert answer.text == '{"answer": "72", "sources": [1]}'
    assert answer.notes == {"calculations": 1, "mistakes": 0}
    agrees_with(GOLDEN / "arithmetic.txt", model.asked[0])


async def test_a_calculation_without_a_value_stands_as_it_was_written() -> None:
    model = Teller(("<<9**9**9>> and <<1 + 1>>",))

    answer = await answered(Arithmetic(kind="arithmetic", of="direct"), model, Query("How many?"))

    assert (answer.text, answer.notes) == ("<<9**9**9>> and 2", {"calculations": 2, "mistakes": 1})


# react

TWO_HOPS = (
    "Thought: I need the builder.\nAction: search[Varn]\nObservation: It was Ada, born in Ulm.",
    "Thought: Odo built it; where was he born?\nAction: search[Odo]",
    "Thought: Tarn.\nAction: finish[]",
    "Tarn [S2].",
)
BIRTH = Query("Where was the builder of the Varn born?")


async def test_a_question_of_two_hops_is_answered_from_the_pages_of_both() -> None:
    model = Teller(TWO_HOPS)

    answer = await answered(React(kind="react", of="direct"), model, BIRTH, LIBRARY)

    assert answer.text == "Tarn [S2]."
    assert [hit.passage.title for hit in answer.sources] == ["Varn", "Odo"]
    assert shown_in(answer.messages) == ("Varn\nThe Varn was built by Odo.", "Odo\nOdo was born in Tarn.")
    assert answer.notes == {"steps": 2, "repeated": 0, "gave_up": 0}
    assert {one.stop for one in model.samplings[:3] if one} == {("Observation:",)}
    agrees_with(GOLDEN / "react.txt", model.asked[2])
    agrees_with(GOLDEN / "react-answer.txt", model.asked[3])


async def test_one_search_for_the_question_finds_no_second_hop() -> None:
    answer = await answered(DIRECT, Teller(("Odo.",)), BIRTH, LIBRARY)

    assert [hit.passage.title for hit in answer.sources] == ["Varn"]


async def test_a_loop_is_told_and_ends_at_the_limit_with_an_answer() -> None:
    model = Teller(("Action: search[Varn]", "Action: Search[varn]", "I think it is Odo.", "Odo."))

    answer = await answered(React(kind="react", of="direct", steps=3), model, BIRTH, LIBRARY)

    assert (answer.text, answer.notes) == ("Odo.", {"steps": 3, "repeated": 1, "gave_up": 1})
    assert "You did this before" in model.asked[2][-1].content
    assert len(answer.sources) == 1


async def test_tools_count_and_calculate_and_say_what_is_wrong_with_a_call(databases: Path) -> None:
    said = (
        "Action: sql[SELECT COUNT(*) FROM boat]",
        "Action: sql[SELECT COUNT(*) FROM ship]",
        "Action: calculate[3 * x]",
        "Action: calculate[3 * 14]",
        "Action: search[Varn]",
        "Action: finish[]",
        "42",
    )
    settings = React(kind="react", of="direct", actions=("sql", "calculate"), database=databases / "harbour.sqlite")
    model = Teller(said)

    answer = await answered(settings, model, Query("How many legs have 14 sailors on each ship?"), LIBRARY)

    assert [(hit.passage.title, hit.passage.text) for hit in answer.sources] == [
        ("SELECT COUNT(*) FROM ship", "3"),
        ("3 * 14", "42"),
    ]
    told = [asked[-1].content for asked in model.asked[1:6]]
    assert "no such table: boat" in told[0]
    assert "something in it that is no number" in told[2]
    assert "That is no action" in told[4], "the stack gives no search"
    agrees_with(GOLDEN / "react-tools.txt", model.asked[0])


@pytest.mark.parametrize("wrong", [{"actions": ("sql",)}, {"database": Path("x.sqlite")}, {"actions": ()}])
def test_an_action_without_its_tool_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="`sql` needs a `database`"):
        React(kind="react", of="direct", **wrong)  # type: ignore[arg-type]


# all of them

STACK = """
model: a/b
strategies:
  direct: {kind: direct}
  repaired: {kind: repair, of: voted, databases: .}
  voted: {kind: sql_vote, of: direct, databases: .}
  counted: {kind: sql_tool, of: direct, database: harbour.sqlite, tables: [ship], when: ^How many}
  calculated: {kind: arithmetic, of: direct}
  walked: {kind: react, of: calculated, actions: [search, sql], database: harbour.sqlite}
"""


def test_a_stack_names_them_and_its_files_are_relative_to_it(databases: Path) -> None:
    (databases / "stack.yaml").write_text(STACK)

    stack = Stack.load(databases / "stack.yaml")

    assert stack.strategies["counted"].files == {"database": databases / "harbour.sqlite"}
    assert list(build(stack.strategies, {})) == list(yaml.safe_load(STACK)["strategies"])
    for name in ("repaired", "counted", "calculated", "walked"):
        assert stack.strategies[name].prompts, "answers depend on what a prompt file says"


def test_every_prompt_file_belongs_to_a_kind() -> None:
    ours = {"arithmetic", "react", "repair", "sql_tool"}

    assert ours <= {file.stem.split("-")[0] for file in PROMPTS.glob("*.txt")}
