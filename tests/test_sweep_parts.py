"""The parts of a sweep: which rows are drawn, what lists mean, how ranks correlate, how doors are gone through."""

import doctest
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from itertools import pairwise, permutations, product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from scipy.stats import spearmanr

from eval.folder import locked
from eval.record import RunError
from retrieval.stats import LEVEL
from scripts.serving import is_running
from scripts.sweep.correlation import DRAWS, rank_correlation, spearman
from scripts.sweep.doors import DoorError, go_through
from scripts.sweep.variants import read_variants, write_recipe
from train.chat import read_chats
from train.door import TrainError
from train.holdout import drawn, held_out
from train.lora import main as train_main
from train.lora import prepare
from train.masking import Template
from train.provenance import CARD, card, identify, is_finished
from train.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[1]
RECIPE = "model: ./base\ndata: chats.jsonl\n"


def written(folder: Path, text: str, name: str = "mine") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(RECIPE + text)
    return folder / f"{name}.yaml"


@pytest.mark.parametrize("module", ["variants", "correlation", "outcome"])
def test_what_the_doctests_say(module: str) -> None:
    failed, tried = doctest.testmod(import_module(f"scripts.sweep.{module}"))

    assert tried > 0
    assert failed == 0


# Rows ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_fewer_rows_are_a_part_of_more_and_never_held_out(seed: int) -> None:
    random = Random(seed)
    groups = [str(random.randrange(random.choice((3, 30, 1000)))) for _ in range(random.randrange(1, 200))]
    out = held_out(groups, random.choice((0.0, 0.05, 0.3)), seed)

    draws = [set(drawn(groups, out, rows, seed)) for rows in (1, 2, 7, 50, 100, None)]

    everything = set(range(len(groups))) - out
    assert [len(draw) for draw in draws] == [min(rows, len(everything)) for rows in (1, 2, 7, 50, 100, len(groups))]
    assert all(less <= more for less, more in pairwise(draws))
    assert draws[-1] == everything


def test_which_rows_are_drawn_depends_on_what_they_are_and_not_on_where_they_stand() -> None:
    groups = [f"group {number}" for number in range(100)]
    shuffled = Random(1).sample(groups, 100)

    found = [{names[row] for row in drawn(names, frozenset(), 30, 0)} for names in (groups, shuffled)]

    assert found[0] == found[1]
    assert found[0] != {groups[row] for row in drawn(groups, frozenset(), 30, 1)}


def test_training_learns_from_so_many_rows_and_holds_out_the_same(world: Path) -> None:
    recipe = Recipe(model="", data=world / "chats.jsonl", max_length=192, tokens_per_step=192, eval_fraction=0.2)
    chats, template = read_chats(recipe.data), Template.load(world / "model")

    some, more, every = (prepare(replace(recipe, rows=rows), chats, template) for rows in (10, 20, None))

    assert [len(one.training) for one in (some, more, every)] == [10, 20, 48]
    assert some.held_out == more.held_out == every.held_out
    assert {one.where for one in some.training} < {one.where for one in more.training}
    with pytest.raises(TrainError, match="rows: 49 are asked for, but only 48 can be trained on"):
        prepare(replace(recipe, rows=49), chats, template)


def test_how_many_rows_belongs_to_an_adapters_identity_and_older_adapters_learnt_from_all(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    folder.mkdir()
    (base / "config.json").write_text("{}")
    (tmp_path / "chats.jsonl").write_text("{}")
    recipe = Recipe(model=str(base), data=tmp_path / "chats.jsonl")
    old = card(recipe, identify(recipe, base), base, "unchecked", {})
    del old["identity"]["recipe"]["rows"]
    old["identity"]["recipe"]["leaks"] = "refuse"  # once counted, now a habit
    (folder / CARD).write_text(json.dumps(old))

    assert is_finished(folder, identify(recipe, base))
    with pytest.raises(TrainError, match="rows None -> 50"):
        is_finished(folder, identify(replace(recipe, rows=50), base))


# Lists --------------------------------------------------------------------------------------------------------------


def test_one_training_refuses_a_list_and_says_which_program_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "rank: [8, 16]\ncheck_against: [test.jsonl]\n")

    assert train_main(["--config", str(file), "epochs=[1, 2]"]) == 1

    said = capsys.readouterr().err
    assert f"{file}: rank, epochs: a list means `try each`" in said
    assert f"python -m scripts.sweep {file} GRID" in said


