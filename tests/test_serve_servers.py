"""Several servers behind one stack, over real sockets: who is asked, what becomes of one that fails, what is probed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from serve.balance import LEAD
from serve.chat import Message, Sampling, ServeError, Unavailable
from serve.gateway import Gateway, application
from serve.pipeline import Pipeline, dead_adapters, probe_adapters
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from serve.upstream import Chunk, Line, Patience, Server, Upstream
from tests.logs import told
from tests.ports import held, number_of
from tests.serve_stub import CUT, Echo, echoing

QUESTION = (Message("user", "Who?"),)
AT_ONCE = Patience(back_off=())


@pytest.fixture
def two() -> Iterator[tuple[Echo, Echo]]:
    with echoing(models=("pocket", "house")) as a, echoing(models=("pocket", "house")) as b:
        yield a, b


@pytest.fixture
def gone() -> Iterator[str]:
    """Where no server is."""
    with held() as nobody:
        yield f"http://127.0.0.1:{number_of(nobody)}/v1"


@pytest.fixture
def resting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that failed is not looked at again while a test lasts."""
    monkeypatch.setattr("serve.balance.RESTS", (3600.0,))


def server(*urls: str) -> Server:
    return Server(urls)


def model(line: Line, name: str = "pocket") -> Upstream:
    return Upstream(line, name, Sampling())


def stack(*urls: str) -> Stack:
    adapters = {"house": Path("/house")}
    return Stack(model="pocket", url=urls, adapters=adapters, strategies={"direct": Prompted(kind="direct")})


async def test_base_calls_one_after_the_other_go_round(two: tuple[Echo, Echo]) -> None:
    async with Line(server(*[echo.url for echo in two])) as line:
        for _ in range(10):
            await model(line).chat(QUESTION)

    assert [len(echo.asked) for echo in two] == [5, 5]


async def test_calls_at_once_are_spread_and_an_adapter_alone_stays_at_home(two: tuple[Echo, Echo]) -> None:
    async with Line(server(*[echo.url for echo in two])) as line:
        for _ in range(5):
            await asyncio.gather(*[model(line).chat(QUESTION) for _ in range(8)])
        base = [len(echo.asked) for echo in two]
        for _ in range(10):
            await asyncio.gather(*[model(line, "house").chat(QUESTION) for _ in range(LEAD)])

    assert base == [20, 20]
    assert sorted(len(echo.asked) - 20 for echo in two) == [0, 10 * LEAD]


async def test_a_server_is_never_asked_for_what_it_does_not_list(two: tuple[Echo, Echo]) -> None:
    a, b = two
    a.models = ("pocket",)
    async with Line(server(a.url, b.url)) as line:
        await asyncio.gather(*[model(line, "house").chat(QUESTION) for _ in range(20)])
        with pytest.raises(ServeError, match=f"{a.url} offers pocket; {b.url} offers pocket, house: no barn"):
            await model(line, "barn").chat(QUESTION)

    assert (len(a.asked), len(b.asked)) == (0, 20)


@pytest.mark.parametrize("failure", [500, 503, 429, CUT])
async def test_a_call_that_fails_goes_to_the_other_server_at_once(two: tuple[Echo, Echo], failure: int) -> None:
    for echo in two:
        echo.failures = [failure] * 3
    two[1].failures.clear()
    async with Line(server(*[echo.url for echo in two]), AT_ONCE) as line:
        said = await asyncio.gather(*[model(line).chat(QUESTION) for _ in range(6)])

    assert {reply.text for reply in said} == {"pocket heard Who?"}


async def test_one_that_cannot_be_reached_hinders_nobody_and_is_told_of_once(
    two: tuple[Echo, Echo], resting: None, caplog: pytest.LogCaptureFixture
) -> None:
    with echoing(models=("pocket",)) as third:
        async with Line(server(third.url, *[echo.url for echo in two]), AT_ONCE) as line:
            await asyncio.gather(*[model(line).chat(QUESTION) for _ in range(3)])
            third.failures = [503] * 9
            for _ in range(20):
                await model(line).chat(QUESTION)

    assert len(third.asked) == 2
    assert told(caplog) == [f"{third.url} answered 503: out of order; the other servers go on"]


async def test_when_all_are_gone_each_says_why(gone: str) -> None:
    with echoing(models=("pocket",), failures=[503] * 9) as sick:
        async with Line(server(gone, sick.url), Patience(back_off=(0.0,))) as line:
            with pytest.raises(Unavailable) as raised:
                await model(line).chat(QUESTION)

    assert f"{gone} does not list its models (Cannot connect" in str(raised.value)
    assert f"{sick.url} answered 503: out of order; 2 attempts" in str(raised.value)


