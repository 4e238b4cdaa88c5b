"""`python -m serve up` as a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def up(stack: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL, from the moment it says that it is ready; killed when the test fails."""
    command = [sys.executable, "-m", "serve", "up", str(stack), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            said = next(line for line in process.stderr if "python -m serve ask" in line)
            yield process, said.split()[-1]
        finally:
            process.kill()
