"""The doors for files that people write: YAML into frozen dataclasses, JSONL and judgements into rows, and writes that
never tear.

Every problem names file, line and remedy. Knows nothing of what the files mean.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")

STRICT: Final = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)
"""A settings dataclass writes `__pydantic_config__: ClassVar = STRICT`, and a misspelt key in its YAML is refused, as
is a number that is none or has no end."""

MIB: Final = 1 << 20
SAMPLED: Final = 64
"""Of a larger file, a fingerprint has the size and this many evenly spaced MiB: training touches them all."""
LINE_BYTES: Final = 64 << 20
"""The longest line of a JSONL file: what is longer is no row but a file of another kind, or a broken one."""


class FileError(ValueError):
    """A file that cannot be used as it is: a sentence for each problem, with the place and the remedy."""


def read_yaml(path: Path, kind: type[T], overrides: Sequence[str] = ()) -> T:
    """Read a YAML mapping into the dataclass `kind`; `overrides` are `key=value` or `key.inner=value`.

    Raises FileError with every problem at once, each with the line it stands on.
    """
    text = read_text(path)
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        data = yaml.safe_load(text) if node else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise FileError(
            f"{path}:{mark.line + 1 if mark else 1}: not YAML: {getattr(error, 'problem', error)}"
        ) from None
    if not isinstance(data, dict):
        raise FileError(f"{path}:1: expected `key: value` lines, found a {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        raise FileError("\n".join(_sentence(path, node, kind, problem) for problem in error.errors())) from None


def read_text(path: Path) -> str:
    """The file's text; FileError when it is missing, a folder, or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {error}") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each non-blank line, one line in memory at a time.

    FileError names the first line that is not an object, not UTF-8, or longer than LINE_BYTES.
    """
    try:
        with path.open("rb") as file:
            # A bytes file ends its lines at \n alone: U+2028 and U+0085 may stand inside a JSON string as they are.
            for number, line in enumerate(iter(partial(file.readline, LINE_BYTES + 1), b""), start=1):
                text = _decoded(line, f"{path}:{number}")
                if text.strip():
                    yield number, _object(text, f"{path}:{number}")
    except FileNotFoundError:
        raise FileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error}") from None


def _decoded(line: bytes, place: str) -> str:
    if len(line) > LINE_BYTES:
        raise FileError(f"{place}: longer than {LINE_BYTES >> 20} MB: split what the line holds, one object a line")
    try:
        return line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{place}: not UTF-8 ({error.reason} at byte {error.start + 1}): save it as UTF-8") from None


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(f"{place}: not JSON ({error.msg} at column {error.colno}): one object a line") from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"{place}: cannot be read as JSON ({error}): one object a line") from None
    if not isinstance(row, dict):
        raise FileError(f"{place}: expected a JSON object, found a {type(row).__name__}")
    return row


def read_judgements(
    path: Path, queries: Container[str] | None = None, documents: Container[str] | None = None
) -> list[tuple[str, str, int]]:
    """(query, document, grade) of each line of a BEIR `qrels/*.tsv`; FileError has every bad line.

    With `queries` or `documents`, the ids that there are, a line about another is bad.
    """
    rows: list[tuple[str, str, int]] = []
    problems: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split("\t")
        is_judgement = len(cells) == 3 and re.fullmatch(r"-?\d+", cells[2])
        if number == 1:
            # The format has a header: without one, its first judgement would be taken for it and lost.
            wrong = "row: expected a header - write query-id, corpus-id, score above it" if is_judgement else ""
        elif not line.strip():
            continue
        elif not is_judgement:
            wrong = "row: expected query-id, corpus-id and a whole number - put tabs between them"
        elif queries is not None and cells[0] not in queries:
            wrong = f"query-id: {cells[0]!r} is not in queries.jsonl - add it, or remove the line"
        elif documents is not None and cells[1] not in documents:
            wrong = f"corpus-id: {cells[1]!r} is not in corpus.jsonl - add it, or remove the line"
        else:
            wrong = ""
            rows.append((cells[0], cells[1], int(cells[2])))
        problems += [f"{path}:{number} {wrong}"] if wrong else []
    if problems:
        raise FileError("\n".join(problems))
    return rows


def file_hash(path: Path) -> str:
    """The SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_hash(folder: Path) -> str:
    """One hash of everything in a model's folder that can change what it computes: not its prose, not its history."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden and file.suffix != ".md" and file.name != "provenance.json":
            digest.update(f"{file.relative_to(folder).as_posix()}\n{file_hash(file)}\n".encode())
    return digest.hexdigest()


def fingerprint(path: Path) -> str:
    """The content of a file, or of every file below a folder but its prose, whatever the folder is called.

    Twelve hex digits: enough to tell apart the few thousand things of one run.
    """
    files = (
        sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".md") if path.is_dir() else [path]
    )
    listed = [[file.relative_to(path).as_posix(), _sampled(file)] for file in files]
    return hashlib.sha256(json.dumps(listed, ensure_ascii=False).encode()).hexdigest()[:12]


def _sampled(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= SAMPLED * MIB:
            return hashlib.sha256(stream.read()).hexdigest()
        found = hashlib.sha256(str(size).encode())
        for block in range(SAMPLED):
            stream.seek((size - MIB) * block // (SAMPLED - 1))
            found.update(stream.read(MIB))
        return found.hexdigest()


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all rows or none."""
    write_atomically(path, (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))


