"""Fine-tune an embedder on questions and their relevant documents.

    python -m train.embedder [--config FILE] [key=value ...]

Without arguments it trains the demo's. Knows nothing of how: see tune.py for the checks, encoders.py for the training.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from train.recipe import REPOSITORY
from train.retrieval_recipe import RetrievalRecipe
from train.tune import Door, Lesson, Trained
from train.tune import main as open_door


def train(lesson: Lesson) -> Trained:
    from train.encoders import train_embedder  # heavy

    return train_embedder(lesson)


def use(folder: Path) -> str:
    return (
        f"Next: python -m retrieval build DOCS INDEX --embedder {folder}, then measure it on questions it has not seen "
        "(python -m retrieval measure INDEX BEIR_DIR --split test)"
    )


DOOR = Door(
    noun="embedder",
    recipe=RetrievalRecipe,
    default=REPOSITORY / "train" / "recipes" / "embedder.yaml",
    train=train,
    use=use,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; the exit code."""
    return open_door(DOOR, arguments)


if __name__ == "__main__":
    sys.exit(main())
