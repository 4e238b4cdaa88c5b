"""Which questions must not be parted: turns of one conversation, and questions that are alike (`train.overlap`).

The sides are drawn by a hash of the words, so that neither the order of the file nor the day changes them. Knows
nothing of files or of what a question is kept for.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from eval.splits import roots
from train.overlap import FEWEST, Text, overlaps, read

Talk = Sequence[str]
"""What one person said in one conversation, the question last."""

SALT: Final = "curate"


def groups(talks: Sequence[Talk]) -> tuple[str, ...]:
    """For each talk the name of its group: talks that must be on one side have the same.

    >>> groups([["Who barks?"], ["Where is Oslo?"], ["who barks"]])
    ('whobarks', 'whereisoslo', 'whobarks')
    """
    wordings: defaultdict[str, set[str]] = defaultdict(set)
    said = [list(_telling(talk)) for talk in talks]
    for turn in {turn for turns in said for turn in turns}:
        wordings[_key(turn)].add(turn)
    texts = [Text(where=key, question=min(wordings[key])) for key in sorted(wordings)]
    links = [(_key(turns[0]), _key(turn)) for turns in said for turn in turns]
    links += [(pair.train.where, pair.test.where) for pair in overlaps(texts, texts)]
    root = roots(wordings, links)
    return tuple(root[_key(turns[0])] for turns in said)


def is_test(group: str, share: float) -> bool:
    """Whether this group is on the side of the tests, which takes about `share` of the groups."""
    drawn = hashlib.sha256(f"{SALT}:{group}".encode()).digest()
    return int.from_bytes(drawn[:8]) < share * 2**64


def _telling(talk: Talk) -> Iterable[str]:
    """The first turn, which every request of a conversation repeats, the question, between them no mere "thanks"."""
    middle = (turn for turn in talk[1:-1] if len(read(turn).words) >= FEWEST)
    return (talk[0], *middle, talk[-1])


def _key(turn: str) -> str:
    return read(turn).key or turn
