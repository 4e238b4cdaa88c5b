"""What the front doors of this room share: what is wrong goes to stderr as sentences, and the exit code is 1.

Knows nothing of recipes, chats or models.
"""

import sys


class TrainError(ValueError):
    """Data, a recipe or a model that cannot be used: a sentence for each problem, with the place and the remedy."""


def refuse(error: Exception) -> int:
    """Say what is wrong and return the exit code that goes with it."""
    sys.stderr.write(f"{error}\n")
    return 1
