"""One read-only statement on a database of a folder, whatever the statement is: rows, or a sentence why there are none.

    runner = runner_of(Path("databases"))
    result = await runner.run("concert_singer", "SELECT name FROM singer")     # or `runner.run_now`, which blocks

Children do the work, as many as there are cores and as are needed; one that does not end is killed, and the next query
starts another. A database is read as its file lies: never locked, never written to, and without what another program
has not put into the file yet. Knows nothing of models, or of what is right.
"""

import asyncio
import atexit
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from queue import LifoQueue
from threading import Timer
from typing import Any, Final

from retrieval.databases import as_it_lies, pending
from serve.chat import ServeError
from serve.sql import child
from serve.sql.child import Limits as Limits

PATIENCE: Final = 3
"""Seconds by the clock for each of processor time: then the child is killed, whatever it waits for."""

Value = int | float | str | bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a statement."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Value, ...], ...] = ()
    error: str = ""
    """What SQLite or a limit had against it, in a form that a model can read; empty when it ran."""
    timed_out: bool = False


def database_file(folder: Path, name: str) -> Path:
    """The file of a database: `<name>/<name>.sqlite`, `<name>.sqlite` or `<name>.db`. ServeError when there is none."""
    places = (f"{name}/{name}.sqlite", f"{name}.sqlite", f"{name}.db")
    found = next((folder / place for place in places if (folder / place).is_file()), None)
    if found is None or Path(name).name != name:
        raise ServeError(f"{folder}: there is no database {name!r} here (looked for {', '.join(places)})")
    if waiting := pending(found):
        raise ServeError(f"{waiting}: has changes that are not in {found.name} yet; close the program that writes them")
    return found


class Runner:
    """Runs statements on the databases of a folder."""

    def __init__(self, folder: Path, limits: Limits = Limits(), children: int | None = None) -> None:  # noqa: B008
        self.folder, self.limits = folder, limits
        count = children or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="sql")
        # The last that came back goes out first: one caller keeps one process busy.
        self._idle: LifoQueue[_Child] = LifoQueue()
        for _ in range(count):
            self._idle.put(_Child(limits))

    async def run(self, database: str, sql: str) -> Result:
        """As `run_now`, while others go on."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.run_now, database, sql)

    def run_now(self, database: str, sql: str) -> Result:
        """What the statement gives; ServeError when there is no such database."""
        uri = as_it_lies(database_file(self.folder, database))
        worker = self._idle.get()
        try:
            return worker.ask(uri, sql)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the children, once nothing runs any more."""
        self._threads.shutdown()
        for _ in range(self._idle.qsize()):
            self._idle.get().end()


@lru_cache
def runner_of(folder: Path) -> Runner:
    """The runner that all who read this folder share."""
    runner = Runner(folder)
    atexit.register(runner.close)
    return runner


class _Child:
    """A process that may end with any statement, and is started again with the next."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, uri: str, sql: str) -> Result:
        if len(sql) > self._limits.statement_bytes:
            return Result(error=f"is longer than {self._limits.statement_bytes:,} bytes")
        process = self._started()
        alarm = Timer(PATIENCE * self._limits.seconds, process.kill)
        alarm.start()
        try:
            line = _exchanged(process, json.dumps([uri, sql]).encode() + b"\n")
        except BaseException:  # Ctrl-C: what is still to come must not be taken for the next answer
            self.end()
            raise
        finally:
            alarm.cancel()
        if not line.endswith(b"\n"):
            return self._ended(process)
        return _read(json.loads(line, object_hook=_blob))

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> "subprocess.Popen[bytes]":
        """A new process is spawned, not forked: ours may have threads of torch or of an engine."""
        if self._process is None or self._process.poll() is not None:
            self.end()
            # -I -S: nothing of the environment, and no site-packages, so that it is there in 40 ms. A session of its
            # own: Ctrl-C is for us, and the child ends when we do, because its lines end.
            command = [sys.executable, "-I", "-S", child.__file__, json.dumps(asdict(self._limits))]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        return self._process

    def _ended(self, process: "subprocess.Popen[bytes]") -> Result:
        self.end()
        if process.returncode in (-signal.SIGKILL, -signal.SIGPROF):
            return Result(error=f"took more than {self._limits.seconds:g} s of processor time", timed_out=True)
        return Result(error=f"ended the process that ran it ({process.returncode})")


def _exchanged(process: "subprocess.Popen[bytes]", line: bytes) -> bytes:
    """The line that comes back; an empty or broken one when the process ended."""
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(line)
        process.stdin.flush()
        return process.stdout.readline()
    except OSError:
        return b""


def _read(said: dict[str, Any]) -> Result:
    return Result(
        columns=tuple(said.get("columns", ())),
        rows=tuple(map(tuple, said.get("rows", ()))),
        error=said.get("error", ""),
        timed_out=said.get("timed_out", False),
    )


def _blob(value: dict[str, Any]) -> Any:
    return bytes.fromhex(value["blob"]) if value.keys() == {"blob"} else value
