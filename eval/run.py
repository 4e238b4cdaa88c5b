"""Ask every question every way, all at once, and keep each answer the moment it comes.

    results = run(load_grid(Path("grid.yaml")), Path("out/demo"))

Only what has no record yet is asked, so the same command resumes, and with nothing left it starts no engine. Knows
nothing of what the scores mean.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tqdm import tqdm

from eval.folder import Results, load_results, locked, planned, prepare
from eval.gold import CrowdedRetriever, GoldRetriever, is_oracle, searched
from eval.grid import Grid, searches
from eval.record import Failure, Journal, RunError, record_of
from eval.scorers import build
from eval.shown import refuse_test_questions
from eval.task import Example
from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import ServeError, Unavailable
from serve.combination import GOLD, Combination
from serve.engine import Engine
from serve.opened import open_all
from serve.pipeline import NO_EFFECT, Pipeline, dead_adapters
from serve.strategies import shown_in

Job = tuple[Combination, Example]

log = logging.getLogger(__name__)


def run(grid: Grid, folder: Path) -> Results:
    """Answer what is not answered yet. Raises RunError, with everything so far kept, when it cannot go on."""
    refuse_test_questions(grid)
    with locked(folder):
        for sentence in prepare(grid, folder):
            log.warning(sentence)
        results = load_results(folder)
        jobs = pending(results)
        if not jobs:
            log.info("Nothing is left to ask: every answer is in %s.", folder)
            return results
        _ask_all(grid, results, jobs, folder)
        return load_results(folder)


def pending(results: Results) -> list[Job]:
    """What has no record, example by example, so that all cells advance together and the engine stays full."""
    asked = {cell: {one.id for one in planned(cell, results.examples)} for cell in results.records}
    return [
        (cell, example)
        for example in results.examples
        for cell, records in results.records.items()
        if example.id in asked[cell] and example.id not in records
    ]


def _ask_all(grid: Grid, results: Results, jobs: list[Job], folder: Path) -> None:
    """Open what the jobs need, cheapest first, so that a missing index is said before an engine is started."""
    stack = grid.stack.only(searches(cell for cell, _ in jobs))
    open_all(stack)
    with ExitStack() as stay:
        records = stay.enter_context(Journal(folder / "records.jsonl"))
        failures = stay.enter_context(Journal(folder / "failures.jsonl"))
        # Outside the event loop: starting takes a minute, and Ctrl-C should end it at once.
        server = None if stack.url else stay.enter_context(Engine(stack)).server
        desk = _Desk(grid, results, Pipeline(stack, server), records, failures)
        asyncio.run(desk.serve(jobs))


class _Desk:
    """Where the workers get their questions and hand in what came of them."""

    def __init__(self, grid: Grid, results: Results, pipeline: Pipeline, records: Journal, failures: Journal) -> None:
        self._task = grid.task
        self._scorers = build(grid.task.settings.scorers, grid.task.settings.primary, grid.task.examples)
        self._workers = grid.settings.concurrency
        self._before = results.failures
        self._pipeline = pipeline
        self._records = records
        self._failures = failures
        self._unavailable = 0
        self._dead: dict[str, str] = {}

    async def serve(self, jobs: list[Job]) -> None:
        """Keep as many questions in flight as the grid allows until none is left."""
        queue = iter(jobs)
        with tqdm(total=len(jobs), unit=" answers", desc="asking", disable=None) as bar:
            async with self._pipeline:
                await self._probe()
                try:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(min(self._workers, len(jobs))):
                            group.create_task(self._work(queue, bar))
                except ExceptionGroup as several:
                    raise several.exceptions[0] from None

    async def _probe(self) -> None:
        """An adapter that changes nothing fails its own combinations, and loudly: the others can still be asked."""
        stack = self._pipeline.stack
        for name in await dead_adapters(self._pipeline):
            self._dead[name] = f"{stack.where('adapters', name)}: {name} {NO_EFFECT}"
            log.error("%s Its combinations are not asked.", self._dead[name])

    async def _work(self, queue: Iterator[Job], bar: "tqdm[None]") -> None:
        for cell, example in queue:
            try:
                await self._ask(cell, example)
            except ServeError as error:
                self._fail(cell, example, error)
            bar.update()

    async def _ask(self, cell: Combination, example: Example) -> None:
        if cell.adapter in self._dead:
            raise ServeError(self._dead[cell.adapter])
        query = Query(example.question, meta=example.meta)
        answer = await self._pipeline.ask(cell, query, retriever=self._oracle(cell, example))
        shown = shown_in(answer.messages)
        scores = {name: score(example, answer.text, shown) for name, score in self._scorers.items()}
        self._records.append(record_of(example.id, cell, answer, scores))
        self._unavailable = 0

    def _oracle(self, cell: Combination, example: Example) -> Retriever | None:
        """What stands in for the stack's retriever, where only the test set can make it."""
        if not is_oracle(cell.retriever):
            return None
        evidence = tuple(self._task.evidence[place] for place in example.evidence)
        if cell.retriever == GOLD:
            return GoldRetriever(evidence)
        return CrowdedRetriever(evidence, partial(self._pipeline.search, searched(cell.retriever)))

    def _fail(self, cell: Combination, example: Example, error: ServeError) -> None:
        """Note it and go on, unless the engine seems gone: then every further question would only wait to fail."""
        before = self._before[cell].get(example.id)
        attempts = 1 + (before.attempts if before else 0)
        self._failures.append(Failure(id=example.id, combination=cell, reason=str(error), attempts=attempts))
        self._unavailable += isinstance(error, Unavailable)
        if self._unavailable >= 2 * self._workers:
            raise RunError(
                f"{error}. {self._unavailable} questions in a row got no answer, so the rest were not tried. "
                "Every answer is kept; the same command goes on from here."
            )
