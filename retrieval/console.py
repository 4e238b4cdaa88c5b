"""What all front doors share: a usage error leaves with 1, and our own progress is heard above that of libraries.

Knows nothing of what any door leads to.
"""

import argparse
import logging
import sys
from typing import Never


class Parser(argparse.ArgumentParser):
    """A mistyped command exits with 1 like any other error; argparse's own 2 would mean a failed gate."""

    def error(self, message: str) -> Never:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def tell_progress(*rooms: str) -> None:
    """Send what these rooms and the program say to stderr; of libraries only warnings, or they would drown it."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("__main__", *rooms):
        logging.getLogger(name).setLevel(logging.INFO)
