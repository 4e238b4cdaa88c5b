"""Answers of a teacher as rows: what it says well is kept, with whose it is; an outage is a failure, never a row."""

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from eval.record import RunError, read_failures, read_records
from retrieval.files import read_jsonl, write_jsonl
from scripts.make_sft import load, main, make
from serve.chat import ServeError
from tests.eval_stub import Stub, example, fact, number_in, serving, write_world
from tests.tiny import make_model
from train.chat import main as check

N = 24
TEACHER = "tuned:gold:brief"


def knows_even_entries(model: str, messages: list[dict[str, str]]) -> str:
    """Right where the number is even and wrong where it is odd; nothing at all for entry 31."""
    i = number_in(messages)
    return "" if i == 31 else f"word{i}" if i % 2 == 0 else "no idea"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """It answers, and failed calls are tried again without waiting."""
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))
    with serving(Stub(knows_even_entries)) as running:
        yield running


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def write(folder: Path, stub: Stub, **teacher: Any) -> Path:
    """A train split of N entries, a test set of others, and settings that distil `brief` over gold into `direct`."""
    write_world(folder, stub.url, n=100)
    write_jsonl(folder / "test.jsonl", (example(i) for i in range(60, 70)))
    write_jsonl(folder / "train.jsonl", (example(i) for i in range(20, 20 + N)))
    settings = {
        "stack": "stack.yaml",
        "task": "task.yaml",
        "examples": "train.jsonl",
        "retrievers": ["none"],
        "strategies": ["direct"],
        "target": "teacher",
        "teacher": {"combination": TEACHER, "keep": {"exact": 1}} | teacher,
        "out": "rows.jsonl",
    }
    (folder / "sft.yaml").write_text(yaml.safe_dump(settings))
    return folder / "sft.yaml"


def run(settings: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["make_sft", str(settings)])
    return main()


