"""What a check promises: each claim with its figures, and whether it holds. Knows nothing of what is checked."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, slots=True)
class Claim:
    """What should hold, whether it does, and the figures."""

    text: str
    holds: bool
    figures: str


def judged(claims: Iterable[Claim], console: Console) -> int:
    """Print what holds and what does not; the exit code, 1 when something does not."""
    found = list(claims)
    for claim in found:
        console.print(
            f"{'holds   ' if claim.holds else 'DOES NOT'}  {claim.text}: {claim.figures}",
            soft_wrap=True,
            highlight=False,
        )
    return 0 if all(claim.holds for claim in found) else 1
