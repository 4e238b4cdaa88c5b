"""The description at /openapi.json is true: what it forbids is refused, what it allows is read, answers are so."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from serve import openapi, page
from serve.asked import ChatRequest, CompletionRequest, Refusal, SearchRequest, read
from serve.capture import Capture, Feedback
from serve.door import Door
from serve.gateway import Gateway, application
from serve.keys import Keys, new_key
from serve.pipeline import Pipeline
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from tests.exchanges import answered
from tests.serve_stub import echoing

ASKED: dict[str, Any] = {"model": "base:none:direct", "messages": [{"role": "user", "content": "Who?"}]}
KINDS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "ChatRequest": (ChatRequest, ASKED),
    "CompletionRequest": (CompletionRequest, {"model": "base:none:direct", "prompt": "Who?"}),
    "SearchRequest": (SearchRequest, {"model": "base:none:direct", "query": "Who?"}),
    "Feedback": (Feedback, {"id": "x", "rating": "up"}),
}


@asynccontextmanager
async def described(
    keys: Keys | None = None, capture: Capture | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, Any]]]:
    """A gateway and what it says of itself."""
    with echoing() as echo:
        stack = Stack(model="pocket", url=echo.url, strategies={"direct": Prompted(kind="direct")})
        async with Pipeline(stack) as pipeline:
            gateway = Gateway(pipeline, [capture.observe] if capture else [])
            told = openapi.routes(gateway, keyed=keys is not None, captured=capture is not None)
            door = Door(application(gateway, [*page.routes(capture), *told]), keys)
            transport = httpx.ASGITransport(door)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                yield client, openapi.document(("base:none:direct",), (), keys is not None, capture is not None)


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def told(document: dict[str, Any], name: str) -> Draft202012Validator:
    return validator(document, {"$ref": f"#/components/schemas/{name}"})


WRONG: tuple[dict[str, Any], ...] = (
    {"stranger": 1},
    {"n": 17},
    {"n": "2"},
    {"n": True},
    {"temperature": "0.5"},
    {"stream": 1},
    {"stream_options": {"include": True}},
    {"messages": [{"role": "user", "content": "x", "stranger": 1}]},
    {"messages": [{"role": "judge", "content": "x"}]},
    {"messages": [{"role": None, "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    {"metadata": []},
    {"prompt": 5},
    {"prompt": ["a", 5]},
    {"query": ["a"]},
    {"rating": "sideways"},
    {"comment": "x" * 20_001},
)
RIGHT: tuple[dict[str, Any], ...] = (
    {},
    {"metadata": None, "stranger": None},
    {"n": None, "temperature": 1, "stop": ["a"], "seed": 0},
    {"comment": None, "correction": "so"},
    {"messages": [{"role": "user", "content": "x", "name": None, "refusal": None, "annotations": [{}]}]},
    {"tools": [{"type": "function"}], "tool_choice": "auto"},
)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fields", [*WRONG, *RIGHT], ids=lambda fields: ",".join(fields))
async def test_what_is_described_is_what_is_read(name: str, fields: dict[str, Any]) -> None:
    kind, body = KINDS[name]
    document = openapi.document(("base:none:direct",), (), False, True)
    asked = body | fields

    try:
        read(kind, json.dumps(asked).encode())
        is_read = True
    except Refusal:
        is_read = False

    assert told(document, name).is_valid(asked) == is_read


async def test_every_answer_is_as_described(tmp_path: Path) -> None:
    with Capture(tmp_path / "chats.jsonl") as capture:
        async with described(capture=capture) as (client, document):
            capture.observe(answered(id="x"))
            answers = [
                ("/v1/models", "get", await client.get("/v1/models")),
                ("/v1/models/{name}", "get", await client.get("/v1/models/base:none:direct")),
                ("/v1/models/{name}", "get", await client.get("/v1/models/nobody")),
                ("/healthz", "get", await client.get("/healthz")),
                ("/readyz", "get", await client.get("/readyz")),
                ("/openapi.json", "get", await client.get("/openapi.json")),
                ("/v1/models", "get", await client.get("/v1/models", headers={"host": "elsewhere.example"})),
            ]
            bodies = {
                "/v1/chat/completions": (ASKED, ASKED | {"stream": True}, ASKED | {"model": "x"}, ASKED | {"n": 0}),
                "/v1/completions": (KINDS["CompletionRequest"][1], {}),
                "/v1/search": (KINDS["SearchRequest"][1], {"model": "nobody", "query": "x"}),
                "/v1/feedback": (KINDS["Feedback"][1], {"id": "nobody", "rating": "up"}, {}),
            }
            for path, asked in bodies.items():
                answers += [(path, "post", await client.post(path, json=body)) for body in asked]

    assert document == answers[5][2].json()
    for path, method, answer in answers:
        described_as = document["paths"][path][method]["responses"][str(answer.status_code)]
        if "$ref" in described_as:
            described_as = document["components"]["responses"][str(answer.status_code)]
        kind = answer.headers["content-type"].partition(";")[0]
        schema = validator(document, described_as["content"][kind]["schema"])
        if kind == "application/json":
            schema.validate(answer.json())
            continue
        *chunks, done = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
        assert done == "[DONE]"
        for chunk in chunks:
            schema.validate({"data": chunk})
            told(document, "Chunk").validate(json.loads(chunk))


async def test_every_route_is_described_and_every_description_has_a_route(tmp_path: Path) -> None:
    with Capture(tmp_path / "chats.jsonl") as capture:
        async with described(capture=capture) as (client, document):
            paths = [
                (path, method) for path, told in document["paths"].items() for method in told if method != "parameters"
            ]
            said = [await client.request(method, path.replace("{name}", "x")) for path, method in paths]

    assert all("there is no such route" not in answer.text and answer.status_code != 405 for answer in said)
    assert {path for path, _ in paths} == {route.path for route in _routes()} - {"/"}


async def test_with_keys_a_key_is_described_and_needed_to_read_the_description() -> None:
    key, line = new_key("ann")
    name, digest = line.split()
    async with described(Keys({name: digest})) as (client, document):
        without = await client.get("/openapi.json")
        with_key = await client.get("/openapi.json", headers={"authorization": f"Bearer {key}"})

    assert (without.status_code, with_key.json()) == (401, document)
    assert "/v1/feedback" not in document["paths"], "nothing is captured"
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "401" in document["paths"]["/v1/search"]["post"]["responses"]


def _routes() -> list[Any]:
    pipeline = Pipeline(Stack(model="m", url="http://127.0.0.1:9/v1", strategies={"direct": Prompted(kind="direct")}))
    gateway = Gateway(pipeline)
    return application(gateway, [*page.routes(None), *openapi.routes(gateway, keyed=False, captured=False)]).routes
