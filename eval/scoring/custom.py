"""A scorer of the user's own: a function in a Python file, `(example, text, shown) -> 0..1`.

    scorers: {tone: {kind: python, path: "mine.py:score"}}

The file is run by whoever runs the task, as code; a report of a finished run never runs it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from eval.example import Example
from eval.record import RunError
from eval.scoring.kinds import Scorer, ScorerSettings
from serve.own import function, parted


def python(settings: ScorerSettings) -> Scorer:
    """The function; ValueError when the file or the function cannot be had."""
    file, name = _place(settings)
    judge = function(file, name, "{name}(example, text, shown)")

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
    assert settings.path is not None  # kinds.NEEDS
    return parted(settings.path)


def _broken(file: Path, name: str, example: Example, what: str) -> RunError:
    return RunError(
        f"{file}: {name} {what} for example {example.id!r}. Correct it and run the same command; every answer before "
        "this one is kept."
    )
