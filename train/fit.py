"""The training itself: set up, evaluate, step, evaluate. One loop for one CPU, one GPU or several processes.

Knows nothing of files of chats, or of where samples come from and adapters go.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

from train.adapter import Adapter, Workshop
from train.base import check_it_can_be_served, read_config
from train.checkpoint import Checkpoint, Progress, asked_to_stop, capture, restore, save, whole
from train.door import TrainError
from train.masking import Sample
from train.memory import device_name, largest_that_fits, peak_gib, told_when_full
from train.model import (
    Learner,
    add_adapter,
    batch,
    chosen_dtype,
    compile_layers,
    filler,
    labelled_tokens,
    load_base,
    trainable,
)
from train.pack import Budget, best_fit_decreasing, share, steps
from train.processes import agreed, by_first, everyones, everyones_refusal, firsts, is_shared, place
from train.recipe import Recipe, default_learning_rate

WARM_UP: Final = 0.03
"""Of the steps: the learning rate rises to its peak, then falls along a cosine."""
CLIP: Final = 1.0
MOST_ROWS_NAMED: Final = 10
CPU: Final = torch.device("cpu")

Packs = Sequence[Sequence[Sample]]
"""The samples of each pack of an optimiser step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train on what, and where to keep what comes out."""

    recipe: Recipe
    base: Path
    training: Sequence[Sample]
    held_out: Sequence[Sample]
    workshop: Workshop
    """Opened, by the first process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The processes, the model in their wrapping, and the optimiser of its adapter."""

    accelerator: Accelerator
    learner: nn.Module
    optimizer: Optimizer
    peak_rate: float

    @property
    def model(self) -> Any:
        """PEFT's model."""
        return self.accelerator.unwrap_model(self.learner).model


def fit(job: Job) -> dict[str, Any]:
    """Train an adapter, from the workshop's newest checkpoint if it has one, and publish it; returns what was measured.

    Raises TrainError on a loss that is not a number, on layers that do not move, on a full GPU, and when asked to stop.
    """
    with told_when_full():
        return _fit(job, os.getppid())


def _fit(job: Job, parent: int) -> dict[str, Any]:
    recipe, trainer = job.recipe, set_up(job.recipe, job.base)
    main = trainer.accelerator.is_main_process
    progress = begin(trainer, job)
    # Whole packs of the recipe's size: where they had to be halved, a step has twice as many and not one more.
    budget = Budget(pack=progress.pack, step=recipe.tokens_per_step - recipe.tokens_per_step % recipe.max_length)
    plan = list(steps([len(sample.tokens) for sample in job.training], budget, recipe.epochs, recipe.seed))
    snapshots = {round(len(plan) * i / (recipe.snapshots + 1)) for i in range(1, recipe.snapshots + 1)}
    bar = tqdm(total=len(plan), initial=progress.step, desc=recipe.name, unit="step", disable=None if main else True)
    with asked_to_stop() as asked, bar:
        for rows in plan[progress.step :]:
            progress = advance(
                trainer, job, [[job.training[row] for row in pack] for pack in rows], progress, len(plan)
            )
            bar.update()
            bar.set_postfix_str(f"loss {progress.train_loss:.3f}, {progress.tokens_per_second:,.0f} tokens/s")
            if progress.step in snapshots:
                publish(trainer, job, progress, f".s{progress.step:05d}")
            # `accelerate launch` dies of a polite kill without passing it on.
            stop = _any_process(trainer, asked() or (launched() and os.getppid() != parent))
            saved = False
            if stop or progress.step % recipe.checkpoint_every == 0 or progress.step == len(plan):
                saved = _save(trainer, job, progress)
            if stop:
                where = "there" if saved else "the checkpoint before, since this one could not be written"
                raise everyones_refusal(
                    f"stopped at step {progress.step} of {len(plan)}, as asked; the same command goes on from {where}"
                )
    return publish(trainer, job, progress, "")


