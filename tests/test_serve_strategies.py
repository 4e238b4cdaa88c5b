import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from retrieval.files import FileError
from retrieval.passage import Hit, Passage, Query
from retrieval.retriever import NoRetrieval, Retriever
from serve.chat import Message, Reply, Sampling, Usage
from serve.layout import layout
from serve.strategies.kind import Parts, Strategy
from serve.strategies.prompted import Prompted, last_answer, read_shots

GOLDEN = Path(__file__).parent / "golden" / "prompts"
QUERY = Query("Who rules Varn now?", ("Is Varn a town?", "Yes."))


@dataclass
class Found:
    """A retriever that finds what the test says."""

    hits: tuple[Hit, ...]

    async def search(self, query: Query) -> tuple[Hit, ...]:
        return self.hits


@dataclass
class Parrot:
    """A model that says one thing and keeps what it was asked."""

    text: str = "Odo."
    prompts: list[tuple[Message, ...]] = field(default_factory=list)
    sampling: Sampling = field(default_factory=Sampling)

    async def chat(self, messages: tuple[Message, ...], sampling: Sampling | None = None) -> Reply:
        self.prompts.append(messages)
        return Reply(text=self.text, usage=Usage(7, 3), finish_reason="stop", seconds=0.5)


def hit(rank: int, title: str, text: str, **meta: str) -> Hit:
    passage = Passage(document=title.lower(), title=title, text=text, start=0, end=len(text), meta=meta)
    return Hit(passage, score=1.0 / rank, rank=rank)


PASSAGES = (hit(1, "Varn", "Varn is a town.\nOdo rules it."), hit(2, "Odo", "Odo is a baker."))
DEMONSTRATIONS = (
    hit(1, "near", "Who rules Tarn?", answer='{"answer": "Ida"}'),
    hit(2, "far", "How old is Tarn?", answer='{"answer": "90"}'),
)
FOUND: dict[str, Retriever] = {
    "none": NoRetrieval(),
    "passages": Found(PASSAGES),
    "demonstrations": Found(DEMONSTRATIONS),
    "both": Found((DEMONSTRATIONS[0], PASSAGES[0], DEMONSTRATIONS[1], PASSAGES[1])),
}


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    turns = [
        {"role": "user", "content": "Question: Is Tarn big?"},
        {"role": "assistant", "content": '{"answer": "no"}'},
    ]
    file = tmp_path / "shots.jsonl"
    file.write_text(json.dumps({"messages": turns}) + "\n")
    return file


def built(settings: Prompted, **retrievers: Retriever) -> Strategy:
    return settings.build(Parts(retrievers, {}.__getitem__))


def settings(kind: str, shots: Path) -> Prompted:
    instructions = "" if kind == "direct" else "Answer as JSON."
    shown = shots if kind == "fewshot" else None
    return Prompted(kind=kind, instructions=instructions, demonstrations=shown)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["direct", "instructed", "fewshot", "cot"])
@pytest.mark.parametrize("found", FOUND)
async def test_the_prompt_is_the_golden_one(kind: str, found: str, shots: Path) -> None:
    """To accept a change of layout: delete the file, run the tests twice, and review what git shows."""
    answer = await built(settings(kind, shots))(QUERY, FOUND[found], Parrot())

    agrees_with(GOLDEN / f"{kind}-{found}.txt", answer.messages)


@pytest.mark.parametrize("found", ["none", "both"])
async def test_a_fenced_prompt_is_the_golden_one(found: str) -> None:
    answer = await built(Prompted(kind="direct", fence=True))(QUERY, FOUND[found], Parrot())

    agrees_with(GOLDEN / f"fenced-{found}.txt", answer.messages)
    assert answer.sources == (PASSAGES + DEMONSTRATIONS if found == "both" else ())


def agrees_with(golden: Path, messages: tuple[Message, ...]) -> None:
    rendered = "".join(f"--- {message.role}\n{message.content}\n" for message in messages)
    if not golden.exists():
        golden.write_text(rendered, encoding="utf-8")
        pytest.fail(f"{golden} did not exist and was written")
    assert rendered == golden.read_text(encoding="utf-8")


async def test_sources_are_numbered_like_the_prompt_passages_before_demonstrations() -> None:
    answer = await built(Prompted(kind="direct"))(QUERY, FOUND["both"], Parrot())

    assert answer.sources == PASSAGES + DEMONSTRATIONS


async def test_examples_come_from_the_named_retriever_and_are_no_sources() -> None:
    strategy = built(Prompted(kind="fewshot", examples_from="train"), train=Found(DEMONSTRATIONS))

    answer = await strategy(Query("Who?"), Found(PASSAGES), Parrot())

    asked = [message.content for message in answer.messages if message.role == "user"]
    assert asked[:2] == ["Question: How old is Tarn?", "Question: Who rules Tarn?"]
    assert answer.sources == PASSAGES


async def test_chain_of_thought_answers_with_what_follows_the_last_answer_and_pays_for_the_reasoning() -> None:
    strategy = built(Prompted(kind="cot", instructions="Think."))

    answer = await strategy(Query("2 + 2?"), NoRetrieval(), Parrot("Two twos. Answer: 5? No.\nAnswer: 4"))

    assert answer.text == "4"


@pytest.mark.parametrize(
    ("said", "answer"),
    [("Answer: a", "a"), ("so\nAnswer:\n a b \n", "a b"), ("no such line", "no such line"), ("", "")],
)
def test_the_last_answer(said: str, answer: str) -> None:
    assert last_answer(said) == answer


def test_a_callers_system_message_comes_before_the_strategys_in_one_message() -> None:
    query = Query("Who?", meta={"system_message": "Speak French."})

    first, *rest = layout((), query, (), "Answer as JSON.")

    assert first == Message("system", "Speak French.\n\nAnswer as JSON.")
    assert all(message.role != "system" for message in rest)


WRONG_SHOTS = {
    "no messages": '{"chat": []}',
    "empty": '{"messages": []}',
    "system": '{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}]}',
    "unanswered": '{"messages": [{"role": "user", "content": "x"}]}',
    "backwards": '{"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "x"}]}',
    "content in parts": '{"messages": [{"role": "user", "content": [1]}, {"role": "assistant", "content": "x"}]}',
}


@pytest.mark.parametrize("row", WRONG_SHOTS.values(), ids=WRONG_SHOTS)
def test_demonstrations_that_are_no_chat_are_refused_by_line(shots: Path, row: str) -> None:
    shots.write_text(f"{shots.read_text()}{row}\n{row}\n")

    with pytest.raises(FileError) as caught:
        read_shots(shots)

    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [f"{shots}:2", f"{shots}:3"]


def test_no_demonstrations_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()

    with pytest.raises(FileError, match=r"empty\.jsonl:1: a demonstration is"):
        read_shots(tmp_path / "empty.jsonl")
