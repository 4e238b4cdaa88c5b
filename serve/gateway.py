"""The stack's combinations as models of an OpenAI-compatible server. It asks the pipeline, as an evaluation does.

Knows nothing of engines, and nothing of how an answer comes about.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from retrieval.passage import Hit, RetrievalError
from serve.chat import Answer, ServeError, Unavailable
from serve.pipeline import Piece, Pipeline, probe_adapters
from serve.wire import ChatRequest, Completion, Refusal, card, event

REFRESH_SECONDS: Final = 5.0
"""How often the indexes are looked at: a few bytes each, unless one has a new generation."""

_logger = logging.getLogger(__name__)


def application(pipeline: Pipeline) -> Starlette:
    """The routes, over an open pipeline."""
    combinations = pipeline.stack.combinations
    cards = {str(one): card(one, int(time.time())) for one in combinations}

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": list(cards.values())})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in cards:
            return _refused(Refusal(404, f"the model {name!r} does not exist", param="model", code="model_not_found"))
        return JSONResponse(cards[name])

    async def completions(request: Request) -> Response:
        try:
            return await _complete(pipeline, ChatRequest.parse(await request.body()))
        except (Refusal, ServeError, RetrievalError) as error:
            return _refused(_refusal(error))

    async def health(_: Request) -> Response:
        well = await pipeline.healthy()
        return JSONResponse({"status": "ok" if well else "the engine does not answer"}, 200 if well else 503)

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name}", model),
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/healthz", health),
        ]
    )


def listen(port: int) -> socket.socket:
    """A loopback socket, bound before anything slow is started."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ServeError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from None
    return listener


async def serve(pipeline: Pipeline, listener: socket.socket) -> None:
    """Answer until SIGTERM or SIGINT; then no new questions, and up to 30 s for those under way."""
    async with pipeline, _refreshed(pipeline):
        await probe_adapters(pipeline)
        listener.listen()  # from now on nobody is turned away
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        first = pipeline.stack.combinations[0]
        _logger.info("%d combinations at %s, for instance:", len(pipeline.stack.combinations), address)
        _logger.info('python -m serve ask %s "Who are you?" --url %s', first, address)
        settings = uvicorn.Config(application(pipeline), log_config=None, timeout_graceful_shutdown=30)
        await uvicorn.Server(settings).serve(sockets=[listener])


@asynccontextmanager
async def _refreshed(pipeline: Pipeline) -> AsyncIterator[None]:
    """Inside, answers come from what was published last, a few seconds late."""

    async def refresh() -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await asyncio.to_thread(pipeline.refresh)
            except Exception:  # ours to mend; what is open goes on answering
                _logger.exception("a new generation could not be taken up")

    task = asyncio.create_task(refresh())
    try:
        yield
    finally:
        task.cancel()


async def _complete(pipeline: Pipeline, asked: ChatRequest) -> Response:
    combination = asked.combination(pipeline.stack.combinations)
    query, sampling = asked.query(), asked.sampling(pipeline.stack.sampling)
    completion = Completion(asked.model)
    if not asked.stream:
        return JSONResponse(completion.whole(await pipeline.ask(combination, query, sampling=sampling)))
    pieces = pipeline.stream(combination, query, sampling=sampling)
    hits, first = await _beginning(pieces)
    include_usage = asked.stream_options.get("include_usage", False)
    return StreamingResponse(_events(completion, hits, first, pieces, include_usage), media_type="text/event-stream")


async def _beginning(pieces: AsyncIterator[Piece]) -> tuple[tuple[Hit, ...], Piece]:
    """The sources and the first piece after them: until then a refusal still has an HTTP status of its own."""
    hits, first = await anext(pieces), await anext(pieces)
    assert isinstance(hits, tuple)
    return hits, first


async def _events(
    completion: Completion, hits: tuple[Hit, ...], first: Piece, rest: AsyncGenerator[Piece, None], include_usage: bool
) -> AsyncIterator[str]:
    yield event(completion.opening(hits))
    piece = first
    async with aclosing(rest):  # a listener who goes away stops the engine's work for him
        try:
            while isinstance(piece, str):
                yield event(completion.piece(piece))
                piece = await anext(rest)
        except (ServeError, RetrievalError) as error:
            yield event(_refusal(error).body)
            return
    assert isinstance(piece, Answer)
    for chunk in completion.closing(piece, include_usage):
        yield event(chunk)
    yield event("[DONE]")


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    return Refusal(503 if isinstance(error, Unavailable | RetrievalError) else 400, str(error))


def _refused(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, refusal.status)
