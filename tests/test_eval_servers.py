"""A run whose stack has several servers: one that dies costs nothing, all that die cost no score."""

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest

from eval.grid import load_grid
from eval.keys import keys_of
from eval.record import RunError, read_records
from eval.run import run
from tests.eval_stub import Stub, number_in, serving, write_world


def says(model: str, messages: list[dict[str, str]]) -> str:
    return f"word{number_in(messages)}"


def test_records_do_not_depend_on_how_many_servers_there_are(tmp_path: Path) -> None:
    urls: list[str | list[str]] = ["http://a/v1", ["http://b/v1"], ["http://a/v1", "http://b/v1", "http://c/v1"]]

    keys = [keys_of(load_grid(write_world(tmp_path / str(i), url))) for i, url in enumerate(urls)]

    assert keys[0] == keys[1] == keys[2]


def test_a_server_killed_in_the_middle_of_a_run_costs_no_answer_and_is_asked_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    a, b = Stub(says, seconds=0.02), Stub(says, seconds=0.02)
    killed, back = Event(), Event()

    def kill_and_start_again(stay: ExitStack) -> None:
        while len(b.calls) < 60:
            time.sleep(0.002)
        stay.close()
        killed.set()
        had, seen = len(b.calls), len(a.calls)
        while len(a.calls) < seen + 20:  # it goes on without
            time.sleep(0.002)
        a.seconds = 0.5  # more than a minute for what is left: the other is asked long before all is answered
        with serving(b):
            while len(b.calls) == had:
                time.sleep(0.002)
            back.set()
            a.seconds = 0.02
            finished.wait(300)

    finished = Event()
    with serving(a), ExitStack() as stay:
        stay.enter_context(serving(b))
        grid = load_grid(write_world(tmp_path, [a.url, b.url], n=100))
        thread = Thread(target=kill_and_start_again, args=[stay], daemon=True)
        thread.start()
        results = run(grid, tmp_path / "out")
        finished.set()
        thread.join(60)

    names = [(one.combination, one.id) for one in read_records(tmp_path / "out" / "records.jsonl")]
    assert (killed.is_set(), back.is_set()) == (True, True)
    assert len(names) == len(set(names)) == 100 * len(results.records) == 800
    assert all(one.scores["exact"] == 1.0 for one in results.answers)
    assert not (tmp_path / "out" / "failures.jsonl").read_text()
    assert not {call for call, times in Counter(a.calls + b.calls).items() if times > 2}


def test_a_run_whose_servers_all_die_has_no_score_for_it_and_another_command_goes_on(tmp_path: Path) -> None:
    a, b = Stub(says), Stub(says)
    for stub in (a, b):
        stub.broken = lambda question: len(a.calls) + len(b.calls) > 50
    with serving(a), serving(b):
        grid = load_grid(write_world(tmp_path, [a.url, b.url], n=20, concurrency=2))
        with pytest.raises(RunError, match=r"answered 503: out of order; 4 attempts"):  # by one of them, or by both
            run(grid, tmp_path / "out")
        kept = len(list(read_records(tmp_path / "out" / "records.jsonl")))
        a.broken = b.broken = lambda question: False
        results = run(grid, tmp_path / "out")

    assert 40 < kept < 60
    assert len(results.answers) == 160
    assert all(one.scores["exact"] == 1.0 for one in results.answers)
