"""A frozen base with a LoRA adapter in it, and the loss of a pack. The door to PEFT, bitsandbytes and model classes.

Knows nothing of optimisers, steps or files of chats.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed
from transformers.utils.logging import disable_progress_bar

from train.attention import PACKED, register
from train.door import TrainError
from train.masking import Sample
from train.recipe import Recipe

PROOF_TOLERANCE: Final = 0.05
"""Of the largest logit. bfloat16 rounding stays below it by far; a document that sees another does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One pack as tensors: documents end to end, positions counted from zero in each."""

    tokens: Tensor
    positions: Tensor
    starts: Tensor
    """Where each document starts, and where the last one ends."""
    longest: int
    predictors: Tensor
    """Positions whose next token is labelled. The first token of a document has no predictor."""
    targets: Tensor


def batch(samples: Sequence[Sample], device: torch.device) -> Batch:
    """The samples as one pack; without samples a pack without labels, so that all processes take equally many turns."""
    lengths = [len(sample.tokens) for sample in samples] or [1]
    tokens = [token for sample in samples for token in sample.tokens] or [0]
    starts = list(accumulate(lengths, initial=0))
    predictors = [
        start + i - 1
        for start, sample in zip(starts, samples, strict=False)
        for i in range(1, len(sample.tokens))
        if sample.labelled[i]
    ]
    return Batch(
        tokens=torch.tensor([tokens], device=device),
        positions=torch.tensor([[i for length in lengths for i in range(length)]], device=device),
        starts=torch.tensor(starts, dtype=torch.int32, device=device),
        longest=max(lengths),
        predictors=torch.tensor(predictors, dtype=torch.long, device=device),
        targets=torch.tensor([tokens[i + 1] for i in predictors], dtype=torch.long, device=device),
    )


def labelled_tokens(samples: Iterable[Sample]) -> int:
    """How many tokens enter the loss."""
    return sum(sum(sample.labelled[1:]) for sample in samples)


def logits(model: nn.Module, pack: Batch) -> Tensor:
    """[predictors, vocabulary]: the head is applied to the rows that predict a labelled token and to no other."""
    # A cache would make transformers attend across documents, and costs memory that training never reads.
    output: Any = model(
        input_ids=pack.tokens,
        position_ids=pack.positions,
        use_cache=False,
        logits_to_keep=pack.predictors,
        cu_seq_lens_q=pack.starts,
        cu_seq_lens_k=pack.starts,
        max_length_q=pack.longest,
        max_length_k=pack.longest,
    ).logits
    rows: Tensor = output[0]
    return rows


def summed_loss(model: nn.Module, pack: Batch) -> Tensor:
    """The sum of -log p over the labelled tokens of a pack; whoever divides knows the count over the whole step."""
    return cross_entropy(logits(model, pack).float(), pack.targets, reduction="sum")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine multiplies it fast: on CUDA, and on CPUs that have it in their vector units."""
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def load_base(folder: Path, recipe: Recipe, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The base model, frozen, in `dtype` or in NF4."""
    register()
    disable_progress_bar()
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=PACKED,
        quantization_config=nf4 if recipe.quantize == "nf4" else None,
        device_map={"": device},
        local_files_only=True,
    )
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise TrainError(
            f"{recipe.model}: {type(model).__name__} cannot score chosen positions only, so it cannot be trained here"
        )
    _keep_gradients(model)
    prove_packing(model)
    return model.requires_grad_(False)


def _keep_gradients(model: nn.Module) -> None:
    """Put 4-bit layers in training mode; the rest of the model stays in evaluation mode, and so without dropout.

    On a CPU, a 4-bit layer in evaluation mode repacks its weights for inference when it first runs without gradients,
    and the product with repacked weights passes none back: everything below would train on nothing.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.train()


@torch.no_grad()
def prove_packing(model: Any) -> None:
    """Refuse an architecture in which a document's logits depend on its neighbour in the pack, or on being packed.

    The reference is the document alone under the model's ordinary attention, so this also finds a kernel that is wrong.
    """
    device = next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    one, two = (_text_of_24(first, vocabulary) for first in (100, 300))
    packed = logits(model, batch([one, two], device))[-23:]
    model.set_attn_implementation("eager")
    alone = logits(model, batch([two], device))
    model.set_attn_implementation(PACKED)
    error = (packed - alone).abs().max() / alone.abs().max()
    if not error <= PROOF_TOLERANCE:
        raise TrainError(
            f"{type(model).__name__}: a document's logits change by {error:.0%} when another is packed beside it, so "
            "this architecture (recurrent layers, perhaps) cannot be trained on packs"
        )


def _text_of_24(first: int, vocabulary: int) -> Sample:
    """Any text will do, as long as it differs."""
    tokens = tuple(token % vocabulary for token in range(first, first + 24))
    return Sample(where="", tokens=tokens, labelled=(True,) * 24)


def add_adapter(base: nn.Module, recipe: Recipe) -> nn.Module:
    """LoRA in every linear layer but the head ("LoRA Without Regret": the MLP matters most), in float32 and seeded.

    Nothing that vLLM refuses can be asked for: no bias, no DoRA, no modules saved whole, no init that edits the base.
    """
    set_seed(recipe.seed)  # before A is drawn
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    model: nn.Module = get_peft_model(base, config)
    return model


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The adapter's matrices."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