def test_every_list_is_crossed_with_every_other_and_each_name_says_what_differs(tmp_path: Path) -> None:
    file = written(tmp_path, "rows: [50, null]\nlearning_rate: [1.0e-4, 2e-3, null]\nrslora: [true, false]\n")

    variants, problems = read_variants(file)

    assert problems == []
    expected = list(product((50, None), (1e-4, 2e-3, None), (True, False)))
    assert [(one.recipe.rows, one.recipe.learning_rate, one.recipe.rslora) for one in variants] == expected
    assert variants[0].name == "mine.rows-50.learning_rate-0.0001.rslora-true"
    assert variants[-1].name == "mine.rows-all.learning_rate-default.rslora-false"
    assert len({one.name for one in variants}) == 12


def test_paths_in_lists_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "Base").mkdir(parents=True)
    file = written(tmp_path / "recipes", "continue_from: [../adapters/one, null]\n")
    file.write_text(file.read_text().replace("./base", "[Base, Qwen/Qwen3-4B]").replace("chats.jsonl", "[a.jsonl, b]"))
    monkeypatch.chdir(tmp_path)

    variants, problems = read_variants(file)

    assert problems == []
    assert {one.recipe.model for one in variants} == {str(tmp_path / "recipes" / "Base"), "Qwen/Qwen3-4B"}
    assert {one.recipe.data for one in variants} == {tmp_path / "recipes" / name for name in ("a.jsonl", "b")}
    assert {one.recipe.continue_from for one in variants} == {tmp_path / "adapters" / "one", None}
    assert variants[0].name == "mine.model-base.data-a.continue_from-one"
    assert variants[-1].name == "mine.model-qwen3-4b.data-b.continue_from-nothing"


def test_a_written_recipe_reads_back_as_the_same(tmp_path: Path) -> None:
    settings = "rows: [7, null]\nlearning_rate: [0.1, null]\ncheck_against: [t.jsonl]\nquantize: nf4\nsnapshots: 2\n"
    for number, variant in enumerate(read_variants(written(tmp_path, settings))[0]):
        assert read_recipe(write_recipe(variant.recipe, tmp_path / "out" / f"{number}.yaml")) == variant.recipe


def test_the_snapshots_of_one_training_need_no_list(tmp_path: Path) -> None:
    (one,), problems = read_variants(written(tmp_path, "snapshots: 3\n"))

    assert (one.name, one.tried, problems) == ("mine", {}, [])


BAD_LISTS = {
    "epochs: 3": "nothing to compare: no key has a list and `snapshots` is 0",
    "rank: []": "rank: the list is empty",
    "rank: [8, 12]": "rank: Input should be 1, 8, 16",
    "rank: [8, 8]": "2 variants would be called mine.rank-8",
    "data: [x/a.jsonl, y/a.jsonl]": "2 variants would be called mine.data-a",
    "snapshots: [1, 2]": "snapshots: changes nothing in an adapter",
    "name: [a, b]": "name: changes nothing in an adapter",
    "ranks: [8, 16]": "ranks: unknown key; did you mean 'rank'?",
    "use_dora: [true, false]": "vLLM serves no adapter with DoRA's magnitudes",
    "learning_rate: [0.1, 0]": "learning_rate: Input should be greater than 0",
    f"name: {'n' * 50}\nrank: [8, 16]": "is too long for an adapter's name",
}


@pytest.mark.parametrize("text", BAD_LISTS)
def test_a_list_that_means_nothing_is_refused(text: str, tmp_path: Path) -> None:
    file = written(tmp_path, "")
    file.write_text(f"model: ./base\n{'' if 'data' in text else 'data: c.jsonl'}\n{text}\n")

    _, problems = read_variants(file)

    assert BAD_LISTS[text] in "\n".join(problems)


