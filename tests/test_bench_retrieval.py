"""The benchmark's own parts: it measures what it says, keeps different work apart, and admits what is lost."""

import argparse
import doctest
from pathlib import Path

import numpy as np
import pytest

from retrieval.vectors import CLOSENESS, turned
from scripts import bench_tables, bench_vectors, peers
from scripts.bench_peers import peers_are_there
from scripts.bench_retrieval import compare, lay_out, main, one_step
from scripts.bench_tables import Work, embedding_reading, figures, reading, remember, remembered, stores_table
from scripts.bench_texts import some_questions, some_texts
from scripts.bench_vectors import made_vectors, nearest

SMALL = Work(what="made", rows=500, questions=20)
OPTIONS = argparse.Namespace(peers=Path("nowhere/bin/python"), minutes=2, memory=8)


@pytest.mark.parametrize("module", [peers, bench_tables, bench_vectors])
def test_examples_hold(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_made_vectors_are_unit_vectors_and_the_same_every_time(tmp_path: Path) -> None:
    once, again = made_vectors(tmp_path / "a.npy", 300), made_vectors(tmp_path / "b.npy", 300)

    assert np.array_equal(once, again)
    assert np.allclose(np.linalg.norm(once, axis=1), 1, atol=1e-6)


def test_a_question_is_near_to_a_row_and_none_of_them(tmp_path: Path) -> None:
    vectors = made_vectors(tmp_path / "a.npy", 1000)

    cosines = turned(vectors, 50, seed=2) @ vectors.T

    assert np.all(cosines < 0.99)
    assert np.allclose(np.min(np.abs(cosines - CLOSENESS), axis=1), 0, atol=1e-3)


def test_brute_force_in_blocks_is_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = made_vectors(tmp_path / "a.npy", 333)
    questions = turned(vectors, 9, seed=2)
    monkeypatch.setattr(bench_vectors, "BLOCK", 50)

    found = nearest(vectors, questions, 7)

    assert np.array_equal(found, np.argsort(-(questions @ vectors.T), axis=1)[:, :7])


def test_ours_goes_through_every_step_in_its_own_process(tmp_path: Path) -> None:
    lay_out(SMALL, tmp_path, None)

    rows = list(compare(SMALL, tmp_path, ["fulcrum flat"], OPTIONS))

    assert [row["step"] for row in rows] == ["build", "search", "add"]
    assert not [row for row in rows if "failed" in row]
    assert figures(rows, "recall") == {"fulcrum flat": 1.0}
    assert figures(rows, "found") == {"fulcrum flat": 1.0}


def test_who_is_not_done_in_time_is_said_to_be(tmp_path: Path) -> None:
    hurried = argparse.Namespace(peers=OPTIONS.peers, minutes=0.001, memory=8)

    measured = one_step("build", "fulcrum flat", SMALL.plain() | {"vectors": "none.npy", "folder": "none"}, hurried)

    assert measured == {"failed": "build: not done in 0.001 minutes"}


def test_who_fails_says_why(tmp_path: Path) -> None:
    job = SMALL.plain() | {"vectors": str(tmp_path / "none.npy"), "folder": str(tmp_path)}

    measured = one_step("build", "fulcrum flat", job, OPTIONS)

    assert "No such file" in measured["failed"]


def measured(contestant: str, milliseconds: float, recall: float, mib: float) -> dict[str, object]:
    return {"contestant": contestant, "step": "search", "p50_ms_1": milliseconds, "recall": recall, "search_mib": mib}


def test_the_reading_compares_at_equal_recall_and_says_who_is_ahead() -> None:
    rows = [measured("fulcrum flat", 2.0, 1.0, 50), measured("slow", 4.0, 1.0, 100), measured("wild", 0.1, 0.5, 1)]

    said = reading(SMALL, [*rows, measured("quick", 1.0, 0.99, 200)])

    assert "of 0.99 or more: fulcrum flat 2 ms, best peer quick 1 ms (0.50x)" in said
    assert "all neighbours: fulcrum flat 2 ms, best peer slow 4 ms (2.00x)" in said
    assert "all neighbours: fulcrum flat 50 MiB, best peer slow 100 MiB (2.00x)" in said
    assert "wild" not in said


def test_what_did_not_finish_stands_under_the_table() -> None:
    table = stores_table(SMALL, [{"contestant": "slow", "step": "build", "failed": "build: not done in 5 minutes"}])

    assert str(table.caption) == "slow: build: not done in 5 minutes"


def test_a_file_keeps_each_piece_of_work_apart(tmp_path: Path) -> None:
    file, other = tmp_path / "all.json", Work(what="made", rows=501, questions=20)
    remember(file, SMALL, [{"contestant": "a"}])
    remember(file, other, [{"contestant": "b"}])
    remember(file, SMALL, [{"contestant": "a"}, {"contestant": "c"}])

    assert remembered(file, SMALL) == [{"contestant": "a"}, {"contestant": "c"}]
    assert remembered(file, other) == [{"contestant": "b"}]


def test_without_peers_it_says_how_to_make_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert not peers_are_there(Path("nowhere/bin/python"), "peers.txt")
    assert "python3 -m venv nowhere && nowhere/bin/pip install" in capsys.readouterr().err


def test_vectors_that_are_too_few_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.ones((10, 4), dtype=np.float32))

    with pytest.raises(SystemExit, match="2,000 rows or more are needed"):
        main(["stores", "--sizes", "1k", "--vectors", str(tmp_path / "few.npy"), "--only", "fulcrum flat"])


def test_the_demos_texts_and_questions_are_there_without_a_file() -> None:
    texts, questions = some_texts(None, 5), some_questions(None, 5)

    assert len(texts) == 5
    assert len(set(questions)) == 5 + 20


def test_a_faster_encoder_is_named_with_how_near_its_vectors_are() -> None:
    ours = {"contestant": "fulcrum", "step": "embed", "texts_per_second": 10.0, "agreement": 1.0}
    peer = {"contestant": "bfloat16", "step": "embed", "texts_per_second": 20.0, "agreement": 0.998}

    assert "0.50x the speed of bfloat16, whose vectors have a cosine of 0.9980" in embedding_reading([ours, peer])
