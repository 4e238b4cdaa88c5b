"""One thing is broken in each world, and the blame falls on that thing: through the whole program, and leaf by leaf."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.__main__ import main
from eval.analysis import analyse
from eval.blame import FAULTS, MEANING, RIGHT, WRONG, Fault, Leaf, Seen, blame, leaf, look, untold
from eval.folder import Results, load_results
from eval.grid import load_grid
from eval.record import read_records
from eval.remedies import REMEDIES
from eval.summary import ranked
from retrieval.build import build
from retrieval.files import FileError
from retrieval.manifest import BuildSettings
from retrieval.passage import Document
from serve.combination import Combination
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import Stub, serving, write_rows
from tests.planted_worlds import (
    N,
    Reader,
    blind,
    bold,
    careful,
    cargo,
    chatty,
    documents,
    example,
    fact,
    hasty,
    learned,
    nowhere,
    speaking,
    timid,
    write_world,
)
from tests.tiny_search import make_embedder

NAMED_RIGHT = 0.95


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ships")
    pages = [Document(id=one["_id"], title=one["title"], text=one["text"]) for one in documents()]
    build(pages, folder / "index", BuildSettings(embedder=str(make_embedder(folder / "embedder")), language="none"))
    return folder / "index"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(speaking(careful))) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed calls are tried again without waiting."""
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))


class World:
    """A run of a planted world, read back."""

    def __init__(self, out: Path) -> None:
        self.results: Results = load_results(out)
        self.leaves = blame(look(self.results))
        self.verdict: dict[str, Any] = json.loads((out / "verdict.json").read_text())
        self.rows = list(csv.DictReader((out / "blame.csv").open()))
        self.page = (out / "report.html").read_text()

    def told(self, retriever: str, items: set[str]) -> list[Leaf]:
        """The leaves of these items."""
        leaves = self.leaves[Combination("base", retriever, "direct")]
        return [leaves[item] for item in items]

    def share(self, retriever: str, items: set[str], wanted: Leaf) -> float:
        """Of these items, how many this leaf takes."""
        return self.told(retriever, items).count(wanted) / len(items)


def run(folder: Path, stub: Stub, index: Path, retriever: str = "lexical", rows: list[Any] | None = None) -> World:
    grid = write_world(folder / "world", stub.url, index, retriever, rows or [example(i) for i in range(N)])
    main(["run", str(grid), "--out", str(folder / "out")])
    return World(folder / "out")


def test_nothing_broken_nobody_blamed(stub: Stub, index: Path, tmp_path: Path) -> None:
    world = run(tmp_path, stub, index)

    assert world.share("lexical", {one.id for one in world.results.examples}, "from evidence") >= NAMED_RIGHT
    assert world.share("gold-lexical", {one.id for one in world.results.examples}, "from evidence") >= NAMED_RIGHT
    assert world.share("none", {one.id for one in world.results.examples}, "retrieval") >= NAMED_RIGHT


def test_broken_retrieval_is_named(stub: Stub, index: Path, tmp_path: Path) -> None:
    world = run(tmp_path, stub, index, "random")
    prompts = world.results.records[Combination("base", "random", "direct")]
    lucky = {f"ship{i:03d}" for i in range(N) if fact(i) in prompts[f"ship{i:03d}"].prompt[-1].content}

    assert len(lucky) < N / 10
    assert world.share("random", prompts.keys() - lucky, "retrieval") >= NAMED_RIGHT
    assert "retrieval" not in world.told("random", lucky)
    assert world.verdict["blame"]["fault"] == "retrieval"
    assert "<b>Next.</b> Better retrieval" in world.page


@pytest.mark.parametrize(
    ("reader", "wanted", "fault"),
    [(chatty, "form", "form"), (blind, "behaviour", "reading"), (hasty, "context", "company")],
)
def test_what_the_reader_breaks_is_named(
    reader: Reader, wanted: Leaf, fault: Fault, stub: Stub, index: Path, tmp_path: Path
) -> None:
    stub.say = speaking(reader)
    world = run(tmp_path, stub, index)

    assert world.share("lexical", {one.id for one in world.results.examples}, wanted) >= NAMED_RIGHT
    assert world.verdict["blame"]["fault"] == fault
    assert f"<b>Next.</b> {REMEDIES[fault]}" in world.page


