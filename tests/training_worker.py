"""One of several processes that compute the gradient of the same rows, spread over packs in different ways.

torchrun --nproc_per_node 2 -m tests.training_worker BASE OUT
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Literal

import torch
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import tests.sharing  # noqa: F401 (so that CPUs share a base where they are told to)
from train.checkpoint import placed_like, whole
from train.fit import Trainer, accumulate_gradients, set_up
from train.masking import Sample
from train.model import labelled_tokens, trainable
from train.pack import share
from train.recipe import Recipe


def random_samples(lengths: Sequence[int], seed: int = 0) -> list[Sample]:
    """Random tokens, of which a random share is labelled, the last one always."""
    random = Random(seed)
    return [
        Sample(
            where=f"chats.jsonl:{row}",
            tokens=tuple(random.randrange(3, 2048) for _ in range(length)),
            labelled=(*(random.random() < 0.3 for _ in range(length - 1)), True),
        )
        for row, length in enumerate(lengths, start=1)
    ]


ROWS = random_samples([7, 30, 12, 55, 3, 21, 40, 18, 9, 33, 26, 5, 61, 14, 22, 47], seed=7)
PACKINGS = {f"{16 // size} of {size}": [ROWS[at : at + size] for at in range(0, 16, size)] for size in (16, 4, 1)}
"""How many packs of how many rows."""
BASES: tuple[Literal["none", "nf4"], ...] = ("none", "nf4")
"""As it is, and in 4 bits."""


def trained_a_little(trainer: Trainer) -> Trainer:
    """With adapters that change something: B starts at zero."""
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(trainable(trainer.model).items())):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.copy_(placed_like(parameter, whole(parameter.detach()) + 0.05 * noise))
    return trainer


def gradients(trainer: Trainer, packs: Sequence[Sequence[Sample]]) -> dict[str, torch.Tensor]:
    """The gradient over all processes, and the mean loss, of one step."""
    accelerator, total = trainer.accelerator, labelled_tokens(ROWS)
    losses = accumulate_gradients(trainer, share(packs, accelerator.process_index, accelerator.num_processes), total)
    found = torch.cat([whole(p.grad).flatten() for _, p in sorted(trainable(trainer.model).items())])
    trainer.optimizer.zero_grad()
    return {"gradient": found, "loss": accelerator.reduce(losses.sum(), "sum") / total}


def spread_out(trainer: Trainer) -> dict[str, torch.Tensor]:
    """How much of the model this process holds, and in how many parts it is gathered."""
    parameters = list(trainer.learner.parameters())
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in parameters)
    parts = sum(isinstance(module, FSDPModule) for module in trainer.learner.modules())
    return {"share": torch.tensor(held / sum(p.numel() for p in parameters)), "parts": torch.tensor(parts)}


def main(base: Path, out: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, torch.Tensor] = {}
    for bits in BASES:
        recipe = Recipe(model=str(base), data=base, name="t", dtype="float32", rank=8, quantize=bits)
        trainer = trained_a_little(set_up(recipe, base))
        found |= {f"{bits}: {what}": value for what, value in spread_out(trainer).items()}
        for way, packs in PACKINGS.items():
            found |= {f"{bits}: {way}: {what}": value for what, value in gradients(trainer, packs).items()}
    if os.environ.get("RANK", "0") == "0":
        save_file(found, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
