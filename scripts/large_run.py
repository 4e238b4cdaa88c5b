"""A large run that never happened: prompts and answers as long as those of a real one, which share as much.

Knows nothing of what is measured with it.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from eval.folder import Results, RunConfig
from eval.grid import GridSettings
from eval.record import Record, Source
from eval.task import Example, ScorerSettings, TaskSettings
from serve.chat import Message, Usage
from serve.combination import GOLD, NONE, Combination
from serve.layout import user_turn

DOCUMENTS: Final = 2000
PASSAGE_WORDS: Final = 110
SHOWN: Final = 5
"""Passages in a prompt."""
REFUSAL: Final = "unknown"
ADAPTERS: Final = ("base", "house", "sql")
RETRIEVERS: Final = (NONE, "lexical", "dense", GOLD)
STRATEGIES: Final = ("direct", "instructed", "fewshot", "cot")


class _Words:
    """Made-up words, drawn by chance."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        letters = "aeioubdfgklmnprstv"
        self.all = ["".join(self.chance.choices(letters, k=self.chance.randint(2, 9))) for _ in range(4000)]

    def some(self, n: int) -> str:
        return " ".join(self.chance.choices(self.all, k=n))


def large_run(questions: int) -> Results:
    """48 combinations: 3 adapters, 4 retrievers with an oracle, 4 strategies."""
    words = _Words(0)
    passages = [(f"Document {number}", words.some(PASSAGE_WORDS)) for number in range(DOCUMENTS)]
    shots = [Message(role, words.some(60)) for role in ("user", "assistant") * 4]
    grid = GridSettings(
        stack=Path("stack.yaml"),
        task=Path("task.yaml"),
        adapters=ADAPTERS,
        retrievers=RETRIEVERS,
        strategies=STRATEGIES,
        baseline="base:none:direct",
    )
    examples = tuple(_example(number, words) for number in range(questions))
    records: dict[Combination, dict[str, Record]] = {cell: {} for cell in grid.cells}
    for example in examples:
        for retriever, strategy, sources, prompt in _asked(example, words, passages, shots):
            for adapter in ADAPTERS:
                cell = Combination(adapter, retriever, strategy)
                records[cell][example.id] = _answer(example, cell, words, sources, prompt)
    return Results(config=_config(grid), examples=examples, records=records, failures={cell: {} for cell in records})


def _example(number: int, words: _Words) -> Example:
    is_lost = number % 10 == 0
    return Example(
        id=f"q{number:04d}",
        question=f"Which {words.some(1)} has the {words.some(8)}?",
        answers=(REFUSAL,) if is_lost else (words.some(2),),
        evidence=(f"d{words.chance.randrange(DOCUMENTS)}@0-200",),
        meta={"slice": f"slice {number % 7}"} | ({"unanswerable": True} if is_lost else {}),
    )


Prompt = tuple[Message, ...]


def _asked(
    example: Example, words: _Words, passages: list[tuple[str, str]], shots: list[Message]
) -> Iterator[tuple[str, str, tuple[Source, ...], Prompt]]:
    """A question by every retriever and strategy: adapters see the same."""
    marked = int(example.evidence[0].removeprefix("d").partition("@")[0])
    found = {
        NONE: [],
        "lexical": words.chance.sample(range(DOCUMENTS), SHOWN),
        "dense": [marked, *words.chance.sample(range(DOCUMENTS), SHOWN - 1)],
        GOLD: [marked],
    }
    for retriever, numbers in found.items():
        turn = Message("user", user_turn([passages[number] for number in numbers], example.question))
        sources = tuple(Source(f"d{number}@0-{len(passages[number][1])}", words.chance.random()) for number in numbers)
        for strategy in STRATEGIES:
            told = [] if strategy == "direct" else [Message("system", f"Answer as {strategy} does, in one line.")]
            yield retriever, strategy, sources, (*told, *(shots if strategy == "fewshot" else []), turn)


def _answer(example: Example, cell: Combination, words: _Words, sources: tuple[Source, ...], prompt: Prompt) -> Record:
    knows = cell.retriever in ("dense", GOLD)
    is_right = words.chance.random() < 0.2 + 0.3 * knows + 0.1 * (cell.adapter != "base")
    thought = words.some(80) if cell.strategy == "cot" else ""
    said = example.answers[0] if is_right else words.chance.choice([REFUSAL, words.some(2)])
    return Record(
        id=example.id,
        combination=cell,
        prompt=prompt,
        sources=sources,
        text=f"{thought} {said}".strip(),
        usage=Usage(40 + 150 * len(sources), 14 + len(thought) // 4),
        seconds=round(words.chance.gammavariate(4, 0.1), 4),
        scores={"contains": float(is_right), "f1": float(is_right)},
        finish_reason="stop",
    )


def _config(grid: GridSettings) -> RunConfig:
    task = TaskSettings(
        name="a large run that never happened",
        examples=Path("examples.jsonl"),
        primary="contains",
        scorers={"contains": ScorerSettings(kind="contains"), "f1": ScorerSettings(kind="f1")},
    )
    stack = {"model": "none", "retrievers": {name: {"kind": "dense"} for name in grid.retrievers}, "sampling": {}}
    return RunConfig(grid=grid, task=task, stack=stack, versions={})
