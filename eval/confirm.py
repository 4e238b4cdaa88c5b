"""Choose on dev, report once: the winner of a run and its baseline, and only these, on the questions kept locked.

    confirmed = confirm(Path("out/handbook"))

Answers go to `RUN/test/`. Each time that something new is asked of the locked file, it is counted beside that file, in
`test.reads.jsonl`, before anything is asked. Who chooses by what a read says has no test any more, and the count shows
it. Knows nothing of how answers are made or compared.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from eval.finding import find
from eval.folder import Results, load_results, read_keys
from eval.grid import Grid, misfits
from eval.keys import keys_of
from eval.record import RunError
from eval.run import run
from eval.scoring.scorers import signatures
from eval.summary import difference, score, summarise
from eval.task import Example, TaskSettings, load_task
from eval.wording import counted, p_value, percent, points, span
from retrieval.files import file_hash, read_jsonl, write_atomically
from retrieval.stats import Difference, Estimate, direction
from serve.combination import Combination
from serve.stack import Stack
from train.overlap import read as words_of

TEST: Final = "test"
"""The folder in the run's folder where the locked questions' answers are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """`confirmed.json`: what was chosen, and how it did where nothing was chosen."""

    best: str
    baseline: str
    dev: Estimate
    test: Estimate
    baseline_test: Estimate
    dev_gain: Difference
    gain: Difference
    """On the locked test; one comparison that was fixed before, so that nothing is corrected for."""
    read: int
    """How often new things had been asked of the locked test, this time included."""

    @property
    def holds(self) -> bool:
        """Whether the gain is more than chance on the test too."""
        return direction(self.gain.estimate, self.gain.p) > 0

    @property
    def sentences(self) -> tuple[str, ...]:
        """The result in plain words, and what it is worth."""
        gain = f"{points(self.gain.estimate.value)} points, 95% interval {span(self.gain.estimate)}"
        return (
            f"{self.best}: {percent(self.dev.value)} on dev, {percent(self.test.value)} on the locked test "
            f"({percent(self.test.low)} to {percent(self.test.high)}, {counted(self.gain.n, 'question')}).",
            f"{'Confirmed' if self.holds else 'Not confirmed'}: against {self.baseline} "
            f"({percent(self.baseline_test.value)}) the gain is {gain}, {p_value(self.gain.p)}; on dev it was "
            f"{points(self.dev_gain.estimate.value)}.",
            "This is the first read of this test; after it, choose nothing by it."
            if self.read == 1
            else f"This is read {self.read} of this test; after the first, choose nothing by it. A new choice needs "
            "new locked questions.",
        )


