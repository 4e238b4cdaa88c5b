"""What is the same is asked once, whoever wants it, and is paid for as if it had been asked alone."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.analysis import analyse
from eval.blame import WRONG, blame, look
from eval.flips import flips
from eval.folder import asked_ids, load_results, read_keys
from eval.gate import Ceiling, Gates, judge
from eval.grid import load_grid
from eval.keys import keys_of
from eval.plan import plan, read_earlier
from eval.record import Record, read_records
from eval.report import save
from eval.run import AHEAD, Job, Jobs, pending, run
from eval.sharing import Exchange, Prompt, SharedRetriever
from eval.summary import summarise
from retrieval.passage import Document, Hit, Query
from serve.chat import Message, Reply, Sampling, Usage
from serve.combination import Combination
from serve.meter import charge, metered
from serve.once import Once
from tests.eval_stub import Stub, planted, serving, write_world

N = 12
TWINS: dict[str, Any] = {"direct": {"kind": "direct"}, "bare": {"kind": "direct"}}


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(planted({"adapter": 0.3}))) as running:
        yield running


def world(folder: Path, url: str, strategies: dict[str, Any], tried: Sequence[str] | None = None, **grid: Any) -> Path:
    """A stack with these strategies, and a grid over those that are tried, or all."""
    path = write_world(folder, url, n=N, strategies=list(strategies) if tried is None else tried, **grid)
    stack = folder / "stack.yaml"
    stack.write_text(yaml.safe_dump(yaml.safe_load(stack.read_text()) | {"strategies": strategies}))
    return path


def edit(grid: Path) -> Path:
    """The grid without repeats."""
    grid.write_text(grid.read_text().replace("repeats: 2\n", ""))
    return grid


def by_cell(folder: Path) -> dict[str, dict[str, Record]]:
    found: dict[str, dict[str, Record]] = {}
    for one in read_records(folder / "records.jsonl"):
        found.setdefault(str(one.combination), {})[one.id] = one
    return found


def test_cells_that_say_the_same_to_a_model_share_the_call_and_pay_alike(stub: Stub, tmp_path: Path) -> None:
    stub.seconds = 0.02

    run(load_grid(world(tmp_path, stub.url, TWINS)), tmp_path / "out")

    cells = by_cell(tmp_path / "out")
    assert set(Counter(stub.calls).values()) == {1}
    assert len(stub.calls) == 4 * N  # of 8 cells
    assert Counter(one.shared for found in cells.values() for one in found.values()) == {True: 4 * N, False: 4 * N}
    for adapter in ("base", "tuned"):
        direct, bare = (cells[f"{adapter}:gold:{strategy}"] for strategy in TWINS)
        assert {name: (one.text, one.usage) for name, one in direct.items()} == {
            name: (one.text, one.usage) for name, one in bare.items()
        }
        assert all(one.seconds >= 0.02 for one in (*direct.values(), *bare.values()))
        assert all(1 <= one.in_flight <= 8 for one in (*direct.values(), *bare.values()))


def test_whoever_waits_for_a_shared_call_leaves_the_engine_its_work(stub: Stub, tmp_path: Path) -> None:
    """As many calls are in flight as the grid allows, and no more, though most workers wait for somebody else's."""
    busy = [0, 0]
    lock, together = threading.Lock(), threading.Event()
    plain = stub.answer

    def counted(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body.get("logprobs"):  # the probe asks before anybody waits
            return plain(body)
        with lock:
            busy[0] += 1
            busy[1] = max(busy)
            if busy[0] == 4:
                together.set()
        try:
            together.wait(60)
            return plain(body)
        finally:
            with lock:
                busy[0] -= 1

    stub.answer = counted  # type: ignore[method-assign]
    stub.seconds = 0.02
    alike = {f"way{n}": {"kind": "direct"} for n in range(AHEAD)}

    run(load_grid(world(tmp_path, stub.url, alike, concurrency=4, baseline="base:none:way0")), tmp_path / "out")

    assert together.is_set()
    assert busy[1] == 4


def test_seconds_over_calls_in_flight_are_the_time_in_which_the_engine_had_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: one call from 0 to 4, another from 2 to 4, a third alone from 10 to 11."""
    now = [0.0]
    monkeypatch.setattr("eval.sharing.time.perf_counter", lambda: now[0])

    @dataclass
    class Slow:
        name: str = "base"
        done: asyncio.Event = field(default_factory=asyncio.Event)

        async def chat(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
            await self.done.wait()
            return Reply(text="", usage=Usage(), finish_reason="stop", seconds=0.0)

    async def ask() -> list[float]:
        loads = []
        async with Exchange(at_once=8) as exchange:
            for moments in ((0.0, 2.0, 4.0), (10.0, 11.0)):
                model, calls = Slow(), []
                for moment in moments[:-1]:
                    now[0] = moment
                    prompt = Prompt("base", (Message("user", str(moment)),), Sampling())
                    calls.append(asyncio.create_task(exchange.call(model, prompt)))  # type: ignore[arg-type]
                    await asyncio.sleep(0.01)
                now[0] = moments[-1]
                model.done.set()
                loads += [one.in_flight for one in await asyncio.gather(*calls)]
        return loads

    first, second, third = asyncio.run(ask())

    assert (first, second, third) == (pytest.approx(4 / 3), pytest.approx(2), pytest.approx(1))
    assert 4 / first + 2 / second + 1 / third == pytest.approx(5)


def test_a_call_that_fails_for_many_is_no_engine_that_is_gone(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))
    stub.broken = lambda question: "What does entry 3 " in question
    alike = {f"way{n}": {"kind": "direct"} for n in range(8)}
    grid = load_grid(world(tmp_path, stub.url, alike, concurrency=2, baseline="base:none:way0"))

    results = run(grid, tmp_path / "out")

    assert {results.missing(cell) for cell in results.records} == {1}


def test_what_a_record_has_already_is_not_asked_for_another_cell(stub: Stub, tmp_path: Path) -> None:
    grid, out = world(tmp_path, stub.url, TWINS, ["direct"]), tmp_path / "out"
    before = run(load_grid(grid), out)
    calls = len(stub.calls)
    grid.write_text(grid.read_text().replace("- direct\n", "- direct\n- bare\n"))

    after = run(load_grid(grid), out)

    assert len(stub.calls) == calls == 4 * N
    assert len(after.records) == 8
    for cell, found in before.records.items():
        twins = after.records[replace(cell, strategy="bare")]
        assert all(twins[name].shared and twins[name].usage == one.usage for name, one in found.items())


def test_an_answer_that_is_no_reply_word_for_word_stands_for_no_reply(stub: Stub, tmp_path: Path) -> None:
    """A record of `cot` has only what follows `Answer:`; whoever wants the whole reply has to ask."""
    both = {"cot": {"kind": "cot", "instructions": "Think."}, "told": {"kind": "instructed", "instructions": "Think."}}
    stub.say = lambda model, messages: "I think. Answer: word"
    grid, out = world(tmp_path, stub.url, both, ["cot"], baseline="base:none:cot"), tmp_path / "out"
    run(load_grid(grid), out)
    grid.write_text(grid.read_text().replace("- cot\n", "- cot\n- told\n"))

    after = run(load_grid(grid), out)

    assert {one.text for one in after.records[Combination("base", "none", "cot")].values()} == {"word"}
    told = after.records[Combination("base", "none", "told")].values()
    assert {(one.text, one.shared) for one in told} == {("I think. Answer: word", False)}


def test_a_failure_is_everybodys_and_the_next_who_asks_tries_again() -> None:
    once: Once[str, int] = Once()
    tries = []

    async def fail() -> int:
        tries.append(1)
        await asyncio.sleep(0)
        raise OSError("out of order")

    async def succeed() -> int:
        return 7

    async def ask() -> tuple[list[int | BaseException], int]:
        together = await asyncio.gather(once("a", fail), once("a", fail), return_exceptions=True)
        await asyncio.sleep(0)
        return together, await once("a", succeed)

    together, after = asyncio.run(ask())

    assert [str(one) for one in together] == ["out of order"] * 2
    assert (len(tries), after) == (1, 7)


@dataclass
class Slow:
    """A retriever whose search has something written, for 7 tokens and, it says, 5 seconds more than the 3 it takes."""

    asked: list[str] = field(default_factory=list)
    now: float = 0.0

    async def search(self, query: Query) -> tuple[Hit, ...]:
        self.asked.append(query.text)
        await asyncio.sleep(0)
        self.now += 3.0
        charge(Usage(7, 0), 5.0)
        return (Hit(Document(id="d", title="", text=query.text).cut(0, 1), 1.0, 1),)


async def test_a_retriever_is_asked_a_query_once_and_each_asker_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of our own: whoever did not wait for the search is charged the 3 seconds as well."""
    slow = Slow()
    monkeypatch.setattr("eval.sharing.time.perf_counter", lambda: slow.now)
    shared = SharedRetriever(slow)

    async def search(query: Query) -> tuple[tuple[Hit, ...], Usage, float]:
        with metered() as meter:
            return await shared.search(query), meter.usage, meter.seconds

    one, two = await asyncio.gather(search(Query("a")), search(Query("a")))
    three, other = await search(Query("a")), await search(Query("a", meta={"db": "b"}))

    assert slow.asked == ["a", "a"]  # the second knows more than the question
    assert one[0] == two[0] == three[0] == other[0]
    assert {found[1] for found in (one, two, three, other)} == {Usage(7, 0)}
    assert [found[2] for found in (one, two, three, other)] == [5.0, 5.0, 8.0, 5.0]


def test_adapters_follow_each_other_and_questions_stay_together(stub: Stub, tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path, stub.url, TWINS))
    out = tmp_path / "out"
    run(replace(grid, task=replace(grid.task, examples=grid.task.examples[:2])), out)
    made = [Job(cell, example) for example in grid.task.examples for cell in grid.cells]

    order = list(Jobs(asked=asked_ids(grid.cells, grid.task.examples), examples=grid.task.examples))

    assert [job.cell.adapter for job in order] == ["base"] * 4 * N + ["tuned"] * 4 * N
    assert [job.example.id for job in order[: 4 * N]] == [f"q{n}" for n in range(N) for _ in range(4)]
    assert sorted(map(str, order)) == sorted(map(str, made))
    assert not pending(load_results(out))


