"""What a record depends on, as short hashes: when one changes, the records made under the old one are out of date.

Hashes content, not names or dates: an adapter retrained under its old name is another one, a moved index is the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from eval.gold import is_oracle, searched
from eval.grid import Grid, searches
from eval.record import Record
from eval.scoring.kinds import PLACES
from eval.scoring.scorers import signatures
from eval.scoring.words import NORMALISATION
from retrieval.files import fingerprint, model_hash, read_text
from retrieval.generation import current, verified
from retrieval.passage import Document, Hit, Query
from retrieval.rerank import locate
from retrieval.settings import RetrieverSettings
from retrieval.worked import ANSWER
from serve.chat import Message
from serve.combination import BASE, GOLD, NONE, Combination
from serve.engine import check, engine_version
from serve.layout import layout
from serve.stack import Stack
from serve.strategies.kinds import Settings, needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The hashes of a run, kept in its keys.json."""

    cells: Mapping[str, str]
    """For each combination: model, adapter, strategy, retriever with its index, and sampling."""
    examples: Mapping[str, str]
    """For each example: the question and its meta, which strategies may read."""
    gold: Mapping[str, str]
    """For each example that they are asked: its evidence, on which only the oracle arms depend."""
    scoring: str
    """The scorers and the gold answers: without them a score is out of date, but the answer is not."""
    engine: str = ""
    """Which vLLM answered; empty where a `url` did, or the run is older than this key."""
    layout: str = ""
    """How this program lays out a prompt: what it makes of a made-up question. Empty in runs older than this key."""

    def of(self, record: Record) -> tuple[str | None, ...]:
        """Everything that one record's answer depends on."""
        evidence = self.gold.get(record.id) if is_oracle(record.combination.retriever) else None
        return self.cells.get(str(record.combination)), self.examples.get(record.id), evidence

    def keep(self, record: Record, before: "Keys") -> bool:
        """Whether a record made under the keys `before` is good under these. What was not noted then is not missed."""
        noted = ((before.engine, self.engine), (before.layout, self.layout))
        return before.of(record) == self.of(record) and all(old in ("", new) for old, new in noted)


def keys_of(grid: Grid) -> Keys:
    """The keys of everything that the grid would ask."""
    task = grid.task
    return Keys(
        cells=_cells(grid.stack.only(searches(grid.cells)), grid.cells),
        examples={one.id: _digest([one.question, one.meta]) for one in task.examples},
        gold={
            one.id: _digest([asdict(task.evidence[place]) for place in one.evidence])
            for one in task.examples
            if one.has_gold
        },
        scoring=_digest(
            [
                NORMALISATION,
                {name: asdict(one) | dict.fromkeys(PLACES) for name, one in task.settings.scorers.items()},
                signatures(task.settings.scorers, task.examples),
                {one.id: one.answers for one in task.examples},
            ]
        ),
        engine="" if grid.stack.url else engine_version(),
        layout=_layout(),
    )


def _cells(stack: Stack, cells: tuple[Combination, ...]) -> dict[str, str]:
    """The stack holds nothing that these cells do not use, so that an index nobody asks for may be missing."""
    model = [*_model(stack), stack.sampling]
    adapters = {
        BASE: "",
        **{name: fingerprint(path) if path.is_dir() else name for name, path in stack.adapters.items()},
    }
    retrievers = {NONE: [], GOLD: [], **{name: _retriever(settings) for name, settings in stack.retrievers.items()}}
    strategies = _strategies(stack.strategies, retrievers)
    return {
        str(cell): _digest(
            [model, adapters[cell.adapter], retrievers[searched(cell.retriever)], strategies[cell.strategy]]
        )
        for cell in cells
    }


def _model(stack: Stack) -> list[Any]:
    """A model behind a URL is what its name says, nobody can look inside; ours must be fit to serve (ServeError)."""
    if stack.url:
        return [stack.model]
    return [fingerprint(check(stack)), stack.engine.dtype, stack.engine.max_model_len, stack.engine.arguments]


def _retriever(settings: RetrieverSettings) -> list[Any]:
    """The settings, and the content of what they name: where things lie says nothing."""
    inputs = asdict(verified(current(settings.index)).inputs)
    if inputs["settings"]["shards"] == 1:  # as before there were shards: what was answered then is not asked again
        del inputs["settings"]["shards"]
    said = asdict(settings) | {"index": inputs}
    if settings.rerank:
        said["rerank"] = model_hash(locate(settings.rerank))
    if settings.route:
        said["route"] |= {"questions": read_text(settings.route.questions)}
    return [said]


def _strategies(named: Mapping[str, Settings], retrievers: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Each strategy and those that it is made of: settings, the content of what they read, and what they search."""
    said = {
        name: [
            asdict(one) | {setting: fingerprint(path) for setting, path in one.files.items() if path.exists()},
            one.prompts,
            [retrievers[found] for found in one.retrievers],
        ]
        for name, one in named.items()
    }
    return {name: [said[part] for part in needed(named, [name])] for name in named}


def _layout() -> str:
    """All that a prompt can be made of: instructions, shots, a worked example, earlier turns, passages, a question."""
    shots = (Message("user", "Shown?"), Message("assistant", "Yes."))
    query = Query("Which?", history=("Before?", "After."), meta={"system_message": "Be kind."})
    found = (_hit("Owls", "They hoot.", {}), _hit("", "And foxes?", {ANSWER: "They bark."}))
    return _digest([layout(shots, query, found, "Be brief.", fence) for fence in (False, True)])


def _hit(title: str, text: str, meta: Mapping[str, Any]) -> Hit:
    return Hit(Document(id="d", title=title, text=text, meta=meta).cut(0, len(text)), 1.0, 1)


def _digest(content: Any) -> str:
    """Twelve hex digits: enough to tell apart the few thousand things of one run."""
    text = json.dumps(content, sort_keys=True, default=_plain, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
