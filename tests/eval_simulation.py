"""Runs that never happened: answers drawn with known probabilities, so that the analysis has a truth to find."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from eval.folder import Results, RunConfig, whole_records
from eval.grid import GridSettings
from eval.record import Record, Source
from eval.task import Example, ScorerSettings, TaskSettings
from serve.chat import Message, Usage
from serve.combination import GOLD, NONE, Combination

Chance = Callable[[Combination, str], float]
"""(combination, slice) -> the probability of a right answer."""

SLICES = ("fact", "paraphrase", "code", "two_part", "updated", "clash", "count", "unanswerable")


def grid_of(adapters: list[str], retrievers: list[str], strategies: list[str], baseline: str) -> GridSettings:
    return GridSettings(
        stack=Path("stack.yaml"),
        task=Path("task.yaml"),
        adapters=tuple(adapters),
        retrievers=tuple(retrievers),
        strategies=tuple(strategies),
        baseline=baseline,
    )


def simulate(grid: GridSettings, chance: Chance, n: int, seed: int, correlation: float = 0.6) -> Results:
    """Each question has a luck that its combinations share in part, as questions that are hard for one are for all."""
    draw = np.random.default_rng(seed)
    examples = tuple(
        Example(
            id=f"q{i}",
            question=f"Where does the harbour register say that ship {i} was last repaired?",
            answers=(f"Odo Merrun {i}",),
            evidence=(f"register-{i}",),
            meta={"slice": SLICES[i % len(SLICES)]},
        )
        for i in range(n)
    )
    shared = draw.normal(size=n)
    records: dict[Combination, dict[str, Record]] = {}
    for cell in grid.cells:
        luck = correlation**0.5 * shared + (1 - correlation) ** 0.5 * draw.normal(size=n)
        ranks = ndtr(luck)
        records[cell] = {
            one.id: _record(one, cell, bool(ranks[i] < chance(cell, one.slice)), float(draw.gamma(4, 0.05)))
            for i, one in enumerate(examples)
        }
    return Results(config=_config(grid), examples=examples, records=records, failures={cell: {} for cell in records})


def repeated(*passes: Results) -> Results:
    """One run in which everything was asked as often as there are passes."""
    first, often = passes[0], len(passes)
    answers = tuple(
        replace(record, repeat=repeat)
        for repeat, one in enumerate(passes)
        for found in one.records.values()
        for record in found.values()
    )
    return replace(
        first,
        config=replace(first.config, grid=replace(first.config.grid, repeats=often)),
        records=whole_records({cell: found.keys() for cell, found in first.records.items()}, answers, often),
        answers=answers,
    )


def _record(example: Example, cell: Combination, right: bool, seconds: float) -> Record:
    passages = 0 if cell.retriever == NONE else 1 if cell.retriever == GOLD else 3
    said = example.answers[0] if right else "unknown"
    turns = [Message("user", "[S1] Register\nA page.\n\n" * passages + f"Question: {example.question}")]
    if cell.strategy != "direct":
        turns.insert(0, Message("system", "Answer with one JSON object."))
    found = [f"register-{(len(example.id) * k) % 40}@0-200" for k in range(passages)]
    marked = [f"{one}@0-200" for one in example.evidence]
    sources = tuple(Source(one, 1.0) for one in (marked if cell.retriever == GOLD else found))
    return Record(
        id=example.id,
        combination=cell,
        prompt=tuple(turns),
        sources=sources,
        text=f'{{"answer": "{said}", "source": 1}}',
        usage=Usage(40 + 230 * passages + 35 * len(cell.strategy), 14),
        seconds=seconds,
        scores={"exact": float(right), "format": float(right or example.id[-1] != "3")},
        finish_reason="stop",
    )


def _config(grid: GridSettings) -> RunConfig:
    task = TaskSettings(
        name="harbour and clinic",
        examples=Path("examples.jsonl"),
        primary="exact",
        scorers={
            "exact": ScorerSettings(kind="exact", json="answer"),
            "format": ScorerSettings(kind="json_format", keys=("answer", "source")),
        },
    )
    retrievers = {name: {"kind": name if name == "random" else "dense"} for name in grid.retrievers}
    stack = {"model": "pocket", "retrievers": retrievers, "sampling": {"temperature": 0.0, "max_tokens": 64}}
    return RunConfig(grid=grid, task=task, stack=stack, versions={})