def set_up(recipe: Recipe, base: Path) -> Trainer:
    """Load the base, add the adapter, and let Accelerate place both."""
    device = place().device
    use_every_core(device)
    if device.type == "cuda":
        agreed(lambda: check_it_can_be_served(base, torch.cuda.get_device_properties(device).total_memory))
    dtype = chosen_dtype(recipe.dtype, device)
    # The base is in its dtype already and the adapter's layers see to theirs, so there is nothing to autocast.
    # Accelerate would divide the loss by its accumulation steps; `step` divides by the labelled tokens itself.
    accelerator = Accelerator(mixed_precision="no", gradient_accumulation_steps=1, cpu=device.type == "cpu")
    if is_shared() and accelerator.distributed_type != DistributedType.FSDP:
        raise everyones_refusal(
            "Accelerate shares a base among GPUs only, and would give each of these processes all of it: take "
            "train/machines/ddp.yaml"
        )
    # A base that is shared comes from the disk to the CPU of each machine's first process, and is spread from there.
    # One in 4 bits cannot be sent in parts: each GPU takes all of it, then lets go of what the others keep.
    where = CPU if is_shared() and recipe.quantize == "none" else device
    learner = agreed(lambda: Learner(add_adapter(load_base(base, recipe, dtype, where), recipe)))
    config = read_config(base)
    rate = recipe.learning_rate or default_learning_rate(config["hidden_size"], config["model_type"])
    optimizer = AdamW(_groups(learner, recipe.loraplus_ratio), lr=rate, weight_decay=0.0, fused=True)
    learner, optimizer = accelerator.prepare(learner, optimizer)
    register_fsdp_forward_method(learner, "prove_packing")
    agreed(accelerator.unwrap_model(learner).prove_packing)
    if recipe.compile:
        compile_layers(accelerator.unwrap_model(learner).model)
    return Trainer(accelerator=accelerator, learner=learner, optimizer=optimizer, peak_rate=rate)


def _groups(learner: nn.Module, ratio: float) -> list[dict[str, Any]]:
    """B learns `ratio` times as fast as A (LoRA+, Hayou et al. 2024); 1 is plain LoRA."""
    matrices = trainable(learner)
    a, b = ([p for name, p in matrices.items() if kind in name] for kind in ("lora_A", "lora_B"))
    assert len(a) + len(b) == len(matrices)
    return [{"params": a, "ratio": 1.0}, {"params": b, "ratio": ratio}]


