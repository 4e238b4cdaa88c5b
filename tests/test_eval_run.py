"""Runs against a real server: every answer once, whatever dies when; what changed is asked again, and only that."""

import csv
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.folder import load_results
from eval.grid import load_grid
from eval.record import RunError, read_records
from eval.run import run
from serve.combination import Combination
from tests.eval_stub import Stub, call_of, fact, planted, serving, write_rows, write_world

N = 30
CELLS = 8


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(planted({"adapter": 0.3}))) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed calls are tried again without waiting."""
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))


def start(grid: Path, out: Path, inherited: signal.Handlers = signal.SIG_DFL) -> "subprocess.Popen[str]":
    """A run of its own; `inherited` is what its parent left of Ctrl-C."""
    command = [sys.executable, "-m", "eval", "run", str(grid), "--out", str(out)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, inherited),
    )


def kept(out: Path) -> set[str]:
    """The calls whose answers are in the run's folder."""
    models = {"base": "stub", "tuned": "tuned"}
    return {
        call_of(models[one.combination.adapter], [{"role": turn.role, "content": turn.content} for turn in one.prompt])
        for one in read_records(out / "records.jsonl")
    }


def edit(path: Path, **keys: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))


def test_killed_at_any_moment_it_resumes_with_every_answer_once(stub: Stub, tmp_path: Path) -> None:
    """The promise: no record lost or doubled, no finished answer generated again, and at the end nothing is started.

    Each run that is killed has a server of its own, so that a call of its which is counted late is not another's.
    """
    grid, out = write_world(tmp_path, stub.url, n=N), tmp_path / "out"
    moments = random.Random(7)
    with ExitStack() as stay:
        for _ in range(3):
            done_before = kept(out)
            one = stay.enter_context(serving(Stub(planted({"adapter": 0.3}), seconds=0.02)))
            edit(tmp_path / "stack.yaml", url=one.url)
            patience = time.monotonic() + 300
            process = start(grid, out)
            moment = moments.randrange(5, 60)
            while len(one.calls) < moment and process.poll() is None and time.monotonic() < patience:
                time.sleep(0.002)
            process.kill()
            process.communicate()

            assert not done_before & set(one.calls)
            assert done_before <= kept(out)

    edit(tmp_path / "stack.yaml", url=stub.url)
    done_before = kept(out)
    last = start(grid, out)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert Counter(stub.calls) == Counter(set(stub.calls) - done_before)
    records = Counter((one.id, one.combination) for one in read_records(out / "records.jsonl"))
    assert len(records) == N * CELLS
    assert set(records.values()) == {1}

    before = len(stub.calls)
    light = "import sys; from eval.__main__ import main; code = main(sys.argv[1:]); print(code, *sys.modules)"
    third = subprocess.run(
        [sys.executable, "-c", light, "run", str(grid), "--out", str(out)], capture_output=True, text=True, check=True
    )
    code, *modules = third.stdout.splitlines()[-1].split()
    assert (code, len(stub.calls) - before) == ("0", 0)
    assert "Nothing is left to ask" in third.stderr
    assert not {"torch", "vllm", "faiss", "transformers", "sentence_transformers"} & set(modules)


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "background job"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_keeps_every_answer(
    how: signal.Signals, inherited: signal.Handlers, stub: Stub, tmp_path: Path
) -> None:
    plain, over = stub.say, Event()

    def say(model: str, messages: list[dict[str, str]]) -> str:
        if len(stub.calls) >= 100:  # of 240: however late the signal comes, it comes in the middle
            over.wait(300)
        return plain(model, messages)

    stub.say, stub.seconds = say, 0.02
    grid, out = write_world(tmp_path, stub.url, n=N), tmp_path / "out"
    process = start(grid, out, inherited)
    while len(kept(out)) < 10 and process.poll() is None:
        time.sleep(0.002)
    before = kept(out)

    process.send_signal(how)
    _, errors = process.communicate(timeout=300)
    over.set()

    assert process.returncode == 1
    assert errors.strip().endswith("Stopped. Every answer so far is kept; the same command goes on from here.")
    assert "Traceback" not in errors
    assert before <= kept(out)


