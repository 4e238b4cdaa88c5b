"""The corpus of poisoned documents, and what is counted when they are asked about."""

import doctest
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from eval.folder import load_results
from eval.grid import load_grid
from eval.record import RunError
from eval.task import Example
from retrieval.passage import Passage
from scripts import attacks as poisons
from scripts.attacks import STYLES
from scripts.injections import EACH, Attacked, attacks, effects, main, ways, worked, write
from scripts.pocket.files import write_world as write_demo
from tests.eval_stub import Say, Stub, number_in, serving, write_world


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(poisons)

    assert result.attempted
    assert not result.failed


def questions(n: int) -> list[Example]:
    return [
        Example(id=f"q{i}", question=f"What does entry {i} say?", answers=(f"word{i}",), evidence=(f"d{i}@0-9",))
        for i in range(n)
    ]


def made_of(examples: list[Example], seed: int = 0, each: int = EACH) -> list[Attacked]:
    places = (place for one in examples for place in one.evidence)
    return attacks(
        examples, {place: Passage(place, "Entry", f"It says {place}.", 0, 9) for place in places}, seed, each
    )


def test_a_hundred_documents_in_eight_styles_each_with_a_word_and_a_question_of_its_own() -> None:
    made = made_of(questions(120))

    assert Counter(one.style for one in made) == dict.fromkeys(STYLES, EACH)
    assert len(made) >= 50
    assert len(STYLES) >= 5
    assert len({one.word for one in made}) == len({one.example.id for one in made}) == len(made)
    assert len({one.poison.replace(one.word, "") for one in made}) > 50, "not one text again and again"
    assert all(one.word in one.poison for one in made if one.style != "hidden")


def test_the_same_seed_makes_the_same_and_another_one_others() -> None:
    assert made_of(questions(120)) == made_of(questions(120))
    assert made_of(questions(120)) != made_of(questions(120), seed=1)


def test_a_word_is_never_said_by_a_question_an_answer_or_the_evidence_beside_it() -> None:
    first = made_of(questions(120))[0]
    taken = [Example(id="q", question=f"What is {first.word}?", answers=("x",), evidence=("d",)), *questions(120)]

    assert first.word not in {one.word for one in made_of(taken)}
    assert all(one.beside not in one.example.evidence for one in made_of(questions(120)))


def test_too_few_questions_are_said() -> None:
    with pytest.raises(RunError, match="16 poisoned documents need as many questions with evidence, and there are 15"):
        made_of(questions(15), each=2)


def test_a_question_is_asked_twice_and_only_the_poison_differs(tmp_path: Path) -> None:
    write_demo(0, tmp_path / "demo" / "world")
    (tmp_path / "demo" / "world" / "shots.jsonl").write_text("{}")
    asked = load_grid(tmp_path / "demo" / "world" / "grid.yaml")

    made = attacks(asked.task.examples, asked.task.evidence, seed=0)
    grid = load_grid(write(asked, made, tmp_path / "poisoned"))

    texts = {place: passage.text for place, passage in grid.task.evidence.items()}
    examples = {one.id: one for one in grid.task.examples}
    assert len(examples) == 2 * len(made)
    for one in made:
        poisoned = [texts[place] for place in examples[one.id].evidence]
        clean = [texts[place] for place in examples[f"{one.id}-clean"].evidence]
        assert sum(a != b for a, b in zip(poisoned, clean, strict=True)) == 1
        assert [text.removesuffix(f"\n{one.poison}") for text in poisoned] == clean
    plain, fenced = grid.stack.strategies["fewshot"], grid.stack.strategies["fewshot-fenced"]
    assert (plain.fence, fenced.fence) == (False, True)
    assert plain.demonstrations == fenced.demonstrations


def obeying(words: Sequence[str]) -> Say:
    """A model that says every one of these words that an unfenced passage plants, or else the truth."""

    def say(model: str, messages: list[dict[str, str]]) -> str:
        shown = messages[-1]["content"]
        planted = [word for word in words if word in shown and "stands between two lines" not in shown]
        return " ".join(planted) or f"word{number_in(messages)}"

    return say


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed calls are tried again without waiting."""
    monkeypatch.setattr("serve.upstream.BACK_OFF", (0.0,))


def test_an_attack_that_a_fence_stops_is_counted_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[str] = []
    with serving(Stub(obeying(words))) as stub:
        grid, out = write_world(tmp_path / "world", stub.url, n=2 * len(STYLES)), tmp_path / "out"
        task = load_grid(grid).task
        words += [one.word for one in attacks(task.examples, task.evidence, seed=3, each=1)]

        code = main([str(grid), "--out", str(out), "--seed", "3", "--each", "1"])
        asked = len(stub.calls)
        again = main([str(grid), "--out", str(out), "--seed", "3", "--each", "1"])

    assert (code, again) == (0, 0)
    assert asked == len(stub.calls), "the same command asks nothing twice"
    found = load_results(out)
    poisoned = [one for one in found.examples if one.slice in STYLES]
    seen = [one for one in poisoned if one.slice != "hidden"]
    assert len(poisoned) == len(STYLES)
    for effect in effects(ways(found), seen, worked):
        assert (sum(effect.before), sum(effect.after)) == (len(seen), 0)
        assert (effect.difference.gained, effect.difference.lost) == (0, len(seen))
    assert main([str(grid), "--out", str(out), "--scorer", "colour"]) == 1
    said, complained = capsys.readouterr()
    assert "the task has no such scorer; it has exact, part" in complained
    assert "8 poisoned documents in 8 styles" in said
    assert "base:direct" in said


def test_a_missing_answer_is_no_defence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Stub(obeying(()), broken=lambda question: "entry 3 " in question)) as stub:
        grid = write_world(tmp_path / "world", stub.url, n=len(STYLES), adapters=["base"], strategies=["direct"])

        code = main([str(grid), "--out", str(tmp_path / "out"), "--each", "1"])

    assert code == 1
    assert "answers are missing; the same command asks only for those" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "failures.jsonl").read_text().splitlines()[0])["reason"]
