"""The report from a run's folder alone: it renders whatever happened, and what models wrote stays text."""

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.analysis import analyse
from eval.blame import FAULTS, blame, look
from eval.folder import Results
from eval.gold import document_of
from eval.peek import SHOWN, blamed, varied, wrong_answers
from eval.report import HERE, Axis, axis_around, render, save
from eval.summary import summarise, to_csv
from serve.combination import GOLD, NONE, Combination
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import Stub, planted, serving, write_world

GRID = grid_of(["base", "tuned"], ["none", "dense", "gold"], ["direct", "brief"], "base:none:direct")
EVIL = "<script>alert('x')</script><img src=http://evil.example/x.png>"


@pytest.fixture(scope="module")
def results() -> Results:
    chance = {NONE: 0.2, "dense": 0.5, GOLD: 0.8}
    return simulate(GRID, lambda cell, part: chance[cell.retriever] + 0.1 * (cell.adapter == "tuned"), 80, 0)


class Tables(HTMLParser):
    """The cells of the table with this id, row by row."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.inside, self.rows = name, False, list[list[str]]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = dict(attrs).get("id") == self.name if tag == "table" else self.inside
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "table"


def test_the_table_is_summary_csv(results: Results) -> None:
    parser = Tables("summary")

    parser.feed(render(analyse(results)))

    assert parser.rows == list(csv.reader(StringIO(to_csv(summarise(results)))))


def test_the_page_holds_no_script_and_names_no_host(results: Results, tmp_path: Path) -> None:
    page = save(analyse(results), tmp_path).read_text()

    scripts = re.findall(r"<script.*?</script>", page, re.DOTALL)
    assert len(scripts) == 2
    assert all(
        re.fullmatch(r'<script defer src="report_data/[a-z]+-[0-9a-f]{12}\.js"></script>', one) for one in scripts
    )
    assert "default-src 'none'; script-src 'self' file:; style-src" in page
    assert set(re.findall(r"https?://[^\s\"']+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.findall(r"(?:src|href)=\"(?!data:|#|report_data/)", page)


def test_what_was_asked_and_answered_stays_text(results: Results) -> None:
    examples = tuple(replace(one, question=EVIL, meta={"slice": EVIL}) for one in results.examples)
    records = {
        cell: {name: replace(one, text=EVIL) for name, one in found.items()} for cell, found in results.records.items()
    }

    page = render(analyse(replace(results, examples=examples, records=records)))

    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_it_renders_whatever_a_run_came_to(results: Results) -> None:
    one_cell = simulate(grid_of(["base"], ["none"], ["direct"], "base:none:direct"), lambda cell, part: 0.5, 20, 0)
    all_equal = simulate(GRID, lambda cell, part: 1.0, 20, 0)
    graded = replace(
        results,
        records={
            cell: {name: replace(one, scores=one.scores | {"exact": 0.5}) for name, one in found.items()}
            for cell, found in results.records.items()
        },
    )
    empty = replace(results, records={cell: {} for cell in results.records})
    for case in (one_cell, all_equal, graded, empty):
        assert "</html>" in render(analyse(case))


def test_wrong_answers_are_blamed_and_the_chosen_few_are_varied(results: Results) -> None:
    cell = Combination("base", "dense", "direct")
    wrong = wrong_answers(results, cell, blame(look(results))[cell])
    oracle = results.records[Combination("base", "gold", "direct")]

    few = varied(wrong)

    assert len(wrong) == sum(not record.scores["exact"] for record in results.records[cell].values())
    assert sum(blamed(wrong).values()) == len(wrong)
    told = {"retrieval", "context"}
    assert all((peek.blame in told) == (oracle[peek.example.id].scores["exact"] == 1) for peek in wrong)
    assert len({(peek.blame, peek.example.slice) for peek in few}) == len(few) == SHOWN


def test_an_answer_that_a_looser_scorer_finds_right_is_blamed_on_its_form(results: Results) -> None:
    cell = Combination("base", "dense", "direct")
    golds = {one.id: one.answers[0] for one in results.examples}
    records = {
        name: replace(one, text=f'So: {{"answer": "{golds[name]}"}}') for name, one in results.records[cell].items()
    }
    looser = replace(results, records={**results.records, cell: records})

    assert {peek.blame for peek in wrong_answers(looser, cell, blame(look(looser))[cell])} == {"form"}


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.701, 0.72), (-0.2, 0.83), (0.5, 0.5)])
def test_an_axis_holds_its_values_between_round_labels(low: float, high: float) -> None:
    axis: Axis = axis_around([low, high])

    assert axis.low <= low + 1e-9
    assert axis.high >= high - 1e-9
    assert 2 <= len(axis.ticks) <= 10
    assert (axis.at(axis.low), axis.at(axis.high)) == ("0.00%", "100.00%")


def test_a_report_is_made_again_from_the_folder_alone(tmp_path: Path) -> None:
    with serving(Stub(planted({"adapter": 0.3}))) as stub:
        grid = write_world(tmp_path / "world", stub.url, n=12)
        assert main(["run", str(grid), "--out", str(tmp_path / "out")]) == 0
    made = {name: (tmp_path / "out" / name).read_text() for name in ("summary.csv", "verdict.json", "report.html")}
    for path in (tmp_path / "world").iterdir():
        path.unlink()
    for name in made:
        (tmp_path / "out" / name).unlink()

    assert main(["report", str(tmp_path / "out")]) == 0

    assert {name: (tmp_path / "out" / name).read_text() for name in made} == made


def test_the_files_are_those_that_were_agreed(results: Results, tmp_path: Path) -> None:
    assert save(analyse(results), tmp_path) == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "blame.csv",
        "leaks.json",
        "report.html",
        "report_data",
        "summary.csv",
        "verdict.json",
    ]


def test_evidence_marked_by_page_is_found_where_a_piece_of_its_document_was_shown(results: Results) -> None:
    cell = next(cell for cell in results.records if cell.retriever == GOLD)
    pages = tuple(
        replace(one, evidence=tuple(f"{document_of(mark)}#p1" for mark in one.evidence)) for one in results.examples
    )
    paged = replace(results, examples=pages)

    wrong = wrong_answers(paged, cell, blame(look(paged))[cell])

    assert wrong
    assert {peek.evidence_found for peek in wrong if peek.example.evidence} == {True}


@pytest.mark.parametrize("fault", [*FAULTS, "right"])
def test_every_fault_has_a_colour_of_its_own(fault: str) -> None:
    css = (HERE / "report.css").read_text()

    assert f".{fault.replace(' ', '-')} {{ --hue: var(--" in css
