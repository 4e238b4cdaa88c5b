"""A search finds what is planted, says so when nothing is, and never touches the test set."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.folder import load_results
from eval.grid import load_grid
from eval.optimise import optimise
from eval.record import read_records
from eval.run import run
from eval.search import load_search
from eval.splits import split
from eval.summary import scores
from eval.task import read_examples
from retrieval.files import FileError
from serve.combination import Combination
from tests.eval_stub import Say, Stub, example, number_in, serving, write_rows, write_world

N = 120
TRAIN, TEST = range(1000, 1040), range(2000, 2030)
BAD, GOOD = "Guess wildly.", "Read entry by entry, and answer in its words."


def answering(lift: dict[str, float]) -> Say:
    """Right in 4 of 10, and more often with each of these words in the system message; `shown` counts for turns above
    the question. Luck is shared between the ways of asking."""

    def say(model: str, messages: list[dict[str, str]]) -> str:
        i = number_in(messages)
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        found = system + (" shown" if any(one["role"] == "assistant" for one in messages) else "")
        chance = 0.4 + sum(more for word, more in lift.items() if word in found)
        luck = 0.8 * random.Random(i).random() + 0.2 * random.Random(f"{i} {messages[:-1]}").random()
        return f"word{i}" if luck < chance else "wrong"

    return say


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(answering({}))) as running:
        yield running


def write_search(folder: Path, stub: Stub, **keys: Any) -> Path:
    """A dev split of N questions, a train split, a test split, and a search over them that starts from `brief`."""
    write_world(folder, stub.url, n=N)
    write_rows(folder / "train.jsonl", [example(i) | {"evidence": []} for i in TRAIN])
    write_rows(folder / "locked.jsonl", [example(i) | {"evidence": []} for i in TEST])
    settings = {
        "stack": "stack.yaml",
        "task": "task.yaml",
        "test": "locked.jsonl",
        "start": "base:none:brief",
        "instructions": [BAD, GOOD],
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(settings | keys, sort_keys=False))
    return path


def asked(stub: Stub) -> set[int]:
    return {number_in([{"content": call}]) for call in stub.calls}


def outcome(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "optimised.json").read_text()))


def test_the_planted_instructions_are_found_and_judged_by_questions_that_chose_nothing(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.say = answering({"entry by entry": 0.45, "wildly": -0.3})
    search, out = write_search(tmp_path / "world", stub), tmp_path / "out"

    assert main(["optimise", str(search), "--out", str(out)]) == 0

    found = outcome(out)
    assert (found["best"], found["holds"], found["tried"]) == ("i2", True, 2)
    chose, validated = ({one.id for one in read_examples(out / f"{name}.jsonl")} for name in ("choose", "validate"))
    assert not chose & validated
    assert len(chose | validated) == N
    assert {one.id for one in read_records(out / "validate" / "records.jsonl")} == validated
    assert found["gain"]["n"] == len(validated)
    assert yaml.safe_load((out / "strategy.yaml").read_text()) == {
        "optimised": {"kind": "instructed", "instructions": GOOD}
    }
    said = capsys.readouterr().out
    assert "i2 beats base:none:brief." in said
    assert found["sentence"] == " ".join(said.splitlines()[:-1])


def test_where_nothing_is_planted_nothing_beats_and_nothing_is_written(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty equal texts: the luckiest of them leads where it is chosen, and is not handed over."""
    texts = [f"Text number {i}." for i in range(20)]
    search, out = write_search(tmp_path / "world", stub, instructions=texts), tmp_path / "out"

    assert main(["optimise", str(search), "--out", str(out)]) == 0

    found = outcome(out)
    assert found["lead"]["estimate"]["value"] > 0, "someone is lucky"
    assert not found["holds"]
    assert "Nothing beats base:none:brief" in capsys.readouterr().out
    assert not (out / "strategy.yaml").exists()
    assert not (out / "stack.yaml").exists()


def test_where_all_that_is_tried_is_worse_the_start_leads_and_nobody_is_validated(stub: Stub, tmp_path: Path) -> None:
    stub.say = answering({"wildly": -0.35, "entry by entry": -0.35})
    found = optimise(load_search(write_search(tmp_path / "world", stub)), tmp_path / "out")

    assert (found.best, found.gain, found.holds) == (None, None, False)
    assert found.sentences[0].startswith("Nothing beats base:none:brief: none of 2 candidates")
    assert not (tmp_path / "out" / "validate").exists()