def confirm(folder: Path) -> Confirmed:
    """Ask what is not answered yet, and compare. RunError where there is nothing to confirm, or what was chosen is no
    longer there to be asked."""
    dev = load_results(folder)
    best = _chosen(dev, folder)
    grid = _grid(dev, folder, best)
    _refuse_changes(dev, grid, folder)
    _refuse_known(dev, grid, folder)
    read = count_read(grid, folder)
    test = run(grid, folder / TEST)
    if gaps := test.lacking:
        raise RunError(
            f"{folder / TEST}: {counted(gaps, 'answer')} missing, failures.jsonl says why; the same command asks only "
            "for those, and it stays the same read"
        )
    confirmed = Confirmed(
        best=str(best),
        baseline=str(dev.baseline),
        dev=score(dev, best),
        test=score(test, best),
        baseline_test=score(test, dev.baseline),
        dev_gain=difference(dev, best, dev.baseline),
        gain=difference(test, best, dev.baseline),
        read=read,
    )
    said = asdict(confirmed) | {"holds": confirmed.holds, "sentence": " ".join(confirmed.sentences)}
    write_atomically(folder / TEST / "confirmed.json", json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    return confirmed


def count_read(grid: Grid, folder: Path) -> int:
    """The number of this read of the grid's questions, noted before they are asked. The same models on the same
    questions again are the same read: it tells nothing new."""
    locked = grid.task.settings.examples
    notes = locked.with_suffix(".reads.jsonl")
    earlier = [row for _, row in read_jsonl(notes)] if notes.exists() else []
    now: dict[str, Any] = {"combinations": dict(keys_of(grid).cells), "test": file_hash(locked)}
    for number, row in enumerate(earlier, start=1):
        if {key: row.get(key) for key in now} == now:
            return number
    when = datetime.now(UTC).isoformat(timespec="seconds")
    _append(notes, {"when": when, "run": os.path.relpath(folder, locked.parent), **now})
    return len(earlier) + 1


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _chosen(dev: Results, folder: Path) -> Combination:
    """The best combination of the run, by the verdict's own rule."""
    if dev.config.task.locked is None:
        raise RunError(
            f"{folder}: its task names no locked test; write `locked: FILE` into task.yaml, with questions that no run "
            "has asked, and run the grid again (nothing is asked twice)"
        )
    finding = find(dev, summarise(dev), ())
    if finding is None:
        raise RunError(f"{folder}: there is no verdict yet; run the grid again, which asks only for what is missing")
    if finding.decision == "nothing helped":
        raise RunError(f"{folder}: nothing is ahead of the baseline {dev.baseline}, so there is nothing to confirm")
    return Combination.parse(finding.best.combination)


def _grid(dev: Results, folder: Path, best: Combination) -> Grid:
    """The two combinations on all of the locked questions, with stack and task as they are now."""
    written, locked = dev.config.grid, dev.config.task.locked
    assert locked is not None
    cells = (dev.baseline, best)
    settings = replace(
        written,
        stack=folder / written.stack,
        task=folder / written.task,
        adapters=tuple(dict.fromkeys(cell.adapter for cell in cells)),
        retrievers=tuple(dict.fromkeys(cell.retriever for cell in cells)),
        strategies=tuple(dict.fromkeys(cell.strategy for cell in cells)),
        only=tuple(map(str, cells)),
        screen=False,  # both are answered to the end: a winner that falls behind is what a confirmation is there to see
    )
    stack, task = Stack.load(settings.stack), load_task(settings.task, folder / locked)
    if wrong := [f"{key}: {what}" for key, what in misfits(settings, stack, task)]:
        raise RunError("\n".join(wrong))
    return Grid(settings=settings, stack=stack, task=task, baseline=dev.baseline)


def _refuse_changes(dev: Results, grid: Grid, folder: Path) -> None:
    """What is confirmed must be what was chosen, judged as it was chosen."""
    chosen, now = read_keys(folder), keys_of(grid)
    changed = [name for name, key in now.cells.items() if chosen.cells.get(name) != key]
    changed += ["the version of vLLM"] if chosen.engine and chosen.engine != now.engine else []
    changed += ["the layout of prompts"] if chosen.layout and chosen.layout != now.layout else []
    after = grid.task.settings
    if _judged(dev.config.task, dev.config.signatures) != _judged(after, signatures(after.scorers, grid.task.examples)):
        changed.append("the scorers")
    if changed:
        raise RunError(
            f"{folder}: {' and '.join(changed)} changed since that run (weights, prompt, index or settings); run the "
            "grid again, then confirm what wins"
        )


def _judged(task: TaskSettings, signed: Mapping[str, str]) -> tuple[object, ...]:
    """How replies are judged, wherever the task lies: a python scorer is the content of its file."""
    own = {name: signed.get(name) for name, one in task.scorers.items() if one.kind == "python"}
    return task.primary, {name: str(one) for name, one in task.scorers.items()}, own


def _refuse_known(dev: Results, grid: Grid, folder: Path) -> None:
    """What was chosen with confirms nothing."""
    chosen_with = set(map(_told, dev.examples))
    if known := [one.id for one in grid.task.examples if _told(one) in chosen_with]:
        raise RunError(
            f"{grid.task.settings.examples}: {counted(len(known), 'question')} with the same answer (the first is "
            f"{known[0]!r}) chose the winner of {folder} already; lock questions that no run has asked"
        )


def _told(example: Example) -> tuple[str, str, frozenset[str]]:
    """What it tells, however its question is written. The same words about other data tell something else."""
    return words_of(example.question).key, str(example.meta.get("db_id") or ""), frozenset(example.answers)