def test_what_is_known_by_heart_is_not_retrievals_merit(stub: Stub, index: Path, tmp_path: Path) -> None:
    stub.say = speaking(learned, slips=0.0)
    world = run(tmp_path, stub, index, "random")

    assert Counter(world.leaves[Combination("base", "random", "direct")].values())["by heart"] >= NAMED_RIGHT * N
    assert world.verdict["blame"] is None
    assert "<b>Next.</b> Nothing is left to win" in world.page


def test_who_says_unknown_with_the_answer_before_his_eyes_is_overcautious(
    stub: Stub, index: Path, tmp_path: Path
) -> None:
    stub.say = speaking(timid)
    rows = [example(i) for i in range(N)] + [nowhere(i) for i in range(20)]
    world = run(tmp_path, stub, index, rows=rows)

    assert world.share("lexical", {f"ship{i:03d}" for i in range(N)}, "overcautious") >= NAMED_RIGHT
    assert world.share("lexical", {f"wreck{i:03d}" for i in range(20)}, "abstained") >= NAMED_RIGHT
    assert world.verdict["blame"]["fault"] == "reading"


def test_unanswerable_questions_have_leaves_of_their_own(stub: Stub, index: Path, tmp_path: Path) -> None:
    stub.say = speaking(bold)
    rows = [example(i) for i in range(N)] + [nowhere(i) for i in range(20)]
    world = run(tmp_path, stub, index, rows=rows)
    wrecks = {f"wreck{i:03d}" for i in range(20)}

    assert world.share("lexical", wrecks, "answered anyway") >= NAMED_RIGHT
    assert world.share("gold-lexical", wrecks, "answered anyway") >= NAMED_RIGHT
    assert world.share("none", wrecks, "abstained") == world.share("gold", wrecks, "abstained") == 1
    assert world.share("lexical", {f"ship{i:03d}" for i in range(N)}, "answered anyway") == 0
    assert world.verdict["blame"]["fault"] == "reading"


def test_wrong_labels_are_suspects_and_nothing_else_is(stub: Stub, index: Path, tmp_path: Path) -> None:
    wrong = set(range(0, N, 8))
    rows = [example(i) | ({"answers": [cargo(i + 1)]} if i in wrong else {}) for i in range(N)]
    world = run(tmp_path, stub, index, rows=rows)

    for retriever in ("none", "lexical", "gold", "gold-lexical"):
        assert world.share(retriever, {f"ship{i:03d}" for i in wrong}, "suspect") >= NAMED_RIGHT
        assert world.share(retriever, {f"ship{i:03d}" for i in range(N) if i not in wrong}, "suspect") == 0
    assert world.verdict["blame"]["fault"] == "test set"
    assert "<b>Next.</b> The test set" in world.page


def test_an_outage_in_the_middle_blames_no_question(stub: Stub, index: Path, tmp_path: Path, impatient: None) -> None:
    affected = {f"ship{i:03d}" for i in range(40, 60)}
    stub.broken = lambda prompt: any(f"cargo of {name}?" in prompt for name in affected)
    world = run(tmp_path, stub, index)

    for cell, leaves in world.leaves.items():
        assert {item for item, one in leaves.items() if one == "no answer"} == affected, cell
    assert world.verdict["decision"] == "incomplete"
    assert world.verdict["blame"]["fault"] == "run"
    assert "<b>Next.</b> Run the same command again" in world.page