def test_good_answers_become_rows_of_the_other_way_and_the_rest_is_listed_with_the_reason(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = write(tmp_path, stub)

    assert run(settings, monkeypatch) == 0
    assert check([str(tmp_path / "rows.jsonl")]) == 0

    rows, dropped = rows_of(tmp_path / "rows.jsonl"), rows_of(tmp_path / "rows.dropped.jsonl")
    assert [row["messages"] for row in rows] == [
        [
            {"role": "user", "content": f"Question: What does entry {i} say?"},
            {"role": "assistant", "content": f"word{i}"},
        ]
        for i in range(20, 20 + N, 2)
    ]
    assert {one["id"]: (one["why"], one["said"]) for one in dropped} == {
        f"q{i}": ("exact below 1", "no idea") if i != 31 else ("the answer is empty", "") for i in range(21, 20 + N, 2)
    }
    assert all(fact(number_in([{"content": call}])) in call and "Be brief." in call for call in stub.calls)
    said = capsys.readouterr().out
    assert f"{TEACHER}: 12 of 24 answers are kept" in said
    assert "no row for 12 examples (11 exact below 1; 1 the answer is empty), each listed in" in said


def test_a_row_says_whose_answer_it_is(stub: Stub, tmp_path: Path) -> None:
    made = make(load(write(tmp_path, stub)))

    asked = {one.id: one for one in read_records(tmp_path / "rows.teacher" / "records.jsonl")}
    keys = json.loads((tmp_path / "rows.teacher" / "keys.json").read_text())["cells"]
    for row in made.rows:
        prompt = [{"role": turn.role, "content": turn.content} for turn in asked[row["meta"]["id"]].prompt]
        sha256 = hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()
        card = {"combination": TEACHER, "model": "stub", "key": keys[TEACHER], "prompt_sha256": sha256}
        assert row["meta"]["teacher"] == card


def test_without_a_least_score_every_answer_is_kept(stub: Stub, tmp_path: Path) -> None:
    made = make(load(write(tmp_path, stub, keep={})))

    assert len(made.rows) == N - 1
    assert [one.why for one in made.dropped] == ["the answer is empty"]


def test_an_answer_that_was_cut_off_is_never_learnt(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Stub.answer

    def cut(self: Stub, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, reply = whole(self, body)
        if "entry 22 " in body["messages"][-1]["content"]:
            reply["choices"][0]["finish_reason"] = "length"
        return status, reply

    settings = load(write(tmp_path, stub))
    monkeypatch.setattr(Stub, "answer", cut)

    dropped = {one.id: one.why for one in make(settings).dropped}

    assert dropped["q22"] == "the answer was cut off at max_tokens"


def test_an_outage_is_a_failure_and_no_row_and_is_asked_again(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = write(tmp_path, stub)
    stub.broken = lambda text: "entry 24 " in text or "entry 26 " in text
    assert run(settings, monkeypatch) == 1

    assert "2 questions got no answer; the same command asks them again." in capsys.readouterr().err
    failed = {one.id for one in read_failures(tmp_path / "rows.teacher" / "failures.jsonl")}
    dropped = {row["id"]: row["why"] for row in rows_of(tmp_path / "rows.dropped.jsonl")}
    assert failed == {"q24", "q26"}
    assert all(dropped[one].startswith("no answer: ") for one in failed)
    assert not failed & {row["meta"]["id"] for row in rows_of(tmp_path / "rows.jsonl")}

    stub.broken, before = lambda text: False, len(stub.calls)
    assert run(settings, monkeypatch) == 0

    assert len(stub.calls) - before == 2
    assert failed <= {row["meta"]["id"] for row in rows_of(tmp_path / "rows.jsonl")}


@pytest.mark.parametrize("deaf", ["from the start", "to questions"])
def test_a_teacher_that_is_gone_leaves_no_rows(deaf: str, stub: Stub, tmp_path: Path) -> None:
    stub.broken = lambda text: deaf == "from the start" or "entry" in text
    settings = write(tmp_path, stub)

    with pytest.raises((RunError, ServeError), match=r"answered 503|none of 24 answers can be kept \(24 no answer"):
        make(load(settings))

    assert not (tmp_path / "rows.jsonl").exists()


def test_killed_while_asking_it_goes_on_and_asks_nothing_twice(stub: Stub, tmp_path: Path) -> None:
    stub.seconds = 0.05
    stub.say = lambda model, messages: f"word{number_in(messages)}"
    settings = write(tmp_path, stub)
    write_jsonl(tmp_path / "train.jsonl", (example(i) for i in range(60)))
    command = [sys.executable, "-m", "scripts.make_sft", str(settings)]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(stub.calls) < 5 and killed.poll() is None:
        time.sleep(0.002)
    killed.kill()
    killed.communicate()
    time.sleep(0.1)
    done = {one.id for one in read_records(tmp_path / "rows.teacher" / "records.jsonl")}
    before = Counter(stub.calls)

    finished = subprocess.run(command, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr
    asked_again = {f"q{number_in([{'content': call}])}" for call in (Counter(stub.calls) - before)}
    assert not done & asked_again
    assert {row["meta"]["id"] for row in rows_of(tmp_path / "rows.jsonl")} == {f"q{i}" for i in range(60)}


def test_another_stack_may_teach(stub: Stub, tmp_path: Path) -> None:
    settings = write(tmp_path, stub, stack="big/stack.yaml", combination="base:none:told")
    (tmp_path / "big").mkdir()
    big = {
        "model": "big-model",
        "url": stub.url,
        "strategies": {"told": {"kind": "instructed", "instructions": "Say the word."}},
    }
    (tmp_path / "big" / "stack.yaml").write_text(yaml.safe_dump(big))

    made = make(load(settings))

    assert {call.splitlines()[0] for call in stub.calls} == {"big-model"}
    assert made.rows[0]["meta"]["teacher"]["model"] == "big-model"
    assert made.rows[0]["messages"][0]["content"].startswith("Question:")


def test_an_example_without_evidence_is_not_asked_over_gold(stub: Stub, tmp_path: Path) -> None:
    settings = write(tmp_path, stub)
    write_jsonl(tmp_path / "train.jsonl", [example(20), example(22) | {"evidence": []}])

    made = make(load(settings))

    assert [one.why for one in made.dropped] == ["not asked: it has no marked evidence to show"]
    assert made.unanswered == 0


def test_tokens_saved_are_counted_by_the_tokenizer_that_serves(stub: Stub, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", width=64)
    settings = write(tmp_path, stub)
    stack = yaml.safe_load((tmp_path / "stack.yaml").read_text()) | {"model": str(model)}
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(stack))

    made = make(load(settings))

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = [
        tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        for row in made.rows
    ]
    ours = sum(map(len, prompts)) / len(prompts)
    theirs = (
        sum(  # to the stub, a word is a token
            len(f"Be brief. [S1] Entry {i} {fact(i)} Question: What does entry {i} say?".split())
            for i in range(20, 44, 2)
        )
        / 12
    )
    change = f"{abs(theirs - ours) * 1000:,.0f} {'fewer' if theirs > ours else 'more'} for 1,000 calls"
    assert made.said[-1] == (
        f"prompt tokens a question: {theirs:.1f} as {TEACHER} asks, {ours:.1f} as the rows do: {change}"
    )


def test_where_the_tokenizer_is_elsewhere_nothing_is_claimed(stub: Stub, tmp_path: Path) -> None:
    made = make(load(write(tmp_path, stub)))

    assert "the rows' were not counted: stub is neither a folder nor a fetched model" in made.said[-1]
