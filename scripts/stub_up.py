"""`python -m serve up` with `scripts/stub_engine.py` where vLLM would be: everything else is the real thing.

    python -m scripts.stub_up STACK --port 0

Knows nothing of what either does.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from serve import engine
from serve.__main__ import main
from serve.stack import Stack

_theirs = engine.command


def command(stack: Stack, model: Path, homes: Mapping[str, Path], socket: Path) -> list[str]:
    """vLLM's own flags for another program."""
    return [sys.executable, "-m", "scripts.stub_engine", *_theirs(stack, model, homes, socket)[3:]]


if __name__ == "__main__":
    setattr(engine, "command", command)  # noqa: B010 - mypy knows that a module's function is no variable
    sys.argv[1:1] = ["up"]
    sys.exit(main())
