"""What is done at once costs an answer the tokens of all, and the seconds of the one that takes longest."""

import asyncio
from pathlib import Path

import pytest

from eval.grid import load_grid
from eval.record import read_records
from eval.run import run
from serve.chat import Usage
from serve.meter import at_once, charge, metered
from tests.eval_stub import Stub, planted, serving, write_world


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands, so that only what is charged is counted."""
    monkeypatch.setattr("serve.meter.time.perf_counter", lambda: 0.0)


async def costing(tokens: int, seconds: float) -> int:
    charge(Usage(tokens, 1), seconds)
    return tokens


async def test_the_tokens_of_all_and_the_seconds_of_the_slowest(still: None) -> None:
    with metered() as meter:
        assert await at_once(costing(1, 5.0), costing(2, 7.0), costing(3, -2.0)) == [1, 2, 3]

    assert (meter.usage, meter.seconds) == (Usage(6, 3), 7.0)


async def test_what_waited_for_others_gives_the_wait_back_once(still: None) -> None:
    with metered() as meter:
        await at_once(*(costing(1, -2.0) for _ in range(5)))

    assert meter.seconds == -2.0


async def test_one_after_the_other_within_a_branch_adds_up(still: None) -> None:
    async def pair() -> None:
        await costing(1, 2.0)
        await at_once(costing(1, 1.0), costing(1, 3.0))

    with metered() as meter:
        await at_once(pair(), costing(1, 4.0))

    assert (meter.usage, meter.seconds) == (Usage(4, 4), 5.0)


async def test_nothing_at_once_is_nothing(still: None) -> None:
    with metered() as meter:
        assert await at_once() == []

    assert meter.seconds == 0.0


async def test_a_failure_is_raised_as_it_is() -> None:
    async def failing() -> int:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await at_once(costing(1, 1.0), failing())
    await asyncio.sleep(0)


def test_a_vote_whose_calls_wait_for_one_place_takes_at_least_one_call(tmp_path: Path) -> None:
    strategies = {"direct": {"kind": "direct"}, "vote": {"kind": "vote", "of": "direct", "samples": 4}}
    with serving(Stub(planted({}), seconds=0.02)) as stub:
        grid = write_world(tmp_path, stub.url, n=6, concurrency=1, strategies=["direct", "vote"])
        stack = tmp_path / "stack.yaml"
        stack.write_text(stack.read_text() + f"sampling: {{seed: 1}}\nstrategies: {strategies}\n")
        run(load_grid(grid), tmp_path / "out")

    records = list(read_records(tmp_path / "out" / "records.jsonl"))
    assert {one.combination.strategy for one in records} == {"direct", "vote"}
    assert all(one.seconds >= 0.02 for one in records)
