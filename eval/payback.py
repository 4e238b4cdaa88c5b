"""What an adapter's training took, and what it saves: minutes once against tokens with every answer.

Reads the cards of adapters where a run's config.yaml says they are. Knows nothing of scores.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eval.folder import RunConfig
from eval.material import CARD
from eval.summary import Row, ranked
from serve.combination import BASE


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What an adapter's card says about how it was made."""

    minutes: float
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payback:
    """`payback` in verdict.json: an adapter's combination beside the best one without an adapter."""

    adapter: str
    training_minutes: float
    device: str
    combination: str
    against: str
    tokens_saved_per_1000: float
    """Below 0 when the adapter's answers take more."""
    minutes_saved_per_1000: float
    """Of the machine's time, as measured in this run."""
    answers: float | None
    """After how many the training has come back in time saved; None when no time is saved."""


NOTHING_KNOWN: Final[Mapping[str, Training]] = {}


def trainings(config: RunConfig, folder: Path) -> Mapping[str, Training]:
    """The adapters of this run whose card says how long their training took."""
    return dict(_read(config, folder))


def payback(rows: Sequence[Row], best: Row, trained: Mapping[str, Training]) -> Payback | None:
    """None without an adapter in the best combination, a card of it, or a combination without one to compare with."""
    without = next((row for row in ranked(rows) if row.adapter == BASE), None)
    if best.adapter not in trained or without is None:
        return None
    training, saved = trained[best.adapter], without.minutes_per_1000 - best.minutes_per_1000
    return Payback(
        adapter=best.adapter,
        training_minutes=training.minutes,
        device=training.device,
        combination=best.combination,
        against=without.combination,
        tokens_saved_per_1000=1000 * (without.tokens - best.tokens),
        minutes_saved_per_1000=saved,
        answers=1000 * training.minutes / saved if saved > 0 else None,
    )


def _read(config: RunConfig, folder: Path) -> Iterator[tuple[str, Training]]:
    for name in config.grid.adapters:
        card = folder / config.stack.get("adapters", {}).get(name, name) / CARD
        try:
            said = json.loads(card.read_text(encoding="utf-8"))
            yield name, Training(minutes=said["seconds"] / 60, device=str(said["device"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # trained elsewhere, or before cards said it: then nobody knows
