"""Weak slices: a planted one is found and only that, luck is not taken for one, and no test question is exported."""

import doctest
import json
import random
import warnings
from math import comb
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind
from statsmodels.stats.proportion import confint_proportions_2indep

from eval.grid import load_grid
from eval.run import run
from retrieval.files import read_jsonl, write_jsonl
from scripts import mtop, slices
from scripts.make_sft import load, make
from scripts.slices import Slice, findings, independent, newcombe, slices_of, welch
from scripts.weak_slices import main
from tests.eval_stub import Say, Stub, example, number_in, serving, write_world
from train.chat import main as check_chats
from train.overlap import check, read_texts

N = 60
KINDS = ("red", "green", "blue")
CELL = "base:none:direct"


@pytest.mark.parametrize("module", [slices, mtop])
def test_the_examples_in_the_docstrings_are_true(module: ModuleType) -> None:
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)

    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("case", [(1, 5, 4, 9), (0, 8, 12, 12), (30, 60, 50, 200), (7, 7, 3, 3)])
def test_newcombe_is_statsmodels(case: tuple[int, int, int, int]) -> None:
    ours = newcombe(*case)

    assert (ours.low, ours.high) == pytest.approx(confint_proportions_2indep(*case, method="newcomb", compare="diff"))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 12), st.integers(0, 12))
def test_right_or_wrong_is_tested_by_fishers_own_definition(right: int, wrong: int, more: int, less: int) -> None:
    n, total, hits = right + wrong, right + wrong + more + less, right + more
    if n == 0 or total == n:
        return

    _, p = independent([1.0] * right + [0.0] * wrong, [1.0] * more + [0.0] * less)

    # Every table with these margins that is no likelier than the one seen.
    ways = {k: comb(hits, k) * comb(total - hits, n - k) for k in range(max(0, n - total + hits), min(n, hits) + 1)}
    assert p == pytest.approx(sum(w for w in ways.values() if w <= ways[right]) / sum(ways.values()))


eighths = st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=3, max_size=9)


@given(eighths, eighths)
def test_graded_scores_are_tested_by_welch_as_scipy_does(ours: list[float], rest: list[float]) -> None:
    if len({*ours}) == len({*rest}) == 1:
        return
    with warnings.catch_warnings(action="ignore"):  # scipy's, where one side has no spread
        theirs = ttest_ind(ours, rest, equal_var=False)

    estimate, p = welch(ours, rest)

    assert p == pytest.approx(theirs.pvalue)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_scores_without_any_spread_are_equal_or_are_not() -> None:
    assert welch([0.3] * 5, [0.3] * 9)[1] == 1
    assert welch([0.3] * 5, [0.4] * 9)[1] == 0


def test_slices_are_groups_and_not_names_and_each_group_is_looked_at_once() -> None:
    metas: list[dict[str, Any]] = [
        {"slice": KINDS[i % 3], "colour": KINDS[i % 3], "name": f"n{i}", "long": i % 2 == 0, "tools": [], "rare": i < 3}
        for i in range(N)
    ]

    assert slices_of(metas) == [*(Slice("slice", kind) for kind in KINDS), Slice("long", True), Slice("long", False)]


def test_a_key_of_many_values_names_things_unless_it_is_the_slice() -> None:
    assert slices_of([{"shop": i % 25} for i in range(150)]) == []
    assert len(slices_of([{"slice": i % 25} for i in range(150)])) == 25


def test_two_halves_are_one_question_and_the_worse_half_is_named() -> None:
    metas = [{"half": i % 2} for i in range(N)]

    (one,) = findings(metas, [float(i % 2) for i in range(N)])

    assert one.slice == Slice("half", 0)
    assert one.is_weak
    assert (one.n, one.score, one.difference.value) == (30, 0, -1)


