"""Several processes as one: what one refuses all refuse, and what the first one knows all know.

They may be on machines that share no disk. torch is loaded only where there are several. Knows nothing of training.
"""

import os
from collections.abc import Callable
from platform import node
from typing import TYPE_CHECKING, TypeVar

from retrieval.files import FileError
from train.door import TrainError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")


def count() -> int:
    """How many there are, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def is_shared() -> bool:
    """Whether they were asked to share one base (FSDP) instead of having it each (DDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def place() -> "PartialState":
    """This process among the others, once they have met."""
    import torch
    from accelerate import PartialState

    # Without the flag, several processes on a machine without a GPU would each take themselves for the only one.
    return PartialState(cpu=not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "True")


def everyones(value: T) -> list[T]:
    """The value of each process, the first one's first."""
    if count() == 1:
        return [value]
    from accelerate.utils import gather_object

    place()
    return list(gather_object([value]))


def firsts(value: T) -> T:
    """The value that the first process has."""
    return everyones(value)[0]


def agreed(check: Callable[[], T]) -> T:
    """What `check` returns here, once it has returned everywhere; where it raises, the first process says what and why.

    A process that refused alone would leave the others waiting for it.
    """
    found: list[T] = []
    refusal: tuple[str, str] | None = None
    try:
        found.append(check())
    except (TrainError, FileError) as error:
        refusal = (node(), str(error))
    refusals = {number: told for number, told in enumerate(everyones(refusal)) if told}
    if not refusals:
        return found[0]
    number, (machine, sentence) = min(refusals.items())
    raise everyones_refusal(f"process {number} on {machine} refuses: {sentence}" if number else sentence)


def by_first(work: Callable[[], T]) -> T | None:
    """Have the first process alone do this, while the others wait; where it raises, all end."""
    return agreed(lambda: work() if is_first() else None)


def everyones_refusal(sentence: str) -> TrainError | SystemExit:
    """What each raises where all refuse for one reason: the first says it."""
    return TrainError(sentence) if is_first() else SystemExit(1)
