"""The stack's combinations as models of an OpenAI-compatible server. It asks the pipeline, as an evaluation does.

Knows nothing of engines, and nothing of how an answer comes about.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from retrieval.passage import RetrievalError
from serve import wire
from serve.admission import Admission, TurnedAway
from serve.asked import Asked, ChatRequest, CompletionRequest, Refusal, SearchRequest, chosen, read
from serve.chat import Answer, ServeError, Unavailable
from serve.combination import Combination
from serve.exchange import Exchange
from serve.pipeline import Piece, Pipeline
from serve.upstream import Chunk
from serve.visit import Gone, Reply, Visit, attended, body_of

T = TypeVar("T", bound=Asked | SearchRequest)
Observer = Callable[[Exchange], None]
Answering = Callable[[Reply], Awaitable[None]]
"""What is to be done for a request as soon as it is its turn."""

SOON: Final = 2
"""Seconds after which a caller may try again when the engine is not there."""

_logger = logging.getLogger(__name__)


class Gateway:
    """An open pipeline, what it may take on, and who is told of what it did."""

    def __init__(self, pipeline: Pipeline, observers: Sequence[Observer] = ()) -> None:
        self.pipeline: Final = pipeline
        self.settings: Final = pipeline.stack.gateway
        self.admission: Final = Admission(self.settings)
        self.started: Final = int(time.time())
        self._observers = observers

    @property
    def offered(self) -> Mapping[str, Combination]:
        """What may be asked now; adapters come and go."""
        return self.pipeline.offered

    def tell(self, exchange: Exchange) -> None:
        """What an observer cannot do is its own trouble: the answer has been given."""
        for observer in self._observers:
            try:
                observer(exchange)
            except Exception:
                _logger.exception("request %s was not noted", exchange.id)


def application(gateway: Gateway, extra: Sequence[BaseRoute] = ()) -> Starlette:
    """The routes, without a door in front of them."""

    async def models(_: Request) -> Response:
        cards = [wire.card(name, one, gateway.started) for name, one in gateway.offered.items()]
        return JSONResponse({"object": "list", "data": cards})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(wire.card(name, chosen(name, gateway.offered), gateway.started))

    async def health(_: Request) -> Response:
        """This process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        """A question would be answered."""
        why = await gateway.pipeline.trouble()
        return JSONResponse({"status": why or "ok"}, 503 if why else 200)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", _Question(gateway, ChatRequest), methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name}", model),
            Route("/v1/completions", _Question(gateway, CompletionRequest), methods=["POST"]),
            Route("/v1/search", _Search(gateway, SearchRequest), methods=["POST"]),
            Route("/healthz", health),
            Route("/readyz", ready),
            *extra,
        ],
        exception_handlers={HTTPException: _unrouted, Refusal: _refused},
    )


class _Endpoint(Generic[T]):
    """A route that is asked something: read, let in, answered, and noted, whatever happens on the way."""

    def __init__(self, gateway: Gateway, kind: type[T]) -> None:
        self.gateway: Final = gateway
        self._kind: Final = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = Visit(id=scope.get("id", ""), key=scope.get("key", ""), route=self._kind.route)
        reply, status, error = Reply(send), 499, "the caller went away"
        try:
            asked = read(self._kind, await body_of(receive, scope, self.gateway.settings.body_bytes))
            answering = await self.prepare(asked, visit)
            async with (
                attended(receive, self.gateway.settings.total_seconds),
                self.gateway.admission.admitted(visit.key) as visit.queue_seconds,
            ):
                await answering(reply)
            status, error = reply.status, ""
        except Gone:
            pass
        except asyncio.CancelledError:  # it was told to stop, and the time to finish is over
            status, error = 503, "this server is stopping"
            await reply.refused(Refusal(status, error, after=SOON))
            raise
        except Exception as raised:
            refusal = _refusal(raised)
            status, error = (502 if reply.status else refusal.status), str(refusal)
            await reply.refused(refusal)
        finally:
            self.gateway.tell(visit.ended(status, error))

    async def prepare(self, asked: T, visit: Visit) -> Answering:
        """Refuse what can be refused before it is anybody's turn; note what is asked, and give what is to be done."""
        raise NotImplementedError