def plain(value: Any, spelt: Callable[[Path], str] = str) -> Any:
    """The value as YAML and JSON have it: lists for tuples, and a text for every path.

    >>> plain({"index": Path("out/index"), "where": ({"year": 1},)})
    {'index': 'out/index', 'where': [{'year': 1}]}
    """
    if isinstance(value, Mapping):
        return {key: plain(inner, spelt) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, spelt) for inner in value]
    return spelt(value) if isinstance(value, Path) else value


def to_yaml(content: Any, folder: Path) -> str:
    """YAML for a file in this folder: its paths are relative to it, so that it may move with what it names."""
    home = folder.resolve()
    written = plain(content, lambda path: os.path.relpath(path, home))
    return yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=120)


def write_atomically(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one, never half."""
    pieces = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise FileError(
            f"{path}: cannot be written: {error.strerror}. Free some space or choose another folder."
        ) from error
    except BaseException:  # of the rows; a `finally` would also touch what is in place by then, and may fail
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path, busy: Exception) -> Iterator[int]:
    """The folder, for one program at a time; raises `busy` when another has it. A death releases it.

    Yields the open file that is locked: whoever inherits it holds the lock too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield handle
    finally:
        os.close(handle)


def unsafe_weights(folder: Path) -> str | None:
    """Why nothing is loaded from a model's folder, to end a sentence with; None when its weights are numbers alone."""
    if next(folder.rglob("*.safetensors"), None) is not None:
        return None
    return "no .safetensors file here, and other kinds of weights can carry code; convert them"


def flush(path: Path) -> None:
    """To the disk, a file or a folder's entries: what is there survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one `a.b=value`; the value is read as YAML, so `true`, `3` and `[a, b]` mean what they say."""
    key, equals, value = override.partition("=")
    if not equals:
        raise FileError(f"{override!r} on the command line is not key=value")
    *outer, last = key.split(".")
    try:
        for name in outer:
            data = data.setdefault(name, {})
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise FileError(f"{override!r} on the command line: the value is no YAML; put it in quotes") from None
    except (AttributeError, TypeError):
        raise FileError(f"{override!r} on the command line: {'.'.join(outer)} holds no other keys") from None


def _sentence(path: Path, root: yaml.Node | None, kind: type, problem: Any) -> str:
    """One pydantic problem as `file:line: key: what - remedy`."""
    trail = _trail(root, [str(part) for part in problem["loc"]])
    where = f"{path}:{_line(root, trail)}: {'.'.join(trail) or 'the whole file'}"
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = sorted(one.name for one in fields(kind)) if len(trail) == 1 and is_dataclass(kind) else []
        near = get_close_matches(trail[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}." if known else "remove it."
        return f"{where}: unknown key; {hint}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{where}: this key is required and missing"
    if problem["type"] == "union_tag_not_found":
        return f"{where}: the key {problem['ctx']['discriminator']} is required and missing"
    if problem["type"] == "union_tag_invalid":
        tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"].replace("'", "").split(", ")
        near = get_close_matches(tag, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there is: {', '.join(known)}"
        return f"{where}: there is no {problem['ctx']['discriminator'][1:-1]} {tag!r}; {hint}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"


def _trail(node: yaml.Node | None, location: Sequence[str]) -> list[str]:
    """The keys of the file that lead to a problem: of several dataclasses, the one that a `kind` chose is no key."""
    found: list[str] = []
    for part in location:
        inside = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        if part not in inside and "kind" in inside and inside["kind"].value == part:
            continue
        found.append(part)
        node = inside.get(part)
    return found


def _line(node: yaml.Node | None, trail: Sequence[str]) -> int:
    """The line of the deepest part of `trail` that the file has."""
    line = node.start_mark.line + 1 if node else 1
    for part in trail:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            pair = (node.value[int(part)],) * 2
        else:
            pair = None
        if pair is None:
            return line
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line
