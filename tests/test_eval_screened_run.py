"""Screened runs against a real server: fewer answers, the same decisions after an outage, nothing half compared."""

import csv
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.analysis import analyse
from eval.compare import compare
from eval.folder import Results, load_results
from eval.grid import load_grid
from eval.record import Failure, RunError, read_records, row_of
from eval.run import pending, run
from eval.screening import by_lot, ends
from eval.summary import comparisons
from serve.combination import Combination
from tests.eval_stub import Stub, planted, serving, write_rows, write_world

N = 60
STOPPED = {Combination("base", retriever, "brief") for retriever in ("none", "gold")}
"""Worse than the tuned ones, and not the baseline; the oracle arm has nobody else to measure for."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(planted({"adapter": 0.6}, base=0.2))) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed calls are tried again without waiting."""
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))


def edit(path: Path, **keys: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))


def asked(out: Path) -> Counter[Combination]:
    return Counter(one.combination for one in read_records(out / "records.jsonl"))


def stops(results: Results) -> dict[Combination, int]:
    assert results.screening
    return {cell: stop.asked for cell, stop in results.screening.stops.items()}


def test_hopeless_combinations_are_asked_no_further_and_the_others_everything(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=N, screen=True), tmp_path / "out"

    results = run(load_grid(grid), out)

    assert stops(results).keys() == STOPPED
    assert asked(out) == {cell: stops(results).get(cell, N) for cell in load_grid(grid).cells}
    assert max(stops(results).values()) <= ends(N)[-1]
    for cell in STOPPED:
        first = by_lot(results.examples)[: stops(results)[cell]]
        assert results.stopped[cell].keys() == set(first)
        assert cell not in results.records


def test_with_nothing_left_nothing_is_asked(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid, out = write_world(tmp_path, stub.url, n=N, screen=True), tmp_path / "out"
    assert main(["run", str(grid), "--out", str(out)]) == 0
    calls = len(stub.calls)

    assert main(["run", str(grid), "--out", str(out)]) == 0
    assert main(["plan", str(grid), "--out", str(out)]) == 0

    assert len(stub.calls) == calls
    said = " ".join(capsys.readouterr().out.split())
    assert "Screening has stopped 2 combinations so far." in said
    assert "Nothing is left to ask" in said
    assert "base:none:brief: stopped after" in said


def test_after_an_outage_it_comes_to_the_decisions_of_a_run_without_one(
    stub: Stub, impatient: None, tmp_path: Path
) -> None:
    grid = load_grid(write_world(tmp_path, stub.url, n=N, screen=True))
    whole = run(grid, tmp_path / "whole")
    for moment in (20, 90, 200):
        before = len(stub.calls)
        stub.broken = lambda question, until=before + moment: len(stub.calls) >= until  # type: ignore[misc]
        with pytest.raises(RunError, match="same command"):
            run(grid, tmp_path / f"broken{moment}")

        stub.broken = lambda question: False
        resumed = run(grid, tmp_path / f"broken{moment}")

        assert stops(resumed) == stops(whole)
        assert asked(tmp_path / f"broken{moment}") == asked(tmp_path / "whole")


def test_a_run_that_begins_waits_for_what_failed_before_and_opens_no_later_question(stub: Stub, tmp_path: Path) -> None:
    poor, out = Combination("base", "none", "brief"), tmp_path / "out"
    results = run(load_grid(write_world(tmp_path, stub.url, n=N, screen=True)), out)
    first = by_lot(results.examples)[: ends(N)[0]]
    rows = [row_of(one) for one in results.answers if one.combination != poor or one.id in first[1:]]
    write_rows(out / "records.jsonl", rows)
    lost = Failure(id=first[0], combination=poor, reason="out of order", attempts=1, repeat=0)
    write_rows(out / "failures.jsonl", [row_of(lost)])

    assert len(pending(load_results(out))) > 1, "within a run nobody waits for it"
    assert [(job.cell, job.example.id) for job in pending(load_results(out, retrying=True))] == [(poor, first[0])]


def test_a_question_that_fails_for_good_does_not_keep_the_others_from_stopping(
    stub: Stub, impatient: None, tmp_path: Path
) -> None:
    grid, out = write_world(tmp_path, stub.url, n=N, screen=True, concurrency=64), tmp_path / "out"
    one = by_lot(load_grid(grid).task.examples)[0]
    stub.broken = lambda question: f"entry {one[1:]} " in question

    results = run(load_grid(grid), out)

    assert not stops(results)
    assert {results.missing(cell) for cell in results.records} == {1}
    stub.broken = lambda question: False
    assert stops(run(load_grid(grid), out)) == {}  # every answer is there: nobody is half asked


def test_answers_that_are_there_anyway_count(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=N), tmp_path / "out"
    run(load_grid(grid), out)
    calls = len(stub.calls)

    edit(grid, screen=True)
    results = run(load_grid(grid), out)

    assert len(stub.calls) == calls
    assert not stops(results)
    assert not any(map(results.missing, results.records))


def test_without_screening_the_rest_is_asked(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=N, screen=True), tmp_path / "out"
    run(load_grid(grid), out)

    edit(grid, screen=False)
    results = run(load_grid(grid), out)

    assert results.screening is None
    assert set(asked(out).values()) == {N}


def test_who_stopped_is_shown_and_never_compared_as_if_it_were_whole(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=N, screen=True), tmp_path / "out"
    task = tmp_path / "task.yaml"
    edit(task, scorers=yaml.safe_load(task.read_text())["scorers"] | {"bleu": {"kind": "bleu"}})
    assert main(["run", str(grid), "--out", str(out)]) == 0

    lines = [*csv.reader((out / "summary.csv").open())]
    assert "bleu_corpus" in lines[0]
    assert {len(line) for line in lines} == {len(lines[0])}
    rows = {row["combination"]: row for row in csv.DictReader((out / "summary.csv").open())}
    row = rows["base:none:brief"]
    assert (row["n"], row["n_infra"], row["score"], row["delta"], row["p_holm"]) == (str(N), "0", "", "", "")
    assert int(row["stopped_after"]) in ends(N)
    assert float(row["behind"]) > 0.2
    assert row["leader"].startswith("tuned:none:")
    assert rows["tuned:none:direct"]["stopped_after"] == ""
    assert (rows["base:gold:brief"]["stopped_after"], rows["base:gold:brief"]["leader"]) == (row["stopped_after"], "")
    page = (out / "report.html").read_text()
    assert f"stopped after {row['stopped_after']} questions" in page
    assert f"· {len(rows)} combinations</p>" in page


def test_the_correction_is_for_all_that_could_have_been_chosen(stub: Stub, tmp_path: Path) -> None:
    results = run(load_grid(write_world(tmp_path, stub.url, n=N, screen=True)), tmp_path / "out")
    alone = replace(results, screening=None, stopped={})

    ours, others = comparisons(results), comparisons(alone)

    first = min(ours, key=lambda cell: ours[cell].p_holm if not math.isnan(ours[cell].p_holm) else 2)
    assert ours[first].difference == others[first].difference
    assert ours[first].p_holm == pytest.approx(others[first].p_holm * 3 / 2)
    assert "over 3 comparisons" in analyse(results).verdict.sentence


def test_levers_are_judged_by_what_all_were_asked(stub: Stub, tmp_path: Path) -> None:
    results = run(load_grid(write_world(tmp_path, stub.url, n=N, screen=True)), tmp_path / "out")
    first = set(by_lot(results.examples)[: ends(N)[0]])

    found = {one.level: one.estimate.value for one in analyse(results).effects}

    by_hand = [
        sum(
            {**results.records, **results.stopped}[Combination(adapter, "none", strategy)][item].scores["exact"]
            for item in first
            for strategy in ("direct", "brief")
        )
        / (2 * len(first))
        for adapter in ("base", "tuned")
    ]
    assert found["tuned"] == pytest.approx(by_hand[1] - by_hand[0])


def test_compare_leaves_out_who_was_stopped_and_says_so(stub: Stub, tmp_path: Path) -> None:
    grid = write_world(tmp_path, stub.url, n=N)
    run(load_grid(grid), tmp_path / "full")
    edit(grid, screen=True)
    run(load_grid(grid), tmp_path / "screened")

    found = compare(load_results(tmp_path / "full"), load_results(tmp_path / "screened"))

    assert dict(found.left_out)["base:none:brief"] == "stopped early in the second run"


def test_halfway_through_a_round_no_later_question_is_open(stub: Stub, impatient: None, tmp_path: Path) -> None:
    grid = load_grid(write_world(tmp_path, stub.url, n=N, screen=True))
    stub.broken = lambda question: len(stub.calls) >= 20
    with pytest.raises(RunError):
        run(grid, tmp_path / "out")

    results = load_results(tmp_path / "out")

    first = set(by_lot(results.examples)[: ends(N)[0]])
    assert {job.example.id for job in pending(results)} <= first
    assert all(results.missing(cell) for cell in results.records)
    assert analyse(results).verdict.decision == "incomplete"


def test_a_square_whose_corner_was_stopped_is_not_drawn(tmp_path: Path) -> None:
    """Two levers that both help: the corners with one lever alone stop, and have no score to show."""
    with serving(Stub(planted({"adapter": 0.3, "prompt": 0.5}, base=0.1))) as stub:
        grid = write_world(tmp_path, stub.url, n=N, screen=True)
        assert main(["run", str(grid), "--out", str(tmp_path / "out")]) == 0

    found = analyse(load_results(tmp_path / "out"))

    assert found.stopped
    assert found.square is None


def test_one_question_is_no_race_and_has_a_report(stub: Stub, tmp_path: Path) -> None:
    grid = write_world(tmp_path, stub.url, n=1, screen=True, repeats=2)

    assert main(["run", str(grid), "--out", str(tmp_path / "out")]) == 0
    assert "the first 1 question, which" in (tmp_path / "out" / "verdict.json").read_text()
