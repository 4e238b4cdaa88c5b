"""A gate holds when what it wants was found, fails when it was not, and fails when nobody can tell."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from eval.__main__ import main
from eval.folder import Results
from eval.gate import Ceiling, Earlier, Floor, Gates, Judgement, Margin, judge, load_gates, to_junit
from eval.leaks import Check, Leaks, Sighting
from eval.material import Material
from eval.summary import summarise
from retrieval.files import FileError
from serve.combination import Combination
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import Stub, planted, serving, write_world
from train.overlap import EXACT, NEAR

GRID = grid_of(["base", "tuned"], ["none", "gold"], ["direct"], "base:none:direct")
TUNED = "tuned:none:direct"


def run(tuned: float = 0.7, n: int = 200, seed: int = 0) -> Results:
    return simulate(GRID, lambda cell, part: tuned if cell.adapter == "tuned" else 0.3, n, seed)


def without(results: Results, *cells: str) -> Results:
    """The run, with the answer to q3 missing in these cells."""
    gone = {Combination.parse(cell) for cell in cells}
    return replace(
        results,
        records={
            cell: {item: record for item, record in found.items() if cell not in gone or item != "q3"}
            for cell, found in results.records.items()
        },
    )


def only(judgement: Judgement) -> tuple[bool, str]:
    (gate,) = judgement.gates
    return gate.holds, gate.found


RUN = run()
ROW = next(row for row in summarise(RUN) if row.combination == TUNED)


@pytest.mark.parametrize(
    ("gates", "holds"),
    [
        (Gates(score=Floor(at_least=ROW.ci_low - 0.001)), True),
        (Gates(score=Floor(at_least=ROW.ci_low + 0.001)), False),
        (Gates(score=Floor(at_least=ROW.score, bound="value")), True),
        (Gates(score=Floor(at_least=ROW.score + 0.001, bound="value")), False),
        (Gates(against_baseline=Margin(loses_at_most=0)), True),
        (Gates(combination="base:none:direct", against_baseline=Margin(loses_at_most=0)), True),
        (Gates(tokens=Ceiling(at_most=ROW.tokens)), True),
        (Gates(tokens=Ceiling(at_most=ROW.tokens - 0.1)), False),
        (Gates(latency_p95_s=Ceiling(at_most=ROW.latency_p95_s)), True),
        (Gates(latency_p95_s=Ceiling(at_most=ROW.latency_p95_s / 2)), False),
        (Gates(missing=Ceiling(at_most=0)), True),
    ],
)
def test_a_gate_holds_exactly_when_what_it_wants_was_found(gates: Gates, holds: bool) -> None:
    assert only(judge(gates, RUN))[0] is holds


@pytest.mark.parametrize(("more", "holds"), [(0.001, True), (-0.001, False)])
def test_what_may_be_lost_against_the_baseline_is_the_lower_end_of_the_difference(more: float, holds: bool) -> None:
    even = run(tuned=0.3, seed=3)
    low = next(row.delta_ci_low for row in summarise(even) if row.combination == TUNED)
    assert low is not None
    assert low < -0.001
    gates = Gates(combination=TUNED, against_baseline=Margin(loses_at_most=more - low))

    assert only(judge(gates, even))[0] is holds


def test_whom_the_verdict_adopts_is_judged_unless_the_file_names_another() -> None:
    gates = Gates(score=Floor(at_least=0.5))

    assert judge(gates, RUN).combination == TUNED
    assert judge(replace(gates, combination="base:none:direct"), RUN).failed == ("score",)


def test_all_gates_are_judged_at_once_and_the_last_line_names_those_that_fail() -> None:
    gates = Gates(score=Floor(at_least=1), tokens=Ceiling(at_most=0), missing=Ceiling(at_most=0))
    judgement = judge(gates, RUN)

    assert [gate.holds for gate in judgement.gates] == [False, False, True]
    assert judgement.sentence == f"For {TUNED} (the verdict adopts it), 2 of 3 gates failed: score and tokens."


@pytest.mark.parametrize(("now", "holds"), [(0.7, True), (0.4, False)])
def test_a_loss_against_an_earlier_run_fails_and_none_holds(now: float, holds: bool) -> None:
    gates = Gates(combination=TUNED, against_run=Earlier(run=Path("before"), loses_at_most=0.05))

    assert only(judge(gates, run(now), RUN))[0] is holds


@pytest.mark.parametrize(("n", "holds"), [(50, False), (300, True)])
def test_even_equal_answers_prove_a_small_margin_only_with_questions_enough(n: int, holds: bool) -> None:
    gates = Gates(against_run=Earlier(run=Path("before"), loses_at_most=0.02))

    assert only(judge(gates, run(n=n), run(n=n)))[0] is holds


@pytest.mark.parametrize(
    ("gates", "results", "earlier", "found"),
    [
        (
            Gates(combination=TUNED, score=Floor(at_least=0)),
            without(RUN, TUNED),
            None,
            "not judged: 1 of 200 questions unanswered",
        ),
        (
            Gates(score=Floor(at_least=0)),
            without(RUN, *map(str, GRID.cells)),
            None,
            "no combination has all its answers",
        ),
        (
            Gates(against_baseline=Margin(loses_at_most=1)),
            without(RUN, "base:none:direct"),
            None,
            "not judged: 1 question unanswered by the baseline",
        ),
        (
            Gates(against_run=Earlier(run=Path("before"), loses_at_most=1)),
            RUN,
            without(RUN, TUNED),
            "not judged: answers are missing in the first run",
        ),
        (Gates(latency_p95_s=Ceiling(at_most=99)), run(n=40), None, "not judged: 40 answers, and 59 is the least"),
        (Gates(against_run=Earlier(run=Path("before"), loses_at_most=1)), RUN, None, "not judged: before was not read"),
        (Gates(leaks="block"), RUN, None, "not judged: nobody looked"),
        (Gates(missing=Ceiling(at_most=0)), without(RUN, TUNED, "base:gold:direct"), None, "2"),
    ],
)
def test_a_gate_that_cannot_be_judged_does_not_hold(
    gates: Gates, results: Results, earlier: Results | None, found: str
) -> None:
    holds, said = only(judge(gates, results, earlier))

    assert not holds
    assert said.startswith(found)


def sighting(kind: str) -> Sighting:
    return Sighting(id="q3", question="Where?", where="train.jsonl:7", seen="Where?", kind=kind, score=1, leak=True)


@pytest.mark.parametrize(
    ("material", "kinds", "holds", "found"),
    [
        ({}, [EXACT], False, "1 test question in the training data of tuned, e.g. q3 at train.jsonl:7"),
        ({}, [NEAR], True, "none in 0 texts; 1 alike in other ways, see leaks.json"),
        ({"remark": "the file is gone"}, [], False, "not checked: the training data of tuned (the file is gone)"),
    ],
)
def test_leaks_fail_word_for_word_and_where_nobody_could_look(
    material: dict[str, Any], kinds: list[str], holds: bool, found: str
) -> None:
    seen = Material(kind="training data", used_by=("tuned",), place="train.jsonl", **material)
    leaks = Leaks(checks=(Check(material=seen, sightings=tuple(map(sighting, kinds))),))
    held, said = only(judge(Gates(leaks="block"), RUN, leaks=leaks))

    assert held is holds
    assert said.startswith(found)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("score: {at_leest: 0.5}", "gates.yaml:1: score.at_leest: unknown key"),
        ("scores: {at_least: 0.5}", "gates.yaml:1: scores: unknown key; did you mean 'score'?"),
        ("score: {at_least: 50}", "gates.yaml:1: score.at_least: Input should be less than or equal to 1"),
        ("tokens: {at_most: .nan}", "gates.yaml:1: tokens.at_most: "),
        ("tokens: {}", "gates.yaml:1: tokens.at_most: this key is required and missing"),
        ("combination: tuned:none:direct", "there is no gate in this file; known gates: score, "),
        ("tokens: {at_most: 9}\ncombination: tuned:none:driect", "gates.yaml:2: combination: 'tuned:none:driect': not"),
        ("combination: base:gold:direct\ntokens: {at_most: 9}", "is the oracle arm, which nobody can deploy"),
    ],
)
def test_a_file_that_asks_for_nothing_that_can_be_judged_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(text)

    with pytest.raises(FileError) as refused:
        load_gates(tmp_path / "gates.yaml", RUN)
    assert sentence in str(refused.value)


def test_the_other_run_is_found_from_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text("against_run: {run: ../before, loses_at_most: 0.02}")
    gates = load_gates(tmp_path / "gates.yaml", RUN)

    assert gates.against_run == Earlier(run=tmp_path / "../before", loses_at_most=0.02)


def test_the_junit_file_has_a_case_a_gate_and_any_text_in_it_is_xml() -> None:
    judgement = judge(Gates(score=Floor(at_least=1), tokens=Ceiling(at_most=900)), RUN)
    first, second = judgement.gates
    odd = replace(judgement, gates=(replace(first, found="<b>&\x00\x1b \ud800 Ünï 😀"), second))
    root = ElementTree.fromstring(to_junit(odd, 'out/"run"').encode())

    (suite,) = root
    assert (suite.attrib["name"], suite.attrib["tests"], suite.attrib["failures"]) == ('eval gate out/"run"', "2", "1")
    assert [case.attrib["name"] for case in suite] == ["score", "tokens"]
    assert [[child.tag for child in case] for case in suite] == [["failure"], ["system-out"]]
    assert suite[0][0].attrib["message"].endswith("; found <b>&?? ? Ünï 😀")


def test_the_command_exits_with_2_only_when_a_gate_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Stub(planted({"adapter": 0.6}))) as stub:
        grid = write_world(tmp_path, stub.url, n=60, retrievers=["none"])
        assert main(["run", str(grid), "--out", str(tmp_path / "out")]) == 0
    gates, junit = tmp_path / "gates.yaml", tmp_path / "ci" / "gates.xml"
    command = ["gate", str(tmp_path / "out"), str(gates), "--junit", str(junit)]

    gates.write_text("score: {at_least: 0.1}\nagainst_run: {run: out, loses_at_most: 0.1}\nmissing: {at_most: 0}")
    assert main(command) == 0
    assert "all 3 gates hold." in capsys.readouterr().out
    assert ElementTree.parse(junit).getroot().attrib["failures"] == "0"

    gates.write_text("score: {at_least: 1}\nleaks: block")
    assert main(command) == 2
    assert "gates failed: score" in capsys.readouterr().out
    assert int(ElementTree.parse(junit).getroot().attrib["failures"]) >= 1

    gates.write_text("score: {at_least: 2}")
    assert main(command) == 1
    assert main(["gate", str(tmp_path / "nowhere"), str(gates)]) == 1
    with pytest.raises(SystemExit) as ended:
        main(["gate"])
    assert ended.value.code == 1


def test_help_ends_with_a_line_to_paste_and_its_gates_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["gate", "--help"])
    shown = capsys.readouterr().out
    (tmp_path / "gates.yaml").write_text(
        "\n".join(line for line in shown.splitlines() if line.startswith("  ") and ": " in line)
    )

    assert shown.strip().splitlines()[-1].startswith("example: python -m eval gate ")
    assert load_gates(tmp_path / "gates.yaml", RUN).leaks == "block"
