"""A project from one's own files: what comes of a folder and a CSV, and what is refused, all at once."""

import json
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from eval.__main__ import main
from eval.gold import document_of, is_oracle
from eval.grid import load_grid
from eval.init import COMPARED
from eval.plan import Earlier, plan
from eval.questions import read_questions
from eval.splits import detectable
from eval.suggest import suggest
from eval.task import Example, read_examples
from retrieval.documents import read_documents
from retrieval.files import FileError
from scripts.make_sft import load as load_sft
from scripts.newcomer import MODEL, QUESTIONS, write_files
from tests.eval_stub import Stub, number_in, serving, write_rows
from tests.made_files import make_pdf
from train.recipe import read_recipe

ROOT = Path(__file__).parents[1]
SPLITS = ("train", "dev", "test")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type commands in, with six documents."""
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    for n in range(6):
        Path(f"docs/d{n}.txt").write_text("\n".join(f"Entry {n}-{i} is kept by word{n}{i}." for i in range(5)))
    return tmp_path


def sheet(*rows: str, header: str = "question,answer,evidence") -> Path:
    Path("questions.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return Path("questions.csv")


def thirty(evidence: bool = True) -> Path:
    mark = "d{n}.txt" if evidence else ""
    return sheet(*(f"Who keeps entry {n}-{i}?,word{n}{i},{mark.format(n=n)}" for n in range(6) for i in range(5)))


def init(*more: str, folder: str = "mine", questions: str = "questions.csv") -> int:
    return main(["init", folder, "--docs", "docs", "--questions", questions, "--model", str(ROOT / MODEL), *more])


def examples_of(folder: Path) -> dict[str, tuple[Example, ...]]:
    return {name: read_examples(folder / f"{name}.jsonl") for name in SPLITS}


def complaint(rows: Path) -> list[str]:
    with pytest.raises(FileError) as caught:
        read_questions(rows)
    return str(caught.value).splitlines()


def test_every_other_door_takes_what_it_wrote(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thirty()

    code = init()

    said = capsys.readouterr().out.strip().splitlines()
    assert code == 0
    assert said[-1] == "Next:   python -m retrieval build docs out/index/mine"
    grid = load_grid(Path("mine/grid.yaml"))
    assert len(grid.cells) == 16
    assert grid.task.settings.locked == Path("mine/test.jsonl")
    assert grid.stack.adapters["mine"] == here / "out/adapters/mine"
    assert grid.stack.retrievers["hybrid"].index == here / "out/index/mine"
    recipe = read_recipe(Path("mine/recipe.yaml"))
    assert (recipe.name, recipe.output / recipe.name) == ("mine", here / "out/adapters/mine")
    assert recipe.check_against == (here / "mine/dev.jsonl", here / "mine/test.jsonl")
    chats = load_sft(Path("mine/sft.yaml"))
    assert (chats.settings.target, chats.leaked) == ("careful", ())
    assert recipe.data == (here / chats.settings.out)


def test_the_comparisons_it_promises_are_those_of_its_grid(here: Path) -> None:
    thirty()
    init()

    grid = load_grid(Path("mine/grid.yaml"))

    choices = [cell for cell in grid.cells if cell.retriever != "gold"]
    assert len(choices) - 1 == COMPARED
    foretold = next(one for one in plan(grid, Earlier(good={})).guessed if one.discordance == 0.2)
    assert foretold.smallest == pytest.approx(detectable(grid.task.examples, COMPARED))


def test_no_document_and_no_question_is_on_two_sides_and_the_seed_decides(here: Path) -> None:
    thirty()
    for name, seed in (("one", "0"), ("same", "0"), ("other", "1")):
        init("--seed", seed, folder=name)

    one, same, other = (examples_of(Path(name)) for name in ("one", "same", "other"))

    assert one == same != other
    for splits in (one, other):
        sides = defaultdict[str, set[str]](set)
        for name, rows in splits.items():
            for row in rows:
                sides[document_of(row.evidence[0])].add(name)
        assert all(len(names) == 1 for names in sides.values())
        assert sum(map(len, splits.values())) == 30


def test_questions_on_one_document_are_refused_until_a_cluster_says_what_they_share(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"Who keeps entry 0-{i}?,word0{i},d0.txt" for i in range(5)]
    sheet(*rows)
    assert init() == 1

    sheet(*(f"{row},{i}" for i, row in enumerate(rows)), header="question,answer,evidence,cluster")

    assert init() == 0
    assert "split by cluster, since all hangs together by documents" in capsys.readouterr().out


def test_too_few_documents_are_warned_of_and_clusters_within_them_help(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thirty()
    init()
    assert "the answers of dev lie in 2 clusters, and 9 must differ" in capsys.readouterr().out

    rows = (f"Who keeps entry {n}-{i}?,word{n}{i},d{n}.txt,{n}-{i}" for n in range(6) for i in range(5))
    sheet(*rows, header="question,answer,evidence,cluster")
    init(folder="finer")

    said = capsys.readouterr().out
    assert "split by document" in said
    assert "Warning: the answers" not in said
    sides = [{document_of(one.evidence[0]) for one in rows_} for rows_ in examples_of(Path("finer")).values()]
    assert len(set().union(*sides)) == sum(map(len, sides)), "finer clusters do not put a document on two sides"


def test_all_that_is_wrong_with_a_file_is_said_at_once_with_its_line(here: Path) -> None:
    rows = sheet(
        "Fine?,yes,,,,a",
        ",word,,,,b",
        '"Two\nlines?",,,,,c',
        "A page?,x,d0.txt,three,,d",
        "Alone?,x,,3,,e",
        "Perhaps?,x,,,maybe,f",
        "Again?,x,,,,a",
        "Too many?,x,,,,g,h",
        header="Question,Answer,Evidence,Page,Unanswerable,Id",
    )

    assert complaint(rows) == [
        "questions.csv:3: question: is empty",
        "questions.csv:4: answer: is empty; write what counts as right, or `yes` in a column `unanswerable`",
        "questions.csv:6: page: 'three' is no whole number",
        "questions.csv:7: page: 1 for 0 of `evidence`; give each document its page",
        "questions.csv:8: unanswerable: 'maybe' is neither yes nor no",
        "questions.csv:9: id 'a' was taken by questions.csv:2; ids must differ",
        "questions.csv:10: 7 cells below 6 columns: put quotes round a cell that holds ','",
    ]


def test_a_header_that_is_nearly_right_is_told_how(here: Path) -> None:
    assert complaint(sheet("a,b", header="questions,response")) == [
        "questions.csv:1: the header has no column 'question' and no column 'answer'; rename 'questions' to 'question'"
    ]


def test_evidence_that_names_nothing_is_told_with_what_may_be_meant(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet("Who?,Odo,d0.text", "Where?,Oslo,d1.txt#p9")

    assert init() == 1
    said = capsys.readouterr().err
    assert "questions.csv:2: evidence 'd0.text' names no document" in said
    assert "did you mean 'd0.txt'?" in said
    assert "questions.csv:3: " in said


def test_a_sheet_and_json_lines_come_to_the_same_questions(here: Path) -> None:
    rows = sheet(
        "Capital?;Oslo | Kristiania;d0.txt | d1.txt;2 | 3;;geo;easy",
        "Who?;;;;yes;people;",
        header="question;answer;evidence;page;unanswerable;slice;level",
    )
    meta, marks = {"slice": "geo", "level": "easy"}, ("d0.txt#p2", "d1.txt#p3")
    write_rows(
        Path("questions.jsonl"),
        [
            {"question": "Capital?", "answers": ["Oslo", "Kristiania"], "evidence": list(marks), "meta": meta},
            {"question": "Who?", "unanswerable": True, "slice": "people"},
        ],
    )

    one, other = ([asked.example for asked in read_questions(path)] for path in (rows, Path("questions.jsonl")))

    assert one == other
    assert one[1].answers == ("unknown", "I do not know")
    assert one[1].has_gold


def test_values_that_are_no_text_are_refused_one_by_one(here: Path) -> None:
    rows = Path("questions.jsonl")
    write_rows(
        rows,
        [
            {"question": ["Who?"], "answers": {"Odo": 1}, "meta": "easy"},
            {"question": "Who\0?", "answer": 7},
            {"question": "How many?", "answers": [7, 8.5]},
        ],
    )

    assert complaint(rows) == [
        "questions.jsonl:1: question: is no text",
        "questions.jsonl:1: answers: is no text or list of texts",
        "questions.jsonl:1: meta: is no object; in a CSV file give each key a column of its own",
        "questions.jsonl:2: question: holds a null byte: save the file in UTF-8",
    ]


def test_a_test_set_of_ours_is_read_as_it_is(here: Path) -> None:
    thirty()
    init()

    rows = Path("mine/dev.jsonl")

    assert tuple(one.example for one in read_questions(rows)) == read_examples(rows)


def test_nothing_is_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thirty()
    Path("mine").mkdir()
    Path("mine/task.yaml").write_text("mine\n")

    assert init() == 1
    assert "mine: task.yaml would be written over" in capsys.readouterr().err
    assert [file.name for file in Path("mine").iterdir()] == ["task.yaml"]


@pytest.mark.parametrize(("folder", "questions"), [("docs/mine", "questions.csv"), ("mine", "docs/questions.csv")])
def test_gold_answers_never_lie_among_the_documents(
    folder: str, questions: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thirty().rename(questions)

    assert init(folder=folder, questions=questions) == 1
    assert "gold answers too; choose a place outside" in capsys.readouterr().err


def test_long_answers_are_not_ranked_by_exact_match(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "Because the keeper of the gate had lost his only key"
    sheet(*(f"Why was entry {n}-{i} shut?,{said} {i},d{n}.txt" for n in range(6) for i in range(5)))

    init()

    assert yaml.safe_load(Path("mine/task.yaml").read_text())["primary"] == "f1"
    warning = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning: exact"))
    assert all(name in warning for name in ("exact match is unsuitable", "f1", "contains", "rouge", "judge"))


def test_suggested_evidence_is_no_evidence_until_a_person_hands_it_in(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thirty(evidence=False)
    init("--seed", "3")
    suggested = Path("mine/evidence.suggested.jsonl")
    rows = [json.loads(line) for line in suggested.read_text().splitlines()]
    assert all(not one.evidence for rows_ in examples_of(Path("mine")).values() for one in rows_)
    assert yaml.safe_load(Path("mine/sft.yaml").read_text())["target"] == "plain"
    assert "gold" not in yaml.safe_load(Path("mine/grid.yaml").read_text())["retrievers"]
    command = next(line for line in capsys.readouterr().out.splitlines() if "--evidence" in line)

    write_rows(suggested, rows[1:])
    assert (main(command.split()[3:]), command[-8:]) == (0, "--seed 3")

    made = {one.id: one.evidence for rows_ in examples_of(Path("mine-2")).values() for one in rows_}
    assert f"wrong, add those of {suggested}, then:" in capsys.readouterr().out
    assert made.pop(rows[0]["id"]) == ()
    assert made == {row["id"]: (row["evidence"],) for row in rows[1:]}
    assert "gold" in yaml.safe_load(Path("mine-2/grid.yaml").read_text())["retrievers"]


def test_confirmed_evidence_of_other_questions_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thirty()
    write_rows(
        Path("marks.jsonl"),
        [
            {"id": "q0001", "question": "Another?", "evidence": "d0.txt"},
            {"id": "q0002", "question": "Who keeps entry 0-1?", "evidence": "d0.txt"},
        ],
    )

    assert init("--evidence", "marks.jsonl") == 1
    said = capsys.readouterr().err
    assert "marks.jsonl:1: no question of questions.csv has this id and these words" in said
    assert "marks.jsonl:2: questions.csv:3 names evidence itself" in said


def test_the_suggested_piece_holds_the_answer_and_the_words_of_its_question(tmp_path: Path) -> None:
    """Against the newcomer's own marks: nearly every suggestion is on the marked page."""
    write_files(tmp_path / "files", seed=0)
    documents = {one.id: one for one in read_documents(tmp_path / "files" / "docs")}
    asked = [one.example for one in read_questions(tmp_path / "files" / "questions.csv")]
    marked = {one.id: one.evidence[0] for one in asked if one.evidence}
    bare = [Example(id=one.id, question=one.question, answers=one.answers) for one in asked if one.evidence]

    found = suggest(bare, tuple(documents.values()))

    right = 0
    for one in found:
        document, _, page = marked[one.id].partition("#p")
        start, end = map(int, one.evidence.rpartition("@")[2].split("-"))
        whole = documents[document].page(int(page))
        right += one.evidence.startswith(document) and start < whole.end and whole.start < end
    assert len(asked) == sum(QUESTIONS.values()) == 300
    assert len(documents) == 20
    assert len(found) == len(marked) == 266
    assert right / len(found) > 0.85


