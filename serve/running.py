"""`serve up`: a gateway on a socket, until it is told to stop.

Knows nothing of requests.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import uvicorn

from serve.chat import ServeError
from serve.door import LOOPBACK
from serve.gateway import Gateway, application, guarded
from serve.pipeline import Pipeline, probe_adapters

REFRESH_SECONDS: Final = 5.0
"""How often the indexes are looked at: a few bytes each, unless one has a new generation."""

_logger = logging.getLogger(__name__)


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket of this address, bound before anything slow is started."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServeError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from None
    return listener


async def serve(pipeline: Pipeline, listener: socket.socket, state: Callable[[], str] = str) -> None:
    """Answer until SIGTERM or SIGINT; then no new questions, and some time for those under way."""
    async with pipeline, _refreshed(pipeline):
        await probe_adapters(pipeline)
        gateway = Gateway(pipeline, state)
        host, port = listener.getsockname()[:2]
        app = guarded(application(gateway), gateway, LOOPBACK if host in LOOPBACK else None)
        listener.listen(2048)  # from now on nobody is turned away
        address, first = f"http://{host}:{port}/v1", pipeline.stack.combinations[0]
        _logger.info("%d combinations at %s, for instance:", len(gateway.offered), address)
        _logger.info('python -m serve ask %s "Who are you?" --url %s', first, address)
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=round(gateway.settings.drain_seconds),
        )
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
