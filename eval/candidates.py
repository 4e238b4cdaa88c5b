"""What a search for a better prompt tries: instructions and sets of worked examples, each pair of them a strategy.

Draws sets from what there is to show, names what it makes, and writes strategies as a stack has them. Asks nothing and
knows nothing of scores: which answers were right, it is told.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

from retrieval.files import FileError, read_jsonl, to_yaml, write_atomically, write_jsonl
from retrieval.masking import masked
from retrieval.worked import ANSWER, ASKED, corpus_row
from serve.stack import Stack
from train.overlap import read

Way = Literal["gold", "own", "near"]
Written = Mapping[str, Any]
"""A strategy as a stack has it."""

BARE: Final = ("direct", "instructed", "fewshot")
"""Kinds that differ in nothing but what stands before the question."""
VARIED: Final = (*BARE, "cot")
"""Kinds that have instructions and demonstrations of their own to vary."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A worked example: the question it is found by, what a prompt says and what is answered."""

    question: str
    asked: str
    answer: str

    @property
    def chat(self) -> Mapping[str, Any]:
        """As a line of a demonstrations file."""
        turns = (("user", self.asked), ("assistant", self.answer))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One thing to try: where something is None, the start's own stays."""

    name: str
    instructions: str | None
    shown: tuple[Shown, ...] | None

    def strategy(self, start: Written, demonstrations: Path) -> Written:
        """The start with what is tried in its place; `demonstrations` is where those that are shown will lie."""
        made = dict(start)
        if self.instructions is not None:
            made["instructions"] = self.instructions
        if self.shown is not None:
            made["demonstrations"] = demonstrations
        if made["kind"] in BARE:
            shows = made.get("demonstrations") or made.get("examples_from")
            made["kind"] = "fewshot" if shows else "instructed" if made.get("instructions") else "direct"
        return made


def candidates(
    instructions: Sequence[str], sets: Mapping[str, tuple[Shown, ...]], most: int, seed: int
) -> tuple[Candidate, ...]:
    """Each instructions with each set, those of the start (number 0) and its own demonstrations included.

    Of more than `most`, instructions alone go first and the others are drawn by lot.
    """
    texts = {f"i{number}": text for number, text in enumerate((None, *instructions))}
    alone = [Candidate(name=name, instructions=text, shown=None) for name, text in texts.items() if text]
    pairs = [
        Candidate(name=f"{name}-{drawn}", instructions=text, shown=shown)
        for (name, text), (drawn, shown) in product(texts.items(), sets.items())
    ]
    room = max(most - len(alone), 0)
    if len(pairs) > room:
        chosen = set(Random(f"candidates-{seed}").sample(range(len(pairs)), room))
        pairs = [one for place, one in enumerate(pairs) if place in chosen]
    return (*alone[:most], *pairs)


def draw(
    pools: Mapping[Way, Sequence[Shown]], sizes: Sequence[int], draws: int, wrong: Sequence[str], seed: int
) -> dict[str, tuple[Shown, ...]]:
    """Sets of each size from each pool, `own3.2` the second of three: those nearest to the questions in `wrong` for the
    way `near`, else by lot. What a pool is too small for is left out, and so is what was drawn before."""
    sets: dict[str, tuple[Shown, ...]] = {}
    for (way, pool), size, number in product(pools.items(), sizes, range(1, draws + 1)):
        mixed = Random(f"draw-{seed}-{way}-{number}").sample(pool, len(pool))
        found = nearest(mixed, wrong, size) if way == "near" else tuple(mixed[:size])
        if len(found) == size and set(found) not in map(set, sets.values()):
            sets[f"{way}{size}.{number}"] = found
    return sets


def nearest(pool: Sequence[Shown], wrong: Sequence[str], size: int) -> tuple[Shown, ...]:
    """So many that together are as near as can be to these questions: each the one that brings them nearest, of equals
    the first. Near means sharing words, names and literals aside; nothing is near to no question at all."""
    shapes, theirs = [_shape(one.question) for one in pool], [_shape(question) for question in wrong]
    alike = [[len(ours & one) / len(ours | one) for one in theirs] for ours in shapes]
    reached = [0.0] * len(theirs)
    chosen: list[int] = []
    while theirs and len(chosen) < min(size, len(pool)):
        left = [place for place in range(len(pool)) if place not in chosen]
        best = max(left, key=lambda place: sum(map(max, alike[place], reached)))
        reached = [*map(max, alike[best], reached)]
        chosen.append(best)
    return tuple(pool[place] for place in chosen)


def _shape(question: str) -> frozenset[str]:
    return frozenset(read(masked(question)).words) or frozenset({question})


def read_chats(path: Path) -> Iterator[Shown]:
    """What a file of training chats has to show; FileError names the first line that shows nothing."""
    for number, row in read_jsonl(path):
        made = corpus_row(row, number)
        if isinstance(made, str):
            raise FileError(f"{path}:{number}: {made}")
        if ASKED not in made:
            raise FileError(f'{path}:{number}: is no chat: write {{"messages": [...]}}, or name the file as `train`')
        yield Shown(question=str(made["text"]), asked=str(made[ASKED]), answer=str(made[ANSWER]))


def write_candidates(stack: Stack, start: str, tried: Sequence[Candidate], folder: Path) -> Path:
    """A stack with the strategy `start` of this one, under that name, and all candidates; their demonstrations lie
    beside it."""
    settings = lean(stack.strategies[start])
    strategies: dict[str, Written] = {"start": settings}
    for one in tried:
        demonstrations = folder / "demonstrations" / f"{one.name}.jsonl"
        if one.shown is not None:
            write_jsonl(demonstrations, [shown.chat for shown in one.shown])
        strategies[one.name] = one.strategy(settings, demonstrations.resolve())
    path = folder / "candidates.yaml"
    write_atomically(path, to_yaml(_as_written(stack, strategies), folder))
    return path


def write_strategy(stack: Stack, start: str, found: Candidate, folder: Path) -> None:
    """`strategy.yaml`, a snippet to paste, and `stack.yaml`, the whole stack with it; both name demonstrations.jsonl
    where the strategy has any of its own."""
    demonstrations = folder / "demonstrations.jsonl"
    if found.shown is not None:
        write_jsonl(demonstrations, [shown.chat for shown in found.shown])
    made = found.strategy(lean(stack.strategies[start]), demonstrations.resolve())
    strategies = {name: lean(one) for name, one in stack.strategies.items()} | {"optimised": made}
    write_atomically(folder / "stack.yaml", to_yaml(_as_written(stack, strategies), folder))
    write_atomically(folder / "strategy.yaml", to_yaml({"optimised": made}, folder))


def lean(settings: Any) -> Any:
    """Settings without what says the same as a default, so that a file of them reads as people write it."""
    if is_dataclass(settings) and not isinstance(settings, type):
        values = ((one, getattr(settings, one.name)) for one in fields(settings))
        return {one.name: lean(value) for one, value in values if one.name == "kind" or value != _default(one)}
    if isinstance(settings, Mapping):
        return {key: lean(value) for key, value in settings.items()}
    return [*map(lean, settings)] if isinstance(settings, list | tuple) else settings


def _as_written(stack: Stack, strategies: Mapping[str, Written]) -> Written:
    is_folder = not stack.url and Path(stack.model).is_dir()
    return {
        **lean(replace(stack, file=None)),
        "model": Path(stack.model) if is_folder else stack.model,
        "strategies": strategies,
    }


def _default(one: "Field[Any]") -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default
