"""A prompt that is longer than the model can read is no outage: an empty answer, told as what it is, and asked once."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.analysis import analyse
from eval.blame import blame, look
from eval.confidence import NOTE, find_stated
from eval.folder import load_results
from eval.grid import load_grid
from eval.run import run
from eval.summary import summarise
from serve.chat import UNREAD, Usage
from serve.combination import Combination
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import Stub, number_in, planted, serving, write_world

N = 10
TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=4097)"
)
AGAIN = "Is that all?"
DIRECT = Combination("base", "none", "direct")
TWICE = Combination("base", "none", "twice")


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(planted({}, base=1.0))) as running:
        yield running


def world(folder: Path, url: str, **grid: Any) -> Path:
    """A second look at what `direct` says, beside it."""
    path = write_world(folder, url, n=N, adapters=["base"], strategies=["direct", "twice"], **grid)
    stack = yaml.safe_load((folder / "stack.yaml").read_text())
    stack["strategies"]["twice"] = {"kind": "second_look", "of": "direct", "instructions": AGAIN}
    (folder / "stack.yaml").write_text(yaml.safe_dump(stack))
    return path


def says(model: str, messages: list[dict[str, str]]) -> str:
    """Right, also when it is asked whether that is all."""
    asked = [one for one in messages if "What does entry" in one["content"]]
    return f"word{number_in(asked)}"


def test_a_prompt_that_is_too_long_scores_as_an_empty_answer_and_is_asked_once(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.say, stub.refused = says, lambda question: TOO_LONG if "entry 3 " in question else ""
    grid, out = world(tmp_path, stub.url), tmp_path / "out"
    assert main(["run", str(grid), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    asked = len(stub.calls)
    assert main(["run", str(grid), "--out", str(out)]) == 0

    results = load_results(out)
    record, verdict = results.records[DIRECT]["q3"], json.loads((out / "verdict.json").read_text())
    assert len(stub.calls) == asked
    assert (out / "failures.jsonl").read_text() == ""
    assert (record.text, record.finish_reason, record.scores) == ("", UNREAD, {"exact": 0.0, "part": 0.0})
    assert (record.usage, record.sources) == (Usage(), ())
    assert record.prompt[-1].content.endswith("What does entry 3 say?"), "what was too long can be read"
    assert {row.score for row in summarise(results)} == {0.9}
    assert not any(row.n_infra for row in summarise(results))
    assert verdict["decision"] != "incomplete"
    assert (verdict["blame"]["fault"], verdict["blame"]["n"]) == ("length", 1)
    assert "max_model_len" in verdict["next"]["sentence"]
    sentence = "Longer than the model can read: 4 prompts of 4 combinations; each counts as an empty answer"
    assert sentence in verdict["sentence"]
    assert sentence in " ".join(told.split())
    assert sentence in (out / "report.html").read_text()
    assert "too long" in (out / "report.html").read_text()


def test_of_several_calls_any_that_does_not_fit_leaves_no_answer_and_what_came_before_is_paid(
    stub: Stub, tmp_path: Path
) -> None:
    stub.say, stub.refused = says, lambda question: TOO_LONG if question == AGAIN else ""

    results = run(load_grid(world(tmp_path, stub.url)), tmp_path / "out")

    answers = results.records[TWICE]
    first = results.records[DIRECT]["q3"]
    assert {(one.text, one.finish_reason, one.scores["exact"]) for one in answers.values()} == {("", UNREAD, 0.0)}
    assert answers["q3"].usage == first.usage
    assert answers["q3"].prompt[-1].content == AGAIN
    assert first.text == "word3"
    assert set(blame(look(results))[TWICE].values()) == {"too long"}


def test_a_record_of_what_was_not_read_is_no_reply_to_whoever_asks_the_same(stub: Stub, tmp_path: Path) -> None:
    """Resumed with another strategy that begins with the same prompt."""
    stub.say, stub.refused = says, lambda question: TOO_LONG if "entry 3 " in question else ""
    grid, out = world(tmp_path, stub.url), tmp_path / "out"
    whole = grid.read_text()
    grid.write_text(whole.replace("- twice\n", ""))
    run(load_grid(grid), out)
    grid.write_text(whole)

    results = run(load_grid(grid), out)

    assert results.records[TWICE]["q3"].finish_reason == UNREAD
    assert {one.text for item, one in results.records[TWICE].items() if item != "q3"} == {
        f"word{i}" for i in range(N) if i != 3
    }


@pytest.mark.parametrize(
    "complaint",
    [
        "max_tokens=512 cannot be greater than max_model_len=256. Please request fewer output tokens.",
        "Invalid grammar specification.",
    ],
)
def test_another_refusal_is_still_a_failure(complaint: str, stub: Stub, tmp_path: Path) -> None:
    stub.say, stub.refused = says, lambda question: complaint if "entry 3 " in question else ""
    out = tmp_path / "out"

    results = run(load_grid(world(tmp_path, stub.url)), out)

    assert {results.missing(cell) for cell in results.records} == {1}
    assert all(f"answered 400: {complaint}" in results.failures[cell]["q3"].reason for cell in results.records)
    assert [sentence for sentence in analyse(results).said if "Longer than" in sentence] == []


def test_what_was_not_read_is_what_a_combination_is_least_sure_of() -> None:
    grid = grid_of(["base"], ["none"], ["direct", "sure"], "base:none:direct")
    results = simulate(grid, lambda cell, part: 0.5, 30, 0)
    sure = Combination("base", "none", "sure")
    stated = {item: replace(one, notes={NOTE: 0.9}) for item, one in results.records[sure].items()}
    item, one = next(iter(stated.items()))
    stated[item] = replace(one, notes={}, finish_reason=UNREAD, text="", scores=dict.fromkeys(one.scores, 0.0))
    results = replace(results, records={**results.records, sure: stated})

    (found,) = find_stated(results, summarise(results))

    assert (found.combination, found.n) == (str(sure), 30)
    assert [step.threshold for step in found.steps] == [0.0, 0.9]