@asynccontextmanager
async def streaming(words: list[str]) -> AsyncIterator[str]:
    """A server that lists `pocket` and breaks off each stream after these events."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            listed = b'{"data": [{"id": "pocket"}]}'
            kind = b"content-type: application/json\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (kind, len(listed), listed))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            for word in words:
                said = {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
                writer.write(f"data: {json.dumps(said)}\n\n".encode())
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(meet, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    finally:
        listener.close()


async def heard(line: Line) -> str:
    async def unheard(_: Chunk) -> None:
        """Nobody listens."""

    return (await model(line).hear(QUESTION, unheard)).text


async def test_a_stream_that_breaks_off_before_its_first_event_goes_to_the_other_server(two: tuple[Echo, Echo]) -> None:
    async with streaming([]) as broken, Line(server(broken, two[0].url), AT_ONCE) as line:
        said = [await heard(line) for _ in range(4)]

    assert said == ["pocket heard Who? "] * 4
    assert len(two[0].asked) == 4


async def test_a_stream_that_breaks_off_later_ends_with_the_error_and_its_server_rests(
    two: tuple[Echo, Echo], resting: None
) -> None:
    async with streaming(["It"]) as broken, Line(server(broken, two[0].url), AT_ONCE) as line:
        first = await asyncio.gather(heard(line), heard(line), return_exceptions=True)
        then = [await heard(line) for _ in range(3)]

    assert sorted(map(str, first)) == [f"{broken} broke off its answer before the end", "pocket heard Who? "]
    assert then == ["pocket heard Who? "] * 3


async def test_an_adapter_is_probed_at_every_server(two: tuple[Echo, Echo]) -> None:
    a, b = two
    b.same_as_base = frozenset(["pocket", "house"])
    async with Pipeline(stack(a.url, b.url)) as pipeline:
        assert await dead_adapters(pipeline) == ("house",)

    assert [len(echo.asked) for echo in two] == [2, 2]


async def test_the_probe_tells_which_servers_are_down_or_lack_an_adapter(
    two: tuple[Echo, Echo], gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    two[0].models = ("pocket",)
    async with Pipeline(stack(gone, *[echo.url for echo in two])) as pipeline:
        await probe_adapters(pipeline)

    assert told(caplog) == [
        f"{two[0].url} does not offer house, so the other servers are asked for it",
        f"{gone} does not answer: its adapters are not probed, and the other servers go on",
    ]


@pytest.mark.parametrize("failure", [500, 429, CUT])
@pytest.mark.parametrize("after", [0, 1], ids=["base", "adapter"])
async def test_a_server_that_cannot_be_probed_is_told_of_and_the_others_are_probed(
    two: tuple[Echo, Echo], failure: int, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = two
    a.failures = [200] * after + [failure]
    b.same_as_base = frozenset(["pocket", "house"])
    async with Pipeline(stack(a.url, b.url), None, AT_ONCE) as pipeline:
        dead = await dead_adapters(pipeline)

    (sentence,) = told(caplog)
    assert dead == ("house",)
    assert sentence.startswith(a.url)
    assert sentence.endswith(": its adapters are not probed, and the other servers go on")


async def test_where_no_server_can_be_probed_each_says_why(two: tuple[Echo, Echo]) -> None:
    for echo in two:
        echo.failures = [500]
    async with Pipeline(stack(*[echo.url for echo in two]), None, AT_ONCE) as pipeline:
        with pytest.raises(Unavailable, match=f"{two[0].url} answered 500.*; {two[1].url} answered 500"):
            await probe_adapters(pipeline)


async def test_a_base_model_and_its_adapter_are_compared_at_one_server_while_others_come(
    two: tuple[Echo, Echo],
) -> None:
    a, b = two
    a.same_as_base = frozenset(["pocket", "house"])
    there = [a.url]

    async def change() -> None:
        while not a.asked:
            await asyncio.sleep(0)
        there[:] = [b.url]

    async with Pipeline(stack(a.url), Server(there)) as pipeline:
        dead, _ = await asyncio.wait_for(asyncio.gather(dead_adapters(pipeline), change()), 30)

    assert dead == ("house",)
    assert (len(a.asked), len(b.asked)) == (2, 0)


async def test_an_adapter_that_no_server_has_is_refused_before_a_question_is_asked(two: tuple[Echo, Echo]) -> None:
    for echo in two:
        echo.models = ("pocket",)
    async with Pipeline(stack(*[echo.url for echo in two])) as pipeline:
        with pytest.raises(ServeError, match="none of the 2 servers offers house"):
            await probe_adapters(pipeline)


async def test_a_gateway_is_ready_while_one_of_its_servers_is(two: tuple[Echo, Echo], gone: str) -> None:
    asked = {"model": "house:none:direct", "messages": [{"role": "user", "content": "Who?"}]}
    statuses = []
    for urls in ((gone, two[0].url), (gone, gone.replace("127.0.0.1", "localhost"))):
        async with Pipeline(stack(*urls), None, Patience(back_off=(0.0,))) as pipeline:
            transport = httpx.ASGITransport(application(Gateway(pipeline)))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                ready, answer = await client.get("/readyz"), await client.post("/v1/chat/completions", json=asked)
                statuses.append((ready.status_code, answer.status_code))

    assert statuses == [(200, 200), (503, 503)]