def test_a_dead_adapter_fails_its_cells_and_not_its_items(stub: Stub, index: Path, tmp_path: Path) -> None:
    stub.probed = lambda model: 0.0
    grid = write_world(tmp_path / "world", stub.url, index, "lexical", [example(i) for i in range(N)])
    grid.write_text(yaml.safe_dump(yaml.safe_load(grid.read_text()) | {"adapters": ["base", "tuned"]}))

    assert main(["run", str(grid), "--out", str(tmp_path / "out")]) == 1

    world = World(tmp_path / "out")
    told = {cell.adapter: Counter[Leaf]() for cell in world.leaves}
    for cell, leaves in world.leaves.items():
        told[cell.adapter].update(leaves.values())
    assert set(told["tuned"]) == {"no answer"}
    assert not {"no answer", "suspect"} & set(told["base"])
    assert world.verdict["blame"]["fault"] == "run"
    assert world.verdict["blame"]["combination"].startswith("tuned:")
    assert "tuned has no effect" in world.page


def test_the_file_has_every_question_of_every_combination_once(stub: Stub, index: Path, tmp_path: Path) -> None:
    world = run(tmp_path, stub, index)

    counted = Counter[str]()
    for row in world.rows:
        counted[row["combination"]] += int(row["n"])
        assert float(row["ci_low"]) <= float(row["share"]) <= float(row["ci_high"])
        assert row["fault"] == (WRONG[row["leaf"]][0] if row["leaf"] in WRONG else "")
    assert counted == {str(cell): N for cell in world.results.records}


def test_the_evidence_in_company_is_an_oracle_that_nobody_can_choose(stub: Stub, index: Path, tmp_path: Path) -> None:
    stub.say = speaking(hasty)
    world = run(tmp_path, stub, index)
    analysis = analyse(world.results)
    crowd = world.results.records[Combination("base", "gold-lexical", "direct")]

    assert all(len(one.sources) == 3 for one in crowd.values())
    assert all(fact(i) in crowd[f"ship{i:03d}"].prompt[-1].content for i in range(N))
    assert {row.retriever for row in ranked(analysis.rows)} == {"none", "lexical"}
    assert world.verdict["best"] == "base:lexical:direct"
    assert "Other passages beside it (gold-lexical) change the score by −" in world.verdict["sentence"]


def test_another_mark_makes_both_oracles_out_of_date_and_nothing_else(stub: Stub, index: Path, tmp_path: Path) -> None:
    run(tmp_path, stub, index)
    rows = [example(i) | ({"evidence": [f"d{i + 1}"]} if i < 5 else {}) for i in range(N)]
    write_rows(tmp_path / "world" / "test.jsonl", rows)

    main(["run", str(tmp_path / "world" / "grid.yaml"), "--out", str(tmp_path / "out")])

    stale = Counter(one.combination.retriever for one in read_records(tmp_path / "out" / "records.stale.jsonl"))
    assert stale == {"gold": 5, "gold-lexical": 5}


def test_names_that_only_a_test_set_can_make_are_not_given_away(index: Path, tmp_path: Path) -> None:
    grid = write_world(tmp_path / "world", "http://127.0.0.1:9/v1", index, "lexical", [example(0)])
    settings, stack = yaml.safe_load(grid.read_text()), yaml.safe_load((grid.parent / "stack.yaml").read_text())
    stack["retrievers"]["gold-lexical"] = stack["retrievers"]["lexical"]
    grid.write_text(yaml.safe_dump(settings | {"baseline": "base:gold-lexical:direct"}))
    (grid.parent / "stack.yaml").write_text(yaml.safe_dump(stack))

    with pytest.raises(FileError) as refused:
        load_grid(grid)

    assert "'base:gold-lexical:direct' is the oracle arm, which nobody can deploy" in str(refused.value)
    assert "`gold-lexical` always means the evidence among what `lexical` finds" in str(refused.value)


def test_the_two_axes_are_what_was_shown_and_what_was_made_of_it(stub: Stub, index: Path, tmp_path: Path) -> None:
    stub.say = speaking(blind)
    closed, place = sorted(analyse(run(tmp_path, stub, index).results).places, key=lambda one: one.context.value)

    assert (place.row.retriever, place.context.value, place.behaviour.value) == ("lexical", 1.0, 0.0)
    assert (closed.row.retriever, closed.context.value, closed.behaviour.value) == ("none", 0.0, 0.0)


