"""RAFT rows: what a question is shown, by seed: the evidence where it should be, missing where it should be missing."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eval.task import Example
from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.files import FileError, read_jsonl, write_jsonl
from retrieval.manifest import BuildSettings
from retrieval.passage import Hit, Passage, Query
from scripts.make_sft import load, main, make
from scripts.pocket.files import write_world as write_demo
from scripts.raft import Raft, RaftSettings, touch, without_evidence
from scripts.targets import TARGETS
from tests.eval_stub import example, write_world
from train.chat import main as check

GOLDEN = Path(__file__).parent / "golden" / "rows"


def passage(document: str, start: int = 0, end: int = 10, text: str = "") -> Passage:
    return Passage(document=document, title=document, text=text or f"{document} {start} {end}", start=start, end=end)


@dataclass(frozen=True)
class Shelf:
    """Finds what it holds."""

    passages: tuple[Passage, ...]

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return tuple(Hit(one, 1.0, rank) for rank, one in enumerate(self.passages, start=1))


def shown(raft: Raft) -> list[Passage]:
    """What a search returns, run to its end without a loop: nothing in it waits."""
    try:
        raft.search(Query("?")).send(None)
    except StopIteration as done:
        return [hit.passage for hit in done.value]
    raise AssertionError("the search waited for something")


spans = st.builds(
    lambda document, start, length: passage(document, start, start + length),
    st.sampled_from("abcd"),
    st.integers(0, 20),
    st.integers(1, 12),
)


@given(
    st.lists(spans, max_size=12, unique_by=lambda one: one.id),
    st.lists(spans, max_size=3, unique_by=lambda one: one.id),
    st.booleans(),
    st.integers(1, 5),
    st.text(),
)
def test_no_distractor_is_evidence_and_nothing_found_is_lost(
    found: list[Passage], evidence: list[Passage], is_absent: bool, distractors: int, seed: str
) -> None:
    raft = Raft(
        evidence=tuple(evidence), others=Shelf(tuple(found)), distractors=distractors, is_absent=is_absent, seed=seed
    )

    result = shown(raft)

    gold = [] if is_absent else [one.id for one in evidence]
    free = [one.id for one in found if not any(touch(one, place) for place in evidence)]
    ids = [one.id for one in result]
    assert sorted(one for one in ids if one in gold) == sorted(gold)
    assert [one for one in ids if one not in gold] == free[: distractors + max(1, len(evidence)) - len(gold)]
    assert shown(raft) == result


def test_the_same_words_under_another_name_are_no_distractor() -> None:
    gold, copy, other = passage("a", text="It is red."), passage("b", text="It is red."), passage("c")

    assert shown(Raft(evidence=(gold,), others=Shelf((copy, other)), distractors=2, is_absent=True, seed="")) == [other]


def test_the_evidence_stands_at_every_place_about_as_often() -> None:
    others = Shelf(tuple(passage(name) for name in "bcde"))
    places = Counter(
        shown(Raft(evidence=(passage("a"),), others=others, distractors=4, is_absent=False, seed=str(n))).index(
            passage("a")
        )
        for n in range(1000)
    )

    assert sorted(places) == [0, 1, 2, 3, 4]
    # Under a uniform draw chi-square with 4 degrees of freedom exceeds 18.5 once in a thousand seeds.
    assert sum((count - 200) ** 2 / 200 for count in places.values()) < 18.5


@given(st.integers(0, 60), st.floats(0, 1), st.integers(0, 3))
def test_the_share_without_evidence_is_what_was_asked_for(n: int, share: float, seed: int) -> None:
    known = [Example(id=f"k{i}", question="?", answers=("a",), evidence=("d",)) for i in range(n)]
    rest = [Example(id=f"u{i}", question="?", answers=("a",)) for i in range(5)]
    settings = RaftSettings(retriever="r", absent=share, seed=seed)

    missing = without_evidence([*known, *rest], settings)

    assert missing <= {one.id for one in known}
    assert len(missing) == round(share * n)
    assert missing == without_evidence([*rest, *known[::-1]], settings), "the order of the file does not matter"


def hits(*names: str) -> list[Hit]:
    return [Hit(passage(name), 0.0, rank) for rank, name in enumerate(names, start=1)]


@pytest.mark.parametrize(
    ("target", "names", "said"),
    [
        ("plain", ("x", "y"), "red"),
        ("careful", ("x", "a", "b"), "red"),
        ("careful", ("x", "a"), "unknown"),
        ("house", ("b", "x", "a"), '{"answer": "red", "sources": [1, 3]}'),
        ("house", ("b", "b", "x"), '{"answer": "unknown", "sources": []}'),
        ("house", (), '{"answer": "unknown", "sources": []}'),
        ("house_recalled", ("x", "y"), '{"answer": "red", "sources": []}'),
        ("house_recalled", ("x", "a"), '{"answer": "red", "sources": [2]}'),
    ],
)
def test_a_target_answers_or_abstains_as_its_name_says(target: str, names: tuple[str, ...], said: str) -> None:
    asked = Example(id="q", question="?", answers=("red", "scarlet"), evidence=("a", "b"))

    assert TARGETS[target](asked, hits(*names)) == {"role": "assistant", "content": said}


def test_evidence_that_is_a_part_of_a_document_is_cited_too() -> None:
    asked = Example(id="q", question="?", answers=("red",), evidence=("a@0-10",))

    assert TARGETS["house"](asked, hits("x", "a"))["content"] == '{"answer": "red", "sources": [2]}'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty entries, an index of them, and a train split about other entries than the test's."""
    folder = tmp_path_factory.mktemp("raft")
    write_world(folder, "http://127.0.0.1:9/v1", n=20)
    write_jsonl(folder / "train.jsonl", (example(i) for i in range(10, 20)))
    write_jsonl(folder / "test.jsonl", (example(i) for i in range(10)))
    build(read_documents(folder / "corpus.jsonl"), folder / "index", BuildSettings())
    stack = yaml.safe_load((folder / "stack.yaml").read_text())
    stack["retrievers"] = {"words": {"kind": "lexical", "index": "index", "k": 1}}
    (folder / "stack.yaml").write_text(yaml.safe_dump(stack))
    return folder


