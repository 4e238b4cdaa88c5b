"""A grid on engines that Ray runs: is it the same grid, does it outlive a machine, and what does Ray cost?

    python -m scripts.check_ray node out/demo/world/grid.yaml       # two Ray nodes here, one killed in the middle
    python -m scripts.check_ray overhead out/demo/world/grid.yaml   # one replica against an engine without Ray

A node has processes of its own on this machine; it dies by SIGKILL to all of them, its engine's included. Knows nothing
of how replicas are placed or found.
"""

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Final, NoReturn

import httpx

from eval.grid import Grid, load_grid
from eval.record import Record, read_records
from eval.run import run, started
from retrieval.cluster import HERE
from retrieval.console import Parser, tell_progress
from scripts.serving import descendants
from serve.combination import BASE
from serve.stack import Stack
from serve.upstream import Server

ANSWERED: Final = re.compile(r"^vllm:request_success_total\S* (\S+)$", re.MULTILINE)
SHARE: Final = 0.3
"""Of the answers that are there when the node is killed."""
MINUTES: Final = 15
"""A run that takes longer has gone wrong."""


@dataclass(slots=True)
class Watched:
    """A run, and what is seen of it from beside."""

    grid: Grid
    folder: Path
    server: Server | None = None
    starting: float = 0.0
    """Seconds until all engines were ready."""
    asking: float = 0.0
    """Seconds from then on, the engines' end included."""
    answered: dict[str, int] = field(default_factory=dict)
    """How many answers each engine had given in the end, of those that were still there."""

    def run(self) -> None:
        """To its end, with nothing missing."""
        began = time.monotonic()

        @contextmanager
        def noted(stack: Stack) -> Iterator[Server | None]:
            with started(stack) as self.server:
                self._await_all()
                self.starting = time.monotonic() - began
                yield self.server
                self.answered = self.counted()

        results = run(self.grid, self.folder, noted)
        self.asking = time.monotonic() - began - self.starting
        assert not results.lacking, f"{results.lacking} answers are missing; {self.folder}/failures.jsonl says why"

    def _await_all(self) -> None:
        """A run would begin with the first; here each is to have its part."""
        until = time.monotonic() + MINUTES * 60
        while self.server and len(self.server.urls) < self.grid.stack.engine.replicas:
            assert time.monotonic() < until, f"not all engines came within {MINUTES} minutes"
            time.sleep(0.1)

    @property
    def records(self) -> dict[tuple[str, str], Record]:
        """By place; AssertionError where one is there twice."""
        found = list(read_records(self.folder / "records.jsonl"))
        placed = {(str(one.combination), one.id): one for one in found}
        assert len(placed) == len(found), f"{len(found) - len(placed)} answers are there twice"
        return placed

    @property
    def lines(self) -> int:
        """How many records there are by now."""
        file = self.folder / "records.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def counted(self) -> dict[str, int]:
        """How many answers each engine has given that is there, by its own count."""
        urls = () if self.server is None or self.server.socket else tuple(self.server.urls)
        found: dict[str, int] = {}
        for url in urls:
            with suppress(httpx.TransportError):  # it may be ending
                told = httpx.get(url.removesuffix("/v1") + "/metrics", trust_env=False).text
                found[url] = round(sum(map(float, ANSWERED.findall(told))))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A run whose node was killed, held against that of one engine without Ray."""

    answers: int
    kept: int
    """Those that were there when the node was killed."""
    before: Mapping[str, int]
    """What each engine had answered by then."""
    after: Mapping[str, int]
    """What those had answered that were there in the end."""
    prompts: int
    """How many are the single engine's, to the last character; so the others."""
    texts: int
    scores: int


def outlive(grid: Grid, home: Path) -> Outcome:
    """Run it on one engine, then on two nodes of which one dies in the middle."""
    single = Watched(grid, home / "single")
    single.run()
    expected = single.records
    with two_nodes() as (address, victim):
        watched = Watched(on_ray(grid, address, 2), home / "ray")
        death = _Death(watched, victim, round(SHARE * len(expected)))
        death.start()
        watched.run()
        death.join(1)
    assert death.kept, "the run was over before a node could be killed"
    found = watched.records
    run(watched.grid, single.folder, _unneeded)
    failures = watched.folder / "failures.jsonl"
    assert not failures.exists() or not failures.stat().st_size, f"{failures} has lines"
    assert found.keys() == expected.keys(), "the two runs have different answers"
    pairs = [(found[place], one) for place, one in expected.items()]
    return Outcome(
        answers=len(found),
        kept=death.kept,
        before=death.before,
        after=watched.answered,
        prompts=sum(one.prompt == other.prompt for one, other in pairs),
        texts=sum(one.text == other.text for one, other in pairs),
        scores=sum(one.scores == other.scores for one, other in pairs),
    )


def _unneeded(_: Stack) -> NoReturn:
    raise AssertionError("answers of one engine are asked for again on Ray")


