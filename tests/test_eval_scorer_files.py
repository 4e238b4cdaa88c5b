"""Scorers that a task brings along: what is refused when it is read, and what a run and its report make of them."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.blame import look
from eval.folder import load_results
from eval.grid import load_grid
from eval.keys import keys_of
from eval.record import RunError
from eval.run import run
from eval.task import load_task
from retrieval.files import FileError
from serve.combination import Combination
from tests.eval_stub import Stub, example, number_in, serving, write_rows, write_world

N = 8
CELL = Combination.parse("base:none:direct")
OWN = "def score(example, text, shown):\n    return float(text == example.answers[0])\n"


def answer(_: str, messages: list[dict[str, str]]) -> str:
    """The first half right, one of the others an abstention."""
    i = number_in(messages)
    return f"word{i}" if i < N // 2 else "unknown" if i == N - 2 else "something else"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(answer)) as running:
        yield running


def world(folder: Path, url: str, scorers: dict[str, Any], primary: str = "exact") -> Path:
    """A grid of one combination whose last question has no answer."""
    grid = write_world(
        folder, url, n=N, adapters=["base"], retrievers=["none"], strategies=["direct"], baseline=str(CELL)
    )
    last = {"answers": ["unknown"], "evidence": [], "meta": {"unanswerable": True}}
    write_rows(folder / "test.jsonl", [example(i) | (last if i == N - 1 else {}) for i in range(N)])
    change(folder / "task.yaml", primary=primary, scorers={"exact": {"kind": "exact"}} | scorers)
    return grid


def change(path: Path, **keys: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))


def complaint(folder: Path, rows: list[dict[str, Any]], **scorers: Any) -> str:
    world(folder, "http://unused", scorers)
    write_rows(folder / "test.jsonl", rows)
    with pytest.raises(FileError) as caught:
        load_task(folder / "task.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("scorer", "sentence"),
    [
        ({"kind": "regex", "pattern": "("}, "the pattern '(' is broken"),
        ({"kind": "json_schema", "schema": "none.json"}, "none.json: there is no such file"),
        ({"kind": "json_schema", "schema": "bad.json"}, "bad.json:3: not JSON"),
        ({"kind": "json_schema", "schema": "odd.json"}, "this is no JSON schema: 'objekt'"),
        ({"kind": "json_schema", "schema": {"type": "objekt"}}, "this is no JSON schema: 'objekt'"),
        ({"kind": "python", "path": "none.py:score"}, "none.py: there is no such file"),
        ({"kind": "python", "path": "bad.py:score"}, "bad.py:2: not Python"),
        ({"kind": "python", "path": "raises.py:score"}, "raises.py: cannot be loaded: ZeroDivisionError"),
        ({"kind": "python", "path": "mine.py:other"}, "mine.py: has no function 'other'"),
        ({"kind": "abstains"}, "no example has `meta.unanswerable`, so none should abstain"),
    ],
)
def test_a_scorer_that_cannot_be_made_is_named_by_its_line(tmp_path: Path, scorer: Any, sentence: str) -> None:
    (tmp_path / "bad.json").write_text('{\n"type"\n')
    (tmp_path / "odd.json").write_text('{"type": "objekt"}')
    (tmp_path / "bad.py").write_text("def score():\n  return )\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "mine.py").write_text(OWN)

    said = complaint(tmp_path, [example(0)], one=scorer)

    line = 1 + (tmp_path / "task.yaml").read_text().split("\n").index("  one:")
    assert f"{tmp_path / 'task.yaml'}:{line}: scorers.one: " in said
    assert sentence in said


@pytest.mark.parametrize(
    ("scorer", "row", "sentence"),
    [
        ({"kind": "regex"}, {"answers": ["["]}, "the pattern '[' is broken"),
        ({"kind": "numeric"}, {"answers": ["seven"]}, "the answer 'seven' is no number"),
        ({"kind": "json_fields", "fields": ["a"]}, {"answers": ["{}"]}, "has no field 'a'"),
        ({"kind": "instructions"}, {"meta": {}}, "must be lists of the same length"),
        ({"kind": "cites_recall"}, {"answers": []}, "`answers` is empty"),
    ],
)
def test_an_example_that_cannot_be_scored_is_named_by_its_line(
    tmp_path: Path, scorer: Any, row: dict[str, Any], sentence: str
) -> None:
    said = complaint(tmp_path, [example(0) | {"answers": ["1", '{"a": 1}'][:1]}, example(1) | row], one=scorer)

    assert any(
        line.startswith(f"{tmp_path / 'test.jsonl'}:2: ") and sentence in line and line.endswith("(scorers.one)")
        for line in said.split("\n")
    )


def test_instructions_need_no_gold_answer_and_everything_else_does(tmp_path: Path) -> None:
    world(tmp_path, "http://unused", {})
    asked = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    write_rows(tmp_path / "test.jsonl", [example(0) | {"answers": [], "meta": asked}])
    change(tmp_path / "task.yaml", primary="kept", scorers={"kept": {"kind": "instructions"}})

    loaded = load_task(tmp_path / "task.yaml")

    assert loaded.examples[0].answers == ()
    change(tmp_path / "task.yaml", scorers={"kept": {"kind": "instructions"}, "f1": {"kind": "f1"}})
    with pytest.raises(FileError, match="`answers` is empty, so no reply could ever be right for a scorer of kind f1"):
        load_task(tmp_path / "task.yaml")


def test_the_primary_cannot_be_abstains(tmp_path: Path) -> None:
    world(tmp_path, "http://unused", {"no": {"kind": "abstains"}}, primary="no")

    with pytest.raises(FileError, match="primary: abstains looks at the primary scorer"):
        load_task(tmp_path / "task.yaml")


def test_figures_that_are_no_means_are_columns_and_signatures_are_kept(stub: Stub, tmp_path: Path) -> None:
    grid = world(tmp_path, stub.url, {"no": {"kind": "abstains"}, "bleu": {"kind": "bleu"}, "chrf": {"kind": "chrf"}})

    assert main(["run", str(grid), "--out", str(tmp_path / "out")]) == 0

    row = next(csv.DictReader((tmp_path / "out" / "summary.csv").open()))
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (row["no"], row["no_false"], row["no_missed"]) == ("0.7500", f"{1 / 7:.4f}", "1.0000")
    assert 0 < float(row["chrf"]) < 1
    assert 0 < float(row["chrf_corpus"]) < 1
    assert row["bleu_corpus"] == "0.0000"  # answers of one word have no 4-grams, and a corpus has no effective order
    assert config["signatures"].keys() == {"bleu", "bleu_corpus", "chrf", "chrf_corpus"}
    assert config["signatures"]["bleu_corpus"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_ones_own_code_scores_and_is_scored_again_when_it_changes(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    grid, out = world(tmp_path, stub.url, {"own": {"kind": "python", "path": "mine.py:score"}}), tmp_path / "out"
    before = run(load_grid(grid), out)
    asked = len(stub.calls)

    (tmp_path / "mine.py").write_text(OWN.replace("==", "!="))
    after = run(load_grid(grid), out)

    for item, record in before.records[CELL].items():
        assert record.scores["own"] == record.scores["exact"]
        assert after.records[CELL][item].scores["own"] == 1 - record.scores["exact"]
    assert len(stub.calls) == asked


def test_a_report_never_runs_ones_own_code(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    grid, out = world(tmp_path, stub.url, {"own": {"kind": "python", "path": "mine.py:score"}}, "own"), tmp_path / "out"
    assert main(["run", str(grid), "--out", str(out)]) == 0
    (tmp_path / "mine.py").unlink()

    assert main(["report", str(out)]) == 0

    assert sum(one.right for one in look(load_results(out))[CELL].values()) == N // 2


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return 2", "score returned 2, which is no number from 0 to 1 for example 'q"),
        ("return None", "score returned None"),
        ("return float('nan')", "score returned nan"),
        ("return example.answers[5]", "score raised IndexError"),
    ],
)
def test_ones_own_code_that_fails_is_a_sentence(stub: Stub, tmp_path: Path, body: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(f"def score(example, text, shown):\n    {body}\n")
    grid = world(tmp_path, stub.url, {"own": {"kind": "python", "path": "mine.py:score"}})

    with pytest.raises(RunError) as caught:
        run(load_grid(grid), tmp_path / "out")

    assert f"{tmp_path / 'mine.py'}: {sentence}" in str(caught.value)


def test_a_schema_is_in_the_runs_folder_and_a_reply_that_misses_it_is_a_format_failure(
    stub: Stub, tmp_path: Path
) -> None:
    (tmp_path / "form.json").write_text(json.dumps({"type": "object"}))
    grid, out = world(tmp_path, stub.url, {"form": {"kind": "json_schema", "schema": "form.json"}}), tmp_path / "out"
    assert main(["run", str(grid), "--out", str(out)]) == 0
    (tmp_path / "form.json").unlink()

    assert main(["report", str(out)]) == 0

    assert load_results(out).config.task.scorers["form"].schema == {"type": "object"}
    assert next(csv.DictReader((out / "summary.csv").open()))["n_format_fail"] == str(N)


def test_the_keys_of_scores_know_content_and_not_places(tmp_path: Path) -> None:
    keys = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(OWN)
        grid = load_grid(world(tmp_path / name, "http://unused", {"own": {"kind": "python", "path": "mine.py:score"}}))
        keys.add(keys_of(grid).scoring)
    (tmp_path / "there" / "mine.py").write_text(OWN + "\n")
    keys.add(keys_of(load_grid(tmp_path / "there" / "grid.yaml")).scoring)

    assert len(keys) == 2


def test_two_runs_are_compared_when_the_code_that_ranks_is_the_same_wherever_it_lies(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"own": {"kind": "python", "path": "mine.py:score"}}
    runs = [tmp_path / "one" / "out", tmp_path / "deep" / "two" / "out", tmp_path / "other" / "out"]
    for out, code in zip(runs, (OWN, OWN, OWN + "# edited\n"), strict=True):
        grid = world(out.parent, stub.url, own, "own")
        (out.parent / "mine.py").write_text(code)
        assert main(["run", str(grid), "--out", str(out)]) == 0

    assert main(["compare", str(runs[0]), str(runs[1])]) == 0
    assert main(["compare", str(runs[0]), str(runs[2])]) == 1

    assert "'own' is not the same scorer in both runs (kind: python score|sha256:" in capsys.readouterr().err
