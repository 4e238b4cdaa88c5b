"""Keeps an engine running for a gateway: another when it dies, with the adapters as they come, change and go.

    with Keeper(stack) as keeper:
        pipeline = Pipeline(keeper.stack, keeper.server)
        async with keeper.keeping(pipeline):
            ...

Knows nothing of requests, or of how an engine is started.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from serve.chat import ServeError
from serve.engine import LOG, Engine
from serve.pipeline import Pipeline
from serve.shelf import Shelf, sound
from serve.stack import Stack
from serve.upstream import Server

PULSE: Final = 0.2
"""Seconds between two looks at whether the engine still runs."""
ASK_SECONDS: Final = 1.0
"""Seconds between two questions whether it still can."""
LOOK_SECONDS: Final = 5.0
"""Seconds between two looks at where the adapters lie."""
PAUSES: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds before an engine is started again: the first time, the second, and so on."""
SOUND_SECONDS: Final = 120.0
"""An engine that has run for so long died of something new: the pauses begin again."""

_logger = logging.getLogger(__name__)


class Keeper:
    """One engine after the other for one stack. The first is started by `with`, which raises its ServeError."""

    def __init__(self, stack: Stack, log: Path = LOG) -> None:
        self._stack = stack
        self._log = log
        self._engine = Engine(sound(stack, filter(stack.on_the_shelf, stack.adapters)), log)

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._engine.__exit__()

    @property
    def stack(self) -> Stack:
        """With the adapters that the engine was started with."""
        return self._engine.stack

    @property
    def server(self) -> Server:
        return self._engine.server

    @asynccontextmanager
    async def keeping(self, pipeline: Pipeline) -> AsyncIterator[None]:
        """Inside, the pipeline has an engine. ServeError for an adapter named by the stack that changes nothing."""
        shelf = Shelf(self._stack, self._engine, pipeline)
        await shelf.probe(fatal=[name for name in self.stack.adapters if not self.stack.on_the_shelf(name)])
        await shelf.look()
        task = asyncio.create_task(self._keep(pipeline, shelf))
        try:
            yield
        finally:
            self._engine.give_up()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _keep(self, pipeline: Pipeline, shelf: Shelf) -> None:
        asked = looked = began = time.monotonic()
        deaths = 0
        while True:
            await asyncio.sleep(PULSE)
            now = time.monotonic()
            over = not self._engine.alive
            if not over and now - asked > ASK_SECONDS:
                over, asked = await pipeline.line.is_over(), now
            if over:
                deaths = 0 if now - began > SOUND_SECONDS else deaths
                deaths, shelf = await self._another(pipeline, deaths)
                looked = began = time.monotonic()
            elif now - looked > LOOK_SECONDS:
                with _noted():
                    await shelf.look()
                looked = time.monotonic()

    async def _another(self, pipeline: Pipeline, deaths: int) -> tuple[int, Shelf]:
        """Start an engine until one runs; give how many have died by then, and its adapters."""
        while True:
            pause = PAUSES[min(deaths, len(PAUSES) - 1)]
            deaths += 1
            pipeline.line.down(f"the engine has stopped and is being started again; its log is {self._log}.1")
            _logger.error("the engine has stopped; it is started again in %.0f s (log: %s.1)", pause, self._log)
            await asyncio.sleep(pause)
            await asyncio.to_thread(self._engine.__exit__)
            try:
                stack = self._stack.relisted()
                self._engine = Engine(sound(stack, stack.adapters), self._log)
                await asyncio.to_thread(self._engine.__enter__)
            except Exception as error:  # whatever it is, the next try may do
                _logger.error("%s", error, exc_info=not isinstance(error, ServeError))
                continue
            pipeline.adopt(self._engine.stack.adapters, self._engine.server)
            shelf = Shelf(stack, self._engine, pipeline)
            with _noted():
                await shelf.probe()
            return deaths, shelf


@contextmanager
def _noted() -> Iterator[None]:
    """What goes wrong with adapters is said, and stops nothing."""
    try:
        yield
    except ServeError as error:
        _logger.warning("the adapters could not be looked at: %s", error)
    except Exception:
        _logger.exception("the adapters could not be looked at")