def test_what_was_found_before_is_gone_when_it_is_no_longer_found(stub: Stub, tmp_path: Path) -> None:
    stub.say = answering({"entry by entry": 0.45})
    search, out = write_search(tmp_path / "world", stub), tmp_path / "out"
    assert optimise(load_search(search), out).holds

    search.write_text(search.read_text().replace(GOOD, "Another text."))

    assert not optimise(load_search(search), out).holds
    assert not (out / "strategy.yaml").exists()


def test_worked_examples_are_found_and_are_what_the_start_said_itself(stub: Stub, tmp_path: Path) -> None:
    stub.say = answering({"shown": 0.45})
    shows = {"train": "train.jsonl", "ways": ["own"], "k": [2], "draws": 3}
    search = write_search(tmp_path / "world", stub, instructions=[], demonstrations=shows)

    found = optimise(load_search(search), tmp_path / "out")

    assert found.holds
    assert found.tried == 3
    assert found.best
    assert found.best.startswith("i0-own2.")
    right = {
        one.prompt[-1].content: one.text
        for one in read_records(tmp_path / "out" / "train" / "records.jsonl")
        if one.scores["exact"] == 1
    }
    rows = [json.loads(line) for line in (tmp_path / "out" / "demonstrations.jsonl").open()]
    assert len(rows) == 2
    assert all(right[row["messages"][0]["content"]] == row["messages"][1]["content"] for row in rows)
    written = yaml.safe_load((tmp_path / "out" / "strategy.yaml").read_text())["optimised"]
    assert written == {"kind": "fewshot", "instructions": "Be brief.", "demonstrations": "demonstrations.jsonl"}


def test_the_written_strategy_scores_the_same_as_an_ordinary_one(stub: Stub, tmp_path: Path) -> None:
    stub.say = answering({"shown": 0.25, "entry by entry": 0.2})
    shows = {"train": "train.jsonl", "k": [1, 2], "draws": 1}
    search, out = write_search(tmp_path / "world", stub, demonstrations=shows), tmp_path / "out"
    found = optimise(load_search(search), out)
    assert found.holds
    task = yaml.safe_load((tmp_path / "world" / "task.yaml").read_text())
    (out / "task.yaml").write_text(
        yaml.safe_dump(task | {"examples": "validate.jsonl", "documents": "../world/corpus.jsonl"})
    )
    grid = yaml.safe_load((tmp_path / "world" / "grid.yaml").read_text())
    ordinary = {"adapters": ["base"], "retrievers": ["none"], "strategies": ["brief", "optimised"]}
    (out / "grid.yaml").write_text(yaml.safe_dump(grid | ordinary | {"baseline": "base:none:brief"}))

    again = run(load_grid(out / "grid.yaml"), tmp_path / "again")

    assert found.best
    before = load_results(out / "validate")
    assert scores(again, Combination("base", "none", "optimised")) == scores(
        before, Combination("base", "none", found.best)
    )
    assert scores(again, Combination("base", "none", "brief")) == scores(before, Combination("base", "none", "start"))


@pytest.mark.parametrize("moment", [30, 75, 150])
def test_after_a_death_the_same_command_asks_the_rest_and_comes_to_the_same(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))
    stub.say = answering({"shown": 0.3, "entry by entry": 0.15})
    shows = {"train": "train.jsonl", "k": [1, 3], "draws": 2}
    search = write_search(tmp_path / "world", stub, demonstrations=shows, concurrency=4, most=4)
    whole = optimise(load_search(search), tmp_path / "whole")
    calls = len(stub.calls)
    assert calls > moment, "there would be nothing to break"
    stub.calls.clear()

    stub.broken = lambda question: len(stub.calls) >= moment
    assert main(["optimise", str(search), "--out", str(tmp_path / "out")]) == 1
    stub.broken = lambda question: False
    assert main(["optimise", str(search), "--out", str(tmp_path / "out")]) == 0

    assert calls <= len(stub.calls) <= calls + 4, "only what was under way is asked for twice"
    assert outcome(tmp_path / "out") == outcome(tmp_path / "whole")
    assert outcome(tmp_path / "out")["calls"] == whole.calls == calls
    before = len(stub.calls)
    assert main(["optimise", str(search), "--out", str(tmp_path / "out")]) == 0
    assert len(stub.calls) == before


def test_no_question_of_the_test_is_asked_or_shown(stub: Stub, tmp_path: Path) -> None:
    stub.say = answering({"entry by entry": 0.4})
    search = write_search(tmp_path / "world", stub, demonstrations={"train": "train.jsonl"})

    optimise(load_search(search), tmp_path / "out")

    assert asked(stub) <= {*range(N), *TRAIN}
    assert not [call for call in stub.calls if any(f"entry {i} " in call for i in TEST)]