def test_luck_is_taken_for_a_weak_slice_in_one_world_of_twenty_at_most() -> None:
    """The family-wise error of everything that is looked at: exact tests and Holm keep it below 5 %."""
    draw = random.Random(1)
    metas = [{"slice": i % 6, "half": i % 2, "third": i // 20} for i in range(N)]

    worlds = [findings(metas, [float(draw.random() < 0.7) for _ in metas]) for _ in range(200)]

    assert sum(any(one.is_weak for one in world) for world in worlds) / len(worlds) <= 0.05


def asked(i: int) -> dict[str, Any]:
    return example(i) | {"meta": {"slice": KINDS[i % 3]}}


def weak_at(kind: str) -> Say:
    return lambda _, messages: "wrong" if KINDS[number_in(messages) % 3] == kind else f"word{number_in(messages)}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which everything is right but the green questions, and, with the evidence, those too."""
    folder = tmp_path_factory.mktemp("weak")

    def say(model: str, messages: list[dict[str, str]]) -> str:
        return f"word{number_in(messages)}" if "[S1]" in messages[-1]["content"] else weak_at("green")(model, messages)

    with serving(Stub(say)) as stub:
        grid = write_world(folder, stub.url, n=200, adapters=["base"], strategies=["direct"])
        write_jsonl(folder / "test.jsonl", map(asked, range(N)))
        write_jsonl(folder / "train.jsonl", map(asked, range(100, 130)))
        run(load_grid(grid), folder / "out")
    return folder


def door(monkeypatch: pytest.MonkeyPatch, *words: Any) -> int:
    monkeypatch.setattr("sys.argv", ["weak_slices", *map(str, words)])
    return main()


def test_a_planted_weak_slice_is_found_and_its_training_examples_are_exported(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "weak.jsonl"

    assert door(monkeypatch, finished / "out", "--out", out) == 0

    rows = [row for _, row in read_jsonl(out)]
    ways = {"stack": "stack.yaml", "task": "task.yaml", "retrievers": ["gold"], "strategies": ["direct"]}
    files = {"examples": str(out), "target": "plain", "out": str(tmp_path / "sft.jsonl")}
    (finished / "sft.yaml").write_text(yaml.safe_dump(ways | files))
    write_jsonl(tmp_path / "sft.jsonl", make(load(finished / "sft.yaml")).rows)
    assert check_chats([str(tmp_path / "sft.jsonl")]) == 0
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(100, 130) if i % 3 == 1]
    assert rows[0] == json.loads(json.dumps(asked(100)))
    assert check(read_texts(out), read_texts(finished / "test.jsonl")).refused == ()
    weak = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith(" weak")]
    assert [line[:4] for line in weak] == [["slice=green", "20", "0.0%", "−100.0"]]
    assert weak[0][-2] == "100.0%", "with the evidence"


def test_where_nothing_is_clearly_weak_nothing_is_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "weak.jsonl"

    assert door(monkeypatch, finished / "out", "--combination", "base:gold:direct", "--out", out) == 0

    assert not out.exists()
    assert capsys.readouterr().out.endswith(
        "None of 3 slices is clearly worse than the rest: which rows to add is a guess.\n"
    )


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        (
            [asked(100), asked(4) | {"question": "what does ENTRY 4 say"}],
            "train.jsonl:2: is the test question",
        ),
        ([asked(102)], "no example has slice=green in its meta"),
    ],
)
def test_test_questions_and_empty_handed_splits_are_refused(
    train: list[dict[str, Any]],
    complaint: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_jsonl(tmp_path / "train.jsonl", train)

    code = door(monkeypatch, finished / "out", "--train", tmp_path / "train.jsonl", "--out", tmp_path / "weak.jsonl")

    assert code == 1
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "weak.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--combination", "tuned:none:direct"), "tuned:none:direct is not in this run; it has base:none:direct"),
        (("--combination", "tuned"), "names no combination"),
        (("--train", "nowhere.jsonl"), "there is no such file"),
    ],
)
def test_what_is_not_there_is_said(
    words: tuple[str, ...],
    complaint: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert door(monkeypatch, finished / "out", *words, "--out", tmp_path / "w.jsonl") == 1
    assert complaint in capsys.readouterr().err


def test_a_combination_with_gaps_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))
    with serving(Stub(weak_at("green"), broken=lambda text: "entry 3 " in text)) as stub:
        grid = write_world(tmp_path, stub.url, adapters=["base"], strategies=["direct"], retrievers=["none"])
        run(load_grid(grid), tmp_path / "out")

    for words in (("--combination", CELL), ()):
        assert door(monkeypatch, tmp_path / "out", *words, "--out", tmp_path / "w.jsonl") == 1
    assert "still lacks 1 answer; finish the run" in capsys.readouterr().err
