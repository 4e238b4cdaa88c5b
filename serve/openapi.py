"""`GET /openapi.json`: what this gateway takes and what it gives, in OpenAPI 3.1.

Requests are described by the classes that read them, so the two cannot differ. What is answered is written down here,
and a fuzzer holds the gateway to it (`python -m scripts.fuzz_serve`). Knows nothing of how anything is answered.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve.asked import ChatRequest, CompletionRequest, SearchRequest, Turn
from serve.capture import Feedback
from serve.gateway import Gateway

Object = dict[str, Any]

VERSION: Final = "1"
"""Of the API, as in `/v1`."""


def routes(gateway: Gateway, *, keyed: bool, captured: bool) -> list[BaseRoute]:
    """The description of this gateway: the models on offer at the moment, its door as it stands."""

    async def show(_: Request) -> Response:
        return JSONResponse(document(tuple(gateway.offered), tuple(gateway.pipeline.stack.retrievers), keyed, captured))

    return [Route("/openapi.json", show)]


@lru_cache(maxsize=1)
def document(models: tuple[str, ...], retrievers: tuple[str, ...], keyed: bool, captured: bool) -> Object:
    """All of it. Without `capture:` there is no feedback to give, without keys none to send."""
    ask = {"model": models[0]}
    talk = {"messages": [{"role": "user", "content": _QUESTION}]}
    paths: dict[str, Object] = {
        "/v1/models": {"get": _operation("Every combination and alias.", _json("Models"))},
        "/v1/models/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"enum": list(models)}}],
            "get": _operation("One of them.", _json("Model"), (404,)),
        },
        "/v1/chat/completions": {
            "post": _operation(
                "A question, answered the way that `model` names.", _json("ChatAnswer") | EVENTS, _ASKING
            )
            | _body("ChatRequest", ask | talk, ask | talk | {"stream": True, "stream_options": {"include_usage": True}})
        },
        "/v1/completions": {
            "post": _operation("The prompt is a question.", _json("TextAnswer") | EVENTS, _ASKING)
            | _body("CompletionRequest", ask | {"prompt": _QUESTION, "max_tokens": 64, "temperature": 0.5})
        },
        "/v1/search": {
            "post": _operation("Sources without an answer.", _json("Found"), _ASKING)
            | _body("SearchRequest", ask | {"query": _QUESTION})
        },
        "/healthz": {"get": _open(_operation("Whether this process answers.", _json("Status")))},
        "/readyz": {"get": _open(_operation("Whether a question would be answered.", _json("Status")))},
        "/openapi.json": {"get": _operation("This description.", {"application/json": {"schema": {"type": "object"}}})},
    }
    paths["/readyz"]["get"]["responses"]["503"] = _answer("It would not.", _json("Status"))
    if captured:
        said = {"id": "chatcmpl-0", "rating": "down", "correction": "Mira Tall"}
        heard = _operation("What a person says of an answer.", _json("Heard"), (400, 404, 413, 503))
        paths["/v1/feedback"] = {"post": heard | _body("Feedback", said)}
    requests = {
        **_asked(ChatRequest, models),
        **_asked(CompletionRequest, models),
        **_asked(SearchRequest, (*retrievers, *models)),
        **_asked(Feedback),
    }
    door = _KEYED if keyed else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fulcrum", "version": VERSION, "description": _ABOUT},
        "paths": _behind(paths, keyed),
        "components": {"schemas": requests | _ANSWERS, "responses": _REFUSALS, "headers": _HEADERS, **door},
        **({"security": [{"key": []}]} if keyed else {}),
    }


_QUESTION: Final = "Who founded Varn?"
_ABOUT: Final = (
    "One question, answered one way: a model id is `adapter:retriever:strategy`. A field that means nothing here is "
    "refused by name; `null` is a field left out. Programs on this machine may ask; other sites' pages may not (403), "
    "and no name is answered to but this machine's own (421)."
)
EVENTS: Final = {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}}}
"""With `stream`. Version 3.1 does not say whether a stream's schema is of the whole or of each event: here, of each."""
_WHY: Final[Mapping[int, str]] = {
    400: "A field is wrong, or means nothing here: `param` names it.",
    401: "A key is needed.",
    403: "A page of another site asks.",
    404: "There is no such thing; near ones are named.",
    413: "The body is too long.",
    421: "This server was called by a name that is not this machine's.",
    429: "This key has as many questions under way as it may.",
    500: "A fault of this server's; its log says more.",
    503: "Too many questions, or no engine, for now.",
    504: "The answer took too long.",
}
_TRY_AGAIN: Final = (429, 503)
"""Where the answer says when."""
_ASKING: Final = (400, 404, 413, 429, 500, 503, 504)


def _operation(summary: str, content: Object, refusals: Iterable[int] = ()) -> Object:
    refused = {str(status): {"$ref": f"#/components/responses/{status}"} for status in (*refusals, 403, 421)}
    return {"summary": summary, "responses": {"200": _answer("As asked.", content), **refused}}


