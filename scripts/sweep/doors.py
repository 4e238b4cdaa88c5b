"""Run a front door as its own process, so that what it holds of the machine is free again afterwards.

A stop is passed on and waited for. Knows nothing of what the doors lead to.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from train.recipe import REPOSITORY


class DoorError(RuntimeError):
    """A front door refused; it has said why on stderr."""


def train(recipe: Path) -> None:
    """`train/lora.py`, from the recipe in this file."""
    go_through([sys.executable, "-m", "train.lora", "--config", str(recipe)])


def go_through(command: Sequence[str], quiet: bool = False) -> None:
    """Run to the end; raises DoorError when it did not do what it was asked for."""
    # Its own session: Ctrl-C at a terminal reaches every process there, and a child must not hear it twice.
    silent = subprocess.DEVNULL if quiet else None
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=silent, start_new_session=True, close_fds=False) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGTERM)  # training saves a checkpoint, asking stops its engine; then they end
            child.wait()
            raise
    if code:
        raise DoorError(
            f"stopped at `{' '.join(command[1:])}`, which says why above; the same command goes on from here"
        )
