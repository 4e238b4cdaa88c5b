"""`serve up`: a gateway on a socket, until it is told to stop.

Knows nothing of requests.
"""

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Self

import uvicorn
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from serve import log, openapi, page
from serve.admission import GatewaySettings
from serve.capture import Capture
from serve.chat import ServeError
from serve.door import Door
from serve.gateway import Gateway, application
from serve.keeper import Keeper
from serve.keys import Keys
from serve.metrics import Metrics
from serve.pipeline import Pipeline, probe_adapters
from serve.stack import Stack
from serve.upstream import Patience

REFRESH_SECONDS: Final = 5.0
"""How often the indexes are looked at: a few bytes each, unless one has a new generation."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What a gateway has besides its pipeline, opened before anything slow is started."""

    listener: socket.socket
    keys: Keys | None = None
    capture: Capture | None = None
    measured: socket.socket | None = None
    """Where Prometheus reads the metrics."""

    @classmethod
    @contextmanager
    def opened(cls, stack: Stack, port: int, metrics: int | None) -> Iterator[Self]:
        """Raises ServeError or FileError for a port, a file of keys or a capture that cannot be used."""
        listener, measured = listen(port), None if metrics is None else listen(metrics)
        keys = Keys.load(stack.gateway.keys) if stack.gateway.keys else None
        with Capture(stack.capture) if stack.capture else nullcontext() as capture:
            yield cls(listener=listener, keys=keys, capture=capture, measured=measured)


def listen(port: int) -> socket.socket:
    """A loopback socket."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ServeError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from None
    return listener


def patience(settings: GatewaySettings) -> Patience:
    """How long a gateway waits for its engine; a caller who is turned away can come back, so it asks twice at most."""
    return Patience(
        connect=2.0,
        first=settings.first_token_seconds,
        idle=settings.idle_seconds,
        whole=settings.total_seconds,
        back_off=(0.0,),
    )


async def serve(pipeline: Pipeline, front: Front, keeper: Keeper | None = None) -> None:
    """Answer until SIGTERM or SIGINT; then no new questions, and some time for those under way.

    `keeper` has the pipeline's engine, if it is one of our own.
    """
    metrics, kept = Metrics(), [front.capture.observe] if front.capture else []
    gateway = Gateway(pipeline, (log.tell, metrics.observe, *kept))
    metrics.running.set_function(lambda: gateway.admission.running)
    metrics.waiting.set_function(lambda: gateway.admission.waiting)
    async with pipeline, _refreshed(pipeline), _told(metrics, front.measured):
        if keeper is None:
            await probe_adapters(pipeline)
        async with keeper.keeping(pipeline) if keeper else nullcontext():
            await pipeline.warm()
            gc.collect()
            gc.freeze()  # what is there now stays: a collection need not go through it while streams wait
            try:
                await _answer(gateway, front)
            finally:
                gc.unfreeze()


async def _answer(gateway: Gateway, front: Front) -> None:
    told = openapi.routes(gateway, keyed=front.keys is not None, captured=front.capture is not None)
    app = Door(application(gateway, [*page.routes(front.capture), *told]), front.keys)
    front.listener.listen(2048)  # from now on nobody is turned away
    address = f"http://127.0.0.1:{front.listener.getsockname()[1]}"
    first = gateway.pipeline.stack.combinations[0]
    _logger.info("%d combinations at %s (open it in a browser), for instance:", len(gateway.offered), address)
    _logger.info('python -m serve ask %s "Who are you?" --url %s/v1', first, address)
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=round(gateway.settings.drain_seconds),
    )
    await uvicorn.Server(settings).serve(sockets=[front.listener])


@asynccontextmanager
async def _told(metrics: Metrics, listener: socket.socket | None) -> AsyncIterator[None]:
    """Inside, Prometheus reads the metrics at `/metrics` of this socket."""

    async def text(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    if listener is None:
        yield
        return
    app = web.Application()
    app.router.add_get("/metrics", text)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    try:
        yield
    finally:
        await runner.cleanup()


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
