"""The guard with a command that refuses to stop; the same with a real engine is in test_serve_live.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.serving import is_running
from serve.guard import GUARDED

STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""
ASKER = """
import subprocess, sys
guard = subprocess.Popen([sys.executable, "-m", "serve.guard", *sys.argv[1:]], stdin=subprocess.PIPE)
guard.wait()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    return tmp_path / "private"


@pytest.fixture
def asker(folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that asked for a command which, like its own child, ignores SIGTERM."""
    command = [sys.executable, "-c", STUBBORN, str(tmp_path / "grandchild")]
    process = subprocess.Popen([sys.executable, "-c", ASKER, str(folder), *command])
    until(lambda: (tmp_path / "grandchild").exists() and (tmp_path / "grandchild").read_text() != "")
    yield process
    process.kill()
    process.wait()


def until(holds: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_kill_9_of_the_asker_takes_everything_along(
    asker: subprocess.Popen[bytes], folder: Path, tmp_path: Path
) -> None:
    grandchild = int((tmp_path / "grandchild").read_text())
    assert is_running(grandchild)

    os.kill(asker.pid, signal.SIGKILL)

    until(lambda: not is_running(grandchild))
    until(lambda: not folder.exists())


def test_kill_9_of_the_guard_itself_takes_the_command_and_its_guarded_child_along(folder: Path, tmp_path: Path) -> None:
    code = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "from serve.guard import register; register(); print(1, flush=True); "
    "import time; time.sleep(600)"], stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path({str(tmp_path / "pids")!r}).write_text(f"{{__import__('os').getpid()}} {{child.pid}}")
time.sleep(600)
"""
    command = [sys.executable, "-m", "serve.guard", str(folder), sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {GUARDED: "1"}) as guard:
        until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text())
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(map(is_running, pids))

        guard.kill()

        until(lambda: not any(map(is_running, pids)))


def test_a_command_that_ends_leaves_nothing_behind(folder: Path) -> None:
    command = [sys.executable, "-m", "serve.guard", str(folder), sys.executable, "-c", "print('said')"]

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        assert guard.stdout
        said = guard.stdout.read()
        guard.wait(60)

    assert (said, folder.exists()) == (b"said\n", False)
