"""Whether those whom a benchmark measures against are here: they live in environments of their own.

Knows nothing of what they do.
"""

import sys
from pathlib import Path


def peers_are_there(program: Path, requirements: str) -> bool:
    """Whether their `bin/PROGRAM` exists; if not, say how to make it from that file of `requirements/`."""
    if program.exists():
        return True
    folder = program.parent.parent
    print(
        f"{program}: no peers are here, so ours is measured alone. To make them: "
        f"python3 -m venv {folder} && {folder}/bin/pip install -r requirements/{requirements}",
        file=sys.stderr,
    )
    return False
