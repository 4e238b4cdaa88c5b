"""What the front doors of this room share: usage errors leave with 1, and what is wrong goes to stderr as sentences.

Knows nothing of recipes, chats or models.
"""

import argparse
import sys
from typing import NoReturn


class TrainError(ValueError):
    """Data, a recipe or a model that cannot be used: a sentence for each problem, with the place and the remedy."""


class Parser(argparse.ArgumentParser):
    """argparse leaves with 2 when it is called wrongly; here 2 means a failed gate, so it leaves with 1."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def refuse(error: Exception) -> int:
    """Say what is wrong and return the exit code that goes with it."""
    sys.stderr.write(f"{error}\n")
    return 1
