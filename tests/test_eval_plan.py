"""A plan says what a run would ask and could show, starts nothing, and agrees with what the run then does."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from eval.__main__ import main
from eval.folder import load_results, prepare
from eval.grid import Grid, load_grid
from eval.plan import ALIKE, GUESSES, WANTED, Earlier, Plan, plan, read_earlier
from eval.plan_terminal import SHOWN, show_plan
from eval.record import Journal, Record, read_records
from eval.run import pending
from eval.summary import comparisons
from retrieval.power import design_effect, smallest_difference
from serve.chat import Message, Usage
from serve.combination import Combination
from tests.eval_stub import write_world

NOWHERE = "http://127.0.0.1:9/v1"
N, CELLS = 120, 8
Right = Callable[[Combination, int], bool]


def world(folder: Path, n: int = N, **settings: Any) -> Path:
    return write_world(folder, NOWHERE, n=n, **settings)


def record(cell: Combination, number: int, right: bool, seconds: float = 2.0) -> Record:
    return Record(
        id=f"q{number}",
        combination=cell,
        prompt=(Message("user", "What?"),),
        sources=(),
        text="word",
        usage=Usage(100, 5),
        seconds=seconds,
        scores={"exact": float(right), "part": 0.0},
        finish_reason="stop",
    )


def answered(grid: Grid, questions: int, right: Right = lambda cell, number: False) -> dict[Combination, Any]:
    return {
        cell: {f"q{number}": record(cell, number, right(cell, number)) for number in range(questions)}
        for cell in grid.cells
    }


def kept(path: Path, out: Path, questions: int) -> Grid:
    """The folder of a run that died after so many questions."""
    grid = load_grid(path)
    out.mkdir(parents=True, exist_ok=True)
    prepare(grid, out)
    with Journal(out / "records.jsonl") as journal:
        for cell in grid.cells:
            for number in range(questions):
                journal.append(record(cell, number, right=False))
    return grid


def edit(path: Path, **keys: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys, sort_keys=False))


def printed(made: Plan) -> str:
    page = StringIO()
    show_plan(made, ["python", "-m", "eval", "run", "grid.yaml"], Console(width=120, file=page))
    return page.getvalue()


def test_before_any_run_it_counts_and_guesses(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))

    made = plan(grid, read_earlier(grid, tmp_path / "out"))

    assert (made.cells, made.questions, made.answers, made.kept, made.left) == (CELLS, N, N * CELLS, 0, N * CELLS)
    assert made.seconds is None
    assert made.prompt_tokens is None
    assert made.measured == ()
    # Four combinations can be chosen, the baseline among them; `gold` cannot. Two levers have one other level each.
    assert [(one.family, one.discordance) for one in made.guessed] == [(f, d) for f in (3, 2) for d in GUESSES]
    assert made.guessed[0].smallest == smallest_difference(N, 0.1, comparisons=3)


def test_the_questions_that_are_missing_would_show_5_points(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))

    for one in plan(grid, Earlier(good={})).guessed:
        assert one.discordance
        assert one.more
        assert smallest_difference(N + one.more, one.discordance, one.family) <= WANTED
        assert smallest_difference(N + one.more - 1, one.discordance, one.family) > WANTED


def test_questions_in_clusters_show_less(tmp_path: Path) -> None:
    path = world(tmp_path)
    alone = plan(load_grid(path), Earlier(good={}))
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    clustered = [row | {"meta": {"cluster": str(place // 4)}} for place, row in enumerate(rows)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in clustered))

    together = plan(load_grid(path), Earlier(good={}))

    assert (alone.clusters, together.clusters) == (N, N // 4)
    wider = design_effect([4] * (N // 4), ALIKE) ** 0.5
    for one, other in zip(alone.guessed, together.guessed, strict=True):
        assert other.smallest == pytest.approx(wider * one.smallest)
    assert "30 clusters" in printed(together)
    assert "cluster" not in printed(alone)


def test_an_oracle_arm_is_asked_only_what_has_evidence(tmp_path: Path) -> None:
    path = world(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    rows[0]["evidence"] = []
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert plan(load_grid(path), Earlier(good={})).answers == N * CELLS - CELLS // 2


def test_it_counts_what_the_run_would_ask(tmp_path: Path) -> None:
    path, out = world(tmp_path, n=40), tmp_path / "out"
    grid = kept(path, out, questions=15)

    before = {file.name: file.read_bytes() for file in out.iterdir()}
    made = plan(grid, read_earlier(grid, out))

    assert made.left == len(pending(load_results(out))) == 25 * CELLS
    assert made.kept == 15 * CELLS
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_what_is_out_of_date_is_asked_again_as_the_run_does(tmp_path: Path) -> None:
    path, out = world(tmp_path, n=40), tmp_path / "out"
    kept(path, out, questions=15)
    strategies = {"direct": {"kind": "direct"}, "brief": {"kind": "instructed", "instructions": "Be very brief."}}
    edit(tmp_path / "stack.yaml", strategies=strategies)
    grid = load_grid(path)

    made = plan(grid, read_earlier(grid, out))

    assert (made.kept, made.stale) == (15 * CELLS // 2, 15 * CELLS // 2)
    prepare(grid, out)
    assert made.left == len(pending(load_results(out)))
    assert len(list(read_records(out / "records.stale.jsonl"))) == made.stale


def test_scores_by_other_scorers_tell_nothing_but_the_answers_count(tmp_path: Path) -> None:
    path, out = world(tmp_path, n=40), tmp_path / "out"
    grid = kept(path, out, questions=40)
    assert plan(grid, read_earlier(grid, out)).measured
    edit(tmp_path / "task.yaml", scorers={"exact": {"kind": "f1"}})
    grid = load_grid(path)

    made = plan(grid, read_earlier(grid, out))

    assert (made.left, made.measured) == (0, ())
    assert made.guessed


def test_time_and_tokens_are_those_of_the_earlier_answers(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))
    made = plan(grid, Earlier(good=answered(grid, 20)))

    assert made.prompt_tokens == pytest.approx(100 * made.left)
    assert made.seconds == pytest.approx(2.0 * made.left / grid.settings.concurrency)
    assert plan(grid, Earlier(good=answered(grid, N))).seconds == 0


def test_a_combination_without_records_is_taken_to_be_like_the_others(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))
    good = answered(grid, N)
    good[Combination.parse("tuned:none:brief")] = {}

    made = plan(grid, Earlier(good=good))

    assert made.left == N
    assert made.prompt_tokens == pytest.approx(100 * N)
    assert made.measured
    assert made.guessed


def test_stale_records_still_tell_of_time(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))
    made = plan(grid, Earlier(good={}, stale=tuple(record(cell, 0, right=True, seconds=4.0) for cell in grid.cells)))

    assert made.seconds == pytest.approx(4.0 * N * CELLS / grid.settings.concurrency)
    assert made.kept == 0


def test_records_tell_how_much_each_combination_disagrees(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))

    def right(cell: Combination, number: int) -> bool:
        flips = {"base": 0, "tuned": 24}[cell.adapter] if cell.strategy == "direct" else 60
        return (number % 2 == 0) != (number < flips)

    made = plan(grid, Earlier(good=answered(grid, N, right)))

    seen = {one.name: one for one in made.measured}
    assert made.guessed == ()
    assert "base:gold:direct" not in seen
    assert seen["tuned:none:direct"].discordance == pytest.approx(24 / N)
    assert seen["base:none:brief"].discordance == pytest.approx(60 / N)
    assert seen["tuned:none:direct"].smallest < seen["base:none:brief"].smallest
    # Gains and losses are even, so the spread is the discordance, and two items added by Bonett and Price.
    assert seen["tuned:none:direct"].smallest == pytest.approx(smallest_difference(N, 24 / N, 3), rel=0.05)
    assert {"adapter: tuned for base", "prompt: brief for direct"} <= seen.keys()


def test_half_the_records_foretell_what_all_of_them_show(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))

    def right(cell: Combination, number: int) -> bool:
        return number % 2 == 0 if cell.adapter == "base" else number % 3 == 0

    half = plan(grid, Earlier(good=answered(grid, N // 2, right))).measured
    whole = plan(grid, Earlier(good=answered(grid, N, right))).measured

    assert [one.name for one in half] == [one.name for one in whole]
    for one, other in zip(half, whole, strict=True):
        if one.discordance:
            assert one.smallest == pytest.approx(other.smallest, rel=0.1)
        else:  # where next to nothing was seen to differ, fewer records promise less
            assert one.smallest > 0.9 * other.smallest


def test_records_of_the_first_questions_do_not_speak_for_all(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))
    first, whole = plan(grid, Earlier(good=answered(grid, 40))), plan(grid, Earlier(good=answered(grid, N)))

    assert (first.seen, whole.seen) == (40, N)
    assert f"40 of {N} questions" in printed(first)
    assert "in the order of the file" not in printed(whole)


def test_the_family_is_the_one_that_the_run_corrects_for(tmp_path: Path) -> None:
    path, out = world(tmp_path, n=40), tmp_path / "out"
    grid = kept(path, out, questions=40)

    made = plan(grid, read_earlier(grid, out))

    declared = [one for one in comparisons(load_results(out)).values() if one.p_holm == one.p_holm]
    assert {one.family for one in made.measured if one.discordance is not None} == {len(declared)}


def test_a_baseline_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    path = world(tmp_path, adapters=["base"], retrievers=["none"], strategies=["direct"])
    grid = load_grid(path)

    for earlier in (Earlier(good={}), Earlier(good=answered(grid, N))):
        made = plan(grid, earlier)
        assert (made.guessed, made.measured) == ((), ())
        assert "nothing is compared with it" in printed(made)


def test_it_is_printed_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = world(tmp_path / "my world"), tmp_path / "out"

    assert main(["plan", str(path), "--out", str(out)]) == 0

    said = capsys.readouterr().out
    assert f"{CELLS} combinations, {N} questions: {N * CELLS} answers." in said
    assert "0 (0 %) have a record already" in said
    assert "unknown" in said
    assert "too small for 5 points" in said
    assert said.splitlines()[-1] == f"Next:   python -m eval run '{path}' --out {out}"
    assert not out.exists()


def test_levers_are_shown_however_many_combinations_there_are(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))
    made = plan(grid, Earlier(good=answered(grid, N)))
    cell, *_, lever = made.measured
    many = tuple(replace(cell, name=f"base:none:s{i}") for i in range(SHOWN))

    said = printed(replace(made, measured=(*many, lever)))

    assert lever.name in said
    assert "and 1 more, none of them larger" in said


def test_with_nothing_left_it_says_so(tmp_path: Path) -> None:
    grid = load_grid(world(tmp_path))

    assert "Nothing is left to ask" in printed(plan(grid, Earlier(good=answered(grid, N))))


def test_problems_are_told_as_the_run_tells_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = world(tmp_path)
    edit(path, adapters=["base", "tunde"], baseline="base:none:driect")

    told = []
    for command in ("plan", "run"):
        assert main([command, str(path), "--out", str(tmp_path / "out")]) == 1
        told.append(capsys.readouterr().err)

    assert told[0] == told[1]
    assert "did you mean 'tuned'?" in told[0]


def test_it_loads_no_heavy_library(tmp_path: Path) -> None:
    path, out = world(tmp_path, n=40), tmp_path / "out"
    kept(path, out, questions=35)
    light = "import sys; from eval.__main__ import main; code = main(sys.argv[1:]); print(code, *sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", light, "plan", str(path), "--out", str(out)], capture_output=True, text=True, check=True
    )

    code, *modules = done.stdout.splitlines()[-1].split()
    assert code == "0"
    assert not {"torch", "vllm", "faiss", "transformers", "sentence_transformers"} & set(modules)


def test_help_ends_with_a_line_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--help"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("example: python -m eval plan ")
