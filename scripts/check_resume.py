"""Kill trainings at random moments, with SIGKILL, until they finish anyway; each adapter must be the unkilled one's.

Bit by bit. After every kill, every checkpoint on the disk must be readable. Knows nothing of how training is done.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import RLock

from safetensors import safe_open
from tqdm import tqdm

import train.fit  # noqa: F401 (so that a fork has torch already: an import takes longer than a training here)
from retrieval.console import Parser
from train.checkpoint import files
from train.lora import DEMO
from train.lora import main as train_lora
from train.provenance import WEIGHTS, unfinished

WORLD = Path(__file__).resolve().parents[1] / "out" / "demo" / "world"


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done and seen."""

    kills: int
    finished: int
    resumed: int
    """Trainings that went on from a checkpoint."""
    checkpoints: int
    """Checkpoints that were read after a kill."""


def check(recipe: Sequence[str], folder: Path, kills: int, seed: int = 0) -> Tally:
    """Raise AssertionError at the first adapter that differs or checkpoint that cannot be read."""
    random = Random(seed)
    began = time.monotonic()
    assert wait(start([*recipe, f"output={folder}", "name=whole"])) == 0, "the training fails without being killed"
    usual = time.monotonic() - began
    expected = (folder / "whole" / WEIGHTS).read_bytes()
    workshop = unfinished(folder / "killed")
    killed = finished = resumed = read = 0
    bar = tqdm(total=kills, desc="kills", unit="kill", disable=None)
    while killed < kills or workshop.exists():
        began, anew = time.monotonic(), not workshop.exists()
        child = start([*recipe, f"output={folder}", "name=killed", "checkpoint_every=1"])
        ended = wait(child, random.uniform(0.2, 1.0) * usual if killed < kills else None)
        if ended == 0 and anew:  # the machine may have been busy before, and no kill would come in time
            usual = min(usual, time.monotonic() - began)
        if ended is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
            bar.update()
            found = files(workshop)
            for file in found:
                with safe_open(file, "pt") as tensors:
                    assert all(tensors.get_tensor(name) is not None for name in tensors.keys())  # noqa: SIM118
            read += len(found)
            resumed += bool(found)
        if (folder / "killed").exists():
            assert (folder / "killed" / WEIGHTS).read_bytes() == expected, f"another adapter after {killed} kills"
            finished += 1
            shutil.rmtree(folder / "killed")
            shutil.rmtree(workshop, ignore_errors=True)
        else:
            assert ended is None, f"the training failed after {killed} kills"
    bar.close()
    return Tally(killed, finished, resumed, read)


def start(arguments: Sequence[str]) -> int:
    """Fork a training; its process id."""
    child = os.fork()
    if child:
        return child
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os._exit(train_lora(arguments))


def draw_alone() -> None:
    """tqdm's usual lock is shared by all forks, and stays locked when one is killed while it draws."""
    tqdm.set_lock(RLock())
    tqdm.monitor_interval = 0


def wait(child: int, seconds: float | None = None) -> int | None:
    """Its exit code, or None if it still runs after so many seconds."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(0.01)


def main() -> None:
    parser = Parser(description=__doc__, epilog="example: python -m scripts.check_resume --kills 50")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--config", type=Path, default=DEMO, help="the recipe (default: the demo's)")
    parser.add_argument("--data", type=Path, default=WORLD / "sft.jsonl", help="chats (default: the demo's)")
    parser.add_argument("--rows", type=int, default=40, help="how many of them (default: 40)")
    options = parser.parse_args()
    if not options.data.is_file():
        sys.exit(f"{options.data}: there is no such file; `make demo` writes the demo's, or give --data FILE")
    draw_alone()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "chats.jsonl"
        data.write_text("".join(options.data.read_text().splitlines(keepends=True)[: options.rows]))
        recipe = ["--config", str(options.config), f"data={data}", "max_length=1024", "tokens_per_step=1024"]
        tally = check(recipe, Path(folder), options.kills)
    print(
        f"{tally.kills} kills, {tally.resumed} of them left checkpoints ({tally.checkpoints} files, all readable); "
        f"{tally.finished} trainings finished, each with the unkilled one's adapter ({time.monotonic() - began:.0f} s)"
    )


if __name__ == "__main__":
    main()
