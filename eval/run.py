"""Ask every question every way, all at once, and keep each answer the moment it comes.

    results = run(load_grid(Path("grid.yaml")), Path("out/demo"))

Only what has no record yet is asked, so the same command resumes, and with nothing left it starts no engine. Knows
nothing of what the scores mean.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from tqdm import tqdm

from eval.energy import gauged
from eval.folder import Results, asked_ids, load_results, locked, prepare
from eval.gold import CrowdedRetriever, GoldRetriever, is_oracle, searched
from eval.grid import Grid, searches
from eval.record import Failure, Journal, Record, RunError, Source
from eval.scoring.scorers import build
from eval.screening import by_lot
from eval.sharing import Exchange, SharedModel, SharedRetriever, drawn, replies
from eval.shown import refuse_test_questions
from eval.task import Example
from eval.workers import work_off
from retrieval.cluster import HERE
from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, ServeError, TooLong, Unavailable
from serve.combination import GOLD, Combination
from serve.layout import shown_in
from serve.opened import open_all
from serve.pipeline import NO_EFFECT, Pipeline, dead_adapters
from serve.replicas import engines
from serve.stack import Stack
from serve.upstream import Server

AHEAD: Final = 4
"""Questions under way for each that the engine may have: they look up their passages, or share a call with others."""

Start = Callable[[Stack], AbstractContextManager[Server | None]]
"""What answers a stack's questions, for as long as the block lasts."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A question to ask one way."""

    cell: Combination
    example: Example
    repeat: int = 0

    @property
    def name(self) -> "Name":
        """What tells it from all others of a run."""
        return self.cell, self.example.id, self.repeat


Name = tuple[Combination, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """What has no record, each job made when it is asked for: a list of a million would be most of a run's memory.

    One adapter after the other, since an engine slows down when a batch mixes adapters; else example by example, so
    that all cells advance together, and prompts that begin alike, or are alike, meet in the engine's cache and in ours.
    """

    asked: Mapping[Combination, AbstractSet[str]]
    """The examples of each cell."""
    examples: tuple[Example, ...]
    """Those that may be asked by now."""
    repeats: int = 1
    done: AbstractSet[Name] = frozenset()

    def __iter__(self) -> Iterator[Job]:
        for adapter in dict.fromkeys(cell.adapter for cell in self.asked):
            cells = [cell for cell in self.asked if cell.adapter == adapter]
            for repeat, example, cell in product(range(self.repeats), self.examples, cells):
                job = Job(cell, example, repeat)
                if example.id in self.asked[cell] and job.name not in self.done:
                    yield job

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)


@contextmanager
def started(stack: Stack) -> Iterator[Server | None]:
    """An engine of our own, or several, for as long as the block lasts; None where the stack has a server's `url`."""
    if stack.url:
        yield None
    else:
        with engines(stack) as server:
            yield server


def run(grid: Grid, folder: Path, start: Start = started) -> Results:
    """Answer what is not answered yet. Raises RunError, with everything so far kept, when it cannot go on.

    `start` is for several runs in a row, which may share an engine.
    """
    refuse_test_questions(grid)
    with locked(folder):
        for sentence in prepare(grid, folder):
            log.warning(sentence)
        results = load_results(folder, retrying=True)
        jobs = pending(results)
        if not jobs:
            log.info("Nothing is left to ask: every answer is in %s.", folder)
            return results
        ask(grid, results, jobs, folder, start)
        return load_results(folder)


def pending(results: Results, tried: AbstractSet[Name] = frozenset()) -> Jobs:
    """What has no record and was not tried."""
    return Jobs(
        asked=asked_ids(results.records, results.examples),
        examples=_open(results),
        repeats=results.config.grid.repeats,
        done=tried | {(one.combination, one.id, one.repeat) for one in results.answers},
    )


def _open(results: Results) -> tuple[Example, ...]:
    """What may be asked by now: everything, unless screening looks first at what came of the questions before."""
    if results.screening is None:
        return results.examples
    now = set(by_lot(results.examples)[: results.screening.asked])
    return tuple(example for example in results.examples if example.id in now)


def rounds(jobs: Jobs, folder: Path, *, screened: bool) -> Iterator[Jobs]:
    """These jobs; where a grid is screened, what is open once they are done, until nothing is. None is tried twice."""
    yield jobs
    tried: set[Name] = set()
    while screened:
        tried.update(job.name for job in jobs)
        jobs = pending(load_results(folder), tried)
        if not jobs:
            return
        yield jobs


def ask(grid: Grid, results: Results, jobs: Jobs, folder: Path, start: Start) -> None:
    """Open what the jobs need, cheapest first, so that a missing index is said before an engine is started."""
    cells = grid.cells if results.screening else tuple({job.cell for job in jobs})  # a later round may need any of them
    stack = grid.stack.only(searches(cells))
    open_all(stack)
    with ExitStack() as stay:
        records = stay.enter_context(Journal(folder / "records.jsonl"))
        failures = stay.enter_context(Journal(folder / "failures.jsonl"))
        # Outside the event loop: starting takes a minute, and Ctrl-C should end it at once.
        server = stay.enter_context(start(stack))
        desk = _Desk(grid, results, Pipeline(stack, server, lend=SharedRetriever), records, failures)
        with gauged(folder, lambda: desk.calls) if computed_here(stack) else nullcontext():
            asyncio.run(desk.serve(rounds(jobs, folder, screened=results.screening is not None)))


