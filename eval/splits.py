"""Train, dev and a test that stays locked: nothing of one may give away the other, and each should be able to show
something.

Questions that share a document, a `meta.cluster` or their words stay together; where so much hangs together by
documents that nothing can be split, clusters that were named count instead. The same seed makes the same splits. Knows
nothing of files.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Final

from eval.gold import document_of
from eval.plan import ALIKE
from eval.task import Example
from eval.wording import counted
from retrieval.files import FileError
from retrieval.power import design_effect, smallest_difference
from train.overlap import Text, overlaps

SHARES: Final[Mapping[str, float]] = {"train": 0.4, "dev": 0.3, "test": 0.3}
"""Dev chooses and test confirms, so both must be able to show a difference; what is left is learnt from."""
Labels = Callable[[Example], frozenset[str]]
"""What an example shares with others."""
DISAGREE: Final = 0.2
"""The share of questions on which two ways are taken to disagree, before anything was asked."""


def split(
    examples: Sequence[Example], seed: int = 0, shares: Mapping[str, float] = SHARES
) -> dict[str, tuple[Example, ...]]:
    """The examples of each split, in their order. FileError when too much hangs together for that."""
    for labels in (by_document, by_cluster):
        groups = together(examples, labels)
        made = _dealt(examples, groups, shares, seed)
        if all(len(made[name]) >= share * len(examples) / 2 for name, share in shares.items()):
            return made
    raise FileError(_unsplittable(examples, groups, len(shares)))


def by_document(example: Example) -> frozenset[str]:
    """What it shares its luck with, and besides all of its documents: half of its answer may stand in each."""
    return by_cluster(example) | {f"document {document_of(mark)}" for mark in example.evidence}


def by_cluster(example: Example) -> frozenset[str]:
    """What it shares its luck with: the cluster that it names, or else its document."""
    return frozenset({example.cluster})


def together(examples: Sequence[Example], labels: Labels) -> list[list[str]]:
    """The ids, in groups that share something, directly or by way of others."""
    groups = defaultdict[str, list[str]](list)
    for one, root in roots([one.id for one in examples], _links(examples, labels)).items():
        groups[root].append(one)
    return list(groups.values())


def roots(names: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """For each name the smallest of all that it is linked with, directly or by way of others.

    >>> roots("abcd", [("d", "c"), ("c", "b")])
    {'a': 'a', 'b': 'b', 'c': 'b', 'd': 'b'}
    """
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for one, other in links:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return {name: root(name) for name in parent}


def detectable(examples: Sequence[Example], comparisons: int) -> float:
    """The smallest true difference that these questions can be expected to show, one of so many comparisons.

    With a power of 80 %, for ways that disagree on a fifth of the questions, and those of a cluster somewhat alike.
    """
    sizes = [*Counter(one.cluster for one in examples).values()]
    return smallest_difference(len(examples), DISAGREE * design_effect(sizes, ALIKE), comparisons)


def _dealt(
    examples: Sequence[Example], groups: list[list[str]], shares: Mapping[str, float], seed: int
) -> dict[str, tuple[Example, ...]]:
    """Each group to the split that lacks most, the largest first, while there is still room to make up for it."""
    shuffled = Random(f"split-{seed}").sample(groups, len(groups))
    room = {name: share * len(examples) for name, share in shares.items()}
    side: dict[str, str] = {}
    for group in sorted(shuffled, key=len, reverse=True):
        name = max(room, key=lambda one: room[one])
        room[name] -= len(group)
        side |= dict.fromkeys(group, name)
    return {name: tuple(one for one in examples if side[one.id] == name) for name in shares}


def _links(examples: Sequence[Example], labels: Labels) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for one in examples:
        for label in labels(one):
            yield first.setdefault(label, one.id), one.id
    texts = [Text(where=one.id, question=one.question, db_id=str(one.meta.get("db_id") or "")) for one in examples]
    yield from ((same.train.where, same.test.where) for same in overlaps(texts, texts) if same.is_leak)


def _unsplittable(examples: Sequence[Example], groups: Sequence[Sequence[str]], parts: int) -> str:
    largest = max(groups, key=len)
    what = f"{counted(len(examples), 'question')} in {counted(len(groups), 'group')} cannot be split in {parts}"
    if len(largest) == 1:
        return f"{what}: ask more questions, a hundred or more to see anything"
    labels = sorted({label for one in examples if one.id in largest for label in by_cluster(one)})
    shown = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
    return (
        f"{what}: {len(largest)} of them hang together ({shown}), and no document may be on two sides. Ask about more "
        "documents, or name what questions really share (a chapter, a product) in a column `cluster`, which "
        "counts where documents cannot."
    )
