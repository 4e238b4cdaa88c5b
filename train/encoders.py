"""Embedders and cross-encoders, trained with sentence-transformers' own trainers. The only door to that library here.

Hands back models and what was measured; knows nothing of front doors, nor of files but where a base is.
"""

import logging
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import mine_hard_negatives
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed
from transformers.utils.logging import disable_progress_bar

from train.door import TrainError
from train.memory import device_name
from train.model import chosen_dtype
from train.pairs import batches, rows
from train.retrieval_recipe import RetrievalRecipe
from train.tune import Lesson, Trained

WARM_UP: Final = 0.1
"""Of the steps; then the learning rate falls to 0 in a line. Fine-tuning an encoder has few steps."""
SAFE: Final[dict[str, Any]] = {"local_files_only": True, "model_kwargs": {"use_safetensors": True}}


def train_embedder(lesson: Lesson) -> Trained:
    """InfoNCE over a batch (van den Oord et al. 2018): a question's own document against all others that are there."""
    recipe, started = lesson.recipe, time.perf_counter()
    set_seed(recipe.seed)
    model = _embedder(lesson.base)
    whole = model.max_seq_length
    if math.isfinite(whole):
        model.max_seq_length = min(whole, recipe.max_length)
    negatives = mine(model, lesson)
    mined = time.perf_counter() - started
    table = rows(lesson.questions, negatives, recipe.negatives)
    relevant = lesson.judged.relevant
    plan = [
        batch for epoch in range(recipe.epochs) for batch in batches(table, relevant, recipe.batch, recipe.seed + epoch)
    ]
    arguments = SentenceTransformerTrainingArguments(
        **_arguments(recipe),
        num_train_epochs=1,  # the plan holds all of them
        batch_sampler=lambda *_, **__: plan,
        prompts=_prompts(model, table[0]),
    )
    # In one forward pass, questions would be padded to the length of documents: a GPU gains, a CPU computes padding.
    with nullcontext() if torch.cuda.is_available() else column_merging_disabled():
        losses = _fit(EmbedderTrainer, arguments, model, table, MultipleNegativesRankingLoss(model))
    if math.isfinite(whole):
        model.max_seq_length = whole

    return Trained(
        save=lambda folder: model.save_pretrained(str(folder), create_model_card=False),
        results=_results(lesson, losses, len(table), mined, time.perf_counter() - started),
    )


def train_reranker(lesson: Lesson) -> Trained:
    """Right or wrong, by cross-entropy; right ones weigh as much as all their wrong ones together."""
    recipe, started = lesson.recipe, time.perf_counter()
    negatives = mine(_embedder(lesson.miner), lesson)
    mined = time.perf_counter() - started
    table = [
        {"question": row["anchor"], "document": row[key], "label": float(key == "positive")}
        for row in rows(lesson.questions, negatives, recipe.negatives)
        for key in row
        if key != "anchor"
    ]
    model, losses = fit_reranker(recipe, lesson.base, table)
    return Trained(
        save=lambda folder: model.save_pretrained(str(folder), create_model_card=False),
        results=_results(lesson, losses, len(table), mined, time.perf_counter() - started),
    )


def fit_reranker(recipe: RetrievalRecipe, base: Path, table: Sequence[Mapping[str, Any]]) -> tuple[Any, list[float]]:
    """A cross-encoder that has learnt rows of `question`, `document` and `label` (0 or 1); the loss of every step."""
    set_seed(recipe.seed)  # also of the new head
    model = CrossEncoder(str(base), num_labels=1, max_length=recipe.max_length, **SAFE)
    arguments = CrossEncoderTrainingArguments(**_arguments(recipe), num_train_epochs=recipe.epochs)
    loss = BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(float(recipe.negatives), device=model.device))
    return model, _fit(RerankerTrainer, arguments, model, table, loss)


def unit_vectors(folder: Path) -> Callable[[list[str]], Any]:
    """Texts -> an array of unit vectors, by the embedder in this folder."""
    model = _embedder(folder)
    return lambda texts: np.asarray(
        model.encode_query(texts, normalize_embeddings=True, show_progress_bar=sys.stderr.isatty()), dtype=np.float32
    )


