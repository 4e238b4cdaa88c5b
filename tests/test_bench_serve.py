"""The benchmark of the gateway: its arithmetic, and its stub and client heard end to end."""

import doctest
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from scripts import bench_added, bench_serve
from scripts.bench_added import added, goals, overload_row, percentile, streams_row
from scripts.bench_client import Heard, measure
from scripts.bench_paths import Way, stub
from scripts.bench_stub import Timing

TIMING = Timing(first=0.05, rate=50, service=0.05, capacity=2)


@pytest.fixture(scope="module")
def server() -> Iterator[Way]:
    with stub(TIMING) as way:
        yield way


def job(server: Way, load: str, **more: Any) -> dict[str, Any]:
    return {"load": load, "url": server.url, "model": server.model, **more}


@pytest.mark.parametrize("module", [bench_added, bench_serve])
def test_examples_hold(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile(list(map(float, range(1, 101))), share) for share in (50, 95, 99)] == [50, 95, 99]


def test_added_pairs_repeats_and_not_places() -> None:
    direct = [{"contestant": "direct", "repeat": n, "ms": 10.0 * n} for n in (0, 1)]
    ours = [{"contestant": "fulcrum", "repeat": n, "ms": 10.0 * n + 1 + n} for n in (1, 0, 2)]

    assert added([*ours, *direct], "ms", "fulcrum") == [2.0, 1.0]


def test_a_missed_goal_is_said() -> None:
    def row(who: str, ms: float) -> dict[str, Any]:
        figures = streams_row({"firsts_ms": [ms], "ways_ms": [ms], "pieces": 1}, cpu=1.0, seconds=2.0)
        return {"contestant": who, "step": "streams", "repeat": 0} | figures

    said = goals([row("direct", 1.0), row("fulcrum", 3.5)])

    assert "first token: p50 2.50 of 1 ms (MISSED), p95 2.50 of 3 ms (reached)" in said


def test_a_piece_counts_when_its_event_is_whole() -> None:
    heard = Heard(0)

    heard.take(b'data: {"content": "123 "}', 1)
    before = list(heard.pieces)
    heard.take(b'\n\ndata: {"content":"4', 2)
    heard.take(b'5"}\n\n', 3)

    assert before == []
    assert heard.pieces == [(123, 2), (45, 3)]


def test_streams_are_heard_whole_and_not_before_their_time(server: Way) -> None:
    body = {"stream": True, "max_tokens": 10}

    heard = measure(job(server, "streams", streams=5, warm=1, rate=100, seed=1, body=body))

    assert heard["failures"] == 0
    assert (len(heard["firsts_ms"]), len(heard["ways_ms"])) == (4, 40)
    assert min(heard["ways_ms"]) > 0
    assert min(heard["firsts_ms"]) >= TIMING.first * 1000


def test_no_more_is_served_than_there_is_capacity_for(server: Way) -> None:
    most = TIMING.capacity / TIMING.service

    heard = measure(job(server, "saturate", users=8, seconds=2.0, body={"max_tokens": 1}))

    assert heard["failures"] == 0
    assert 0 < heard["per_second"] <= most


def test_who_is_not_answered_in_his_patience_is_lost(server: Way) -> None:
    load = job(server, "overload", rate=200, seconds=0.5, warm=0.0, seed=1, patience=0.3, body={"max_tokens": 1})

    heard = measure(load)

    lost = overload_row(heard, peak=1.0)
    assert heard["failures"] > 0
    assert heard["why"] == ["time-out"]
    assert heard["callers"] == heard["failures"] + len(heard["served_ms"]) + lost["refused"]


def test_a_server_that_is_not_there_is_a_failure_and_no_figure() -> None:
    nobody = Way("direct", "http://127.0.0.1:9/v1", "stub")

    heard = measure(job(nobody, "saturate", users=2, seconds=0.1, body={"max_tokens": 1}))

    assert heard["failures"] == 2
    assert heard["took_ms"] == []


def test_the_help_ends_with_a_line_that_can_be_pasted() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "scripts.bench_serve", "overload", "--help"], capture_output=True, text=True, check=True
    ).stdout

    assert said.strip().splitlines()[-1].startswith("example: python -m scripts.bench_serve overload")