class _Death(Thread):
    """Kills a node when so many records are there and every engine has had its part."""

    def __init__(self, watched: Watched, raylet: int, records: int) -> None:
        super().__init__(daemon=True)
        self._watched, self._raylet, self._records = watched, raylet, records
        self.kept = 0
        self.before: Mapping[str, int] = {}

    def run(self) -> None:
        until = time.monotonic() + MINUTES * 60
        while self._watched.lines < self._records or not all((self._watched.counted() or {"": 0}).values()):
            if time.monotonic() > until:
                return
            time.sleep(0.05)
        self.before, self.kept = self._watched.counted(), self._watched.lines
        for pid in (self._raylet, *descendants(self._raylet)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def two_nodes() -> Iterator[tuple[str, int]]:
    """A cluster's address, and the process of its second node whose death is the node's."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False, "temp_dir": folder})
        try:
            node = cluster.add_node(num_cpus=1)
            yield cluster.address, node.all_processes["raylet"][0].process.pid
        finally:
            cluster.shutdown()


def first(grid: Grid, examples: int) -> Grid:
    """The grid over the first examples."""
    return replace(grid, task=replace(grid.task, examples=grid.task.examples[:examples]))


def cut(grid: Grid) -> Grid:
    """Four cells: base and first adapter, without retrieval and with the first retriever, in the first strategy."""
    stack = grid.stack
    adapter, retriever, strategy = (next(iter(one)) for one in (stack.adapters, stack.retrievers, stack.strategies))
    settings = replace(
        grid.settings,
        adapters=(BASE, adapter),
        retrievers=("none", retriever),
        strategies=(strategy,),
        only=(),
        baseline=f"{BASE}:none:{strategy}",
    )
    return replace(grid, settings=settings)


def exact(grid: Grid) -> Grid:
    """In float32, so that the shape of a batch cannot change an answer."""
    return replace(grid, stack=replace(grid.stack, engine=replace(grid.stack.engine, dtype="float32")))


def on_ray(grid: Grid, address: str, replicas: int) -> Grid:
    """The same on a Ray cluster."""
    engine = replace(grid.stack.engine, ray=address, replicas=replicas)
    return replace(grid, stack=replace(grid.stack, engine=engine))


def node(grid: Grid, home: Path) -> None:
    """Print how a grid outlives a node."""
    seen = outlive(exact(grid), home)
    print(
        f"{seen.answers} answers, none missing, none twice, no failures\n"
        f"  when the node was killed, {seen.kept} were there, and the engines had answered {_said(seen.before)} calls\n"
        f"  in the end those that were there had answered {_said(seen.after)}\n"
        f"  as one engine's, in float32: {seen.prompts} prompts, {seen.texts} texts, {seen.scores} rows of scores\n"
        "  in that one's folder a run on Ray has nothing left to ask"
    )


def _said(answered: Mapping[str, int]) -> str:
    return " and ".join(map(str, answered.values()))


def overhead(grid: Grid, home: Path, rounds: int) -> None:
    """Print what Ray adds to a grid: in turns without and with, then with and without."""
    plain, ray = (grid, "without Ray"), (on_ray(grid, HERE, 1), "one replica")
    taken: dict[str, list[Watched]] = {name: [] for _, name in (plain, ray)}
    for turn in range(rounds):
        for one, name in (plain, ray) if turn % 2 == 0 else (ray, plain):
            watched = Watched(one, home / f"{name}-{turn}")
            watched.run()
            taken[name].append(watched)
            print(f"  {name}: start {watched.starting:.1f} s, asking {watched.asking:.1f} s", flush=True)
    asking = {name: sum(one.asking for one in runs) / rounds for name, runs in taken.items()}
    whole = {name: sum(one.starting for one in runs) / rounds + asking[name] for name, runs in taken.items()}
    for what, seconds in (("asking", asking), ("start included", whole)):
        without, with_ray = seconds.values()
        print(f"{what}: {without:.1f} s without Ray, {with_ray:.1f} s with it: {with_ray / without - 1:+.1%}")


def main() -> None:
    parser = Parser(description=__doc__, epilog="example: python -m scripts.check_ray node out/demo/world/grid.yaml")
    parser.add_argument("part", choices=("node", "overhead"))
    parser.add_argument("grid", type=Path, metavar="GRID", help="the demo's, or one like it")
    parser.add_argument("--examples", type=int, default=60, help="how many, in each cell (60)")
    parser.add_argument("--rounds", type=int, default=2, help="of `overhead`: how often each (2)")
    options = parser.parse_args()
    tell_progress("eval", "serve")
    grid = first(load_grid(options.grid), options.examples)
    with tempfile.TemporaryDirectory() as folder:
        if options.part == "node":
            node(cut(grid), Path(folder))
        else:
            overhead(grid, Path(folder), options.rounds)


if __name__ == "__main__":
    main()