def use_every_core(device: torch.device) -> None:
    """Undo OMP_NUM_THREADS=1, which `accelerate launch` sets without a GPU: all cores but one would idle."""
    if device.type == "cpu" and launched() and os.environ.get("OMP_NUM_THREADS") == "1":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def launched() -> bool:
    """Whether `accelerate launch` started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ


def begin(trainer: Trainer, job: Job) -> Progress:
    """Where the same training stopped, or the very beginning."""
    held = by_first(job.workshop.newest)
    if progress := firsts(held.progress if held else None):
        restore(held.tensors if held else {}, trainable(trainer.model), trainer.optimizer)
        return progress
    pack = _probe(trainer, job)
    before = mean_loss(trainer, job.held_out, pack)
    _log(trainer, job, {"step": 0, "eval_loss": before})
    return Progress(step=0, pack=pack, eval_loss_before=before)


def _probe(trainer: Trainer, job: Job) -> int:
    """How many tokens a pack may hold: what the recipe says, or a half or a quarter of it if the GPU takes no more.

    A step holds twice or four times as many packs then, and so as many tokens as before.
    """
    accelerator = trainer.accelerator
    if accelerator.device.type == "cpu":
        return job.recipe.max_length
    longest = max(len(sample.tokens) for sample in [*job.training, *job.held_out])

    def attempt(tokens: int) -> bool:
        full = False
        try:
            # Without synchronising: a process that runs out would leave the others waiting for its gradients.
            with accelerator.no_sync(trainer.learner):
                trainer.learner(batch([filler(tokens)], accelerator.device)).backward()
                moments = [torch.empty_like(matrix) for matrix in trainable(trainer.model).values() for _ in range(2)]
                del moments  # AdamW's, which come with the first step
        except torch.OutOfMemoryError:
            full = True
        trainer.optimizer.zero_grad()
        full = _any_process(trainer, full)
        if full and accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        return not full

    return largest_that_fits(attempt, job.recipe.max_length, longest)


def _largest(accelerator: Accelerator, value: float) -> float:
    """Over all processes."""
    return float(accelerator.gather(torch.tensor([value], device=accelerator.device)).max())


def _any_process(trainer: Trainer, flag: bool) -> bool:
    return flag if trainer.accelerator.num_processes == 1 else _largest(trainer.accelerator, float(flag)) > 0


def advance(trainer: Trainer, job: Job, packs: Packs, progress: Progress, total: int) -> Progress:
    """One step and its line in the log."""
    began, number = time.monotonic(), progress.step + 1
    before = {name: matrix.detach().clone() for name, matrix in trainable(trainer.model).items()} if number == 1 else {}
    rate = learning_rate_at(number, total, trainer.peak_rate)
    loss, norm = step(trainer, packs, rate)
    if before:
        agreed(lambda: _refuse_still_layers(trainer, before))
    after = replace(
        progress,
        step=number,
        train_loss=loss,
        tokens=progress.tokens + sum(len(sample.tokens) for pack in packs for sample in pack),
        labelled_tokens=progress.labelled_tokens + sum(labelled_tokens(pack) for pack in packs),
        seconds=progress.seconds + time.monotonic() - began,
    )
    measured = {"loss": round(loss, 6), "grad_norm": round(norm, 4), "learning_rate": rate}
    _log(trainer, job, {"step": number, **measured, **counts(after)})
    return after


def counts(progress: Progress) -> dict[str, float]:
    """For the log and for provenance."""
    return {
        "tokens": progress.tokens,
        "labelled_tokens": progress.labelled_tokens,
        "seconds": round(progress.seconds, 2),
        "tokens_per_second": round(progress.tokens_per_second, 1),
    }


def step(trainer: Trainer, packs: Packs, rate: float) -> tuple[float, float]:
    """One optimiser step; returns the loss and the gradient's norm before clipping.

    The loss is the mean over the labelled tokens of all packs of all processes, so how rows are spread over packs,
    packs over accumulation and processes changes nothing. Averaging means of packs would weigh short answers too much.
    """
    accelerator, total = trainer.accelerator, sum(labelled_tokens(pack) for pack in packs)
    mine = share(packs, accelerator.process_index, accelerator.num_processes)
    losses = accumulate_gradients(trainer, mine, total)
    norm = whole(torch.as_tensor(accelerator.clip_grad_norm_(trainer.learner.parameters(), CLIP)))
    both = torch.stack([accelerator.reduce(losses.sum(), "sum") / total, norm.to(losses.device)])
    loss, norm = both.tolist()  # once a step, not once a pack, does Python wait for what the device computes
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise everyones_refusal(_blame(packs, mine, losses))
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate * group["ratio"]
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return loss, norm


def accumulate_gradients(trainer: Trainer, packs: Packs, total: int) -> Tensor:
    """Add this process's share of the gradient; returns each pack's summed loss."""
    accelerator, losses = trainer.accelerator, []
    for number, pack in enumerate(packs, start=1):
        with nullcontext() if number == len(packs) else accelerator.no_sync(trainer.learner):
            loss = trainer.learner(batch(pack, accelerator.device))
            # Processes' gradients are averaged on the way, so each is multiplied by how many there are.
            accelerator.backward(loss * accelerator.num_processes / total)
        losses.append(loss.detach())
    return torch.stack(losses)


def _blame(packs: Packs, mine: Packs, losses: Tensor) -> str:
    """Which rows made the loss of a pack, whoever has it, or at least the gradient something that is not a number."""
    here = [pack for pack, loss in zip(mine, losses.tolist(), strict=True) if not math.isfinite(loss)]
    broken = [pack for theirs in everyones(here) for pack in theirs]
    rows = [sample.where for pack in broken or packs for sample in pack]
    more = f" and {len(rows) - MOST_ROWS_NAMED} more" if len(rows) > MOST_ROWS_NAMED else ""
    what = "loss" if broken else "gradient"
    return (
        f"the {what} is not a finite number, so training stopped and nothing was saved. The rows it came from: "
        f"{', '.join(rows[:MOST_ROWS_NAMED])}{more}. Look at them with `python -m train.chat FILE --model M --show N`; "
        "if they are fine, lower learning_rate or set dtype=float32"
    )


def _refuse_still_layers(trainer: Trainer, before: Mapping[str, Tensor]) -> None:
    """Every B must have moved: with a wrapper or compiler that hides them, the loss is all that seems fine."""
    now = trainable(trainer.model)
    still = [name for name, matrix in before.items() if "lora_B" in name and torch.equal(matrix, now[name])]
    if still:
        raise TrainError(
            f"{len(still)} layers of the adapter did not move in the first step, for instance {still[0]}, so they "
            "would not learn anything; raise learning_rate or set dtype=float32"
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
        (trainer.learner(batch([samples[row] for row in pack], accelerator.device)).double() for pack in mine),
        start=torch.zeros((), dtype=torch.float64, device=accelerator.device),
    )
    return float(accelerator.reduce(summed, "sum")) / labelled_tokens(samples)


def publish(trainer: Trainer, job: Job, progress: Progress, suffix: str) -> dict[str, Any]:
    """Evaluate the very numbers that are kept, and have them kept; returns all that is known of them."""
    with rounded_to_export(trainer):
        after = mean_loss(trainer, job.held_out, progress.pack)
        adapter = Adapter.of(trainer.model)
    results = {
        **counts(progress),
        "steps": progress.step,
        "train_loss": progress.train_loss,
        "peak_learning_rate": trainer.peak_rate,
        "tokens_per_pack": progress.pack,
        "rows": len(job.training),
        "held_out_rows": len(job.held_out),
        "eval_loss_before": progress.eval_loss_before,
        "eval_loss": after,
        "peak_gib": round(peak_gib(trainer.accelerator.device), 2),
        "device": device_name(trainer.accelerator.device),
    }
    _log(trainer, job, {"step": progress.step, "eval_loss": after})
    by_first(lambda: job.workshop.keep(adapter, results, suffix))
    return results


@contextmanager
def rounded_to_export(trainer: Trainer) -> Iterator[None]:
    """While this is open, the adapter has the values that it has on disk, in bfloat16."""
    matrices = trainable(trainer.model)
    exact = {name: matrix.detach().clone() for name, matrix in matrices.items()}
    with torch.no_grad():
        for matrix in matrices.values():
            matrix.copy_(matrix.bfloat16())
        yield
        for name, matrix in matrices.items():
            matrix.copy_(exact[name])


def learning_rate_at(step: int, total: int, peak: float) -> float:
    """Linear warm-up over the first 3 % of the steps, then a cosine that would be zero one step after the last.

    >>> [round(learning_rate_at(step, 100, 1.0), 3) for step in (1, 3, 52, 100)]
    [0.333, 1.0, 0.5, 0.0]
    """
    warm = max(1, math.ceil(WARM_UP * total))
    if step <= warm:
        return peak * step / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm + 1)))


def _save(trainer: Trainer, job: Job, progress: Progress) -> bool:
    """Keep a checkpoint; on a full disk say so and go on, since the next one may find room. Whether it is kept."""
    tensors, kept = capture(trainable(trainer.model), trainer.optimizer), True
    if trainer.accelerator.is_main_process:
        try:
            save(job.workshop.unfinished, Checkpoint(progress, tensors))
        except OSError as error:
            tqdm.write(f"no checkpoint at step {progress.step}: {error}; training goes on", file=sys.stderr)
            kept = False
    return firsts(kept)


def _log(trainer: Trainer, job: Job, entry: Mapping[str, Any]) -> None:
    if trainer.accelerator.is_main_process:
        try:
            job.workshop.log(entry)
        except OSError as error:
            tqdm.write(f"a line of the log is lost: {error}; training goes on", file=sys.stderr)
