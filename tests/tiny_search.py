"""Embedders and encoders that fit in a test: a vocabulary of a few words, random weights, made in a moment.

And a BEIR folder whose questions and documents share no word, so that only training can tell what belongs together.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

ASKED: Final = tuple(f"q{n}" for n in range(24))
SAID: Final = tuple(f"d{n}" for n in range(24))
"""A document says d7 where a question asks for q7."""
WORDS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "true", "false", *ASKED, *SAID)


def make_beir(folder: Path, documents: int = 150, seed: int = 0) -> Path:
    """Documents of three words, true or false; a question asks for two of the words, and only true ones are relevant.

    `train` and `test` share no question; `qrels/test.tsv` has 20 of them.
    """
    random = Random(seed)
    meant = [tuple(sorted(random.sample(range(24), 3))) for _ in range(documents)]
    corpus = [
        {"_id": f"d{n}", "title": "", "text": f"{' '.join(SAID[word] for word in words)} {truth}"}
        for n, words in enumerate(meant)
        for truth in ["true" if n % 2 else "false"]
    ]
    pairs = sorted({tuple(sorted(random.sample(meant[n], 2))) for n in range(1, documents, 2)})
    random.shuffle(pairs)
    queries = [{"_id": f"q{n}", "text": " ".join(ASKED[word] for word in pair)} for n, pair in enumerate(pairs)]
    relevant = [
        (f"q{number}", f"d{n}")
        for number, pair in enumerate(pairs)
        for n in range(1, documents, 2)
        if {*pair} <= {*meant[n]}
    ]
    write_beir(folder, corpus, queries)
    test = {f"q{number}" for number in range(20)}
    write_qrels(folder / "qrels" / "test.tsv", [pair for pair in relevant if pair[0] in test])
    write_qrels(folder / "qrels" / "train.tsv", [pair for pair in relevant if pair[0] not in test])
    return folder


def write_beir(folder: Path, corpus: Sequence[object], queries: Sequence[object]) -> None:
    """Write the two files of rows."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))


def write_qrels(file: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    """Mark these (query, document) as relevant."""
    lines = [f"{query}\t{document}\t1" for query, document in pairs]
    file.write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return file


def make_embedder(folder: Path, width: int = 32) -> Path:
    """A sentence-transformers folder of the smallest kind: a random vector for each word, their mean for a text."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    weights = np.random.default_rng(7).normal(size=(len(WORDS), width)).astype(np.float32)
    modules = [StaticEmbedding(_tokenizer(), embedding_weights=weights), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


def make_encoder(folder: Path, labels: int | None = None) -> Path:
    """A BERT of one layer with random weights; with `labels`, a classifier with so many scores (1: a cross-encoder)."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=labels or 2,
    )
    model = BertForSequenceClassification(config) if labels else BertModel(config)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer
