"""The adapters of an engine that runs: taken up when they come or change, let go of when they are gone.

Knows of vLLM no more than how an adapter is loaded and forgotten, and nothing of who asks.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from serve import adapters
from serve.base import model_folder
from serve.chat import ServeError, Unavailable
from serve.engine import Engine, adapter_problems
from serve.pipeline import NO_EFFECT, Pipeline, dead_adapters, unchanged
from serve.stack import Stack
from serve.upstream import Upstream

_logger = logging.getLogger(__name__)


class Shelf:
    """What an engine has loaded for a pipeline, and what lies where it came from."""

    def __init__(self, stack: Stack, engine: Engine, pipeline: Pipeline) -> None:
        """`stack` has every adapter that there should be; the engine was started with those that can be served."""
        self._stack = stack
        self._engine = engine
        self._pipeline = pipeline
        self._names = dict(engine.server.names)
        self._loaded = set(self._names.values())
        self._stamps = dict(engine.stamps)
        self._retired: list[tuple[float, str]] = []

    async def probe(self, fatal: Iterable[str] = ()) -> None:
        """Let go of the adapters that change nothing; ServeError when some of them are `fatal`."""
        dead = await dead_adapters(self._pipeline)
        stack = self._pipeline.stack
        told = {name: f"{stack.where('adapters', name)}: {name} {NO_EFFECT}" for name in dead}
        if refused := set(fatal) & told.keys():
            raise ServeError("\n".join(told[name] for name in told if name in refused))
        for sentence in told.values():
            _logger.warning(sentence)
        self._use({name: known for name, known in self._names.items() if name not in told})

    async def look(self) -> None:
        """Take up what is new or other than it was, and let go of what is gone. What cannot be used is said once."""
        await self._forget()
        listed = (await asyncio.to_thread(self._stack.relisted)).adapters
        stamps = {name: adapters.stamp(path) for name, path in listed.items()}
        changed = [name for name, stamp in stamps.items() if stamp != self._stamps.get(name)]
        if not changed and stamps.keys() == self._stamps.keys():
            return
        self._stamps = stamps
        names = {name: known for name, known in self._names.items() if name in listed}
        for name in self._names.keys() - names.keys():
            _logger.info("the adapter %s is gone", name)
        for name in changed:
            try:
                names[name] = await self._taken_up(name, listed[name], others=len(names.keys() - {name}))
                _logger.info("the adapter %s is in use, as %s", name, names[name])
            except Unavailable:  # no fault of the adapter's
                del self._stamps[name]
            except (ServeError, OSError) as error:
                kept = "; what it was before goes on" if name in names else ""
                _logger.warning("the adapter %s is not taken up: %s%s", name, error, kept)
        self._stack = replace(self._stack, adapters=listed)
        self._use(names)

    async def _taken_up(self, name: str, path: Path, others: int) -> str:
        """What the engine calls it now."""
        if refusal := await asyncio.to_thread(self._engine.refusal, path, others):
            raise ServeError(refusal)
        home = await asyncio.to_thread(adapters.stage, name, path, self._engine.folder)
        if home.name not in self._loaded:
            await self._pipeline.line.send("load_lora_adapter", {"lora_name": home.name, "lora_path": str(home)})
            self._loaded.add(home.name)
        line, sampling = self._pipeline.line, self._pipeline.stack.sampling
        if await unchanged({name: Upstream(line, home.name, sampling)}, self._pipeline):
            self._retired.append((time.monotonic(), home.name))
            raise ServeError(f"{path} {NO_EFFECT}")
        return home.name

    def _use(self, names: dict[str, str]) -> None:
        """From now on; questions under way go on with what they began with, as long as a question may last."""
        until = time.monotonic() + self._pipeline.stack.gateway.total_seconds
        self._retired += [(until, known) for known in self._names.values() if known not in names.values()]
        self._names = names
        paths = {name: self._stack.adapters[name] for name in names}
        self._pipeline.adopt(paths, replace(self._engine.server, names=names))

    async def _forget(self) -> None:
        """Unload what nobody can be asking any more."""
        now = time.monotonic()
        due = {known for until, known in self._retired if until <= now}
        self._retired = [(until, known) for until, known in self._retired if until > now]
        for known in due & self._loaded - set(self._names.values()):
            await self._pipeline.line.send("unload_lora_adapter", {"lora_name": known})
            self._loaded.remove(known)
            shutil.rmtree(self._engine.folder / known, ignore_errors=True)


def sound(stack: Stack, doubtful: Iterable[str]) -> Stack:
    """The stack without those of the doubtful adapters that cannot be served, or find no room."""
    model, kept = model_folder(stack.model), dict(stack.adapters)
    for name in doubtful:
        if model is None or any(adapter_problems(stack, kept[name], model)):
            del kept[name]
    named_first = sorted(kept, key=stack.on_the_shelf)
    return replace(stack, adapters={name: kept[name] for name in named_first[: stack.engine.max_loras]})
