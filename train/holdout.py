"""Which rows are held out for the evaluation loss, and which of the others are learnt. Pure; knows nothing of chats."""

import hashlib
from collections.abc import Sequence
from typing import Final

LEAST_ROWS: Final = 20
"""A loss over fewer rows says little; but never more than a fifth of a small file."""


def held_out(groups: Sequence[str], fraction: float, seed: int) -> frozenset[int]:
    """Positions to hold out: whole groups, so that near-copies of a row never stand on both sides.

    Groups are taken in the order of their hashes, so the choice depends on what the rows are, not on where they stand.
    """
    if not fraction:
        return frozenset()
    wanted = max(round(fraction * len(groups)), min(LEAST_ROWS, len(groups) // 5))
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    chosen: list[int] = []
    for group in sorted(members, key=lambda group: _place(group, seed)):
        if len(chosen) >= wanted:
            break
        if len(members[group]) <= 2 * wanted:  # one giant group must not swallow the training rows
            chosen += members[group]
    return frozenset(chosen)


def drawn(groups: Sequence[str], out: frozenset[int], rows: int | None, seed: int) -> tuple[int, ...]:
    """Positions to learn from, ascending: of the rows that are not held out, as many as asked for, or all there are.

    Groups are taken in the order of their hashes, so a smaller draw is a part of every larger one.
    """
    rest = [row for row in range(len(groups)) if row not in out]
    by_hash = sorted(rest, key=lambda row: _place(groups[row], seed))
    return tuple(sorted(by_hash[:rows]))


def _place(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
