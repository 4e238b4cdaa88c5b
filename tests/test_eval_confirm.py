"""Chosen on dev, reported once: the locked test is asked by two combinations only, and every read of it is counted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.folder import load_results
from eval.record import read_records
from eval.summary import difference
from eval.task import read_examples
from retrieval.files import FileError
from scripts.make_sft import load as load_sft
from serve.combination import Combination
from tests.eval_stub import Stub, example, number_in, planted, serving, write_rows, write_world

N = 40
TEST = range(1000, 1030)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(planted({"adapter": 0.4, "prompt": 0.4}, base=0.1))) as running:
        yield running


@pytest.fixture
def grid(stub: Stub, tmp_path: Path) -> Path:
    """A grid to choose with, whose task keeps thirty other questions locked."""
    made = write_world(tmp_path / "world", stub.url, n=N, retrievers=["none"])
    write_rows(tmp_path / "world" / "locked.jsonl", [example(i) | {"evidence": []} for i in TEST])
    edit(tmp_path / "world" / "task.yaml", locked="locked.jsonl")
    return made


def edit(path: Path, **keys: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))


def asked(stub: Stub) -> list[int]:
    return [number_in([{"content": call}]) for call in stub.calls]


def reads(grid: Path) -> list[dict[str, Any]]:
    file = grid.with_name("locked.reads.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_run_asks_nothing_of_the_locked_file_whatever_is_in_it(grid: Path, stub: Stub, tmp_path: Path) -> None:
    grid.with_name("locked.jsonl").write_text("not even JSON\n")

    assert main(["run", str(grid), "--out", str(tmp_path / "out")]) == 0
    assert max(asked(stub)) < N
    assert reads(grid) == []


def test_the_winner_and_the_baseline_alone_are_asked_and_the_read_is_counted_once(
    grid: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["run", str(grid), "--out", str(out)])
    best = json.loads((out / "verdict.json").read_text())["best"]
    assert best == "tuned:none:brief", "it differs in two ways, so that a product would have four combinations"
    before = len(stub.calls)
    capsys.readouterr()

    assert main(["confirm", str(out)]) == 0

    said = capsys.readouterr().out
    assert len(stub.calls) - before == 2 * len(TEST)
    assert {str(one.combination) for one in read_records(out / "test" / "records.jsonl")} == {best, "base:none:direct"}
    kept = json.loads((out / "test" / "confirmed.json").read_text())
    results = load_results(out / "test")
    gain = difference(results, Combination.parse(best), results.baseline)
    assert kept["gain"]["estimate"]["value"] == gain.estimate.value
    assert kept["holds"] is (gain.p < 0.05)
    assert kept["sentence"] in " ".join(said.splitlines())
    assert "This is the first read of this test" in said
    (row,) = reads(grid)
    assert row["combinations"].keys() == {best, "base:none:direct"}
    assert row["run"] == "../out"

    assert main(["confirm", str(out)]) == 0
    assert len(stub.calls) - before == 2 * len(TEST)
    assert len(reads(grid)) == 1, "the same models on the same questions again tell nothing new"


def test_a_second_choice_is_a_second_read_and_says_so(
    grid: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(grid), "--out", str(tmp_path / "one")])
    main(["confirm", str(tmp_path / "one")])
    edit(grid.with_name("stack.yaml"), sampling={"max_tokens": 77})
    main(["run", str(grid), "--out", str(tmp_path / "two")])
    capsys.readouterr()

    main(["confirm", str(tmp_path / "two")])

    assert "This is read 2 of this test; after the first, choose nothing by it." in capsys.readouterr().out
    assert [row["run"] for row in reads(grid)] == ["../one", "../two"]


def test_a_read_counts_before_anything_is_asked_and_stays_one_when_it_is_tried_again(
    grid: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))
    out = tmp_path / "out"
    main(["run", str(grid), "--out", str(out)])
    stub.broken = lambda question: "entry 1007" in question

    assert main(["confirm", str(out)]) == 1
    assert "2 answers missing" in capsys.readouterr().err
    assert len(reads(grid)) == 1
    assert not (out / "test" / "confirmed.json").exists()

    stub.broken = lambda question: False
    assert main(["confirm", str(out)]) == 0
    assert len(reads(grid)) == 1


@pytest.mark.parametrize(
    ("file", "keys", "why"),
    [
        ("stack", {"sampling": {"max_tokens": 7}}, "changed since that run"),
        ("task", {"scorers": {"exact": {"kind": "contains"}}}, "the scorers changed since that run"),
        ("stack", {"adapters": {}}, "'tuned': not in"),
    ],
)
def test_what_is_no_longer_what_was_chosen_is_not_confirmed(
    file: str, keys: dict[str, Any], why: str, grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["run", str(grid), "--out", str(out)])
    edit(grid.with_name(f"{file}.yaml"), **keys)
    capsys.readouterr()

    assert main(["confirm", str(out)]) == 1
    assert why in capsys.readouterr().err
    assert reads(grid) == []


def test_where_nothing_is_ahead_the_test_stays_unread(
    grid: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.say = planted({"adapter": -0.2, "prompt": -0.2}, base=0.9)
    main(["run", str(grid), "--out", str(tmp_path / "out")])

    assert main(["confirm", str(tmp_path / "out")]) == 1
    assert "there is nothing to confirm" in capsys.readouterr().err
    assert reads(grid) == []


def test_a_task_without_a_locked_test_is_told_how(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(write_world(tmp_path, stub.url, n=4)), "--out", str(tmp_path / "out")])

    assert main(["confirm", str(tmp_path / "out")]) == 1
    assert "write `locked: FILE` into task.yaml" in capsys.readouterr().err


def test_what_is_chosen_with_cannot_be_locked(grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(grid.with_name("task.yaml"), examples="locked.jsonl")

    assert main(["run", str(grid), "--out", str(tmp_path / "out")]) == 1
    assert "locked: is what `examples` names too" in capsys.readouterr().err


def test_nobody_learns_from_locked_questions(grid: Path) -> None:
    train, locked = grid.with_name("train.jsonl"), grid.with_name("locked.jsonl")
    rows = [example(i) | {"id": f"t{i}", "evidence": []} for i in (2000, TEST[0])]
    write_rows(train, rows)
    settings = grid.with_name("sft.yaml")
    edit_to = {"stack": "stack.yaml", "task": "task.yaml", "examples": "train.jsonl", "retrievers": ["none"]}
    settings.write_text(yaml.safe_dump(edit_to | {"strategies": ["direct"], "target": "plain", "out": "sft.jsonl"}))

    plan = load_sft(settings)

    assert [one.id for one in plan.leaked] == [f"t{TEST[0]}"]
    edit(settings, examples="locked.jsonl")
    assert len(read_examples(locked)) == len(TEST)
    with pytest.raises(FileError, match="every question of it is in"):
        load_sft(settings)


def test_a_screened_winner_that_falls_behind_on_the_test_is_asked_to_the_end(
    grid: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(grid, screen=True)
    main(["run", str(grid), "--out", str(tmp_path / "out")])
    stub.say = lambda model, messages: "wrong" if model == "tuned" else f"word{number_in(messages)}"
    capsys.readouterr()

    assert main(["confirm", str(tmp_path / "out")]) == 0
    assert "Not confirmed: against base:none:direct (100.0%)" in capsys.readouterr().out
    assert len(list(read_records(tmp_path / "out" / "test" / "records.jsonl"))) == 2 * len(TEST)


def test_ones_own_scorer_confirms_and_is_another_one_when_its_code_is(
    grid: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = grid.with_name("mine.py")
    code.write_text("def score(example, text, shown):\n    return float(text in example.answers)\n")
    edit(grid.with_name("task.yaml"), primary="mine", scorers={"mine": {"kind": "python", "path": "mine.py:score"}})
    main(["run", str(grid), "--out", str(tmp_path / "out")])

    assert main(["confirm", str(tmp_path / "out")]) == 0

    code.write_text("def score(example, text, shown):\n    return 1.0\n")
    capsys.readouterr()
    assert main(["confirm", str(tmp_path / "out")]) == 1
    assert "the scorers changed since that run" in capsys.readouterr().err


def test_questions_that_chose_the_winner_cannot_confirm_it(
    grid: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = example(7) | {"id": "another", "question": "What does Entry 7 say", "evidence": []}
    write_rows(grid.with_name("locked.jsonl"), [*(example(i) | {"evidence": []} for i in TEST), copied])
    main(["run", str(grid), "--out", str(tmp_path / "out")])
    capsys.readouterr()

    assert main(["confirm", str(tmp_path / "out")]) == 1
    assert "1 question with the same answer (the first is 'another') chose the winner" in capsys.readouterr().err
    assert reads(grid) == []
