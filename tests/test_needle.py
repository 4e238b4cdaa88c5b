"""The needle sweep: the evidence stands where the grid says, every cell has the same questions, and a planted middle
in which things get lost is found."""

import asyncio
from pathlib import Path

import pytest
import yaml

from eval.gold import CrowdedRetriever
from eval.grid import load_grid
from eval.record import RunError
from retrieval.passage import Document, Hit, Query
from retrieval.steps import arrange
from scripts.needle import main, render, said, show, write
from scripts.needle_map import effects, maps
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import write_world

GRID = grid_of(
    ["tuned"],
    ["none", "gold", *(f"gold-{length}-at-{depth}" for length in (2, 8) for depth in (0, 50, 100))],
    ["direct"],
    "tuned:none:direct",
)


def passage(name: str, at: int = 0) -> Hit:
    return Hit(Document(id=name, title="", text=name).cut(0, len(name)), 1.0, at)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(0.0, "G1234567"), (0.25, "31G24567"), (0.5, "531G2467"), (0.75, "75321G46"), (1.0, "7654321G")],
)
def test_the_evidence_stands_at_the_depth_that_is_asked_for(depth: float, expected: str) -> None:
    found = tuple(passage(str(n), n) for n in range(1, 9))

    async def find(query: Query) -> tuple[Hit, ...]:
        return arrange(found, depth)

    gold = CrowdedRetriever((passage("G").passage,), find)
    order = "".join(hit.passage.document for hit in asyncio.run(gold.search(Query("?"))))

    assert order.index("G") == expected.index("G")
    assert sorted(order) == sorted(expected)


@pytest.mark.parametrize(("depth", "expected"), [(0.0, [0, 1]), (0.5, [3, 4]), (1.0, [6, 7])])
def test_two_pieces_of_evidence_stand_side_by_side(depth: float, expected: list[int]) -> None:
    found = tuple(passage(str(n), n) for n in range(1, 9))

    async def find(query: Query) -> tuple[Hit, ...]:
        return arrange(found, depth)

    gold = CrowdedRetriever((passage("G").passage, passage("H").passage), find)
    order = [hit.passage.document for hit in asyncio.run(gold.search(Query("?")))]

    assert sorted((order.index("G"), order.index("H"))) == expected


def test_it_writes_a_grid_that_can_be_read_and_tries_every_depth_and_length(tmp_path: Path) -> None:
    grid = write_world(tmp_path, "http://127.0.0.1:9/v1")
    stack = yaml.safe_load((tmp_path / "stack.yaml").read_text())
    stack["retrievers"] = {"near": {"kind": "lexical", "index": "index", "k": 3}}
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(stack))

    made = load_grid(write(grid, "near", "random", [2, 16], [0, 50]))

    assert made.settings.retrievers[2:] == ("gold-2-at-0", "gold-2-at-50", "gold-16-at-0", "gold-16-at-50")
    deep = made.stack.retrievers["16-at-50"]
    assert (deep.kind, deep.k, deep.order) == ("random", 16, 0.5)
    assert deep.index == made.stack.retrievers["near"].index
    assert str(made.baseline) == "base:none:direct"


def test_an_unknown_company_and_a_run_without_needles_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = write_world(tmp_path, "http://127.0.0.1:9/v1")

    assert main(["write", str(grid), "--company", "near"]) == 1
    assert "no retriever 'near'" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"scripts\.needle write"):
        maps(simulate(grid_of(["base"], ["none"], ["direct"], "base:none:direct"), lambda cell, part: 0.5, 5, 0))


def test_what_is_lost_in_the_middle_of_a_long_prompt_is_found() -> None:
    lost = {"gold-8-at-50": 0.4}
    results = simulate(GRID, lambda cell, part: lost.get(cell.retriever, 0.8), 150, 0)

    found = maps(results)[0]

    clear = {one.name: one.is_clear for one in found.effects}
    assert clear == {"2 passages against 8": True, "First against last": False, "Ends against the middle": True}
    assert found.cells[8, 50].score.value < found.cells[8, 0].score.value - 0.2
    assert found.alone is not None


def test_a_model_that_does_not_mind_shows_nothing() -> None:
    found = maps(simulate(GRID, lambda cell, part: 0.8, 150, 1))[0]

    assert not any(one.is_clear for one in found.effects)


def test_effects_are_averages_of_the_same_questions() -> None:
    right = {"a": 1.0, "b": 1.0}
    tables = {(2, 0): right, (2, 100): right, (4, 0): right, (4, 100): {"a": 0.0, "b": 1.0}}

    shorter, first = effects(tables, {"a": "a", "b": "b"})

    assert shorter.difference.estimate.value == pytest.approx(0.25)
    assert first.difference.estimate.value == pytest.approx(0.25)
    assert "not clear" in said(first)


def test_the_page_names_no_host_and_has_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    found = maps(simulate(GRID, lambda cell, part: 0.8, 60, 0))
    page = render(found, "harbour")
    show(found, Console(width=120))

    assert "http:" not in page
    assert "https:" not in page
    assert page.count("<td") == len(found[0].cells) + 1
    assert "at 100%" in capsys.readouterr().out
