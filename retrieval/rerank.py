"""How well a passage answers a question, by a cross-encoder that reads the two together. The only door to that library.

Knows nothing of how passages are found. Needs no network: a model is a folder on this machine.
"""

import json
import logging
import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from retrieval.batch import Batched, Vectors
from retrieval.files import read_text, unsafe_weights
from retrieval.passage import RetrievalError

REMEMBERED: Final = 1_000
"""Questions with all their passages: 20 MB at 20 passages of 1,000 characters."""


def locate(folder: Path) -> Path:
    """The folder of a cross-encoder with one score; RetrievalError when it is not one that can be loaded.

    An embedder would load too, and rank by a head of random numbers.
    """
    if not (folder / "config.json").is_file():
        raise RetrievalError(
            f"{folder}: no re-ranker is here (no config.json); `python -m train.reranker` makes one, as does the "
            "folder of a cross-encoder of sentence-transformers"
        )
    config = json.loads(read_text(folder / "config.json"))
    kind = (config.get("architectures") or ["model without a name"])[0]
    if not kind.endswith("ForSequenceClassification") or len(config.get("id2label", "??")) != 1:
        raise RetrievalError(
            f"{folder}: holds a {kind}, not a cross-encoder with one score; `python -m train.reranker` makes one"
        )
    if why := unsafe_weights(folder):
        raise RetrievalError(f"{folder}: {why}")
    return folder.resolve()


@lru_cache(maxsize=2)
def open_reranker(folder: Path, sha256: str) -> "Reranker":
    """The re-ranker in this folder, the same one for every retriever that uses it while its files stay the same."""
    return Reranker(folder)


class Reranker:
    """Loads its model with the first question it is given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.scores = Batched(self._scores, REMEMBERED)
        """`await reranker.scores((question, *texts))` has a number for each text: the higher, the better it answers."""

    def _scores(self, asked: list[tuple[str, ...]]) -> Sequence[Vectors]:
        import torch

        # What the embedder sets for its short questions holds for every new thread, and this one has far more to read.
        torch.set_num_threads(os.cpu_count() or 1)
        pairs = [(question, text) for question, *texts in asked for text in texts]
        # Without the sigmoid, which rounds the best to the same 1.0.
        found = self._model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        ends = np.cumsum([len(texts) for _, *texts in asked])
        return np.split(np.asarray(found, dtype=np.float32), ends[:-1])

    @cached_property
    def _model(self) -> Any:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as in embed.py
        from sentence_transformers import CrossEncoder
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        return CrossEncoder(str(self._folder), local_files_only=True, model_kwargs={"use_safetensors": True})
