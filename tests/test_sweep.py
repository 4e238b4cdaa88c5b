"""A whole sweep on a tiny model: real trainings, real evaluations, and a stub in the engine's place.

Its answers are planted: more rows are better at what is trained for and worse at what is not.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState

from eval.__main__ import main as evaluate
from retrieval.files import write_jsonl
from retrieval.stats import paired, wilson
from scripts.sweep.__main__ import main, sweep
from scripts.sweep.checkpoints import Checkpoint
from scripts.sweep.outcome import Outcome
from scripts.sweep.plan import load_plan
from scripts.sweep.report import render, save, table, to_csv
from scripts.sweep.sentences import next_step, sentences
from serve.combination import BASE
from tests.eval_stub import Stub, serving
from train.lora import main as train

ROOT = Path(__file__).parents[1]
N = 60
SKILL = {"rows-12": 0.2, "rows-24": 0.4, "rows-all": 0.8}
"""The chance of a right answer to what is trained for; the base's is 0.1, a snapshot's half of its variant's."""


def chance(model: str, general: bool) -> float:
    learnt = next((skill for name, skill in SKILL.items() if name in model), 0.1) * (0.5 if ".s0" in model else 1.0)
    return 0.9 - 0.7 * (learnt - 0.1) if general else learnt


def is_right(model: str, question: str) -> bool:
    """The luck of a question is everybody's, so who is better at all is better at every question."""
    return Random(question).random() < chance(model, question.startswith("General"))


def say(model: str, messages: list[dict[str, str]]) -> str:
    question = messages[-1]["content"].removeprefix("Question: ")
    return "right" if is_right(model, question) else "wrong"


@dataclass
class Doors:
    """Both front doors inside this process, which has torch already; the engine is a stub."""

    stub: Stub
    stop_after: int = 100
    trained: list[str] = field(default_factory=list)

    def train(self, recipe: Path) -> None:
        if len(self.trained) == self.stop_after:
            raise KeyboardInterrupt
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        assert train(["--config", str(recipe)]) == 0
        torch.set_num_threads(threads)
        self.trained.append(recipe.stem)

    def ask(self, grid: Path, folder: Path) -> None:
        file = grid.with_suffix(".stack.yaml")
        file.write_text(file.read_text() + f"url: {self.stub.url}\n")
        assert evaluate(["run", str(grid), "--out", str(folder)]) == 0


@dataclass(frozen=True)
class Swept:
    """What a sweep that was stopped once and run again left behind."""

    outcome: Outcome
    folder: Path
    first: Doors
    second: Doors


def write_grids(world: Path) -> list[Path]:
    stack = {"model": "model", "strategies": {"direct": {"kind": "direct"}}}
    (world / "stack.yaml").write_text(yaml.safe_dump(stack))
    for name in ("dev", "general"):
        rows = [{"id": str(i), "question": f"{name.title()} {i}?", "answers": ["right"]} for i in range(N)]
        write_jsonl(world / f"{name}.jsonl", rows)
        task = {"name": name, "examples": f"{name}.jsonl", "primary": "exact", "scorers": {"exact": {"kind": "exact"}}}
        (world / f"{name}_task.yaml").write_text(yaml.safe_dump(task))
        grid = {"stack": "stack.yaml", "task": f"{name}_task.yaml", "adapters": ["base"], "retrievers": ["none"]}
        grid |= {"strategies": ["direct"], "baseline": "base:none:direct"}
        (world / f"{name}_grid.yaml").write_text(yaml.safe_dump(grid))
    return [world / "dev_grid.yaml", world / "general_grid.yaml"]


@pytest.fixture(scope="module")
def recipe(world: Path) -> Path:
    text = (world / "tiny.yaml").read_text() + "dtype: float32\nrows: [12, 24, null]\nsnapshots: 1\n"
    (world / "curve.yaml").write_text(text)
    return world / "curve.yaml"


