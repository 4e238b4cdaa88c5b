"""The append-only files: what was written is read back, and a write that was cut short leaves no trace."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from eval.folder import locked
from eval.record import Failure, Journal, Record, RunError, Source, read_failures, read_records
from retrieval.files import FileError
from serve.chat import Message, Usage
from serve.combination import Combination

CELL = Combination("base", "none", "direct")


def record(name: str, text: str = "Odo") -> Record:
    return Record(
        id=name,
        combination=CELL,
        prompt=(Message("user", "Who?"),),
        sources=(Source("d1@0-9", 0.5),),
        text=text,
        usage=Usage(3, 1),
        seconds=0.25,
        scores={"exact": 1.0},
        finish_reason="stop",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def test_records_and_failures_are_read_back_as_they_were(path: Path) -> None:
    odd = record(
        "b", "line\u2028separator\x85and\nbreak \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")
    )
    failure = Failure(id="a", combination=CELL, reason="refused", attempts=2)
    with Journal(path) as journal:
        journal.append(record("a"))
        journal.append(odd)
    with Journal(path.with_name("failures.jsonl")) as journal:
        journal.append(failure)

    assert list(read_records(path)) == [record("a"), odd]
    assert list(read_failures(path.with_name("failures.jsonl"))) == [failure]


def test_the_file_has_the_documented_shape(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(record("a"))

    assert json.loads(path.read_text()) == {
        "id": "a",
        "combination": "base:none:direct",
        "prompt": [{"role": "user", "content": "Who?"}],
        "sources": [{"passage": "d1@0-9", "score": 0.5}],
        "text": "Odo",
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "cached_tokens": None},
        "seconds": 0.25,
        "scores": {"exact": 1.0},
        "finish_reason": "stop",
        "repeat": 0,
        "shared": False,
        "search_seconds": 0.0,
        "in_flight": 0,
    }


def test_wherever_the_last_line_is_torn_the_lines_before_it_stay_and_the_next_one_is_whole(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(record("a"))
        journal.append(record("b", "é" * 20))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert [one.id for one in read_records(path)] == ["a"]

        with Journal(path) as journal:
            journal.append(record("c"))

        assert [one.id for one in read_records(path)] == ["a", "c"]


def test_a_line_of_something_else_is_named(path: Path) -> None:
    path.write_text('{"id": "a"}\n')

    with pytest.raises(FileError, match=r"records\.jsonl:1: not a line of this program"):
        list(read_records(path))


def test_a_full_disk_is_one_sentence_and_loses_nothing(path: Path) -> None:
    code = f"""
from pathlib import Path
from eval.record import Journal, RunError
from tests.test_eval_record import record
with Journal(Path({str(path)!r})) as journal:
    try:
        for n in range(100):
            journal.append(record(f"q{{n}}"))
    except RunError as error:
        print(n, error)
"""
    quota = 1000
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (quota, quota)),
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, _, sentence = done.stdout.partition(" ")

    assert int(kept) > 1
    assert [one.id for one in read_records(path)] == [f"q{n}" for n in range(int(kept))]
    assert path.read_bytes().endswith(b"\n")
    assert "cannot be written: File too large. Every answer before this one is kept" in sentence


def test_two_programs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    refused = pytest.raises(RunError, match="another run is writing here")
    with locked(tmp_path / "run"), refused, locked(tmp_path / "run"):
        pass

    with locked(tmp_path / "run"):
        pass
