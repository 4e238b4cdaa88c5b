"""How many tokens fit on the GPU beside the model: tried before the first step, not found out in the middle.

Knows nothing of what a pack is; it is handed something to try.
"""

import subprocess
from collections.abc import Callable, Iterator

import torch

from train.door import TrainError


def largest_that_fits(attempt: Callable[[int], None], most: int, least: int) -> int:
    """`most`, halved until a forward and backward pass of so many tokens fits; TrainError below the `least`, a row."""
    tokens = most
    while True:
        try:
            attempt(tokens)
        except torch.OutOfMemoryError:
            if tokens // 2 < least:
                raise TrainError(
                    f"{tokens:,} tokens do not fit into the GPU's memory beside the model, and the longest row has "
                    f"{least:,}: {'; '.join(holders()) or 'no other process holds the GPU'}. Set quantize=nf4, drop "
                    "the longest rows (max_length=..., too_long=drop), or lower rank"
                ) from None
            tokens //= 2
            torch.cuda.empty_cache()
        else:
            return tokens


def holders() -> Iterator[str]:
    """Who else is on the GPU, in the words of nvidia-smi: a forgotten server is the usual reason for no memory."""
    asked = ["nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in said.splitlines():
        pid, name, used = (part.strip() for part in line.split(","))
        yield f"process {pid} ({name}) holds {used} of the GPU"
