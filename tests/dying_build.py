"""A program that builds one index again and again, each time in a process that fails one step later than the last.

    python -m tests.dying_build FOLDER killed refused full

`killed`: SIGKILL; `refused`: the system says that the disk is full or broken; `full`: no file may grow any further.
After each, the index must be the old one or the new one, whole, each vector and word its passage's. Says what it saw,
as a JSON object a line.
"""

import errno
import io
import json
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from itertools import count
from pathlib import Path
from typing import Any, Final

import bm25s  # noqa: F401 (what a build imports is here already: it takes longer than a build of twelve documents)
import faiss  # noqa: F401
import numpy as np
import semchunk  # noqa: F401
import sentence_transformers  # noqa: F401
import Stemmer  # noqa: F401

import retrieval.reuse
from retrieval.__main__ import main as retrieval_main
from retrieval.generation import in_use
from retrieval.index import open_index
from tests.tiny_search import SAID, make_embedder

STEPS: Final = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT

BEFORE_ITS_STEP: Final = 3
"""The exit code of a build that ended before it came to the step at which it should fail."""

Fail = Callable[[], None]

steps_left = 0


def write_corpus(folder: Path, version: int) -> Path:
    """Twelve documents, each with a word of its own; two are new in each version, two are gone, and one has changed."""
    rows = []
    for number in range(2 * version, 2 * version + 12):
        edited = version if number == 2 * version + 5 else 0
        words = (SAID[number % 24], SAID[number * 7 % 24], SAID[edited % 24])
        rows.append({"_id": f"n{number}", "title": f"own{number}", "text": f"{' '.join(words)} edition{edited}"})
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def watch(index: Path, step: int, fail: Fail) -> None:
    """Call `fail` at this step of all that touch the index, counted from 1."""
    global steps_left
    steps_left = step

    def advance() -> None:
        global steps_left
        steps_left -= 1
        if not steps_left:
            fail()

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        ours = event in STEPS and str(arguments[0]).startswith(str(index))
        if ours and (event != "open" or arguments[2] & WRITES):
            advance()

    def fsync(descriptor: int) -> None:
        advance()
        really(descriptor)

    really, os.fsync = os.fsync, fsync
    sys.addaudithook(heard)


def refuse(step: int) -> Fail:
    def fail() -> None:
        code = (errno.ENOSPC, errno.EIO, errno.EACCES)[step % 3]
        raise OSError(code, os.strerror(code))

    return fail


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def forked(action: Callable[[], int]) -> int:
    """The exit code of what is done in a process of its own, -9 when it was killed.

    This one only imports: after a parallel computation, the threads that made it would be missing in a fork.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(action())


def build(command: list[str], said: Path, prepare: Fail) -> int:
    """The exit code of a build in a process of its own; its stderr is in `said`."""

    def built() -> int:
        try:
            with redirect_stderr(io.StringIO()) as stderr:
                prepare()
                code = retrieval_main(command)
                code = BEFORE_ITS_STEP if steps_left > 0 else code
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            said.write_text(stderr.getvalue())
            return code
        except BaseException:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            said.write_text(traceback.format_exc())
            return 99

    return forked(built)


def check_rows(index: Path) -> int:
    """0: row n of the vectors and of the words is passage n's."""
    opened = open_index(index)
    texts = [passage.searchable for passage in opened.passages]
    expected = opened.embedder.passages(texts)
    assert np.allclose(opened.vectors.take(np.arange(len(texts))), expected, atol=1e-6), "a vector of another passage"
    for row, passage in enumerate(opened.passages):
        assert [found for found, _ in opened.words.search(passage.title, 5)] == [row], "a word of another passage"
    return 0


def failures(how: str, index: Path) -> Iterator[Fail]:
    """What makes the next build fail: at a later step, or with more room, than the one before."""
    for step in count(1):
        if how == "full":
            room = 64 * step
            yield lambda room=room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        else:
            fail = kill if how == "killed" else refuse(step)
            yield lambda step=step, fail=fail: watch(index, step, fail)


def main(folder: Path, embedder: Path, how: str) -> None:
    index, said = folder / "index", folder / "said"
    folder.mkdir()
    command = ["build", str(folder / "corpus.jsonl"), str(index), "--embedder", str(embedder)]
    write_corpus(folder, 0)
    assert forked(lambda: retrieval_main(command)) == 0
    version, before, tried, unfinished = 1, in_use(index), 0, 0
    for prepare in failures(how, index):
        write_corpus(folder, version)
        code = build(command, said, prepare)
        tried += 1
        now = in_use(index)
        assert now is not None, f"no whole index after {how} {tried}"
        assert forked(lambda: check_rows(index)) == 0, f"a wrong index after {how} {tried}"
        if code == 1:
            sentence = said.read_text()
            assert "cannot be written" in sentence, sentence
            assert sentence.count("\n") == 1, sentence
            assert now == before, "a build that failed has changed the index"
        else:
            assert code in (0, -signal.SIGKILL, BEFORE_ITS_STEP), said.read_text()
        unfinished += (index / ".unfinished").exists()
        if now != before:
            version, before = version + 1, now
        if code == BEFORE_ITS_STEP or (how == "full" and code == 0):
            break
    left = sorted(entry.name for entry in index.iterdir())
    row = {"how": how, "tried": tried, "generations": version, "unfinished": unfinished, "left": left}
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    retrieval.reuse.BLOCK = 2  # type: ignore[misc]
    logging.disable()
    made = Path(sys.argv[1]) / "embedder"
    assert forked(lambda: int(not make_embedder(made).is_dir())) == 0
    for name in sys.argv[2:]:
        main(Path(sys.argv[1]) / name, made, name)
