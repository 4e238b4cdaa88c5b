"""`map` over many processes and machines: Ray Data. The only door to Ray in this room.

    python -m retrieval build docs out/index/docs --shards 4 --ray local

Knows nothing of documents or vectors, and leaves scheduling, retries and lost machines to Ray.
"""

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from retrieval.passage import RetrievalError

T = TypeVar("T")
U = TypeVar("U")

HERE: Final = "local"
"""The address that stands for a cluster of this machine alone, which lives as long as it is needed."""


class Each(Protocol):
    """`map`, or one whose calls many processes share: what comes back is in the order of what was given."""

    def __call__(self, function: Callable[[T], U], items: Iterable[T], /) -> Iterator[U]: ...


@contextmanager
def shared(address: str) -> Iterator[Each]:
    """A `map` whose calls a Ray cluster makes; it is started, or joined, when there is a first call to make."""
    try:
        ray = library()
    except RetrievalError as error:
        raise RetrievalError(f"--ray {error}; or leave it out") from None
    try:
        yield partial(_mapped, address)
    finally:
        ray.shutdown()


def _mapped(address: str, function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    # Pickled by us, so that a row is what it was: Ray Data would make Arrow columns of texts and numbers.
    rows = [{"call": pickle.dumps(item)} for item in items]
    if not rows:
        return
    ray = _joined(address)
    machines = ray.cluster_resources()
    gpus, cpus = (int(machines.get(kind, 0)) for kind in ("GPU", "CPU"))
    if not cpus:  # which each worker takes one of, also beside a GPU
        raise RetrievalError(
            f"--ray {address}: no machine of the cluster offers a CPU, so none would do the work; wait for its workers "
            "(`ray status` lists them), or start one with `ray start --address HOST:PORT`"
        )
    # A call at a time for each worker: calls take seconds, and the first worker would take what others wait for.
    workers = ray.data.ActorPoolStrategy(size=min(gpus or cpus, len(rows)), max_tasks_in_flight_per_actor=1)
    calls = ray.data.from_items(rows, override_num_blocks=len(rows))
    done = calls.map(
        _Worker, fn_constructor_args=(function,), compute=workers, num_cpus=1, num_gpus=1 if gpus else None
    )
    try:
        for row in done.iter_rows():
            if row["wrong"]:
                raise RetrievalError(row["wrong"])
            yield pickle.loads(row["result"])
    except ray.exceptions.RayTaskError:
        raise  # a mistake of ours, with where it was made
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise RetrievalError(f"--ray {address}: Ray could not go on ({why}); what came back is kept") from error


class _Worker:
    """Lives in a process of the cluster, so that a model is loaded once and not for every call."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes | str]:
        try:
            return {"result": pickle.dumps(self._function(pickle.loads(row["call"]))), "wrong": ""}
        except RetrievalError as error:  # as a sentence: Ray would wrap it in where it was raised
            return {"result": b"", "wrong": str(error)}


def library() -> Any:
    """Ray, which reports to nobody. RetrievalError, to be put behind what needs it, where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which it asks when it is imported
    try:
        import ray
    except ImportError:
        raise RetrievalError("needs Ray, which is not installed: make ray") from None
    return ray


def join(ray: Any, address: str) -> None:
    """Join the cluster there, or start one here. RetrievalError, to be put behind what asked for it, says why not."""
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # the last wants a token
        raise RetrievalError(
            f"no cluster lets us in there ({' '.join(str(error).split())}); start one with `ray start --head`, and "
            "where it wants a token, as Ray's clusters do unless told otherwise, set RAY_AUTH_MODE=token here too and "
            "copy its head's ~/.ray/auth_token to the same place"
        ) from error


def _joined(address: str) -> Any:
    ray = library()
    from ray.data import DataContext

    if not ray.is_initialized():
        try:
            join(ray, address)
        except RetrievalError as error:
            raise RetrievalError(f"--ray {address}: {error}") from error
    # Ray says how it does it; we say what is done, and what goes wrong.
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    return ray
