"""Train a re-ranker, a cross-encoder that reads question and passage together, on questions and relevant documents.

    python -m train.reranker [--config FILE] [key=value ...]

Without arguments it trains the demo's. Knows nothing of how: see tune.py for the checks, encoders.py for the training.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from train.recipe import REPOSITORY
from train.retrieval_recipe import RerankerRecipe
from train.tune import Door, Lesson, Trained
from train.tune import main as open_door


def train(lesson: Lesson) -> Trained:
    from train.encoders import train_reranker  # heavy

    return train_reranker(lesson)


def use(folder: Path) -> str:
    return (
        f"Next: measure it on questions it has not seen (python -m retrieval measure INDEX BEIR_DIR --split test "
        f"--rerank {folder}); it is used with `rerank: {folder}` in a retriever of a stack file"
    )


DOOR = Door(
    noun="reranker",
    recipe=RerankerRecipe,
    default=REPOSITORY / "train" / "recipes" / "reranker.yaml",
    train=train,
    use=use,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; the exit code."""
    return open_door(DOOR, arguments)


if __name__ == "__main__":
    sys.exit(main())
