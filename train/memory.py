"""What fits into memory beside the model: tried before the first step, not found out in the middle; and what was used.

Knows nothing of what a pack is; it is handed something to try.
"""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from train.door import TrainError

REMEDY: Final = "Set quantize=nf4, drop the longest rows (max_length=..., too_long=drop), or lower rank"


def largest_that_fits(attempt: Callable[[int], bool], most: int, least: int) -> int:
    """`most`, halved until a forward and backward pass of so many tokens fits; TrainError below the `least`, a row."""
    tokens = most
    while not attempt(tokens):
        if tokens // 2 < least:
            raise TrainError(
                f"{tokens:,} tokens do not fit into the GPU's memory beside the model, and the longest row has "
                f"{least:,}: {others()}. {REMEDY}"
            )
        tokens //= 2
    return tokens


@contextmanager
def told_when_full() -> Iterator[None]:
    """A GPU without memory, wherever that shows, is a sentence that names who else is on it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainError(f"the GPU's memory is full: {others()}. {REMEDY}. (torch: {error})") from None


def others() -> str:
    """Who else is on the GPU, in words."""
    return "; ".join(holders()) or "no other process holds the GPU"


def peak_gib(device: torch.device) -> float:
    """The most memory this process held: on the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def device_name(device: torch.device) -> str:
    """For provenance."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def holders() -> Iterator[str]:
    """Who else is on the GPU, in the words of nvidia-smi: a forgotten server is the usual reason for no memory."""
    asked = ["nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in said.splitlines():  # without a GPU, a sentence; a name may have commas
        pid, _, rest = line.partition(", ")
        name, _, used = rest.rpartition(", ")
        if pid.isdigit() and used and int(pid) != os.getpid():
            yield f"process {pid} ({name}) holds {used} of the GPU"
