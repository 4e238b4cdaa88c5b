"""The gateway over a real pipeline and a stub of the engine; the official client meets it in test_serve_live.py."""

import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.serving import up
from serve.chat import ServeError
from serve.gateway import Gateway, application
from serve.pipeline import Pipeline
from serve.running import listen
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from tests.serve_stub import CUT, Echo, echoing

ASKED = {"model": "house:none:direct", "messages": [{"role": "user", "content": "Who?"}]}


@asynccontextmanager
async def gateway(**settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Echo]]:
    with echoing(**settings) as echo:
        stack = Stack(
            model="pocket",
            url=echo.url,
            adapters={"house": Path("/house")},
            strategies={"direct": Prompted(kind="direct")},
        )
        async with Pipeline(stack) as pipeline:
            transport = httpx.ASGITransport(application(Gateway(pipeline)))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                yield client, echo


async def events(client: httpx.AsyncClient, **fields: Any) -> list[Any]:
    response = await client.post("/v1/chat/completions", json=ASKED | {"stream": True} | fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_every_combination_is_a_model() -> None:
    async with gateway() as (client, _):
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/house:none:direct")).json()

    assert [card["id"] for card in listed["data"]] == ["base:none:direct", "house:none:direct"]
    assert one == listed["data"][1]
    assert (one["adapter"], one["retriever"], one["strategy"]) == ("house", "none", "direct")


async def test_a_question_is_answered_by_the_adapter_under_the_name_that_was_asked_for() -> None:
    async with gateway() as (client, _):
        answer = (await client.post("/v1/chat/completions", json=ASKED)).json()

    assert answer["model"] == "house:none:direct"
    assert answer["choices"][0]["message"]["content"] == "house heard Question: Who?"
    assert answer["usage"]["total_tokens"] == 6
    assert answer["sources"] == []


async def test_a_stream_opens_with_sources_and_ends_with_reason_usage_and_done() -> None:
    async with gateway() as (client, _):
        first, *words, last, usage, done = await events(client, stream_options={"include_usage": True})

    assert (first["sources"], first["choices"][0]["delta"]) == ([], {"role": "assistant", "content": ""})
    assert "".join(word["choices"][0]["delta"]["content"] for word in words) == "house heard Question: Who? "
    assert last["choices"][0]["finish_reason"] == "length"
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 6, "[DONE]")
    assert len({chunk["id"] for chunk in (first, *words, last, usage)}) == 1


@pytest.mark.parametrize(("stream", "upstream", "status"), [(False, 400, 400), (True, 400, 400), (True, 503, 503)])
async def test_an_upstream_failure_before_the_first_word_is_a_status(stream: bool, upstream: int, status: int) -> None:
    async with gateway(failures=[upstream] * 4, complaint="no room") as (client, _):
        response = await client.post("/v1/chat/completions", json=ASKED | {"stream": stream})

    assert response.status_code == status
    assert "no room" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_the_engine_has_no_room_for_is_a_400_in_its_words(stream: bool) -> None:
    complaint = "This model's maximum context length is 256 tokens. However, your prompt contains 300 input tokens"
    async with gateway(failures=[400], complaint=complaint) as (client, _):
        response = await client.post("/v1/chat/completions", json=ASKED | {"stream": stream})

    assert response.status_code == 400
    assert complaint in response.json()["error"]["message"]


async def test_a_failure_in_the_middle_of_a_stream_is_its_last_event() -> None:
    async with gateway(failures=[CUT]) as (client, _):
        *_, last = await events(client)

    assert "broke off" in last["error"]["message"]


async def test_an_unknown_model_is_404_and_a_bad_field_400() -> None:
    async with gateway() as (client, _):
        unknown = await client.post("/v1/chat/completions", json=ASKED | {"model": "hous:none:direct"})
        card = await client.get("/v1/models/hous:none:direct")
        field = await client.post("/v1/chat/completions", json=ASKED | {"best_of": 2})

    assert (unknown.status_code, card.status_code, field.status_code) == (404, 404, 400)
    assert "did you mean house:none:direct" in unknown.json()["error"]["message"]


async def test_ready_is_the_engines_affair_and_health_the_gateways() -> None:
    async with gateway(models=("pocket",)) as (client, echo):
        well = await client.get("/readyz")
        echo.models = ()
        ill, alive = await client.get("/readyz"), await client.get("/healthz")

    assert (well.status_code, ill.status_code, alive.status_code) == (200, 503, 200)


def test_a_port_in_use_is_refused_in_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        with pytest.raises(ServeError, match=r"port \d+ cannot be used .*--port"):
            listen(other.getsockname()[1])


@contextmanager
def under_way(folder: Path, settings: str = "") -> Iterator[tuple[Echo, subprocess.Popen[str], Iterator[str]]]:
    """The engine's stand-in, the gateway's process, and what is still to come of a stream that has begun."""
    with echoing() as echo:
        direct = "strategies: {direct: {kind: direct}}"
        (folder / "stack.yaml").write_text(f"model: m\nurl: {echo.url}\n{direct}\n{settings}\n")
        with up(folder / "stack.yaml") as (process, url):
            echo.may_go_on.clear()
            asked = ASKED | {"model": "base:none:direct", "stream": True}
            with httpx.stream("POST", f"{url}/chat/completions", json=asked, timeout=60) as answer:
                lines = answer.iter_lines()
                assert "sources" in next(lines)
                yield echo, process, lines
            echo.may_go_on.set()


def test_sigterm_lets_the_question_under_way_finish(tmp_path: Path) -> None:
    with under_way(tmp_path) as (echo, process, lines):
        process.terminate()
        echo.may_go_on.set()
        last = [line for line in lines if line][-1]

        assert (last, process.wait(60)) == ("data: [DONE]", 0)


def test_an_answer_that_takes_longer_than_stopping_may_ends_with_the_reason(tmp_path: Path) -> None:
    with under_way(tmp_path, "gateway: {drain_seconds: 1}") as (_, process, lines):
        process.terminate()
        last = [line for line in lines if line][-1]

        assert "this server is stopping" in last
        assert process.wait(60) == 0