def _body(request: str, *examples: Object) -> Object:
    named = {str(number): {"value": example} for number, example in enumerate(examples, start=1)}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": _json(request)["application/json"] | {"examples": named}},
        }
    }


def _open(operation: Object) -> Object:
    """Told without a key."""
    return operation | {"security": []}


def _behind(paths: Object, keyed: bool) -> Object:
    """With keys, what is not open may answer that one is needed."""
    for path in paths.values():
        for operation in path.values():
            if keyed and isinstance(operation, dict) and "security" not in operation:
                operation["responses"]["401"] = {"$ref": "#/components/responses/401"}
    return paths


def _answer(said: str, content: Object, headers: Iterable[str] = ()) -> Object:
    named = {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *headers)}
    return {"description": said, "content": content, "headers": named}


def _json(name: str) -> Object:
    return {"application/json": {"schema": _ref(name)}}


def _asked(kind: type[Any], models: Iterable[str] = ()) -> Object:
    """The schemas of a request's class and of the classes in it. Null is a field left out, whatever it is called."""
    schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
    parts: Object = schema.pop("$defs", {})
    for record in (schema, *(parts[name] for name in parts if name == Turn.__name__)):
        record["additionalProperties"] = {"type": "null"}
        for name in record["properties"].keys() - record["required"]:
            record["properties"][name] = {"anyOf": [record["properties"][name], {"type": "null"}]}
    if models:
        schema["properties"]["model"] = {"enum": list(models)}
    return parts | {kind.__name__: schema}


def _record(required: Object, **optional: Object) -> Object:
    """An object that has these, and may have more."""
    return {"type": "object", "required": list(required), "properties": required | optional}


def _list(of: Object) -> Object:
    return {"type": "array", "items": of}


def _ref(name: str) -> Object:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_MAYBE: Final = {"type": ["string", "null"]}


_DONE: Final = {"const": "[DONE]"}
_EVENT: Final = {"anyOf": [_ref("Chunk"), _ref("Error")]}
"""An error is a stream's last event, and otherwise `[DONE]` is, which is no JSON."""


def _completion(kind: str, choice: Object) -> Object:
    """An answer in one piece. What the engine says besides is passed on."""
    return _record(
        {
            "id": _TEXT,
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": _TEXT,
            "choices": _list(_record({"index": _COUNT, "finish_reason": _MAYBE, **choice})),
            "usage": _ref("Usage"),
            "sources": _list(_ref("Source")),
            "unknown_citations": _COUNT,
        }
    )


_ANSWERS: Final[Object] = {
    "Model": _record(
        {"id": _TEXT, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": _TEXT}
        | dict.fromkeys(("combination", "adapter", "retriever", "strategy"), _TEXT)
    ),
    "Models": _record({"object": {"const": "list"}, "data": _list(_ref("Model"))}),
    "Source": _record(
        {"n": {"type": "integer", "minimum": 1}, "start": _COUNT, "end": _COUNT, "score": _NUMBER}
        | dict.fromkeys(("id", "document", "title", "text"), _TEXT)
    ),
    "Usage": _record(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _COUNT)),
    "Annotation": _record(
        {
            "type": {"const": "url_citation"},
            "url_citation": _record(
                dict.fromkeys(("url", "title", "document", "passage"), _TEXT)
                | dict.fromkeys(("start_index", "end_index"), _COUNT)
            ),
        }
    ),
    "ChatAnswer": _completion(
        "chat.completion",
        {"message": _record({"role": _TEXT, "content": _MAYBE, "annotations": _list(_ref("Annotation"))})},
    ),
    "TextAnswer": _completion("text_completion", {"text": _TEXT, "annotations": _list(_ref("Annotation"))}),
    "Event": _record(
        {"data": {"anyOf": [_DONE, _TEXT | {"contentMediaType": "application/json", "contentSchema": _EVENT}]}}
    ),
    "Chunk": _record({"id": _TEXT, "created": {"type": "integer"}, "model": _TEXT, "choices": _list(_record({}))})
    | {"description": "The first has `sources`; the delta that comes with `finish_reason` has `annotations`."},
    "Found": _record({"object": {"const": "list"}, "model": _TEXT, "data": _list(_ref("Source"))}),
    "Heard": _record({"id": _TEXT, "object": {"const": "feedback"}}),
    "Status": _record({"status": _TEXT}),
    "Error": _record(
        {
            "error": _record(
                {
                    "message": _TEXT,
                    "type": {"enum": ["invalid_request_error", "server_error"]},
                    "param": _MAYBE,
                    "code": _MAYBE,
                }
            )
        }
    ),
}
_HEADERS: Final[Object] = {
    "X-Request-Id": {
        "description": "Also in the gateway's log and in the engine's.",
        "required": True,
        "schema": _TEXT,
    },
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}},
}
_REFUSALS: Final[Object] = {
    str(status): _answer(why, _json("Error"), ["Retry-After"] if status in _TRY_AGAIN else [])
    for status, why in _WHY.items()
}
_KEYED: Final[Object] = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
