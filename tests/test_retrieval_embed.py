"""What our embedder does for speed changes nothing that it says."""

import numpy as np
from sentence_transformers import SentenceTransformer

from retrieval.embed import PACKAGED, Embedder, locate

TEXTS = ["Which birds cannot fly?", "", "Ein Satz über Ångström 🙂", "long " * 400]


async def test_vectors_are_those_of_the_plain_library() -> None:
    folder = locate(PACKAGED)
    plain = SentenceTransformer(str(folder), local_files_only=True, device="cpu")
    ours = Embedder(folder)

    passages, questions = ours.passages(TEXTS), np.stack([await ours.question(text) for text in TEXTS])

    assert np.allclose(passages, plain.encode_document(TEXTS, normalize_embeddings=True), atol=1e-6)
    assert np.allclose(questions, plain.encode_query(TEXTS, normalize_embeddings=True), atol=1e-6)