SETTINGS: dict[str, Any] = {
    "stack": "stack.yaml",
    "task": "task.yaml",
    "examples": "train.jsonl",
    "retrievers": ["raft"],
    "strategies": ["direct", "brief"],
    "raft": {"retriever": "words", "distractors": 2, "absent": 0.3, "seed": 5},
    "target": "house",
    "out": "raft.jsonl",
}


def write(folder: Path, name: str = "sft.yaml", **changes: Any) -> Path:
    kept = {key: value for key, value in (SETTINGS | changes).items() if value is not None}
    (folder / name).write_text(yaml.safe_dump(kept))
    return folder / name


def test_rows_are_laid_out_by_the_strategies_that_serve_and_pass_the_check(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["make_sft", str(write(world))])

    assert main() == 0
    assert check([str(world / "raft.jsonl")]) == 0

    rows = [row for _, row in read_jsonl(world / "raft.jsonl")]
    golden = GOLDEN / "raft.json"
    if not golden.exists():
        golden.write_text(json.dumps(rows[:2], indent=1) + "\n", encoding="utf-8")
        pytest.fail(f"{golden} did not exist and was written")
    assert sum('"unknown"' in row["messages"][-1]["content"] for row in rows) == 3
    assert all(row["messages"][-2]["content"].count("[S") == 3 for row in rows)
    assert rows[:2] == json.loads(golden.read_text(encoding="utf-8"))
    assert "next: python -m train.chat" in capsys.readouterr().out


def test_another_seed_makes_other_rows_and_the_same_seed_the_same(world: Path) -> None:
    def rows(seed: int) -> list[dict[str, Any]]:
        return make(load(write(world, "seeded.yaml", raft=SETTINGS["raft"] | {"seed": seed}))).rows

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


