"""A child process that reads files, one after another: whatever a file does to it, the program goes on.

The kernel keeps its limits (an alarm ends it, memory is refused to it), it can neither reach a network nor start a
program, and what it has read comes back as JSON, a line a document. Knows nothing of folders or of kinds of files.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

from retrieval.corpus import CHARACTERS
from retrieval.databases import STYLE, STYLES, Style
from retrieval.files import FileError
from retrieval.loaders import load
from retrieval.passage import Document, RetrievalError

OUT_OF_MEMORY: Final = 77
"""How the child leaves when a file needs more memory than it may have."""
FORBIDDEN: Final = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
"""What a file may not make its reader do, as Python's audit events begin; compiled code has no such events."""
ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one file may cost."""

    seconds: float = 120
    """The longest wait for the first document of a file, and for each one after it."""
    memory_bytes: int = 2 << 30
    """Address space of the child, of which the libraries take 0.5 GB."""
    characters: int = CHARACTERS
    """The longest text of one document."""
    file_bytes: int = 1 << 30
    """What all documents of one file may come to, as JSON; this program keeps them until the file has been read."""


class Reader:
    """Reads files in a child, which is started with the first file, and again after a file that ended it."""

    def __init__(self, limits: Limits, tables: Style = STYLE) -> None:
        self._limits = limits
        self._tables = tables
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child:
            with self._child as child:
                child.kill()

    def read(self, path: Path) -> list[Document]:
        """All documents of the file. FileError says why there are none; half a file is never read."""
        if self._child is None or self._child.poll() is not None:
            self._child = _started(self._limits, self._tables)
        child = self._child
        documents: list[Document] = []
        try:
            assert child.stdin
            # Not through its buffer: what a dead child has not taken would be said again when the pipe is closed.
            os.write(child.stdin.fileno(), json.dumps(str(path)).encode() + b"\n")
            while row := _heard(child.stdout):
                documents.append(Document(**row | {"pages": tuple(row["pages"])}))
        except (EOFError, BrokenPipeError):
            self._child = None
            with child:
                raise FileError(f"{path}: {self._epitaph(child.wait())}") from None
        return documents

    def _epitaph(self, code: int) -> str:
        """What the file did to the child, by how that ended."""
        if code == -signal.SIGALRM:
            return f"took more than {self._limits.seconds:g} s to read: split it, or save it as text"
        if code == OUT_OF_MEMORY:
            room = f"{self._limits.memory_bytes >> 20:,} MB"
            return f"takes more memory to read than the {room} it may have: split it, or save it as text"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"broke the program that reads it ({how}): save it again, or convert it"


def _started(limits: Limits, tables: Style) -> "subprocess.Popen[bytes]":
    """A child that is ready to read."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # Each thread of a numerical library would reserve memory that counts against the limit.
    sparing = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "retrieval.reader", json.dumps(asdict(limits)), tables],
        env={**os.environ, "PYTHONPATH": paths, **sparing},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        _heard(child.stdout)
    except EOFError:
        with child:
            code = child.wait()
        raise RetrievalError(
            f"the program that reads documents does not start (exit code {code}); "
            "python -m retrieval.reader '{}' create says why"
        ) from None
    return child


def _heard(pipe: IO[bytes] | None) -> Any:
    """The next thing that was said. FileError when it is a problem; EOFError when nothing more will come."""
    assert pipe
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    thing = json.loads(line)
    if isinstance(thing, str):
        raise FileError(thing)
    return thing


def main() -> None:
    """The child: reads the names of files, writes their documents, then null; a sentence where a file has none."""
    limits = Limits(**json.loads(sys.argv[1]))
    tables = next(style for style in STYLES if style == sys.argv[2])
    # What a library prints must not pass for a document.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    confine(limits.memory_bytes)
    _say(pipe, None)
    for line in sys.stdin.buffer:
        try:
            _answer(Path(json.loads(line)), limits, tables, pipe)
        except FileError as error:
            _say(pipe, str(error))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)


def confine(memory_bytes: int) -> None:
    """Take from this process, for good, the network, other programs, and memory beyond the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    room = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable()
    warnings.simplefilter("ignore")
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"{event}: a document may not reach beyond its file")


def _answer(path: Path, limits: Limits, tables: Style, pipe: IO[bytes]) -> None:
    """Say each document of the file, and null when there are no more; every document has its time."""
    size = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, limits.seconds)
        for document in load(path, limits.characters, tables):
            size += _say(pipe, asdict(document))
            if size > limits.file_bytes:
                raise FileError(f"{path}: its documents come to more than {limits.file_bytes >> 20:,} MB: split it")
            signal.setitimer(signal.ITIMER_REAL, limits.seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    _say(pipe, None)


def _say(pipe: IO[bytes], thing: object) -> int:
    """Write it on a line of its own; how many bytes that was."""
    size = pipe.write(json.dumps(thing).encode() + b"\n")
    pipe.flush()
    return size


if __name__ == "__main__":
    main()