class _Question(_Endpoint[ChatRequest | CompletionRequest]):
    """A question to a combination."""

    async def prepare(self, asked: ChatRequest | CompletionRequest, visit: Visit) -> Answering:
        gateway = self.gateway
        combination = chosen(asked.model, gateway.offered)
        visit.combination, visit.stream = str(combination), asked.stream
        sampling = asked.sampling(gateway.pipeline.stack.sampling, visit.id)
        visit.sampling, visit.messages = sampling.as_sent(), asked.turns
        if len(visit.messages) > (most := gateway.settings.messages):
            sentence = f"{len(visit.messages)} messages; a conversation here has at most {most}"
            raise Refusal(400, sentence, param="messages")
        if asked.single_call and not gateway.pipeline.streams(combination):
            names = ", ".join(asked.single_call)
            why = f"{combination} asks the model more than once, or edits what it says, and has no use for {names}"
            raise Refusal(400, why, param=asked.single_call[0])
        words = "\n".join(str(turn["content"] or "") for turn in visit.messages)
        if problem := await gateway.pipeline.too_long(words):
            raise Refusal(400, problem, param="messages", code="context_length_exceeded")
        query = asked.query()
        envelope = wire.Envelope(asked.route, f"{_PREFIX[asked.route]}-{visit.id}", asked.model)

        async def whole(reply: Reply) -> None:
            answer = await gateway.pipeline.ask(combination, query, sampling=sampling)
            visit.answered(answer)
            said = envelope.whole(answer)
            visit.unknown_citations = said["unknown_citations"]
            await reply.whole(200, said)

        async def streamed(reply: Reply) -> None:
            listener = _Listener(wire.Relay(envelope), visit, reply)
            try:
                answer = await gateway.pipeline.stream(combination, query, listener.hear, sampling)
                visit.answered(answer)
                await listener.end(answer, asked.include_usage)
            finally:
                visit.text, visit.unknown_citations = listener.relay.text, listener.relay.unknown_citations

        return streamed if asked.stream else whole


@dataclass(frozen=True, slots=True)
class _Listener:
    """Passes each piece on as soon as it is heard; until the first of them a refusal still has a status of its own."""

    relay: wire.Relay
    visit: Visit
    reply: Reply

    async def hear(self, piece: Piece) -> None:
        if not isinstance(piece, Chunk):
            self.relay.hits = self.visit.sources = piece
            return
        if event := self.relay.heard(piece):
            await self.reply.events(event)
        if self.visit.first_seconds is None and self.relay.text:
            self.visit.first_seconds = self.visit.seconds

    async def end(self, answer: Answer, include_usage: bool) -> None:
        unheard = b"" if self.reply.status else b"".join(self.relay.made(answer))
        await self.reply.events(unheard + self.relay.ending(answer, include_usage), more=False)


class _Search(_Endpoint[SearchRequest]):
    """What a retriever finds, without an answer."""

    async def prepare(self, asked: SearchRequest, visit: Visit) -> Answering:
        named = {name: name for name in self.gateway.pipeline.stack.retrievers}
        named |= {name: one.retriever for name, one in self.gateway.offered.items()}
        visit.combination = retriever = chosen(asked.model, named)

        async def found(reply: Reply) -> None:
            started = time.perf_counter()
            visit.sources = await self.gateway.pipeline.search(retriever, asked.asking())
            visit.search_seconds = time.perf_counter() - started
            await reply.whole(200, {"object": "list", "model": asked.model, "data": wire.sources(visit.sources)})

        return found


_PREFIX: Final = {"chat": "chatcmpl", "completions": "cmpl"}


def _refusal(error: Exception) -> Refusal:
    """What a caller is told of a failure, with the status that says whose it is."""
    match error:
        case Refusal():
            return error
        case TurnedAway():
            return Refusal(error.status, str(error), after=error.seconds)
        case TimeoutError():
            return Refusal(504, "the answer took longer than this server lets one take")
        case Unavailable() | RetrievalError():
            return Refusal(503, str(error), after=SOON)
        case ServeError():
            return Refusal(400, str(error))
    _logger.error("a request failed", exc_info=error)
    return Refusal(500, "this server failed at it; its log says how")


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return JSONResponse(refusal.body, refusal.status)


async def _unrouted(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "there is no such route; GET /v1/models lists the models", 405: "not with this method"}
    refusal = Refusal(error.status_code, sentence.get(error.status_code, error.detail))
    return JSONResponse(refusal.body, refusal.status, error.headers)
