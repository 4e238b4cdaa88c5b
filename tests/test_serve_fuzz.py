"""Whatever is sent, the gateway answers it or says in OpenAI's shape why not; never with a fault of its own.

`python -m scripts.fuzz_serve` asks more, over a socket.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.fuzz_serve import upstream
from serve import openapi, page
from serve.admission import GatewaySettings
from serve.capture import Capture
from serve.door import Door
from serve.gateway import Gateway, application
from serve.pipeline import Pipeline
from serve.running import patience
from serve.stack import Stack
from serve.strategies.prompted import Prompted

Post = Callable[[str, bytes], httpx.Response]

DIRECT, COT = "base:none:direct", "base:none:cot"
ROUTES = {
    "/v1/chat/completions": "ChatRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/search": "SearchRequest",
    "/v1/feedback": "Feedback",
}
SCHEMAS = openapi.document((DIRECT, COT), (), False, True)["components"]["schemas"]

words = st.text(st.characters(exclude_categories=()), max_size=12)
"""Half characters too."""
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(("system", "user", "assistant", "tool")) | scalars, "content": words | anything},
    optional={"name": words, "tool_calls": st.lists(anything, max_size=2), "tool_call_id": words, "x": anything},
)
talks = st.lists(turns, max_size=4) | st.lists(turns, max_size=3).map(
    lambda some: [*some, {"role": "user", "content": "Who?"}]
)
known = {
    "model": st.sampled_from((DIRECT, COT)),
    "messages": talks,
    "prompt": words | st.lists(words, max_size=2),
    "query": words,
    "id": words,
    "stream": st.booleans(),
    "n": st.integers(-1, 20),
    "max_tokens": st.integers(-1, 10**9),
    "temperature": st.floats(-1, 3),
    "stop": words | st.lists(words, max_size=2),
    "response_format": st.dictionaries(words, anything, max_size=2),
    "rating": st.sampled_from(("up", "down")),
}


@st.composite
def bodies(draw: st.DrawFn, route: str) -> bytes:
    """What the route takes, with some of its fields as they should be and some as they come."""
    fields = SCHEMAS[ROUTES[route]]["properties"]
    asked: dict[str, Any] = {name: draw(known[name]) for name in SCHEMAS[ROUTES[route]]["required"]}
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True)):
        asked[name] = draw(known[name] | anything if name in known else anything)
    asked |= draw(st.dictionaries(words, anything, max_size=1))
    return json.dumps(asked).encode()


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """A caller of a whole gateway in this process."""
    chats: Path = tmp_path_factory.mktemp("fuzz") / "chats.jsonl"
    strategies = {"direct": Prompted(kind="direct"), "cot": Prompted(kind="cot", instructions="Think.")}
    with asyncio.Runner() as runner, upstream() as server, Capture(chats) as capture:
        stack = Stack(model="pocket", url=server.url, strategies=strategies)

        async def opened() -> tuple[Pipeline, httpx.AsyncClient]:
            pipeline = Pipeline(stack, patience=patience(GatewaySettings()))
            app = Door(application(Gateway(pipeline, [capture.observe]), page.routes(capture)), None)
            transport = httpx.ASGITransport(app, raise_app_exceptions=True)
            return pipeline, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")

        pipeline, client = runner.run(opened())
        yield lambda route, body: runner.run(client.post(route, content=body, timeout=10))
        runner.run(client.aclose())
        runner.run(pipeline.__aexit__())


def check(answer: httpx.Response) -> None:
    """It was answered, or refused as the description says, and in time."""
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code == 200:
        return
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=60)
@given(data=st.data())
def test_a_body_of_known_fields_is_answered_or_refused(post: Post, route: str, data: st.DataObject) -> None:
    check(post(route, data.draw(bodies(route))))


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=30)
@given(body=anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_a_body_of_any_kind_is_refused(post: Post, route: str, body: bytes) -> None:
    answer = post(route, body)

    assert answer.status_code == 400
    check(answer)


@pytest.mark.parametrize("field", ["metadata", "response_format", "tools", "messages", "stranger"])
@pytest.mark.parametrize("depth", [90, 101, 969, 5_000, 100_000])
def test_a_body_that_is_deep_is_answered_or_refused(post: Post, field: str, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    talk = '{"role": "user", "content": "Who?"}'
    fields = {"model": f'"{DIRECT}"', "messages": f"[{talk}]", field: deep}
    if field == "messages":
        call = f'{{"role": "assistant", "tool_calls": [{deep}]}}, {{"role": "tool", "content": "x"}}'
        fields |= {"messages": f"[{talk}, {call}]"}
    if field == "tools":
        fields |= {"tools": f"[{deep}]"}

    written = ", ".join(f'"{name}": {value}' for name, value in fields.items())
    answer = post("/v1/chat/completions", f"{{{written}}}".encode())

    check(answer)
    assert (answer.status_code == 400) == (depth > 100 or field == "stranger"), answer.text