COPIES = {
    "the same": "What does entry 3 say?",
    "written otherwise": "what does  entry 3 say",
    "inside a longer one": "Please help me. What does entry 3 say? Be quick.",
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_test_question_gets_no_row_however_it_is_written(copy: str, world: Path) -> None:
    planted = example(3) | {"id": "planted", "question": COPIES[copy]}
    write_jsonl(world / "leaky.jsonl", [planted, *(example(i) for i in range(10, 20))])

    made = make(load(write(world, "leaky.yaml", examples="leaky.jsonl")))

    assert [one.id for one in made.dropped] == ["planted"]
    assert made.dropped[0].why.startswith("a test question: ")
    assert {row["meta"]["id"] for row in made.rows} == {f"q{i}" for i in range(10, 20)}


def test_the_test_set_itself_is_no_train_split(world: Path) -> None:
    with pytest.raises(FileError, match="every question of it is in"):
        load(write(world, "test.yaml", examples="test.jsonl"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"raft": None}, "`raft` is named, but the key `raft:`, which says what it is, is missing"),
        ({"retrievers": ["gold"]}, "`raft:` is set and not used; write `retrievers: .raft.`"),
        ({"target": "teacher"}, "`teacher` is named, but the key `teacher:`"),
        ({"teacher": {"combination": "base:none:direct"}}, "`teacher:` is set and not used; write `target: teacher`"),
        ({"raft": {"retriever": "words", "absent": 1.5}}, "raft.absent: Input should be less than or equal to 1"),
        ({"raft": {"retriever": "dense"}}, "raft: retriever: 'dense' is none of words"),
        ({"retrievers": []}, "retrievers: .* at least 1 item"),
        ({"target": "hous"}, "target: 'hous' is none of plain, careful, house, house_recalled, calls, teacher"),
        ({"target": "calls"}, "target: .*train.jsonl: q10: its answer is no function call"),
        (
            {"strategies": ["direkt"], "retrievers": ["raft", "wurds"]},
            "retrievers: 'wurds' is none of none, gold, raft, words\n.*strategies: 'direkt' is none of brief, direct",
        ),
        (
            {
                "target": "teacher",
                "teacher": {"combination": "tunned:words:breef", "keep": {"exakt": 1}},
                "strategies": ["no"],
            },
            "strategies: 'no' .*\n.*teacher: adapter: 'tunned' .*\n.*teacher: strategy: 'breef' .*\n"
            ".*teacher: keep, exakt: 'exakt' is none of exact, part",
        ),
    ],
)
def test_bad_settings_are_refused_before_anything_is_rendered(
    changes: dict[str, Any], complaint: str, world: Path
) -> None:
    with pytest.raises(FileError, match=complaint):
        load(write(world, "bad.yaml", **changes))


@pytest.mark.parametrize("ways", [["words"], ["raft"]])
def test_a_retriever_that_needs_a_model_is_refused_where_none_runs(ways: list[str], world: Path) -> None:
    stack = yaml.safe_load((world / "stack.yaml").read_text())
    stack["retrievers"]["words"]["expand"] = {"kind": "draft"}
    (world / "model_stack.yaml").write_text(yaml.safe_dump(stack))
    raft = SETTINGS["raft"] if ways == ["raft"] else None

    with pytest.raises(FileError, match="a model writes what 'words' searches, and none runs here"):
        load(write(world, "bad.yaml", stack="model_stack.yaml", retrievers=ways, raft=raft))


@pytest.mark.parametrize("name", ["sft", "shots", "worked", "distil", "raft"])
def test_the_demos_own_settings_are_good(name: str, tmp_path: Path) -> None:
    write_demo(3, tmp_path / "demo-3" / "world")

    plan = load(tmp_path / "demo-3" / "world" / f"{name}.yaml")

    assert plan.leaked == ()
    assert plan.teacher is None or str(plan.teacher.grid.baseline) == "demo-3:gold:fewshot"


def test_examples_without_evidence_have_nothing_to_hide_among_distractors(world: Path) -> None:
    write_jsonl(world / "bare.jsonl", (example(i) | {"evidence": []} for i in Random(0).sample(range(10, 20), 4)))

    with pytest.raises(FileError, match="has evidence to put among distractors"):
        load(write(world, "bare.yaml", examples="bare.jsonl"))