def test_a_full_disk_stops_with_one_sentence_and_the_next_run_finishes(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=N), tmp_path / "out"
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    code = limit + "from eval.__main__ import main; sys.exit(main(sys.argv[1:]))"
    full = subprocess.run(
        [sys.executable, "-c", code, "run", str(grid), "--out", str(out)], capture_output=True, text=True, check=False
    )
    done = kept(out)
    before = len(stub.calls)

    results = run(load_grid(grid), out)

    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert full.stderr.strip().splitlines()[-1].endswith("free some space and run the same command to go on.")
    assert 10 < len(done) < N * CELLS
    assert not done & set(stub.calls[before:])
    assert not any(map(results.missing, results.records))


def test_an_outage_is_a_failure_and_never_a_score(
    stub: Stub, tmp_path: Path, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    stub.broken = lambda question: "entry 3 " in question and "[S1]" not in question
    grid, out = write_world(tmp_path, stub.url, n=10), tmp_path / "out"
    for _ in range(2):
        assert main(["run", str(grid), "--out", str(out)]) == 1
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    rows = {row["combination"]: row for row in csv.DictReader((out / "summary.csv").open())}
    verdict = json.loads((out / "verdict.json").read_text())

    assert [(one["id"], one["attempts"]) for one in failures] == [("q3", 1)] * 4 + [("q3", 2)] * 4
    assert all("503: out of order" in one["reason"] for one in failures)
    assert (rows["base:none:direct"]["n"], rows["base:none:direct"]["n_infra"]) == ("10", "1")
    assert rows["tuned:none:brief"]["p_holm"] == rows["tuned:none:brief"]["delta"] == ""
    assert (verdict["decision"], verdict["best"]) == ("incomplete", None)
    assert "4 answers missing" in caplog.text

    stub.broken = lambda question: False
    before = len(stub.calls)
    assert main(["run", str(grid), "--out", str(out)]) == 0
    assert len(stub.calls) - before == 4
    assert "Why answers are missing" not in (out / "report.html").read_text()


def test_when_the_engine_is_gone_the_rest_is_left_for_another_time(stub: Stub, tmp_path: Path, impatient: None) -> None:
    stub.broken = lambda question: "entry" in question
    grid, out = write_world(tmp_path, stub.url, n=8, concurrency=2), tmp_path / "out"

    with pytest.raises(RunError, match="4 calls in a row got no answer, so the rest were not tried"):
        run(load_grid(grid), out)

    assert 4 <= len((out / "failures.jsonl").read_text().splitlines()) <= 8, "two strategies ask each of the four"


def test_an_adapter_that_changes_nothing_fails_its_own_cells_without_being_asked(
    stub: Stub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stub.probed = lambda model: 0.0

    results = run(load_grid(write_world(tmp_path, stub.url, n=2)), tmp_path / "out")

    assert re.search(r"stack\.yaml:\d+: tuned has no effect: .* Its combinations are not asked", caplog.text)
    assert {cell.adapter for cell in results.records if results.missing(cell)} == {"tuned"}
    assert {call.partition("\n")[0] for call in stub.calls} == {"stub"}
    assert {
        one.reason.partition(": tuned ")[2][:13] for cell in results.failures.values() for one in cell.values()
    } == {"has no effect"}


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("stack.yaml", "Be brief.", "Be very brief.", 4 * 8),
        ("stack.yaml", "model: stub", "model: other", CELLS * 8),
        ("test.jsonl", "What does entry 1 say?", "What does entry 1 say then?", CELLS),
        ("corpus.jsonl", fact(2), fact(2) + " Truly.", 4),
        ("grid.yaml", "concurrency: 8", "concurrency: 4", 0),
        ("task.yaml", "kind: contains", "kind: f1", 0),
        ("test.jsonl", '"answers": ["word1"]', '"answers": ["word1", "wrong"]', 0),
    ],
)
def test_only_what_depends_on_a_change_is_asked_again(
    file: str, old: str, new: str, again: int, stub: Stub, tmp_path: Path
) -> None:
    grid, out = write_world(tmp_path, stub.url, n=8), tmp_path / "out"
    run(load_grid(grid), out)
    before = len(stub.calls)
    path = tmp_path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))

    run(load_grid(grid), out)

    stale = out / "records.stale.jsonl"
    assert len(stub.calls) - before == again
    assert (len(stale.read_text().splitlines()) if stale.exists() else 0) == again
    assert len(list(read_records(out / "records.jsonl"))) == CELLS * 8