def test_a_pdf_is_evidence_by_its_page(here: Path) -> None:
    for n in range(6):
        make_pdf(Path(f"docs/p{n}.pdf"), f"Page one of {n}.", f"The keeper of {n} is Odo{n}.")
    sheet(*(f"Who keeps {n}?,Odo{n},p{n}.pdf,2" for n in range(6)), header="question,answer,evidence,page")

    init()

    task = load_grid(Path("mine/grid.yaml")).task
    assert all(one.text.startswith("The keeper") for one in task.evidence.values())


TEN = """\
name: ten
examples: ten.jsonl
primary: exact
scorers: {exact: {kind: exact}}
"""
STACK = """\
model: stub
strategies: {direct: {kind: direct}, brief: {kind: instructed, instructions: Be brief.}}
"""
GRID = """\
{stack: stack.yaml, task: task.yaml, baseline: "base:none:direct",
adapters: [base], retrievers: [none], strategies: [direct, brief]}
"""


def test_ten_lines_of_json_and_ten_of_yaml_are_a_task(here: Path) -> None:
    """The smallest that runs: no documents, no adapter, no index."""
    rows = [{"id": f"q{i}", "question": f"What does entry {i} say?", "answers": [f"word{i}"]} for i in range(10)]
    write_rows(Path("ten.jsonl"), rows)
    with serving(Stub(lambda _, turns: f"word{number_in(turns)}" if turns[0]["role"] == "system" else "?")) as stub:
        settings = {"task": TEN, "stack": f"{STACK}url: {stub.url}\n", "grid": GRID}
        for name, text in settings.items():
            Path(f"{name}.yaml").write_text(text)

        code = main(["run", "grid.yaml", "--out", "out/ten"])

    assert code == 0
    assert sum(len(text.splitlines()) for text in settings.values()) <= 10
    verdict = json.loads(Path("out/ten/verdict.json").read_text())
    assert (verdict["decision"], verdict["best"]) == ("adopt", "base:none:brief")


