"""Run a command so that nothing of it outlives the process that asked, however that process ends (`kill -9` included).

    python -m serve.guard FOLDER COMMAND ...

The asking process holds the other end of our standard input, and the end of that input means: stop. Then, and also
when the command ends by itself, the whole process group is killed (vLLM's engine survives the death of its server) and
FOLDER is removed. Standard library only; knows nothing of what the command is.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Final, NoReturn

PATIENCE_SECONDS: Final = 3.0


def main(folder: str, command: list[str]) -> NoReturn:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda *_: _end(folder))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_stop_at_end_of_input, args=[child], daemon=True).start()
    child.wait()
    _end(folder)


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