def computed_here(stack: Stack) -> bool:
    """Whether it is this machine whose GPUs write the replies, as far as the stack says."""
    return not stack.url and stack.engine.ray in (None, HERE)


def _heard(kept: "asyncio.Future[None]") -> None:
    """What it raises when the run has ended is what ended it: nobody else needs to be told."""
    if not kept.cancelled():
        kept.exception()


class _Desk:
    """Where the workers get their questions and hand in what came of them."""

    def __init__(self, grid: Grid, results: Results, pipeline: Pipeline, records: Journal, failures: Journal) -> None:
        self._task = grid.task
        self._scorers = build(grid.task.settings.scorers, grid.task.settings.primary, grid.task.examples)
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._at_once = grid.settings.concurrency
        self._before = results.failures
        self._pipeline = pipeline
        self._exchange = Exchange(self._at_once, replies(results.answers, grid.stack, pipeline))
        self._records = records
        self._failures = failures
        self._unavailable: set[tuple[str, str, str]] = set()
        self._dead: dict[str, str] = {}

    @property
    def calls(self) -> int:
        """How many replies were written for it."""
        return self._exchange.made

    async def serve(self, rounds: Iterable[Jobs]) -> None:
        """Keep as many calls in flight as the grid allows until no question is left, one round after the other."""
        with self._scoring, tqdm(total=0, unit=" answers", desc="asking", disable=None) as bar:
            async with self._pipeline, self._exchange:
                await self._probe()
                for jobs in rounds:
                    bar.total += (count := len(jobs))
                    await work_off(jobs, min(AHEAD * self._at_once, count), partial(self._work, bar))

    async def _probe(self) -> None:
        """An adapter that changes nothing fails its own combinations, and loudly: the others can still be asked."""
        stack = self._pipeline.stack
        for name in await dead_adapters(self._pipeline):
            self._dead[name] = f"{stack.where('adapters', name)}: {name} {NO_EFFECT}"
            log.error("%s Its combinations are not asked.", self._dead[name])

    async def _work(self, bar: "tqdm[None]", job: Job) -> None:
        try:
            await self._ask(job)
            self._unavailable.clear()
        except ServeError as error:
            self._fail(job, error)
        bar.update()

    async def _ask(self, job: Job) -> None:
        cell, example = job.cell, job.example
        if cell.adapter in self._dead:
            raise ServeError(self._dead[cell.adapter])
        sampling = drawn(self._pipeline.stack.sampling, job.repeat)
        model = SharedModel(self._pipeline.model(cell.adapter, sampling), self._exchange)
        query = Query(example.question, meta=example.meta)
        try:
            answer = await self._pipeline.ask(cell, query, retriever=self._oracle(cell, example), model=model)
        except TooLong as refusal:  # no outage: to ask so long a prompt is what this combination does
            answer = refusal.answer
        # Apart from the loop, which times the calls in flight, and one at a time: a query may take seconds to score.
        # Shielded: an answer that waits for its turn is kept even when the run ends for another one's sake.
        kept = asyncio.get_running_loop().run_in_executor(self._scoring, self._keep, job, answer, model)
        kept.add_done_callback(_heard)
        await asyncio.shield(kept)

    def _keep(self, job: Job, answer: Answer, model: SharedModel) -> None:
        shown = shown_in(answer.messages)
        record = Record(
            id=job.example.id,
            combination=job.cell,
            prompt=answer.messages,
            sources=tuple(Source(hit.passage.id, hit.score) for hit in answer.sources),
            text=answer.text,
            usage=answer.usage,
            seconds=round(answer.seconds, 4),
            scores={name: score(job.example, answer.text, shown) for name, score in self._scorers.items()},
            finish_reason=answer.finish_reason,
            repeat=job.repeat,
            shared=model.shared,
            search_seconds=round(answer.search_seconds, 4),
            in_flight=round(model.in_flight, 2),
            notes=answer.notes,
            steps=answer.steps,
        )
        self._records.append(record)

    def _oracle(self, cell: Combination, example: Example) -> Retriever | None:
        """What stands in for the stack's retriever, where only the test set can make it."""
        if not is_oracle(cell.retriever):
            return None
        evidence = tuple(self._task.evidence[place] for place in example.evidence)
        if cell.retriever == GOLD:
            return GoldRetriever(evidence)
        return CrowdedRetriever(evidence, partial(self._pipeline.search, searched(cell.retriever)))

    def _fail(self, job: Job, error: ServeError) -> None:
        """Note it and go on, unless the engine seems gone: then every further question would only wait to fail."""
        before = self._before[job.cell].get(job.example.id)
        attempts = 1 + (before.attempts if before and before.repeat == job.repeat else 0)
        self._failures.append(
            Failure(id=job.example.id, combination=job.cell, reason=str(error), attempts=attempts, repeat=job.repeat)
        )
        if isinstance(error, Unavailable):  # strategies often share a prompt, and one that fails fails for each of them
            self._unavailable.add((job.cell.adapter, job.cell.retriever, job.example.id))
        if len(self._unavailable) >= 2 * self._at_once:
            raise RunError(
                f"{error}. {len(self._unavailable)} calls in a row got no answer, so the rest were not tried. "
                "Every answer is kept; the same command goes on from here."
            )
