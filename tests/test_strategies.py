"""How kinds of strategy are named, made of each other, counted and kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from eval.keys import _strategies
from retrieval.files import FileError
from retrieval.passage import Query
from retrieval.retriever import NoRetrieval
from serve.chat import Message, Reply, Sampling, Usage
from serve.pipeline import _answer
from serve.stack import Stack
from serve.strategies.kind import Parts, prompt
from serve.strategies.kinds import build, needed, searched_by
from serve.strategies.prompted import Prompted
from serve.strategies.python import Python
from serve.strategies.vote import Vote

QUERY = Query("How many legs has an owl?")
DIRECT = Prompted(kind="direct")


@dataclass
class Teller:
    """A model that says one thing after another, and keeps how it was to sample."""

    texts: Sequence[str]
    asked: list[Sampling] = field(default_factory=list)
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=9, seed=4))

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        self.asked.append(sampling or self.sampling)
        text = self.texts[len(self.asked) - 1]
        return Reply(text=text, usage=Usage(7, 3), finish_reason="stop", seconds=0.5)


async def test_a_vote_is_the_answer_most_often_given_and_says_how_often() -> None:
    model = Teller(("two", "four", "Two ", "six", "two"))
    vote = build({"direct": DIRECT, "vote": Vote(kind="vote", of="direct")}, {})["vote"]

    answer = await _answer(vote, QUERY, NoRetrieval(), model)

    assert (answer.text, answer.notes) == ("two", {"confidence": 3 / 5})
    assert answer.usage == Usage(35, 15), "every call is counted"
    assert answer.steps == ("two", "four", "Two ", "six", "two")


async def test_votes_are_drawn_with_seeds_of_their_own_and_otherwise_as_the_stack_says() -> None:
    model = Teller(("two",) * 3)
    settings = Vote(kind="vote", of="direct", samples=3, temperature=0.5)

    await build({"direct": DIRECT, "vote": settings}, {})["vote"](QUERY, NoRetrieval(), model)

    assert len({one.seed for one in model.asked}) == 3
    assert {replace(one, seed=4) for one in model.asked} == {replace(model.sampling, temperature=0.5)}


async def test_one_call_keeps_no_steps() -> None:
    answer = await _answer(build({"direct": DIRECT}, {})["direct"], QUERY, NoRetrieval(), Teller(("two",)))

    assert (answer.text, answer.steps, answer.usage) == ("two", (), Usage(7, 3))


def test_a_strategy_takes_along_what_it_is_made_of() -> None:
    named = {
        "shown": Prompted(kind="fewshot", examples_from="examples"),
        "other": DIRECT,
        "vote": Vote(kind="vote", of="shown"),
        "twice": Vote(kind="vote", of="vote"),
    }

    assert list(needed(named, ["twice"])) == ["shown", "vote", "twice"]
    assert searched_by(named, "twice") == {"examples"}


MINE = """
from dataclasses import replace

from serve.chat import Answer

async def answer(query, retriever, model):
    hits = await retriever.search(query)
    reply = await model.chat(())
    return Answer(text=reply.text.upper(), messages=(), sources=hits)
"""


async def test_a_strategy_of_ones_own_is_a_function_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "stack.yaml").write_text('model: a/b\nstrategies: {mine: {kind: python, path: "mine.py:answer"}}\n')
    stack = Stack.load(tmp_path / "stack.yaml")

    answer = await _answer(build(stack.strategies, {})["mine"], QUERY, NoRetrieval(), Teller(("two",)))

    assert (answer.text, answer.usage) == ("TWO", Usage(7, 3))
    assert stack.strategies["mine"].files == {"path": tmp_path / "mine.py"}, "a run is keyed by its content"


def test_what_ones_own_file_lacks_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")

    with pytest.raises(FileError, match=r"mine.py: has no function 'answer'; define it as async def answer\("):
        Python(kind="python", path=tmp_path / "mine.py:answer").build(Parts({}, {}.__getitem__))
    with pytest.raises(ValueError, match="FILE:NAME"):
        Python(kind="python", path=tmp_path / "mine.py")


def test_what_fills_a_place_of_a_prompt_is_not_looked_at_again() -> None:
    assert prompt("", "Cost of $what: $5", what="$what and $more") == "Cost of $what and $more: $5"


def test_a_run_is_keyed_by_what_a_strategy_is_made_of_and_not_by_where_it_lies(tmp_path: Path) -> None:
    def key(folder: str, code: str = MINE, function: str = "answer", samples: int = 5) -> object:
        file = tmp_path / folder / "mine.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(code)
        own = Python(kind="python", path=Path(f"{file}:{function}"))
        return _strategies({"own": own, "vote": Vote(kind="vote", of="own", samples=samples)}, {})["vote"]

    assert key("here") == key("there")
    others = [key("here", code=f"{MINE}\n"), key("here", function="other"), key("here", samples=3)]
    assert all(other != key("here") for other in others)