# Ranks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_coefficient_is_scipys(seed: int) -> None:
    random = np.random.default_rng(seed)
    losses = random.integers(0, 6, 12).astype(float)
    scores = np.round(random.random((12, 5)), int(random.integers(1, 3)))

    found = spearman(losses, scores)

    assert found == pytest.approx([spearmanr(losses, column).statistic for column in scores.T])


def test_the_interval_is_a_bootstrap_over_questions_and_the_p_value_counts_orders() -> None:
    random = np.random.default_rng(3)
    losses, skill = [0.9, 0.7, 0.5, 0.4, 0.2], [0.2, 0.5, 0.4, 0.7, 0.8]
    scores = (random.random((5, 80)) < np.array(skill)[:, None]).astype(float)
    means = scores.mean(axis=1)

    found = rank_correlation(losses, scores.tolist())

    draws = [scores[:, random.integers(0, 80, 80)].mean(axis=1) for _ in range(4000)]
    again = [spearmanr(losses, draw).statistic for draw in draws]
    orders = [abs(spearmanr(losses, order).statistic) for order in permutations(means)]
    assert found is not None
    assert found.value == pytest.approx(spearmanr(losses, means).statistic)
    bounds = np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    assert (found.low, found.high) == pytest.approx(bounds, abs=0.101)  # it moves in steps of a tenth at five points
    exact = np.mean(np.array(orders) >= abs(found.value) - 1e-9)
    assert found.p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / DRAWS) ** 0.5 + 1e-4)
    assert found == rank_correlation(losses, scores.tolist()), "the same every time"


@pytest.mark.parametrize(
    ("losses", "scores"),
    [
        ([0.1, 0.2, 0.3], [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]),
        ([0.1] * 5, [[float(i > j) for j in range(4)] for i in range(5)]),
        ([0.1, 0.2, 0.3, 0.4], [[1.0, 0.0]] * 4),
    ],
    ids=["three points", "one loss", "one score"],
)
def test_where_there_is_nothing_to_rank_no_coefficient_is_made_up(
    losses: list[float], scores: list[list[float]]
) -> None:
    assert rank_correlation(losses, scores) is None


# Doors --------------------------------------------------------------------------------------------------------------

SLOW = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1]).write_text("busy")
time.sleep(300)
"""
SWEEP = """
import os, pathlib, sys
from eval.folder import locked
from retrieval.console import stop_politely
from scripts.sweep.doors import go_through
stop_politely()
with locked(pathlib.Path(sys.argv[1])) as lock:
    os.set_inheritable(lock, True)
    try:
        go_through([sys.executable, "-c", sys.argv[2], sys.argv[3]])
    except KeyboardInterrupt:
        print("stopped")
"""


@pytest.fixture
def busy(tmp_path: Path) -> "subprocess.Popen[str]":
    """A sweep's process while a training of its runs."""
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "out"), SLOW, str(tmp_path / "work")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until(lambda: (tmp_path / "work").exists() and (tmp_path / "work").read_text() == "busy")
    return process


def until(true: object, seconds: float = 60.0) -> None:
    assert callable(true)
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)


def test_a_door_that_refuses_is_an_error() -> None:
    go_through([sys.executable, "-c", ""])
    with pytest.raises(DoorError, match="the same command goes on from here"):
        go_through([sys.executable, "-c", "raise SystemExit(1)"])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_passed_on_and_waited_for(how: signal.Signals, busy: "subprocess.Popen[str]", tmp_path: Path) -> None:
    busy.send_signal(how)
    said, _ = busy.communicate(timeout=60)

    assert (tmp_path / "work").read_text() == "saved"
    assert said == "stopped\n"


def test_a_training_that_outlives_a_killed_sweep_keeps_others_out_until_it_ends(
    busy: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    (child,) = (int(one) for one in Path(f"/proc/{busy.pid}/task/{busy.pid}/children").read_text().split())
    busy.kill()
    busy.wait()

    with pytest.raises(RunError, match="another run is writing here"), locked(tmp_path / "out"):
        pass
    os.kill(child, signal.SIGTERM)
    until(lambda: (tmp_path / "work").read_text() == "saved" and not is_running(child))
    with locked(tmp_path / "out"):
        pass
