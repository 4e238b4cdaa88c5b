"""A frozen base with a LoRA adapter in it, which turns a pack into its loss. The door to PEFT and model classes.

Knows nothing of optimisers, steps or files of chats.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, AutoModelForCausalLM, BitsAndBytesConfig, set_seed
from transformers.utils.logging import disable_progress_bar

from train.attention import PACKED, packed_attention, register
from train.door import TrainError
from train.lean import make_lean
from train.masking import Sample
from train.processes import is_shared
from train.provenance import WEIGHTS
from train.recipe import Recipe

PROOF_TOLERANCE: Final = 0.05
"""Of the largest logit. bfloat16 rounding stays below it by far; a document that sees another does not."""
CHUNK: Final = 2**25
"""Logits at a time: 128 MiB of float32, a few hundred rows of a large vocabulary."""


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


class Learner(nn.Module):
    """A causal model that is asked for one thing, the loss of a pack: one module for DDP and FSDP to wrap.

    What Accelerate asks about embeddings and head it does not hear: both stay in the unit that is whole throughout a
    pass, where `head` finds them.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def _no_split_modules(self) -> list[str]:
        """The layers, which are gathered one at a time; without this Accelerate would gather the whole base at once."""
        return sorted({type(layer).__name__ for layer in self.model.get_decoder().layers})

    def tie_weights(self) -> None:
        """For Accelerate: embeddings and head are one matrix again, where they were before it moved them."""
        self.model.get_base_model().tie_weights()

    def forward(self, pack: Batch) -> Tensor:
        """The sum of -log p over the pack's labelled tokens; whoever divides knows the count over the whole step."""
        return head_loss(rows_before_head(self.model, pack), head(self.model), pack.targets)

    def prove_packing(self) -> None:
        """A forward pass like the other one, for a base that is shared among processes."""
        prove_packing(self.model)


def rows_before_head(model: Any, pack: Batch) -> Tensor:
    """[predictors, hidden]: what the head reads where a labelled token comes next, and nowhere else."""
    hidden = model.get_decoder()(
        input_ids=pack.tokens,
        position_ids=pack.positions,
        use_cache=False,  # a cache would make transformers attend across documents
        cu_seq_lens_q=pack.starts,
        cu_seq_lens_k=pack.starts,
        max_length_q=pack.longest,
        max_length_k=pack.longest,
    ).last_hidden_state
    rows: Tensor = hidden[0, pack.predictors]
    return rows


def head(model: Any) -> Tensor:
    """The matrix [vocabulary, hidden] that makes logits of rows."""
    weight: Tensor = model.get_output_embeddings().weight
    return weight


def head_loss(rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of rows [n, hidden] under a frozen head [vocabulary, hidden], a chunk at a time.

    The head takes no gradient, so the rows' own is known as soon as their logits are, and no logits outlive their chunk
    (as in Liger Kernel's fused linear cross-entropy). Everything behind the product is float32.
    """
    loss: Tensor = _HeadLoss.apply(rows, weight, targets)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        rows, weight, targets = given
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        gradient = torch.empty_like(rows)
        size = max(1, CHUNK // len(weight))
        for start in range(0, len(rows), size):
            part, wanted, out = (tensor[start : start + size] for tensor in (rows, targets, gradient))
            scores = (part @ weight.T).float()
            scores -= scores.logsumexp(-1, keepdim=True)
            total -= scores.gather(1, wanted[:, None]).sum()
            if ctx.needs_input_grad[0]:
                chances = scores.exp_()
                chances[torch.arange(len(wanted), device=rows.device), wanted] -= 1
                torch.mm(chances.to(weight.dtype), weight, out=out)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * gradients[0], None, None


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine multiplies it fast: on CUDA, and on CPUs that have it in their vector units."""
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def chosen_dtype(name: str, device: torch.device) -> torch.dtype:
    """A recipe's `dtype`, where `auto` is the best that the machine has."""
    dtype: torch.dtype = best_dtype(device) if name == "auto" else getattr(torch, name)
    return dtype


def load_base(folder: Path, recipe: Recipe, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The base model, frozen, in `dtype` or in NF4."""
    register()
    disable_progress_bar()
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # FSDP shares only what calls itself a floating number; other 4-bit layers it would leave whole everywhere.
        bnb_4bit_quant_storage=dtype if is_shared() else torch.uint8,
    )
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=PACKED,
        quantization_config=nf4 if recipe.quantize == "nf4" else None,
        device_map={"": device},
        local_files_only=True,
    )
    _keep_gradients(model)
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
    """Refuse an architecture in which a packed document's logits are not those it has alone under the model's own code.

    This finds layers that look across documents, kernels that are wrong, and heads that scale or cap their logits.
    """
    device = next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    one, two = (filler(24, first, vocabulary) for first in (100, 300))
    packed = rows_before_head(model, batch([one, two], device))[-23:] @ head(model).T
    model.set_attn_implementation("eager")
    alone = model(input_ids=torch.tensor([two.tokens], device=device), use_cache=False).logits[0, :-1]
    model.set_attn_implementation(PACKED)
    error = (packed - alone).abs().max() / alone.abs().max()
    if not error <= PROOF_TOLERANCE:
        raise TrainError(
            f"{type(model).__name__}: a document's logits change by {error:.0%} when it is packed beside another and "
            "scored here, so this architecture (recurrent layers or a head that scales its logits, perhaps) cannot be "
            "trained on packs"
        )


def filler(length: int, first: int = 0, vocabulary: int = 100) -> Sample:
    """Some text or other, all of it labelled."""
    tokens = tuple(token % vocabulary for token in range(first, first + length))
    return Sample(where="", tokens=tokens, labelled=(True,) * length)


def add_adapter(base: nn.Module, recipe: Recipe) -> nn.Module:
    """LoRA in every linear layer but the head ("LoRA Without Regret": the MLP matters most), in float32 and seeded.

    Nothing that vLLM refuses can be asked for: no bias, no DoRA, no modules saved whole, no init that edits the base.
    """
    set_seed(recipe.seed)  # before A is drawn
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        use_rslora=recipe.rslora,
        lora_dropout=0.0,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    model: nn.Module = get_peft_model(base, config)
    if recipe.continue_from:
        pour(model, load_file(recipe.continue_from / WEIGHTS))
    return make_lean(model)


def pour(model: nn.Module, matrices: dict[str, Tensor]) -> None:
    """Give the adapter these values, under PEFT's names; TrainError when they are another base's or rank's."""
    names = get_peft_model_state_dict(model).keys()
    if names != matrices.keys():
        raise TrainError(f"the adapter to continue from has other layers, for instance {min(names ^ matrices.keys())}")
    set_peft_model_state_dict(model, {name: matrix.float() for name, matrix in matrices.items()})


def compile_layers(model: Any) -> None:
    """Fuse what stands between the matrix products; attention, whose shapes are every pack's own, stays as it is."""
    AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))  # type: ignore[no-untyped-call]
    for layer in model.get_decoder().layers:
        layer.compile(dynamic=True)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's matrices by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
