"""Run a command so that nothing of it outlives the process that asked, however that process ends (`kill -9` included).

    python -m serve.guard FOLDER COMMAND ...

The asking process holds the other end of our standard input, and the end of that input means: stop. Then, and also
when the command ends by itself, the whole process group is killed (vLLM's engine survives the death of its server) and
FOLDER is removed. When this guard itself is killed, the command dies with it, and so do those of its processes that
call `register`. Standard library only; knows nothing of what the command is.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Final, NoReturn

PATIENCE_SECONDS: Final = 3.0
GUARDED: Final = "FULCRUM_GUARDED"
"""Set in the environment of a command whose processes should die with their parents."""


def main(folder: str, command: list[str]) -> NoReturn:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda *_: _end(folder))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    threading.Thread(target=_stop_at_end_of_input, args=[child], daemon=True).start()
    child.wait()
    _end(folder)


def register() -> None:
    """As a plugin of vLLM, called in each of its processes: none outlives the one that started it."""
    if GUARDED in os.environ:
        die_with_parent()


def die_with_parent() -> None:
    """Be killed when the thread ends that started this process (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _stop_at_end_of_input(child: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    child.terminate()
    try:
        child.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def _end(folder: str) -> NoReturn:
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("we are in that group ourselves")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