SEEN = Seen(
    answered=True,
    read=True,
    right=False,
    but_for_form=False,
    readable=True,
    unanswerable=False,
    abstained=False,
    evidence=True,
    closed_book=False,
    oracle=True,
    suspect=False,
)


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (replace(SEEN, answered=False, right=True), "no answer"),
        (replace(SEEN, right=True), "from evidence"),
        (replace(SEEN, right=True, evidence=False, closed_book=True), "by heart"),
        (replace(SEEN, right=True, evidence=False), "unsupported"),
        (replace(SEEN, right=True, evidence=False, closed_book=None), "unexplained"),
        (replace(SEEN, right=True, evidence=None), "unexplained"),
        (replace(SEEN, right=True, evidence=None, unanswerable=True), "abstained"),
        (replace(SEEN, read=False, right=True), "from evidence"),
        (replace(SEEN, read=False, readable=False, unanswerable=True), "too long"),
        (replace(SEEN, but_for_form=True), "form"),
        (replace(SEEN, readable=False), "unreadable"),
        (replace(SEEN, unanswerable=True), "answered anyway"),
        (replace(SEEN, evidence=False), "retrieval"),
        (replace(SEEN, evidence=False, abstained=True), "retrieval"),
        (replace(SEEN, abstained=True), "overcautious"),
        (SEEN, "context"),
        (replace(SEEN, oracle=False), "behaviour"),
        (replace(SEEN, oracle=False, evidence=False), "behaviour"),
        (replace(SEEN, oracle=False, suspect=True), "suspect"),
        (replace(SEEN, evidence=None), "undecided"),
        (replace(SEEN, oracle=None), "undecided"),
        (replace(SEEN, oracle=None, evidence=False), "undecided"),
        (replace(SEEN, oracle=False, evidence=None), "behaviour"),
    ],
)
def test_the_first_match_wins(seen: Seen, wanted: Leaf) -> None:
    assert leaf(seen) == wanted


def test_every_leaf_is_right_or_has_a_fault() -> None:
    assert set(MEANING) == set(RIGHT) | set(WRONG)
    assert {fault for fault, _ in WRONG.values()} == set(FAULTS)


def test_an_arm_that_was_not_run_is_not_guessed() -> None:
    grid = grid_of(["base"], ["dense"], ["direct"], "base:dense:direct")
    results = simulate(grid, lambda cell, part: 0.5, 60, 0)

    assert set(blame(look(results))[results.baseline].values()) == {"undecided", "unexplained"}
    assert [sentence.rpartition(": ")[2] for sentence in untold(results)] == [
        "add `gold` to the grid's retrievers",
        "add `none` to the grid's retrievers",
        "add `gold-dense` to the grid's retrievers",
        "the test set has no question marked `unanswerable`",
    ]


def test_where_no_way_of_asking_is_able_no_question_is_suspect() -> None:
    grid = grid_of(["base"], ["none", "gold"], ["direct"], "base:none:direct")
    results = simulate(grid, lambda cell, part: 0.0, 60, 0)

    assert set(blame(look(results))[results.baseline].values()) == {"behaviour"}


def test_what_a_stopped_combination_got_right_is_not_suspect() -> None:
    grid = grid_of(["base"], ["none", "dense", "gold"], ["direct"], "base:none:direct")
    results = simulate(grid, lambda cell, part: {"none": 0.0, "dense": 1.0, "gold": 0.7}[cell.retriever], 100, 0)
    cell = Combination.parse("base:dense:direct")
    others = {one: found for one, found in results.records.items() if one != cell}

    stopped = blame(look(replace(results, records=others, stopped={cell: results.records[cell]})))
    without = blame(look(replace(results, records=others)))

    assert "suspect" in set(without[results.baseline].values())
    assert "suspect" not in set(stopped[results.baseline].values())