def test_repeats_are_drawn_anew_and_count_as_their_mean(stub: Stub, tmp_path: Path) -> None:
    grid, out = world(tmp_path, stub.url, {"direct": {"kind": "direct"}}, repeats=3), tmp_path / "out"
    seeds: list[int | None] = []
    plain, turn = stub.answer, threading.Lock()

    def heard(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with turn:  # one `say` serves them all
            if not body.get("logprobs"):
                seeds.append(body.get("seed"))
                stub.say = lambda model, messages: "wrong" if body.get("seed") else "word3"
            return plain(body)

    stub.answer = heard  # type: ignore[method-assign]

    results = run(load_grid(grid.with_name(grid.name)), out)

    assert Counter(seeds) == {None: 4 * N, 1: 4 * N, 2: 4 * N}
    assert len(results.answers) == 4 * N * 3
    assert not any(map(results.missing, results.records))
    scores = {name: one.scores["exact"] for name, one in results.records[Combination("base", "none", "direct")].items()}
    assert scores == {f"q{n}": pytest.approx(1 / 3 if n == 3 else 0) for n in range(N)}
    row = summarise(results)[0]
    assert (row.flips, row.flips_ci_high) == (1.0, 1.0)
    assert 0.7 < (row.flips_ci_low or 0) < 1.0
    told = blame(look(results))[Combination("base", "none", "direct")]
    assert WRONG.get(told["q3"], ("right",))[0] == "right", "the first answer is right, and is what blame looks at"
    assert WRONG[told["q0"]][0] != "form"


def test_the_flip_rate_is_the_share_of_questions_answered_in_other_words(stub: Stub, tmp_path: Path) -> None:
    grid, out = world(tmp_path, stub.url, {"direct": {"kind": "direct"}}, repeats=2), tmp_path / "out"
    results = run(load_grid(grid), out)
    cells = list(results.records)
    calm = flips(results, cells)
    words = [
        replace(one, text="other") if one.repeat and one.id in ("q1", "q2", "q3") else one for one in results.answers
    ]

    some = flips(replace(results, answers=tuple(words)), cells)

    assert calm is not None
    assert some is not None
    assert (calm.value, some.value) == (0.0, 0.25)
    assert calm.low == 0.0 < calm.high < some.high < 0.6
    assert flips(replace(results, config=replace(results.config, grid=load_grid(edit(grid)).settings)), cells) is None


def test_a_question_whose_repeats_are_not_all_there_is_missing_and_asked_alone(stub: Stub, tmp_path: Path) -> None:
    grid, out = world(tmp_path, stub.url, {"direct": {"kind": "direct"}}), tmp_path / "out"
    run(load_grid(grid), out)
    calls = len(stub.calls)
    grid.write_text(grid.read_text() + "repeats: 2\n")

    run(load_grid(grid), out)
    lines = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text("".join(lines[:-1]))
    lost = json.loads(lines[-1])
    gap = load_results(out)

    assert len(stub.calls) == 2 * calls == len(lines)
    assert {str(cell): gap.missing(cell) for cell in gap.records if gap.missing(cell)} == {lost["combination"]: 1}
    assert gap.lacking == 1
    assert [(job.example.id, job.repeat) for job in pending(gap)] == [(lost["id"], 1)]
    made = plan(load_grid(grid), read_earlier(load_grid(grid), out))
    assert (made.answers, made.left) == (len(lines), 1)


def test_what_is_missing_is_counted_in_answers_and_not_in_questions(stub: Stub, tmp_path: Path) -> None:
    grid, out = world(tmp_path, stub.url, {"direct": {"kind": "direct"}}, repeats=3), tmp_path / "out"
    run(load_grid(grid), out)
    lines = (out / "records.jsonl").read_text().splitlines(keepends=True)
    places = [(row["combination"], row["id"], row.get("repeat", 0)) for row in map(json.loads, lines)]
    (cell, whole, _), (_, part, _) = sorted(place for place in places if place[0] == places[0][0])[:4:3]
    gone = {(cell, whole, 0), (cell, whole, 1), (cell, whole, 2), (cell, part, 1)}
    kept = [line for line, place in zip(lines, places, strict=True) if place not in gone]
    (out / "records.jsonl").write_text("".join(kept))
    gap = load_results(out)
    page = save(analyse(gap), out).read_text()

    assert gap.missing(Combination.parse(cell)) == 2
    assert gap.lacking == 4
    assert "4 answers missing" in analyse(gap).verdict.sentence
    assert f"{len(kept)} of {len(lines)} answers, 4 missing." in page
    assert [one.found for one in judge(Gates(missing=Ceiling(at_most=3)), gap).gates] == ["4"]


@pytest.mark.parametrize(("noted", "again"), [("", 0), ("vllm 0.1", 8)])
def test_another_engine_or_layout_is_another_answer_unless_nobody_noted_it(
    noted: str, again: int, stub: Stub, tmp_path: Path
) -> None:
    grid, out = write_world(tmp_path, stub.url, n=1), tmp_path / "out"
    run(load_grid(grid), out)
    before = len(stub.calls)
    keys = json.loads((out / "keys.json").read_text())
    (out / "keys.json").write_text(json.dumps(keys | {"engine": noted, "layout": noted}))

    run(load_grid(grid), out)

    assert len(stub.calls) - before == again
    assert keys_of(load_grid(grid)).layout == read_keys(out).layout != noted


def test_a_run_that_has_its_keys_in_its_config_is_gone_on_with(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=1), tmp_path / "out"
    run(load_grid(grid), out)
    before = len(stub.calls)
    config = yaml.safe_load((out / "config.yaml").read_text())
    config["keys"] = json.loads((out / "keys.json").read_text())
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    (out / "keys.json").unlink()

    run(load_grid(grid), out)

    assert len(stub.calls) == before
    assert read_keys(out) == keys_of(load_grid(grid))


def test_records_of_earlier_versions_are_read(stub: Stub, tmp_path: Path) -> None:
    grid, out = write_world(tmp_path, stub.url, n=1), tmp_path / "out"
    run(load_grid(grid), out)
    rows = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    for row in rows:
        for name in ("repeat", "shared", "search_seconds", "in_flight"):
            del row[name]
        del row["usage"]["cached_tokens"]
    (out / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    results = load_results(out)

    assert not any(map(results.missing, results.records))
    assert {(one.repeat, one.shared, one.in_flight) for one in results.answers} == {(0, False, 0)}
