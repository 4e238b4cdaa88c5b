"""The adapters that trainings leave behind: each variant's last one, and its snapshots on the way.

Reads their cards; knows nothing of how they were trained or what they score.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.sweep.variants import Variant
from train.base import read_json
from train.provenance import CARD

SNAPSHOT: Final = re.compile(r"\.s\d{5,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An adapter at some step of its training."""

    name: str
    folder: Path
    variant: Variant
    final: bool
    """The end of its training, not a snapshot."""
    steps: int
    rows: int
    """That it learnt from."""
    tokens: int
    """Read in training."""
    seconds: float
    train_loss: float
    eval_loss: float | None
    """Over the held-out rows; None without any."""


def snapshots(folder: Path) -> list[Path]:
    """The snapshots of an adapter, earliest first."""
    found = folder.parent.glob(f"{folder.name}.s*") if folder.parent.is_dir() else ()
    return sorted(path for path in found if SNAPSHOT.fullmatch(path.name.removeprefix(folder.name)))


def expected(variant: Variant) -> int:
    """How many snapshots a finished adapter must have. A training of few steps keeps fewer than it was asked for."""
    asked = variant.recipe.snapshots
    return asked if read_card(variant.folder)["steps"] > asked else 0


def checkpoints(variant: Variant) -> tuple[Checkpoint, ...]:
    """The snapshots and the last adapter of a finished training, in order."""
    last = _checkpoint(variant, variant.folder, final=True)
    before = [_checkpoint(variant, folder, final=False) for folder in snapshots(variant.folder)]
    return (*(one for one in before if one.steps < last.steps), last)


def read_card(folder: Path) -> Mapping[str, Any]:
    """What is known of an adapter."""
    return read_json(folder / CARD)


def _checkpoint(variant: Variant, folder: Path, final: bool) -> Checkpoint:
    card = read_card(folder)
    return Checkpoint(
        name=folder.name,
        folder=folder,
        variant=variant,
        final=final,
        steps=card["steps"],
        rows=card["rows"],
        tokens=card["tokens"],
        seconds=card["seconds"],
        train_loss=card["train_loss"],
        eval_loss=card["eval_loss"],
    )