@pytest.fixture(scope="module")
def swept(world: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    folder, grids = tmp_path_factory.mktemp("sweep"), write_grids(world)
    with serving(Stub(say)) as stub:
        first, second = Doors(stub, stop_after=1), Doors(stub)
        with pytest.raises(KeyboardInterrupt):
            sweep(load_plan(recipe, grids), folder, first.train, first.ask)
        yield Swept(sweep(load_plan(recipe, grids), folder, second.train, second.ask), folder, first, second)


def test_a_stopped_sweep_goes_on_and_a_finished_one_does_nothing(swept: Swept, recipe: Path) -> None:
    assert swept.first.trained == ["curve.rows-12"]
    assert swept.second.trained == ["curve.rows-24", "curve.rows-all"]
    asked, third = len(swept.second.stub.calls), Doors(swept.second.stub)
    shutil.rmtree(swept.folder / "recipes")

    again = sweep(load_plan(recipe, write_grids(recipe.parent)), swept.folder, third.train, third.ask)

    assert asked == 2 * N * (1 + 2 * 3), "the base, three adapters and a snapshot of each, on both grids, once"
    assert len(swept.second.stub.calls) == asked
    assert third.trained == []
    assert {file.stem for file in (swept.folder / "recipes").iterdir()} == {one.name for one in again.finals}
    assert to_csv(again) == to_csv(swept.outcome)


def test_every_variant_is_trained_on_its_rows_and_measured_on_the_same_held_out_ones(swept: Swept) -> None:
    cards = [json.loads((one.folder / "provenance.json").read_text()) for one in swept.outcome.finals]

    assert [card["rows"] for card in cards] == [12, 24, 48]
    assert {card["held_out_rows"] for card in cards} == {12}
    assert len({card["eval_loss_before"] for card in cards}) == 1
    assert [one.final for one in swept.outcome.checkpoints] == [False, True] * 3
    assert all(one.tokens < two.tokens for one, two in batched(swept.outcome.checkpoints))


def batched(ones: tuple[Checkpoint, ...]) -> Iterator[tuple[Checkpoint, Checkpoint]]:
    """Each snapshot with the end of its training."""
    return zip(ones[::2], ones[1::2], strict=True)


def test_the_scores_are_those_of_the_questions(swept: Swept) -> None:
    rows = list(csv.DictReader(to_csv(swept.outcome).splitlines()))

    assert [row["adapter"] for row in rows] == [BASE, *(one.name for one in swept.outcome.checkpoints)]
    general = {row["adapter"]: [is_right(row["adapter"], f"General {i}?") for i in range(N)] for row in rows}
    for row in rows:
        right = [is_right(row["adapter"], f"Dev {i}?") for i in range(N)]
        expected = wilson(sum(right), N)
        change = paired([float(x) for x in general[row["adapter"]]], [float(x) for x in general[BASE]])
        assert float(row["score"]) == pytest.approx(expected.value, abs=1e-4)
        assert float(row["ci_low"]) == pytest.approx(expected.low, abs=1e-4)
        if row["adapter"] != BASE:
            assert float(row["general_grid_delta"]) == pytest.approx(change.estimate.value, abs=1e-4)
            assert float(row["general_grid_delta_ci_high"]) == pytest.approx(change.estimate.high, abs=1e-4)
            assert 1 >= float(row["general_grid_p_holm"]) >= float(f"{change.p:.2g}") * 0.9


def test_it_says_what_was_planted(swept: Swept) -> None:
    said = "\n".join(sentences(swept.outcome))

    assert "Of 3 variants, curve.rows-all scores highest on dev_grid" in said
    assert "48 rows against 24: " in said
    assert "Twice the rows helped" in said
    assert "rank correlation of " in said
    assert " over 6 checkpoints of 3 trainings" in said
    assert "On general_grid, watched for losses, base scores " in said
    assert "The best variant, curve.rows-all, pays −" in said
    assert next_step(swept.outcome, swept.folder).startswith("ask curve.rows-all once on questions that nothing was")
    assert (swept.folder / "recipes" / "curve.rows-all.yaml").is_file()


def test_a_continued_adapter_is_compared_with_the_one_it_continues(swept: Swept, recipe: Path, tmp_path: Path) -> None:
    more = recipe.with_name("more.yaml")
    text = recipe.read_text().replace("rows: [12, 24, null]\nsnapshots: 1", "rows: [12]")
    more.write_text(text + "continue_from: adapters/curve.rows-all\n")
    doors = Doors(swept.second.stub)

    outcome = sweep(load_plan(more, write_grids(recipe.parent)), tmp_path, doors.train, doors.ask)

    rows = {row["adapter"]: row for row in csv.DictReader(to_csv(outcome).splitlines())}
    right = {name: [is_right(name, f"General {i}?") for i in range(N)] for name in rows}
    change = (sum(right["more.rows-12"]) - sum(right["from.curve.rows-all"])) / N
    assert list(rows) == [BASE, "from.curve.rows-all", "more.rows-12"]
    assert float(rows["more.rows-12"]["general_grid_delta"]) == pytest.approx(change, abs=1e-4)
    before = swept.outcome.checkpoints[-1].eval_loss
    assert float(rows["from.curve.rows-all"]["eval_loss"]) == pytest.approx(before, abs=2e-4)
    assert "It continues from.curve.rows-all, which scores " in "\n".join(sentences(outcome))


class Cells(HTMLParser):
    """The cells of the table, row by row, and the tags that could fetch or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.inside, self.risky = list[list[str]](), False, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.risky += [tag] if tag in ("script", "img", "iframe") else []
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data.strip()


def test_the_page_holds_the_figures_and_asks_nobody_for_anything(swept: Swept) -> None:
    page, parser = save(swept.outcome, swept.folder).read_text(), Cells()

    parser.feed(page)

    assert parser.rows == list(csv.reader((swept.folder / "sweep.csv").read_text().splitlines()))
    assert parser.risky == []
    assert "://" not in page.replace("http://www.w3.org/", "")
    assert page.count("<svg") == 4, "two pictures, for wide screens and narrow ones"
    assert page == render(swept.outcome, swept.folder)
    assert table(swept.outcome).row_count == 7


def test_when_an_adapter_was_made_differently_nothing_is_trained(swept: Swept, recipe: Path) -> None:
    grids = write_grids(recipe.parent)
    for old, new, said in (
        ("epochs: 2", "epochs: 3", "holds an adapter made differently (epochs 2 -> 3)"),
        ("snapshots: 1", "snapshots: 2", "was made with 1 snapshots and the recipe asks for 2"),
    ):
        other = recipe.with_name("other.yaml")
        other.write_text("name: curve\n" + recipe.read_text().replace(old, new))
        with pytest.raises(ValueError) as error:
            load_plan(other, grids)
        assert str(error.value).count(said) >= 3, "for each variant"


def test_all_that_is_wrong_is_said_at_once_before_anything_heavy_is_loaded(world: Path, tmp_path: Path) -> None:
    dev, _ = write_grids(world)
    bad = world / "bad.yaml"
    bad.write_text(
        (world / "tiny.yaml").read_text().replace("data: chats.jsonl", "data: none.jsonl") + "rank: [8, 12]\n"
    )
    bad.write_text(bad.read_text().replace("rank: 8\n", ""))
    strange = tmp_path / "dev_grid.yaml"
    strange.write_text(dev.read_text().replace("stack.yaml", "gone.yaml"))
    code = "import sys; from scripts.sweep.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(bad), str(dev), str(strange), "--out", str(tmp_path / "out")]

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )

    assert done.stdout == "1 False\n"
    for said in (
        "rank: Input should be 1, 8, 16",
        "none.jsonl: there is no such file",
        "gone.yaml: there is no such file",
        "2 grids are called dev_grid.yaml",
    ):
        assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


REFUSED = {
    "more rows than there are": (
        "curve.yaml",
        "rows: [12, 24, null]",
        "rows: [12, 49]",
        "rows: 49 are asked for, but only 48 can be trained on",
    ),
    "nothing to try": ("curve.yaml", "rows: [12, 24, null]\nsnapshots: 1", "", "nothing to compare"),
    "a start of another rank": (
        "curve.yaml",
        "rank: 8",
        "rank: 16\ncontinue_from: start",
        "cannot be continued from: rank 8 -> 16",
    ),
    "a server": ("stack.yaml", "model: model", "model: model\nurl: http://h:1/v1", "a server that runs already cannot"),
    "another base": ("stack.yaml", "model: model", "model: twin", "an adapter works on its own base only"),
    "a question without an answer": ("dev.jsonl", '"answers": ["right"]', '"answers": []', "`answers` is empty"),
    "a chat of another format": ("chats.jsonl", '"role": "user"', '"role": "human"', "write 'user'"),
}


@pytest.fixture
def copied(swept: Swept, world: Path, recipe: Path, tmp_path: Path) -> Path:
    """The world again, with an adapter, and a second base that differs in a line break."""
    write_grids(world)
    for path in (*world.glob("*.yaml"), *world.glob("*.jsonl")):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "model").symlink_to(world / "model")
    (tmp_path / "start").symlink_to(swept.outcome.best.folder)
    shutil.copytree(world / "model", tmp_path / "twin")
    with (tmp_path / "twin" / "config.json").open("a") as file:
        file.write("\n")
    return tmp_path


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_swept_is_refused(case: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, old, new, said = REFUSED[case]
    text = (copied / file).read_text()
    assert old in text
    (copied / file).write_text(text.replace(old, new))

    code = main([str(copied / "curve.yaml"), str(copied / "dev_grid.yaml"), "--out", str(copied / "out")])

    assert code == 1
    assert said in capsys.readouterr().err
    assert not (copied / "out").exists()