@pytest.mark.parametrize(
    ("file", "i", "said"),
    [
        ("test.jsonl", TEST[3], r"test\.jsonl: has questions of .*locked\.jsonl"),
        ("train.jsonl", TEST[3], r"train\.jsonl: has questions of .*locked\.jsonl"),
        ("train.jsonl", 7, r"train\.jsonl: has questions of .*test\.jsonl"),
    ],
    ids=["dev has one of the test", "train has one of the test", "train has one of dev"],
)
def test_a_search_that_the_test_is_part_of_is_refused(stub: Stub, tmp_path: Path, file: str, i: int, said: str) -> None:
    search = write_search(tmp_path / "world", stub, demonstrations={"train": "train.jsonl"})
    row = example(i) | {"id": "again", "evidence": []}
    with (tmp_path / "world" / file).open("a") as rows:
        rows.write(json.dumps(row) + "\n")

    with pytest.raises(FileError, match=said):
        load_search(search)
    assert not stub.calls


def test_instructions_that_quote_the_test_and_a_search_that_names_none_are_refused(stub: Stub, tmp_path: Path) -> None:
    quoting = ["Be kind. What does entry 2003 say? It says word2003."]
    with pytest.raises(FileError, match=r"instructions: has questions of .*search\.yaml:\d+ gives away"):
        load_search(write_search(tmp_path / "quoting", stub, instructions=quoting))
    with pytest.raises(FileError, match=r"search\.yaml:1: test: names no file"):
        load_search(write_search(tmp_path / "none", stub, test=None))


def test_the_locked_questions_of_the_task_are_its_test(stub: Stub, tmp_path: Path) -> None:
    search = write_search(tmp_path, stub, test=None)
    task = yaml.safe_load((tmp_path / "task.yaml").read_text())
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | {"locked": "locked.jsonl"}))

    assert load_search(search).test == tmp_path / "locked.jsonl"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"start": "base:none:breif"}, "search.yaml:4: start: 'breif': .*did you mean 'brief'"),
        ({"start": "base:gold:brief"}, "search.yaml:4: start: .*oracle"),
        ({"instructions": []}, "there is nothing to try"),
        ({"demonstrations": {"train": "train.jsonl", "ways": ["best"]}}, "search.yaml:.*ways"),
        ({"most": 0}, "search.yaml:.*most"),
    ],
)
def test_what_is_wrong_with_a_search_is_said_where_it_stands(
    stub: Stub, tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(FileError, match=said):
        load_search(write_search(tmp_path, stub, **keys))


def test_a_strategy_that_thinks_first_is_not_shown_answers_without_thoughts(stub: Stub, tmp_path: Path) -> None:
    search = write_search(tmp_path, stub, start="base:none:cot", demonstrations={"train": "train.jsonl"})
    stack = yaml.safe_load((tmp_path / "stack.yaml").read_text())
    stack["strategies"]["cot"] = {"kind": "cot", "instructions": "Think."}
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(stack))

    with pytest.raises(FileError, match="teach `cot` not to think"):
        load_search(search)


def test_the_base_model_writes_instructions_told_its_failures_on_the_half_that_chooses(
    stub: Stub, tmp_path: Path
) -> None:
    answers, written = answering({"entry by entry": 0.45}), itertools.count()

    def say(model: str, messages: list[dict[str, str]]) -> str:
        if "system message of another model" in messages[-1]["content"]:
            return GOOD if next(written) % 2 else "Guess."
        return answers(model, messages)

    stub.say = say
    search = load_search(write_search(tmp_path / "world", stub, instructions=[], write=4))

    found = optimise(search, tmp_path / "out")

    requests = [call for call in stub.calls if "system message of another model" in call]
    assert len(requests) == 4
    validated = split(search.task.examples, 0, {"choose": 0.5, "validate": 0.5})["validate"]
    assert all("Be brief." in one and "The model said: wrong" in one for one in requests)
    assert not [one for one in requests for other in validated if f"entry {other.id[1:]} " in one]
    assert found.holds
    assert yaml.safe_load((tmp_path / "out" / "strategy.yaml").read_text())["optimised"]["instructions"] == GOOD


def test_chats_that_show_nothing_are_refused_before_anything_is_asked(stub: Stub, tmp_path: Path) -> None:
    search = write_search(tmp_path / "world", stub, demonstrations={"train": "train.jsonl", "chats": "chats.jsonl"})
    turns = [{"role": role, "content": "again"} for role in ("user", "assistant", "user", "assistant")]
    write_rows(tmp_path / "world" / "chats.jsonl", [{"messages": turns}])

    with pytest.raises(FileError, match=r"search\.yaml:\d+: demonstrations: .*chats\.jsonl:1: "):
        load_search(search)
    assert not stub.calls
