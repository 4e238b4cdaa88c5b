"""An index's life on disk: immutable generations, and CURRENT, which names the one in use.

    handbook/
      CURRENT        gen-0002, and the hash of its manifest
      gen-0002/      manifest.json, documents.jsonl, passages.npy, index.faiss, words/ ...
      gen-0001/      the one before; older ones are removed

A generation is written aside, flushed, renamed, and only then named by CURRENT: whenever a build dies, there is the old
index or the new one. Knows nothing of what the files hold but their hashes.
"""

import fcntl
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from retrieval.files import FileError, file_hash, flush, read_text, write_atomically
from retrieval.manifest import Manifest, from_json, to_json
from retrieval.passage import RetrievalError

T = TypeVar("T")

CURRENT: Final = "CURRENT"
MANIFEST: Final = "manifest.json"
LOCK: Final = ".lock"
ASIDE: Final = ".building"
GENERATION: Final = re.compile(r"gen-\d{4,}")
KEPT: Final = 2
"""Generations left after a build: the new one, and the one that a reader may be opening at this moment."""


def unusable(index: Path, place: Path, what: str, options: str = "") -> RetrievalError:
    """What is wrong, where, and the command that makes the index anew."""
    return RetrievalError(f"{place}: {what}; make the index with `python -m retrieval build DOCS {index}{options}`")


def current(index: Path) -> Path:
    """The folder of the generation in use."""
    pointer = index / CURRENT
    try:
        name, _, sha256 = pointer.read_text(encoding="utf-8").strip().partition(" ")
    except (FileNotFoundError, NotADirectoryError):
        raise unusable(index, index, "there is no index here") from None
    except (OSError, UnicodeDecodeError) as error:
        raise unusable(index, pointer, f"cannot be read: {error}") from None
    if not GENERATION.fullmatch(name):
        raise unusable(index, pointer, f"names {name!r}, which is not a whole generation")
    if _hash(index, index / name / MANIFEST) != sha256:
        raise unusable(index, index / name / MANIFEST, f"is not what was written: {CURRENT} has another hash of it")
    return index / name


def verified(generation: Path) -> Manifest:
    """The generation's manifest, after every file was found to be what was written."""
    index, file = generation.parent, generation / MANIFEST
    manifest = from_json(read_text(file))
    if manifest is None:
        raise unusable(index, file, "damaged, or of another version")
    for name, sha256 in manifest.files.items():
        if _hash(index, generation / name) != sha256:
            raise unusable(index, generation / name, "damaged since it was written")
    return manifest


def _hash(index: Path, file: Path) -> str:
    try:
        return file_hash(file)
    except FileNotFoundError:
        raise unusable(index, file, "missing") from None
    except OSError as error:
        raise unusable(index, file, f"cannot be read: {error.strerror}") from None


def steadily(index: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of the generation in use; made again where builds have replaced and removed it meanwhile."""
    while True:
        pointer = _pointer(index)
        try:
            return read(current(index))
        except (FileError, RetrievalError):
            if _pointer(index) == pointer:
                raise


def _pointer(index: Path) -> bytes:
    try:
        return (index / CURRENT).read_bytes()
    except OSError:
        return b""


def in_use(index: Path) -> Manifest | None:
    """The manifest of the generation in use, or None when there is none that is whole."""
    try:
        return steadily(index, verified)
    except (FileError, RetrievalError):
        return None


@contextmanager
def alone(index: Path) -> Iterator[None]:
    """Be the only one that builds this index; the system releases the lock however the process ends."""
    with writing(index):
        index.mkdir(parents=True, exist_ok=True)
        if any(index.iterdir()) and not (index / LOCK).exists() and not (index / CURRENT).exists():
            raise RetrievalError(f"{index}: holds other files and no index; choose a new or empty folder")
        lock = (index / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetrievalError(f"{index}: another build of this index is running; wait until it ends") from None
        yield


def publish(index: Path, manifest: Manifest, fill: Callable[[Path], None]) -> Manifest:
    """Let `fill` write the files into a new generation and put it in use; the caller is `alone`."""
    aside = index / ASIDE
    _clear(index)
    try:
        with writing(index):
            aside.mkdir()
            fill(aside)
            complete = replace(manifest, files=_hashes(aside))
            write_atomically(aside / MANIFEST, to_json(complete))
            _flush(aside)
            _put_in_use(index, aside)
    finally:
        _clear(index)
    with suppress(OSError):  # what cannot be removed now is removed by the next build
        for old in _generations(index)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return complete


def _clear(index: Path) -> None:
    """Remove what a build that died has left; it was alone, and so are we."""
    shutil.rmtree(index / ASIDE, ignore_errors=True)
    with suppress(OSError):
        for pointer in index.glob(f".{CURRENT}.*"):
            pointer.unlink()


def _put_in_use(index: Path, aside: Path) -> None:
    newest = _generations(index)[-1:]
    number = int(newest[0].name.removeprefix("gen-")) + 1 if newest else 1
    generation = aside.rename(index / f"gen-{number:04}")
    flush(index)
    write_atomically(index / CURRENT, f"{generation.name} {file_hash(generation / MANIFEST)}\n")
    # The new one is in use. Where this cannot be flushed, a power cut may bring back the old one, whole as well.
    with suppress(OSError):
        flush(index)


def _generations(index: Path) -> list[Path]:
    """Oldest first."""
    found = [folder for folder in index.iterdir() if GENERATION.fullmatch(folder.name)]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("gen-")))


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file_hash(file) for file in files}


def _flush(folder: Path) -> None:
    """To the disk, every file and then the folders that name them."""
    for entry in (*folder.rglob("*"), folder):
        flush(entry)


@contextmanager
def writing(index: Path) -> Iterator[None]:
    """A full disk, a read-only one, a file in the way: the system's reason and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or "it does not fit on the disk"  # NumPy says only how many bytes it could not write
        raise FileError(
            f"{index}: cannot be written: {reason}. Free some space or choose another folder; no index was changed."
        ) from error