def mine(model: Any, lesson: Lesson) -> Mapping[str, Sequence[str]]:
    """By question, the documents nearest to it that nobody marked as relevant, enough for each of its relevant ones.

    No margin below the relevant ones is kept: where a question has several, the least similar of them would set it;
    with the usual 5 %, two in three of Cranfield's questions would be left without a wrong document.
    """
    recipe, relevant = lesson.recipe, lesson.judged.relevant
    if not recipe.negatives:
        return {}
    known = [(question.text, document) for question in lesson.questions for document in relevant[question.text]]
    most = max(len(relevant[question.text]) for question in lesson.questions)
    wanted = recipe.negatives * max(len(question.relevant) for question in lesson.questions)
    unseen = nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO())  # its bars cannot be switched off
    with unseen, torch.autocast(model.device.type, torch.bfloat16, enabled=_dtype(recipe) == torch.bfloat16):
        mined = mine_hard_negatives(
            Dataset.from_dict({"anchor": [q for q, _ in known], "positive": [d for _, d in known]}),
            model,
            corpus=list(lesson.judged.documents),
            range_min=recipe.skip_nearest,
            num_negatives=min(wanted, len(lesson.judged.documents) - most - recipe.skip_nearest),
            output_format="labeled-pair",
            faiss_batch_size=256,  # questions at once: with all of them, a million documents would need a terabyte
            verbose=False,
        )
    found: defaultdict[str, list[str]] = defaultdict(list)
    for question, document, label in zip(mined["anchor"], mined["positive"], mined["label"], strict=True):
        if not label:
            found[question].append(document)
    return found


class Cardless:
    """A trainer without the library's model card, for which it would look through the data: our card is JSON."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass


class EmbedderTrainer(Cardless, SentenceTransformerTrainer):  # type: ignore[misc]
    pass


class RerankerTrainer(Cardless, CrossEncoderTrainer):  # type: ignore[misc]
    pass


class Watch(TrainerCallback):  # type: ignore[misc]
    """Stops at a loss that is not a number; the trainer itself would go on, and hide it from the log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise TrainError(
                f"the loss of step {state.global_step} is not a number: lower learning_rate, or dtype=float32"
            )


class Bar(ProgressCallback):  # type: ignore[misc]
    """The bar, without a line for every step."""

    def on_log(self, *args: Any, **rest: Any) -> None:
        pass


def _embedder(folder: Path) -> Any:
    # A head that is new, layers that were not sharded: nothing that anybody has to act on.
    for library in ("transformers", "sentence_transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    disable_progress_bar()
    return SentenceTransformer(str(folder), **SAFE)


def _prompts(model: Any, row: Mapping[str, str]) -> dict[str, str]:
    """The instructions that this embedder puts before questions and documents, as `encode_query` and its like do."""
    known = model.prompts
    document = next((known[name] for name in ("document", "passage", "corpus") if known.get(name)), "")
    prompts = {column: known.get("query", "") if column == "anchor" else document for column in row}
    return {column: prompt for column, prompt in prompts.items() if prompt}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(recipe: RetrievalRecipe) -> torch.dtype:
    return chosen_dtype(recipe.dtype, _device())


def _arguments(recipe: RetrievalRecipe) -> dict[str, Any]:
    """What both trainers are told alike."""
    return {
        "per_device_train_batch_size": recipe.batch,
        "learning_rate": recipe.learning_rate,
        "warmup_steps": WARM_UP,
        "bf16": _dtype(recipe) == torch.bfloat16,
        "use_cpu": not torch.cuda.is_available(),
        "seed": recipe.seed,
        "output_dir": "unused",  # nothing is written but at the end, by us
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }


def _fit(trainer: Any, arguments: Any, model: Any, table: Sequence[Mapping[str, Any]], loss: Any) -> list[float]:
    """Train the model in place; the loss of every step."""
    columns = {name: [row[name] for row in table] for name in table[0]}
    trainer = trainer(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch())
    if sys.stderr.isatty():
        trainer.add_callback(Bar())
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _results(lesson: Lesson, losses: Sequence[float], rows: int, mined: float, seconds: float) -> dict[str, Any]:
    tenth = max(1, len(losses) // 10)
    return {
        "questions": len(lesson.questions),
        "relevant_documents": sum(len(question.relevant) for question in lesson.questions),
        "rows": rows,
        "steps": len(losses),
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
        "mining_seconds": round(mined, 1),
        "seconds": round(seconds, 1),
        "device": device_name(_device()),
    }