def test_new_gold_answers_change_the_scores_and_nothing_else(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=8), tmp_path / "out"
    texts = {(one.id, one.combination): one.text for one in read_all(run(load_grid(grid), out), out)}
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    write_rows(tmp_path / "test.jsonl", [row | {"answers": ["wrong"]} for row in rows])

    after = read_all(run(load_grid(grid), out), out)

    assert {(one.id, one.combination): one.text for one in after} == texts
    assert all(one.scores["exact"] == (one.text == "wrong") for one in after)


def test_a_grid_may_shrink_and_grow_without_losing_answers(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=8), tmp_path / "out"
    run(load_grid(grid), out)
    edit(grid, adapters=["base"])
    assert len(run(load_grid(grid), out).records) == 4
    before = len(stub.calls)
    edit(grid, adapters=["base", "tuned", "other"])

    results = run(load_grid(grid), out)

    assert len(results.records) == 12
    assert {call.partition("\n")[0] for call in stub.calls[before:]} == {"other"}
    assert len(stub.calls) - before == 4 * 8


def test_a_retrained_adapter_is_another_adapter(stub: Stub, tmp_path: Path) -> None:
    weights = tmp_path / "adapters" / "tuned" / "adapter_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"old")
    grid, out = write_world(tmp_path, stub.url, n=8), tmp_path / "out"
    run(load_grid(grid), out)
    before = len(stub.calls)
    weights.write_bytes(b"new")

    run(load_grid(grid), out)

    assert {call.partition("\n")[0] for call in stub.calls[before:]} == {"tuned"}
    assert len(stub.calls) - before == 4 * 8


def test_questions_without_marked_evidence_have_no_oracle_arm(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=6), tmp_path / "out"
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    rows[0] |= {"evidence": []}
    rows[1] |= {"evidence": [], "meta": {"unanswerable": True}}
    write_rows(tmp_path / "test.jsonl", rows)

    results = run(load_grid(grid), out)

    oracle = results.records[Combination("base", "gold", "direct")]
    assert sorted(oracle) == ["q1", "q2", "q3", "q4", "q5"]
    assert oracle["q1"].sources == ()
    assert oracle["q2"].prompt[-1].content == f"[S1] Entry 2\n{fact(2)}\n\nQuestion: What does entry 2 say?"
    assert not any(map(results.missing, results.records))


def test_the_folder_says_how_it_was_run_and_may_be_moved(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path / "world", stub.url, n=4), tmp_path / "out"
    run(load_grid(grid), out)
    config = yaml.safe_load((out / "config.yaml").read_text())

    assert config["grid"]["task"] == "../world/task.yaml"
    assert config["task"]["examples"] == "../world/test.jsonl"
    assert config["stack"]["strategies"]["brief"]["instructions"] == "Be brief."
    assert json.loads((out / "keys.json").read_text())["cells"].keys() == {
        str(cell) for cell in load_results(out).records
    }
    assert str(tmp_path) not in (out / "config.yaml").read_text()


def read_all(results: Any, out: Path) -> list[Any]:
    assert not any(map(results.missing, results.records))
    return list(read_records(out / "records.jsonl"))
