"""A scorer of the user's own: a function in a Python file, `(example, text, shown) -> 0..1`.

    scorers: {tone: {kind: python, path: "mine.py:score"}}

The file is run by whoever runs the task, as code; a report of a finished run never runs it.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.example import Example
from eval.record import RunError
from eval.scoring.kinds import Scorer, ScorerSettings
from retrieval.files import FileError, read_text


def python(settings: ScorerSettings) -> Scorer:
    """The function; ValueError when the file or the function cannot be had."""
    file, name = _place(settings)
    judge = _function(file, name)

    def score(example: Example, text: str, shown: Sequence[str]) -> float:
        try:
            found = judge(example, text, shown)
        except Exception as error:
            raise _broken(file, name, example, f"raised {error!r}") from error
        if not isinstance(found, int | float) or not 0 <= found <= 1:
            raise _broken(file, name, example, f"returned {found!r}, which is no number from 0 to 1")
        return float(found)

    return score


def content(settings: ScorerSettings) -> str:
    """What its scores depend on: the function's name and the file's bytes. Nothing that the file imports."""
    file, name = _place(settings)
    return f"{name}|sha256:{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"


def _place(settings: ScorerSettings) -> tuple[Path, str]:
    file, _, name = str(settings.path).rpartition(":")
    return Path(file), name


def _function(file: Path, name: str) -> Callable[[Example, str, Sequence[str]], Any]:
    # Not imported: two tasks may each have a mine.py, and an edited one must not come from a cache.
    space: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
    try:
        exec(compile(read_text(file), str(file), "exec"), space)
    except FileError as error:
        raise ValueError(str(error)) from None
    except SyntaxError as error:
        raise ValueError(f"{file}:{error.lineno}: not Python: {error.msg}") from None
    except Exception as error:
        raise ValueError(f"{file}: cannot be loaded: {error!r}") from None
    if not callable(space.get(name)):
        raise ValueError(f"{file}: has no function {name!r}; define it as {name}(example, text, shown)")
    return space[name]  # type: ignore[no-any-return]


def _broken(file: Path, name: str, example: Example, what: str) -> RunError:
    return RunError(
        f"{file}: {name} {what} for example {example.id!r}. Correct it and run the same command; every answer before "
        "this one is kept."
    )
