import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from retrieval.passage import Hit, Passage, Query
from serve.chat import UNREAD, Answer, Message, Sampling, ServeError, TooLong, Unavailable, Usage
from serve.combination import Combination
from serve.pipeline import Piece, Pipeline, probe_adapters
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from serve.upstream import Chunk
from tests.ports import held, number_of
from tests.serve_stub import CUT, echoing

DIRECT = Combination.parse("base:none:direct")
QUERY = Query("Who rules Varn?")
HIT = Hit(Passage(document="varn", title="Varn", text="Odo rules Varn.", start=0, end=15), score=1.0, rank=1)


@dataclass(frozen=True)
class Found:
    async def search(self, query: Query) -> tuple[Hit, ...]:
        return (HIT,)


def pipeline(url: str) -> Pipeline:
    return Pipeline(
        Stack(
            model="pocket",
            url=url,
            adapters={"house": Path("/house"), "field": Path("/field")},
            strategies={
                "direct": Prompted(kind="direct"),
                "cot": Prompted(kind="cot", instructions="Think."),
            },
            sampling=Sampling(max_tokens=9, stop=("\n",)),
        )
    )


async def test_an_answer_is_the_models_words_about_the_rendered_prompt() -> None:
    with echoing() as echo:
        async with pipeline(echo.url) as asked:
            answer = await asked.ask(DIRECT, QUERY, retriever=Found())

    assert answer.text == "pocket heard Question: Who rules Varn?"
    assert answer.messages == (Message("user", "[S1] Varn\nOdo rules Varn.\n\nQuestion: Who rules Varn?"),)
    assert answer.sources == (HIT,)
    assert (answer.usage, answer.finish_reason) == (Usage(9, 6), "stop")


async def test_the_adapter_is_the_model_and_the_stacks_sampling_is_sent() -> None:
    with echoing() as echo:
        async with pipeline(echo.url) as asked:
            await asked.ask(Combination.parse("house:none:direct"), QUERY)

    body = echo.asked[0]
    del body["messages"]
    assert body == {"model": "house", "temperature": 0.0, "top_p": 1.0, "max_tokens": 9, "stop": ["\n"]}


async def test_a_callers_sampling_replaces_the_stacks() -> None:
    with echoing() as echo:
        async with pipeline(echo.url) as asked:
            await asked.ask(DIRECT, QUERY, sampling=Sampling(temperature=0.7, seed=3))

    assert (echo.asked[0]["temperature"], echo.asked[0]["seed"]) == (0.7, 3)
    assert "stop" not in echo.asked[0]


@pytest.mark.parametrize("failures", [[503], [429, 500], [CUT], [CUT, 502]])
async def test_a_server_that_recovers_is_asked_again(failures: list[int]) -> None:
    with echoing(failures=list(failures)) as echo:
        async with pipeline(echo.url) as asked:
            answer = await asked.ask(DIRECT, QUERY)

    assert answer.text.startswith("pocket heard")
    assert len(echo.asked) == len(failures) + 1


async def test_a_server_that_stays_out_of_order_is_unavailable() -> None:
    with echoing(failures=[503] * 9) as echo:
        async with pipeline(echo.url) as asked:
            with pytest.raises(Unavailable, match="answered 503: out of order; 4 attempts"):
                await asked.ask(DIRECT, QUERY)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with held() as nobody:
        async with pipeline(f"http://127.0.0.1:{number_of(nobody)}/v1") as asked:
            with pytest.raises(Unavailable, match="cannot be reached"):
                await asked.ask(DIRECT, QUERY)

            assert "does not list its models" in await asked.trouble()


async def test_a_question_the_server_refuses_is_refused_once_in_its_words() -> None:
    with echoing(failures=[400], complaint="the prompt is too long") as echo:
        async with pipeline(echo.url) as asked:
            with pytest.raises(ServeError, match="answered 400: the prompt is too long") as caught:
                await asked.ask(DIRECT, QUERY)

    assert not isinstance(caught.value, (Unavailable, TooLong))
    assert len(echo.asked) == 1


