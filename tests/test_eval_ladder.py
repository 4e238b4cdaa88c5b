"""Ladders: what is wrong with one is told at once, each step is compared as it says, and is named for what it did."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from eval.__main__ import main
from eval.folder import Results
from eval.ladder import Ladder, LadderSettings, Step, compared_with, load_ladder, misfits
from eval.ladder_page import render_ladder
from eval.ladder_steps import Climb, changed, climb, lead, next_step, sentence, to_json
from eval.summary import clusters, scores, summarise
from retrieval.files import FileError, plain, read_yaml
from retrieval.stats import holm, paired
from scripts.pocket.files import write_world
from serve.combination import Combination
from serve.stack import Stack
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import Stub, planted, serving
from tests.eval_stub import write_world as write_stub_world

CHANCES = {"start": 0.3, "better": 0.6, "worse": 0.2, "same": 0.6, "best": 0.85}
STEPS = (
    Step(name="where it begins", combination="base:start:direct", published=0.45),
    Step(name="a gain", combination="base:better:direct"),
    Step(name="a loss", combination="base:worse:direct", rejected=True, published=0.65),
    Step(name="a wash", combination="base:same:direct"),
    Step(name="a tool", needs="workstation", published=0.98),
    Step(name="the last", combination="base:best:direct", rejected=True),
)


def settings_of(*steps: Step) -> LadderSettings:
    return LadderSettings(name="a journey", stack=Path("stack.yaml"), task=Path("task.yaml"), steps=steps)


def climbed(*steps: Step, n: int = 300, results: Results | None = None) -> Climb:
    """The steps, each answered rightly with the chance that is planted for its retriever."""
    grid = grid_of(["base"], list(CHANCES), ["direct"], "base:start:direct")
    found = results or simulate(grid, lambda cell, part: CHANCES[cell.retriever], n, 0)
    return climb(Ladder(settings=settings_of(*steps), grid=None), found)  # type: ignore[arg-type]


def without_answers(results: Results, name: str, count: int) -> Results:
    cell = Combination.parse(name)
    kept = dict(list(results.records[cell].items())[count:])
    return replace(results, records={**results.records, cell: kept})


def write_ladder(folder: Path, *steps: dict[str, object]) -> Path:
    path = folder / "ladder.yaml"
    head = {"name": "a journey", "stack": "stack.yaml", "task": "task.yaml"}
    path.write_text(yaml.safe_dump({**head, "steps": list(steps)}, sort_keys=False))
    return path


def test_a_step_that_helps_one_that_hurts_and_one_that_does_nothing_are_each_named_rightly() -> None:
    rungs = climbed(*STEPS).rungs
    said = [sentence(rung, "the talk") for rung in rungs]

    assert [rung.outcome for rung in rungs] == ["start", "helps", "hurts", "no gain", "not run", "helps"]
    assert [rung.keep for rung in rungs] == [True, True, False, False, None, True]
    assert said[0].startswith("where it begins is where it begins: ")
    assert re.match(r"a gain helps: \+\d+\.\d points against “where it begins” \(95% interval \+", said[1])
    assert said[1].endswith("We would keep it, as the talk did.")
    assert re.match(r"a loss hurts here: −\d+\.\d points against “a gain”", said[2])
    assert said[2].endswith("We would leave it out, as the talk did.")
    assert said[3].startswith("a wash brings nothing that 300 questions can show: ")
    assert said[3].endswith("We would leave it out, though the talk kept it.")
    assert said[4] == "a tool is not run here: it needs workstation."
    assert said[5].endswith("We would keep it, though the talk rejected it.")


def test_where_not_one_score_differs_it_says_so_and_not_that_too_few_questions_were_asked() -> None:
    found = climbed(*STEPS).results
    same, better = (Combination.parse(f"base:{name}:direct") for name in ("same", "better"))
    copied = {item: replace(one, combination=same) for item, one in found.records[better].items()}
    rungs = climbed(*STEPS, results=replace(found, records={**found.records, same: copied})).rungs

    assert sentence(rungs[3], "the talk").startswith(
        "a wash changes no score: each of 300 questions scores as with “a gain”."
    )


def test_the_storys_journey_ends_with_what_it_kept_and_advice_is_for_steps_that_others_stand_on() -> None:
    made, apart = climbed(*STEPS), climbed(*STEPS[:2], replace(STEPS[3], against="where it begins", rejected=False))
    idle = climbed(*STEPS[:2], STEPS[3], replace(STEPS[4], needs="a tool"))

    assert lead(made).endswith("In the talk: from 45.0% to 98.0%.")
    assert "In the talk" not in lead(climbed(*STEPS[:3]))  # its only other bar is that of a step that it rejected
    assert next_step(made).startswith("“a wash” stands under the steps after it, and here it brought nothing")
    assert next_step(idle).startswith("not run here: a tool")
    assert next_step(apart).startswith("nothing that does not help")


def test_a_step_is_compared_with_the_last_kept_one_that_runs_or_with_the_one_it_names() -> None:
    last = replace(STEPS[-1], name="another", combination="base:other:direct", against="where it begins")

    assert compared_with([*STEPS, last]) == {
        "where it begins": "",
        "a gain": "where it begins",
        "a loss": "a gain",
        "a wash": "a gain",
        "the last": "a wash",
        "another": "where it begins",
    }


def test_the_figures_are_those_of_the_statistics_room_corrected_over_the_steps() -> None:
    made = climbed(*STEPS)
    alike = clusters(made.results)
    tables = {one.step.name: scores(made.results, one.step.cell) for one in made.rungs if one.row}
    pairs = [("a gain", "where it begins"), ("a loss", "a gain"), ("a wash", "a gain"), ("the last", "a wash")]
    expected = [
        paired([*tables[after].values()], [tables[before][item] for item in tables[after]], [*alike.values()])
        for after, before in pairs
    ]

    assert [one.difference for one in made.compared] == expected
    assert [one.p_holm for one in made.compared] == holm([one.p for one in expected])
    rows = {row.combination: row for row in summarise(made.results)}
    assert all(one.row == rows[one.step.combination] for one in made.rungs if one.row)


def test_what_moved_by_kind_adds_up_to_what_was_won_less_what_was_lost() -> None:
    for rung in climbed(*STEPS).compared:
        assert rung.difference is not None
        assert sum(rung.moved.values()) == rung.difference.gained - rung.difference.lost


def test_a_step_that_misses_answers_is_compared_with_nothing_and_nothing_with_it() -> None:
    whole = climbed(*STEPS)
    made = climbed(*STEPS, results=without_answers(whole.results, "base:better:direct", 3))

    assert [rung.outcome for rung in made.rungs] == [
        "start", "incomplete", "incomplete", "incomplete", "not run", "helps",
    ]  # fmt: skip
    assert sentence(made.rungs[1], "the talk") == "a gain cannot be judged: 3 of its answers are missing."
    assert sentence(made.rungs[3], "the talk") == "a wash cannot be judged: 3 of “a gain”’s answers are missing."
    assert "3 missing" in render_ladder(made)


def test_what_a_step_changes_is_read_off_the_settings_and_two_changes_at_once_are_told() -> None:
    stack = {
        "retrievers": {
            "plain": {"kind": "dense", "index": "a", "k": 3},
            "both": {"kind": "dense", "index": "b", "k": 5},
            "words": {"kind": "lexical", "index": "b", "k": 5},
        },
        "strategies": {"direct": {"kind": "direct"}, "told": {"kind": "instructed", "instructions": "Be brief."}},
    }

    def of(after: str, before: str) -> tuple[str, ...]:
        return changed(stack, Combination.parse(after), Combination.parse(before))

    assert of("base:both:direct", "base:plain:direct") == ("retriever: index", "retriever: k")
    assert of("base:words:direct", "base:plain:direct") == ("retriever: kind",)
    assert of("tuned:none:told", "base:plain:direct") == ("adapter", "retriever", "strategy: kind")
    made = climbed(*STEPS)
    several = replace(made.rungs[1], changed=("retriever: index", "retriever: k"))
    assert "It changes 2 things at once (retriever: index and retriever: k)" in sentence(several, "the talk")


def test_the_page_is_one_file_that_asks_for_nothing_and_has_the_figures_of_ladder_json() -> None:
    made = climbed(*STEPS)
    page, told = render_ladder(made), to_json(made)

    assert not re.findall(r'(?:src|href)="(?!data:|report\.html)|url\(|<script', page)
    assert page.count("<svg") == 2
    for step in told["steps"]:
        assert step["name"] in page
        if step["score"] is not None:
            assert f"{100 * step['score']:.1f}%" in page
    assert [step["published"] for step in told["steps"]] == [0.45, None, 0.65, None, 0.98, None]
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_everything_that_is_wrong_with_a_ladder_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    write_stub_world(tmp_path, "http://127.0.0.1:1/v1")
    path = write_ladder(
        tmp_path,
        {"name": "start", "combination": "base:none:direct"},
        {"name": "start", "combination": "base:none:brief"},
        {"name": "again", "combination": "base:none:direct"},
        {"name": "typo", "combination": "base:none:dierct"},
        {"name": "short", "combination": "base:none"},
        {"name": "nothing"},
        {"name": "oracle", "combination": "base:gold:direct"},
        {"name": "back", "combination": "tuned:none:direct", "against": "later"},
        {"name": "later", "combination": "tuned:none:brief"},
    )

    with pytest.raises(FileError) as found:
        load_ladder(path)

    said = str(found.value)
    for what in (
        "'start' names two steps",
        "'again': base:none:direct is another step's too",
        "did you mean 'direct'?",
        "'short': 'base:none' names no combination",
        "or say what the step `needs`",
        "base:gold:direct is an oracle arm",
        "'back' is compared with 'later', no step before it that runs",
    ):
        assert what in said
    assert {int(line) for line in re.findall(r"ladder\.yaml:(\d+):", said)} == {5, 7, 9, 11, 13, 15, 16, 18}


def test_a_key_or_a_figure_that_no_ladder_has_is_refused(tmp_path: Path) -> None:
    write_stub_world(tmp_path, "http://127.0.0.1:1/v1")
    path = write_ladder(tmp_path, {"name": "a", "combination": "base:none:direct", "published": 45, "keep": True})

    with pytest.raises(FileError) as found:
        load_ladder(path)

    assert "published" in str(found.value)
    assert "keep" in str(found.value)


def test_a_ladder_of_nothing_but_waiting_steps_is_refused(tmp_path: Path) -> None:
    write_stub_world(tmp_path, "http://127.0.0.1:1/v1")
    path = write_ladder(tmp_path, {"name": "a", "needs": "workstation"})

    with pytest.raises(FileError, match="there is nothing to run"):
        load_ladder(path)


def test_the_command_climbs_resumes_and_is_planned_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Stub(planted({"adapter": 0.5}))) as stub:
        write_stub_world(tmp_path, stub.url, n=40)
        path = write_ladder(
            tmp_path,
            {"name": "as it comes", "combination": "base:none:direct", "published": 0.45},
            {"name": "brief", "combination": "base:none:brief", "rejected": True},
            {"name": "tuned", "combination": "tuned:none:direct", "published": 0.98},
            {"name": "tools", "needs": "a strategy that is not there yet"},
        )
        out = tmp_path / "run"

        assert main(["plan", str(path), "--out", str(out)]) == 0
        assert "eval ladder" in capsys.readouterr().out
        assert main(["ladder", str(path), "--out", str(out)]) == 0
        asked, first = len(stub.calls), (out / "ladder.json").read_bytes()
        printed = capsys.readouterr().out
        assert main(["ladder", str(path), "--out", str(out)]) == 0

    assert asked == 3 * 40
    assert len(stub.calls) == asked
    assert (out / "ladder.json").read_bytes() == first
    assert f"Page: {out}/ladder.html" in printed
    assert "Next: " in printed
    told = json.loads(first)
    assert [step["outcome"] for step in told["steps"]] == ["start", "no gain", "helps", "not run"]
    assert [step["against"] for step in told["steps"]] == ["", "as it comes", "as it comes", ""]
    assert (out / "report.html").exists()


ROOT = Path(__file__).parents[1]
TALK = (
    ("cosine search", False, 0.45),
    ("HyDE", True, None),
    ("fine-tuned embeddings", True, None),
    ("chunks and what is embedded", False, 0.65),
    ("re-ranking by a cross-encoder", False, None),
    ("re-ranking by a rule, the latest first", False, None),
    ("classification", False, None),
    ("what is known of the domain", False, 0.85),
    ("prompt engineering", False, None),
    ("tool use", False, None),
    ("query expansion", False, 0.98),
    ("each part answered by itself", False, None),
)


@pytest.mark.parametrize("path", sorted((ROOT / "eval/ladders").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_ladder_of_ours_is_one_and_each_of_its_steps_is_compared_with_an_earlier_one(path: Path) -> None:
    steps = read_yaml(path, LadderSettings).steps

    assert list(misfits(steps, None)) == []
    assert list(compared_with(steps).values()).count("") == 1


@pytest.mark.parametrize("name", ["devday-rag", "icelandic-like"])
def test_a_workstation_form_has_a_stack_in_which_every_step_that_runs_is_named(name: str) -> None:
    folder = ROOT / "eval/ladders"
    settings = read_yaml(folder / f"{name}.yaml", LadderSettings)

    assert list(misfits(settings.steps, Stack.load(folder / settings.stack))) == []


@pytest.mark.parametrize("seed", [0, 7])
def test_a_world_brings_ladders_for_any_seed_and_one_change_at_a_time(seed: int, tmp_path: Path) -> None:
    write_world(seed, world := tmp_path / f"demo-{seed}" / "world")
    rag, icelandic = load_ladder(world / "ladder.yaml"), load_ladder(world / "icelandic.yaml")

    assert [(step.name, step.rejected, step.published) for step in rag.steps] == list(TALK)
    assert [step.published for step in icelandic.steps] == [0.62, 0.70, 0.87, 0.83]
    for ladder in (rag, icelandic):
        steps = {step.name: step for step in ladder.steps}
        for name, before in compared_with(ladder.steps).items():
            if before:
                stack = plain(asdict(ladder.grid.stack))
                assert len(changed(stack, steps[name].cell, steps[before].cell)) == 1, name


def test_both_forms_of_the_retrieval_story_tell_it_alike() -> None:
    steps = read_yaml(ROOT / "eval/ladders/devday-rag.yaml", LadderSettings).steps

    assert [(step.name, step.rejected, step.published) for step in steps] == list(TALK)