def test_a_quote_that_stays_open_swallows_no_question(here: Path) -> None:
    rows = sheet('"Who keeps 1?,word1,', '"Who keeps 2?,word2,', "Who keeps 3?,word3,")

    (said,) = complaint(rows)
    assert said.startswith("questions.csv:2: a cell that begins with a quote must end with one")


def test_answers_of_both_columns_count(here: Path) -> None:
    (one,) = read_questions(sheet("Where?,Oslo,Kristiania | Oslo", header="question,answer,answers"))

    assert one.example.answers == ("Oslo", "Kristiania")


def test_no_difference_above_a_hundred_points_is_promised(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet(*(f"Who keeps entry {n}-0?,word{n}0,d{n}.txt" for n in range(5)))

    assert init() == 0
    said = capsys.readouterr().out
    assert "can show no difference at all in 11 comparisons" in said
    assert "to confirm the choice once: no difference at all in one" in said


def test_a_place_below_a_file_is_no_place_for_a_project(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thirty()

    assert init(folder="questions.csv/mine") == 1
    assert "questions.csv: is a file; name a new folder" in capsys.readouterr().err


def test_questions_over_databases_are_judged_by_result_and_see_their_own_tables(here: Path) -> None:
    for name in ("harbour", "clinic"):
        Path("docs", name).mkdir()
        with closing(sqlite3.connect(Path("docs", name, f"{name}.sqlite"))) as database:
            database.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY, word TEXT)")
            database.executemany("INSERT INTO kept (word) VALUES (?)", [(f"word{i}",) for i in range(30)])
            database.commit()
    for text in Path("docs").glob("*.txt"):
        text.unlink()
    rows = [
        f"Which word is number {i}?,SELECT word FROM kept WHERE id = {i},{name}"
        for i in range(1, 31)
        for name in ("harbour", "clinic")
    ]
    sheet(*rows, header="question,answer,db_id")

    assert init() == 0

    grid = load_grid(Path("mine/grid.yaml"))
    assert (grid.task.settings.primary, grid.task.settings.scorers["executed"].kind) == ("executed", "ex_spider")
    assert len([cell for cell in grid.cells if not is_oracle(cell.retriever)]) - 1 == COMPARED
    assert all(one.where == {"db_id": "$db_id"} for one in grid.stack.retrievers.values())
    assert {one.meta["db_id"] for one in grid.task.examples} <= {"harbour", "clinic"}
    taught = yaml.safe_load(Path("mine/sft.yaml").read_text())
    assert (taught["retrievers"], taught["strategies"]) == (["tables", "schema"], ["direct"])


def test_one_question_without_a_database_makes_it_an_ordinary_task(here: Path) -> None:
    rows = ("Where?,SELECT 2,", *(f"Q{i}?,SELECT {i},harbour" for i in range(29)))
    sheet(*rows, header="question,answer,db_id")
    with closing(sqlite3.connect("docs/harbour.sqlite")) as database:
        database.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY)")
    for text in Path("docs").glob("*.txt"):
        text.unlink()

    assert init() == 0

    assert yaml.safe_load(Path("mine/task.yaml").read_text())["primary"] == "exact"