@pytest.mark.parametrize(
    "complaint",
    [
        "This model's maximum context length is 256 tokens. However, your prompt contains at least 257 input tokens, "
        "which exceeds this limit even without any output tokens. (parameter=input_tokens, value=257)",
        "Input length (300) exceeds model's maximum context length (256).",
        "The decoder prompt (length 300) is longer than the maximum model length of 256.",
        "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
    ],
)
async def test_a_prompt_that_the_engine_has_no_room_for_is_told_from_other_refusals(complaint: str) -> None:
    with echoing(failures=[400, 503, 400], complaint=complaint) as echo:
        async with pipeline(echo.url) as asked:
            with pytest.raises(TooLong) as caught:
                await asked.ask(DIRECT, QUERY)
            with pytest.raises(TooLong):
                await asked.ask(DIRECT, QUERY)

    answer = caught.value.answer
    assert (answer.text, answer.finish_reason, answer.usage) == ("", UNREAD, Usage())
    assert answer.messages[-1].content == "Question: Who rules Varn?"
    assert str(caught.value) == f"{echo.url} answered 400: {complaint}"
    assert len(echo.asked) == 3, "an outage is tried again, whatever its words"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("base:none:dirct", "no strategy 'dirct'; did you mean 'direct'?"),
        ("base:dense:direct", "no retriever 'dense'; there is: none"),
        ("hous:none:direct", "no adapter 'hous'; did you mean 'house'?"),
    ],
)
async def test_a_name_the_stack_does_not_have_is_refused(name: str, sentence: str) -> None:
    with echoing() as echo:
        async with pipeline(echo.url) as asked:
            with pytest.raises(ServeError, match=sentence):
                await asked.ask(Combination.parse(name), QUERY)


async def heard(asked: Pipeline, name: str) -> list[object]:
    """All that is told, then the answer."""
    pieces: list[object] = []

    async def tell(piece: Piece) -> None:
        pieces.append(piece)

    answer = await asked.stream(Combination.parse(name), QUERY, tell)
    return [*pieces, answer]


def said(piece: object) -> str:
    """The words of a stream's event."""
    assert isinstance(piece, Chunk)
    return "".join(choice["delta"].get("content") or "" for choice in piece.data["choices"])


async def test_a_stream_tells_sources_then_words_then_the_same_answer_as_without() -> None:
    with echoing() as echo:
        async with pipeline(echo.url) as asked:
            sources, *words, answer = await heard(asked, "base:none:direct")
            whole = await asked.ask(DIRECT, QUERY)

    assert sources == ()
    assert "".join(map(said, words)).split() == whole.text.split()
    assert isinstance(answer, Answer)
    assert (answer.text.strip(), answer.usage, answer.messages) == (whole.text, whole.usage, whole.messages)
    assert answer.finish_reason == "length"


async def test_a_strategy_that_edits_the_reply_is_heard_when_it_has_done_so() -> None:
    with echoing() as echo:
        async with pipeline(echo.url) as asked:
            sources, answer = await heard(asked, "base:none:cot")

    assert isinstance(answer, Answer)
    assert sources == answer.sources


async def test_words_are_heard_before_the_answer_is_finished() -> None:
    with echoing() as echo:
        echo.may_go_on.clear()
        async with pipeline(echo.url) as asked:
            told: asyncio.Queue[Piece] = asyncio.Queue()
            answering = asyncio.create_task(asked.stream(DIRECT, QUERY, told.put))
            sources, _, first = [await asyncio.wait_for(told.get(), 60) for _ in range(3)]
            before = answering.done()
            echo.may_go_on.set()
            await answering

    assert (sources, said(first), before) == ((), "pocket ", False)


async def test_a_stream_that_breaks_off_is_unavailable_and_not_a_short_answer() -> None:
    with echoing(failures=[CUT]) as echo:
        async with pipeline(echo.url) as asked:
            with pytest.raises(Unavailable, match="broke off"):
                await heard(asked, "base:none:direct")


async def test_an_adapter_that_changes_nothing_is_refused_by_name() -> None:
    with echoing(same_as_base=frozenset({"pocket", "field"})) as echo:
        async with pipeline(echo.url) as asked:
            with pytest.raises(ServeError, match="field has no effect") as caught:
                await probe_adapters(asked)

    assert "house" not in str(caught.value)


async def test_adapters_that_change_something_pass() -> None:
    with echoing(same_as_base=frozenset({"pocket"})) as echo:
        async with pipeline(echo.url) as asked:
            await probe_adapters(asked)

    assert {body["model"] for body in echo.asked} == {"pocket", "house", "field"}
