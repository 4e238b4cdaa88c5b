"""What all front doors share: a usage error leaves with 1, our own progress is heard above that of libraries, and a
polite kill is a Ctrl-C.

Knows nothing of what any door leads to.
"""

import argparse
import logging
import signal
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


def stop_politely() -> None:
    """Hear Ctrl-C and take a kill for one; a script's background job inherits Ctrl-C ignored: it would hear neither."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
