"""So many at once: workers take jobs from one queue until none is left. Knows nothing of what a job is."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def work_off(jobs: Iterable[T], workers: int, do: Callable[[T], Awaitable[None]]) -> None:
    """Do every job, that many at once. What one of them raises ends all of them, and is raised as it is."""
    queue = iter(jobs)

    async def work() -> None:
        for job in queue:
            await do(job)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
