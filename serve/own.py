"""The user's own code: a function in a Python file, `FILE:NAME` in a stack or a task. Whoever opens it runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrieval.files import FileError, read_text


def parted(place: Path) -> tuple[Path, str]:
    """The file and the function's name in `FILE:NAME`; ValueError when it has not that form."""
    file, _, name = str(place).rpartition(":")
    if not file or not name:
        raise ValueError(f"`path` is FILE:NAME, such as mine.py:answer, not {str(place)!r}")
    return Path(file), name


def function(file: Path, name: str, signature: str) -> Callable[..., Any]:
    """The function of this name; FileError when it cannot be had. `signature` tells how it is to be defined."""
    # Not imported: two folders may each have a mine.py, and an edited one must not come from a cache.
    space: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
    text = read_text(file)
    try:
        exec(compile(text, str(file), "exec"), space)
    except SyntaxError as error:
        raise FileError(f"{file}:{error.lineno}: not Python: {error.msg}") from None
    except Exception as error:
        raise FileError(f"{file}: cannot be loaded: {error!r}") from None
    if not callable(space.get(name)):
        raise FileError(f"{file}: has no function {name!r}; define it as {signature.format(name=name)}")
    return space[name]  # type: ignore[no-any-return]
