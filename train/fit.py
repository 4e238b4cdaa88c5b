"""The training itself: set up, evaluate, step, evaluate. One loop for one CPU, one GPU or several processes.

Knows nothing of files of chats, or of where samples come from and adapters go.
"""

import math
import os
import resource
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

from train.adapter import Workshop
from train.base import read_config
from train.door import TrainError
from train.masking import Sample
from train.model import add_adapter, batch, best_dtype, labelled_tokens, load_base, summed_loss, trainable
from train.pack import Budget, best_fit_decreasing, share, steps
from train.recipe import Recipe, default_learning_rate

WARM_UP: Final = 0.03
"""Of the steps: the learning rate rises to its peak, then falls along a cosine."""
CLIP: Final = 1.0
MOST_ROWS_NAMED: Final = 10

Packs = Sequence[Sequence[Sample]]
"""The samples of each pack of an optimiser step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The processes, the model in their wrapping, and the optimiser of its adapter."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer
    peak_rate: float


@dataclass(frozen=True, slots=True)
class Done:
    """How much went through the model, and how long that took. Only real tokens are counted; there is no padding."""

    tokens: int = 0
    labelled_tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, packs: Packs, seconds: float) -> "Done":
        """One step."""
        tokens = sum(len(sample.tokens) for pack in packs for sample in pack)
        return cls(tokens, sum(labelled_tokens(pack) for pack in packs), seconds)

    def __add__(self, other: "Done") -> "Done":
        return Done(
            self.tokens + other.tokens, self.labelled_tokens + other.labelled_tokens, self.seconds + other.seconds
        )

    @property
    def tokens_per_second(self) -> float:
        """With labels or without."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def entries(self) -> dict[str, float]:
        """For the log and for provenance."""
        return {
            "tokens": self.tokens,
            "labelled_tokens": self.labelled_tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The model with its adapter, and what the training measured."""

    model: nn.Module
    results: dict[str, Any]
    is_main: bool
    """One of several processes is; it alone saves and speaks."""


def fit(
    recipe: Recipe, base: Path, training: Sequence[Sample], held_out: Sequence[Sample], workshop: Workshop
) -> Trained:
    """Train an adapter; the log grows in the workshop. Raises TrainError on a loss that is not a number."""
    trainer = set_up(recipe, base)
    main = trainer.accelerator.is_main_process
    if main:
        workshop.open()
    began = time.monotonic()
    before = mean_loss(trainer, held_out, recipe.max_length)
    if main:
        workshop.log({"step": 0, "eval_loss": before})
    trained = _train(trainer, recipe, training, workshop)
    round_to_export(trainer.model)
    after = mean_loss(trainer, held_out, recipe.max_length)
    if main:
        workshop.log({"step": trained["steps"], "eval_loss": after})
    results = {
        **trained,
        "rows": len(training),
        "held_out_rows": len(held_out),
        "eval_loss_before": before,
        "eval_loss": after,
        "seconds": round(time.monotonic() - began, 1),
        "peak_gib": round(_peak_gib(trainer.accelerator.device), 2),
        "device": _device_name(trainer.accelerator.device),
    }
    return Trained(model=trainer.accelerator.unwrap_model(trainer.model), results=results, is_main=main)


def set_up(recipe: Recipe, base: Path) -> Trainer:
    """Load the base, add the adapter, and let Accelerate place both."""
    # Without the flag, several processes on a machine without a GPU would each take themselves for the only one.
    cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "True"
    device = PartialState(cpu=cpu).device
    use_every_core(device)
    dtype = best_dtype(device) if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    # Accelerate would divide the loss by its accumulation steps; `step` divides by the labelled tokens itself.
    precision = "bf16" if dtype is torch.bfloat16 else "no"
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=1, cpu=cpu)
    model = add_adapter(load_base(base, recipe, dtype, device), recipe)
    config = read_config(base)
    rate = recipe.learning_rate or default_learning_rate(config["hidden_size"], config["model_type"])
    optimizer = AdamW(trainable(model), lr=rate, weight_decay=0.0, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    return Trainer(accelerator=accelerator, model=model, optimizer=optimizer, peak_rate=rate)


def use_every_core(device: torch.device) -> None:
    """Undo OMP_NUM_THREADS=1, which `accelerate launch` sets without a GPU: all cores but one would idle."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if device.type == "cpu" and launched and os.environ.get("OMP_NUM_THREADS") == "1":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _train(trainer: Trainer, recipe: Recipe, samples: Sequence[Sample], workshop: Workshop) -> dict[str, Any]:
    """Every step of every epoch; returns what was done in all."""
    main = trainer.accelerator.is_main_process
    budget = Budget(pack=recipe.max_length, step=recipe.tokens_per_step)
    _refuse_idle_processes(budget, trainer.accelerator.num_processes)
    plan = list(steps([len(sample.tokens) for sample in samples], budget, recipe.epochs, recipe.seed))
    total, began = Done(), time.monotonic()
    bar = tqdm(plan, desc=recipe.name, unit="step", disable=None if main else True)
    for number, rows in enumerate(bar, start=1):
        packs = [[samples[row] for row in pack] for pack in rows]
        rate = learning_rate_at(number, len(plan), trainer.peak_rate)
        step_began = time.monotonic()
        loss, norm = step(trainer, packs, rate)
        done = Done.of(packs, time.monotonic() - step_began)
        total += done
        bar.set_postfix_str(f"loss {loss:.3f}, {done.tokens_per_second:,.0f} tokens/s")
        if main:
            measured = {"loss": round(loss, 6), "grad_norm": round(norm, 4), "learning_rate": rate}
            workshop.log({"step": number, **measured, **done.entries(), "seconds": round(time.monotonic() - began, 2)})
    return {"steps": len(plan), "train_loss": loss, "peak_learning_rate": trainer.peak_rate, **total.entries()}


def _refuse_idle_processes(budget: Budget, processes: int) -> None:
    if budget.packs_per_step < processes:
        raise TrainError(
            f"{processes} processes share steps of {budget.packs_per_step} packs, so some would idle: "
            f"set tokens_per_step={processes * budget.pack} or more"
        )


def step(trainer: Trainer, packs: Packs, rate: float) -> tuple[float, float]:
    """One optimiser step; returns the loss and the gradient's norm before clipping.

    The loss is the mean over the labelled tokens of all packs of all processes, so how rows are spread over packs,
    packs over accumulation and processes changes nothing. Averaging means of packs would weigh short answers too much.
    """
    accelerator, total = trainer.accelerator, sum(labelled_tokens(pack) for pack in packs)
    mine = share(packs, accelerator.process_index, accelerator.num_processes)
    losses = accumulate_gradients(trainer, mine, total)
    norm = accelerator.clip_grad_norm_(trainable(trainer.model), CLIP)
    both = torch.stack([accelerator.reduce(losses.sum(), "sum") / total, norm.to(losses.device)])
    loss, norm = both.tolist()  # the one moment in a step in which Python waits for the device
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainError(_blame(packs, mine, losses))
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return loss, norm


def accumulate_gradients(trainer: Trainer, packs: Packs, total: int) -> Tensor:
    """Add this process's share of the gradient; returns each pack's summed loss."""
    accelerator, losses = trainer.accelerator, []
    for number, pack in enumerate(packs, start=1):
        with nullcontext() if number == len(packs) else accelerator.no_sync(trainer.model):
            loss = summed_loss(trainer.model, batch(pack, accelerator.device))
            # Processes' gradients are averaged on the way, so each is multiplied by how many there are.
            accelerator.backward(loss * accelerator.num_processes / total)
        losses.append(loss.detach())
    return torch.stack(losses)


def _blame(packs: Packs, mine: Packs, losses: Tensor) -> str:
    """Which rows made the loss, or at least the gradient, something that is not a number."""
    broken = [pack for pack, loss in zip(mine, losses.tolist(), strict=True) if not math.isfinite(loss)]
    rows = [sample.where for pack in broken or packs for sample in pack]
    more = f" and {len(rows) - MOST_ROWS_NAMED} more" if len(rows) > MOST_ROWS_NAMED else ""
    what = "loss" if broken else "gradient"
    return (
        f"the {what} is not a finite number, so training stopped and nothing was saved. The rows it came from: "
        f"{', '.join(rows[:MOST_ROWS_NAMED])}{more}. Look at them with `python -m train.chat FILE --model M --show N`; "
        "if they are fine, lower learning_rate or set dtype=float32"
    )


@torch.no_grad()
def mean_loss(trainer: Trainer, samples: Sequence[Sample], budget: int) -> float | None:
    """The mean over all labelled tokens of all samples, exact whatever the packs; None without samples."""
    if not samples:
        return None
    accelerator = trainer.accelerator
    packs = best_fit_decreasing([len(sample.tokens) for sample in samples], range(len(samples)), budget)
    mine = share(packs, accelerator.process_index, accelerator.num_processes)
    summed = sum(
        (
            summed_loss(trainer.model, batch([samples[row] for row in pack], accelerator.device)).double()
            for pack in mine
        ),
        start=torch.zeros((), dtype=torch.float64, device=accelerator.device),
    )
    return float(accelerator.reduce(summed, "sum")) / labelled_tokens(samples)


@torch.no_grad()
def round_to_export(model: nn.Module) -> None:
    """Give the adapter the values it will have on disk, so that the last evaluation measures what is saved."""
    for parameter in trainable(model):
        parameter.copy_(parameter.bfloat16())


def learning_rate_at(step: int, total: int, peak: float) -> float:
    """Linear warm-up over the first 3 % of the steps, then a cosine that would be zero one step after the last.

    >>> [round(learning_rate_at(step, 100, 1.0), 3) for step in (1, 3, 52, 100)]
    [0.333, 1.0, 0.5, 0.0]
    """
    warm = max(1, math.ceil(WARM_UP * total))
    if step <= warm:
        return peak * step / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm + 1)))


def _peak_gib(device: torch.device) -> float:
    """The most memory this process held: on the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
