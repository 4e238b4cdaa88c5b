"""What a training needs to go on as if it had never stopped: one file a checkpoint, whole or not at all, two kept.

The order of rows and the learning rate follow from seed and step, and nothing else is random, so a checkpoint is the
adapter, the optimiser's state and a few numbers; the base never changes and is not saved. Knows nothing of the loop.
"""

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from accelerate.utils import broadcast
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from retrieval.files import flush
from train.provenance import CHECKPOINTS

KEPT: Final = 2
MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")
"""AdamW's state of a matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a training has come."""

    step: int
    pack: int
    """Tokens in a pack: what fitted into memory when the training began."""
    eval_loss_before: float | None
    train_loss: float = float("nan")
    tokens: int = 0
    """Real ones: there is no padding."""
    labelled_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """With labels or without."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment between two steps."""

    progress: Progress
    tensors: Mapping[str, Tensor]


def capture(parameters: Mapping[str, Parameter], optimizer: Optimizer) -> dict[str, Tensor]:
    """Adapter and optimiser as whole tensors on the CPU; where they are sharded, every process must call this."""
    named = {name: parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        named |= {f"{name}:{moment}": value for moment, value in optimizer.state[parameter].items()}
    return {name: whole(tensor) for name, tensor in named.items()}


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, gathered from all processes if it is sharded."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.to("cpu", copy=True).contiguous()


@torch.no_grad()
def restore(tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter], optimizer: Optimizer) -> None:
    """The reverse of `capture`, onto any number of processes. The tensors are the first one's; the others need none."""
    for name, parameter in parameters.items():
        parameter.copy_(placed_like(parameter, tensors.get(name)))
        for moment in MOMENTS:
            pattern = torch.zeros((), device=parameter.device) if moment == "step" else parameter
            optimizer.state[parameter][moment] = placed_like(pattern, tensors.get(f"{name}:{moment}"))


def placed_like(pattern: Tensor, value: Tensor | None) -> Tensor:
    """The first process's `value` where the pattern is, and sharded as it is."""
    here = torch.empty(pattern.shape, dtype=pattern.dtype) if value is None else value
    here = here.to(pattern.device)
    if isinstance(pattern, DTensor):
        return distribute_tensor(here, pattern.device_mesh, pattern.placements)
    sent: Tensor = broadcast(here)
    return sent


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write beside, flush to the disk, rename, and remove all but the newest two. Raises OSError on a full disk."""
    path = folder / f"checkpoint-{checkpoint.progress.step:08d}.safetensors"
    beside = path.with_suffix(".part")
    try:
        save_file(dict(checkpoint.tensors), beside, metadata={"progress": json.dumps(asdict(checkpoint.progress))})
        flush(beside)
        beside.replace(path)
        flush(folder)
    except (SafetensorError, OSError) as error:  # the first is how safetensors says that it cannot write
        beside.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    for old in files(folder)[:-KEPT]:
        old.unlink()


def newest(folder: Path) -> Checkpoint | None:
    """The last one that was saved."""
    progress = last_progress(folder)
    return Checkpoint(progress, load_file(files(folder)[-1])) if progress else None


def last_progress(folder: Path) -> Progress | None:
    """How far the last one is, without its tensors."""
    for path in files(folder)[-1:]:
        with safe_open(path, "pt") as file:
            return Progress(**json.loads(file.metadata()["progress"]))
    return None


def files(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob(CHECKPOINTS))


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """While this is open, a SIGTERM or SIGINT only turns the answer to yes; a second one stops the program at once."""
    asked = False

    def remember(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
